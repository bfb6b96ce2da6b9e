//! A run over one target group, without I/O: given all that came so far, what to do next.
//!
//! [`Run::next`] hands out a [`Step`]; whoever carries it out hands the result back by the method that is named there. The
//! same results at the same times lead to the same steps. What is known so far decides the next step: there is no order
//! of states besides.

mod known_tags;
mod results;
mod step;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::{Duration, Instant},
};

use known_tags::KnownTags;
pub use step::{Mode, Now, Step, Task};

use crate::{
    answer::{Look, OLDEST_ANSWER, Resolution, dns_cutoff},
    failure::{ElbError, Failure},
    hostname::Hostname,
    memory::{InStep, Memory},
    plan::{HoldReason, Known, Plan},
    policy::Policy,
    report::GroupReport,
    state::{State, Timestamp},
    tags::TagChanges,
    target::{Facts, RegisteredTarget, Target},
};

/// A run over one target group.
#[derive(Debug)]
pub struct Run<'a> {
    task: Task<'a>,
    memory: &'a mut Memory,
    began: Timestamp,
    phase: Phase,
    facts: Option<Facts>,
    resolution: Resolution,
    /// The targets as they are, own changes included; `None` while they are not known.
    listed: Option<Vec<RegisteredTarget>>,
    /// Whether AWS itself could not tell the targets.
    is_unavailable: bool,
    /// When what is known of targets and tags was asked for.
    read_at: Option<Instant>,
    tags: KnownTags,
    policy: Policy,
    /// When the next answer of these hostnames is due, whose answers are samples.
    next_look: Option<(Instant, BTreeSet<Hostname>)>,
    /// When no more answers are collected.
    collect_until: Instant,
    /// How often old answers, and old lists, were asked for again in a row.
    refreshes: u32,
    rereads: u32,
    /// Whether a run beside this one may have deregistered what this one found registered. Of two
    /// that deregister, the later one sees what the other did.
    unverified: bool,
    /// Whether all is done but for what another setting left in the tags.
    is_tidying: bool,
    has_written_tags: bool,
    quota: Quota,
    /// Whether a change of targets failed, so that no other is tried.
    has_failed: bool,
    /// What AWS refused for good.
    not_registrable: BTreeMap<Target, String>,
    not_deregistrable: BTreeMap<Target, String>,
    /// What went wrong so far, besides what DNS said.
    failures: Vec<Failure>,
    /// The targets that AWS refused and that are at fault for what is not in step now.
    turned_down: Vec<Failure>,
    report: GroupReport,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Phase {
    New,
    Reading,
    Acting,
    Ended,
}

/// Where the quota of targets stands.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Quota {
    NotReached,
    /// It refused a registration, in these words: stale targets go first.
    Reached(ElbError),
    /// Room was made when so many targets had been registered. Room that helped nothing is not made again: that would
    /// empty the group.
    MadeRoom(usize),
}

impl<'a> Run<'a> {
    /// A run that begins. `early` is what DNS said before.
    pub fn new(task: Task<'a>, memory: &'a mut Memory, early: Option<Resolution>, now: Now) -> Self {
        memory.begin_run(task.group);
        let mut run = Self {
            memory,
            began: now.time,
            phase: Phase::New,
            facts: task.facts,
            resolution: Resolution::default(),
            listed: None,
            is_unavailable: false,
            read_at: None,
            tags: KnownTags::Unread,
            policy: task.group.policy(task.group.kinds_by_name()),
            next_look: None,
            collect_until: dns_cutoff(now.at, task.cutoff).min(now.at + LONGEST_COLLECTION),
            refreshes: 0,
            rereads: 0,
            unverified: false,
            is_tidying: false,
            has_written_tags: false,
            quota: Quota::NotReached,
            has_failed: false,
            not_registrable: BTreeMap::new(),
            not_deregistrable: BTreeMap::new(),
            failures: Vec::new(),
            turned_down: Vec::new(),
            report: GroupReport::new(task.group),
            task,
        };
        if let Some(early) = early {
            let took = early.took;
            run.answered(early.answers, now);
            run.resolution.took = took;
        }
        run
    }

