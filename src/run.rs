//! A run over one target group, without I/O: given all that came so far, what to do next.
//!
//! [`Run::next`] hands out a [`Step`]; whoever carries it out hands the result back by the method that is named there. The
//! same results at the same times lead to the same steps. What is known so far decides the next step: there is no order
//! of states besides.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::{Duration, Instant},
};

use crate::{
    binding::Group,
    failure::{ElbError, ElbErrorKind, Failure},
    hostname::Hostname,
    memory::{InStep, Memory},
    network::AllowedNetworks,
    plan::{HoldReason, Known, Plan},
    policy::Policy,
    report::GroupReport,
    resolution::{Answers, Look, OLDEST_ANSWER, Resolution},
    sampling::Samples,
    state::{State, Timestamp},
    tags::{MOST_TAGS, Notation, TagChanges, Tags, takes_room},
    target::{Facts, RegisteredTarget, Target, TargetState},
};

/// What to do next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Step {
    /// The first reads, which go out together: [`Run::learned`] for the facts, [`Run::answered`], [`Run::listed`] and
    /// [`Run::tags_read`].
    Read {
        /// Whether the static facts of the group are not known yet. DNS is asked once they are.
        facts: bool,
        /// The hostnames to ask DNS for.
        hostnames: BTreeSet<Hostname>,
        /// Until when DNS may take.
        until: Instant,
        /// Whether the tags are read, too.
        tags: bool,
    },
    /// Write tags; then [`Run::tags_added`].
    AddTags(Tags),
    /// Deregister targets; [`Run::deregistered`] for those that AWS accepted, then [`Run::deregistration_ended`].
    Deregister(BTreeSet<RegisteredTarget>),
    /// List the targets, and read the tags where they are needed; then [`Run::listed`] and [`Run::tags_read`].
    Reread {
        /// Whether the tags are needed.
        tags: bool,
    },
    /// There is nothing left to do: [`Run::finish`].
    Done,
    /// Wait so long.
    Pause(Duration),
    /// Read the tags; then [`Run::tags_read`].
    ReadTags {
        /// Whether the run is done without: then nobody waits long for them.
        is_optional: bool,
    },
    /// Register targets; [`Run::registered`] for those that AWS accepted, then [`Run::registration_ended`].
    Register(BTreeSet<Target>),
    /// Remove tags; then [`Run::tags_removed`].
    RemoveTags(Vec<String>),
    /// Ask DNS; then [`Run::answered`].
    Resolve {
        /// For these hostnames.
        hostnames: BTreeSet<Hostname>,
        /// Until when it may take.
        until: Instant,
    },
}

impl Step {
    /// Whether it changes something at AWS.
    pub fn is_write(&self) -> bool {
        matches!(self, Self::AddTags(_) | Self::Deregister(_) | Self::Register(_) | Self::RemoveTags(_))
    }
}

/// How thoroughly a target group is reconciled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// As [`Self::Full`], but nothing is written.
    DryRun,
    /// Of names whose answers are samples, several are collected.
    Full,
    /// One answer of each name: a watch goes on to ask anyway.
    Single,
}

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the one that only goes forward: it tells how old something is.
    pub at: Instant,
    /// By the one on the wall: it tells since when something has been missing.
    pub time: Timestamp,
}

/// What a run is about.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// The target group, and what is bound to it.
    pub group: &'a Group,
    /// Which addresses may become targets.
    pub allowed: &'a AllowedNetworks,
    /// The name of this function, by which it owns targets of `shared` groups.
    pub function: &'a str,
    /// How thorough to be.
    pub mode: Mode,
    /// What never changes about the group, if it is known.
    pub facts: Option<Facts>,
    /// Whether there are requests to spare, for tags that another setting may have left.
    pub may_tidy: bool,
    /// A random number, of which the keys of new tags are made.
    pub nonce: u32,
    /// When what is open is given up.
    pub cutoff: Instant,
}

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

