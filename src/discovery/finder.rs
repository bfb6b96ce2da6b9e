//! Finds target groups by their tags, beside the run over those that are known: what was found is remembered for the next
//! run, and what is new joins this one.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::watch, time::timeout_at};
use tracing::{info, warn};

use crate::{
    binding::Group, failure::Undiscovered, hostname::AllowedHostnames, tag_bindings::Found, tagging::Tagging,
    target::TargetGroupArn,
};

/// Finds target groups by their tags.
#[derive(Debug)]
pub struct Finder {
    tagging: Tagging,
    /// The target groups of `BINDINGS`.
    given: BTreeSet<TargetGroupArn>,
    allowed: AllowedHostnames,
    /// The one on the wall, which goes on while the process is frozen.
    clock: fn() -> SystemTime,
    known: Mutex<Known>,
    phase: watch::Sender<Phase>,
}

/// What an execution environment knows of the tags.
#[derive(Debug, Default)]
struct Known {
    found: Arc<Found>,
    /// When it was asked for; `None` where that failed the last time, or never was.
    asked_at: Option<SystemTime>,
}

/// How far the search of this invocation has come.
#[derive(Debug, Default)]
enum Phase {
    /// There is none, or what it finds comes too late for what is known.
    #[default]
    Idle,
    /// What is known may have been taken back meanwhile. Nobody waits for the reply longer than until then.
    Searching { known: Arc<Found>, heeded_until: Instant },
    /// In time, this was found in place of what was known.
    Replaced { known: Arc<Found>, by: Arc<Found> },
}

/// The search of an invocation.
#[derive(Debug)]
pub struct Search<'a> {
    finder: &'a Finder,
    known: Arc<Found>,
    is_due: bool,
}

/// What came of a search.
#[derive(Debug, Default)]
pub struct News {
    /// The target groups that were not known, or not like this.
    pub groups: Vec<Group>,
    /// All that was found.
    pub found: Arc<Found>,
    /// Why nothing was.
    pub failure: Option<Undiscovered>,
}

impl Finder {
    /// Finds what `tagging` lists. `given` are the target groups of `BINDINGS`.
    pub fn new(tagging: Tagging, given: &[Group], allowed: AllowedHostnames, clock: fn() -> SystemTime) -> Self {
        Self {
            tagging,
            given: given.iter().map(|group| group.arn.clone()).collect(),
            allowed,
            clock,
            known: Mutex::default(),
            phase: watch::Sender::default(),
        }
    }

    /// Begins the search of an invocation, if one is due, whose time is over at `cutoff`.
    pub fn begin(&self, cutoff: Instant) -> Search<'_> {
        let (known, is_due) = {
            let known = self.known();
            // Also where the clock was set back.
            let age = known.asked_at.map(|at| (self.clock)().duration_since(at).unwrap_or(INTERVAL));
            (Arc::clone(&known.found), age.is_none_or(|age| age >= INTERVAL))
        };
        if is_due {
            let now = Instant::now();
            let patience = PATIENCE.min(cutoff.saturating_duration_since(now) / 4);
            self.phase.send_replace(Phase::Searching { known: Arc::clone(&known), heeded_until: now + patience });
        }
        Search { finder: self, known, is_due }
    }

    /// Whether `group`, if it was found by its tags, still is bound like that. Where a search is under way, it has a moment
    /// to say so.
    pub async fn confirms(&self, group: &Group) -> bool {
        let mut phase = self.phase.subscribe();
        let heeded_until = match &*phase.borrow_and_update() {
            Phase::Searching { known, heeded_until } if known.groups.contains_key(&group.arn) => Some(*heeded_until),
            _ => None,
        };
        if let Some(until) = heeded_until {
            // That it takes longer than that is the search's business.
            drop(timeout_at(until.into(), phase.changed()).await);
        }
        match &*self.phase.borrow() {
            Phase::Replaced { known, by } => {
                known.groups.get(&group.arn) != Some(group) || by.groups.get(&group.arn) == Some(group)
            }
            _ => true,
        }
    }

    /// Forgets a target group that there is no more.
    pub fn forget(&self, arn: &TargetGroupArn) {
        warn!(target_group = %arn, "there is no such target group any more, although its tags are still listed");
        Arc::make_mut(&mut self.known().found).groups.remove(arn);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Search<'_> {
    /// The target groups that were found before.
    pub fn known(&self) -> impl Iterator<Item = &Group> {
        self.known.groups.values()
    }

    /// Searches until `cutoff` at the latest.
    pub async fn news(&self, cutoff: Instant) -> News {
        if !self.is_due {
            return News { found: Arc::clone(&self.known), ..News::default() };
        }
        let asked_at = (self.finder.clock)();
        match self.finder.tagging.tagged(cutoff).await {
            Ok(tagged) => {
                let found = Arc::new(Found::read(&tagged, &self.finder.given, &self.finder.allowed));
                *self.finder.known() = Known { found: Arc::clone(&found), asked_at: Some(asked_at) };
                let is_heeded = self.publish(&found);
                self.log(&found);
                self.joining(found, is_heeded)
            }
            Err(error) => {
                self.finder.phase.send_replace(Phase::Idle);
                self.finder.known().asked_at = None;
                let failure = Undiscovered(error);
                warn!(kind = Undiscovered::KIND, problem = %failure, known = self.known.groups.len(), "not found");
                News { found: Arc::clone(&self.known), failure: Some(failure), ..News::default() }
            }
        }
    }

    /// Tells those who wait for it, and whether any of them may have waited long enough and gone on.
    fn publish(&self, found: &Arc<Found>) -> bool {
        let mut is_heeded = false;
        self.finder.phase.send_modify(|phase| {
            is_heeded = matches!(phase, Phase::Searching { heeded_until, .. } if Instant::now() < *heeded_until);
            *phase = match is_heeded {
                true => Phase::Replaced { known: Arc::clone(&self.known), by: Arc::clone(found) },
                false => Phase::Idle,
            };
        });
        is_heeded
    }

    /// What joins the run. Where what is known has gone on, what was changed of it waits for the next one.
    fn joining(&self, found: Arc<Found>, is_heeded: bool) -> News {
        let is_running = |arn: &TargetGroupArn| !is_heeded && self.known.groups.contains_key(arn);
        let joins = |group: &&Group| self.known.groups.get(&group.arn) != Some(*group) && !is_running(&group.arn);
        let groups = found.groups.values().filter(joins).cloned().collect();
        let mut found = found;
        if found.invalid.keys().any(is_running) {
            Arc::make_mut(&mut found).invalid.retain(|arn, _| !is_running(arn));
        }
        News { groups, found, failure: None }
    }

    fn log(&self, found: &Found) {
        for arn in &found.given {
            warn!(target_group = %arn, "bound by its tags and by BINDINGS: BINDINGS counts");
        }
        for arn in self.known.groups.keys().filter(|arn| !found.groups.contains_key(*arn)) {
            info!(target_group = %arn, "no longer bound by its tags: it is left as it is");
        }
        let new = found.groups.iter().filter(|(arn, group)| self.known.groups.get(*arn) != Some(*group)).count();
        if new > 0 {
            info!(new, bound = found.groups.len(), "target groups found by their tags");
        }
    }
}

impl Drop for Search<'_> {
    /// What was found in this invocation says nothing to the next one, whose event may have bindings.
    fn drop(&mut self) {
        self.finder.phase.send_replace(Phase::Idle);
    }
}

/// How long what was found counts, at least.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long target groups that are known wait for word that they are still bound like that. A reply takes a tenth of it.
const PATIENCE: Duration = Duration::from_secs(1);
