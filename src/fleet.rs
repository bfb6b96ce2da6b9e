//! The reconciliation of all target groups within the time and the request budget of a run.

use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use tokio::{select, time::sleep_until};
use tracing::{info, warn};

use crate::{
    binding::Group,
    check::Check,
    dns::QUERIES_PER_SECOND,
    finding::{Finding, Severity},
    inspection::Inspection,
    limiter::{Permit, Priority},
    memory::Memory,
    reconcile::{Reconciler, log},
    report::{GroupReport, Outcome},
    resolution::{Resolution, dns_cutoff},
    run::Mode,
    set_up::SetUp,
    state::Timestamp,
    target::{IpFamily, TargetGroupArn},
    watch::Watch,
};

/// Reconciles many target groups, each by itself.
#[derive(Debug)]
pub struct Fleet {
    reconciler: Reconciler,
    known: Mutex<HashMap<TargetGroupArn, Past>>,
}

/// What is known of a target group from earlier runs.
#[derive(Clone, Debug, Default)]
struct Past {
    /// When the group last had its turn, whatever came of it. A group that always fails must not count as the longest
    /// unverified one in every run.
    looked_at: Option<Instant>,
    memory: Memory,
    /// The settings that were last logged.
    settings: String,
}

/// What a run is for.
#[derive(Clone, Copy, Debug)]
pub enum Errand<'a> {
    /// To say what is wrong with the set-up, in a dry run.
    Check(&'a Inspection<'a>),
    /// To say what would be done.
    DryRun,
    /// To bring the target groups into step.
    Reconcile,
    /// The same, and then to watch each.
    Watch(&'a Watch),
}

impl Errand<'_> {
    /// Whether it changes nothing. It may go by other bindings, so that nothing of it is remembered.
    fn is_dry_run(self) -> bool {
        matches!(self, Self::Check(_) | Self::DryRun)
    }
}

/// A target group that is to be looked at.
struct Job<'a> {
    position: usize,
    group: &'a Group,
    /// What DNS said before it was the group's turn.
    early: Option<Resolution>,
}

impl Fleet {
    /// Nothing is known yet.
    pub fn new(reconciler: Reconciler) -> Self {
        Self { reconciler, known: Mutex::default() }
    }

