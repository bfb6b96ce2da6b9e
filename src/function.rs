//! The Lambda function: an event in, a reply or a function error out.

use std::time::{Duration, Instant, SystemTime};
use std::{fmt, mem};

use aws_config::SdkConfig;
use lambda_runtime::Diagnostic;
use nlb_hostname_targets_core::watch::{SHORTEST_INTERVAL, Watch};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::{
    VERSION,
    aws::{metrics::Metrics, tagging::Tagging, target_group::TargetGroups},
    binding::{Group, InvalidJson},
    budget::Budget,
    check::of_call,
    discovery::Finder,
    dns::{NoNameServer, Resolver},
    failure::{ElbError, Failure},
    finding::Severity,
    fleet::Fleet,
    report::{GroupReport, Outcome, Reply},
    set_up::SetUp,
    settings::{
        environment::{BINDINGS, Config, DISCOVERY},
        event::{Request, WatchRequest},
    },
    tags::PREFIX,
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
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum RunError {
    #[error("{failed} of {all} target groups failed: {causes}")]
    Failed { failed: usize, all: usize, causes: String },
    #[error("wrong event: {0}")]
    InvalidEvent(#[from] InvalidJson),
    #[error(
        "no bindings: {BINDINGS} is not set or empty, and the event has no `bindings`; give at least one binding, such as \
         [{{\"hostname\": \"db.example.com\", \"target_group_arn\": \"arn:aws:elasticloadbalancing:…\"}}], or have \
         target groups bound by their tags, with {DISCOVERY}=tags"
    )]
    NoBindings,
    #[error("{0}; the {1} target groups that are known were handled")]
    Undiscovered(ElbError, usize),
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
        Self { error_type: error_type.to_owned(), error_message: cut(error.to_string(), LONGEST_MESSAGE) }
    }
}

impl Function {
    /// A function that talks to AWS as `sdk` says, and measures grace periods by the clock `now`.
    /// It fails where there is no name server to ask.
    pub fn new(config: Config, sdk: &SdkConfig, now: fn() -> SystemTime) -> Result<Self, NoNameServer> {
        let find = || Finder::new(Tagging::new(sdk), &config.groups, config.allowed_hostnames.clone(), now);
        let interval =
            config.elb_requests_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs(1) / rate.get());
        let edges = Edges {
            resolver: Resolver::new(config.dns_servers.as_deref())?,
            target_groups: TargetGroups::new(sdk, Budget::new(interval, BURST, MOST_OPEN)),
            clock: now,
        };
        Ok(Self {
            metrics: Metrics::new(config.metrics, &config.metrics_namespace, sdk),
            fleet: Fleet::new(edges, config.allowed_networks.clone(), config.function_name.clone()),
            finder: config.discovers.then(find),
            config,
        })
    }

    /// Handles one invocation, which Lambda ends at `deadline`.
    /// It fails where the event is wrong, or any target group failed.
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
        let (groups, failure) = self.run(&request, watch.as_ref(), cutoff).await;
        if !request.dry_run {
            let last_moment = started + left.saturating_sub(REPLY_RESERVE.min(left / 4));
            self.metrics.publish(&groups, last_moment).await;
        }
        log(&request, &groups, started);
        let Request { trigger, dry_run, check, .. } = request;
        // A check succeeds whatever it finds.
        if !check {
            let failed = groups.iter().filter(|report| report.outcome == Outcome::Failed).count();
            if failed > 0 {
                return Err(RunError::Failed { failed, all: groups.len(), causes: causes(&groups, failure) });
            }
            if let Some(failure) = failure {
                return Err(RunError::Undiscovered(failure, groups.len()));
            }
        }
        let findings: Vec<_> = failure.iter().map(|error| of_call("DISCOVERY", error)).collect();
        let mut all = groups.iter().flat_map(|report| &report.findings).flatten().chain(&findings);
        let ok = check.then(|| all.all(|finding| finding.severity != Severity::Error));
        let mut reply = Reply { version: VERSION, trigger, dry_run, ok, findings, groups, left_out: 0 };
        reply.fit();
        Ok(reply)
    }

    /// How to go on after the run, if at all.
    fn watch(&self, request: &Request, began: Instant, cutoff: Instant) -> Option<Watch> {
        let last_look = cutoff - LAST_LOOK.min(cutoff.duration_since(began) / 4);
        let polling = self.config.poll_interval.filter(|_| request.watch == WatchRequest::No);
        let most = match request.watch {
            _ if request.dry_run => return None,
            WatchRequest::UntilStable => Duration::MAX,
            WatchRequest::Seconds(seconds) => Duration::from_secs(seconds.get().into()),
            WatchRequest::No => polling.map(|_| POLLING)?,
        };
        Some(Watch {
            interval: polling.unwrap_or(SHORTEST_INTERVAL),
            heeds_ttl: polling.is_some(),
            ends_when_stable: polling.is_none(),
            until: began.checked_add(most).map_or(last_look, |until| until.min(last_look)),
        })
    }

    /// Reconciles all target groups that are bound, and watches them where there is a `watch`: first those of the event or
    /// of `BINDINGS`, in that order, then those that are found by their tags, by their ARNs. Besides, why there may be more
    /// that nobody looked at.
    async fn run(
        &self,
        request: &Request,
        watch: Option<&Watch>,
        cutoff: Instant,
    ) -> (Vec<GroupReport>, Option<ElbError>) {
        let Some(finder) = self.finder.as_ref().filter(|_| request.groups.is_none()) else {
            let groups = request.groups.as_deref().unwrap_or(&self.config.groups);
            return (self.fleet.run(groups, request, watch, cutoff).await, None);
        };
        let (found, failure) = finder.search(cutoff).await;
        let groups: Vec<_> = self.config.groups.iter().chain(found.groups.values()).cloned().collect();
        let mut reports = self.fleet.run(&groups, request, watch, cutoff).await;
        for report in reports.iter_mut().filter(|report| found.given.contains(&report.target_group_arn)) {
            report.warnings.push(format!(
                "the target group has a tag {PREFIX}hostname, too: {BINDINGS} counts, and its tags do not"
            ));
            *report = mem::take(report).settled();
        }
        let mut others = reports.split_off(self.config.groups.len());
        for gone in others.extract_if(.., |report| report.failures.iter().any(Failure::is_not_found)) {
            finder.forget(&gone.target_group_arn);
        }
        others.extend(found.invalid.iter().map(|(arn, failures)| {
            let group = Group::without_members(arn.clone());
            let report = GroupReport { failures: failures.clone(), ..GroupReport::new(&group) }.settled();
            if request.check { self.fleet.judged(&group, report, &SetUp::default()) } else { report }
        }));
        others.sort_by(|one, other| one.target_group_arn.cmp(&other.target_group_arn));
        reports.extend(others);
        if reports.is_empty() && failure.is_none() {
            warn!(
                "no target group is bound: {BINDINGS} is not set, and by {DISCOVERY} no target group of this account and \
                 Region was found that has a tag {PREFIX}hostname"
            );
        }
        (reports, failure)
    }
}

