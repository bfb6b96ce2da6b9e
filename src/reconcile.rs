//! Carries out the steps of a run: asks DNS and ELBv2, waits for turns, and gives up when the time is over. It decides
//! nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    join,
    time::{sleep, timeout, timeout_at},
};
use tracing::{info, warn};

use crate::{
    aws::ATTEMPT_TIMEOUT,
    binding::Group,
    dns::Resolver,
    failure::{ElbError, Failure},
    hostname::Hostname,
    limiter::{Limiter, Permit, Priority},
    memory::Memory,
    network::AllowedNetworks,
    plan::HoldReason,
    report::GroupReport,
    resolution::{Answers, Resolution},
    run::{Mode, Now, Run, Step, Task},
    state::Timestamp,
    tags::Tags,
    target::{IpFamily, RegisteredTarget, Target},
    target_group::{Operation, TargetGroups},
};

/// Brings target groups into step with DNS.
#[derive(Debug)]
pub struct Reconciler {
    /// Asks DNS.
    pub resolver: Resolver,
    /// Asks and changes ELBv2.
    pub target_groups: TargetGroups,
    /// Which addresses may become targets.
    pub allowed_networks: AllowedNetworks,
    /// The name of this function.
    pub function: String,
    /// The budget of ELBv2 requests.
    pub limiter: Arc<Limiter>,
    /// The clock that grace periods are measured by.
    pub clock: fn() -> SystemTime,
}

/// What a run waits for, so that one that is given up can name it.
#[derive(Debug, Default)]
struct Waits(Mutex<BTreeSet<&'static str>>);

impl Reconciler {
    /// The time.
    pub fn now(&self) -> Now {
        Now { at: Instant::now(), time: Timestamp::from((self.clock)()) }
    }

    /// Reconciles one target group, and gives up at `cutoff`. `turn` is that of the first DescribeTargetHealth, `early`
    /// what DNS said before. What was learned is in the memory afterwards.
    pub async fn reconcile(
        &self,
        group: &Group,
        memory: &mut Memory,
        turn: Permit,
        early: Option<Resolution>,
        mode: Mode,
        cutoff: Instant,
    ) -> GroupReport {
        let task = Task {
            group,
            allowed: &self.allowed_networks,
            function: &self.function,
            mode,
            facts: self.target_groups.known_facts(&group.arn).and_then(Result::ok),
            nonce: u32::try_from(RandomState::new().build_hasher().finish() % 1_000_000).unwrap_or_default(),
            cutoff,
        };
        let mut run = Run::new(task, memory, early, self.now());
        let waits = Waits::default();
        let steps = Steps { reconciler: self, group, waits: &waits, cutoff };
        let working = async {
            let tidying = if run.may_tidy() { self.limiter.spare(SPARE_REQUESTS) } else { None };
            let ((), tags) = join!(steps.carry_out(&mut run, Some(turn)), steps.spare_tags(tidying));
            if let Some(tags) = tags {
                run.tidy(tags);
                steps.carry_out(&mut run, None).await;
            }
        };
        if timeout_at(cutoff.into(), working).await.is_err() {
            run.cut_off(&waits.names());
        }
        let report = run.finish();
        if mode == Mode::DryRun {
            log_changes(group, "would be registered", &report.registered);
            log_changes(group, "would be deregistered", &report.deregistered);
        }
        report
    }

    /// Asks all hostnames of a group once.
    pub async fn resolve(&self, group: &Group, family: IpFamily, until: Instant) -> Resolution {
        let asked_at = Instant::now();
        let answers = self.ask(group.hostnames(), family, until).await;
        Resolution { answers, took: asked_at.elapsed() }
    }

    async fn ask(&self, hostnames: impl IntoIterator<Item = &Hostname>, family: IpFamily, until: Instant) -> Answers {
        let answers = hostnames
            .into_iter()
            .map(async |hostname| (hostname.clone(), self.resolver.resolve(hostname, family, until).await));
        answers.collect::<FuturesUnordered<_>>().collect().await
    }
}

/// Carries out the steps of one run.
struct Steps<'a> {
    reconciler: &'a Reconciler,
    group: &'a Group,
    waits: &'a Waits,
    cutoff: Instant,
}

