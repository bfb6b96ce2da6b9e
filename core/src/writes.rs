//! The changes of our own that a list of targets may not show yet. Pure: no I/O.
//!
//! Reads of ELBv2 may lag writes by seconds. What AWS accepted counts as done, so that nothing is done again for want of
//! being seen.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::target::{RegisteredTarget, Target, TargetState};

/// What AWS accepted within an invocation, as far as no list has shown it since.
#[derive(Clone, Debug, Default)]
pub struct Writes(BTreeMap<Target, Write>);

#[derive(Clone, Copy, Debug)]
struct Write {
    at: Instant,
    change: Change,
}

#[derive(Clone, Copy, Debug)]
enum Change {
    /// Of a target in this state.
    Deregistration(TargetState),
    /// Of a target that was draining or not.
    Registration { was_draining: bool },
}

impl Writes {
    /// AWS accepted the registration of `target`, which was draining or not.
    pub fn registered(&mut self, target: Target, was_draining: bool, at: Instant) {
        self.0.insert(target, Write { at, change: Change::Registration { was_draining } });
    }

    /// AWS accepted the deregistration of a target that was shown like this.
    pub fn deregistered(&mut self, shown: &RegisteredTarget, at: Instant) {
        self.0.insert(shown.target, Write { at, change: Change::Deregistration(shown.state) });
    }

    /// Whether AWS accepted the registration of `target`, and no list has shown it since.
    pub fn has_registered(&self, target: &Target) -> bool {
        self.0.get(target).is_some_and(Write::is_registration)
    }

    /// The targets as they are by a list that was asked for at `asked_at`, and by what was written since.
    pub fn overlay(&mut self, listed: Vec<RegisteredTarget>, asked_at: Instant) -> Vec<RegisteredTarget> {
        self.0.retain(|_, write| asked_at.saturating_duration_since(write.at) <= LONGEST_LAG);
        let mut targets = Vec::with_capacity(listed.len());
        let mut shown_targets = Vec::new();
        for mut shown in listed {
            shown_targets.push(shown.target);
            if let Some(write) = self.0.get(&shown.target) {
                match write.contradicts(shown.state, asked_at) {
                    Some(state) => shown.state = state,
                    None => drop(self.0.remove(&shown.target)),
                }
            }
            targets.push(shown);
        }
        let unseen = self.0.iter().filter(|(target, write)| write.is_registration() && !shown_targets.contains(target));
        targets.extend(unseen.map(|(target, _)| RegisteredTarget::new(*target)));
        targets
    }

    /// Forgets all: another invocation begins.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Write {
    fn is_registration(&self) -> bool {
        matches!(self.change, Change::Registration { .. })
    }

    /// The state that holds in place of the one that is shown; `None` where what is shown is as new as the write.
    fn contradicts(self, shown: TargetState, asked_at: Instant) -> Option<TargetState> {
        let age = asked_at.checked_duration_since(self.at);
        match self.change {
            // A draining target that was not so before was deregistered by somebody else.
            Change::Registration { was_draining } => {
                let is_older = age.is_none_or(|age| was_draining && age <= USUAL_LAG);
                (shown == TargetState::Draining && is_older).then_some(TargetState::Initial)
            }
            Change::Deregistration(before) => {
                let is_registered_again =
                    age.is_some() && shown == TargetState::Initial && before != TargetState::Initial;
                (shown != TargetState::Draining && !is_registered_again).then_some(TargetState::Draining)
            }
        }
    }
}

/// How long a list may show a target as draining that was so before it was registered.
const USUAL_LAG: Duration = Duration::from_secs(10);

/// How long a list may lack a change. Nobody has reported a lag of more than some seconds; after that time, the list is
/// believed.
const LONGEST_LAG: Duration = Duration::from_secs(60);
