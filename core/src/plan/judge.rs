//! Each stale target, judged: why it stays, or that it goes; and what is to be remembered of it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Hold,
    HoldReason::{self, OwnedElsewhere},
};
use crate::clock::{Now, Timestamp};
use crate::run::{Known, Task};
use crate::samples::{Samples, Verdict};
use crate::tags::{State, rotating_name};
use crate::target::{RegisteredTarget, Target, TargetState};
use crate::{answer::Look, binding::Ownership, hostname::Hostname, memory::Memory};

/// What a stale target is judged by.
pub(super) struct Judge<'a> {
    pub(super) task: &'a Task<'a>,
    pub(super) known: &'a Known,
    pub(super) memory: &'a Memory,
    pub(super) now: Now,
    pub(super) look: &'a Look,
    pub(super) state: Option<&'a State>,
    /// Whether another target that DNS gives is registered, or will be before anything goes.
    pub(super) is_replaced: bool,
    pub(super) has_healthy: bool,
    /// How many registered targets each name gave, or may have given.
    pub(super) targets_of: BTreeMap<&'a Hostname, usize>,
}

impl Judge<'_> {
    /// Why a target stays that no answer holds; `None`: it goes.
    pub(super) fn reason_to_keep(&self, shown: &RegisteredTarget) -> Option<Hold> {
        let target = &shown.target;
        let hold = |reason| Some(Hold { reason, missing_since: None, until: None });
        let grace = self.memory.grace(self.task, target);
        if (self.is_shared() || grace > 0) && self.state.is_none() {
            return hold(HoldReason::StateUnknown);
        }
        if self.is_shared() && !self.state.is_some_and(|state| state.owned.contains(target)) {
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
        if self.known.stuck.contains(target) {
            return hold(HoldReason::DeregistrationRefused, since, None);
        }
        let missing_here = self.memory.missing.get(target).copied().unwrap_or(self.now.time);
        let settled = missing_here.plus_seconds(FLAPPING_SECONDS);
        if shown.state == TargetState::Initial && settled > self.now.time {
            return hold(HoldReason::Initial, missing_here, Some(settled));
        }
        if self.is_shared() && self.state.is_some_and(|state| state.elsewhere.contains(target)) {
            return hold(OwnedElsewhere, since, None);
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
    pub(super) fn asks_on(&self, shown: &RegisteredTarget) -> Vec<Hostname> {
        if self.verdict(shown) != Verdict::Suspicious {
            return Vec::new();
        }
        let address = shown.target.address;
        let names = self.sampled(&shown.target).filter(|(_, samples)| !samples.may_hide(address));
        names.map(|(hostname, _)| hostname.clone()).collect()
    }

    pub(super) fn is_shared(&self) -> bool {
        self.task.group.ownership == Ownership::Shared
    }

    fn noted(&self, target: &Target) -> Option<Timestamp> {
        self.state.and_then(|state| state.missing.get(target)).copied()
    }

    fn since(&self, target: &Target) -> Timestamp {
        self.memory.since(self.task, target, self.noted(target), self.now.time)
    }

    /// What is to be remembered when all is done that the plan says.
    pub(super) fn remembered(
        &self,
        shown: &[RegisteredTarget],
        held: &BTreeMap<Target, Hold>,
        deregister: &BTreeSet<RegisteredTarget>,
    ) -> State {
        let before = self.state.cloned().unwrap_or_default();
        let (rotating, elsewhere) = (before.rotating.clone(), before.elsewhere.clone());
        let mut state = State { rotating, elsewhere, ..State::default() };
        state.rotating.extend(self.memory.rotating_names().map(|(hostname, _)| rotating_name(hostname).to_owned()));
        let is_certain = self.look.is_complete && self.known.is_listed();
        if !is_certain {
            // Of what can't be judged now, what was known counts on.
            state.missing.clone_from(&before.missing);
            state.missing.retain(|target, _| !self.look.desired.contains(target));
        }
        let is_released = |target: &Target| held.get(target).is_some_and(|hold| hold.reason == OwnedElsewhere);
        let missing = held.iter().filter(|(_, hold)| hold.missing_since.is_some()).map(|(target, _)| *target);
        for target in missing.chain(deregister.iter().map(|shown| shown.target)) {
            if self.memory.grace(self.task, &target) > 0 || is_released(&target) {
                state.missing.insert(target, self.since(&target));
            }
        }
        if self.is_shared() {
            state.released = before.released.difference(&self.look.desired).copied().collect();
            state.released.extend(held.keys().filter(|target| is_released(target)));
            self.remember_owners(&before, shown, is_certain, &mut state);
        }
        state
    }

    /// Whose the targets of a `shared` group are. What DNS gives is adopted, and what is gone is forgotten.
    fn remember_owners(&self, before: &State, shown: &[RegisteredTarget], is_certain: bool, state: &mut State) {
        // What AWS refuses to register once more may be registered.
        let is_ours = |target: &&Target| !self.known.refused.contains_key(*target) || before.owned.contains(*target);
        state.owned.extend(self.look.desired.iter().filter(is_ours));
        for target in before.owned.difference(&self.look.desired) {
            let listed = shown.iter().find(|shown| shown.target == *target);
            let noted = before.missing.get(target).map(|noted| self.now.time.min(*noted));
            // Another run may be about to register it, unless it has been missing for longer than that takes.
            let began = self.known.began.min(self.now.time);
            let is_long_gone = noted.is_some_and(|since| since.plus_seconds(LAG_SECONDS) < began);
            if is_certain && listed.is_none() && is_long_gone {
                continue;
            }
            state.owned.insert(*target);
            let is_gone = listed.is_none_or(|shown| !shown.state.is_registered());
            if is_gone && (is_certain || noted.is_some()) {
                state.missing.entry(*target).or_insert_with(|| noted.unwrap_or(self.now.time));
            }
        }
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
