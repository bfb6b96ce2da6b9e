//! The decision: what DNS says, what is registered, what is remembered and the time, turned into what to register, to
//! deregister and to remember. Pure.

mod hold;
mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

pub use hold::{Hold, HoldReason};
use judge::Judge;

use crate::clock::Now;
use crate::run::{Known, Task};
use crate::tags::{MOST_TAGS, State, TagChanges};
use crate::target::{RegisteredTarget, Target, TargetState};
use crate::{answer::Look, failure::Failure, hostname::Hostname, memory::Memory};

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
}

impl Plan {
    /// Compares what DNS gives with what is registered. Of what would go, the first reason to keep it counts.
    pub fn new(task: &Task<'_>, known: &Known, memory: &Memory, now: Now) -> Self {
        let look = Look::new(task, &known.answers);
        let shown = known.shown(memory);
        let registered: BTreeSet<_> =
            shown.iter().filter(|shown| shown.state.is_registered()).map(|shown| shown.target).collect();
        let is_listed = known.is_listed();
        let missing = look.desired.difference(&registered).copied();
        let may_register = |target: &Target| known.may_go_on() && !known.refused.contains_key(target);
        let register: BTreeSet<_> = missing.filter(may_register).collect();
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
        Self { register, deregister, held, state, asks_on, shown, is_shared, changes, left_out, look }
    }

    /// The change that comes first. In `shared` groups whose the targets are is written before they are registered, so that
    /// a reply that gets lost can't make a target of ours a foreign one.
    pub fn next(&self, known: &Known) -> Option<Change> {
        let remember = (!self.changes.is_empty()).then(|| Change::Remember(self.changes.clone()));
        if self.is_shared && remember.is_some() { remember } else { self.change_of_targets(known).or(remember) }
    }

    /// The next change of targets.
    pub fn change_of_targets(&self, known: &Known) -> Option<Change> {
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
    pub fn due(&self, now: Now) -> Option<Instant> {
        self.held.values().filter_map(|hold| hold.until).min().map(|due| now.at + due.since(now.time))
    }

    /// What is the matter: with DNS, with what AWS refuses, and with the room for targets and for tags.
    pub fn failures(&self, known: &Known) -> Vec<Failure> {
        let mut failures = [&self.look.failures[..], &known.failures].concat();
        if let Some(error) = known.full.clone().filter(|_| !self.register.is_empty()) {
            let draining = self.shown.iter().filter(|shown| shown.state == TargetState::Draining).count();
            failures.push(Failure::Full { error, waiting: self.register.len(), draining });
        }
        if self.left_out > 0 {
            failures.push(Failure::NoRoomInTags { left_out: self.left_out, most: MOST_TAGS });
        }
        failures
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

/// Targets in a call. AWS documents no limit; aws-load-balancer-controller sends 200.
pub const BATCH: usize = 200;
