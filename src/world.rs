//! The world of a run: DNS and one target group, as they really are.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};
use std::{error::Error, fmt::Display, mem};

use aws_sdk_elasticloadbalancingv2::Client;
use aws_sdk_elasticloadbalancingv2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_elasticloadbalancingv2::types::{Tag, TargetDescription};
use futures_util::stream::{FuturesUnordered, StreamExt};
use nlb_hostname_targets_core::run::dns_cutoff;
use nlb_hostname_targets_core::world::{Changed, World};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::aws::elb::call;
use crate::aws::target_group::{
    DESCRIBE_TAGS, DESCRIBE_TARGET_HEALTH, TargetGroups, describe_tags, failed, registered_targets,
};
use crate::budget::{Budget, Turn};
use crate::clock::{Now, Timestamp};
use crate::failure::{ElbError, ElbErrorKind};
use crate::tags::{TagChanges, Tags};
use crate::target::{IpFamily, RegisteredTarget, Target};
use crate::{
    answer::Answers, binding::Group, dns::Resolver, hostname::Hostname, plan::HoldReason, report::GroupReport,
};

/// What the function reaches of the world outside.
#[derive(Debug)]
pub(crate) struct Edges {
    pub(crate) resolver: Resolver,
    pub(crate) target_groups: TargetGroups,
    /// The clock that grace periods are measured by.
    pub(crate) clock: fn() -> SystemTime,
}

impl Edges {
    pub(crate) fn now(&self) -> Now {
        Now { at: Instant::now(), time: Timestamp::from((self.clock)()) }
    }

    /// Asks DNS for each of these names once, until `until` at the latest.
    pub(crate) async fn ask(
        &self,
        hostnames: impl IntoIterator<Item = &Hostname>,
        family: IpFamily,
        until: Instant,
    ) -> Answers {
        let ask = async |hostname: &Hostname| (hostname.clone(), self.resolver.resolve(hostname, family, until).await);
        hostnames.into_iter().map(ask).collect::<FuturesUnordered<_>>().collect().await
    }
}

/// What a run, and a watch after it, reach of the world outside.
pub(crate) struct GroupWorld<'a> {
    edges: &'a Edges,
    group: &'a Group,
    family: IpFamily,
    cutoff: Instant,
    /// For the first list.
    turn: Cell<Option<Turn<'a>>>,
    /// Whether the budget was waited for, and nothing used it yet.
    has_turn: Cell<bool>,
    /// What is waited for now.
    waits: RefCell<Vec<&'static str>>,
    observed: RefCell<Option<GroupReport>>,
    elb: Client,
}

impl<'a> GroupWorld<'a> {
    /// The world of a run that ends at `cutoff`. `turn` is for its first list.
    pub(crate) fn new(
        edges: &'a Edges,
        group: &'a Group,
        family: IpFamily,
        turn: Option<Turn<'a>>,
        cutoff: Instant,
    ) -> Self {
        let (turn, has_turn) = (Cell::new(turn), Cell::default());
        let (waits, observed) = (RefCell::default(), RefCell::default());
        let elb = edges.target_groups.elb.client(group.arn.as_str());
        Self { edges, group, family, cutoff, turn, has_turn, waits, observed, elb }
    }

    /// What a run was waiting for when it was given up.
    pub(crate) fn waiting(&self) -> String {
        let waits: BTreeSet<_> = self.waits.borrow().iter().copied().collect();
        waits.into_iter().collect::<Vec<_>>().join(" and ")
    }

    /// Whether that was nothing but its turn.
    pub(crate) fn is_put_off(&self) -> bool {
        let waits = self.waits.borrow();
        !waits.is_empty() && waits.iter().all(|what| *what == BUDGET)
    }

    /// Waits for `future`, and remembers so for as long as it takes. The memory stays where the wait is given up.
    async fn wait<T>(&self, what: &'static str, future: impl Future<Output = T>) -> T {
        self.waits.borrow_mut().push(what);
        let output = future.await;
        let mut waits = self.waits.borrow_mut();
        let ended = waits.iter().position(|other| *other == what);
        ended.map(|position| waits.remove(position));
        output
    }

