//! A run over all target groups that are bound: those of the event or of `BINDINGS`, and those that are found by their
//! tags.

use std::time::Instant;

use nlb_hostname_targets_core::watch::Watch;
use tracing::warn;

use super::Function;
use crate::{
    binding::Group,
    failure::{Failure, Undiscovered},
    fleet::Errand,
    report::GroupReport,
    set_up::SetUp,
    settings::{
        environment::{BINDINGS, DISCOVERY},
        event::Request,
    },
    tags::PREFIX,
};

/// What came of a run over all target groups.
#[derive(Debug)]
pub(super) struct Round {
    /// A report for each: first those of the event or of `BINDINGS`, in that order, then the others by their ARNs.
    pub(super) reports: Vec<GroupReport>,
    /// Why there may be more target groups that nobody looked at.
    pub(super) failure: Option<Undiscovered>,
}

impl Function {
    /// Reconciles all target groups that are bound, and watches them where there is a `watch`.
    pub(super) async fn round(&self, request: &Request, watch: Option<&Watch>, cutoff: Instant) -> Round {
        let Some(finder) = self.finder.as_ref().filter(|_| request.groups.is_none()) else {
            let groups = request.groups.as_deref().unwrap_or(&self.config.groups);
            return Round { reports: self.run(groups, request, watch, cutoff).await, failure: None };
        };
        let (found, failure) = finder.search(cutoff).await;
        let groups: Vec<_> = self.config.groups.iter().chain(found.groups.values()).cloned().collect();
        let mut reports = self.run(&groups, request, watch, cutoff).await;
        let mut others = reports.split_off(self.config.groups.len());
        for report in reports.iter_mut().filter(|report| found.given.contains(&report.target_group_arn)) {
            report.warn(format!(
                "the target group has a tag {PREFIX}hostname, too: {BINDINGS} counts, and its tags do not"
            ));
            report.settle();
        }
        others.retain(|report| {
            let is_gone = report.failures.iter().any(Failure::is_not_found);
            if is_gone {
                finder.forget(&report.target_group_arn);
            }
            !is_gone
        });
        others.extend(found.invalid.iter().map(|(arn, failures)| {
            let group = Group::without_members(arn.clone());
            let mut report = GroupReport::new(&group);
            report.failures.clone_from(failures);
            report.settle();
            if request.check {
                self.fleet.judge(&group, &mut report, &SetUp::default());
            }
            report
        }));
        others.sort_by(|one, other| one.target_group_arn.cmp(&other.target_group_arn));
        reports.extend(others);
        if reports.is_empty() && failure.is_none() {
            warn!(
                "no target group is bound: {BINDINGS} is not set, and by {DISCOVERY} no target group of this account and \
                 Region was found that has a tag {PREFIX}hostname"
            );
        }
        Round { reports, failure }
    }

    /// The reports are in the order of the groups.
    async fn run(
        &self,
        groups: &[Group],
        request: &Request,
        watch: Option<&Watch>,
        cutoff: Instant,
    ) -> Vec<GroupReport> {
        match watch {
            Some(watch) => self.fleet.run(groups, Errand::Watch(watch), cutoff).await,
            None if request.check => {
                let inspection = self.fleet.inspect(groups, cutoff).await;
                self.fleet.run(groups, Errand::Check(&inspection), cutoff).await
            }
            None if request.dry_run => self.fleet.run(groups, Errand::DryRun, cutoff).await,
            None => self.fleet.run(groups, Errand::Reconcile, cutoff).await,
        }
    }
}
