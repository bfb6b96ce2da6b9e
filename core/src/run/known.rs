//! What a run knows, and what it did.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{LONGEST_COLLECTION, Mode, dns_cutoff};
use crate::clock::{Now, Timestamp};
use crate::failure::{ElbError, ElbErrorKind, Failure};
use crate::tags::{State, Tags};
use crate::target::{RegisteredTarget, Target};
use crate::{answer::Answers, memory::Memory};

/// What a run knows, and what it did. It grows by what comes back, and is judged by [`Plan::new`] alone. It outlives a run
/// that is given up.
#[derive(Clone, Debug)]
pub struct Known {
    /// The newest answer of each name; of one whose answers are samples, all addresses of this run.
    pub answers: Answers,
    /// How long DNS took to answer at first.
    pub took: Option<Duration>,
    /// The targets as AWS last told them; `None`: it was not asked yet.
    pub listed: Option<Result<Vec<RegisteredTarget>, ElbError>>,
    /// All tags of the group, and what they say. `None`: they are not needed, or can't be read or written.
    pub tags: Option<Tags>,
    /// See `tags`.
    pub state: Option<State>,
    /// What AWS refused for good to register, in its words.
    pub refused: BTreeMap<Target, String>,
    /// The same to deregister.
    pub stuck: BTreeMap<Target, String>,
    /// What went wrong besides.
    pub failures: Vec<Failure>,
    /// Whether a change of targets failed, so that no other is tried.
    pub has_failed: bool,
    /// The quota refused a registration, which was not tried again.
    pub full: Option<ElbError>,
    /// Whether stale targets went to make room.
    pub has_made_room: bool,
    /// What the user should know besides.
    pub warnings: BTreeSet<String>,
    /// What AWS accepted.
    pub registered: BTreeSet<Target>,
    /// See `registered`.
    pub deregistered: BTreeSet<Target>,
    /// When the run began.
    pub began: Timestamp,
    pub(super) mode: Mode,
    /// When no more answers are collected.
    pub(super) collects_until: Instant,
    pub(super) looks: u32,
    pub(super) listed_at: Instant,
}

impl Known {
    /// What a run knows that begins now, and ends at `cutoff` at the latest. `early` is what DNS said before, which the memory
    /// has taken in.
    pub fn new(mode: Mode, early: Answers, now: Now, cutoff: Instant) -> Self {
        Self {
            answers: early,
            took: None,
            listed: None,
            tags: None,
            state: None,
            refused: BTreeMap::new(),
            stuck: BTreeMap::new(),
            failures: Vec::new(),
            has_failed: false,
            full: None,
            has_made_room: false,
            warnings: BTreeSet::new(),
            registered: BTreeSet::new(),
            deregistered: BTreeSet::new(),
            began: now.time,
            mode,
            collects_until: dns_cutoff(now.at, cutoff).min(now.at + LONGEST_COLLECTION),
            looks: 1,
            listed_at: now.at,
        }
    }

    /// How thorough the run is.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether targets were registered or deregistered.
    pub fn has_changed(&self) -> bool {
        !self.registered.is_empty() || !self.deregistered.is_empty()
    }

    /// The targets as they are, what AWS accepted since they were listed included.
    pub fn shown(&self, memory: &Memory) -> Vec<RegisteredTarget> {
        match &self.listed {
            Some(Ok(listed)) => memory.overlay(listed, self.listed_at),
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

    /// Takes in why a change of targets failed. A quota may have room later.
    pub(super) fn take(&mut self, failed: Option<ElbError>) {
        match failed {
            Some(error) if error.kind == ElbErrorKind::QuotaReached => self.full = Some(error),
            Some(error) => {
                self.failures.push(error.into());
                self.has_failed = true;
            }
            None => {}
        }
    }
}
