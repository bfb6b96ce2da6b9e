//! What a run did: the reply, and the numbers behind the metrics.

use std::collections::{BTreeMap, BTreeSet};
use std::{mem, net::IpAddr};

use serde::{Serialize, Serializer};
use serde_json::json;

use crate::answer::Answers;
use crate::binding::{Group, Ownership};
use crate::clock::{Now, Timestamp};
use crate::plan::{HoldReason, Plan};
use crate::run::{Known, Mode, Task};
use crate::target::{RegisteredTarget, Target, TargetGroupArn, TargetState};
use crate::{check::finding::Finding, failure::Failure, hostname::Hostname, kind::HostnameKind, memory::Memory};

/// What invoked the function.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// A direct request.
    Direct,
    /// An event of Amazon RDS, by EventBridge or inside an SNS record.
    RdsEvent,
    /// A schedule, or any other event that says nothing to us.
    Schedule,
}

/// The reply to an invocation.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "docs/reference.md has the fields of the reply")]
pub struct Reply {
    pub version: &'static str,
    pub trigger: Trigger,
    pub dry_run: bool,
    /// Whether a check found no error; `None` where it was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// What a check found that is of no one target group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    pub groups: Vec<GroupReport>,
    /// How many target groups that are in step were left out, so that the reply is not too long for Lambda.
    #[serde(skip_serializing_if = "is_none")]
    pub left_out: usize,
}

impl Reply {
    /// Shortens what is too long for Lambda: groups that are in step are left out, then the lists are cut.
    pub fn fit(&mut self) {
        let is_long = |reply: &Self| serde_json::to_vec(reply).is_ok_and(|bytes| bytes.len() > LONGEST_REPLY);
        if is_long(self) {
            let all = self.groups.len();
            self.groups.retain(|group| group.outcome != Outcome::InSync || group.findings.iter().flatten().count() > 0);
            self.left_out = all - self.groups.len();
        }
        for most in [100, 0] {
            if is_long(self) {
                self.groups.iter_mut().for_each(|group| group.shorten(most));
            }
        }
    }
}

/// What a run found and did in one target group.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "docs/reference.md has the fields of the reply")]
pub struct GroupReport {
    pub target_group_arn: TargetGroupArn,
    pub hostnames: BTreeSet<Hostname>,
    pub ownership: Ownership,
    pub deregister_after_seconds: u32,
    pub kinds: Vec<HostnameSettings>,
    pub outcome: Outcome,
    pub resolved: BTreeSet<IpAddr>,
    pub registered: BTreeSet<Target>,
    pub deregistered: BTreeSet<Target>,
    pub waiting: Vec<Waiting>,
    #[serde(serialize_with = "refusals")]
    pub refused: BTreeMap<IpAddr, String>,
    pub held: Vec<HeldTarget>,
    pub dns_milliseconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub findings: Option<Vec<Finding>>,
    pub error: Option<String>,
    pub kind: Option<&'static str>,
    /// How many entries of the lists were left out, so that the reply is not too long for Lambda.
    #[serde(skip_serializing_if = "is_none")]
    pub left_out: usize,
    /// What DNS gave for each hostname that resolved; of a dry run alone.
    #[serde(skip)]
    pub answers: BTreeMap<Hostname, BTreeSet<IpAddr>>,
    /// The registered targets that are not healthy; of a dry run alone.
    #[serde(skip)]
    pub sick: Vec<RegisteredTarget>,
    /// The hostnames that were seen to rotate.
    #[serde(skip)]
    pub rotating: BTreeSet<Hostname>,
    /// Why it failed.
    #[serde(skip)]
    pub failures: Vec<Failure>,
    /// What is not as it should be, and did not make it fail.
    #[serde(skip)]
    pub warnings: Vec<String>,
    /// How many changes AWS accepted: a target may go and come back.
    #[serde(skip)]
    pub registrations: usize,
    /// See `registrations`.
    #[serde(skip)]
    pub deregistrations: usize,
    /// Whether the budget put it off.
    #[serde(skip)]
    pub is_deferred: bool,
    /// Whether an address that DNS gives is not registered.
    #[serde(skip)]
    pub is_missing_any: bool,
    /// What the target group holds at the end; `None` where that is unknown.
    #[serde(skip)]
    pub targets: Option<TargetCounts>,
}