    /// What to do next. To ask again without having done it changes nothing.
    pub fn next(&mut self, now: Now) -> Step {
        match self.phase {
            Phase::New => {
                self.phase = Phase::Reading;
                let resolved = self.resolution.is_complete() && !self.resolution.answers.is_empty();
                let hostnames = if resolved { BTreeSet::new() } else { self.hostnames() };
                let tags = self.policy.needs_state();
                return Step::Read { facts: self.facts.is_none(), hostnames, until: self.dns_cutoff(now), tags };
            }
            // A failure to read them is in the report.
            Phase::Reading if self.facts.is_none() || (self.listed.is_none() && !self.is_unavailable) => {
                return self.end();
            }
            Phase::Reading => {
                // What a CNAME chain would tell was not known when the reads went out.
                self.policy = self.group_policy();
                self.phase = Phase::Acting;
                self.asks_anew();
            }
            Phase::Ended => return Step::Done,
            Phase::Acting => {}
        }
        let Some(Facts { family, .. }) = self.facts else { return self.end() };
        if self.policy.needs_state() && matches!(self.tags, KnownTags::Unread) {
            return Step::ReadTags;
        }
        if let Some(step) = self.tags.open_step() {
            return step;
        }
        if let Some((at, hostnames)) = &self.next_look {
            let pause = at.saturating_duration_since(now.at);
            if !pause.is_zero() {
                return Step::Pause(pause);
            }
            return Step::Resolve {
                hostnames: hostnames.clone(),
                family,
                until: self.collect_until.max(now.at + SHORTEST_LOOK),
            };
        }
        // What was true when a slow call began must not undo what a newer run has done since.
        let old = self.resolution.old(now.at);
        if old.is_empty() {
            self.refreshes = 0;
        } else if self.refreshes < MOST_REFRESHES {
            return Step::Resolve { hostnames: old, family, until: self.dns_cutoff(now) };
        }
        self.act(now)
    }

    fn act(&mut self, now: Now) -> Step {
        // Newer answers may be of another kind; what was remembered for the old one stays.
        let seconds = self.group_policy().deregister_after_seconds;
        self.policy.deregister_after_seconds = seconds.max(self.policy.deregister_after_seconds);
        self.memory.is_tidy &= !self.policy.needs_state();
        let Some(look) = self.look() else { return self.end() };
        let mut plan = self.plan(&look, now);
        let changes = self.tag_changes(&plan.state, now);
        let missing = self.registrable(&mut plan);
        self.report.hold(&plan.held, self.policy);
        self.report.is_unregistered = !plan.register.is_empty();
        let is_dry_run = self.task.mode == Mode::DryRun;
        let is_done = self.has_failed || (missing.is_empty() && plan.deregister.is_empty());
        // What this run deregistered is listed again before all else: what the list shows may have to be put back.
        if is_done && self.unverified {
            return self.reread();
        }
        if is_dry_run || is_done || (matches!(self.quota, Quota::Reached(_)) && plan.deregister.is_empty()) {
            // What is only to be remembered waits for the other answers, which change it again. And what is stale, and
            // makes room, is only known by them.
            if let Some(pause) = self.collect(now) {
                return Step::Pause(pause);
            }
            if is_dry_run || (is_done && changes.is_empty()) {
                return self.done(&look, &plan, now);
            }
            if !is_done {
                if let Quota::Reached(error) = mem::replace(&mut self.quota, Quota::NotReached) {
                    self.failures.push(error.into());
                }
                // What would go stays, now that what should be there instead can't be registered.
                self.has_failed = true;
                return self.act(now);
            }
        }
        let is_old = self.read_at.is_some_and(|at| now.at.saturating_duration_since(at) > OLDEST_ANSWER);
        if is_old && self.rereads < MOST_REREADS && !self.is_unavailable {
            return self.reread();
        }
        self.is_tidying &= is_done;
        self.write(changes, missing, plan.deregister, is_done)
    }

    fn reread(&self) -> Step {
        // What AWS accepted counts as done, though a read may not show it yet.
        let tags = matches!(self.tags, KnownTags::Known { .. }) && !self.has_written_tags;
        Step::Reread { tags: tags && (self.policy.needs_state() || self.is_tidying) }
    }

