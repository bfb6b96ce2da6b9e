//! The Lambda function: an event in, a reply or a function error out.

mod round;

use std::{
    fmt,
    time::{Duration, Instant, SystemTime},
};

use aws_config::SdkConfig;
use lambda_runtime::Diagnostic;
use nlb_hostname_targets_core::watch::{SHORTEST_INTERVAL, Watch};
use serde_json::Value;
use tracing::{info, warn};

use round::Round;

use crate::{
    VERSION,
    aws::{budget::Budget, metrics::Metrics, tagging::Tagging, target_group::TargetGroups},
    binding::{Group, InvalidJson},
    check::of_discovery,
    discovery::Finder,
    dns::{NoNameServer, Resolver},
    failure::Undiscovered,
    finding::Severity,
    fleet::Fleet,
    report::{GroupReport, Outcome, Reply},
    settings::{
        environment::{BINDINGS, Config, DISCOVERY},
        event::{Request, WatchRequest},
    },
    world::Edges,
};

/// Everything that lives as long as the execution environment.
#[derive(Debug)]
pub struct Function {
    config: Config,
    /// `None` where no target group is bound by its tags.
    finder: Option<Finder>,
    fleet: Fleet,
    metrics: Metrics,
}

/// Why an invocation fails. Lambda's own `Errors` metric, its alarms and its retries see it.
#[derive(thiserror::Error)]
pub enum RunError {
    /// Target groups failed; all others were handled, and metrics were sent.
    #[error("{failed} of {all} target groups failed: {causes}")]
    Failed {
        /// How many.
        failed: usize,
        /// Of how many.
        all: usize,
        /// Each with its hostnames and what went wrong.
        causes: String,
    },
    /// The event is not of a known kind, or is malformed. Nothing was done.
    #[error("wrong event: {0}")]
    InvalidEvent(#[from] InvalidJson),
    /// There is nothing to do.
    #[error(
        "no bindings: {BINDINGS} is not set or empty, and the event has no `bindings`; give at least one binding, such as \
         [{{\"hostname\": \"db.example.com\", \"target_group_arn\": \"arn:aws:elasticloadbalancing:…\"}}], or have \
         target groups bound by their tags, with {DISCOVERY}=tags"
    )]
    NoBindings,
    /// Target groups could not be found by their tags. All that are known were handled, and none failed.
    #[error("{0}; the {1} target groups that are known were handled")]
    Undiscovered(Undiscovered, usize),
}

/// As it is displayed, up to a length: lambda_runtime logs a failed invocation by this.
impl fmt::Debug for RunError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&cut(self.to_string(), LONGEST_LINE))
    }
}

impl From<RunError> for Diagnostic {
    fn from(error: RunError) -> Self {
        let error_type = match error {
            RunError::Failed { .. } => "SyncFailed",
            RunError::InvalidEvent(_) => "InvalidEvent",
            RunError::NoBindings => "NoBindings",
            RunError::Undiscovered(..) => "DiscoveryFailed",
        };
        Self { error_type: error_type.to_owned(), error_message: error.to_string() }
    }
}

impl Function {
    /// A function that talks to AWS as `sdk` says, and measures grace periods by the clock `now`.
    ///
    /// # Errors
    ///
    /// Where there is no name server to ask.
    pub fn new(config: Config, sdk: &SdkConfig, now: fn() -> SystemTime) -> Result<Self, NoNameServer> {
        let finder = config
            .discovers
            .then(|| Finder::new(Tagging::new(sdk), &config.groups, config.allowed_hostnames.clone(), now));
        let edges = Edges {
            resolver: Resolver::new(config.dns_servers.as_deref())?,
            target_groups: TargetGroups::new(sdk, Budget::new(config.elb_requests_per_second)),
            clock: now,
        };
        Ok(Self {
            metrics: Metrics::new(config.metrics, &config.metrics_namespace, sdk),
            fleet: Fleet::new(edges, config.allowed_networks.clone(), config.function_name.clone()),
            finder,
            config,
        })
    }

