//! The reconciliation of target groups: asks DNS and ELBv2, lets the plan decide, and carries it
//! out.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use futures_util::{
    future::join_all,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::{
    join, select,
    time::{Instant, sleep_until, timeout_at},
};
use tracing::{info, warn};

use crate::{
    binding::Group,
    dns::{Answer, ResolveError, Resolver},
    hostname::Hostname,
    limiter::{Limiter, Priority},
    network::{AllowedNetworks, is_public},
    plan::{Desired, Plan},
    report::{GroupReport, Outcome},
    target::{IpFamily, RegisteredTarget, Target, TargetGroupArn, TargetState},
    target_group::{BATCH, ElbError, Facts, RegisterError, TargetGroups},
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
    /// The budget of ELBv2 requests.
    pub limiter: Arc<Limiter>,
    /// What is known of target groups from earlier runs.
    pub memories: Mutex<HashMap<TargetGroupArn, Memory>>,
}

/// What is known of a target group from earlier runs. It decides nothing but whose turn it is.
#[derive(Debug)]
pub struct Memory {
    /// When the group last had its turn, whatever came of it: one that always fails must not count
    /// as the longest unverified in every run.
    looked_at: Instant,
    /// The targets that it was last in step with.
    in_step: Option<BTreeSet<Target>>,
}

/// A target group that is to be looked at.
struct Job<'a> {
    position: usize,
    group: &'a Group,
    /// What DNS said before it was the group's turn.
    early: Option<Resolution>,
}

/// Whether there is a place for a group within the budget.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Turn {
    PutOff,
    Taken,
}

/// What DNS said to all hostnames of a target group.
#[derive(Debug)]
struct Resolution {
    family: IpFamily,
    answers: BTreeMap<Hostname, Result<Answer, ResolveError>>,
    took: Duration,
}

