//! What fails in one place, and must not spoil another.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{
    World,
    aws::{Call, Fault, FaultKind, TargetGroup},
    binding, failover, invoke, invoke_within, set, targets,
};
use tokio::{
    join,
    time::{Instant, sleep_until},
};

/// Groups `bad0` and so on, which always fail, and `good`, all of them in step.
async fn good_and_bad(bad: usize) -> (World, String, Vec<String>) {
    let world = World::new().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let create = |name: &str| {
        let arn = world.aws.create_target_group(TargetGroup::new(name));
        world.aws.add_target(&arn, "10.0.1.10", "healthy");
        arn
    };
    let good = create("good");
    let bad: Vec<_> = (0..bad).map(|number| create(&format!("bad{number}"))).collect();
    let bindings: Vec<_> = [&good].into_iter().chain(&bad).map(|arn| binding("db.test", arn)).collect();
    (world.set("BINDINGS", Value::from(bindings)).set("ELB_REQUESTS_PER_SECOND", 0), good, bad)
}

fn unwell(arn: &str) -> Fault {
    Fault::on("DescribeTargetHealth", FaultKind::error(500, "InternalFailure", "not now")).arn(arn)
}

fn throttled_once(arn: &str) -> Fault {
    Fault::on("DescribeTargetHealth", FaultKind::throttling()).arn(arn).times(1)
}

#[tokio::test]
async fn rule_18_neighbours_that_always_fail_take_no_retries_away() {
    let (world, good, bad) = good_and_bad(8).await;
    let function = world.function().await;
    for run in 1..=10 {
        world.aws.clear_faults();
        bad.iter().for_each(|arn| world.aws.fault(unwell(arn)));
        world.aws.fault(throttled_once(&good));
        let message = invoke(&function, json!({})).await.unwrap_err().to_string();
        assert!(message.starts_with("8 of 9") && !message.contains(&good), "run {run}: {message}");
    }
}

#[tokio::test]
async fn rule_18_after_a_long_outage_calls_are_repeated_again() {
    let (world, good, _) = good_and_bad(0).await;
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    world.aws.fault(unwell(&good));
    // Longer than 500 tokens last, of which each repetition takes 5.
    for _ in 0..55 {
        invoke(&function, json!({})).await.unwrap_err();
    }
    world.aws.clear_faults();
    for run in 1..=3 {
        world.aws.fault(throttled_once(&good));
        let result = invoke(&function, json!({})).await;
        assert!(result.is_ok(), "run {run} after the outage: {result:?}");
    }
}

#[tokio::test]
async fn rule_18_one_target_that_aws_refuses_to_deregister_keeps_no_other_in() {
    // The first, the last, and one among many.
    for refused in ["10.0.1.7", "10.0.1.9", "10.0.1.8"] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.7", "10.0.1.8", "10.0.1.9"]).await;
        world.aws.refuse_deregistration(&arn, refused);
        let message = world.failure(json!({})).await;
        assert!(message.contains("DeregisterTargets") && message.contains(refused), "{message}");
        assert!(message.contains("ValidationError") && message.contains("db.test"), "{message}");
        let others = ["10.0.1.7", "10.0.1.8", "10.0.1.9"].into_iter().filter(|other| *other != refused);
        others.for_each(|other| assert!(!message.contains(other), "{message}"));
        let kept = format!("{refused}:5432");
        assert_eq!(world.aws.registered(&arn), set(&[&kept, "10.0.1.10:5432"]));
        assert_eq!(world.metric("Failures"), Some(1.0));
        assert_eq!(world.metric("Deregistrations"), Some(2.0));
    }
}

