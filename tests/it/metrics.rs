//! What is published.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};
use support::{
    World,
    aws::{Fault, FaultKind, TargetGroup},
    binding, invoke, invoke_within,
};

#[tokio::test]
async fn a_run_publishes_what_is_not_0_under_awss_own_dimension() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11", "54.1.2.3"], &["10.0.1.9", "10.0.1.11"]).await;
    world.aws.add_target(&arn, "10.0.1.7:5432", "draining");
    world.aws.reconfigure(&arn, |group| group.initial_for = Duration::from_secs(600));
    let world = world.set("METRICS_NAMESPACE", "team/data");
    let function = world.function().await;
    let changed: &[(&str, f64)] = &[
        ("Deregistrations", 1.0),
        ("Failures", 0.0),
        ("HealthyTargets", 1.0),
        ("RefusedAddresses", 1.0),
        ("RegisteredTargets", 2.0),
        ("Registrations", 1.0),
    ];
    let steady = &[("Failures", 0.0), ("HealthyTargets", 1.0), ("RegisteredTargets", 2.0)];
    for expected in [changed, steady] {
        invoke(&function, json!({})).await.unwrap();
        let call = world.count("PutMetricData") - 1;
        let metrics: Vec<_> = world.aws.metrics().into_iter().filter(|metric| metric.call == call).collect();
        let mut found: Vec<_> = metrics.iter().map(|metric| (metric.name.as_str(), metric.value)).collect();
        found.sort_by_key(|(name, _)| *name);
        assert_eq!(found, expected);
        let resource = arn.split(':').next_back().unwrap();
        for metric in &metrics {
            assert_eq!((metric.namespace.as_str(), metric.unit.as_str()), ("team/data", "Count"));
            assert_eq!(metric.dimensions, BTreeMap::from([("TargetGroup".to_owned(), resource.to_owned())]));
        }
        world.dns.set_a("db.test", &["10.0.1.10", "10.0.1.11"]);
    }
}

#[tokio::test]
async fn a_group_that_could_not_be_looked_at_does_not_read_as_an_empty_one() {
    let (world, _) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::denied()));
    world.failure(json!({})).await;
    assert_eq!((world.metric("Failures"), world.aws.metrics().len()), (Some(1.0), 1));
}

#[tokio::test]
async fn many_groups_share_as_few_calls_as_the_api_allows() {
    let world = World::new().await.set("ELB_REQUESTS_PER_SECOND", 0);
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let bindings = (0..340).map(|number| {
        let arn = world.aws.create_target_group(TargetGroup::new(&format!("g{number}")));
        world.aws.add_target(&arn, "10.0.1.10:5432", "healthy");
        binding("db.test", &arn)
    });
    let bindings: Vec<_> = bindings.collect();
    let latency = Duration::from_millis(800);
    world.aws.fault(Fault::on("PutMetricData", FaultKind::Latency(latency)));
    let function = world.function().await;
    invoke_within(&function, json!({"bindings": bindings}), Duration::from_secs(60)).await.unwrap();
    // 340 × 3 metrics, 1,000 in a call, and both calls at the same time.
    let calls = world.aws.calls_of("PutMetricData");
    assert_eq!((calls.len(), world.aws.metrics().len()), (2, 340 * 3));
    assert!(calls[1].at - calls[0].at < latency);
}

#[tokio::test]
async fn off_and_emf_call_nothing() {
    for destination in ["off", "emf"] {
        let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
        let world = world.set("METRICS", destination);
        world.sync().await.unwrap();
        assert_eq!(world.count("PutMetricData"), 0);
    }
}

/// What the real binary prints, for [`crate::runtime`] to hold an invocation's output against.
pub(crate) fn check_emf(line: &str, resource: &str, has_removed: bool) {
    let document: Value = serde_json::from_str(line).expect("an EMF document");
    let directive = &document["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(directive["Namespace"], "NlbHostnameTargets");
    assert_eq!(directive["Dimensions"], json!([["TargetGroup"]]));
    assert!(document["_aws"]["Timestamp"].as_u64().unwrap() > 1_700_000_000_000);
    assert_eq!(document["TargetGroup"], resource);
    let metrics = directive["Metrics"].as_array().unwrap();
    let names: BTreeSet<_> = metrics.iter().map(|metric| metric["Name"].as_str().unwrap()).collect();
    let expected = ["Deregistrations", "Failures", "HealthyTargets", "RegisteredTargets", "Registrations"];
    let expected = expected.into_iter().filter(|name| has_removed || *name != "Deregistrations");
    assert_eq!(names, expected.collect());
    for metric in metrics {
        assert_eq!((metric.as_object().unwrap().len(), &metric["Unit"]), (2, &json!("Count")));
        assert!(document[metric["Name"].as_str().unwrap()].is_number(), "{metric}");
    }
    assert_eq!(document["Registrations"], 1.0);
}