    /// The change that comes first.
    fn write(
        &self,
        changes: TagChanges,
        missing: BTreeSet<Target>,
        deregister: BTreeSet<RegisteredTarget>,
        state_only: bool,
    ) -> Step {
        if !changes.is_empty() && (self.policy.is_shared() || state_only) {
            return self.tags.write(changes);
        }
        if missing.is_empty() || matches!(self.quota, Quota::Reached(_)) {
            // Where the quota refused what is missing, as much room is made as that needs, and
            // the last target stays for as long as there is another way.
            let registered = self.registered().count();
            let room = missing.len().min(registered.saturating_sub(1).max(1));
            let most = if missing.is_empty() { BATCH } else { room.min(BATCH) };
            return Step::Deregister(deregister.into_iter().take(most).collect());
        }
        Step::Register(missing.into_iter().take(BATCH).collect())
    }

    /// The end of a run whose work is done.
    fn done(&mut self, look: &Look, plan: &Plan, now: Now) -> Step {
        if self.task.mode == Mode::DryRun {
            self.report.registered.extend(&plan.register);
            self.report.deregistered.extend(plan.deregister.iter().map(|shown| shown.target));
            return self.end();
        }
        if look.failures.is_empty() && self.failures.is_empty() && self.turned_down.is_empty() {
            self.memory.in_step = Some(self.in_step(look, plan, now));
        }
        self.memory.is_tidy |= self.is_tidying && matches!(self.tags, KnownTags::Known { .. });
        // Where a name did not resolve, its kind may not be known, and so what the tags are for.
        self.is_tidying |= look.failures.is_empty() && matches!(self.tags, KnownTags::Unread);
        self.memory.has_read_in_vain &= !self.is_tidying;
        self.end()
    }

    fn in_step(&mut self, look: &Look, plan: &Plan, now: Now) -> InStep {
        let mut targets = look.desired.targets.clone();
        if self.memory.is_sampled() {
            targets.extend(self.registered().filter(|target| !plan.held.contains_key(target)));
        }
        let has_changed = self.report.registrations + self.report.deregistrations > 0;
        if has_changed {
            self.memory.verify_at = Some(now.time.plus_seconds(VERIFY_AFTER_SECONDS));
        }
        let verify = self.memory.verify_at.filter(|at| *at > now.time);
        let thin = plan.held.iter().filter(|(_, hold)| hold.reason == HoldReason::Evidence);
        InStep {
            targets,
            due: plan.due().into_iter().chain(verify).min(),
            thin: thin.map(|(target, _)| *target).collect(),
            ttl: self.resolution.ttl(),
            registered: self.registered().copied().collect(),
        }
    }

    fn end(&mut self) -> Step {
        self.phase = Phase::Ended;
        Step::Done
    }

    fn look(&self) -> Option<Look> {
        Some(self.resolution.look(self.task.group, self.facts?, self.task.allowed))
    }

    fn plan(&mut self, look: &Look, now: Now) -> Plan {
        let registered: Vec<_> = self.registered().copied().collect();
        // Where nothing has to be remembered, it does not matter that the tags were not read.
        let empty = State::default();
        let state = self.tags.state().or_else(|| (!self.policy.needs_state()).then_some(&empty));
        if let Some(state) = state
            && !self.is_unavailable
        {
            // What was deregistered and is back is not missing from before.
            self.memory.absent_since.retain(|target, _| registered.contains(target));
            self.memory.expect(&registered, &state.missing, now.time);
        }
        self.memory.note(&look.desired, &registered, now.time);
        let memory = &*self.memory;
        let last_seen = |target: &Target| {
            let members = self.task.group.members.iter();
            let of_port = members.filter(|(_, port)| port.or(self.facts.map(|facts| facts.port)) == Some(target.port));
            Some((*target, memory.last_seen(target.address, of_port.map(|(hostname, _)| hostname))?))
        };
        let last_seen = registered.iter().filter_map(last_seen).collect();
        let known = Known {
            last_seen: &last_seen,
            listed: self.listed.as_deref().unwrap_or_default(),
            state,
            policy: self.policy,
            absent_since: &memory.absent_since,
            absence: |target: &Target| memory.absence(target.address, now.time),
            // The clock may have been set back meanwhile.
            began: self.began.min(now.time),
            now: now.time,
        };
        let mut plan = Plan::new(&look.desired, &known);
        if self.is_unavailable {
            // Registering is idempotent; what AWS accepted within this invocation is not sent again.
            plan.register.retain(|target| !memory.writes.has_registered(target));
            plan.deregister.clear();
            // What is not shown may be there. But what DNS gives is not missing.
            let owned = mem::take(&mut plan.state.owned);
            plan.state = known.state.filter(|_| self.policy.needs_state()).cloned().unwrap_or_default();
            plan.state.owned.extend(owned);
            plan.state.missing.retain(|target, _| !look.desired.targets.contains(target));
            plan.state.released.retain(|target| !look.desired.targets.contains(target));
        }
        plan
    }