#[tokio::test]
async fn rule_18_of_many_stale_targets_the_refused_ones_alone_stay() {
    let stale: Vec<_> = (0..250).map(|number| format!("10.0.{}.{}", 2 + number / 200, 1 + number % 200)).collect();
    let stale: Vec<_> = stale.iter().map(String::as_str).collect();
    let (world, arn) = World::with_database(&["10.0.1.10"], &stale).await;
    let refused = [stale[3], stale[150], stale[240]];
    refused.iter().for_each(|address| world.aws.refuse_deregistration(&arn, address));
    let world = world.set("ELB_REQUESTS_PER_SECOND", 0);
    let message = world.failure(json!({})).await;
    for address in refused {
        assert!(message.contains(address), "{message}");
    }
    assert_eq!(world.aws.registered(&arn).len(), 1 + refused.len());
}

/// What AWS says where it can't tell the targets.
fn cannot_tell() -> [(FaultKind, &'static str); 3] {
    [
        (FaultKind::health_unavailable(), "HealthUnavailable"),
        (FaultKind::error(500, "InternalFailure", "not now"), "InternalFailure"),
        (FaultKind::body(503, "<html>Service Unavailable</html>"), "503"),
    ]
}

#[tokio::test]
async fn rule_18_where_aws_cannot_tell_the_targets_addresses_are_registered_and_nothing_goes() {
    let settings = [json!({}), json!({"deregister_after_seconds": 60}), json!({"ownership": "shared"})];
    let cases = cannot_tell().into_iter().flat_map(|fault| settings.clone().map(|fields| (fault.clone(), fields)));
    let checks = cases.map(async |((kind, word), fields)| {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        let mut binding = binding("db.test", &arn);
        binding.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let world = world.set("BINDINGS", json!([binding]));
        world.aws.fault(Fault::on("DescribeTargetHealth", kind));
        let message = world.failure(json!({})).await;
        assert!(message.contains("DescribeTargetHealth") && message.contains(word), "{word}, {fields}: {message}");
        assert_eq!(world.aws.registered(&arn), targets(&[9, 10]), "{word}, {fields}");
        assert_eq!(world.count("DeregisterTargets"), 0, "{word}, {fields}");
        assert!(world.sum("Failures") > 0.0, "{word}, {fields}");
        if fields["ownership"] == "shared" {
            let found = world.aws.calls_of("RegisterTargets")[0].found.clone().unwrap();
            let is_noted = found.tags.values().any(|value| value.contains("10.0.1.10_5432"));
            assert!(is_noted, "{word}: {:?}", found.tags);
        }
        // And when it can tell again, all is as it should be.
        world.aws.clear_faults();
        world.sync().await.unwrap();
        let stays = fields != json!({});
        assert_eq!(world.aws.registered(&arn), if stays { targets(&[9, 10]) } else { targets(&[10]) }, "{fields}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_18_what_dns_gives_is_not_missing_though_aws_cannot_tell_the_targets() {
    let settings =
        [("missing-1", json!({"deregister_after_seconds": 60})), ("owned-1-1", json!({"ownership": "shared"}))];
    let checks = settings.map(async |(key, fields)| {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        let mut binding = binding("db.test", &arn);
        binding.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let world = world.set("BINDINGS", json!([binding]));
        world.aws.set_tag(&arn, &format!("nlb-hostname-targets:{key}"), "10.0.1.10_5432@1763802000.250");
        world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::health_unavailable()));
        world.failure(json!({})).await;
        let is_missing = |tags: &BTreeMap<String, String>| tags.values().any(|value| value.contains("10.0.1.10_5432@"));
        assert!(!is_missing(&world.aws.tags(&arn)), "{fields}: its grace would be over at once");
        if fields["ownership"] == "shared" {
            let found = world.aws.calls_of("RegisterTargets")[0].found.clone().unwrap();
            assert!(!is_missing(&found.tags), "{:?}: a run beside this one may be about to forget it", found.tags);
        }
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_18_where_the_role_may_not_ask_or_the_call_hangs_nothing_is_registered() {
    let kinds = [FaultKind::error(403, "AccessDenied", "no"), FaultKind::Hang];
    let checks = kinds.map(async |kind| {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.fault(Fault::on("DescribeTargetHealth", kind.clone()));
        let function = world.function().await;
        invoke_within(&function, json!({}), Duration::from_secs(18)).await.unwrap_err();
        assert_eq!(world.aws.registered(&arn), targets(&[9]), "{kind:?}");
        assert_eq!(world.count("RegisterTargets"), 0, "{kind:?}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_18_where_a_name_did_not_resolve_and_aws_cannot_tell_the_others_addresses_are_registered() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("gone.test", &arn)]));
    world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::health_unavailable()));
    let message = world.failure(json!({})).await;
    assert!(message.contains("NXDOMAIN") && message.contains("HealthUnavailable"), "{message}");
    assert_eq!(world.aws.registered(&arn), targets(&[9, 10]));
}

/// When the target was registered.
fn registered_at(calls: &[Call], id: &str) -> Option<Instant> {
    let accepted = calls.iter().find(|call| {
        call.action == "RegisterTargets" && call.status == 200 && call.targets.iter().any(|target| target.id == id)
    });
    accepted.map(|call| call.at)
}

#[tokio::test]
async fn a_watch_tries_again_within_5_s_while_an_address_is_not_registered() {
    // What AWS says for 20 s, and to which calls.
    let faults = [
        Fault::on("RegisterTargets", FaultKind::throttling()),
        Fault::on("DescribeTargetHealth", FaultKind::throttling()),
        Fault::on("RegisterTargets", FaultKind::error(503, "ServiceUnavailable", "not now")),
    ];
    let checks = faults.map(async |fault| {
        let (world, _) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        let function = world.function().await;
        let started = Instant::now();
        let troubled = async {
            sleep_until(started + Duration::from_millis(1500)).await;
            world.dns.set_a("db.test", &["10.0.1.10"]);
            world.aws.fault(fault.clone());
            sleep_until(started + Duration::from_millis(21_500)).await;
            world.aws.clear_faults();
        };
        let (reply, ()) = join!(invoke_within(&function, failover(), Duration::from_secs(44)), troubled);
        assert_eq!(reply.unwrap()["groups"][0]["outcome"], "changed", "{fault:?}");
        let at = registered_at(&world.aws.calls(), "10.0.1.10").expect("registered") - started;
        // An attempt that began while all was bad may still be repeating its call.
        assert!(at < Duration::from_millis(21_500 + 5000 + 1500), "{fault:?}: {at:?}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn a_watch_of_a_group_goes_on_when_another_has_settled() {
    let world = World::new().await;
    let names = ["x.test", "y.test"];
    let arns = names.map(|name| {
        world.dns.set_a(name, &["10.0.1.9"]);
        let arn = world.aws.create_target_group(TargetGroup::new(&name[..1]));
        world.aws.add_target(&arn, "10.0.1.9", "healthy");
        arn
    });
    let world = world.set("BINDINGS", json!([binding(names[0], &arns[0]), binding(names[1], &arns[1])]));
    let function = world.function().await;
    let started = Instant::now();
    let moving = async {
        for (seconds, name) in [(2, "y.test"), (40, "x.test")] {
            sleep_until(started + Duration::from_secs(seconds)).await;
            world.dns.set_a(name, &["10.0.1.10"]);
        }
    };
    let (reply, ()) = join!(invoke_within(&function, failover(), Duration::from_secs(48)), moving);
    let outcomes: BTreeSet<_> = reply.unwrap()["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes, set(&["changed"]));
    for arn in &arns {
        assert_eq!(world.aws.registered(arn), targets(&[10]));
    }
    // And the group that has settled is left alone.
    let queries = world.dns.queries();
    let last = queries.iter().rfind(|query| query.name == "y.test").unwrap().at;
    let last = last.duration_since(started.into_std());
    assert!(last < Duration::from_secs(38), "{last:?}");
}
