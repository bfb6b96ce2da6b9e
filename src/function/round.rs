//! A run over all target groups that are bound: those of the event or of `BINDINGS`, and those that are found by their
//! tags.

use std::{collections::HashMap, time::Instant};

use tokio::join;
use tracing::warn;

use super::Function;
use crate::{
    binding::Group,
    config::{BINDINGS, DISCOVERY},
    event::Request,
    failure::{Failure, Undiscovered},
    finder::{Finder, News},
    fleet::Errand,
    report::GroupReport,
    set_up::SetUp,
    tag_bindings::Found,
    tags::PREFIX,
    target::TargetGroupArn,
    watch::Watch,
};

/// What came of a run over all target groups.
#[derive(Debug)]
pub(super) struct Round {
    /// A report for each: first those of the event or of `BINDINGS`, in that order, then the others by their ARNs.
    pub(super) reports: Vec<GroupReport>,
    /// Why there may be more target groups that nobody looked at.
    pub(super) failure: Option<Undiscovered>,
    /// How many target groups are bound, where tags decide that and are known.
    pub(super) bound: Option<usize>,
}

impl Function {
    /// Reconciles all target groups that are bound, and watches them where there is a `watch`.
    pub(super) async fn round(&self, request: &Request, watch: Option<&Watch>, cutoff: Instant) -> Round {
        let run = async |groups: &[Group]| match watch {
            Some(watch) => self.fleet.run(groups, Errand::Watch(watch), cutoff).await,
            None if request.check => {
                let inspection = self.fleet.inspect(groups, cutoff).await;
                self.fleet.run(groups, Errand::Check(&inspection), cutoff).await
            }
            None if request.dry_run => self.fleet.run(groups, Errand::DryRun, cutoff).await,
            None => self.fleet.run(groups, Errand::Reconcile, cutoff).await,
        };
        let Some(finder) = self.finder.as_deref().filter(|_| request.groups.is_none()) else {
            let groups = request.groups.as_deref().unwrap_or(&self.config.groups);
            return Round { reports: run(groups).await, failure: None, bound: None };
        };
        let search = finder.begin(cutoff);
        let known: Vec<_> = self.config.groups.iter().chain(search.known()).cloned().collect();
        // What is new is a run beside that over what is known, out of the same budget: neither waits for the other.
        let (mut reports, (news, joined)) = join!(run(&known), async {
            let news = search.news(cutoff).await;
            let joined = run(&news.groups).await;
            (news, joined)
        });
        drop(search);
        let News { found, failure, .. } = news;
        reports.extend(joined);
        self.settle(&mut reports, &found, finder, request.check);
        if reports.is_empty() && failure.is_none() {
            warn!(
                "no target group is bound: {BINDINGS} is not set, and by {DISCOVERY} no target group of this account and \
                 Region was found that has a tag {PREFIX}hostname"
            );
        }
        let bound = failure.is_none().then_some(reports.len());
        Round { reports, failure, bound }
    }

    /// Leaves out what is bound no more, puts in what can't be bound, and sorts the rest.
    fn settle(&self, reports: &mut Vec<GroupReport>, found: &Found, finder: &Finder, is_check: bool) {
        let places: HashMap<&TargetGroupArn, usize> =
            self.config.groups.iter().enumerate().map(|(place, group)| (&group.arn, place)).collect();
        reports.retain(|report| {
            let is_given = places.contains_key(&report.target_group_arn);
            let is_gone = !is_given && !report.is_withdrawn && report.failures.iter().any(Failure::is_not_found);
            if is_gone {
                finder.forget(&report.target_group_arn);
            }
            !is_gone && !report.is_withdrawn
        });
        reports.extend(found.invalid.iter().map(|(arn, failures)| {
            let group = Group::without_members(arn.clone());
            let mut report = GroupReport::new(&group);
            report.failures.clone_from(failures);
            report.settle();
            if is_check {
                self.fleet.judge(&group, &mut report, &SetUp::default());
            }
            report
        }));
        for report in reports.iter_mut().filter(|report| found.given.contains(&report.target_group_arn)) {
            report.warn(format!(
                "the target group has a tag {PREFIX}hostname, too: {BINDINGS} counts, and its tags do not"
            ));
            report.settle();
        }
        reports.sort_by_cached_key(|report| {
            let place = places.get(&report.target_group_arn).copied();
            (place.is_none(), place, report.target_group_arn.clone())
        });
    }
}
