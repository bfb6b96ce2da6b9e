//! What a run knows, and what it did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{LONGEST_COLLECTION, Mode, dns_cutoff};
use crate::clock::{Now, Timestamp};
use crate::failure::{ElbError, ElbErrorKind, Failure};
use crate::tags::{State, Tags};
use crate::target::{RegisteredTarget, Target};
use crate::{answer::Answers, memory::Memory, world::Changed};

/// What a run knows, and what it did. It grows by what comes back, and is judged by [`Plan::new`](crate::plan::Plan::new)
/// alone. It outlives a run that is given up.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// How thorough the run is.
    pub mode: Mode,
    /// When the run began.
    pub began: Timestamp,
    /// The newest answer of each name; of one whose answers are samples, all addresses of this run.
    pub answers: Answers,
    /// How long DNS took to answer at first.
    pub took: Option<Duration>,
    /// How often names whose answers are samples were asked, and until when they are.
    pub(super) looks: u32,
    pub(super) collects_until: Option<Instant>,
    /// The targets as AWS last told them, and when it was asked; `None`: it was not yet.
    pub listed: Option<Result<(Instant, Vec<RegisteredTarget>), ElbError>>,
    /// All tags of the group, and what they say. `None`: they are not needed, or can't be read or written.
    pub tags: Option<Tags>,
    /// See `tags`.
    pub state: Option<State>,
    /// What AWS accepted.
    pub registered: BTreeSet<Target>,
    /// See `registered`.
    pub deregistered: BTreeSet<Target>,
    /// What AWS refused for good to register, in its words.
    pub refused: BTreeMap<Target, String>,
    /// What it refused to deregister.
    pub stuck: BTreeSet<Target>,
    /// The quota refused a registration, which was not tried again.
    pub full: Option<ElbError>,
    /// Whether stale targets went to make room.
    pub has_made_room: bool,
    /// Whether a change of targets failed, so that no other is tried.
    pub has_failed: bool,
    /// What went wrong besides.
    pub failures: Vec<Failure>,
    /// What the user should know besides.
    pub warnings: BTreeSet<String>,
}

impl Known {
    /// What a run knows that begins now, and ends at `cutoff` at the latest. `early` is what DNS said before, which the memory
    /// has taken in.
    pub fn new(mode: Mode, early: Answers, now: Now, cutoff: Instant) -> Self {
        let collects_until = Some(dns_cutoff(now.at, cutoff).min(now.at + LONGEST_COLLECTION));
        Self { mode, answers: early, looks: 1, collects_until, began: now.time, ..Self::default() }
    }

    /// Whether the targets are known.
    pub fn is_listed(&self) -> bool {
        matches!(self.listed, Some(Ok(_)))
    }

    /// Whether targets were registered or deregistered.
    pub fn has_changed(&self) -> bool {
        !self.registered.is_empty() || !self.deregistered.is_empty()
    }

    /// The targets as they are, what AWS accepted since they were listed included.
    pub fn shown(&self, memory: &Memory) -> Vec<RegisteredTarget> {
        match &self.listed {
            Some(Ok((asked_at, listed))) => memory.overlay(listed, *asked_at),
            // Without a list, what AWS accepted is all that is known.
            _ => memory.accepted(),
        }
    }

    /// Whether changes may be planned: where AWS itself can't tell the targets, what DNS gives is registered all the same.
    pub fn may_go_on(&self) -> bool {
        match &self.listed {
            Some(Ok(_)) => true,
            Some(Err(error)) => error.kind == ElbErrorKind::Unavailable,
            None => false,
        }
    }

    /// The tags can't be read or written.
    pub(super) fn lose_state(&mut self, error: ElbError) {
        self.failures.push(error.into());
        self.state = None;
    }

    /// Takes in what went wrong with a change of targets. A quota may have room later.
    pub(super) fn note_trouble(&mut self, operation: &'static str, changed: Changed) {
        let refused = changed.refused.into_iter();
        self.failures.extend(refused.map(|(target, reason)| Failure::Refused { operation, target, reason }));
        match changed.failed {
            Some(error) if error.kind == ElbErrorKind::QuotaReached => self.full = Some(error),
            Some(error) => {
                self.failures.push(error.into());
                self.has_failed = true;
            }
            None => {}
        }
    }
}
