//! A run, and then a watch: within one invocation, DNS is asked again and again, and each change is applied when it is seen.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::answer::{Answers, Look};
use crate::run::{Known, Mode, Task, reconcile};
use crate::{
    clock::Now, failure::ResolveError, memory::Memory, plan::Plan, report::GroupReport, samples::Samples,
    target::Target, world::World,
};

/// How to go on after a run.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    /// From one look at DNS to the next.
    pub interval: Duration,
    /// Whether to look sooner where the answer's time to live is over sooner.
    pub heeds_ttl: bool,
    /// Whether the watch of a group ends when its answer has changed, and for 30 s no more.
    pub ends_when_stable: bool,
    /// When it ends at the latest.
    pub until: Instant,
}

/// What came of a target group in an invocation so far. It outlives a run that is given up.
#[derive(Debug)]
pub struct Course {
    report: Option<GroupReport>,
    known: Known,
    /// When the last run has to end.
    cutoff: Instant,
    is_running: bool,
    is_last: bool,
}

impl Course {
    /// A course that begins with a run which knows this, and ends at `cutoff` at the latest.
    pub fn new(known: Known, cutoff: Instant) -> Self {
        Self { report: None, known, cutoff, is_running: false, is_last: false }
    }

    /// Runs, and then watches if it is to.
    pub async fn follow(&mut self, world: &impl World, task: &Task<'_>, watch: Option<&Watch>, memory: &mut Memory) {
        self.run(world, task, memory).await;
        let Some(watch) = watch.filter(|watch| world.now().at < watch.until) else { return };
        let mut schedule = Schedule::new(watch, task, &self.known, memory, world.now());
        while let Some(next) = schedule.next() {
            world.sleep(next.min(watch.until).saturating_duration_since(world.now().at)).await;
            if next >= watch.until {
                break;
            }
            let answers = world.resolve(&task.hostnames()).await;
            if answers.values().any(|answer| answer.as_ref().is_err_and(ResolveError::is_out_of_time)) {
                // That we have no time left says nothing of the name.
                break;
            }
            let now = world.now();
            memory.answered(task, &answers, &answers, now);
            self.known.answers.clone_from(&answers);
            if schedule.is_due(task, &self.known, memory, now) {
                self.known = Known::new(Mode::Single, answers, now, self.cutoff);
                self.run(world, task, memory).await;
                schedule.ran(task, &self.known, memory, world.now());
            } else {
                self.tell(world, task, memory);
            }
        }
        self.is_last = true;
        self.known = Known::new(Mode::Single, Answers::new(), world.now(), self.cutoff);
        self.run(world, task, memory).await;
    }

    async fn run(&mut self, world: &impl World, task: &Task<'_>, memory: &mut Memory) {
        self.is_running = true;
        reconcile(world, task, &mut self.known, memory).await;
        self.is_running = false;
        self.tell(world, task, memory);
    }

    fn tell(&mut self, world: &impl World, task: &Task<'_>, memory: &Memory) {
        let report = GroupReport::of(task, &self.known, memory, world.now());
        world.observe(&report);
        self.report = Some(self.joined(report));
    }

    /// What all runs of the course did and the last one found. A last look that could not end leaves what was last known.
    fn joined(&mut self, later: GroupReport) -> GroupReport {
        match self.report.take() {
            None => later,
            Some(earlier) if self.is_last && later.is_out_of_time() => later.merged(earlier),
            Some(earlier) => earlier.merged(later),
        }
    }

    /// The report on all of it. Where it is given up, `waiting` says what for, and `is_put_off` that this was nothing but its
    /// turn.
    pub fn finish(
        mut self,
        task: &Task<'_>,
        memory: &Memory,
        now: Now,
        waiting: &str,
        is_put_off: bool,
    ) -> GroupReport {
        match self.report.take_if(|_| !self.is_running) {
            Some(report) => report,
            None => self.joined(GroupReport::of(task, &self.known, memory, now).cut_off(waiting, is_put_off)),
        }
    }
}

/// When a group is looked at next, and whether it has settled.
struct Schedule<'a> {
    watch: &'a Watch,
    looked_at: Instant,
    pause: Duration,
    /// When time alone asks for a change, when one of our own is verified, and when what failed is tried again.
    due_at: Option<Instant>,
    verify_at: Option<Instant>,
    retry_at: Option<Instant>,
    /// What the last run was to bring about.
    tried: BTreeSet<Target>,
    /// What the names last gave that answer in full, and when it changed.
    answer: BTreeSet<Target>,
    changed_at: Option<Instant>,
}

