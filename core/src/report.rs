//! What a run did: the reply, and the numbers behind the metrics.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::IpAddr,
};

use serde::{Serialize, ser::Error as _};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    binding::{Group, Ownership},
    check::finding::Finding,
    clock::{Now, Timestamp},
    failure::Failure,
    hostname::Hostname,
    kind::HostnameKind,
    memory::Memory,
    plan::{Hold, HoldReason, Plan},
    run::{Known, Mode, Task},
    target::{RegisteredTarget, Target, TargetGroupArn, TargetState},
};

/// What invoked the function.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Trigger {
    /// A direct request.
    Direct,
    /// An event of Amazon RDS, by EventBridge or inside an SNS record.
    RdsEvent,
    /// A schedule, or any other event that says nothing to us.
    Schedule,
}

impl Trigger {
    /// The name that the reply and the log give it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::RdsEvent => "rds-event",
            Self::Schedule => "schedule",
        }
    }
}

impl Serialize for Trigger {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// The reply to an invocation.
#[derive(Clone, Debug, Serialize)]
pub struct Reply {
    /// The version of the function.
    pub version: &'static str,
    /// What invoked the function.
    pub trigger: Trigger,
    /// Whether the lists say what would be done, and nothing was written.
    pub dry_run: bool,
    /// Whether a check found no error; `None` where it was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ok: Option<bool>,
    /// What a check found that is of no one target group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// A report for each target group, in the order of the bindings.
    pub groups: Vec<GroupReport>,
    /// How many target groups that are in step were left out, so that the reply is not too long for Lambda.
    #[serde(skip_serializing_if = "is_none")]
    pub left_out: usize,
}

impl Reply {
    /// Shortens what is too long for Lambda: groups that are in step are left out, then the lists are cut.
    pub fn fit(&mut self) {
        let is_short = |reply: &Self| serde_json::to_vec(reply).map_or(0, |bytes| bytes.len()) <= LONGEST_REPLY;
        if is_short(self) {
            return;
        }
        let all = self.groups.len();
        let is_told =
            |group: &GroupReport| group.outcome != Outcome::InSync || group.findings.iter().flatten().count() > 0;
        self.groups.retain(is_told);
        self.left_out = all - self.groups.len();
        for most in [100, 0] {
            if !is_short(self) {
                self.groups.iter_mut().for_each(|group| group.shorten(most));
            }
        }
    }
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
    pub kinds: Vec<HostnameSettings>,
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
    /// Registered targets that DNS does not give and that stay, each with the reason.
    pub held: Vec<HeldTarget>,
    /// How long DNS took; `None` where its answer was known before, or did not come.
    pub dns_milliseconds: Option<u64>,
    /// What a check found, errors first; `None` where it was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub findings: Option<Vec<Finding>>,
    /// What the user should know: why it failed, or what did not make it fail.
    pub error: Option<String>,
    /// A stable word for the first reason why it failed.
    pub kind: Option<&'static str>,
    /// How many entries of which list were left out, so that the reply is not too long for Lambda.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<&'static str, usize>,
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
    /// Whether the budget put it off.
    #[serde(skip)]
    pub is_deferred: bool,
    /// Whether an address that DNS gives is not registered.
    #[serde(skip)]
    pub is_missing_any: bool,
    /// What the target group holds at the end; `None` where that is unknown.
    #[serde(skip)]
    pub targets: Option<TargetCounts>,
    /// How often a target was registered since metrics were last taken from the report.
    #[serde(skip)]
    pub registrations: usize,
    /// How often a target was deregistered since then.
    #[serde(skip)]
    pub deregistrations: usize,
}

/// What a hostname was taken for, and what follows.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct HostnameSettings {
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

/// A registered target that stays although DNS does not give it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct HeldTarget {
    /// The target.
    pub target: Target,
    /// Why.
    pub reason: HoldReason,
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
pub struct TargetCounts {
    /// Registered, which draining ones are not.
    pub registered: usize,
    /// Registered and healthy.
    pub healthy: usize,
}

impl GroupReport {
    /// The report on a target group that nobody has looked at.
    pub fn new(group: &Group) -> Self {
        let kinds = || group.hostnames().into_iter().map(Hostname::kind);
        let by_names = || kinds().map(HostnameKind::deregister_after_seconds).max().unwrap_or_default();
        Self {
            target_group_arn: group.arn.clone(),
            hostnames: group.hostnames().into_iter().cloned().collect(),
            ownership: group.ownership,
            deregister_after_seconds: group.deregister_after_seconds.unwrap_or_else(by_names),
            kinds: Vec::new(),
            outcome: Outcome::default(),
            resolved: BTreeSet::new(),
            registered: BTreeSet::new(),
            deregistered: BTreeSet::new(),
            waiting: Vec::new(),
            refused: BTreeMap::new(),
            held: Vec::new(),
            dns_milliseconds: None,
            findings: None,
            error: None,
            kind: None,
            left_out: BTreeMap::new(),
            answers: BTreeMap::new(),
            sick: Vec::new(),
            rotating: BTreeSet::new(),
            failures: Vec::new(),
            warnings: Vec::new(),
            is_deferred: false,
            is_missing_any: false,
            targets: None,
            registrations: 0,
            deregistrations: 0,
        }
    }