    /// Handles one invocation, which Lambda ends at `deadline`.
    ///
    /// # Errors
    ///
    /// Where the event is wrong, or any target group failed.
    pub async fn handle(&self, event: Value, deadline: SystemTime) -> Result<Reply, RunError> {
        let started = Instant::now();
        let left = deadline.duration_since(SystemTime::now()).unwrap_or(UNKNOWN_DEADLINE);
        let cutoff = started + left.saturating_sub(RESERVE.min(left / 2));
        let request = Request::from_event(event)?;
        let run = if self.config.poll_interval.is_some() { POLLING + RESERVE } else { RUN };
        let cutoff = match request.watch {
            WatchRequest::No => cutoff.min(started + run),
            WatchRequest::Seconds(_) | WatchRequest::UntilStable => cutoff,
        };
        match &request.groups {
            Some(groups) => Group::check_hostnames("bindings", groups, &self.config.allowed_hostnames)?,
            None if self.config.groups.is_empty() && self.finder.is_none() => return Err(RunError::NoBindings),
            None => {}
        }
        let watch = self.watch(&request, started, cutoff);
        let Round { reports, failure } = self.round(&request, watch.as_ref(), cutoff).await;
        if !request.dry_run {
            let last_moment = started + left.saturating_sub(REPLY_RESERVE.min(left / 4));
            self.metrics.publish(&reports, last_moment).await;
        }
        let count = |outcome| reports.iter().filter(|report| report.outcome == outcome).count();
        let failed = count(Outcome::Failed);
        for report in reports.iter().filter(|report| report.outcome == Outcome::Failed) {
            warn!(target_group = %report.target_group_arn, kind = report.kind, "failed");
        }
        info!(
            version = VERSION,
            trigger = request.trigger.as_str(),
            dry_run = request.dry_run,
            groups = reports.len(),
            in_sync = count(Outcome::InSync),
            changed = count(Outcome::Changed),
            deferred = count(Outcome::Deferred),
            failed,
            registered = reports.iter().map(|report| report.registered.len()).sum::<usize>(),
            deregistered = reports.iter().map(|report| report.deregistered.len()).sum::<usize>(),
            milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "run finished"
        );
        // A check succeeds whatever it finds.
        if failed > 0 && !request.check {
            return Err(RunError::Failed { failed, all: reports.len(), causes: causes(&reports, failure) });
        }
        let ok = request.check.then(|| failure.is_none() && reports.iter().all(is_well));
        let findings = failure.iter().map(of_discovery).collect();
        if let Some(failure) = failure.filter(|_| !request.check) {
            return Err(RunError::Undiscovered(failure, reports.len()));
        }
        let Request { trigger, dry_run, .. } = request;
        let mut reply = Reply { version: VERSION, trigger, dry_run, ok, findings, groups: reports, left_out: 0 };
        reply.fit();
        Ok(reply)
    }

    /// How to go on after the run, if at all.
    fn watch(&self, request: &Request, began: Instant, cutoff: Instant) -> Option<Watch> {
        let last_look = cutoff - LAST_LOOK.min(cutoff.duration_since(began) / 4);
        let polling = self.config.poll_interval;
        let (interval, until) = match (request.watch, polling) {
            _ if request.dry_run => return None,
            (WatchRequest::UntilStable, _) => (SHORTEST_INTERVAL, last_look),
            (WatchRequest::Seconds(seconds), _) => {
                (SHORTEST_INTERVAL, last_look.min(began + Duration::from_secs(seconds.get().into())))
            }
            (WatchRequest::No, Some(interval)) => (interval, last_look.min(began + POLLING)),
            (WatchRequest::No, None) => return None,
        };
        let is_polling = request.watch == WatchRequest::No;
        Some(Watch { interval, heeds_ttl: is_polling, ends_when_stable: !is_polling, until })
    }
}

/// Whether a check found no error in a target group; that it could not be looked at is one.
fn is_well(report: &GroupReport) -> bool {
    report.findings.iter().flatten().all(|finding| finding.severity != Severity::Error)
}

fn causes(reports: &[GroupReport], other: Option<Undiscovered>) -> String {
    let failed = reports.iter().filter(|report| report.outcome == Outcome::Failed);
    let causes = failed.map(|report| {
        // Of tags that can't be read, there is no hostname.
        let of = if report.hostnames.is_empty() { String::new() } else { format!("{} of ", report.names()) };
        format!("{of}{}: {}", report.target_group_arn, report.problems())
    });
    cut(causes.chain(other.map(|failure| failure.to_string())).collect::<Vec<_>>().join(" | "), LONGEST_MESSAGE)
}

fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push_str("… and more: the log has a line for each target group");
    }
    text
}

/// Bytes of a function error: Lambda lets 6 MB through, and JSON may take more than a byte for each.
const LONGEST_MESSAGE: usize = 2_500_000;

/// Bytes of an error in the log: CloudWatch Logs takes events of 256 KB
/// ([quotas](https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/cloudwatch_limits_cwl.html)).
const LONGEST_LINE: usize = 200_000;

/// How long a run may take whose deadline was over before it began, which means that it is not
/// known: cargo-lambda 1.9 sends one in the year 1970.
const UNKNOWN_DEADLINE: Duration = Duration::from_secs(60);

/// How long before the deadline what is still open is given up, so that metrics and the reply
/// go out.
const RESERVE: Duration = Duration::from_secs(2);

/// How long a run may take that does not watch, however much time the function has for watches. The next minute's run
/// must not find it still at work on the same request quota. This holds for a direct request, too, because a schedule
/// sends one where it carries the bindings of a fleet.
const RUN: Duration = Duration::from_secs(58);

/// How long an invocation polls. It then verifies the target groups, sends metrics and replies.
/// The next minute's invocation looks a second after the last look of this one.
const POLLING: Duration = Duration::from_secs(59);

/// How long before the cut-off a watch ends, so that the target groups are verified once more.
const LAST_LOOK: Duration = Duration::from_millis(1500);

/// How long before the deadline the reply goes out, whatever the metrics do.
const REPLY_RESERVE: Duration = Duration::from_millis(500);