/// What a reconciliation waits for, so that one that is given up can name it.
#[derive(Debug, Default)]
struct Waits(Mutex<BTreeSet<&'static str>>);

impl Reconciler {
    /// Reconciles all `groups`, each by itself, and gives up what is still open at `cutoff`. The
    /// reports are in the order of the groups.
    pub async fn run(&self, groups: &[Group], dry_run: bool, cutoff: Instant) -> Vec<GroupReport> {
        let mut reports: Vec<_> = groups.iter().map(GroupReport::new).collect();
        let jobs: VecDeque<_> =
            groups.iter().enumerate().map(|(position, group)| Job { position, group, early: None }).collect();
        // Where the budget suffices for all, DNS and ELBv2 are asked at the same time. Where it
        // may not, DNS is asked first, to know which groups need it most.
        let first_looks = groups.iter().filter(|group| self.target_groups.known_facts(&group.arn).is_none()).count();
        let mut queue =
            if self.limiter.holds(groups.len() + first_looks) { jobs } else { self.by_urgency(jobs, cutoff).await };
        let left = cutoff.saturating_duration_since(Instant::now());
        let last_start = cutoff - TIME_FOR_ONE.max(self.limiter.time_for(REQUESTS_FOR_ONE)).min(left / 2);
        let mut running = FuturesUnordered::new();
        loop {
            select! {
                biased;
                Some((position, report)) = running.next() => {
                    if let Some(slot) = reports.get_mut(position) {
                        *slot = report;
                    }
                }
                () = self.limiter.acquire(Priority::Start), if !queue.is_empty() => {
                    running.extend(queue.pop_front().map(|job| self.handle(job, Turn::Taken, dry_run, cutoff)));
                }
                () = sleep_until(last_start), if !queue.is_empty() => {
                    running.extend(queue.drain(..).map(|job| self.handle(job, Turn::PutOff, dry_run, cutoff)));
                }
                else => break,
            }
        }
        reports
    }

    /// Puts the groups in order: first those whose answer is another than the one they were last
    /// in step with, then those whose turn was the longest time ago.
    async fn by_urgency<'a>(&self, mut jobs: VecDeque<Job<'a>>, cutoff: Instant) -> VecDeque<Job<'a>> {
        // Where nothing is remembered, as in a cold start, the first of the bindings must not be
        // the first each time.
        jobs.rotate_left(minute_of_epoch().wrapping_mul(STRIDE) % jobs.len().max(1));
        let until = dns_cutoff(cutoff).min(Instant::now() + EARLY_LOOK);
        let mut jobs = join_all(jobs.into_iter().map(async |mut job| {
            // Of a group that was never looked at, there is nothing to compare the answer with.
            if let Some(Ok(facts)) = self.target_groups.known_facts(&job.group.arn) {
                job.early = Some(self.resolve(job.group, facts.family, until).await);
            }
            job
        }))
        .await;
        let memories = self.memories();
        jobs.sort_by_cached_key(|job| {
            let memory = memories.get(&job.group.arn);
            let in_step = memory.and_then(|memory| memory.in_step.as_ref());
            let facts = self.target_groups.known_facts(&job.group.arn);
            let changed = match (in_step, facts, &job.early) {
                (Some(in_step), Some(Ok(facts)), Some(early)) => {
                    let desired = self.look(job.group, facts, early).desired;
                    if desired.complete { desired.targets != *in_step } else { !desired.targets.is_subset(in_step) }
                }
                _ => false,
            };
            (Reverse(changed), memory.map(|memory| memory.looked_at))
        });
        jobs.into()
    }

    async fn handle(&self, job: Job<'_>, turn: Turn, dry_run: bool, cutoff: Instant) -> (usize, GroupReport) {
        let Job { position, group, early } = job;
        let mut report = GroupReport::new(group);
        match turn {
            Turn::PutOff => self.put_off(group, early, cutoff, &mut report).await,
            Turn::Taken => {
                if !dry_run {
                    self.memories()
                        .entry(group.arn.clone())
                        .and_modify(|memory| memory.looked_at = Instant::now())
                        .or_insert_with(|| Memory { looked_at: Instant::now(), in_step: None });
                }
                self.reconcile_until(cutoff, group, early, dry_run, &mut report).await;
            }
        }
        (position, report)
    }

    /// A group that the budget has no place for. It has not failed, unless its name did.
    async fn put_off(&self, group: &Group, early: Option<Resolution>, cutoff: Instant, report: &mut GroupReport) {
        let facts = match self.target_groups.known_facts(&group.arn).transpose() {
            Ok(facts) => facts,
            Err(error) => {
                report.problems.push(error.to_string());
                report.outcome = Outcome::Failed;
                return;
            }
        };
        // Whether the name resolves at all, either family tells.
        let family = facts.map_or(IpFamily::V4, |facts| facts.family);
        let resolution = match early {
            Some(early) if early.is_complete() => early,
            _ => self.resolve(group, family, cutoff).await,
        };
        if let Some(facts) = facts.filter(|_| resolution.is_complete()) {
            self.look(group, facts, &resolution).note(report);
        } else {
            // That we had no time to hear of a name, or that its group may be of the other family,
            // is no failure.
            let failures = resolution.answers.iter().filter_map(|(hostname, answer)| {
                let error = answer.as_ref().err()?;
                let known = !error.is_out_of_time() && (facts.is_some() || !error.is_no_data());
                known.then(|| format!("{hostname}: {error}"))
            });
            report.problems.extend(failures);
        }
        report.outcome = if report.problems.is_empty() { Outcome::Deferred } else { Outcome::Failed };
    }

    async fn reconcile_until(
        &self,
        cutoff: Instant,
        group: &Group,
        early: Option<Resolution>,
        dry_run: bool,
        report: &mut GroupReport,
    ) {
        let waits = Waits::default();
        let result = timeout_at(cutoff, self.reconcile(cutoff, group, early, dry_run, report, &waits)).await;
        let waiting = waits.names();
        match result {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => report.problems.push(problem),
            // It only waited for its turn, and nothing was decided: the budget put it off.
            Err(_) if waiting.is_empty() && report.held.is_none() => return,
            Err(_) => {
                let what = if waiting.is_empty() { "its turn under ELB_REQUESTS_PER_SECOND" } else { &waiting };
                report.problems.push(format!("given up shortly before the deadline, still waiting for {what}"));
            }
        }
        report.settle();
        log(report, dry_run);
    }

    /// Looks and acts until there is nothing left to do. What goes wrong is either noted in the
    /// report, where the rest goes on, or returned.
    async fn reconcile(
        &self,
        cutoff: Instant,
        group: &Group,
        early: Option<Resolution>,
        dry_run: bool,
        report: &mut GroupReport,
        waits: &Waits,
    ) -> Result<(), String> {
        let arn = &group.arn;
        let (known, listed) = join!(
            async {
                let facts = match self.target_groups.known_facts(arn) {
                    Some(known) => known?,
                    None => {
                        self.limiter.acquire(Priority::Continue).await;
                        waits.on("DescribeTargetGroups", self.target_groups.read_facts(arn)).await?
                    }
                };
                let resolution = match early {
                    Some(early) if early.is_complete() => early,
                    _ => waits.on("DNS", self.resolve(group, facts.family, dns_cutoff(cutoff))).await,
                };
                Ok::<_, ElbError>((facts, resolution))
            },
            waits.on("DescribeTargetHealth", self.target_groups.describe(arn)),
        );
        if let Ok(listed) = &listed {
            report.count(listed);
        }
        let (facts, mut resolution) = known.map_err(|error| error.to_string())?;
        let mut listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.look(group, facts, &resolution).note(report);
                return Err(error.to_string());
            }
        };
        let mut refused = BTreeMap::new();
        let mut quota_reached = false;
        let mut registered_when_room_was_made = None;
        let mut has_turn = false;
        loop {
            // What was true when a slow call began must not undo what a newer run has done since.
            // Twice, because a slow name may make the answers beside it old meanwhile.
            for _ in 0..2 {
                if resolution.is_old() {
                    waits.on("DNS", self.refresh(&mut resolution, dns_cutoff(cutoff))).await;
                }
            }
            let look = self.look(group, facts, &resolution);
            let plan = Plan::new(&look.desired, &listed);
            look.note(report);
            report.refused.extend(refused.clone());
            report.kept = plan.held;
            if dry_run {
                report.registered = plan.register;
                report.deregistered = plan.deregister.iter().map(|shown| shown.target).collect();
                return Ok(());
            }
            let (turned_down, missing): (Vec<Target>, Vec<Target>) =
                plan.register.iter().partition(|target| refused.contains_key(&target.address));
            if missing.is_empty() && (plan.deregister.is_empty() || !turned_down.is_empty()) {
                if has_turn {
                    self.limiter.give_back();
                }
                if !turned_down.is_empty() {
                    report.kept.extend(plan.deregister.iter().map(|shown| shown.target));
                }
                for target in &turned_down {
                    let reason = refused.get(&target.address).map_or("", String::as_str);
                    report.problems.push(format!("RegisterTargets refused {target}: {reason}"));
                }
                if report.problems.is_empty() {
                    self.remember(arn, look.desired.targets);
                }
                return Ok(());
            }
            if !has_turn {
                self.limiter.acquire(Priority::Continue).await;
                has_turn = true;
                if resolution.is_old() {
                    continue;
                }
            }
            has_turn = false;
            if missing.is_empty() || (quota_reached && !plan.deregister.is_empty()) {
                // Where the quota refused what is missing, as much room is made as that needs.
                let most = if missing.is_empty() { BATCH } else { missing.len().min(BATCH) };
                let batch = plan.deregister.into_iter().take(most).collect();
                self.deregister(arn, &batch, &mut listed, report, waits).await?;
                if quota_reached {
                    quota_reached = false;
                    registered_when_room_was_made = Some(report.registered.len());
                }
                continue;
            }
            let batch = missing.into_iter().take(BATCH).collect();
            match self.register(arn, &batch, &mut listed, report, &mut refused, waits).await {
                // Room that helped nothing is not made again: that would empty the group.
                Err(RegisterError::QuotaReached(_))
                    if !plan.deregister.is_empty()
                        && registered_when_room_was_made != Some(report.registered.len()) =>
                {
                    quota_reached = true;
                }
                Err(error) => return Err(error.to_string()),
                Ok(()) => {}
            }
        }
    }

    async fn register(
        &self,
        arn: &TargetGroupArn,
        batch: &BTreeSet<Target>,
        listed: &mut Vec<RegisteredTarget>,
        report: &mut GroupReport,
        refused: &mut BTreeMap<IpAddr, String>,
        waits: &Waits,
    ) -> Result<(), RegisterError> {
        let mut registered = Vec::new();
        let mut accepted = |targets: &[Target]| {
            report.registered.extend(targets);
            registered.extend_from_slice(targets);
        };
        let call = self.target_groups.register(arn, batch, &mut accepted, refused);
        let result = waits.on("RegisterTargets", call).await;
        listed.retain(|shown| !registered.contains(&shown.target));
        listed.extend(registered.into_iter().map(|target| RegisteredTarget {
            target,
            id: target.address.to_string(),
            availability_zone: None,
            state: TargetState::Other,
        }));
        report.count(listed);
        report.refused.extend(refused.clone());
        result
    }

    async fn deregister(
        &self,
        arn: &TargetGroupArn,
        batch: &BTreeSet<RegisteredTarget>,
        listed: &mut [RegisteredTarget],
        report: &mut GroupReport,
        waits: &Waits,
    ) -> Result<(), String> {
        let call = self.target_groups.deregister(arn, batch);
        waits.on("DeregisterTargets", call).await.map_err(|error| error.to_string())?;
        report.deregistered.extend(batch.iter().map(|shown| shown.target));
        for shown in listed.iter_mut().filter(|shown| batch.contains(shown)) {
            shown.state = TargetState::Draining;
        }
        report.count(listed);
        Ok(())
    }

    async fn resolve(&self, group: &Group, family: IpFamily, until: Instant) -> Resolution {
        let asked_at = Instant::now();
        let answers = self.ask(group.hostnames(), family, until).await;
        Resolution { family, answers, took: asked_at.elapsed() }
    }

    /// Asks again for what is too old. What failed stays as it is: a name that hangs would make
    /// the answers beside it old again.
    async fn refresh(&self, resolution: &mut Resolution, until: Instant) {
        let old = resolution.answers.iter().filter(|(_, answer)| is_old(answer)).map(|(hostname, _)| hostname);
        let answers = self.ask(old.collect(), resolution.family, until).await;
        resolution.answers.extend(answers);
    }

    async fn ask(
        &self,
        hostnames: BTreeSet<&Hostname>,
        family: IpFamily,
        until: Instant,
    ) -> BTreeMap<Hostname, Result<Answer, ResolveError>> {
        let answers = hostnames
            .into_iter()
            .map(async |hostname| (hostname.clone(), self.resolver.resolve(hostname, family, until).await));
        join_all(answers).await.into_iter().collect()
    }

    /// Judges the answers: which addresses may become targets, and what is the matter with the
    /// hostnames that give none.
    fn look(&self, group: &Group, facts: Facts, resolution: &Resolution) -> Look {
        let mut usable: BTreeMap<&Hostname, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut refused = BTreeMap::new();
        let mut problems = Vec::new();
        for (hostname, answer) in &resolution.answers {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    problems.push(format!("{hostname}: {error}"));
                    continue;
                }
            };
            let mut own = BTreeMap::new();
            for address in &answer.addresses {
                match self.allowed_networks.refusal(*address) {
                    Some(reason) => drop(own.insert(*address, reason)),
                    None => drop(usable.entry(hostname).or_default().insert(*address)),
                }
            }
            if !usable.contains_key(hostname) {
                let list = own.iter().map(|(address, reason)| format!("{address}: {reason}")).collect::<Vec<_>>();
                let public = own.keys().copied().any(is_public);
                problems.push(format!(
                    "{hostname}: no address of the answer can be registered ({}){}",
                    list.join("; "),
                    if public { RUN_IN_THE_VPC } else { "" },
                ));
            }
            refused.extend(own);
        }
        Look {
            desired: Desired {
                targets: group.targets(facts.port, |hostname| usable.get(hostname).into_iter().flatten().copied()),
                refused: refused.keys().copied().collect(),
                complete: problems.is_empty(),
            },
            resolved: usable.values().flatten().copied().collect(),
            refused,
            problems,
            took: resolution.took,
        }
    }

    fn remember(&self, arn: &TargetGroupArn, targets: BTreeSet<Target>) {
        if let Some(memory) = self.memories().get_mut(arn) {
            memory.in_step = Some(targets);
        }
    }

    fn memories(&self) -> MutexGuard<'_, HashMap<TargetGroupArn, Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolution {
    /// Whether every hostname resolved.
    fn is_complete(&self) -> bool {
        self.answers.values().all(Result::is_ok)
    }

    /// Whether an answer is too old to plan on.
    fn is_old(&self) -> bool {
        self.answers.values().any(is_old)
    }
}

