//! What is true of a target group while a run lasts, and which rules the run's calls break by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use support::aws::{Call, SentTarget};

/// What is known of a target group for as long as a run takes, to judge the run's calls by.
pub(crate) struct Truth<'a> {
    pub(crate) arn: &'a str,
    /// What DNS gives all the time and may be registered.
    pub(crate) given: BTreeSet<String>,
    /// What it gives at any time and may be registered.
    pub(crate) acceptable: BTreeSet<String>,
    /// Targets that must not go, whatever DNS says.
    pub(crate) untouchable: BTreeSet<String>,
    /// Whether one of the hostnames resolves at no time.
    pub(crate) unresolved: bool,
    pub(crate) shared: bool,
    /// Whether a quota may refuse a registration, so that stale targets may go first.
    pub(crate) full: bool,
    /// Whether AWS may refuse for good to register some targets, so that others stand in for them.
    pub(crate) refused: bool,
}

impl Truth<'_> {
    /// Which rules of the contract these calls break.
    pub(crate) fn broken_by(&self, calls: &[Call]) -> Vec<String> {
        let mut broken = Vec::new();
        for call in calls.iter().filter(|call| call.arn.as_deref() == Some(self.arn)) {
            // What was sent to a group that is gone did no harm.
            let Some(found) = &call.found else { continue };
            let sent: BTreeSet<_> = call.targets.iter().map(text).collect();
            let mut rule = |number: u8, what: &str, which: Vec<&String>| {
                if !which.is_empty() {
                    broken.push(format!("rule {number}: {} {what}: {which:?}", call.action));
                }
            };
            if call.action == "DeregisterTargets" {
                rule(2, "of a target that DNS gives", sent.intersection(&self.given).collect());
                rule(8, "of a target that must not go", sent.intersection(&self.untouchable).collect());
                if self.unresolved {
                    rule(2, "although a hostname does not resolve", sent.iter().collect());
                }
                let is_begun = self.refused && !self.given.is_disjoint(&found.registered);
                if self.full {
                    let is_last = found.registered.is_subset(&sent);
                    rule(1, "of the last target", sent.iter().filter(|_| is_last).collect());
                } else if !is_begun {
                    rule(1, "before registering", self.given.difference(&found.registered).collect());
                }
            } else {
                rule(6, "of a target that it must not register", sent.difference(&self.acceptable).collect());
                if self.shared {
                    let is_owned = |target: &&String| is_owned(&found.tags, target);
                    rule(8, "of a target not noted before", sent.iter().filter(|target| !is_owned(target)).collect());
                }
            }
        }
        broken
    }
}

/// Whether a tag says that a target is the function's, whose name is empty here.
fn is_owned(tags: &BTreeMap<String, String>, target: &str) -> bool {
    let (address, port) = target.rsplit_once(':').unwrap();
    let address = address.trim_start_matches('[').trim_end_matches(']');
    tags.contains_key(&format!("{PREFIX}owned/{address}_{port}/"))
}

/// What was done twice to a target in a run, for want of being seen done: rule 17. What came in between may have undone
/// it.
pub(crate) fn repeated(arn: &str, calls: &[Call]) -> Vec<String> {
    let mut last: BTreeMap<String, &str> = BTreeMap::new();
    let mut left = BTreeSet::new();
    let mut repeated = Vec::new();
    let accepted = calls.iter().filter(|call| is_accepted(call)).filter(|call| call.arn.as_deref() == Some(arn));
    for call in accepted.filter(|call| call.action.ends_with("sterTargets")) {
        for target in call.targets.iter().map(text) {
            let drained = call.found.iter().flat_map(|found| &found.draining).cloned();
            left.extend(drained.chain((call.action == "DeregisterTargets").then(|| target.clone())));
            // An explicit `draining` in a list that was read later counts, though it may be of the time before.
            let may_drain = call.action == "RegisterTargets" && left.contains(&target);
            if last.insert(target.clone(), &call.action) == Some(&call.action) && !may_drain {
                repeated.push(format!("rule 17: {} of {target} again", call.action));
            }
        }
    }
    repeated
}

fn is_accepted(call: &Call) -> bool {
    call.status == 200 && call.error.is_none()
}

fn text(target: &SentTarget) -> String {
    let address = target.id.parse().unwrap();
    SocketAddr::new(address, target.port.unwrap_or_default()).to_string()
}

/// The actions of ELBv2 that runs take.
pub(crate) const ACTIONS: [&str; 7] = [
    "DescribeTargetGroups",
    "DescribeTargetHealth",
    "RegisterTargets",
    "DeregisterTargets",
    "DescribeTags",
    "AddTags",
    "RemoveTags",
];

/// What the keys of our tags begin with.
pub(crate) const PREFIX: &str = "nlb-hostname-targets:";
