//! The metrics edge: a run's numbers, to CloudWatch or to stdout.

use std::{
    io::{self, Write},
    time::{Duration, Instant, SystemTime},
};

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::{
    Client,
    config::timeout::TimeoutConfig,
    primitives::DateTime,
    types::{Dimension, MetricDatum, StandardUnit},
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::json;
use tokio::time::timeout_at;
use tracing::warn;

use crate::{
    aws::{RetryExpired, chain, retry_partition},
    report::{GroupReport, Outcome},
    settings::environment::MetricsDestination,
};

/// Publishes the metrics of runs.
#[derive(Debug)]
pub struct Metrics {
    destination: Destination,
    namespace: String,
}

#[derive(Debug)]
enum Destination {
    CloudWatch(Client),
    Emf,
    Off,
}

/// The name and value of a metric, which is a count.
type Metric = (&'static str, usize);

impl Metrics {
    /// Publishes to `destination` under `namespace`.
    pub fn new(destination: MetricsDestination, namespace: &str, sdk: &SdkConfig) -> Self {
        Self {
            destination: match destination {
                MetricsDestination::CloudWatch => {
                    let timeouts = TimeoutConfig::builder()
                        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                        .operation_timeout(OPERATION_TIMEOUT);
                    let config = aws_sdk_cloudwatch::config::Builder::from(sdk)
                        .retry_partition(retry_partition())
                        .retry_classifier(RetryExpired)
                        .timeout_config(timeouts.build());
                    Destination::CloudWatch(Client::from_conf(config.build()))
                }
                MetricsDestination::Emf => Destination::Emf,
                MetricsDestination::Off => Destination::Off,
            },
            namespace: namespace.to_owned(),
        }
    }

    /// Publishes what `reports` say, until `deadline` at the latest. What can't be sent is a logged warning: the targets
    /// are right, and that is what counts.
    pub async fn publish(&self, reports: &[GroupReport], deadline: Instant) {
        match &self.destination {
            Destination::CloudWatch(client) => {
                if timeout_at(deadline.into(), self.put(client, reports)).await.is_err() {
                    warn!("not all metrics were sent: no reply to PutMetricData before the deadline");
                }
            }
            Destination::Emf => {
                if let Err(error) = self.print(reports) {
                    warn!(%error, "metrics were not written to stdout");
                }
            }
            Destination::Off => {}
        }
    }

    async fn put(&self, client: &Client, reports: &[GroupReport]) {
        let now = DateTime::from(SystemTime::now());
        let data = reports.iter().flat_map(|report| {
            let dimension = Dimension::builder().name(DIMENSION).value(report.target_group_arn.dimension()).build();
            metrics(report).into_iter().map(move |(name, value)| {
                let datum = MetricDatum::builder().metric_name(name).timestamp(now).unit(StandardUnit::Count);
                datum.value(value as f64).dimensions(dimension.clone()).build()
            })
        });
        let data: Vec<_> = data.collect();
        // At the same time, because little is left of a run in which something hung.
        let calls = data.chunks(METRICS_IN_A_CALL).map(|data| {
            client.put_metric_data().namespace(&self.namespace).set_metric_data(Some(data.to_vec())).send()
        });
        let sent: Vec<_> = calls.collect::<FuturesUnordered<_>>().collect().await;
        if let Some(error) = sent.into_iter().find_map(Result::err) {
            warn!(error = chain(&error), "not all metrics were sent: PutMetricData failed");
        }
    }

    fn print(&self, reports: &[GroupReport]) -> io::Result<()> {
        let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let timestamp = u64::try_from(timestamp).unwrap_or(u64::MAX);
        let mut stdout = io::stdout().lock();
        for report in reports {
            let metrics = metrics(report);
            let names: Vec<_> =
                metrics.iter().map(|(name, _)| json!({"Name": name, "Unit": StandardUnit::Count.as_str()})).collect();
            let directive = json!({"Namespace": self.namespace, "Dimensions": [[DIMENSION]], "Metrics": names});
            let mut document = json!({
                "_aws": {"Timestamp": timestamp, "CloudWatchMetrics": [directive]},
                DIMENSION: report.target_group_arn.dimension(),
            });
            for (name, value) in metrics {
                document[name] = (value as f64).into();
            }
            writeln!(stdout, "{document}")?;
        }
        stdout.flush()
    }
}

/// What is unknown is left out: a failed look must not read as an empty target group. So is what is 0 in a steady run,
/// because CloudWatch bills each metric by the hour in which it is sent.
fn metrics(report: &GroupReport) -> Vec<Metric> {
    let mut metrics = vec![("Failures", usize::from(report.outcome == Outcome::Failed))];
    if let Some(held) = report.targets {
        metrics.extend([("RegisteredTargets", held.registered), ("HealthyTargets", held.healthy)]);
    }
    let others = [
        ("Registrations", report.registrations),
        ("Deregistrations", report.deregistrations),
        ("WaitingTargets", report.waiting.len()),
        ("RefusedAddresses", report.refused.len()),
    ];
    metrics.extend(others.into_iter().filter(|(_, value)| *value > 0));
    metrics
}

/// The dimension by which AWS/NetworkELB's own metrics name a target group.
const DIMENSION: &str = "TargetGroup";

/// [PutMetricData](https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_PutMetricData.html)
/// takes 1,000 metrics and 1 MB in a request; as many of ours are about 200 KB.
const METRICS_IN_A_CALL: usize = 1000;

/// How long to wait for a reply: the sync is done by then, and Lambda bills the wait.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long to wait with all retries.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(4);