impl Steps<'_> {
    async fn carry_out(&self, run: &mut Run<'_>, mut first: Option<Permit>) {
        let mut turn: Option<Permit> = None;
        // What two runs have deregistered between them must be put back, though the budget is used up. So a deregistration
        // waits for a second turn, which stays until something is registered; what goes out meanwhile is counted only.
        let mut reserve: Option<Permit> = None;
        loop {
            let step = run.next(self.reconciler.now());
            let needs_reserve = matches!(step, Step::Deregister(_));
            if step.is_write() && reserve.is_none() && (needs_reserve || turn.is_none()) {
                // One turn that is kept while another one is waited for might keep others waiting.
                drop(turn.take());
                if needs_reserve {
                    [turn, reserve] = self.reconciler.limiter.acquire_all(Priority::Continue).await.map(Some);
                } else {
                    turn = Some(self.turn().await);
                }
                // What was true before the wait may be true no more: the run is asked again.
                continue;
            }
            match step {
                Step::Done => return,
                Step::Pause(pause) => sleep(pause).await,
                Step::Read { facts, hostnames, until, tags } => {
                    self.read(run, facts, hostnames, until, tags, first.take()).await;
                }
                Step::Resolve { hostnames, family, until } => {
                    let answers = self.waits.on("DNS", self.reconciler.ask(&hostnames, family, until)).await;
                    run.answered(answers, self.reconciler.now());
                }
                // Who has a turn for a change already does not wait for another one: that might never end.
                Step::Reread { tags } => {
                    let asked_at = Instant::now();
                    let (listed, tags) =
                        join!(self.list(None), async { if tags { Some(self.tags(None).await) } else { None } });
                    run.listed(listed, asked_at);
                    if let Some(tags) = tags {
                        run.tags_read(tags);
                    }
                }
                Step::ReadTags => run.tags_read(self.tags(Some(self.turn().await)).await),
                Step::AddTags(_) | Step::RemoveTags(_) | Step::Register(_) | Step::Deregister(_) => {
                    let turn = match step {
                        Step::Register(_) => turn.take().or_else(|| reserve.take()),
                        _ => turn.take(),
                    };
                    self.write(run, step, turn).await;
                }
            }
        }
    }

    async fn read(
        &self,
        run: &mut Run<'_>,
        facts: bool,
        hostnames: BTreeSet<Hostname>,
        until: Instant,
        tags: bool,
        turn: Option<Permit>,
    ) {
        let target_groups = &self.reconciler.target_groups;
        let asked_at = Instant::now();
        let ((), listed, tags) = join!(
            // What DNS said counts even where the time is over before the rest is known.
            async {
                let known = match target_groups.known_facts(&self.group.arn) {
                    Some(known) if !facts || known.is_err() => known,
                    _ => {
                        let turn = self.turn().await;
                        self.waits.on("DescribeTargetGroups", target_groups.read_facts(&self.group.arn, turn)).await
                    }
                };
                let asked_at = Instant::now();
                let answers = match &known {
                    Ok(facts) => {
                        let asking = self.reconciler.ask(&hostnames, facts.family, until);
                        self.waits.on("DNS", asking).await
                    }
                    Err(_) => BTreeMap::new(),
                };
                run.learned(known);
                if !answers.is_empty() {
                    run.answered(answers, self.reconciler.now());
                    run.resolved_in(asked_at.elapsed());
                }
            },
            self.list(turn),
            async { if tags { Some(self.tags(Some(self.turn().await)).await) } else { None } },
        );
        run.listed(listed, asked_at);
        if let Some(tags) = tags {
            run.tags_read(tags);
        }
    }

    async fn write(&self, run: &mut Run<'_>, step: Step, turn: Option<Permit>) {
        let arn = &self.group.arn;
        let target_groups = &self.reconciler.target_groups;
        match step {
            Step::AddTags(tags) => {
                let result = self.waits.on("AddTags", target_groups.add_tags(arn, &tags, turn)).await;
                run.tags_added(&tags, result);
            }
            Step::RemoveTags(keys) => {
                let result = self.waits.on("RemoveTags", target_groups.remove_tags(arn, &keys, turn)).await;
                run.tags_removed(&keys, result);
            }
            Step::Register(batch) => {
                let batch = batch.into_iter().map(RegisteredTarget::new);
                let call = target_groups.change(Operation::Register, arn, batch, turn, |targets| {
                    run.registered_targets(targets, Instant::now());
                    log_changes(self.group, "registered", targets);
                });
                let (refused, failed) = self.waits.on("RegisterTargets", call).await;
                run.registration_ended(refused, failed);
            }
            Step::Deregister(batch) => {
                let call = target_groups.change(Operation::Deregister, arn, batch, turn, |targets| {
                    run.deregistered_targets(targets, Instant::now());
                    log_changes(self.group, "deregistered", targets);
                });
                let (refused, failed) = self.waits.on("DeregisterTargets", call).await;
                run.deregistration_ended(refused, failed);
            }
            _ => {}
        }
    }

    async fn list(&self, turn: Option<Permit>) -> Result<Vec<RegisteredTarget>, ElbError> {
        self.waits.on("DescribeTargetHealth", self.reconciler.target_groups.describe(&self.group.arn, turn)).await
    }

    async fn tags(&self, turn: Option<Permit>) -> Result<Tags, ElbError> {
        self.waits.on("DescribeTags", self.reconciler.target_groups.describe_tags(&self.group.arn, turn)).await
    }

    /// Tags that nobody needs: `None` where there is no turn to spare for them, where it takes too long until the request
    /// may go out, or where that hangs. Given up sooner, it would still be open at AWS, and another one in its place.
    async fn spare_tags(&self, turn: Option<Permit>) -> Option<Result<Tags, ElbError>> {
        let half = || self.cutoff.saturating_duration_since(Instant::now()) / 2;
        let placed = self.reconciler.target_groups.with_place(&self.group.arn, turn?);
        let turn = timeout(TIDYING_TIMEOUT.min(half()), placed).await.ok()?;
        let tags = self.reconciler.target_groups.describe_tags(&self.group.arn, Some(turn));
        timeout(ATTEMPT_TIMEOUT.min(half()), tags).await.ok()
    }

    async fn turn(&self) -> Permit {
        self.reconciler.limiter.acquire(Priority::Continue).await
    }
}

