//! The reconciliation of target groups: asks DNS and ELBv2, lets the plan decide, and carries it
//! out.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{
    future::join_all,
    stream::{FuturesUnordered, StreamExt},
};
use tokio::{
    join, select,
    time::{Instant, sleep_until, timeout, timeout_at},
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
    target_group::{ElbError, Facts, RegisterError, TargetGroups},
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
    /// When each target group was last found or brought in step, and with what.
    pub in_step: Mutex<HashMap<TargetGroupArn, InStep>>,
}

/// What a target group was in step with.
#[derive(Debug)]
pub struct InStep {
    targets: BTreeSet<Target>,
    at: Instant,
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
        // Where the budget suffices for all, DNS and ELBv2 are asked at the same time. Where it
        // may not, DNS is asked first, to know which groups need it most.
        let mut queue: Vec<_> = if self.limiter.holds(groups.len()) {
            groups.iter().enumerate().map(|(position, group)| (position, group, None)).collect()
        } else {
            self.by_urgency(groups).await
        };
        queue.reverse();
        let now = Instant::now();
        let last_start = cutoff - (cutoff.saturating_duration_since(now) / 4).min(TIME_FOR_ONE);
        let mut running = FuturesUnordered::new();
        let mut budget_spent = false;
        loop {
            select! {
                biased;
                Some((position, report)) = running.next() => {
                    if let Some(slot) = reports.get_mut(position) {
                        *slot = report;
                    }
                }
                () = self.limiter.acquire(Priority::Start), if !queue.is_empty() && !budget_spent => {
                    if let Some((position, group, early)) = queue.pop() {
                        running.push(async move {
                            (position, self.reconcile_until(cutoff, group, early, dry_run).await)
                        });
                    }
                }
                () = sleep_until(last_start), if !queue.is_empty() && !budget_spent => budget_spent = true,
                else => break,
            }
        }
        for (position, group, early) in queue {
            if let Some(report) = reports.get_mut(position) {
                self.put_off(group, early, report);
            }
        }
        reports
    }

    /// Asks DNS for all groups, and orders them: first those whose answer is another than the one
    /// they were last in step with, then those that were not verified for the longest time.
    async fn by_urgency<'a>(&self, groups: &'a [Group]) -> Vec<(usize, &'a Group, Option<Resolution>)> {
        let mut asked = join_all(groups.iter().enumerate().map(async |(position, group)| {
            let family = self.target_groups.known_facts(&group.arn).map_or(IpFamily::V4, |facts| facts.family);
            // A name that hangs must not hold up the others; its group asks again in its turn.
            let early = timeout(EARLY_LOOK, self.resolve(group, family)).await.ok();
            (position, group, early)
        }))
        .await;
        let in_step = self.in_step.lock().unwrap_or_else(PoisonError::into_inner);
        asked.sort_by_cached_key(|(_, group, early)| {
            let last = in_step.get(&group.arn);
            let facts = self.target_groups.known_facts(&group.arn);
            let changed = match (last, facts, early) {
                (Some(last), Some(facts), Some(early)) => {
                    let desired = self.look(group, facts, early).desired;
                    desired.complete && desired.targets != last.targets
                }
                _ => false,
            };
            (Reverse(changed), last.map(|last| last.at))
        });
        asked
    }

    /// A group that the budget had no place for. It has not failed, unless its name did.
    fn put_off(&self, group: &Group, early: Option<Resolution>, report: &mut GroupReport) {
        let facts = self.target_groups.known_facts(&group.arn);
        if let (Some(facts), Some(early)) = (facts, early) {
            self.look(group, facts, &early).note(report);
        }
        report.outcome = if report.problems.is_empty() { Outcome::Deferred } else { Outcome::Failed };
    }

    async fn reconcile_until(
        &self,
        cutoff: Instant,
        group: &Group,
        early: Option<Resolution>,
        dry_run: bool,
    ) -> GroupReport {
        let mut report = GroupReport::new(group);
        let waits = Waits::default();
        let reconciliation = self.reconcile(group, early, dry_run, &mut report, &waits);
        let result = timeout_at(cutoff, reconciliation).await;
        let waiting = waits.names();
        match result {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => report.problems.push(problem),
            // It only waited for its turn, and was not looked at: the budget put it off.
            Err(_) if waiting.is_empty() && report.held.is_none() => return report,
            Err(_) => {
                let what = if waiting.is_empty() { "its turn under ELB_REQUESTS_PER_SECOND" } else { &waiting };
                report.problems.push(format!("given up shortly before the deadline, still waiting for {what}"));
            }
        }
        report.settle();
        for (address, reason) in &report.refused {
            warn!(target_group = %group.arn, hostname = report.names(), %address, reason, "refused");
        }
        report
    }

    /// What goes wrong is either noted in the report, where the rest goes on, or returned.
    async fn reconcile(
        &self,
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
                    Some(facts) => facts,
                    None => {
                        self.limiter.acquire(Priority::Continue).await;
                        waits.on("DescribeTargetGroups", self.target_groups.read_facts(arn)).await?
                    }
                };
                let resolution = match early {
                    Some(early) if early.family == facts.family => early,
                    _ => waits.on("DNS", self.resolve(group, facts.family)).await,
                };
                Ok::<_, ElbError>((facts, resolution))
            },
            waits.on("DescribeTargetHealth", self.target_groups.describe(arn)),
        );
        let (facts, mut resolution) = known.map_err(|error| error.to_string())?;
        let mut listed = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.look(group, facts, &resolution).note(report);
                return Err(error.to_string());
            }
        };
        for _ in 0..MOST_LOOKS {
            if resolution.is_old() {
                resolution = waits.on("DNS", self.resolve(group, facts.family)).await;
            }
            let look = self.look(group, facts, &resolution);
            let plan = Plan::new(&look.desired, &listed);
            look.note(report);
            report.count(&listed);
            if dry_run {
                report.registered = plan.register;
                report.deregistered = plan.deregister.iter().map(|shown| shown.target).collect();
                return Ok(());
            }
            if plan.is_empty() {
                for target in &plan.held {
                    warn!(
                        target_group = %arn, hostname = report.names(), %target,
                        "kept, although no answer holds it: a hostname did not resolve"
                    );
                }
                if report.problems.is_empty() {
                    self.remember(arn, look.desired.targets);
                }
                return Ok(());
            }
            self.limiter.acquire(Priority::Continue).await;
            if resolution.is_old() {
                continue;
            }
            if plan.register.is_empty() {
                self.deregister(group, &plan.deregister, &mut listed, report, waits).await?;
                continue;
            }
            let registered = self.register(group, &plan.register, &mut listed, report, waits).await;
            match registered {
                // Where the quota is used up, what is stale has to go first, or nothing new could
                // ever come; the next look registers.
                Err(RegisterError::QuotaReached(_)) if !plan.deregister.is_empty() => {
                    self.limiter.acquire(Priority::Continue).await;
                    if !resolution.is_old() {
                        self.deregister(group, &plan.deregister, &mut listed, report, waits).await?;
                    }
                }
                Err(error) => return Err(error.to_string()),
                Ok(()) => {
                    let refused: Vec<_> =
                        plan.register.iter().filter(|target| !report.registered.contains(target)).collect();
                    for target in &refused {
                        let reason = report.refused.get(&target.address).map_or("", String::as_str);
                        report.problems.push(format!("RegisterTargets refused {target}: {reason}"));
                    }
                    if !refused.is_empty() {
                        return Ok(());
                    }
                }
            }
        }
        Err(format!(
            "the answer was more than {} s old each time that ELBv2 was ready for a change; the next run tries again",
            OLDEST_ANSWER.as_secs()
        ))
    }

    async fn register(
        &self,
        group: &Group,
        targets: &BTreeSet<Target>,
        listed: &mut Vec<RegisteredTarget>,
        report: &mut GroupReport,
        waits: &Waits,
    ) -> Result<(), RegisterError> {
        let call = self.target_groups.register(&group.arn, targets, &mut report.registered, &mut report.refused);
        let result = waits.on("RegisterTargets", call).await;
        let registered: BTreeSet<_> = targets.intersection(&report.registered).copied().collect();
        for target in &registered {
            info!(
                target_group = %group.arn, hostname = report.names(), %target,
                reason = "an answer holds it", "registered"
            );
        }
        listed.retain(|shown| !registered.contains(&shown.target));
        listed.extend(registered.into_iter().map(|target| RegisteredTarget {
            target,
            availability_zone: None,
            state: TargetState::Other,
        }));
        report.count(listed);
        result
    }

    async fn deregister(
        &self,
        group: &Group,
        targets: &BTreeSet<RegisteredTarget>,
        listed: &mut [RegisteredTarget],
        report: &mut GroupReport,
        waits: &Waits,
    ) -> Result<(), String> {
        let call = self.target_groups.deregister(&group.arn, targets, &mut report.deregistered);
        let result = waits.on("DeregisterTargets", call).await;
        for shown in listed.iter_mut().filter(|shown| targets.contains(shown)) {
            if report.deregistered.contains(&shown.target) {
                shown.state = TargetState::Draining;
                info!(
                    target_group = %group.arn, hostname = report.names(), target = %shown.target,
                    reason = "no answer holds it", "deregistered"
                );
            }
        }
        report.count(listed);
        result.map_err(|error| error.to_string())
    }

    async fn resolve(&self, group: &Group, family: IpFamily) -> Resolution {
        let asked_at = Instant::now();
        let answers = join_all(
            group
                .hostnames()
                .into_iter()
                .map(async |hostname| (hostname.clone(), self.resolver.resolve(hostname, family).await)),
        );
        Resolution { family, answers: answers.await.into_iter().collect(), took: asked_at.elapsed() }
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
                complete: problems.is_empty(),
            },
            resolved: usable.values().flatten().copied().collect(),
            refused,
            problems,
            took: resolution.took,
        }
    }

    fn remember(&self, arn: &TargetGroupArn, targets: BTreeSet<Target>) {
        let mut in_step = self.in_step.lock().unwrap_or_else(PoisonError::into_inner);
        in_step.insert(arn.clone(), InStep { targets, at: Instant::now() });
    }
}

impl Resolution {
    /// Whether an answer is too old to plan on.
    fn is_old(&self) -> bool {
        self.answers.values().flatten().any(|answer| answer.at.elapsed() > OLDEST_ANSWER)
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

/// How often to look and act at the most: to register, to deregister and to find nothing left
/// takes three.
const MOST_LOOKS: usize = 6;

/// How long to wait for DNS before target groups are put in order.
const EARLY_LOOK: Duration = Duration::from_secs(1);

/// How long before the cut-off no further target group is begun, so that what is begun can end.
const TIME_FOR_ONE: Duration = Duration::from_secs(2);

const RUN_IN_THE_VPC: &str = ". If this is a publicly accessible database: its name resolves to its private address \
     only inside its VPC, so the function must run in that VPC";
