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
use serde_json::{Map, Value, json};
use tokio::time::timeout_at;
use tracing::warn;

use crate::{
    aws::{chain, retry_partition},
    config::MetricsDestination,
    report::{GroupReport, Outcome},
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

/// The name, unit and value of a metric.
type Metric = (&'static str, StandardUnit, f64);

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
        let datum = |dimension: Option<&Dimension>, (name, unit, value): Metric| {
            let datum = MetricDatum::builder().metric_name(name).timestamp(now).unit(unit).value(value);
            datum.set_dimensions(dimension.map(|dimension| vec![dimension.clone()])).build()
        };
        let mut data = Vec::new();
        for report in reports {
            let dimension = Dimension::builder().name(DIMENSION).value(report.target_group_arn.dimension()).build();
            data.extend(metrics(report).into_iter().map(|metric| datum(Some(&dimension), metric)));
        }
        let batches = FuturesUnordered::new();
        while !data.is_empty() {
            let rest = data.split_off(data.len().min(METRICS_IN_A_CALL));
            let call = client.put_metric_data().namespace(&self.namespace).set_metric_data(Some(data));
            batches.push(call.send());
            data = rest;
        }
        // At the same time, because little is left of a run in which something hung.
        let sent: Vec<_> = batches.collect().await;
        if let Some(error) = sent.into_iter().find_map(Result::err) {
            warn!(error = chain(&error), "not all metrics were sent: PutMetricData failed");
        }
    }

    fn print(&self, reports: &[GroupReport]) -> io::Result<()> {
        let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let timestamp = u64::try_from(timestamp).unwrap_or(u64::MAX);
        let mut stdout = io::stdout().lock();
        let mut line = |dimension: Option<&str>, metrics: &[Metric]| {
            let names: Vec<_> =
                metrics.iter().map(|(name, unit, _)| json!({"Name": name, "Unit": unit.as_str()})).collect();
            let dimensions: Vec<_> = dimension.iter().map(|_| DIMENSION).collect();
            let mut document = Map::new();
            document.insert(
                "_aws".to_owned(),
                json!({
                    "Timestamp": timestamp,
                    "CloudWatchMetrics": [{
                        "Namespace": self.namespace,
                        // A set of no dimensions is one, too.
                        "Dimensions": [dimensions],
                        "Metrics": names,
                    }],
                }),
            );
            document.extend(dimension.map(|value| (DIMENSION.to_owned(), value.into())));
            document.extend(metrics.iter().map(|(name, _, value)| ((*name).to_owned(), (*value).into())));
            writeln!(stdout, "{}", Value::Object(document))
        };
        for report in reports {
            line(Some(report.target_group_arn.dimension()), &metrics(report))?;
        }
        stdout.flush()
    }
}

/// What is unknown is left out: a failed look must not read as an empty target group.
fn metrics(report: &GroupReport) -> Vec<Metric> {
    let mut metrics = vec![
        count("Registrations", report.registrations),
        count("Deregistrations", report.deregistrations),
        count("Failures", usize::from(report.outcome == Outcome::Failed)),
    ];
    if let Some(took) = report.resolve_time {
        metrics.extend([
            count("ResolvedAddresses", report.resolved.len()),
            count("RefusedAddresses", report.refused.len()),
            ("ResolveTime", StandardUnit::Milliseconds, took.as_secs_f64() * 1000.0),
        ]);
    }
    if let Some(held) = report.targets {
        metrics.extend([
            count("RegisteredTargets", held.registered),
            count("HealthyTargets", held.healthy),
            count("WaitingTargets", report.waiting.len()),
        ]);
    }
    metrics
}

fn count(name: &'static str, number: usize) -> Metric {
    (name, StandardUnit::Count, number as f64)
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