    fn budget(&self) -> &'a Budget {
        &self.edges.target_groups.elb.budget
    }

    async fn take_turn(&self) -> Turn<'a> {
        match self.turn.take() {
            Some(turn) => turn,
            None if self.has_turn.take() => self.budget().take_paid(),
            None => self.wait(BUDGET, self.budget().acquire()).await,
        }
    }

    /// Lets the change that comes next wait for nothing: a list may have used its turn meanwhile, and to wait again would make
    /// old what it is decided on.
    fn hurry(&self) {
        let turn = if self.has_turn.take() { self.budget().take_paid() } else { self.budget().take() };
        self.turn.set(Some(turn));
    }

    /// Makes a call of ELBv2 when it has its turn.
    fn call<T, E: Error + ProvideErrorMetadata + 'static>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> impl Future<Output = Result<T, ElbError>> {
        let request = Box::pin(request);
        async move {
            let turn = self.take_turn().await;
            self.wait(operation, call(operation, turn, request)).await
        }
    }

    /// Registers or deregisters some hundred targets at most, as they are shown.
    ///
    /// What AWS refuses because of a target is sent again target by target, so that none keeps another out, or in. The
    /// Availability Zone of a new target is left out first; one that AWS says is outside the VPC is sent again with
    /// `all`, because only AWS knows which addresses lie in the VPC's subnets, and asking EC2 would need its permissions.
    async fn change(&self, operation: Operation, batch: Vec<RegisteredTarget>) -> Changed {
        self.hurry();
        let mut changed = Changed::default();
        let mut outside = Vec::new();
        let mut parts = VecDeque::from([batch]);
        while let Some(part) = parts.pop_front() {
            let sent = self.send(operation, &part).await;
            let kind = sent.as_ref().err().map(|error| error.kind);
            let is_of_a_target = matches!(kind, Some(ElbErrorKind::OutsideVpc | ElbErrorKind::TargetRefused));
            match sent {
                Ok(()) => {
                    let targets: Vec<_> = part.iter().map(|shown| shown.target).collect();
                    log_changes(self.group, operation.done(), &targets);
                    changed.accepted.extend(targets);
                }
                // Of several targets, a quota may have room for some.
                Err(_) if part.len() > 1 && (is_of_a_target || kind == Some(ElbErrorKind::QuotaReached)) => {
                    parts.extend(part.into_iter().map(|shown| vec![shown]));
                }
                Err(error) if !is_of_a_target => return Changed { failed: Some(error), ..changed },
                Err(error) => part.into_iter().for_each(|mut shown| {
                    let may_be_outside = operation == Operation::Register && shown.availability_zone.is_none();
                    if error.kind == ElbErrorKind::OutsideVpc && may_be_outside {
                        shown.availability_zone = Some("all".to_owned());
                        outside.push(shown);
                    } else {
                        let reason = error.problem.chars().take(LONGEST_REASON).collect();
                        changed.refused.insert(shown.target, reason);
                    }
                }),
            }
            if parts.is_empty() && !outside.is_empty() {
                parts.push_back(mem::take(&mut outside));
            }
        }
        changed
    }

    /// Sends each target with its port: without it, one that was registered on a port of its own stays, and AWS reports
    /// success.
    async fn send(&self, operation: Operation, part: &[RegisteredTarget]) -> Result<(), ElbError> {
        let targets = part.iter().map(|shown| {
            let target = TargetDescription::builder().id(&shown.id).port(shown.target.port.get().into());
            target.set_availability_zone(shown.availability_zone.clone()).build()
        });
        let (targets, arn) = (Some(targets.collect()), self.group.arn.as_str());
        match operation {
            Operation::Register => {
                let request = self.elb.register_targets().target_group_arn(arn).set_targets(targets);
                self.call("RegisterTargets", request.send()).await.map(drop)
            }
            Operation::Deregister => {
                let request = self.elb.deregister_targets().target_group_arn(arn).set_targets(targets);
                self.call("DeregisterTargets", request.send()).await.map(drop)
            }
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Operation {
    Deregister,
    Register,
}

impl Operation {
    /// The word of the log.
    fn done(self) -> &'static str {
        match self {
            Self::Deregister => "deregistered",
            Self::Register => "registered",
        }
    }
}

impl World for GroupWorld<'_> {
    fn now(&self) -> Now {
        self.edges.now()
    }

    async fn turn(&self) {
        // Kept open while DNS is asked, it would keep others waiting.
        drop(self.take_turn().await);
        self.has_turn.set(true);
    }

    async fn resolve(&self, names: &BTreeSet<Hostname>) -> Answers {
        let until = dns_cutoff(Instant::now(), self.cutoff);
        self.wait("DNS", self.edges.ask(names, self.family, until)).await
    }

    async fn list(&self) -> (Instant, Result<Vec<RegisteredTarget>, ElbError>) {
        let request = self.elb.describe_target_health().target_group_arn(self.group.arn.as_str());
        let turn = self.take_turn().await;
        let went_out = Instant::now();
        let request = call(DESCRIBE_TARGET_HEALTH, turn, Box::pin(request.send()));
        let reply = self.wait(DESCRIBE_TARGET_HEALTH, request).await;
        (went_out, reply.and_then(|reply| registered_targets(&reply)))
    }

    async fn read_tags(&self) -> Result<Tags, ElbError> {
        // Not the turn of the list beside it.
        let turn = self.wait(BUDGET, self.budget().acquire()).await;
        let arn = &self.group.arn;
        let read = describe_tags(self.elb.clone(), turn, vec![arn.to_string()]);
        let tags = self.wait(DESCRIBE_TAGS, read).await?.remove(arn);
        tags.ok_or_else(|| failed(DESCRIBE_TAGS, "the reply does not hold the target group"))
    }

    async fn write_tags(&self, changes: &TagChanges) -> Result<(), ElbError> {
        self.hurry();
        let arn = self.group.arn.as_str();
        // What can't be removed keeps nothing else out.
        let mut removed = Ok(());
        if !changes.remove.is_empty() {
            let keys = Some(changes.remove.iter().cloned().collect());
            let request = self.elb.remove_tags().resource_arns(arn).set_tag_keys(keys);
            removed = self.call("RemoveTags", request.send()).await.map(drop);
        }
        if !changes.add.is_empty() {
            let tags = changes.add.iter().map(|(key, value)| Tag::builder().key(key).value(value).build());
            let request = self.elb.add_tags().resource_arns(arn).set_tags(Some(tags.collect()));
            self.call("AddTags", request.send()).await?;
        }
        removed
    }

    async fn register(&self, targets: &BTreeSet<Target>) -> Changed {
        self.change(Operation::Register, targets.iter().copied().map(RegisteredTarget::new).collect()).await
    }

    async fn deregister(&self, targets: &BTreeSet<RegisteredTarget>) -> Changed {
        self.change(Operation::Deregister, targets.iter().cloned().collect()).await
    }

    async fn sleep(&self, pause: Duration) {
        sleep(pause).await;
    }

    fn observe(&self, report: &GroupReport) {
        log(report, self.observed.replace(Some(report.clone())));
    }
}

