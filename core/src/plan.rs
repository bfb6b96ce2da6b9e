//! The decision: what DNS says, what is registered, what is remembered and the time, turned into what to register, to
//! deregister and to remember. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::{
    answer::Look,
    clock::{Now, Timestamp},
    failure::Failure,
    hostname::Hostname,
    memory::Memory,
    policy::Ownership,
    run::{Known, Task},
    samples::{Samples, Verdict},
    tags::{MOST_TAGS, State, TagChanges, is_own, rotating_name, takes_room},
    target::{RegisteredTarget, Target, TargetState},
};

/// Why a registered target stays that DNS does not give.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// AWS refused to deregister it.
    DeregistrationRefused,
    /// Answers are samples, and too few of them lacked it.
    Evidence,
    /// It is somebody else's.
    Foreign,
    /// Its grace period is not over.
    Grace,
    /// It was registered moments ago, and DNS may flap.
    Initial,
    /// Another function owns it as well.
    OwnedElsewhere,
    /// DNS gives its address, which may not become a target.
    RefusedAddress,
    /// What should be there instead can't be registered.
    RegistrationFailed,
    /// The tags that say whose it is, and since when it is missing, can't be read or written.
    StateUnknown,
    /// A hostname of the group did not resolve.
    Unresolved,
}

impl HoldReason {
    /// The words of the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeregistrationRefused => "AWS refused to deregister it",
            Self::Evidence => "too few answers lacked it",
            Self::Foreign => "it is somebody else's",
            Self::Grace => "its grace period is not over",
            Self::Initial => "it was registered moments ago, and DNS may flap",
            Self::OwnedElsewhere => "another function owns it, too",
            Self::RefusedAddress => "DNS gives its address, which may not become a target",
            Self::RegistrationFailed => "what should be there instead can't be registered",
            Self::StateUnknown => "the tags that say since when it is missing can't be read or written",
            Self::Unresolved => "a hostname did not resolve",
        }
    }
}

/// A registered target that stays although DNS does not give it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// Since when its address has been missing, where that is more than usual.
    pub missing_since: Option<Timestamp>,
    /// When it goes, if nothing but time keeps it.
    pub until: Option<Timestamp>,
}

/// One change.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Change {
    /// Of tags.
    Remember(TagChanges),
    /// Of targets, as many as go into a call.
    Register(BTreeSet<Target>),
    /// The same, as they are shown.
    Deregister(BTreeSet<RegisteredTarget>),
}

/// What to do to one target group.
///
/// | DNS gives it | listed as          | then                                                         |
/// |--------------|--------------------|--------------------------------------------------------------|
/// | yes          | not at all         | `register`                                                   |
/// | yes          | draining           | `register`                                                   |
/// | yes          | in any other state | nothing                                                      |
/// | no           | draining           | nothing                                                      |
/// | no           | in any other state | `deregister`, unless there is a reason to keep it in `held`  |
#[derive(Clone, Debug)]
pub struct Plan {
    /// What DNS said.
    pub look: Look,
    /// To be registered first.
    pub register: BTreeSet<Target>,
    /// To be deregistered after the registration succeeded, with all that was shown of them.
    pub deregister: BTreeSet<RegisteredTarget>,
    /// Registered and not given by DNS, but kept, each for a reason.
    pub held: BTreeMap<Target, Hold>,
    /// What is to be remembered.
    pub state: State,
    /// The names that are asked on for, because a healthy target is missing suspiciously long.
    pub asks_on: BTreeSet<Hostname>,
    /// The targets as they are, own changes included.
    pub shown: Vec<RegisteredTarget>,
    is_shared: bool,
    /// What makes the tags say `state`, where they are known, and for how many targets there is no room.
    changes: TagChanges,
    left_out: usize,
    /// How many tags are others'.
    foreign: usize,
}

