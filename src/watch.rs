//! Watching: within one invocation, DNS is asked again and again, and each change is applied when
//! it is seen.

use std::time::{Duration, Instant};

use tokio::{
    sync::mpsc::UnboundedSender,
    time::{sleep_until, timeout_at},
};

use crate::{
    binding::Group,
    limiter::Priority,
    memory::Memory,
    plan::Desired,
    reconcile::{Reconciler, log, log_past, log_unresolved},
    report::GroupReport,
    resolution::{Look, Resolution},
    run::{Mode, Now},
    sampling::Absence,
};

/// How to watch, for all target groups of an invocation.
#[derive(Clone, Debug)]
pub struct Watch {
    /// From one look at DNS to the next.
    pub interval: Duration,
    /// Whether to look sooner where the answer's time to live is over sooner.
    pub heeds_ttl: bool,
    /// Whether the watch of a group ends when its answer has changed, and for 30 s no more.
    pub ends_when_stable: bool,
    /// When the invocation began.
    pub began: Instant,
    /// When it ends at the latest.
    pub until: Instant,
    /// Takes what is to be published while the watch goes on.
    pub progress: UnboundedSender<GroupReport>,
}

/// When a group is looked at next, and whether it has settled. Pure: no clock of its own.
#[derive(Debug)]
pub struct Schedule {
    interval: Duration,
    heeds_ttl: bool,
    ends_when_stable: bool,
    looked_at: Instant,
    pause: Duration,
    /// When the time has come for what the last run left open.
    due_at: Option<Instant>,
    /// Whether the last run failed, since when nothing is known to be in step.
    has_failed: bool,
    /// Whether it left an address unregistered that DNS gives.
    is_unregistered: bool,
    retry_at: Instant,
    retry_pause: Duration,
    /// What the last run was to bring about.
    tried: Option<Desired>,
    /// The last answer of all hostnames.
    answer: Option<Desired>,
    /// When the answer last changed, if it did.
    changed_at: Option<Instant>,
}

impl Watch {
    /// Watches a target group that was just reconciled, and reports on all of it. What the group is in step with is in
    /// the memory.
    pub async fn follow(
        &self,
        reconciler: &Reconciler,
        group: &Group,
        memory: &mut Memory,
        mut report: GroupReport,
        cutoff: Instant,
    ) -> GroupReport {
        let mut schedule = Schedule::new(self, memory, &report, reconciler.now());
        let mut published_at = self.began;
        while let Some(next) = schedule.next() {
            sleep_until(next.min(self.until).into()).await;
            if next >= self.until {
                break;
            }
            let mut early = None;
            let mut is_due = schedule.retries(Instant::now());
            if let Some(Ok(facts)) = reconciler.target_groups.known_facts(&group.arn) {
                let resolution = reconciler.resolve(group, facts.family, self.until).await;
                let now = reconciler.now();
                let look = resolution.look(group, facts, &reconciler.allowed_networks);
                if look.failures.iter().any(|failure| failure.is_out_of_time()) {
                    // That we have no time left says nothing of the name.
                    break;
                }
                is_due = schedule.note(&look, &resolution, memory, now);
                if !is_due {
                    memory.take_in(&resolution, &look.desired, now.time, now.at);
                }
                // What failed at AWS stays so until it is tried again.
                if !is_due && !schedule.has_failed {
                    let earlier = report.clone();
                    report.look(look, resolution.took);
                    report.settle();
                    log_unresolved(&report, &earlier);
                    log(&report, &earlier);
                }
                early = Some(resolution);
            }
            if is_due {
                schedule.begin_run(Instant::now());
                let Some(later) = self.reconcile(reconciler, group, memory, early, &report, cutoff).await else {
                    // What was seen must wait for the next run.
                    report.is_deferred = true;
                    report.settle();
                    return report;
                };
                schedule.reconciled(&later, memory, reconciler.now());
                report = report.merged(later);
            }
            // What ends soon is published then.
            let ends_soon = self.until <= published_at + PUBLISH_INTERVAL + LAST_PUBLICATION;
            if published_at.elapsed() >= PUBLISH_INTERVAL && !ends_soon {
                published_at = Instant::now();
                // Nobody listens any more when the invocation is ending.
                drop(self.progress.send(report.take_period()));
            }
        }
        match self.reconcile(reconciler, group, memory, None, &report, cutoff).await {
            // A last look that could not end leaves what was last known.
            Some(last) if last.is_out_of_time() => report.with_changes_of(last),
            Some(last) => report.merged(last),
            None => report,
        }
    }

    /// Reconciles the group once more. `None` where there was no turn before the cut-off.
    async fn reconcile(
        &self,
        reconciler: &Reconciler,
        group: &Group,
        memory: &mut Memory,
        early: Option<Resolution>,
        earlier: &GroupReport,
        cutoff: Instant,
    ) -> Option<GroupReport> {
        let turn = timeout_at(cutoff.into(), reconciler.limiter.acquire(Priority::Continue)).await.ok()?;
        let report = reconciler.reconcile(group, memory, turn, early, Mode::Single, cutoff).await;
        if report.is_deferred {
            return None;
        }
        log_past(&earlier.failures, &report);
        log(&report, earlier);
        Some(report)
    }
}

