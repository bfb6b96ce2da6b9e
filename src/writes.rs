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
    /// The state before a deregistration; `None`: it was a registration.
    deregistered_as: Option<TargetState>,
}

impl Writes {
    /// AWS accepted the registration of `target`.
    pub fn registered(&mut self, target: Target, at: Instant) {
        self.0.insert(target, Write { at, deregistered_as: None });
    }

    /// AWS accepted the deregistration of a target that was shown like this.
    pub fn deregistered(&mut self, shown: &RegisteredTarget, at: Instant) {
        self.0.insert(shown.target, Write { at, deregistered_as: Some(shown.state) });
    }

    /// Whether AWS accepted the registration of `target`, and no list has shown it since.
    pub fn has_registered(&self, target: &Target) -> bool {
        self.0.get(target).is_some_and(|write| write.deregistered_as.is_none())
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
        let unseen =
            self.0.iter().filter(|(target, write)| write.deregistered_as.is_none() && !shown_targets.contains(target));
        targets.extend(unseen.map(|(target, _)| RegisteredTarget::new(*target)));
        targets
    }

    /// Forgets all: another invocation begins.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

impl Write {
    /// The state that holds in place of the one that is shown; `None` where what is shown is as new as the write.
    fn contradicts(self, shown: TargetState, asked_at: Instant) -> Option<TargetState> {
        let is_later = asked_at >= self.at;
        match self.deregistered_as {
            // Somebody has deregistered it since, or the list is older.
            None => (shown == TargetState::Draining && !is_later).then_some(TargetState::Initial),
            Some(before) => {
                let is_registered_again = is_later && shown == TargetState::Initial && before != TargetState::Initial;
                (shown != TargetState::Draining && !is_registered_again).then_some(TargetState::Draining)
            }
        }
    }
}

/// How long a list may lack a change. Nobody has reported a lag of more than some seconds; after that time, the list is
/// believed.
const LONGEST_LAG: Duration = Duration::from_secs(60);