/// What the tags of a target group say.
#[derive(Debug)]
enum KnownTags {
    /// They were not read.
    Unread,
    /// They could not be read or written.
    Unusable,
    /// They were read.
    Known {
        tags: Tags,
        state: State,
        /// To be removed once the others are written.
        remove: Vec<String>,
        /// To be emptied, since they could not be removed: a time that was dropped must not be found again.
        empty: Tags,
        /// Keys that could not be removed. They are empty and do no harm; the next run tries again.
        untidy: BTreeSet<String>,
    },
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
        let left = task.cutoff.saturating_duration_since(now.at);
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
            collect_until: now.at + (left * 3 / 4).min(LONGEST_COLLECTION),
            refreshes: 0,
            rereads: 0,
            unverified: false,
            is_tidying: false,
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
                self.rereads = 0;
            }
            Phase::Ended => return Step::Done,
            Phase::Acting => {}
        }
        match &self.tags {
            KnownTags::Unread if self.policy.needs_state() => return Step::ReadTags { is_optional: false },
            KnownTags::Known { empty, .. } if !empty.is_empty() => return Step::AddTags(empty.clone()),
            KnownTags::Known { remove, .. } if !remove.is_empty() => return Step::RemoveTags(remove.clone()),
            _ => {}
        }
        if let Some((at, hostnames)) = &self.next_look {
            let pause = at.saturating_duration_since(now.at);
            if !pause.is_zero() {
                return Step::Pause(pause);
            }
            return Step::Resolve {
                hostnames: hostnames.clone(),
                until: self.collect_until.max(now.at + SHORTEST_LOOK),
            };
        }
        // What was true when a slow call began must not undo what a newer run has done since.
        let old = self.resolution.old(now.at);
        if !old.is_empty() && self.refreshes < MOST_REFRESHES {
            return Step::Resolve { hostnames: old, until: self.dns_cutoff(now) };
        }
        self.act(now)
    }

    fn act(&mut self, now: Now) -> Step {
        // Newer answers may be of another kind; what was remembered for the old one stays.
        let seconds = self.group_policy().deregister_after_seconds;
        self.policy.deregister_after_seconds = seconds.max(self.policy.deregister_after_seconds);
        let Some(look) = self.look() else { return self.end() };
        let mut plan = self.plan(&look, now);
        let changes = self.tag_changes(&plan.state, now);
        let missing = self.registrable(&mut plan);
        self.report.hold(&plan.held, self.policy);
        self.report.is_unregistered = !plan.register.is_empty();
        let is_dry_run = self.task.mode == Mode::DryRun;
        let is_done = self.has_failed || (missing.is_empty() && plan.deregister.is_empty());
        if is_dry_run || is_done || (matches!(self.quota, Quota::Reached(_)) && plan.deregister.is_empty()) {
            // What is only to be remembered waits for the other answers, which change it again. And what is stale, and
            // makes room, is only known by them.
            if let Some(pause) = self.collect(now) {
                return Step::Pause(pause);
            }
            if is_dry_run || (is_done && changes.is_empty()) {
                return self.verify_or_end(&look, &plan, now);
            }
            if !is_done {
                if let Quota::Reached(error) = mem::replace(&mut self.quota, Quota::NotReached) {
                    self.failures.push(error.into());
                }
                self.has_failed = true;
                return self.act(now);
            }
        }
        let is_old = self.read_at.is_some_and(|at| now.at.saturating_duration_since(at) > OLDEST_ANSWER);
        if is_old && self.rereads < MOST_REREADS && !self.is_unavailable {
            return self.reread();
        }
        self.write(changes, missing, plan.deregister, is_done)
    }

    fn reread(&self) -> Step {
        Step::Reread { tags: matches!(self.tags, KnownTags::Known { .. }) && self.policy.needs_state() }
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
            return self.write_tags(changes);
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

    fn write_tags(&self, changes: TagChanges) -> Step {
        let TagChanges { add, remove } = changes;
        let KnownTags::Known { tags, .. } = &self.tags else { return Step::Done };
        let together: BTreeSet<_> = tags.keys().chain(add.keys()).filter(|key| takes_room(key)).collect();
        // Where there is no room for the new ones beside the old ones, those go first.
        let is_full = !remove.is_empty() && together.len() > MOST_TAGS;
        if add.is_empty() || is_full { Step::RemoveTags(remove) } else { Step::AddTags(add) }
    }

    /// The end of a run whose work is done, unless a last list is due.
    fn verify_or_end(&mut self, look: &Look, plan: &Plan, now: Now) -> Step {
        if self.unverified {
            return self.reread();
        }
        if self.task.mode == Mode::DryRun {
            self.report.registered.extend(&plan.register);
            self.report.deregistered.extend(plan.deregister.iter().map(|shown| shown.target));
            return self.end();
        }
        if look.failures.is_empty() && self.failures.is_empty() && self.turned_down.is_empty() {
            self.memory.in_step = Some(self.in_step(look, plan, now));
        }
        // What another setting left in the tags must not be found by a later one. Once is enough, and nothing waits for it.
        if self.task.may_tidy && !self.memory.is_tidy && matches!(self.tags, KnownTags::Unread) {
            self.memory.is_tidy = true;
            self.is_tidying = true;
            return Step::ReadTags { is_optional: true };
        }
        self.end()
    }

    fn in_step(&self, look: &Look, plan: &Plan, now: Now) -> InStep {
        let mut targets = look.desired.targets.clone();
        if self.memory.is_sampled() {
            targets.extend(self.registered());
        }
        let has_changed = self.report.registrations + self.report.deregistrations > 0;
        let verify = has_changed.then(|| now.time.plus_seconds(VERIFY_AFTER_SECONDS));
        let thin = plan.held.iter().filter(|(_, hold)| hold.reason == HoldReason::Evidence);
        InStep {
            targets,
            due: plan.due().into_iter().chain(verify).min(),
            thin: thin.map(|(target, _)| *target).collect(),
            ttl: self.resolution.ttl(),
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
        self.memory.note(&look.desired, &registered, now.time);
        let memory = &*self.memory;
        let empty = State::default();
        let known = Known {
            listed: self.listed.as_deref().unwrap_or_default(),
            state: match &self.tags {
                KnownTags::Known { state, .. } => Some(state),
                _ if self.policy.needs_state() => None,
                _ => Some(&empty),
            },
            policy: self.policy,
            absent_since: &memory.absent_since,
            absence: |target: &Target| memory.absence(target.address, now.time),
            began: self.began,
            now: now.time,
        };
        let mut plan = Plan::new(&look.desired, &known);
        if self.is_unavailable {
            // Registering is idempotent; what AWS accepted within this invocation is not sent again.
            plan.register.retain(|target| !memory.writes.has_registered(target));
            plan.deregister.clear();
        }
        plan
    }

    /// What is to be registered now. Where some of it can't be, nothing goes.
    fn registrable(&mut self, plan: &mut Plan) -> BTreeSet<Target> {
        // In a shared group, nothing is registered whose state can't be written.
        let is_forgotten = self.policy.is_shared() && matches!(self.tags, KnownTags::Unusable);
        let refused = &self.not_registrable;
        let (missing, turned_down): (BTreeSet<Target>, BTreeSet<Target>) =
            plan.register.iter().partition(|target| !refused.contains_key(target) && !is_forgotten);
        if !turned_down.is_empty() {
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

    fn tag_changes(&mut self, state: &State, now: Now) -> TagChanges {
        self.failures.retain(|failure| !matches!(failure, Failure::NoRoomInTags { .. }));
        let KnownTags::Known { tags, untidy, .. } = &self.tags else { return TagChanges::default() };
        let mut present = tags.clone();
        present.retain(|key, _| !untidy.contains(key));
        let notation = self.notation();
        let (changes, left_out) = notation.changes(&present, state, now.time, self.task.nonce);
        if left_out > 0 {
            let foreign = notation.foreign_tags(tags);
            self.failures.push(Failure::NoRoomInTags { left_out, foreign, most: MOST_TAGS });
        }
        changes
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

    fn notation(&self) -> Notation<'a> {
        Notation { function: self.task.function, ownership: self.task.group.ownership }
    }

    /// Three quarters of the time that is left: DNS that hangs has to leave some for what else DNS gave.
    fn dns_cutoff(&self, now: Now) -> Instant {
        now.at + self.task.cutoff.saturating_duration_since(now.at) * 3 / 4
    }
}

/// The results of the steps.
impl Run<'_> {
    /// The static facts of the group came, or could not be read.
    pub fn learned(&mut self, facts: Result<Facts, ElbError>) {
        match facts {
            Ok(facts) => self.facts = Some(facts),
            Err(error) => self.failures.push(error.into()),
        }
    }

    /// DNS answered, or did not. A name whose answers are samples keeps what it gave; of others, the newest answer is all
    /// that counts.
    pub fn answered(&mut self, answers: Answers, now: Now) {
        let is_refresh = self.next_look.take().is_none() && !self.resolution.answers.is_empty();
        self.refreshes = if is_refresh { self.refreshes + 1 } else { 0 };
        for (hostname, mut answer) in answers {
            self.memory.answered(&hostname, &answer, now.time);
            if let Some(Ok(earlier)) = self.resolution.answers.get(&hostname)
                && self.memory.is_sample(&hostname)
            {
                match &mut answer {
                    Ok(answer) => answer.addresses.extend(&earlier.addresses),
                    // One answer is enough to go on with, as long as it is not too old.
                    Err(_) if !is_refresh || self.refreshes < MOST_REFRESHES => continue,
                    Err(_) => {}
                }
            }
            self.resolution.answers.insert(hostname, answer);
        }
    }

    /// How long DNS took to answer at first.
    pub fn resolved_in(&mut self, took: Duration) {
        self.resolution.took = took;
    }

    /// The targets were listed, asked for at `asked_at`.
    pub fn listed(&mut self, listed: Result<Vec<RegisteredTarget>, ElbError>, asked_at: Instant) {
        self.rereads += 1;
        let is_verification = mem::take(&mut self.unverified);
        match listed {
            Ok(listed) => {
                let listed = self.memory.writes.overlay(listed, asked_at);
                self.report.count(&listed);
                self.listed = Some(listed);
                self.read_at = Some(asked_at);
                if is_verification && self.look().is_some_and(|look| !self.has_all(&look.desired.targets)) {
                    // Whoever deregistered that had another answer.
                    self.next_look = Some((asked_at, self.hostnames()));
                }
            }
            Err(error) if error.kind == ElbErrorKind::Unavailable => {
                self.is_unavailable = true;
                self.failures.push(error.into());
            }
            Err(error) => {
                self.failures.push(error.into());
                if self.phase == Phase::Acting {
                    self.phase = Phase::Ended;
                }
            }
        }
    }

    fn has_all(&self, targets: &BTreeSet<Target>) -> bool {
        let registered: BTreeSet<_> = self.registered().copied().collect();
        targets.is_subset(&registered)
    }

    /// The tags were read.
    pub fn tags_read(&mut self, tags: Result<Tags, ElbError>) {
        match tags {
            Ok(tags) => {
                let (state, unreadable) = self.notation().read(&tags);
                for warning in unreadable {
                    self.report.warn(warning);
                }
                for (target, since) in &state.missing {
                    self.memory.samples.values_mut().for_each(|samples| samples.note(target.address, *since));
                }
                let untidy = match &mut self.tags {
                    KnownTags::Known { untidy, .. } => mem::take(untidy),
                    _ => BTreeSet::new(),
                };
                self.tags = KnownTags::Known { tags, state, remove: Vec::new(), empty: Tags::new(), untidy };
            }
            // What another setting may have left can wait.
            Err(_) if !self.policy.needs_state() => {}
            Err(error) => {
                self.failures.push(error.into());
                self.tags = KnownTags::Unusable;
                // Whose the targets are is not known, and what is registered now could not be remembered as ours.
                if self.policy.is_shared() {
                    self.phase = Phase::Ended;
                }
            }
        }
    }

    /// Tags were written.
    pub fn tags_added(&mut self, added: &Tags, result: Result<(), ElbError>) {
        self.rereads = 0;
        let notation = self.notation();
        match (result, &mut self.tags) {
            (Ok(()), KnownTags::Known { tags, state, remove, empty, .. }) => {
                tags.extend(added.clone());
                // They were emptied, so that a run that is killed now leaves no time that was dropped.
                remove.extend(added.iter().filter(|(_, value)| value.is_empty()).map(|(key, _)| key.clone()));
                (*state, _) = notation.read(tags);
                empty.clear();
            }
            (Err(error), _) => self.tags_failed(error),
            _ => {}
        }
    }

    /// Tags were removed.
    pub fn tags_removed(&mut self, keys: &[String], result: Result<(), ElbError>) {
        self.rereads = 0;
        let notation = self.notation();
        let KnownTags::Known { tags, state, remove, empty, untidy } = &mut self.tags else { return };
        remove.clear();
        let Err(error) = result else {
            tags.retain(|key, _| !keys.contains(key));
            (*state, _) = notation.read(tags);
            return;
        };
        let says_something = keys.iter().any(|key| tags.get(key).is_some_and(|value| !value.is_empty()));
        if says_something && self.policy.needs_state() {
            empty.extend(keys.iter().map(|key| (key.clone(), String::new())));
            self.failures.push(error.into());
        } else if says_something {
            self.tags_failed(error);
        } else {
            untidy.extend(keys.iter().cloned());
            self.failures.push(error.into());
        }
    }

    fn tags_failed(&mut self, error: ElbError) {
        if self.policy.needs_state() {
            self.failures.push(error.into());
            self.tags = KnownTags::Unusable;
        } else {
            // What another setting left can wait for another run.
            self.report.warn(error.to_string());
            self.tags = KnownTags::Unread;
        }
    }

    /// AWS accepted the registration of these targets.
    pub fn registered_targets(&mut self, targets: &[Target], at: Instant) {
        for target in targets {
            self.memory.writes.registered(*target, at);
        }
        let listed = self.listed.get_or_insert_default();
        listed.retain(|shown| !targets.contains(&shown.target));
        listed.extend(targets.iter().copied().map(RegisteredTarget::new));
        if !self.is_unavailable {
            self.report.count(listed);
        }
        self.report.registered.extend(targets);
        self.report.registrations += targets.len();
    }

    /// The registration ended, with what AWS refused for good, and what went wrong besides.
    pub fn registration_ended(&mut self, refused: BTreeMap<Target, String>, failed: Option<ElbError>) {
        self.rereads = 0;
        self.not_registrable.extend(refused);
        match failed {
            Some(error) if error.kind == ElbErrorKind::QuotaReached && self.may_make_room() => {
                self.quota = Quota::Reached(error);
            }
            Some(error) => {
                self.failures.push(error.into());
                self.has_failed = true;
            }
            None => {}
        }
    }

    fn may_make_room(&self) -> bool {
        self.quota != Quota::MadeRoom(self.report.registrations)
    }

    /// AWS accepted the deregistration of these targets.
    pub fn deregistered_targets(&mut self, targets: &[Target], at: Instant) {
        let listed = self.listed.get_or_insert_default();
        for shown in listed.iter_mut().filter(|shown| targets.contains(&shown.target)) {
            self.memory.writes.deregistered(shown, at);
            shown.state = TargetState::Draining;
        }
        self.report.count(listed);
        self.report.deregistered.extend(targets);
        self.report.deregistrations += targets.len();
        self.unverified = true;
    }

    /// The deregistration ended, with what AWS refused for good, and what went wrong besides.
    pub fn deregistration_ended(&mut self, refused: BTreeMap<Target, String>, failed: Option<ElbError>) {
        self.rereads = 0;
        self.not_deregistrable.extend(refused);
        if matches!(self.quota, Quota::Reached(_)) {
            self.quota = Quota::MadeRoom(self.report.registrations);
        }
        if let Some(error) = failed {
            self.failures.push(error.into());
            self.has_failed = true;
        }
    }

    /// The time is over. `waiting` names what was waited for; where that is empty and nothing is known yet, the budget
    /// put the group off.
    pub fn cut_off(&mut self, waiting: &str) {
        if self.phase == Phase::Ended || self.is_tidying {
            return;
        }
        let is_begun = self.listed.is_some() || self.is_unavailable || !self.failures.is_empty();
        self.report.is_deferred = waiting.is_empty() && !is_begun;
        if !self.report.is_deferred {
            let what = if waiting.is_empty() { "its turn under ELB_REQUESTS_PER_SECOND" } else { waiting };
            self.failures.push(Failure::Deadline(what.to_owned()));
        }
        self.phase = Phase::Ended;
    }

    /// What the run found and did. What the group is in step with is in the memory.
    pub fn finish(mut self) -> GroupReport {
        if let Some(look) = self.look() {
            self.report.look(look, self.resolution.took);
        }
        self.report.failures.append(&mut self.failures);
        self.report.failures.append(&mut self.turned_down);
        let lookups = |hostname: &Hostname| self.memory.samples.get(hostname).map(Samples::lookups);
        self.report.set_policy(self.policy, self.resolution.kinds(), lookups);
        for (hostname, samples) in &self.memory.samples {
            if let Some(warning) = samples.warning() {
                self.report.warn(format!("{hostname}: {warning}"));
            }
        }
        let refused = self.not_registrable.iter().map(|(target, reason)| (target.address, reason.clone()));
        self.report.refused.extend(refused);
        if self.task.mode == Mode::DryRun {
            let answers = self.resolution.answers.into_iter();
            self.report.answers =
                answers.filter_map(|(hostname, answer)| Some((hostname, answer.ok()?.addresses))).collect();
        }
        self.report.settle();
        self.report
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