fn log(request: &Request, groups: &[GroupReport], started: Instant) {
    for report in groups.iter().filter(|report| report.outcome == Outcome::Failed) {
        warn!(target_group = %report.target_group_arn, kind = report.kind, "failed");
    }
    let count = |outcome| groups.iter().filter(|report| report.outcome == outcome).count();
    info!(
        version = VERSION,
        trigger = json!(request.trigger).as_str(),
        dry_run = request.dry_run,
        groups = groups.len(),
        in_sync = count(Outcome::InSync),
        changed = count(Outcome::Changed),
        deferred = count(Outcome::Deferred),
        failed = count(Outcome::Failed),
        registered = groups.iter().map(|report| report.registered.len()).sum::<usize>(),
        deregistered = groups.iter().map(|report| report.deregistered.len()).sum::<usize>(),
        milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "run finished"
    );
}

/// The message names every failed hostname and target group with its cause.
fn causes(groups: &[GroupReport], other: Option<ElbError>) -> String {
    let failed = groups.iter().filter(|report| report.outcome == Outcome::Failed);
    let causes = failed.map(|report| {
        // Of tags that can't be read, there is no hostname.
        let of = if report.hostnames.is_empty() { String::new() } else { format!("{} of ", report.names()) };
        let problems = report.failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        format!("{of}{}: {problems}", report.target_group_arn)
    });
    causes.chain(other.map(|failure| failure.to_string())).collect::<Vec<_>>().join(" | ")
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

/// How long a budget that is used up takes to fill: the quota's own bucket holds four seconds' worth.
const BURST: Duration = Duration::from_secs(4);

/// Requests to ELBv2 under way at once, each on a connection of its own, not counting those that hang. More TLS handshakes
/// at once would outlast an attempt where 128 MB of memory give a fourteenth of a processor.
const MOST_OPEN: u32 = 32;

/// How long a run may take whose deadline is not known: it was over before the run began. cargo-lambda 1.9 sends one in
/// the year 1970.
const UNKNOWN_DEADLINE: Duration = Duration::from_secs(60);

/// How long before the deadline what is still open is given up, so that metrics and the reply go out.
const RESERVE: Duration = Duration::from_secs(2);

/// How long a run may take that does not watch: the next minute's run must not find it still at work on the same request
/// quota. This holds for a direct request, too, because a schedule sends one where it carries the bindings of a fleet.
const RUN: Duration = Duration::from_secs(58);

/// How long an invocation polls. It then verifies the target groups, sends metrics and replies.
/// The next minute's invocation looks a second after the last look of this one.
const POLLING: Duration = Duration::from_secs(59);

/// How long before the cut-off a watch ends, so that the target groups are verified once more.
const LAST_LOOK: Duration = Duration::from_millis(1500);

/// How long before the deadline the reply goes out, whatever the metrics do.
const REPLY_RESERVE: Duration = Duration::from_millis(500);