/// What a hostname was taken for, and how many answers a run collects, if nothing makes it more or fewer.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[allow(missing_docs, reason = "docs/reference.md has the fields of the reply")]
pub struct HostnameSettings {
    pub hostname: Hostname,
    pub kind: HostnameKind,
    pub lookups: u32,
}

/// A target whose address is missing from DNS, and whose time has not come.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Waiting {
    pub target: Target,
    pub missing_since: Timestamp,
    pub deregister_at: Timestamp,
}

/// A registered target that stays although DNS does not give it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct HeldTarget {
    pub target: Target,
    pub reason: HoldReason,
}

/// How the reconciliation of a target group ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[allow(missing_docs, reason = "docs/reference.md has the outcomes")]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Changed,
    #[default]
    Deferred,
    Failed,
    InSync,
}

/// How many targets are registered, which draining ones are not, and how many of those are healthy.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct TargetCounts {
    pub registered: usize,
    pub healthy: usize,
}

impl GroupReport {
    /// The report on a target group that nobody has looked at.
    pub fn new(group: &Group) -> Self {
        let hostnames = group.hostnames();
        let by_names = || hostnames.iter().map(|name| name.kind().deregister_after_seconds()).max().unwrap_or_default();
        Self {
            target_group_arn: group.arn.clone(),
            ownership: group.ownership,
            deregister_after_seconds: group.deregister_after_seconds.unwrap_or_else(by_names),
            hostnames: hostnames.into_iter().cloned().collect(),
            ..Self::default()
        }
    }

    /// The report on a run that knows this, whether it has ended or is given up.
    pub fn of(task: &Task<'_>, known: &Known, memory: &Memory, now: Now) -> Self {
        let plan = Plan::new(task, known, memory, now);
        let deregister_after_seconds = memory.longest_grace(task);
        let kinds = task.group.hostnames().into_iter().filter_map(|hostname| {
            let samples = memory.samples(hostname)?;
            Some(HostnameSettings { hostname: hostname.clone(), kind: samples.kind, lookups: samples.lookups() })
        });
        let unstated = memory.rotating_names().filter(|(_, is_unstated)| *is_unstated);
        let rotating: BTreeSet<_> = unstated.map(|(hostname, _)| hostname.clone()).collect();
        let waiting = plan.held.iter().filter_map(|(target, hold)| {
            let missing_since = hold.missing_since?;
            let deregister_at = hold.until.unwrap_or_else(|| missing_since.plus_seconds(deregister_after_seconds));
            Some(Waiting { target: *target, missing_since, deregister_at })
        });
        let registered: Vec<_> = plan.shown.iter().filter(|shown| shown.state.is_registered()).collect();
        let (healthy, sick): (Vec<_>, Vec<_>) =
            registered.iter().partition(|shown| shown.state == TargetState::Healthy);
        let mut report = Self {
            deregister_after_seconds,
            kinds: kinds.collect(),
            registered: known.registered.clone(),
            deregistered: known.deregistered.clone(),
            registrations: known.registered.len(),
            deregistrations: known.deregistered.len(),
            waiting: waiting.collect(),
            held: plan.held.iter().map(|(target, hold)| HeldTarget { target: *target, reason: hold.reason }).collect(),
            dns_milliseconds: known.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
            failures: plan.failures(known),
            warnings: known.warnings.iter().cloned().chain(rotating.iter().map(rotates)).collect(),
            rotating,
            is_missing_any: known.listed.is_some() && !plan.register.is_empty(),
            targets: known.is_listed().then_some(TargetCounts { registered: registered.len(), healthy: healthy.len() }),
            ..Self::new(task.group)
        };
        if known.mode == Mode::DryRun {
            report.registered.extend(&plan.register);
            report.deregistered.extend(plan.deregister.iter().map(|shown| shown.target));
            report.answers = addresses(&known.answers);
            report.sick = sick.into_iter().cloned().cloned().collect();
        }
        report.resolved = plan.look.resolved;
        report.refused = plan.look.refused;
        report.refused.extend(known.refused.iter().map(|(target, reason)| (target.address, reason.clone())));
        report.settled()
    }