impl<'a> Schedule<'a> {
    fn new(watch: &'a Watch, task: &Task<'_>, known: &Known, memory: &Memory, now: Now) -> Self {
        let mut schedule = Self {
            watch,
            looked_at: now.at,
            pause: watch.interval,
            due_at: None,
            verify_at: None,
            retry_at: None,
            tried: BTreeSet::new(),
            answer: answer_in_full(task, &known.answers, memory),
            // What the run before the watch changed counts as a change.
            changed_at: (known.has_changed() && known.is_listed()).then_some(now.at),
        };
        schedule.looked(&known.answers, now);
        schedule.ran(task, known, memory, now);
        schedule
    }

    /// When to look next; `None` where the group has settled.
    fn next(&self) -> Option<Instant> {
        let other = self.due_at.into_iter().chain(self.verify_at).chain(self.retry_at).min();
        let other = other.map(|at| at.max(self.looked_at + SHORTEST_INTERVAL));
        let next = other.into_iter().fold(self.looked_at + self.pause, Instant::min);
        let is_stable = self.changed_at.is_some_and(|changed_at| next > changed_at + STABLE);
        (!self.watch.ends_when_stable || !is_stable).then_some(next)
    }

    fn looked(&mut self, answers: &Answers, now: Now) {
        self.looked_at = now.at;
        let ttl = answers.values().flatten().map(|answer| answer.ttl).min().filter(|_| self.watch.heeds_ttl);
        let interval = self.watch.interval;
        self.pause = ttl.map_or(interval, |ttl| interval.min(ttl.max(SHORTEST_INTERVAL)));
    }

    /// Takes in a look, and tells whether the group is to be reconciled: the answer asks for a change, something is due, or
    /// the last run failed some seconds ago.
    fn is_due(&mut self, task: &Task<'_>, known: &Known, memory: &Memory, now: Now) -> bool {
        self.looked(&known.answers, now);
        let plan = Plan::new(task, known, memory, now);
        let answer = answer_in_full(task, &known.answers, memory);
        let differs = plan.change_of_targets(known).is_some() || !plan.register.is_subset(&self.tried);
        if (differs && !plan.register.is_empty()) || (plan.look.is_complete && answer != self.answer) {
            self.changed_at = Some(now.at);
        } else if self.retry_at.is_some() || !plan.look.is_complete {
            // What is not in step, or not known to be, has not settled.
            self.changed_at = self.changed_at.map(|_| now.at);
        }
        if plan.look.is_complete {
            self.answer = answer;
        }
        self.due_at = plan.due(now);
        let is_time = |at: Option<Instant>| at.is_some_and(|at| at <= now.at);
        differs || is_time(self.verify_at) || is_time(self.retry_at)
    }

    /// Takes in what came of a run.
    fn ran(&mut self, task: &Task<'_>, known: &Known, memory: &Memory, now: Now) {
        self.looked_at = now.at;
        let plan = Plan::new(task, known, memory, now);
        // By a name that does not resolve nothing can be done.
        let has_failed = plan.failures(known).iter().any(|failure| !failure.is_of_dns());
        self.retry_at = has_failed.then(|| now.at + RETRY);
        // A run beside this one may have undone what this one changed.
        self.verify_at = known.has_changed().then(|| now.at + VERIFY_AFTER);
        self.due_at = plan.due(now);
        self.tried = plan.look.desired;
    }
}

/// What the names give whose answers hold all addresses.
fn answer_in_full(task: &Task<'_>, answers: &Answers, memory: &Memory) -> BTreeSet<Target> {
    let mut in_full = answers.clone();
    in_full.retain(|hostname, _| !memory.samples(hostname).is_some_and(Samples::is_sample));
    Look::new(task, &in_full).desired
}

/// How long DNS must have stayed the same after a change: an Aurora failover flaps for seconds.
const STABLE: Duration = Duration::from_secs(30);

/// The contract: DNS is never asked more often than each second.
pub const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// After how long what failed is tried again. It may be an outage.
const RETRY: Duration = Duration::from_secs(4);

/// After how long a change of our own is verified.
const VERIFY_AFTER: Duration = Duration::from_secs(7);