    /// The report on a run that knows this, whether it has ended or is given up.
    pub fn of(task: &Task<'_>, known: &Known, memory: &Memory, now: Now) -> Self {
        let plan = Plan::new(task, known, memory, now);
        let mut report = Self::new(task.group);
        report.failures = plan.failures(known);
        report.deregister_after_seconds = memory.longest_grace(task);
        let settings = task.group.hostnames().into_iter().filter_map(|hostname| {
            let samples = memory.samples(hostname)?;
            Some(HostnameSettings { hostname: hostname.clone(), kind: samples.kind(), lookups: samples.lookups() })
        });
        report.kinds = settings.collect();
        let unstated = memory.rotating_names().filter(|(_, is_unstated)| *is_unstated);
        report.rotating = unstated.map(|(hostname, _)| hostname.clone()).collect();
        report.warnings.extend(known.warnings.iter().cloned());
        report.dns_milliseconds = known.took.map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
        report.warnings.extend(report.rotating.iter().map(rotates));
        report.registered.clone_from(&known.registered);
        report.deregistered.clone_from(&known.deregistered);
        (report.registrations, report.deregistrations) = (known.registered.len(), known.deregistered.len());
        report.hold(&plan.held, report.deregister_after_seconds);
        if let Some(Ok(_)) = known.listed {
            report.count(&plan.shown);
        }
        if known.mode() == Mode::DryRun {
            report.registered.extend(&plan.register);
            report.deregistered.extend(plan.deregister.iter().map(|shown| shown.target));
            let answers = known.answers.iter();
            let answers =
                answers.filter_map(|(name, answer)| Some((name.clone(), answer.as_ref().ok()?.addresses.clone())));
            report.answers = answers.collect();
            let is_sick = |shown: &RegisteredTarget| shown.state.is_registered() && shown.state != TargetState::Healthy;
            report.sick = plan.shown.iter().filter(|shown| is_sick(shown)).cloned().collect();
        }
        report.is_missing_any = known.listed.is_some() && !plan.register.is_empty();
        report.resolved = plan.look.resolved;
        report.refused = plan.look.refused;
        report.refused.extend(known.refused.iter().map(|(target, reason)| (target.address, reason.clone())));
        report.settled()
    }

    /// This report on a run that was given up, still waiting for this.
    #[must_use]
    pub fn cut_off(mut self, waiting: &str) -> Self {
        self.failures.push(Failure::Deadline(waiting.to_owned()));
        self.settled()
    }

    /// Lists the targets that stay although DNS does not give them.
    fn hold(&mut self, held: &BTreeMap<Target, Hold>, deregister_after_seconds: u32) {
        self.held = held.iter().map(|(target, hold)| HeldTarget { target: *target, reason: hold.reason }).collect();
        let waiting = held.iter().filter_map(|(target, hold)| {
            let missing_since = hold.missing_since?;
            let deregister_at = hold.until.unwrap_or_else(|| missing_since.plus_seconds(deregister_after_seconds));
            Some(Waiting { target: *target, missing_since, deregister_at })
        });
        self.waiting = waiting.collect();
    }

