//! All target groups, within the time and the request budget of a run (rules 10, 12 and 13).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    future::{Either, join},
    stream::{FuturesUnordered, StreamExt},
};
use nlb_hostname_targets_core::{
    run::{Known, Mode, Task, dns_cutoff},
    watch::{Course, Watch},
};
use tokio::{
    select,
    time::{sleep_until, timeout_at},
};
use tracing::{info, warn};

use crate::{
    answer::{Answers, Look},
    aws::{inspection::Inspection, many::is_of_one},
    binding::Group,
    check::Check,
    dns::QUERIES_PER_SECOND,
    failure::{ElbError, Failure},
    finding::{Finding, Severity},
    hostname::Hostname,
    kind::HostnameKind,
    memory::Memory,
    network::AllowedNetworks,
    policy::Ownership,
    report::GroupReport,
    set_up::SetUp,
    tags::State,
    target::{Facts, TargetGroupArn},
    world::{Edges, GroupWorld, log_changes},
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
        let needs_tags = jobs.iter().filter(|job| {
            let by_names = GroupReport::new(job.group).deregister_after_seconds > 0;
            by_names || job.group.ownership == Ownership::Shared
        });
        let needed = jobs.len() + needs_tags.count();
        let chunks = self.chunks(jobs);
        let needed = needed + 2 * chunks.len();
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

    /// Reads what never changes of groups that are new here, and which of their names an earlier environment saw rotate.
    async fn prepare(&self, jobs: &mut [Job<'_>], cutoff: Instant) {
        let target_groups = &self.edges.target_groups;
        let is_unknown = |job: &&Job<'_>| self.known_facts(job.group).is_none();
        let unknown: Vec<_> = jobs.iter().filter(is_unknown).map(|job| job.group.arn.clone()).collect();
        let rotating = jobs.iter().filter(|job| job.may_rotate());
        let rotating: Vec<_> = rotating.map(|job| job.group.arn.clone()).collect();
        let now = Instant::now();
        let most = cutoff.saturating_duration_since(now) / 4;
        let calls = u32::try_from((unknown.len() + rotating.len()) / 20).unwrap_or(u32::MAX);
        let until = |patience: Duration| now + (patience + target_groups.budget.time_for(calls)).min(most);
        // A call that hangs or fails because of one group must not keep the others: a few ask again, each for itself.
        let ask_again = (2..=A_FEW).contains(&unknown.len());
        let facts_until = if unknown.len() > 1 { until(PATIENCE_FOR_FACTS) } else { cutoff };
        let facts = target_groups.read_facts(unknown, facts_until);
        let (mut failures, mut tags) = join(facts, target_groups.tags_of(rotating, until(PATIENCE_FOR_TAGS))).await;
        for job in jobs {
            let failure = failures.remove(&job.group.arn).filter(|error| !ask_again || is_of_one(error));
            job.failure = failure.map(Failure::from);
            let problem = match tags.remove(&job.group.arn) {
                Some(Ok(tags)) => {
                    job.past.has_read_rotating = true;
                    job.past.memory.rotating(State::read(&tags, &self.function).0);
                    continue;
                }
                Some(Err(error)) => error.to_string(),
                None if job.may_rotate() => "no reply in time".to_owned(),
                None => continue,
            };
            let group = &job.group.arn;
            warn!(target_group = %group, problem, "not known which names rotate: the next run reads the tags again");
        }
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
        loop {
            select! {
                biased;
                Some(one) = running.next() => done.push(one),
                () = budget.acquire(), if !queue.is_empty() => {
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

    /// Asks DNS for the names that have not answered yet, and has the memory take the answers in.
    async fn ask(&self, job: &mut Job<'_>, facts: Facts, until: Instant) {
        let hostnames = job.group.hostnames().into_iter();
        let open = hostnames.filter(|hostname| !matches!(job.early.get(*hostname), Some(Ok(_))));
        let new = self.edges.ask(open, facts.family, until).await;
        job.early.extend(new.clone());
        let task = self.task(job.group, facts);
        job.past.memory.begin_run(&task);
        job.past.memory.answered(&task, &new, &job.early, self.edges.now());
    }

    /// A group that the budget has no place for. It has not failed, unless its name did.
    async fn put_off(&self, mut job: Job<'_>, errand: Errand<'_>, cutoff: Instant) -> Done {
        let mut report = GroupReport::new(job.group);
        report.is_deferred = true;
        report.failures.extend(job.failure.take());
        match self.known_facts(job.group) {
            Some(Ok(facts)) => {
                self.ask(&mut job, facts, dns_cutoff(Instant::now(), cutoff)).await;
                let look = Look::new(&self.task(job.group, facts), &job.early);
                report.failures.extend(look.failures.into_iter().filter(|failure| !failure.is_out_of_time()));
                (report.resolved, report.refused) = (look.resolved, look.refused);
            }
            Some(Err(error)) => report.failures.push(error.into()),
            None => {}
        }
        report.settle();
        self.end(job, report, errand, cutoff).await
    }

    /// Looks at a group, and watches it if that is asked for. `has_turn`: the budget was waited for.
    async fn look(&self, mut job: Job<'_>, has_turn: bool, errand: Errand<'_>, cutoff: Instant) -> Done {
        job.past.looked_at = Some(Instant::now());
        let report = match self.facts(&mut job, cutoff).await {
            Ok(facts) => self.follow(&mut job, facts, has_turn, errand, cutoff).await,
            Err(failure) => {
                let mut report = GroupReport::new(job.group);
                report.failures.push(failure);
                report.settle();
                report
            }
        };
        self.end(job, report, errand, cutoff).await
    }

    async fn follow(
        &self,
        job: &mut Job<'_>,
        facts: Facts,
        has_turn: bool,
        errand: Errand<'_>,
        cutoff: Instant,
    ) -> GroupReport {
        let Job { group, past, early, .. } = job;
        let (mode, watch) = match errand {
            Errand::Check(_) | Errand::DryRun => (Mode::DryRun, None),
            Errand::Reconcile => (Mode::Full, None),
            Errand::Watch(watch) => (Mode::Single, Some(watch)),
        };
        let task = self.task(group, facts);
        let world = GroupWorld::new(&self.edges, group, facts.family, has_turn, cutoff);
        let mut course = Course::new(Known::new(mode, mem::take(early), self.edges.now(), cutoff), cutoff);
        // In time or not, the course knows how far it came.
        drop(timeout_at(cutoff.into(), course.follow(&world, &task, watch, &mut past.memory)).await);
        let report = course.finish(&task, &past.memory, self.edges.now(), &world.waiting());
        if mode == Mode::DryRun {
            log_changes(group, "would be registered", &report.registered);
            log_changes(group, "would be deregistered", &report.deregistered);
        }
        // Once in an execution environment, and when they have changed.
        if let Some(settings) = report.settings().filter(|settings| *settings != past.settings) {
            info!(target_group = %group.arn, settings, "settings");
            past.settings = settings;
        }
        report
    }

    /// Remembers what was learned, and judges what a check found.
    async fn end(&self, job: Job<'_>, mut report: GroupReport, errand: Errand<'_>, cutoff: Instant) -> Done {
        if let Errand::Check(inspection) = errand {
            let set_up = if report.is_deferred {
                SetUp::default()
            } else {
                // In a box, which spares the future of each group of a run the room for it.
                Box::pin(inspection.look(&report, cutoff)).await
            };
            self.judge(job.group, &mut report, &set_up);
        }
        if !errand.is_dry_run() {
            self.known().insert(job.group.arn.clone(), job.past);
        }
        (job.position, report)
    }

    /// Puts into the report of a dry run what is wrong. Where the time did not suffice to read the set-up, the group is put
    /// off.
    pub fn judge(&self, group: &Group, report: &mut GroupReport, set_up: &SetUp) {
        report.is_deferred |= set_up.is_cut_off;
        report.settle();
        let (allowed, function) = (&self.allowed, self.function.as_str());
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

    async fn facts(&self, job: &mut Job<'_>, cutoff: Instant) -> Result<Facts, Failure> {
        let mut failure = job.failure.take();
        let arn = &job.group.arn;
        if failure.is_none() && self.known_facts(job.group).is_none() {
            let mut failures = self.edges.target_groups.read_facts(vec![arn.clone()], cutoff).await;
            failure = failures.remove(arn).map(Failure::from);
        }
        let out_of_time = || failure.unwrap_or_else(|| Failure::Deadline("DescribeTargetGroups".to_owned()));
        self.known_facts(job.group).map_or_else(|| Err(out_of_time()), |known| known.map_err(Failure::from))
    }

    fn known_facts(&self, group: &Group) -> Option<Result<Facts, ElbError>> {
        self.edges.target_groups.known_facts(&group.arn)
    }

    fn task<'a>(&'a self, group: &'a Group, facts: Facts) -> Task<'a> {
        Task { group, facts, allowed: &self.allowed, function: &self.function }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TargetGroupArn, Past>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Job<'_> {
    /// Whether it has to be read which of its names rotate: only a name of one's own does, unless it is stated how it
    /// answers.
    fn may_rotate(&self) -> bool {
        let is_own = |hostname: &Hostname| hostname.kind() == HostnameKind::Other;
        !self.past.has_read_rotating
            && self.group.deregister_after_seconds != Some(0)
            && self.group.hostnames().into_iter().any(is_own)
    }
}

/// How long to wait for DNS, at most, before target groups are put in order: some hundred names at a time may each take 2 s
/// for a first name server that is dead.
const EARLY_LOOK: Duration = Duration::from_secs(10);

/// How long groups wait for the facts of others that are read with theirs.
const PATIENCE_FOR_FACTS: Duration = Duration::from_secs(4);

/// How many groups ask again for facts that a call for all of them did not bring. What is refused to more is a matter of the
/// account, and costs the budget.
const A_FEW: usize = 20;

/// How long groups wait to know which names rotate.
const PATIENCE_FOR_TAGS: Duration = Duration::from_secs(2);

/// How long before the cut-off no further target group is begun, so that what is begun can end.
const TIME_FOR_ONE: Duration = Duration::from_secs(5);

/// What a target group may need within that time: to be described, its facts, a registration, and a deregistration with
/// what follows it.
const REQUESTS_FOR_ONE: u32 = 5;