    /// This report on a run that was given up, still waiting for this. What is only put off has not failed, unless it is known
    /// to lack an address that DNS gives.
    #[must_use]
    pub fn cut_off(mut self, waiting: &str, is_put_off: bool) -> Self {
        if is_put_off && !self.is_missing_any {
            self.is_deferred = true;
        } else {
            self.failures.push(Failure::Deadline(waiting.to_owned()));
        }
        self.settled()
    }

    /// The report on two runs of an invocation. What is so, `found` says; what was done, both.
    #[must_use]
    pub fn merged(self, mut found: Self) -> Self {
        found.registered.extend(self.registered);
        found.deregistered.extend(self.deregistered);
        found.registrations += self.registrations;
        found.deregistrations += self.deregistrations;
        found.targets = found.targets.or(self.targets);
        found.dns_milliseconds = found.dns_milliseconds.or(self.dns_milliseconds);
        found.settled()
    }

    /// Whether it was we who had no time left, and nothing that DNS gives is missing.
    pub fn is_out_of_time(&self) -> bool {
        (self.is_deferred || self.failures.iter().any(Failure::is_out_of_time)) && !self.is_missing_any
    }

    /// This report, with the outcome settled by what was found and done.
    #[must_use]
    pub fn settled(mut self) -> Self {
        let messages = self.failures.iter().map(ToString::to_string).chain(self.warnings.iter().cloned());
        self.error = Some(messages.collect::<Vec<_>>().join("; ")).filter(|error| !error.is_empty());
        self.kind = self.failures.first().map(Failure::kind);
        self.outcome = if !self.failures.is_empty() {
            Outcome::Failed
        } else if self.is_deferred {
            Outcome::Deferred
        } else if self.registered.is_empty() && self.deregistered.is_empty() {
            Outcome::InSync
        } else {
            Outcome::Changed
        };
        self
    }

    /// Leaves no more than `most` entries in each list.
    fn shorten(&mut self, most: usize) {
        self.left_out += cut(&mut self.resolved, most)
            + cut(&mut self.registered, most)
            + cut(&mut self.deregistered, most)
            + cut(&mut self.waiting, most)
            + cut(&mut self.refused, most)
            + cut(&mut self.held, most)
            // The first finding is the worst, and may be what `ok` is about.
            + self.findings.as_mut().map_or(0, |findings| cut(findings, most.max(1)));
    }

    /// The hostnames, for a message.
    pub fn names(&self) -> String {
        self.hostnames.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// The addresses that DNS gave for each hostname that resolved.
pub fn addresses(answers: &Answers) -> BTreeMap<Hostname, BTreeSet<IpAddr>> {
    let resolved = answers.iter().filter_map(|(name, answer)| Some((name.clone(), answer.as_ref().ok()?)));
    resolved.map(|(name, answer)| (name, answer.addresses.clone())).collect()
}

/// Leaves the first `most` entries of a list; returns how many it took away.
fn cut<T, L: Default + FromIterator<T> + IntoIterator<Item = T>>(list: &mut L, most: usize) -> usize {
    let mut all = mem::take(list).into_iter();
    *list = all.by_ref().take(most).collect();
    all.count()
}

fn rotates(hostname: &Hostname) -> String {
    format!(
        "{hostname} was seen to rotate: its answers count as samples, so a failover is followed late. Where it leads to \
         several databases, state `deregister_after_seconds`: 300, which ends this warning; where it names one, state 0"
    )
}

fn is_none(count: &usize) -> bool {
    *count == 0
}

fn refusals<S: Serializer>(refused: &BTreeMap<IpAddr, String>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(refused.iter().map(|(address, reason)| json!({"address": address, "reason": reason})))
}

/// Bytes of a reply: Lambda lets 6 MB through
/// ([quotas](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)).
const LONGEST_REPLY: usize = 5_000_000;
