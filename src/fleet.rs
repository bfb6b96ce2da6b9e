//! All target groups, within the time and the request budget of a run (rules 10, 12 and 13).

mod group;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    future::Either,
    stream::{FuturesUnordered, StreamExt},
};
use nlb_hostname_targets_core::{run::dns_cutoff, watch::Watch};
use tokio::{select, time::sleep_until};

use crate::{
    answer::Answers, aws::inspection::Inspection, binding::Group, binding::Ownership, dns::QUERIES_PER_SECOND,
    failure::Failure, memory::Memory, network::AllowedNetworks, report::GroupReport, target::TargetGroupArn,
    world::Edges,
};

/// Reconciles many target groups, each by itself.
#[derive(Debug)]
pub struct Fleet {
    edges: Edges,
    allowed: AllowedNetworks,
    function: String,
    known: Mutex<HashMap<TargetGroupArn, Past>>,
    /// Shuffles groups of which nothing is known, so that the first of the bindings is not the first each time.
    shuffle: RandomState,
}

/// What is known of a target group from earlier runs.
#[derive(Clone, Debug, Default)]
struct Past {
    /// When the group last had its turn, whatever came of it. A group that always fails must not count as the longest
    /// unverified one in every run.
    looked_at: Option<Instant>,
    memory: Memory,
    /// Whether the tag was read that says which names rotate.
    has_read_rotating: bool,
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
    past: Past,
    /// Why its facts can't be read.
    failure: Option<Failure>,
    /// What DNS said before it was the group's turn.
    early: Answers,
}

/// A report, and the position of its group.
type Done = (usize, GroupReport);

impl Fleet {
    /// Nothing is known yet. Addresses outside `allowed` are refused; `function` is the name by which targets are owned.
    pub fn new(edges: Edges, allowed: AllowedNetworks, function: String) -> Self {
        Self { edges, allowed, function, known: Mutex::default(), shuffle: RandomState::new() }
    }

    /// Begins a check of `groups`, for [`Errand::Check`].
    pub async fn inspect(&self, groups: &[Group], cutoff: Instant) -> Inspection<'_> {
        Inspection::begin(&self.edges.target_groups, groups, dns_cutoff(Instant::now(), cutoff)).await
    }

    /// Reconciles all `groups`, each by itself, and gives up what is still open at `cutoff`. The
    /// reports are in the order of the groups.
    pub async fn run(&self, groups: &[Group], errand: Errand<'_>, cutoff: Instant) -> Vec<GroupReport> {
        let jobs: Vec<_> = groups
            .iter()
            .enumerate()
            .map(|(position, group)| {
                let mut past = self.known().get(&group.arn).cloned().unwrap_or_default();
                past.memory.begin_invocation();
                Job { position, group, past, failure: None, early: Answers::new() }
            })
            .collect();
        let has_state = |job: &&Job<'_>| {
            job.group.ownership == Ownership::Shared || GroupReport::new(job.group).deregister_after_seconds > 0
        };
        let lists_and_tags = jobs.len() + jobs.iter().filter(has_state).count();
        let chunks = self.chunks(jobs);
        let needed = lists_and_tags + 2 * chunks.len();
        let mut done = if self.edges.target_groups.budget.suffices(needed) {
            let run = async |mut jobs: Vec<_>| {
                self.prepare(&mut jobs, cutoff).await;
                let running = jobs.into_iter().map(|job| self.look(job, false, errand, cutoff));
                running.collect::<FuturesUnordered<_>>().collect::<Vec<_>>().await
            };
            chunks.into_iter().map(run).collect::<FuturesUnordered<_>>().collect::<Vec<_>>().await.concat()
        } else {
            self.run_by_urgency(chunks, errand, cutoff).await
        };
        done.sort_by_key(|(position, _)| *position);
        done.into_iter().map(|(_, report)| report).collect()
    }

    /// By Region the groups of which something has to be read first; the others together.
    fn chunks<'a>(&self, jobs: Vec<Job<'a>>) -> Vec<Vec<Job<'a>>> {
        let mut chunks: BTreeMap<&str, Vec<Job<'a>>> = BTreeMap::new();
        for job in jobs {
            let is_new = self.known_facts(job.group).is_none() || job.may_rotate();
            chunks.entry(if is_new { job.group.arn.region() } else { "" }).or_default().push(job);
        }
        chunks.into_values().collect()
    }

    /// Reconciles the groups by turns, as the budget lets them: first those for which a change is due by what DNS says now,
    /// then those whose turn was the longest time ago. Those that get no turn are put off.
    async fn run_by_urgency(&self, mut chunks: Vec<Vec<Job<'_>>>, errand: Errand<'_>, cutoff: Instant) -> Vec<Done> {
        let preparing = chunks.iter_mut().map(|jobs| self.prepare(jobs, cutoff));
        preparing.collect::<FuturesUnordered<_>>().collect::<Vec<()>>().await;
        let mut queue = self.by_urgency(chunks.into_iter().flatten().collect(), cutoff).await;
        let budget = &self.edges.target_groups.budget;
        let left = cutoff.saturating_duration_since(Instant::now());
        let last_start = cutoff - TIME_FOR_ONE.max(budget.time_for(REQUESTS_FOR_ONE)).min(left / 2);
        let mut running = FuturesUnordered::new();
        let mut done = Vec::new();
        let mut turn = pin!(budget.acquire_last());
        loop {
            select! {
                biased;
                Some(one) = running.next() => done.push(one),
                () = &mut turn, if !queue.is_empty() => {
                    turn.set(budget.acquire_last());
                    running.extend(queue.pop_front().map(|job| Either::Left(self.look(job, true, errand, cutoff))));
                }
                () = sleep_until(last_start.into()), if !queue.is_empty() => {
                    running.extend(queue.drain(..).map(|job| Either::Right(self.put_off(job, errand, cutoff))));
                }
                else => return done,
            }
        }
    }

    async fn by_urgency<'a>(&self, jobs: Vec<Job<'a>>, cutoff: Instant) -> VecDeque<Job<'a>> {
        let now = Instant::now();
        let queries = Duration::from_secs(1) * u32::try_from(jobs.len()).unwrap_or(u32::MAX) / QUERIES_PER_SECOND;
        let until = dns_cutoff(now, cutoff).min(now + EARLY_LOOK + queries);
        let ask = async |mut job: Job<'a>| {
            let Some(Ok(facts)) = self.known_facts(job.group) else { return (false, job) };
            self.ask(&mut job, facts, until).await;
            let is_urgent = job.past.memory.is_urgent(&self.task(job.group, facts), &job.early, self.edges.now());
            (is_urgent, job)
        };
        let mut jobs: Vec<_> = jobs.into_iter().map(ask).collect::<FuturesUnordered<_>>().collect().await;
        jobs.sort_by_cached_key(|(is_urgent, job)| {
            (Reverse(*is_urgent), job.past.looked_at, self.shuffle.hash_one(&job.group.arn))
        });
        jobs.into_iter().map(|(_, job)| job).collect()
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TargetGroupArn, Past>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait for DNS before target groups are put in order: long enough for a second name
/// server where the first is dead.
const EARLY_LOOK: Duration = Duration::from_secs(3);

/// How long before the cut-off no further target group is begun, so that what is begun can end.
const TIME_FOR_ONE: Duration = Duration::from_secs(5);

/// What a target group may need within that time: to be described, its facts, a registration, and a deregistration with
/// what follows it.
const REQUESTS_FOR_ONE: u32 = 5;
