//! What becomes of one group of a run over many: it is looked at, or put off.

use std::{
    mem,
    time::{Duration, Instant},
};

use futures_util::future::join;
use nlb_hostname_targets_core::{
    run::{Known, Mode, Task, dns_cutoff},
    watch::Course,
};
use tokio::time::timeout_at;
use tracing::{info, warn};

use super::{Done, Errand, Fleet, Job};
use crate::{
    answer::Look,
    binding::Group,
    check::Check,
    failure::{ElbError, Failure},
    finding::{Finding, Severity},
    hostname::Hostname,
    kind::HostnameKind,
    report::GroupReport,
    set_up::SetUp,
    tags::State,
    target::Facts,
    world::{GroupWorld, log_changes},
};

impl Fleet {
    /// Reads what never changes of groups that are new here, and which of their names an earlier environment saw rotate.
    pub(super) async fn prepare(&self, jobs: &mut [Job<'_>], cutoff: Instant) {
        let target_groups = &self.edges.target_groups;
        let is_unknown = |job: &&Job<'_>| self.known_facts(job.group).is_none();
        let unknown: Vec<_> = jobs.iter().filter(is_unknown).map(|job| job.group.arn.clone()).collect();
        let rotating = jobs.iter().filter(|job| job.may_rotate());
        let rotating: Vec<_> = rotating.map(|job| job.group.arn.clone()).collect();
        let now = Instant::now();
        let most = cutoff.saturating_duration_since(now) / 4;
        let calls = u32::try_from((unknown.len() + rotating.len()) / 20).unwrap_or(u32::MAX);
        let until = |patience: Duration| now + (patience + target_groups.budget.time_for(calls)).min(most);
        // A call that hangs because of one group must not keep the others.
        let facts_until = if unknown.len() > 1 { until(PATIENCE_FOR_FACTS) } else { cutoff };
        let facts = target_groups.read_facts(unknown, facts_until);
        let (mut failures, mut tags) = join(facts, target_groups.tags_of(rotating, until(PATIENCE_FOR_TAGS))).await;
        for job in jobs {
            job.failure = failures.remove(&job.group.arn).map(Failure::from);
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

    /// Asks DNS for the names that have not answered yet, and has the memory take the answers in.
    pub(super) async fn ask(&self, job: &mut Job<'_>, facts: Facts, until: Instant) {
        let hostnames = job.group.hostnames().into_iter();
        let open = hostnames.filter(|hostname| !matches!(job.early.get(*hostname), Some(Ok(_))));
        let new = self.edges.ask(open, facts.family, until).await;
        job.early.extend(new.clone());
        let task = self.task(job.group, facts);
        job.past.memory.begin_run(&task);
        job.past.memory.answered(&task, &new, &job.early, self.edges.now());
    }

    /// A group that the budget has no place for. It has not failed, unless its name did.
    pub(super) async fn put_off(&self, mut job: Job<'_>, errand: Errand<'_>, cutoff: Instant) -> Done {
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
    pub(super) async fn look(&self, mut job: Job<'_>, has_turn: bool, errand: Errand<'_>, cutoff: Instant) -> Done {
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

    pub(super) fn known_facts(&self, group: &Group) -> Option<Result<Facts, ElbError>> {
        self.edges.target_groups.known_facts(&group.arn)
    }

    pub(super) fn task<'a>(&'a self, group: &'a Group, facts: Facts) -> Task<'a> {
        Task { group, facts, allowed: &self.allowed, function: &self.function }
    }
}

impl Job<'_> {
    /// Whether it has to be read which of its names rotate: only a name of one's own does, unless it is stated how it
    /// answers.
    pub(super) fn may_rotate(&self) -> bool {
        let is_own = |hostname: &Hostname| hostname.kind() == HostnameKind::Other;
        !self.past.has_read_rotating
            && self.group.deregister_after_seconds != Some(0)
            && self.group.hostnames().into_iter().any(is_own)
    }
}

/// How long groups wait for the facts of others that are read with theirs.
const PATIENCE_FOR_FACTS: Duration = Duration::from_secs(4);

/// How long groups wait to know which names rotate.
const PATIENCE_FOR_TAGS: Duration = Duration::from_secs(2);
