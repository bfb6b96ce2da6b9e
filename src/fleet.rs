//! All target groups, within the time and the request budget of a run (rules 10, 12 and 13).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};
use std::{cell::RefCell, cmp::Reverse, mem, pin::pin};

use futures_util::future::{OptionFuture, join, join_all};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nlb_hostname_targets_core::run::{Known, Mode, Task, dns_cutoff};
use nlb_hostname_targets_core::watch::{Course, Watch};
use serde_json::json;
use tokio::select;
use tokio::time::{sleep_until, timeout_at};
use tracing::{info, warn};

use crate::answer::{Answers, Look};
use crate::binding::{Group, Ownership};
use crate::failure::{ElbError, ElbErrorKind, Failure};
use crate::finding::Finding;
use crate::target::{Facts, TargetGroupArn};
use crate::world::{Edges, GroupWorld, log_changes};
use crate::{
    aws::inspection::Inspection,
    budget::Turn,
    check::Check,
    dns::QUERIES_PER_SECOND,
    kind::HostnameKind,
    memory::Memory,
    network::AllowedNetworks,
    report::{GroupReport, addresses},
    set_up::SetUp,
    settings::event::Request,
    tags::State,
};

/// Reconciles many target groups, each by itself.
#[derive(Debug)]
pub(crate) struct Fleet {
    edges: Edges,
    allowed: AllowedNetworks,
    /// The name by which targets are owned.
    function: String,
    known: RefCell<HashMap<TargetGroupArn, Past>>,
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
}

/// What a run is for.
#[derive(Clone, Copy, Debug)]
struct Errand<'a> {
    /// A dry run may go by other bindings, so that nothing of it is remembered.
    dry_run: bool,
    /// Of a check.
    inspection: Option<&'a Inspection<'a>>,
    watch: Option<&'a Watch>,
    /// When what is still open is given up.
    cutoff: Instant,
}

/// A target group that is to be looked at.
struct Job<'a> {
    position: usize,
    group: &'a Group,
    past: Past,
    /// `None`: they were not read yet, or there was no time.
    facts: Option<Result<Facts, ElbError>>,
    /// Why it could not be read which names rotate.
    unread: Option<ElbError>,
    /// What DNS said before it was the group's turn.
    early: Answers,
}

impl Fleet {
    pub(crate) fn new(edges: Edges, allowed: AllowedNetworks, function: String) -> Self {
        Self { edges, allowed, function, known: RefCell::default(), shuffle: RandomState::new() }
    }

    /// Reconciles all `groups`, each by itself, and gives up what is still open at `cutoff`. The reports are in the order of
    /// the groups.
    pub(crate) async fn run(
        &self,
        groups: &[Group],
        request: &Request,
        watch: Option<&Watch>,
        cutoff: Instant,
    ) -> Vec<GroupReport> {
        let inspect = || Inspection::begin(&self.edges.target_groups, groups, dns_cutoff(Instant::now(), cutoff));
        let inspection = OptionFuture::from(request.check.then(inspect)).await;
        let errand = Errand { dry_run: request.dry_run, inspection: inspection.as_ref(), watch, cutoff };
        let mut chunks: BTreeMap<&str, Vec<Job<'_>>> = BTreeMap::new();
        for (position, group) in groups.iter().enumerate() {
            let mut past = self.known.borrow().get(&group.arn).cloned().unwrap_or_default();
            past.memory.begin_invocation();
            // A check tells what can't be read, though a run no longer tries.
            past.has_read_rotating &= !request.check;
            let job = Job { position, group, past, facts: None, unread: None, early: Answers::new() };
            // Those of which something has to be read first keep no others waiting.
            let is_new = self.edges.target_groups.known_facts(&group.arn).is_none() || job.may_rotate();
            chunks.entry(if is_new { group.arn.region() } else { "" }).or_default().push(job);
        }
        let has_state = |group: &&Group| {
            group.ownership == Ownership::Shared || GroupReport::new(group).deregister_after_seconds > 0
        };
        let needed = groups.len() + groups.iter().filter(has_state).count() + 2 * chunks.len();
        let prepared = chunks.into_values().map(|jobs| self.prepare(jobs, cutoff));
        let done: BTreeMap<_, _> = if self.edges.target_groups.elb.budget.suffices(needed) {
            let run = |jobs: Vec<_>| join_all(jobs.into_iter().map(|job| self.look(job, None, errand)));
            let all = join_all(prepared.map(async |jobs| run(jobs.await).await)).await;
            all.into_iter().flatten().collect()
        } else {
            self.run_by_urgency(join_all(prepared).await.into_iter().flatten(), errand).await
        };
        done.into_values().collect()
    }

