//! What is published.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    World,
    aws::{Fault, FaultKind, TargetGroup},
    binding, invoke, invoke_within, set,
};

#[tokio::test]
async fn a_run_publishes_what_it_did_under_awss_own_dimension_and_a_steady_one_three_metrics() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11", "54.1.2.3"], &["10.0.1.9", "10.0.1.11"]).await;
    world.aws.add_target(&arn, "10.0.1.7:5432", "draining");
    world.aws.reconfigure(&arn, |group| group.initial_for(Duration::from_secs(60)));
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    let metrics = world.aws.metrics();
    let found: BTreeMap<_, _> = metrics.iter().map(|metric| (metric.name.as_str(), metric.value)).collect();
    let expected = [
        ("RegisteredTargets", 2.0),
        ("HealthyTargets", 1.0),
        ("Registrations", 1.0),
        ("Deregistrations", 1.0),
        ("RefusedAddresses", 1.0),
        ("Failures", 0.0),
    ];
    for (name, value) in expected {
        assert_eq!(found.get(name), Some(&value), "{name}");
    }
    assert_eq!(metrics.len(), expected.len());
    let resource = arn.split(':').next_back().unwrap();
    for metric in &metrics {
        assert_eq!(metric.namespace, "NlbHostnameTargets");
        assert_eq!(metric.dimensions, BTreeMap::from([("TargetGroup".to_owned(), resource.to_owned())]));
        assert_eq!(metric.unit, "Count");
    }
    // CloudWatch bills each metric by the hour in which it is sent.
    world.dns.set_a("db.test", &["10.0.1.10", "10.0.1.11"]);
    world.aws.clear_calls();
    invoke(&function, json!({})).await.unwrap();
    let names: BTreeSet<_> = world.aws.metrics().into_iter().map(|metric| metric.name).collect();
    assert_eq!(names, set(&["Failures", "HealthyTargets", "RegisteredTargets"]));
}

#[tokio::test]
async fn the_namespace_is_a_setting() {
    let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
    let world = world.set("METRICS_NAMESPACE", "team/data");
    world.sync().await.unwrap();
    assert!(world.aws.metrics().iter().all(|metric| metric.namespace == "team/data"));
}

#[tokio::test]
async fn a_group_that_could_not_be_looked_at_does_not_read_as_an_empty_one() {
    let (world, _) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::error(403, "AccessDenied", "no")));
    world.failure(json!({})).await;
    let names: BTreeSet<_> = world.aws.metrics().into_iter().map(|metric| metric.name).collect();
    assert!(!names.contains("RegisteredTargets") && !names.contains("HealthyTargets"), "{names:?}");
    assert_eq!(world.metric("Failures"), Some(1.0));
}

#[tokio::test]
async fn many_groups_share_as_few_calls_as_the_api_allows() {
    let world = World::new().await;
    // A refused address makes four metrics of each.
    world.dns.set_a("db.test", &["10.0.1.10", "54.1.2.3"]);
    let mut bindings = Vec::new();
    for number in 0..251 {
        let arn = world.aws.create_target_group(TargetGroup::new(&format!("g{number}")));
        world.aws.add_target(&arn, "10.0.1.10:5432", "healthy");
        bindings.push(binding("db.test", &arn));
    }
    let world = world.set("ELB_REQUESTS_PER_SECOND", 0);
    let latency = Duration::from_millis(800);
    world.aws.fault(Fault::on("PutMetricData", FaultKind::Latency(latency)));
    let event = json!({"bindings": bindings});
    invoke_within(&world.function().await, event, Duration::from_secs(60)).await.unwrap();
    // 251 × 4 metrics, 1,000 in a call, and both calls at the same time.
    let calls = world.aws.calls_of("PutMetricData");
    assert_eq!(calls.len(), 2);
    assert!(calls[1].at - calls[0].at < latency);
    assert_eq!(world.aws.metrics().len(), 251 * 4);
}

#[tokio::test]
async fn off_and_emf_call_nothing() {
    for destination in ["off", "emf"] {
        let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
        let world = world.set("METRICS", destination);
        world.sync().await.unwrap();
        assert!(world.aws.calls_of("PutMetricData").is_empty());
    }
}

/// What the real binary prints, for [`crate::runtime`] to hold an invocation's output against.
pub(crate) fn check_emf(lines: &[String], resource: &str) {
    let documents: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let document = documents.iter().find(|document| document.get("_aws").is_some()).expect("an EMF document");
    let directive = &document["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(directive["Namespace"], "NlbHostnameTargets");
    assert_eq!(directive["Dimensions"], json!([["TargetGroup"]]));
    assert!(document["_aws"]["Timestamp"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(document["TargetGroup"], resource);
    let metrics = directive["Metrics"].as_array().unwrap();
    assert!((4..=5).contains(&metrics.len()), "{metrics:?}");
    for metric in metrics {
        let name = metric["Name"].as_str().unwrap();
        assert!(document[name].is_number(), "{name}");
        assert_eq!(metric["Unit"], "Count");
    }
    assert_eq!(document["Registrations"], 1.0);
}
