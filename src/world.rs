//! The world of a run: DNS and one target group, as they really are.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use futures_util::stream::{FuturesUnordered, StreamExt};
use nlb_hostname_targets_core::run::dns_cutoff;
use nlb_hostname_targets_core::world::{Changed, World};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::aws::target_group::{Operation, TargetGroups};
use crate::clock::{Now, Timestamp};
use crate::tags::{TagChanges, Tags};
use crate::target::{IpFamily, RegisteredTarget, Target};
use crate::{
    answer::Answers, binding::Group, dns::Resolver, failure::ElbError, hostname::Hostname, plan::HoldReason,
    report::GroupReport,
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
#[derive(Debug)]
pub(crate) struct GroupWorld<'a> {
    edges: &'a Edges,
    group: &'a Group,
    family: IpFamily,
    cutoff: Instant,
    /// Whether the budget was waited for of a request that was not sent yet.
    has_turn: Cell<bool>,
    /// What is waited for now.
    waits: RefCell<BTreeSet<&'static str>>,
    observed: RefCell<Option<GroupReport>>,
}

impl<'a> GroupWorld<'a> {
    /// The world of a run that ends at `cutoff`. `has_turn` says whether the budget was waited for before its first list.
    pub(crate) fn new(edges: &'a Edges, group: &'a Group, family: IpFamily, has_turn: bool, cutoff: Instant) -> Self {
        let (waits, observed) = (RefCell::default(), RefCell::default());
        Self { edges, group, family, cutoff, has_turn: Cell::new(has_turn), waits, observed }
    }

    /// What a run was waiting for when it was given up.
    pub(crate) fn waiting(&self) -> String {
        self.waits.borrow().iter().copied().collect::<Vec<_>>().join(" and ")
    }

    /// Waits for `future`, and remembers so for as long as it takes. The memory stays where the wait is given up.
    async fn wait<T>(&self, what: &'static str, future: impl Future<Output = T>) -> T {
        self.waits.borrow_mut().insert(what);
        let output = future.await;
        self.waits.borrow_mut().remove(what);
        output
    }

    /// Waits for the budget, unless that was done.
    async fn take_turn(&self) {
        if !self.has_turn.take() {
            self.wait(BUDGET, self.edges.target_groups.budget.acquire()).await;
        }
    }

    /// The same, without waiting: a list may have taken the turn of a change, and what that is decided on would be old again.
    fn take_turn_at_once(&self) {
        if !self.has_turn.take() {
            self.edges.target_groups.budget.count();
        }
    }

    async fn change(&self, operation: Operation, what: &'static str, batch: Vec<RegisteredTarget>) -> Changed {
        self.take_turn_at_once();
        let verb = if operation == Operation::Register { "registered" } else { "deregistered" };
        let log = |targets: &[Target]| log_changes(self.group, verb, targets);
        self.wait(what, self.edges.target_groups.change(operation, &self.group.arn, batch, log)).await
    }
}

impl World for GroupWorld<'_> {
    fn now(&self) -> Now {
        self.edges.now()
    }

    async fn turn(&self) {
        self.take_turn().await;
        self.has_turn.set(true);
    }

    async fn resolve(&self, names: &BTreeSet<Hostname>) -> Answers {
        let until = dns_cutoff(Instant::now(), self.cutoff);
        self.wait("DNS", self.edges.ask(names, self.family, until)).await
    }

    async fn list(&self) -> (Instant, Result<Vec<RegisteredTarget>, ElbError>) {
        self.take_turn().await;
        self.wait("DescribeTargetHealth", self.edges.target_groups.list(&self.group.arn)).await
    }

    async fn read_tags(&self) -> Result<Tags, ElbError> {
        self.wait(BUDGET, self.edges.target_groups.budget.acquire()).await;
        self.wait("DescribeTags", self.edges.target_groups.tags(&self.group.arn)).await
    }

    async fn write_tags(&self, changes: &TagChanges) -> Result<(), ElbError> {
        self.take_turn_at_once();
        self.has_turn.set(true);
        let (target_groups, arn) = (&self.edges.target_groups, &self.group.arn);
        if !changes.remove.is_empty() {
            self.take_turn().await;
            self.wait("RemoveTags", target_groups.remove_tags(arn, &changes.remove)).await?;
        }
        if !changes.add.is_empty() {
            self.take_turn().await;
            self.wait("AddTags", target_groups.add_tags(arn, &changes.add)).await?;
        }
        Ok(())
    }

    async fn register(&self, targets: &BTreeSet<Target>) -> Changed {
        let batch = targets.iter().copied().map(RegisteredTarget::new).collect();
        self.change(Operation::Register, "RegisterTargets", batch).await
    }

    async fn deregister(&self, targets: &BTreeSet<RegisteredTarget>) -> Changed {
        self.change(Operation::Deregister, "DeregisterTargets", targets.iter().cloned().collect()).await
    }

    async fn sleep(&self, pause: Duration) {
        sleep(pause).await;
    }

    fn observe(&self, report: &GroupReport) {
        let earlier = self.observed.borrow_mut().replace(report.clone());
        log(report, earlier.as_ref());
    }
}

/// A line for each thing that is not as it should be, unless an earlier report of the invocation had it. Failures are in
/// the reply, but for those that came or went before it.
fn log(report: &GroupReport, earlier: Option<&GroupReport>) {
    let group = &report.target_group_arn;
    let hostname = report.names();
    let is_later = earlier.is_some();
    let none = GroupReport::default();
    let earlier = earlier.unwrap_or(&none);
    for held in report.held.iter().filter(|held| !earlier.held.contains(held)) {
        let (target, reason) = (held.target, held.reason.as_str());
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
    let new = report.failures.iter().filter(|failure| is_later && !earlier.failures.contains(failure));
    for failure in new.filter(|failure| failure.is_of_dns()) {
        warn!(target_group = %group, kind = failure.kind(), problem = %failure, "not resolved");
    }
    for failure in earlier.failures.iter().filter(|failure| !report.failures.contains(failure)) {
        warn!(target_group = %group, kind = failure.kind(), problem = %failure, "failed before");
    }
}

/// A line for each change.
pub(crate) fn log_changes<'a>(group: &Group, change: &str, targets: impl IntoIterator<Item = &'a Target>) {
    let hostname = group.names();
    let reason = if change.ends_with("deregistered") { "no answer holds it" } else { "an answer holds it" };
    for target in targets {
        info!(target_group = %group.arn, hostname, %target, reason, "{change}");
    }
}

/// What a run waits for whose budget is used up.
const BUDGET: &str = "its turn by ELB_REQUESTS_PER_SECOND";