impl Plan {
    /// Compares what DNS gives with what is registered. Of what would go, the first reason to keep it counts.
    pub fn new(task: &Task<'_>, known: &Known, memory: &Memory, now: Now) -> Self {
        let look = Look::new(task, &known.answers);
        let shown = known.shown(memory);
        let registered: BTreeSet<_> =
            shown.iter().filter(|shown| shown.state.is_registered()).map(|shown| shown.target).collect();
        let is_listed = matches!(known.listed, Some(Ok(_)));
        let missing = look.desired.difference(&registered).copied();
        let register: BTreeSet<_> = missing.filter(|target| !known.refused.contains_key(target)).collect();
        let stale: Vec<_> = shown
            .iter()
            .filter(|shown| is_listed && shown.state.is_registered() && !look.desired.contains(&shown.target))
            .cloned()
            .collect();
        let judge = Judge {
            task,
            known,
            memory,
            now,
            look: &look,
            state: known.state.as_ref(),
            is_replaced: look.desired.iter().any(|target| registered.contains(target) || register.contains(target)),
            has_healthy: shown.iter().any(|shown| shown.state == TargetState::Healthy),
            targets_of: targets_of(task, memory, &registered),
        };
        let mut held = BTreeMap::new();
        let mut deregister = BTreeSet::new();
        let mut asks_on = BTreeSet::new();
        for shown in stale {
            match judge.reason_to_keep(&shown) {
                Some(hold) => {
                    if matches!(hold.reason, HoldReason::Grace | HoldReason::Evidence) {
                        asks_on.extend(judge.asks_on(&shown));
                    }
                    held.insert(shown.target, hold);
                }
                None => drop(deregister.insert(shown)),
            }
        }
        let state = judge.remembered(&shown, &held, &deregister);
        let is_shared = judge.is_shared();
        let tags = known.tags.as_ref().filter(|_| known.state.is_some());
        let changed = tags.map(|tags| state.changes(tags, is_shared, task.function));
        let (changes, left_out) = changed.unwrap_or_default();
        let foreign =
            tags.into_iter().flatten().filter(|(key, _)| takes_room(key) && !is_own(key, task.function)).count();
        Self { register, deregister, held, state, asks_on, shown, is_shared, changes, left_out, foreign, look }
    }

    /// The change that comes first. In `shared` groups whose the targets are is written before they are registered, so that
    /// a reply that gets lost can't make a target of ours a foreign one.
    pub fn next(&self, known: &Known) -> Option<Change> {
        let remember = (!self.changes.is_empty()).then(|| Change::Remember(self.changes.clone()));
        if self.is_shared && remember.is_some() { remember } else { self.change_of_targets(known).or(remember) }
    }

    /// Whether targets are to be registered or deregistered.
    pub fn changes_targets(&self, known: &Known) -> bool {
        self.change_of_targets(known).is_some()
    }

    fn change_of_targets(&self, known: &Known) -> Option<Change> {
        if known.has_failed {
            return None;
        }
        if self.register.is_empty() {
            return first(&self.deregister).map(Change::Deregister);
        }
        if known.full.is_none() {
            return first(&self.register).map(Change::Register);
        }
        // Rule 1: stale targets make room, once, as many as it needs, and the last target stays. Room that is on its way is
        // waited for.
        let is_draining = self.shown.iter().any(|shown| shown.state == TargetState::Draining);
        if known.has_made_room || is_draining {
            return None;
        }
        let registered = self.shown.iter().filter(|shown| shown.state.is_registered()).count();
        let room = self.register.len().min(registered.saturating_sub(1)).min(BATCH);
        let going: BTreeSet<_> = self.deregister.iter().take(room).cloned().collect();
        (!going.is_empty()).then_some(Change::Deregister(going))
    }

    /// When time alone changes what is to be done.
    pub fn due(&self) -> Option<Timestamp> {
        self.held.values().filter_map(|hold| hold.until).min()
    }

    /// What is the matter: with DNS, with what AWS refuses, and with the room for targets and for tags.
    pub fn failures(&self, known: &Known) -> Vec<Failure> {
        let refusal = |operation| {
            move |(target, reason): (&Target, &String)| Failure::Refused {
                operation,
                target: *target,
                reason: reason.clone(),
            }
        };
        let refused = known.refused.iter().filter(|(target, _)| self.look.desired.contains(target));
        let stuck = known.stuck.iter().filter(|(target, _)| self.held.contains_key(target));
        let full = known.full.iter().filter(|_| !self.register.is_empty()).map(|error| {
            let count = |state| self.shown.iter().filter(move |shown| shown.state == state).count();
            Failure::Full { error: error.clone(), waiting: self.register.len(), draining: count(TargetState::Draining) }
        });
        let no_room = (self.left_out > 0).then_some(Failure::NoRoomInTags {
            left_out: self.left_out,
            foreign: self.foreign,
            most: MOST_TAGS,
        });
        let failures = self.look.failures.iter().cloned().chain(known.failures.iter().cloned());
        failures
            .chain(refused.map(refusal("RegisterTargets")))
            .chain(stuck.map(refusal("DeregisterTargets")))
            .chain(full)
            .chain(no_room)
            .collect()
    }
}

