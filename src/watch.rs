//! Watching: within one invocation, DNS is asked again and again, and each change is applied when
//! it is seen.

use std::{
    mem,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::warn;

use crate::{
    binding::Group,
    limiter::Priority,
    reconcile::{InStep, Mode, Reconciler, Resolution},
    report::GroupReport,
    state::Timestamp,
};

/// How to watch, for all target groups of an invocation.
#[derive(Debug)]
pub struct Watcher {
    /// From one look at DNS to the next.
    pub interval: Duration,
    /// Whether to look sooner where the answer's time to live is over sooner.
    pub heeds_ttl: bool,
    /// Whether the watch ends when something has changed, and for [`STABLE`] nothing more.
    pub ends_when_stable: bool,
    /// When the invocation began.
    pub began: Instant,
    /// When it ends at the latest.
    pub until: Instant,
    /// When an answer last changed.
    changed_at: Mutex<Option<Instant>>,
    /// Takes what is to be published while the watch goes on.
    progress: UnboundedSender<GroupReport>,
}

impl Watcher {
    /// A watch after an event that lets a change be expected: a look each second, until there was
    /// one and DNS has settled.
    pub fn for_change(began: Instant, until: Instant, progress: UnboundedSender<GroupReport>) -> Self {
        let interval = SHORTEST_INTERVAL;
        Self {
            interval,
            heeds_ttl: false,
            ends_when_stable: true,
            began,
            until,
            changed_at: Mutex::default(),
            progress,
        }
    }

    /// A watch that fills the time until the next invocation.
    pub fn polling(interval: Duration, began: Instant, until: Instant, progress: UnboundedSender<GroupReport>) -> Self {
        Self {
            interval,
            heeds_ttl: true,
            ends_when_stable: false,
            began,
            until,
            changed_at: Mutex::default(),
            progress,
        }
    }

    /// Watches a target group that was just reconciled, and returns what it was last in step with.
    pub async fn follow(
        &self,
        reconciler: &Reconciler,
        group: &Group,
        mut in_step: Option<InStep>,
        report: &mut GroupReport,
        cutoff: Instant,
    ) -> Option<InStep> {
        let mut looked_at = Instant::now();
        if looked_at >= self.until {
            return in_step;
        }
        let mut last_in_step = in_step.clone();
        let stable_at = looked_at + STABLE;
        let mut published_at = self.began;
        let mut pause = self.pause(in_step.as_ref().and_then(|in_step| in_step.ttl));
        let mut answer = in_step.as_ref().map(|in_step| in_step.targets.clone());
        let mut tried = None;
        let mut retry_at = looked_at + FIRST_RETRY;
        let mut retry_pause = FIRST_RETRY;
        loop {
            let next = looked_at + pause;
            // Others may have changed and settled while this group was still in its first run.
            if next >= stable_at && self.is_stable(next) {
                break;
            }
            sleep_until(next.min(self.until)).await;
            if next >= self.until {
                break;
            }
            looked_at = Instant::now();
            let facts = reconciler.target_groups.known_facts(&group.arn).and_then(Result::ok);
            let mut due = in_step.is_none() && looked_at >= retry_at;
            let mut early = None;
            if let Some(facts) = facts {
                let resolution = reconciler.resolve(group, facts.family, self.until).await;
                let look = reconciler.look(group, facts, &resolution);
                let desired = &look.desired;
                pause = self.pause(resolution.ttl());
                if let Some(known) = in_step.as_ref().filter(|known| !known.differs(desired, &resolution)) {
                    let problems = mem::take(&mut report.problems);
                    look.note(report);
                    report.settle();
                    // What ends before the watch does is in no reply.
                    if report.problems != problems {
                        for problem in &report.problems {
                            warn!(target_group = %group.arn, problem, "not resolved");
                        }
                    }
                    let now = Timestamp::from((reconciler.now)());
                    due |= !resolution.is_sampled() && known.due.is_some_and(|due| due <= now);
                } else {
                    // What was tried in vain is tried again after a while, and by a name that does
                    // not resolve nothing can be done.
                    let is_new = in_step.is_some() || tried.as_ref() != Some(desired);
                    due = (due || is_new) && !desired.targets.is_empty();
                }
                let is_news = match &in_step {
                    Some(known) if resolution.is_sampled() => known.differs(desired, &resolution),
                    _ => desired.complete && answer.as_ref().is_some_and(|answer| *answer != desired.targets),
                };
                if is_news {
                    self.note_change();
                } else if in_step.is_none() || !desired.complete {
                    self.postpone_end();
                }
                if desired.complete {
                    answer = Some(desired.targets.clone());
                }
                if due {
                    tried = Some(look.desired);
                }
                early = Some(resolution);
            }
            if due {
                let Some(result) = self.reconcile(reconciler, group, early, report, cutoff).await else {
                    return last_in_step;
                };
                in_step = result;
                last_in_step = in_step.clone().or(last_in_step);
                retry_pause = if in_step.is_some() { FIRST_RETRY } else { (retry_pause * 2).min(LONGEST_RETRY) };
                retry_at = Instant::now() + retry_pause;
                // It has had the time of the last look.
                if Instant::now() >= self.until {
                    return last_in_step;
                }
            }
            // What ends soon is published then.
            let ends_soon = self.until <= published_at + PUBLISH_INTERVAL + LAST_PUBLICATION;
            if published_at.elapsed() >= PUBLISH_INTERVAL && !ends_soon {
                published_at = Instant::now();
                // Nobody listens any more when the invocation is ending.
                drop(self.progress.send(report.take_period()));
            }
        }
        let before = report.clone();
        let verified = self.reconcile(reconciler, group, None, report, cutoff).await.flatten();
        let is_untouched =
            (report.registrations, report.deregistrations) == (before.registrations, before.deregistrations);
        if verified.is_none() && in_step.is_some() && is_untouched && Instant::now() >= cutoff {
            // There was no time to verify what was in step, which is no failure.
            *report = before;
        }
        verified.or(last_in_step)
    }

    /// `None` where there was no turn before the cut-off: the report stays as it is.
    async fn reconcile(
        &self,
        reconciler: &Reconciler,
        group: &Group,
        early: Option<Resolution>,
        report: &mut GroupReport,
        cutoff: Instant,
    ) -> Option<Option<InStep>> {
        timeout_at(cutoff, reconciler.limiter.acquire(Priority::Continue)).await.ok()?;
        let earlier = report.problems.clone();
        let in_step = reconciler.reconcile(group, early, Mode::Quick, cutoff, report).await;
        // What is over before the watch is, is in no reply.
        for problem in earlier.iter().filter(|problem| !report.problems.contains(problem)) {
            warn!(target_group = %group.arn, problem, "failed before");
        }
        Some(in_step)
    }

    fn pause(&self, ttl: Option<Duration>) -> Duration {
        match ttl.filter(|_| self.heeds_ttl) {
            Some(ttl) => self.interval.min(ttl.max(SHORTEST_INTERVAL)),
            None => self.interval,
        }
    }

    fn note_change(&self) {
        *self.changed_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// What is not in step, or not known to be, has not settled.
    fn postpone_end(&self) {
        let mut changed_at = self.changed_at.lock().unwrap_or_else(PoisonError::into_inner);
        *changed_at = changed_at.map(|_| Instant::now());
    }

    fn is_stable(&self, at: Instant) -> bool {
        let changed_at = *self.changed_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.ends_when_stable && changed_at.is_some_and(|changed_at| at >= changed_at + STABLE)
    }
}

/// How long DNS must have stayed the same after a change: an Aurora failover flaps for seconds.
const STABLE: Duration = Duration::from_secs(30);

/// The contract: DNS is never asked more often than each second.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait with the next attempt where AWS could not be brought into step.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// And how long at most.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// From one publication of metrics to the next: at least once a minute.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(55);

/// How much longer metrics may be left for the end.
const LAST_PUBLICATION: Duration = Duration::from_secs(4);
