//! What a run did: the reply, and the numbers behind the metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::{Serialize, ser::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    binding::{Group, Ownership},
    event::Trigger,
    hostname::Hostname,
    kind::HostnameKind,
    plan::Policy,
    state::Timestamp,
    target::{RegisteredTarget, Target, TargetGroupArn, TargetState},
};

/// The reply to an invocation.
#[derive(Clone, Debug, Serialize)]
pub struct Reply {
    /// What invoked the function.
    pub trigger: Trigger,
    /// Whether the lists say what would be done, and nothing was written.
    pub dry_run: bool,
    /// A report for each target group, in the order of the bindings.
    pub groups: Vec<GroupReport>,
}

/// What a run found and did in one target group.
#[derive(Clone, Debug, Serialize)]
pub struct GroupReport {
    /// The target group.
    pub target_group_arn: TargetGroupArn,
    /// The hostnames that are bound to it.
    pub hostnames: BTreeSet<Hostname>,
    /// Whose targets may be deregistered.
    pub ownership: Ownership,
    /// Seconds that an address must be missing from DNS before its target goes.
    pub deregister_after_seconds: u32,
    /// What the hostnames were taken for; of those that did not resolve, by the name alone.
    pub kinds: Vec<Kind>,
    /// How it ended.
    pub outcome: Outcome,
    /// The addresses that DNS gave, without the refused ones.
    pub resolved: BTreeSet<IpAddr>,
    /// What was registered.
    pub registered: BTreeSet<Target>,
    /// What was deregistered.
    pub deregistered: BTreeSet<Target>,
    /// Targets whose address is missing from DNS and whose time has not come: since when each.
    pub waiting: Vec<Waiting>,
    /// Addresses that were not registered.
    #[serde(serialize_with = "refusals")]
    pub refused: BTreeMap<IpAddr, String>,
    /// What the user should know: why it failed, or what did not make it fail.
    pub error: Option<String>,
    /// Why it failed.
    #[serde(skip)]
    pub problems: Vec<String>,
    /// What is not as it should be, and did not make it fail.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// Registered targets that DNS does not give, but that are kept.
    #[serde(skip)]
    pub kept: BTreeSet<Target>,
    /// What the target group holds at the end; `None` where that is unknown.
    #[serde(skip)]
    pub held: Option<Held>,
    /// How often a target was registered since metrics were last taken from the report.
    #[serde(skip)]
    pub registrations: usize,
    /// How often a target was deregistered since then.
    #[serde(skip)]
    pub deregistrations: usize,
    /// How long DNS took; `None` where its answer was not looked at.
    #[serde(skip)]
    pub resolve_time: Option<Duration>,
}

/// What a hostname was taken for, and what follows.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Kind {
    /// The hostname.
    pub hostname: Hostname,
    /// Its kind.
    pub kind: HostnameKind,
    /// How many answers a run collects, if nothing makes it more or fewer.
    pub lookups: u32,
}

/// A target whose address is missing from DNS.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Waiting {
    /// The target.
    pub target: Target,
    /// Since when.
    #[serde(serialize_with = "rfc3339")]
    pub missing_since: Timestamp,
    /// When it will be deregistered.
    #[serde(serialize_with = "rfc3339")]
    pub deregister_at: Timestamp,
}

/// How the reconciliation of a target group ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Targets were registered or deregistered.
    Changed,
    /// The request budget did not suffice; the next run looks at it.
    #[default]
    Deferred,
    /// Something went wrong.
    Failed,
    /// There was nothing to do.
    InSync,
}

/// How many targets a target group holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Held {
    /// Registered, which draining ones are not.
    pub registered: usize,
    /// Registered and healthy.
    pub healthy: usize,
}

impl GroupReport {
    /// The report on a target group that nobody has looked at.
    pub fn new(group: &Group) -> Self {
        Self {
            target_group_arn: group.arn.clone(),
            hostnames: group.hostnames().into_iter().cloned().collect(),
            ownership: group.ownership,
            deregister_after_seconds: group.policy(group.kinds_by_name()).deregister_after_seconds,
            kinds: Vec::new(),
            outcome: Outcome::default(),
            resolved: BTreeSet::new(),
            registered: BTreeSet::new(),
            deregistered: BTreeSet::new(),
            waiting: Vec::new(),
            refused: BTreeMap::new(),
            error: None,
            problems: Vec::new(),
            warnings: Vec::new(),
            kept: BTreeSet::new(),
            held: None,
            registrations: 0,
            deregistrations: 0,
            resolve_time: None,
        }
    }

    /// Says what the hostnames were taken for, and what follows for the group.
    pub fn set_policy(&mut self, policy: Policy, kinds: Vec<Kind>) {
        self.deregister_after_seconds = policy.deregister_after_seconds;
        self.kinds = kinds;
    }

    /// Lists the targets that are missing from DNS.
    pub fn wait_for(&mut self, waiting: &BTreeMap<Target, Timestamp>, policy: Policy) {
        let listed = waiting.iter().map(|(target, since)| Waiting {
            target: *target,
            missing_since: *since,
            deregister_at: since.plus_seconds(policy.deregister_after_seconds),
        });
        self.waiting = listed.collect();
    }

    /// What the hostnames were taken for and what follows, for the log; `None` where none was
    /// looked at.
    pub fn settings(&self) -> Option<String> {
        let kinds = self
            .kinds
            .iter()
            .map(|Kind { hostname, kind, lookups }| format!("{hostname}: {kind:?}, {lookups} lookups"));
        let kinds = kinds.collect::<Vec<_>>().join("; ");
        let seconds = self.deregister_after_seconds;
        (!kinds.is_empty()).then(|| format!("{kinds}; {:?}, deregistered after {seconds} s", self.ownership))
    }

    /// Counts what the target group holds.
    pub fn count(&mut self, listed: &[RegisteredTarget]) {
        let count = |accepted: fn(TargetState) -> bool| listed.iter().filter(|target| accepted(target.state)).count();
        self.held = Some(Held {
            registered: count(TargetState::is_registered),
            healthy: count(|state| state == TargetState::Healthy),
        });
    }

    /// A copy to publish metrics from; what was counted is counted anew from here on.
    pub fn take_period(&mut self) -> Self {
        let period = self.clone();
        self.registrations = 0;
        self.deregistrations = 0;
        period
    }

    /// Settles the outcome by what was found and done.
    pub fn settle(&mut self) {
        let messages: Vec<_> = self.problems.iter().chain(&self.warnings).cloned().collect();
        self.error = (!messages.is_empty()).then(|| messages.join("; "));
        self.outcome = if !self.problems.is_empty() {
            Outcome::Failed
        } else if self.registered.is_empty() && self.deregistered.is_empty() {
            Outcome::InSync
        } else {
            Outcome::Changed
        };
    }

    /// The hostnames, for a message.
    pub fn names(&self) -> String {
        self.hostnames.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// To the second, as AWS shows times.
fn rfc3339<S: serde::Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    let seconds = i64::try_from(time.0 / 1000).map_err(S::Error::custom)?;
    let text = OffsetDateTime::from_unix_timestamp(seconds).map_err(S::Error::custom)?.format(&Rfc3339);
    serializer.serialize_str(&text.map_err(S::Error::custom)?)
}

#[derive(Serialize)]
struct Refusal<'a> {
    address: &'a IpAddr,
    reason: &'a str,
}

fn refusals<S: serde::Serializer>(refused: &BTreeMap<IpAddr, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(refused.iter().map(|(address, reason)| Refusal { address, reason }))
}