    /// Adds a warning, once.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// The report on this and on a later run of the same invocation. What is so, the later one says; what was done, both.
    #[must_use]
    pub fn merged(mut self, later: Self) -> Self {
        self.registered.extend(later.registered);
        self.deregistered.extend(later.deregistered);
        Self {
            registered: self.registered,
            deregistered: self.deregistered,
            registrations: self.registrations + later.registrations,
            deregistrations: self.deregistrations + later.deregistrations,
            targets: later.targets.or(self.targets),
            dns_milliseconds: later.dns_milliseconds.or(self.dns_milliseconds),
            ..later
        }
        .settled()
    }

    /// This report, with what a later run did and no word of what it found.
    #[must_use]
    pub fn with_changes_of(self, later: Self) -> Self {
        let known = self.clone();
        let both = self.merged(later);
        let Self { registered, deregistered, registrations, deregistrations, .. } = both;
        Self { registered, deregistered, registrations, deregistrations, ..known }.settled()
    }

    /// Whether it was we who had no time left, and nothing that DNS gives is missing.
    pub fn is_out_of_time(&self) -> bool {
        self.failures.iter().any(Failure::is_out_of_time) && !self.is_missing_any
    }

    fn settled(mut self) -> Self {
        self.settle();
        self
    }

    /// What the hostnames were taken for and what follows, for the log; `None` where none was
    /// looked at.
    pub fn settings(&self) -> Option<String> {
        let kinds = self
            .kinds
            .iter()
            .map(|HostnameSettings { hostname, kind, lookups }| format!("{hostname}: {kind:?}, {lookups} lookups"));
        let kinds = kinds.collect::<Vec<_>>().join("; ");
        let seconds = self.deregister_after_seconds;
        (!kinds.is_empty()).then(|| format!("{kinds}; {:?}, deregistered after {seconds} s", self.ownership))
    }

    /// Counts what the target group holds.
    pub fn count(&mut self, listed: &[RegisteredTarget]) {
        let count = |accepted: fn(TargetState) -> bool| listed.iter().filter(|target| accepted(target.state)).count();
        self.targets = Some(TargetCounts {
            registered: count(TargetState::is_registered),
            healthy: count(|state| state == TargetState::Healthy),
        });
    }

    /// Settles the outcome by what was found and done.
    pub fn settle(&mut self) {
        let failures = self.failures.iter().map(ToString::to_string);
        let messages: Vec<_> = failures.chain(self.warnings.iter().cloned()).collect();
        self.error = (!messages.is_empty()).then(|| messages.join("; "));
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
    }

    /// Why it failed, in one text.
    pub fn problems(&self) -> String {
        self.failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }

    /// Leaves no more than `most` entries in each list, and says how many are left out.
    fn shorten(&mut self, most: usize) {
        let Self { resolved, registered, deregistered, waiting, refused, held, findings, left_out, .. } = self;
        let mut note = |list: &'static str, len: usize| {
            if len > most {
                *left_out.entry(list).or_default() += len - most;
            }
        };
        note("resolved", resolved.len());
        note("registered", registered.len());
        note("deregistered", deregistered.len());
        note("waiting", waiting.len());
        note("refused", refused.len());
        note("held", held.len());
        if let Some(findings) = findings {
            // The first is the worst, and may be what `ok` is about.
            note("findings", findings.len().saturating_sub(usize::from(most == 0)));
            findings.truncate(most.max(1));
        }
        *resolved = mem::take(resolved).into_iter().take(most).collect();
        *registered = mem::take(registered).into_iter().take(most).collect();
        *deregistered = mem::take(deregistered).into_iter().take(most).collect();
        *refused = mem::take(refused).into_iter().take(most).collect();
        waiting.truncate(most);
        held.truncate(most);
    }

    /// The hostnames, for a message.
    pub fn names(&self) -> String {
        self.hostnames.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
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

/// Bytes of a reply: Lambda lets 6 MB through
/// ([quotas](https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html)).
const LONGEST_REPLY: usize = 5_000_000;
