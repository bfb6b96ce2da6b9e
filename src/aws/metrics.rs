//! The metrics edge: a run's numbers, to CloudWatch or to stdout.

use std::io::{self, Write};
use std::time::{Duration, Instant, SystemTime};

use aws_config::SdkConfig;
use aws_sdk_cloudwatch::config::{Builder, timeout::TimeoutConfig};
use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit};
use aws_sdk_cloudwatch::{Client, primitives::DateTime};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use tokio::time::timeout_at;
use tracing::warn;

use crate::aws::{RetryExpired, chain, retry_partition};
use crate::report::{GroupReport, Outcome};
use crate::settings::environment::MetricsDestination;

#[derive(Debug)]
pub(crate) struct Metrics {
    destination: MetricsDestination,
    namespace: String,
    client: Client,
}

impl Metrics {
    pub(crate) fn new(destination: MetricsDestination, namespace: &str, sdk: &SdkConfig) -> Self {
        // A lost reply leaves time for another attempt.
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(PATIENCE / 3).build();
        let config = Builder::from(sdk).timeout_config(timeouts).retry_partition(retry_partition());
        let client = Client::from_conf(config.retry_classifier(RetryExpired).build());
        Self { destination, namespace: namespace.to_owned(), client }
    }

    /// Publishes what `reports` say, until `deadline` at the latest. What can't be sent is a logged warning: the targets
    /// are right, and that is what counts.
    pub(crate) async fn publish(&self, reports: &[GroupReport], deadline: Instant) {
        let deadline = deadline.min(Instant::now() + PATIENCE);
        let sent = match self.destination {
            MetricsDestination::CloudWatch => timeout_at(deadline.into(), self.put(reports)).await,
            MetricsDestination::Emf => Ok(self.print(reports).map_err(|error| error.to_string())),
            MetricsDestination::Off => return,
        };
        if let Err(problem) = sent.unwrap_or_else(|_| Err("PutMetricData failed: no reply in time".to_owned())) {
            warn!(problem, "not all metrics were sent");
        }
    }

    async fn put(&self, reports: &[GroupReport]) -> Result<(), String> {
        let now = DateTime::from(SystemTime::now());
        let mut data = Vec::new();
        for report in reports {
            let dimension = Dimension::builder().name(DIMENSION).value(report.target_group_arn.dimension()).build();
            data.extend(metrics(report).into_iter().map(|(name, value)| {
                let datum = MetricDatum::builder().metric_name(name).timestamp(now).unit(StandardUnit::Count);
                datum.value(value as f64).dimensions(dimension.clone()).build()
            }));
        }
        // At the same time, because little is left of a run in which something hung.
        let calls = data.chunks(METRICS_IN_A_CALL).map(|data| {
            self.client.put_metric_data().namespace(&self.namespace).set_metric_data(Some(data.to_vec())).send()
        });
        let sent = join_all(calls).await.into_iter().find_map(Result::err);
        sent.map_or(Ok(()), |error| Err(format!("PutMetricData failed: {}", chain(&error))))
    }

    fn print(&self, reports: &[GroupReport]) -> io::Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let mut stdout = io::stdout().lock();
        for report in reports {
            let metrics = metrics(report);
            let names: Vec<_> = metrics.iter().map(|(name, _)| json!({"Name": name, "Unit": "Count"})).collect();
            let directive = json!({"Namespace": self.namespace, "Dimensions": [[DIMENSION]], "Metrics": names});
            let counts = metrics.iter().map(|(name, value)| ((*name).to_owned(), json!(*value as f64)));
            let mut document: Map<_, _> = counts.collect();
            document.insert("_aws".to_owned(), json!({"Timestamp": now, "CloudWatchMetrics": [directive]}));
            document.insert(DIMENSION.to_owned(), report.target_group_arn.dimension().into());
            writeln!(stdout, "{}", Value::Object(document))?;
        }
        stdout.flush()
    }
}

/// The names and values of counts. What is unknown is left out: a failed look must not read as an empty target group. So is
/// what is 0 in a steady run, because CloudWatch bills each metric by the hour in which it is sent.
fn metrics(report: &GroupReport) -> Vec<(&'static str, usize)> {
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

/// How long to wait: the sync is done by then, and Lambda bills the wait.
const PATIENCE: Duration = Duration::from_secs(4);