fn is_old(answer: &Result<Answer, ResolveError>) -> bool {
    answer.as_ref().is_ok_and(|answer| answer.at.elapsed() > OLDEST_ANSWER)
}

fn minute_of_epoch() -> usize {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    usize::try_from(since_epoch.as_secs() / 60).unwrap_or_default()
}

/// Three quarters of the time that is left: DNS that hangs has to leave some for what else DNS
/// gave.
fn dns_cutoff(cutoff: Instant) -> Instant {
    let now = Instant::now();
    now + cutoff.saturating_duration_since(now) * 3 / 4
}

/// A line for each change and each thing that is not as it should be.
fn log(report: &GroupReport, dry_run: bool) {
    let group = &report.target_group_arn;
    let hostname = report.names();
    let would = if dry_run { "would be " } else { "" };
    for target in &report.registered {
        info!(target_group = %group, hostname, %target, reason = "an answer holds it", "{would}registered");
    }
    for target in &report.deregistered {
        info!(target_group = %group, hostname, %target, reason = "no answer holds it", "{would}deregistered");
    }
    for target in &report.kept {
        let reason = "a hostname did not resolve, or ALLOWED_CIDRS or AWS refused an address";
        warn!(target_group = %group, hostname, %target, reason, "kept");
    }
    for (address, reason) in &report.refused {
        warn!(target_group = %group, hostname, %address, reason, "refused");
    }
}