    /// Begins a check of `groups`, for [`Errand::Check`].
    pub async fn inspect(&self, groups: &[Group], cutoff: Instant) -> Inspection<'_> {
        Inspection::begin(&self.reconciler.target_groups, groups, dns_cutoff(Instant::now(), cutoff)).await
    }

    /// Reconciles all `groups`, each by itself, and gives up what is still open at `cutoff`. The
    /// reports are in the order of the groups.
    pub async fn run(&self, groups: &[Group], errand: Errand<'_>, cutoff: Instant) -> Vec<GroupReport> {
        let limiter = &self.reconciler.limiter;
        let mut reports: Vec<_> = groups.iter().map(GroupReport::new).collect();
        let jobs: VecDeque<_> =
            groups.iter().enumerate().map(|(position, group)| Job { position, group, early: None }).collect();
        // Where the budget suffices for all, DNS and ELBv2 are asked at the same time. Where it
        // may not, DNS is asked first, to know which groups need it most.
        let first_looks =
            groups.iter().filter(|group| self.reconciler.target_groups.known_facts(&group.arn).is_none()).count();
        let with_state = groups.iter().filter(|group| group.policy(group.kinds_by_name()).needs_state()).count();
        let mut queue = if limiter.can_spend(groups.len() + first_looks + with_state) {
            jobs
        } else {
            self.by_urgency(jobs, cutoff).await
        };
        let left = cutoff.saturating_duration_since(Instant::now());
        let last_start = cutoff - TIME_FOR_ONE.max(limiter.time_for(REQUESTS_FOR_ONE)).min(left / 2);
        let mut running = FuturesUnordered::new();
        loop {
            select! {
                biased;
                Some((position, report)) = running.next() => {
                    if let Some(slot) = reports.get_mut(position) {
                        *slot = report;
                    }
                }
                turn = limiter.acquire(Priority::Start), if !queue.is_empty() => {
                    running.extend(queue.pop_front().map(|job| self.handle(job, Some(turn), errand, cutoff)));
                }
                () = sleep_until(last_start.into()), if !queue.is_empty() => {
                    running.extend(queue.drain(..).map(|job| self.handle(job, None, errand, cutoff)));
                }
                else => break,
            }
        }
        reports
    }

    /// Puts the groups in order: first those whose answer is another than the one they were last
    /// in step with, or where a grace period is over, then those whose turn was the longest time
    /// ago.
    async fn by_urgency<'a>(&self, mut jobs: VecDeque<Job<'a>>, cutoff: Instant) -> VecDeque<Job<'a>> {
        // Where nothing is remembered, as in a cold start, the first of the bindings must not be
        // the first each time.
        jobs.rotate_left(first_of_minute(self.reconciler.now().time, jobs.len()));
        let target_groups = &self.reconciler.target_groups;
        let unknown: Vec<_> =
            jobs.iter().map(|job| &job.group.arn).filter(|arn| target_groups.known_facts(arn).is_none()).collect();
        if unknown.len() > 1 {
            target_groups
                .prefetch_facts(&unknown, dns_cutoff(Instant::now(), cutoff).min(Instant::now() + PREFETCH))
                .await;
        }
        let looking =
            EARLY_LOOK + Duration::from_secs(1) * u32::try_from(jobs.len()).unwrap_or(u32::MAX) / QUERIES_PER_SECOND;
        let until = dns_cutoff(Instant::now(), cutoff).min(Instant::now() + looking);
        let asked = jobs.into_iter().map(async |mut job| {
            if let Some(Ok(facts)) = target_groups.known_facts(&job.group.arn) {
                job.early = Some(self.reconciler.resolve(job.group, facts.family, until).await);
            }
            job
        });
        let mut jobs: Vec<_> = asked.collect::<FuturesOrdered<_>>().collect().await;
        let now = self.reconciler.now().time;
        let known = self.known();
        jobs.sort_by_cached_key(|job| {
            let known = known.get(&job.group.arn);
            let facts = target_groups.known_facts(&job.group.arn);
            let urgent = match (known.map(|known| &known.memory), facts, &job.early) {
                (Some(memory), Some(Ok(facts)), Some(early)) => memory.in_step.as_ref().is_some_and(|in_step| {
                    let desired = early.look(job.group, facts, &self.reconciler.allowed_networks).desired;
                    in_step.differs(&desired, memory.is_sampled()) || in_step.due.is_some_and(|due| due <= now)
                }),
                _ => false,
            };
            (Reverse(urgent), known.and_then(|known| known.looked_at))
        });
        jobs.into()
    }

    /// Reconciles a group that has a turn; one that has none is put off.
    async fn handle(
        &self,
        job: Job<'_>,
        turn: Option<Permit>,
        errand: Errand<'_>,
        cutoff: Instant,
    ) -> (usize, GroupReport) {
        let Job { position, group, early } = job;
        let mut report = match turn {
            Some(turn) => self.take_turn(group, early, turn, errand, cutoff).await,
            None => self.put_off(group, early, errand, cutoff).await,
        };
        if let Errand::Check(inspection) = errand {
            let set_up = if report.is_deferred {
                SetUp::default()
            } else {
                // In a box, which spares the future of each group of a run the room for it.
                Box::pin(inspection.look(&report, cutoff)).await
            };
            self.judge(group, &mut report, &set_up);
        }
        (position, report)
    }

    async fn take_turn(
        &self,
        group: &Group,
        early: Option<Resolution>,
        turn: Permit,
        errand: Errand<'_>,
        cutoff: Instant,
    ) -> GroupReport {
        let began = Instant::now();
        let reconciler = &self.reconciler;
        let mode = if errand.is_dry_run() { Mode::DryRun } else { Mode::Full };
        let mut memory = self.known().entry(group.arn.clone()).or_default().memory.clone();
        memory.begin_invocation();
        let mut report = reconciler.reconcile(group, &mut memory, turn, early, mode, cutoff).await;
        log(&report, &GroupReport::new(group));
        self.log_settings(group, &report);
        if let Errand::Watch(watch) = errand
            && Instant::now() < watch.until
        {
            report = watch.follow(reconciler, group, &mut memory, report, cutoff).await;
        }
        if !errand.is_dry_run() {
            let mut known = self.known();
            let known = known.entry(group.arn.clone()).or_default();
            known.memory = memory;
            // One that was put off in the end has not had its turn.
            if report.outcome != Outcome::Deferred {
                known.looked_at = Some(began);
            }
        }
        report
    }

    /// Puts into the report of a dry run what is wrong. Where the time did not suffice to read the set-up, the group is put
    /// off.
    pub fn judge(&self, group: &Group, report: &mut GroupReport, set_up: &SetUp) {
        let Reconciler { allowed_networks: allowed, function, .. } = &self.reconciler;
        report.is_deferred |= set_up.is_cut_off;
        report.settle();
        let findings = Check { group, report, set_up, allowed, function }.findings();
        for Finding { severity, code, subject, message, .. } in &findings {
            let (group, code) = (&report.target_group_arn, code.as_str());
            if *severity == Severity::Info {
                info!(target_group = %group, code, subject, problem = message, "found");
            } else {
                warn!(target_group = %group, code, subject, problem = message, "found");
            }
        }
        report.findings = Some(findings);
    }

    /// A group that the budget has no place for. It has not failed, unless its name did.
    async fn put_off(
        &self,
        group: &Group,
        early: Option<Resolution>,
        errand: Errand<'_>,
        cutoff: Instant,
    ) -> GroupReport {
        let mut report = GroupReport::new(group);
        report.is_deferred = true;
        let facts = match self.reconciler.target_groups.known_facts(&group.arn).transpose() {
            Ok(facts) => facts,
            Err(error) => {
                report.failures.push(error.into());
                report.settle();
                return report;
            }
        };
        // Either family tells whether the name resolves at all.
        let family = facts.map_or(IpFamily::V4, |facts| facts.family);
        let resolution = match early {
            Some(early) if early.is_complete() => early,
            _ => self.reconciler.resolve(group, family, dns_cutoff(Instant::now(), cutoff)).await,
        };
        let look = facts.map(|facts| resolution.look(group, facts, &self.reconciler.allowed_networks));
        if let (Some(look), false) = (&look, errand.is_dry_run()) {
            let mut known = self.known();
            let memory = &mut known.entry(group.arn.clone()).or_default().memory;
            memory.begin_run(group);
            let now = self.reconciler.now();
            memory.take_in(&resolution, &look.desired, now.time, now.at);
        }
        if let Some(look) = look.filter(|_| resolution.is_complete()) {
            report.look(look, resolution.took);
        } else {
            // That we had no time to hear of a name, or that its group may be of the other family,
            // is no failure.
            let failures =
                resolution.failures(|error| !error.is_out_of_time() && (facts.is_some() || !error.is_no_data()));
            report.failures.extend(failures);
        }
        report.settle();
        report
    }

    /// Logs what a group goes by, once in an execution environment and when it has changed.
    fn log_settings(&self, group: &Group, report: &GroupReport) {
        let Some(settings) = report.settings() else { return };
        let mut known = self.known();
        let logged = &mut known.entry(group.arn.clone()).or_default().settings;
        if *logged != settings {
            info!(target_group = %group.arn, settings, "settings");
            *logged = settings;
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TargetGroupArn, Past>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of `count` bindings is the first at a time. From one minute to the next, the first moves on
/// by the golden ratio of their number. Of all steps, this one leaves the smallest gaps between the
/// firsts of any few minutes. So runs that each reach a part of the groups soon reach all of
/// them, whatever the interval between the runs is.
fn first_of_minute(time: Timestamp, count: usize) -> usize {
    let minutes = time.0 / 60_000;
    // As a fraction of 2⁶⁴, which the product is taken modulo.
    let fraction = minutes.wrapping_mul(GOLDEN_RATIO);
    usize::try_from((u128::from(fraction) * count as u128) >> 64).unwrap_or_default()
}

/// How long to wait for DNS before target groups are put in order: long enough for a second name
/// server where the first is dead.
const EARLY_LOOK: Duration = Duration::from_secs(3);

/// How long to wait for what is static of target groups that were never looked at.
const PREFETCH: Duration = Duration::from_secs(10);

/// How long before the cut-off no further target group is begun, so that what is begun can end.
const TIME_FOR_ONE: Duration = Duration::from_secs(5);

/// (√5 − 1) / 2, as a fraction of 2⁶⁴.
const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a target group may need within that time: to be described, its facts, a registration, and a deregistration with
/// what follows it.
const REQUESTS_FOR_ONE: u32 = 5;
