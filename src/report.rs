//! What a run did: the reply, and the numbers behind the metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use serde::Serialize;

use crate::{
    binding::{Group, Ownership},
    event::Trigger,
    hostname::Hostname,
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
    /// How it ended.
    pub outcome: Outcome,
    /// The addresses that DNS gave, without the refused ones.
    pub resolved: BTreeSet<IpAddr>,
    /// What was registered.
    pub registered: BTreeSet<Target>,
    /// What was deregistered.
    pub deregistered: BTreeSet<Target>,
    /// Targets whose address is missing from DNS and whose time has not come. Always empty while
    /// there are no grace periods.
    pub waiting: [(); 0],
    /// Addresses that were not registered.
    #[serde(serialize_with = "refusals")]
    pub refused: BTreeMap<IpAddr, String>,
    /// Why it failed.
    #[serde(rename = "error", serialize_with = "joined")]
    pub problems: Vec<String>,
    /// Registered targets that DNS does not give, but that are kept.
    #[serde(skip)]
    pub kept: BTreeSet<Target>,
    /// What the target group holds at the end; `None` where that is unknown.
    #[serde(skip)]
    pub held: Option<Held>,
    /// How long DNS took; `None` where its answer was not looked at.
    #[serde(skip)]
    pub resolve_time: Option<Duration>,
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
            deregister_after_seconds: group.deregister_after_seconds,
            outcome: Outcome::default(),
            resolved: BTreeSet::new(),
            registered: BTreeSet::new(),
            deregistered: BTreeSet::new(),
            waiting: [],
            refused: BTreeMap::new(),
            problems: Vec::new(),
            kept: BTreeSet::new(),
            held: None,
            resolve_time: None,
        }
    }

    /// Counts what the target group holds.
    pub fn count(&mut self, listed: &[RegisteredTarget]) {
        let count = |accepted: fn(TargetState) -> bool| listed.iter().filter(|target| accepted(target.state)).count();
        self.held = Some(Held {
            registered: count(TargetState::is_registered),
            healthy: count(|state| state == TargetState::Healthy),
        });
    }

    /// Settles the outcome by what was found and done.
    pub fn settle(&mut self) {
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

#[derive(Serialize)]
struct Refusal<'a> {
    address: &'a IpAddr,
    reason: &'a str,
}

fn refusals<S: serde::Serializer>(refused: &BTreeMap<IpAddr, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(refused.iter().map(|(address, reason)| Refusal { address, reason }))
}

fn joined<S: serde::Serializer>(problems: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    if problems.is_empty() { serializer.serialize_none() } else { serializer.collect_str(&problems.join("; ")) }
}
