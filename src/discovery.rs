//! Target groups that say by their tags what they follow: found before a run, and remembered for the next ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use crate::{
    aws::tagging::Tagging, binding::Group, failure::ElbError, hostname::AllowedHostnames, tag_bindings::Found,
    target::TargetGroupArn,
};

/// Finds target groups by their tags.
#[derive(Debug)]
pub(crate) struct Finder {
    tagging: Tagging,
    /// The target groups of `BINDINGS`.
    given: BTreeSet<TargetGroupArn>,
    allowed: AllowedHostnames,
    /// The one on the wall, which goes on while the process is frozen.
    clock: fn() -> SystemTime,
    known: Mutex<Known>,
}

/// What an execution environment knows of the tags.
#[derive(Clone, Debug, Default)]
struct Known {
    found: Arc<Found>,
    /// When it was asked for; `None` where that failed the last time, or never was.
    asked_at: Option<SystemTime>,
}

impl Finder {
    /// Finds what `tagging` lists. `given` are the target groups of `BINDINGS`.
    pub(crate) fn new(tagging: Tagging, given: &[Group], allowed: AllowedHostnames, clock: fn() -> SystemTime) -> Self {
        let given = given.iter().map(|group| group.arn.clone()).collect();
        Self { tagging, given, allowed, clock, known: Mutex::default() }
    }

    /// What the tags bind, asked for if that is due; where it can't be had, what was known before, and why. The run, whose
    /// time is over at `cutoff`, waits for this.
    pub(crate) async fn search(&self, cutoff: Instant) -> (Arc<Found>, Option<ElbError>) {
        let asked_at = (self.clock)();
        let Known { found: known, asked_at: before } = self.known().clone();
        // It is due, too, where the clock was set back.
        if before.is_some_and(|at| asked_at.duration_since(at).is_ok_and(|age| age < INTERVAL)) {
            return (known, None);
        }
        let patience = PATIENCE.min(cutoff.saturating_duration_since(Instant::now()) / 2);
        match self.tagging.tagged(patience).await {
            Ok(tagged) => {
                let found = Arc::new(Found::read(&tagged, &self.given, &self.allowed));
                log(&found, &known);
                *self.known() = Known { found: Arc::clone(&found), asked_at: Some(asked_at) };
                (found, None)
            }
            Err(error) => {
                self.known().asked_at = None;
                let problem = format!("target groups could not be found by their tags: {}", error.problem);
                let error = ElbError { problem, ..error };
                warn!(kind = "discovery", problem = %error, known = known.groups.len(), "not found");
                (known, Some(error))
            }
        }
    }

    /// Forgets a target group that there is no more.
    pub(crate) fn forget(&self, arn: &TargetGroupArn) {
        warn!(target_group = %arn, "there is no such target group any more, although its tags are still listed");
        Arc::make_mut(&mut self.known().found).groups.remove(arn);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn log(found: &Found, known: &Found) {
    for arn in &found.given {
        warn!(target_group = %arn, "bound by its tags and by BINDINGS: BINDINGS counts");
    }
    for arn in known.groups.keys().filter(|arn| !found.groups.contains_key(*arn)) {
        info!(target_group = %arn, "no longer bound by its tags: it is left as it is");
    }
    let new = found.groups.iter().filter(|(arn, group)| known.groups.get(*arn) != Some(*group)).count();
    if new > 0 {
        info!(new, bound = found.groups.len(), "target groups found by their tags");
    }
}

/// How long what was found counts, at least.
const INTERVAL: Duration = Duration::from_secs(60);

/// How long a run waits for a search. Without one it still follows DNS for all that is known.
const PATIENCE: Duration = Duration::from_secs(3);