/// As many as go into a call, if there are any.
fn first<T: Clone + Ord>(items: &BTreeSet<T>) -> Option<BTreeSet<T>> {
    (!items.is_empty()).then(|| items.iter().take(BATCH).cloned().collect())
}

/// How many of the registered targets each name gave, or may have given.
fn targets_of<'a>(task: &Task<'_>, memory: &'a Memory, registered: &BTreeSet<Target>) -> BTreeMap<&'a Hostname, usize> {
    let mut counts = BTreeMap::new();
    for target in registered {
        for (hostname, _) in memory.judges(task, target) {
            *counts.entry(hostname).or_default() += 1;
        }
    }
    counts
}

/// What a stale target is judged by.
struct Judge<'a> {
    task: &'a Task<'a>,
    known: &'a Known,
    memory: &'a Memory,
    now: Now,
    look: &'a Look,
    state: Option<&'a State>,
    /// Whether another target that DNS gives is registered, or will be before anything goes.
    is_replaced: bool,
    has_healthy: bool,
    /// How many registered targets each name gave, or may have given.
    targets_of: BTreeMap<&'a Hostname, usize>,
}

impl Judge<'_> {
    /// Why a target stays that no answer holds; `None`: it goes.
    fn reason_to_keep(&self, shown: &RegisteredTarget) -> Option<Hold> {
        let target = &shown.target;
        let hold = |reason| Some(Hold { reason, missing_since: None, until: None });
        let grace = self.memory.grace(self.task, target);
        if (self.is_shared() || grace > 0) && self.state.is_none() {
            return hold(HoldReason::StateUnknown);
        }
        if self.is_shared() && !self.owned().contains(target) {
            return hold(HoldReason::Foreign);
        }
        if self.look.refused.contains_key(&target.address) {
            return hold(HoldReason::RefusedAddress);
        }
        if !self.look.is_complete {
            return hold(HoldReason::Unresolved);
        }
        let since = self.since(target);
        let verdict = self.verdict(shown);
        if verdict == Verdict::Usual && self.noted(target).is_none() {
            return hold(HoldReason::Evidence);
        }
        let hold = |reason, missing_since, until| Some(Hold { reason, missing_since: Some(missing_since), until });
        let until = since.plus_seconds(grace);
        if until > self.now.time {
            return hold(HoldReason::Grace, since, Some(until));
        }
        if verdict != Verdict::Gone {
            return hold(HoldReason::Evidence, since, None);
        }
        if !self.is_replaced {
            return hold(HoldReason::RegistrationFailed, since, None);
        }
        if self.known.stuck.contains_key(target) {
            return hold(HoldReason::DeregistrationRefused, since, None);
        }
        let missing_here = self.memory.missing_since(target).unwrap_or(self.now.time);
        let settled = missing_here.plus_seconds(FLAPPING_SECONDS);
        if shown.state == TargetState::Initial && settled > self.now.time {
            return hold(HoldReason::Initial, missing_here, Some(settled));
        }
        if self.is_shared() && self.state.is_some_and(|state| state.elsewhere.contains(target)) {
            return hold(HoldReason::OwnedElsewhere, since, None);
        }
        None
    }

    /// Rule 15: what the names say of a target that none of them gives. The one that is least sure counts.
    fn verdict(&self, shown: &RegisteredTarget) -> Verdict {
        if shown.state == TargetState::Unhealthy && self.has_healthy {
            return Verdict::Gone;
        }
        let target = &shown.target;
        let verdicts = self.sampled(target).map(|(hostname, samples)| {
            let targets = self.targets_of.get(hostname).copied().unwrap_or_default();
            match samples.verdict(target.address, targets) {
                Verdict::Gone if samples.may_hide(target.address) => {
                    let is_long_gone = self.since(target).plus_seconds(HIDDEN_SECONDS) <= self.now.time;
                    if is_long_gone { Verdict::Gone } else { Verdict::Suspicious }
                }
                verdict => verdict,
            }
        });
        verdicts.max().unwrap_or(Verdict::Gone)
    }

    /// The names that a target is judged by and whose answers are samples.
    fn sampled(&self, target: &Target) -> impl Iterator<Item = (&Hostname, &Samples)> {
        self.memory.judges(self.task, target).into_iter().filter(|(_, samples)| samples.is_sample())
    }

    /// The names to ask on for a target that is missing suspiciously long.
    fn asks_on(&self, shown: &RegisteredTarget) -> Vec<Hostname> {
        if self.verdict(shown) != Verdict::Suspicious {
            return Vec::new();
        }
        let address = shown.target.address;
        let names = self.sampled(&shown.target).filter(|(_, samples)| !samples.may_hide(address));
        names.map(|(hostname, _)| hostname.clone()).collect()
    }

    fn is_shared(&self) -> bool {
        self.task.group.ownership == Ownership::Shared
    }

    fn noted(&self, target: &Target) -> Option<Timestamp> {
        self.state.and_then(|state| state.missing.get(target)).copied()
    }

    fn since(&self, target: &Target) -> Timestamp {
        self.memory.since(self.task, target, self.noted(target), self.now.time)
    }

    fn owned(&self) -> &BTreeSet<Target> {
        const NONE: &BTreeSet<Target> = &BTreeSet::new();
        self.state.map_or(NONE, |state| &state.owned)
    }

    /// What is to be remembered when all is done that the plan says.
    fn remembered(
        &self,
        shown: &[RegisteredTarget],
        held: &BTreeMap<Target, Hold>,
        deregister: &BTreeSet<RegisteredTarget>,
    ) -> State {
        let none = State::default();
        let before = self.state.unwrap_or(&none);
        let mut state = State { elsewhere: before.elsewhere.clone(), ..State::default() };
        state.rotating.extend(self.memory.rotating_names().map(|(hostname, _)| rotating_name(hostname).to_owned()));
        state.rotating.extend(before.rotating.iter().cloned());
        let is_listed = matches!(self.known.listed, Some(Ok(_)));
        let holds = |target: &Target, reason| held.get(target).is_some_and(|hold| hold.reason == reason);
        // Of what can't be judged now, what was known counts on.
        let is_open = |target: &Target| !is_listed || holds(target, HoldReason::Unresolved);
        let before_missing = before.missing.iter().filter(|(target, _)| !self.look.desired.contains(target));
        state
            .missing
            .extend(before_missing.filter(|(target, _)| is_open(target)).map(|(target, since)| (*target, *since)));
        let missing = held.iter().filter(|(_, hold)| hold.missing_since.is_some()).map(|(target, _)| *target);
        for target in missing.chain(deregister.iter().map(|shown| shown.target)) {
            if self.memory.grace(self.task, &target) > 0 || holds(&target, HoldReason::OwnedElsewhere) {
                state.missing.insert(target, self.since(&target));
            }
        }
        if self.is_shared() {
            self.remember_owners(before, shown, held, &mut state);
        }
        state
    }

    /// Whose the targets of a `shared` group are. What DNS gives is adopted, and what is gone is forgotten.
    fn remember_owners(
        &self,
        before: &State,
        shown: &[RegisteredTarget],
        held: &BTreeMap<Target, Hold>,
        state: &mut State,
    ) {
        let is_listed = matches!(self.known.listed, Some(Ok(_)));
        let refused = |target: &&Target| !self.known.refused.contains_key(*target);
        state.owned.extend(self.look.desired.iter().filter(refused));
        for target in before.owned.difference(&self.look.desired) {
            let listed = shown.iter().find(|shown| shown.target == *target);
            let noted = before.missing.get(target).copied();
            if listed.is_none() && is_listed && self.look.is_complete {
                // Another run may be about to register it, unless it has been missing for longer than that takes.
                if noted.is_some_and(|since| since.plus_seconds(LAG_SECONDS) < self.known.began) {
                    continue;
                }
            }
            state.owned.insert(*target);
            let is_gone = listed.is_none_or(|shown| !shown.state.is_registered());
            if is_gone && (noted.is_some() || (is_listed && self.look.is_complete)) {
                let since = noted.unwrap_or(self.now.time).min(self.now.time);
                state.missing.entry(*target).or_insert(since);
            }
        }
        let released = |hold: &Hold| hold.reason == HoldReason::OwnedElsewhere;
        let released_before = before.released.difference(&self.look.desired).filter(|_| !is_listed);
        state.released.extend(released_before);
        state.released.extend(held.iter().filter(|(_, hold)| released(hold)).map(|(target, _)| *target));
    }
}

/// How long a target that was registered moments ago must have been missing in a row: in an Aurora failover, a resolver
/// gave the old and the new address in turn for 20 to 30 s
/// ([report](https://github.com/awslabs/aws-mysql-jdbc/issues/377)).
const FLAPPING_SECONDS: u32 = 30;

/// After how long a healthy target of a load balancer goes that its name never gave here.
const HIDDEN_SECONDS: u32 = 24 * 3600;

/// How long a list may lack a target that was registered: only after that is what is not listed really gone.
const LAG_SECONDS: u32 = 60;

/// Targets in a call. AWS documents no limit; aws-load-balancer-controller sends 200.
pub const BATCH: usize = 200;