/// What the answers mean for a target group.
struct Look {
    desired: Desired,
    resolved: BTreeSet<IpAddr>,
    refused: BTreeMap<IpAddr, String>,
    problems: Vec<String>,
    took: Duration,
}

impl Look {
    /// Puts it into the report, in place of an earlier look.
    fn note(&self, report: &mut GroupReport) {
        report.resolved.clone_from(&self.resolved);
        report.refused.clone_from(&self.refused);
        report.problems.clone_from(&self.problems);
        report.resolve_time = Some(self.took);
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

/// The contract: an answer that is older by the time the targets are known is asked for again.
const OLDEST_ANSWER: Duration = Duration::from_secs(2);

/// How long to wait for DNS before target groups are put in order: long enough for a second name
/// server where the first is dead.
const EARLY_LOOK: Duration = Duration::from_secs(3);

/// How long before the cut-off no further target group is begun, so that what is begun can end.
const TIME_FOR_ONE: Duration = Duration::from_secs(5);

/// How far the order of the bindings is rotated from a minute to the next. A prime, so that it has
/// no factor in common with most numbers of groups.
const STRIDE: usize = 37;

/// What a target group may need within that time: to be described, its facts, a registration and
/// a deregistration.
const REQUESTS_FOR_ONE: u32 = 4;

const RUN_IN_THE_VPC: &str = ". If this is a publicly accessible database: its name resolves to its private address \
     only inside its VPC, so the function must run in that VPC";
