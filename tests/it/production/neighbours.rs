//! What fails in one place, and must not spoil another.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{
    World,
    aws::{Fault, FaultKind, TargetGroup},
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
async fn rule_18_where_aws_cannot_tell_the_targets_addresses_are_registered_and_nothing_goes() {
    // What comes of the call, what is said of it, and whether AWS can't tell.
    let kinds = [
        (FaultKind::health_unavailable(), "HealthUnavailable", true),
        (FaultKind::error(500, "InternalFailure", "not now"), "InternalFailure", true),
        (FaultKind::body(503, "<html>Service Unavailable</html>"), "503", true),
        (FaultKind::error(403, "AccessDenied", "no"), "AccessDenied", false),
        (FaultKind::Hang, "DescribeTargetHealth", false),
    ];
    let settings = [json!({}), json!({"deregister_after_seconds": 60}), json!({"ownership": "shared"})];
    let cases = kinds.into_iter().flat_map(|kind| settings.clone().map(|fields| (kind.clone(), fields)));
    let checks = cases.map(async |((kind, word, cannot_tell), fields)| {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        let mut binding = binding("db.test", &arn);
        binding.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let world = world.set("BINDINGS", json!([binding]));
        world.aws.fault(Fault::on("DescribeTargetHealth", kind));
        let function = world.function().await;
        let result = invoke_within(&function, json!({}), Duration::from_secs(18)).await;
        let message = result.unwrap_err().to_string();
        assert!(message.contains("DescribeTargetHealth") && message.contains(word), "{word}, {fields}: {message}");
        let expected = if cannot_tell { targets(&[9, 10]) } else { targets(&[9]) };
        assert_eq!(world.aws.registered(&arn), expected, "{word}, {fields}");
        assert_eq!(world.count("DeregisterTargets"), 0, "{word}, {fields}");
        assert_eq!(world.metric("Failures"), Some(1.0), "{word}, {fields}");
        if cannot_tell && fields["ownership"] == "shared" {
            let found = world.aws.calls_of("RegisterTargets")[0].found.clone().unwrap();
            assert!(found.tags.keys().any(|key| key.contains("10.0.1.10_5432")), "{word}: {:?}", found.tags);
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
    let reply = reply.unwrap();
    for (group, arn) in reply["groups"].as_array().unwrap().iter().zip(&arns) {
        assert_eq!((&group["outcome"], world.aws.registered(arn)), (&json!("changed"), targets(&[10])));
    }
    // And the group that has settled is left alone.
    let queries = world.dns.queries();
    let last = queries.iter().rfind(|query| query.name == "y.test").unwrap().at;
    let last = last.duration_since(started.into_std());
    assert!(last < Duration::from_secs(38), "{last:?}");
}
