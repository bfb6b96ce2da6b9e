//! Target groups that say by their tags what they follow: found before a run, and remembered for the next ones.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};
use std::{cell::RefCell, rc::Rc};

use tracing::{info, warn};

use crate::{
    aws::tagging::Tagging, binding::Group, failure::ElbError, hostname::AllowedHostnames, tag_bindings::Found,
    target::TargetGroupArn,
};

#[derive(Debug)]
pub(crate) struct Finder {
    tagging: Tagging,
    /// The target groups of `BINDINGS`.
    given: BTreeSet<TargetGroupArn>,
    allowed: AllowedHostnames,
    /// The one on the wall, which goes on while the process is frozen.
    clock: fn() -> SystemTime,
    known: RefCell<Known>,
}

/// What an execution environment knows of the tags.
#[derive(Clone, Debug, Default)]
struct Known {
    found: Rc<Found>,
    /// Why it is not what the tags say now: it could not be asked for the last time.
    failure: Option<ElbError>,
    asked_at: Option<SystemTime>,
}

impl Finder {
    pub(crate) fn new(tagging: Tagging, given: &[Group], allowed: AllowedHostnames, clock: fn() -> SystemTime) -> Self {
        let given = given.iter().map(|group| group.arn.clone()).collect();
        Self { tagging, given, allowed, clock, known: RefCell::default() }
    }

    /// What the tags bind, asked for if that is due; where it can't be had, what was known before, and why. The run, whose
    /// time is over at `cutoff`, waits for this.
    pub(crate) async fn search(&self, cutoff: Instant) -> (Rc<Found>, Option<ElbError>) {
        let now = (self.clock)();
        let mut known = self.known.borrow().clone();
        // It is due, too, where the clock was set back.
        if !known.asked_at.is_some_and(|at| now.duration_since(at).is_ok_and(|age| age < INTERVAL)) {
            let patience = PATIENCE.min(cutoff.saturating_duration_since(Instant::now()) / 2);
            let tagged = self.tagging.tagged(patience).await;
            known.asked_at = tagged.is_ok().then_some(now);
            known.failure = tagged.as_ref().err().map(|error| {
                let problem = format!("target groups could not be found by their tags: {}", error.problem);
                ElbError { problem, ..*error }
            });
            if let Ok(tagged) = tagged {
                let found = Found::read(&tagged, &self.given, &self.allowed);
                log(&found, &known.found);
                known.found = Rc::new(found);
            }
            self.known.replace(known.clone());
        }
        if let Some(failure) = &known.failure {
            let groups = known.found.groups.len();
            warn!(kind = "discovery", problem = %failure, known = groups, "not found");
        }
        (known.found, known.failure)
    }

    pub(crate) fn forget(&self, arn: &TargetGroupArn) {
        warn!(target_group = %arn, "there is no such target group any more, although its tags are still listed");
        Rc::make_mut(&mut self.known.borrow_mut().found).groups.remove(arn);
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