impl Schedule {
    /// The schedule of a watch that begins after the run of which `first` is the report.
    pub fn new(watch: &Watch, memory: &Memory, first: &GroupReport, now: Now) -> Self {
        let mut schedule = Self {
            interval: watch.interval,
            heeds_ttl: watch.heeds_ttl,
            ends_when_stable: watch.ends_when_stable,
            looked_at: now.at,
            pause: watch.interval,
            due_at: None,
            has_failed: !first.failures.is_empty(),
            is_unregistered: first.is_unregistered,
            retry_at: now.at + FIRST_RETRY,
            retry_pause: FIRST_RETRY,
            tried: None,
            answer: None,
            changed_at: None,
        };
        let in_step = memory.in_step.as_ref().filter(|_| !schedule.has_failed);
        schedule.answer = in_step.map(|in_step| Desired {
            targets: in_step.targets.clone(),
            refused: Default::default(),
            is_complete: true,
        });
        schedule.due_at = schedule.due_at(memory, now);
        schedule.set_pause(in_step.and_then(|in_step| in_step.ttl));
        schedule
    }

    fn due_at(&self, memory: &Memory, now: Now) -> Option<Instant> {
        let due = memory.in_step.as_ref().filter(|_| !self.has_failed)?.due?;
        Some(now.at + due.since(now.time))
    }

    /// When to look next; `None` where the group has settled.
    pub fn next(&self) -> Option<Instant> {
        let retry = (self.has_failed && self.is_unregistered).then_some(self.retry_at);
        let next = self.due_at.into_iter().chain(retry).map(|at| at.max(self.looked_at + SHORTEST_INTERVAL));
        let next = next.fold(self.looked_at + self.pause, Instant::min);
        let is_stable = self.changed_at.is_some_and(|changed_at| next >= changed_at + STABLE);
        (!self.ends_when_stable || !is_stable).then_some(next)
    }

    /// A look begins. Returned is whether it is time to try again what failed.
    pub fn retries(&mut self, now: Instant) -> bool {
        self.looked_at = now;
        self.has_failed && now >= self.retry_at
    }

    /// Takes in a look, and tells whether the group is to be reconciled. Where it is not, the memory takes the look in.
    pub fn note(&mut self, look: &Look, resolution: &Resolution, memory: &Memory, now: Now) -> bool {
        let desired = &look.desired;
        let is_sampled = memory.is_sampled();
        self.set_pause(resolution.ttl());
        let in_step = memory.in_step.as_ref().filter(|_| !self.has_failed);
        let differs = in_step.map(|in_step| in_step.differs(desired, is_sampled));
        let is_news = match (differs, &self.answer) {
            (Some(differs), _) if is_sampled => differs,
            (_, Some(answer)) => desired.is_complete && answer.targets != desired.targets,
            _ => false,
        };
        if is_news {
            self.changed_at = Some(now.at);
        } else if in_step.is_none() || !desired.is_complete {
            // What is not in step, or not known to be, has not settled.
            self.changed_at = self.changed_at.map(|_| now.at);
        }
        if desired.is_complete {
            self.answer = Some(desired.clone());
        }
        let is_due = match in_step.filter(|_| differs == Some(false)) {
            Some(in_step) => {
                let is_gone = |address| matches!(memory.absence(address, now.time), Absence::Gone { .. });
                in_step.due.is_some_and(|due| due <= now.time)
                    || in_step.thin.iter().any(|target| is_gone(target.address))
            }
            // By a name that does not resolve nothing can be done. What failed is tried again after a pause, or for
            // another answer.
            None if desired.targets.is_empty() => false,
            None => in_step.is_some() || self.tried.as_ref() != Some(desired) || now.at >= self.retry_at,
        };
        if is_due {
            self.tried = Some(desired.clone());
        }
        is_due
    }

    /// A run begins, which looks as well.
    pub fn begin_run(&mut self, now: Instant) {
        self.looked_at = now;
    }

    /// Takes in what came of a run.
    pub fn reconciled(&mut self, report: &GroupReport, memory: &Memory, now: Now) {
        self.has_failed = !report.failures.is_empty();
        self.is_unregistered = report.is_unregistered;
        self.due_at = self.due_at(memory, now);
        let most = if report.is_unregistered { LONGEST_RETRY_OF_REGISTRATION } else { LONGEST_RETRY };
        self.retry_pause = if self.has_failed { (self.retry_pause * 2).min(most) } else { FIRST_RETRY };
        self.retry_at = now.at + self.retry_pause;
    }

    fn set_pause(&mut self, ttl: Option<Duration>) {
        self.pause = match ttl.filter(|_| self.heeds_ttl) {
            Some(ttl) => self.interval.min(ttl.max(SHORTEST_INTERVAL)),
            None => self.interval,
        };
    }
}

/// How long DNS must have stayed the same after a change: an Aurora failover flaps for seconds.
const STABLE: Duration = Duration::from_secs(30);

/// The contract: DNS is never asked more often than each second.
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// How long to wait with the next attempt where AWS could not be brought into step.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// And how long at most.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// The same while an address that DNS gives is not registered, which may be an outage. An attempt takes some of the 5 s
/// itself.
const LONGEST_RETRY_OF_REGISTRATION: Duration = Duration::from_secs(4);

/// From one publication of metrics to the next: at least once a minute.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(55);

/// How much longer metrics may be left for the end.
const LAST_PUBLICATION: Duration = Duration::from_secs(4);