/// A line for each thing that is not as it should be, unless an earlier report of the invocation had it.
pub fn log(report: &GroupReport, earlier: &GroupReport) {
    let group = &report.target_group_arn;
    let hostname = report.names();
    for held in report.held.iter().filter(|held| !earlier.held.contains(held)) {
        let reason = held.reason.as_str();
        let target = held.target;
        match held.reason {
            // Those are as they should be.
            HoldReason::Foreign => {}
            HoldReason::Evidence | HoldReason::Grace | HoldReason::Initial | HoldReason::OwnedElsewhere => {
                info!(target_group = %group, hostname, %target, reason, "kept");
            }
            _ => warn!(target_group = %group, hostname, %target, reason, "kept"),
        }
    }
    for (address, reason) in report.refused.iter().filter(|(address, _)| !earlier.refused.contains_key(*address)) {
        warn!(target_group = %group, hostname, %address, reason, "refused");
    }
    for warning in report.warnings.iter().filter(|warning| !earlier.warnings.contains(warning)) {
        warn!(target_group = %group, hostname, warning, "not as it should be");
    }
}

/// Names the hostnames that no longer resolve: what ends before the watch does is in no reply.
pub fn log_unresolved(report: &GroupReport, earlier: &GroupReport) {
    for failure in report.failures.iter().filter(|failure| !earlier.failures.contains(failure)) {
        warn!(target_group = %report.target_group_arn, kind = failure.kind(), problem = %failure, "not resolved");
    }
}

/// Names what failed before and no longer does: what is over before a watch is, is in no reply.
pub fn log_past(earlier: &[Failure], report: &GroupReport) {
    for failure in earlier.iter().filter(|failure| !report.failures.contains(failure)) {
        warn!(target_group = %report.target_group_arn, kind = failure.kind(), problem = %failure, "failed before");
    }
}

/// A line for each change.
fn log_changes<'a>(group: &Group, change: &str, targets: impl IntoIterator<Item = &'a Target>) {
    let hostname = group.names();
    let reason = if change.ends_with("deregistered") { "no answer holds it" } else { "an answer holds it" };
    for target in targets {
        info!(target_group = %group.arn, hostname, %target, reason, "{change}");
    }
}

impl Waits {
    /// Waits for `future`, and remembers so for as long as it takes. Where the wait is cut off,
    /// the memory stays.
    async fn on<T>(&self, what: &'static str, future: impl Future<Output = T>) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what);
        let output = future.await;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
        output
    }

    fn names(&self) -> String {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.iter().copied().collect::<Vec<_>>().join(" and ")
    }
}

/// How long to wait for a place to read tags that nobody needs.
const TIDYING_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests that must be left before one is spent on what another setting may have left in the tags.
const SPARE_REQUESTS: usize = 3;