    /// What is to be registered now. Where some of it can't be, nothing goes.
    fn registrable(&mut self, plan: &mut Plan) -> BTreeSet<Target> {
        // In a shared group, nothing is registered whose state can't be written.
        let is_empty = self.registered().next().is_none();
        let is_forgotten = |target| self.policy.is_shared() && self.tags.forget(target, is_empty);
        let refused = &self.not_registrable;
        let (missing, turned_down): (BTreeSet<Target>, BTreeSet<Target>) =
            plan.register.iter().partition(|target| !refused.contains_key(target) && !is_forgotten(target));
        if !turned_down.is_empty() || (self.has_failed && !missing.is_empty()) {
            plan.hold(HoldReason::RegistrationFailed, |_| true);
        }
        let stuck = &self.not_deregistrable;
        plan.hold(HoldReason::DeregistrationRefused, |target| stuck.contains_key(target));
        let refusal = |operation, (target, reason): (&Target, &String)| Failure::Refused {
            operation,
            target: *target,
            reason: reason.clone(),
        };
        let not_registered = refused.iter().filter(|(target, _)| turned_down.contains(target));
        let not_deregistered = stuck.iter().filter(|(target, _)| plan.held.contains_key(target));
        self.turned_down = not_registered
            .map(|entry| refusal("RegisterTargets", entry))
            .chain(not_deregistered.map(|entry| refusal("DeregisterTargets", entry)))
            .collect();
        missing
    }

    /// When the next answer is due of names whose answers are samples; `None`: there are enough.
    fn collect(&mut self, now: Now) -> Option<Duration> {
        if self.task.mode == Mode::Single {
            return None;
        }
        let left = self.collect_until.saturating_duration_since(now.at);
        let targets = self.registered().map(|target| target.address).collect();
        let answered = self.resolution.answers.iter().filter(|(_, answer)| answer.is_ok());
        let pauses = answered.filter_map(|(hostname, _)| {
            let samples = self.memory.samples.get(hostname).filter(|samples| samples.is_sample())?;
            Some((samples.next(&targets, left)?, hostname.clone()))
        });
        let pauses: Vec<_> = pauses.collect();
        let pause = pauses.iter().map(|(pause, _)| *pause).max()?;
        self.next_look = Some((now.at + pause, pauses.into_iter().map(|(_, hostname)| hostname).collect()));
        Some(pause)
    }

    fn group_policy(&self) -> Policy {
        self.task.group.policy(self.resolution.kinds().map(|(_, kind)| kind))
    }

    fn registered(&self) -> impl Iterator<Item = &Target> {
        let listed = self.listed.iter().flatten().filter(|shown| shown.state.is_registered());
        listed.map(|shown| &shown.target)
    }

    fn hostnames(&self) -> BTreeSet<Hostname> {
        self.task.group.hostnames().into_iter().cloned().collect()
    }

    fn dns_cutoff(&self, now: Now) -> Instant {
        dns_cutoff(now.at, self.task.cutoff)
    }
}

/// How long a run collects answers at most: the next minute's run collects, too.
const LONGEST_COLLECTION: Duration = Duration::from_secs(45);

/// How long an answer may take that is asked for at the end of the collection.
const SHORTEST_LOOK: Duration = Duration::from_millis(500);

/// How often old answers are asked for again in a row: a slow name may make the answers beside it old meanwhile.
const MOST_REFRESHES: u32 = 2;

/// How often the targets are listed again before a change. DNS and ELBv2 may both be so slow that
/// one is always old when the other is known.
const MOST_REREADS: u32 = 2;

/// After how many seconds a change of our own is verified: a run beside this one may have undone it.
const VERIFY_AFTER_SECONDS: u32 = 7;

/// Targets in a call. AWS documents no limit; aws-load-balancer-controller sends 200.
pub const BATCH: usize = 200;