/// A line for each thing that is not as it should be, unless an earlier report of the invocation had it.
fn log(report: &GroupReport, earlier: Option<GroupReport>) {
    let (group, hostname) = (&report.target_group_arn, report.names());
    let is_later = earlier.is_some();
    let earlier = earlier.unwrap_or_default();
    let warn = |what: &str, problem: &dyn Display| warn!(target_group = %group, hostname, %problem, "{what}");
    for held in report.held.iter().filter(|held| !earlier.held.contains(held) && held.reason != HoldReason::Foreign) {
        info!(target_group = %group, hostname, target = %held.target, reason = held.reason.as_str(), "kept");
    }
    for (address, reason) in report.refused.iter().filter(|(address, _)| !earlier.refused.contains_key(*address)) {
        warn("refused", &format!("{address}: {reason}"));
    }
    for warning in report.warnings.iter().filter(|warning| !earlier.warnings.contains(warning)) {
        warn("not as it should be", warning);
    }
    // Failures are in the reply, but for those that came or went before it.
    for failure in report.failures.iter().filter(|failure| is_later && !earlier.failures.contains(failure)) {
        if failure.is_of_dns() {
            warn("not resolved", failure);
        }
    }
    for failure in earlier.failures.iter().filter(|failure| !report.failures.contains(failure)) {
        warn("failed before", failure);
    }
}

pub(crate) fn log_changes<'a>(group: &Group, change: &str, targets: impl IntoIterator<Item = &'a Target>) {
    let hostname = group.names();
    let reason = if change.ends_with("deregistered") { "no answer holds it" } else { "an answer holds it" };
    for target in targets {
        info!(target_group = %group.arn, hostname, %target, reason, "{change}");
    }
}

/// What a run waits for whose budget is used up.
const BUDGET: &str = "its turn by ELB_REQUESTS_PER_SECOND";

/// Characters of AWS's words that are kept of each refused target: they may name all targets of a call.
const LONGEST_REASON: usize = 500;