    /// Reads what never changes of groups that are new here, and which of their names an earlier environment saw rotate.
    async fn prepare<'a>(&self, mut jobs: Vec<Job<'a>>, cutoff: Instant) -> Vec<Job<'a>> {
        let target_groups = &self.edges.target_groups;
        let arns: Vec<_> = jobs.iter().map(|job| job.group.arn.clone()).collect();
        let unknown = arns.iter().filter(|arn| target_groups.known_facts(arn).is_none()).count();
        let rotating: Vec<_> = jobs.iter().filter(|job| job.may_rotate()).map(|job| job.group.arn.clone()).collect();
        let calls = u32::try_from((unknown + rotating.len()) / 20).unwrap_or(u32::MAX);
        let now = Instant::now();
        let most = cutoff.saturating_duration_since(now) / 4;
        let until = |patience: Duration| now + (patience + target_groups.elb.budget.time_for(calls)).min(most);
        // A call that hangs because of one group must not keep the others.
        let facts_until = if unknown > 1 { until(PATIENCE_FOR_FACTS) } else { cutoff };
        let facts = target_groups.facts_of(arns, facts_until);
        let (mut facts, mut tags) = join(facts, target_groups.tags_of(rotating, until(PATIENCE_FOR_TAGS))).await;
        for job in &mut jobs {
            let arn = &job.group.arn;
            job.facts = facts.remove(arn);
            if !job.may_rotate() {
                continue;
            }
            let problem = match tags.remove(arn) {
                Some(Ok(tags)) => {
                    job.past.has_read_rotating = true;
                    job.past.memory.rotating(State::read(&tags, &self.function).0);
                    continue;
                }
                Some(Err(error)) => {
                    // Who may not read tags need not try again.
                    job.past.has_read_rotating = error.kind == ElbErrorKind::Denied;
                    job.unread.insert(error).to_string()
                }
                None => "no reply in time".to_owned(),
            };
            // Failovers are followed all the same.
            warn!(target_group = %arn, problem, "not known which names rotate: the tags can't be read");
        }
        jobs
    }

    /// Reconciles the groups by turns, as the budget lets them: first those for which a change is due by what DNS says now,
    /// then those whose turn was the longest time ago. Those that get no turn are put off.
    async fn run_by_urgency<'a>(
        &'a self,
        jobs: impl Iterator<Item = Job<'a>>,
        errand: Errand<'a>,
    ) -> BTreeMap<usize, GroupReport> {
        let mut queue = self.by_urgency(jobs.collect(), errand.cutoff).await;
        let budget = &self.edges.target_groups.elb.budget;
        let left = errand.cutoff.saturating_duration_since(Instant::now());
        let last_start = errand.cutoff - TIME_FOR_ONE.max(budget.time_for(REQUESTS_FOR_ONE)).min(left / 2);
        let mut running = FuturesUnordered::new();
        let mut done = BTreeMap::new();
        let mut turn = pin!(budget.acquire_last());
        loop {
            select! {
                biased;
                Some((position, report)) = running.next() => drop(done.insert(position, report)),
                one = &mut turn, if !queue.is_empty() => {
                    turn.set(budget.acquire_last());
                    running.extend(queue.pop_front().map(|job| self.look(job, Some(one), errand)));
                }
                () = sleep_until(last_start.into()), if !queue.is_empty() => {
                    for job in queue.drain(..) {
                        done.extend([self.put_off(job, errand).await]);
                    }
                    // Nobody waits in that one any more, and it may have the first place in the line.
                    turn.set(budget.acquire_last());
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
            let Some(Ok(facts)) = job.facts else { return (false, job) };
            job.early = self.edges.ask(job.group.hostnames(), facts.family, until).await;
            let (task, now) = (self.task(job.group, facts), self.edges.now());
            job.past.memory.begin_run(&task);
            job.past.memory.answered(&task, &job.early, &job.early, now);
            (job.past.memory.is_urgent(&task, &job.early, now), job)
        };
        let mut jobs = join_all(jobs.into_iter().map(ask)).await;
        jobs.sort_by_cached_key(|(is_urgent, job)| {
            (Reverse(*is_urgent), job.past.looked_at, self.shuffle.hash_one(&job.group.arn))
        });
        jobs.into_iter().map(|(_, job)| job).collect()
    }

    /// A group that the budget has no place for. It has not failed, unless its name did.
    async fn put_off(&self, mut job: Job<'_>, errand: Errand<'_>) -> (usize, GroupReport) {
        let mut report = GroupReport { is_deferred: true, ..GroupReport::new(job.group) };
        match job.facts.take() {
            Some(Ok(facts)) => {
                let look = Look::new(&self.task(job.group, facts), &job.early);
                report.failures.extend(look.failures.into_iter().filter(|failure| !failure.is_out_of_time()));
                (report.resolved, report.refused) = (look.resolved, look.refused);
                report.answers = addresses(&job.early);
            }
            facts => report.failures.extend(facts.and_then(Result::err).map(Failure::from)),
        }
        self.end(job, report.settled(), errand).await
    }

    /// Looks at a group, and watches it if that is asked for. `turn` is for its first list.
    async fn look<'a>(
        &'a self,
        mut job: Job<'a>,
        mut turn: Option<Turn<'a>>,
        errand: Errand<'a>,
    ) -> (usize, GroupReport) {
        let target_groups = &self.edges.target_groups;
        if job.facts.is_none() {
            // To wait for a second turn while one is held may keep all others waiting.
            drop(turn.take());
            let arn = &job.group.arn;
            job.facts = target_groups.facts_of(vec![arn.clone()], errand.cutoff).await.remove(arn);
        }
        let mut report = GroupReport::new(job.group);
        match job.facts.take() {
            Some(Ok(facts)) => report = self.follow(&mut job, facts, turn, errand).await,
            Some(Err(error)) => report.failures.push(error.into()),
            None if !target_groups.elb.budget.suffices(1) => report.is_deferred = true,
            None => report.failures.push(Failure::Deadline("DescribeTargetGroups".to_owned())),
        }
        self.end(job, report.settled(), errand).await
    }

    async fn follow<'a>(
        &'a self,
        job: &mut Job<'a>,
        facts: Facts,
        turn: Option<Turn<'a>>,
        errand: Errand<'a>,
    ) -> GroupReport {
        let Job { group, past, early, .. } = job;
        let Errand { dry_run, watch, cutoff, .. } = errand;
        let mode = if dry_run { Mode::DryRun } else { watch.map_or(Mode::Full, |_| Mode::Single) };
        let task = self.task(group, facts);
        let world = GroupWorld::new(&self.edges, group, facts.family, turn, cutoff);
        let mut course = Course::new(Known::new(mode, mem::take(early), self.edges.now(), cutoff), cutoff);
        // In time or not, the course knows how far it came.
        drop(timeout_at(cutoff.into(), course.follow(&world, &task, watch, &mut past.memory)).await);
        let report = course.finish(&task, &past.memory, self.edges.now(), &world.waiting(), world.is_put_off());
        if dry_run {
            log_changes(group, "would be registered", &report.registered);
            log_changes(group, "would be deregistered", &report.deregistered);
        }
        report
    }

    /// Remembers what was learned, and judges what a check found.
    async fn end(&self, mut job: Job<'_>, mut report: GroupReport, errand: Errand<'_>) -> (usize, GroupReport) {
        if let Some(inspection) = errand.inspection {
            let mut set_up = match report.is_deferred {
                true => SetUp::default(),
                // In a box, which spares the future of each group of a run the room for it.
                false => Box::pin(inspection.look(&report, errand.cutoff)).await,
            };
            set_up.failures.extend(job.unread.take().map(|error| (job.group.arn.to_string(), error)));
            report = self.judged(job.group, report, &set_up);
        }
        if !errand.dry_run {
            if !report.is_deferred {
                job.past.looked_at = Some(Instant::now());
            }
            self.known.borrow_mut().insert(job.group.arn.clone(), job.past);
        }
        (job.position, report)
    }

    /// Puts into the report of a dry run what is wrong. Where the time did not suffice to read the set-up, the group is put
    /// off.
    pub(crate) fn judged(&self, group: &Group, mut report: GroupReport, set_up: &SetUp) -> GroupReport {
        report.is_deferred |= set_up.is_cut_off;
        let mut report = report.settled();
        let (allowed, function) = (&self.allowed, self.function.as_str());
        let findings = Check { group, report: &report, set_up, allowed, function }.findings();
        for Finding { severity, code, subject, message, .. } in &findings {
            info!(target_group = %group.arn, ?severity, code = json!(code).as_str(), subject, problem = message, "found");
        }
        report.findings = Some(findings);
        report
    }

    fn task<'a>(&'a self, group: &'a Group, facts: Facts) -> Task<'a> {
        Task { group, facts, allowed: &self.allowed, function: &self.function }
    }
}

impl Job<'_> {
    /// Whether it has to be read which of its names rotate: only a name of one's own does, unless it is stated how it
    /// answers.
    fn may_rotate(&self) -> bool {
        !self.past.has_read_rotating
            && self.group.deregister_after_seconds != Some(0)
            && self.group.hostnames().iter().any(|hostname| hostname.kind() == HostnameKind::Other)
    }
}

/// How long groups wait for the facts of others that are read with theirs, and to know which names rotate.
const PATIENCE_FOR_FACTS: Duration = Duration::from_secs(4);
const PATIENCE_FOR_TAGS: Duration = Duration::from_secs(2);

/// How long to wait for DNS, at most, before target groups are put in order: some hundred names at a time may each take 2 s
/// for a first name server that is dead.
const EARLY_LOOK: Duration = Duration::from_secs(10);

/// How long before the cut-off no further target group is begun, so that what is begun can end.
const TIME_FOR_ONE: Duration = Duration::from_secs(5);

/// What a target group may need within that time: to be described, its facts, a registration, and a deregistration with
/// what follows it.
const REQUESTS_FOR_ONE: u32 = 5;
