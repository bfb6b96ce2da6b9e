//! Watches: DNS is asked again and again within one invocation.

use std::time::Duration;

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use support::{
    Log, World,
    aws::{Fault, FaultKind, TargetGroup},
    binding,
    dns::Reply,
    failover, invoke_within, set, targets,
};
use tokio::{
    join,
    time::{Instant, sleep, sleep_until, timeout},
};

/// The shortest time in which a watch of some looks fits: it ends 2 s before the deadline, less
/// what the last look takes.
fn deadline(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Invokes the function, and lets DNS give these addresses at these milliseconds after the start.
async fn with_moves(world: &World, event: Value, time: Duration, moves: &[(u64, &[&str])]) -> (Value, Instant) {
    let function = world.function().await;
    let started = Instant::now();
    let moving = async {
        for (at, addresses) in moves {
            sleep_until(started + Duration::from_millis(*at)).await;
            world.dns.set_a("db.test", addresses);
        }
    };
    let (reply, ()) = join!(invoke_within(&function, event, time), moving);
    (reply.unwrap()["groups"][0].take(), started)
}

#[tokio::test]
async fn an_rds_event_is_followed_by_a_watch_that_applies_the_change_when_it_is_seen() {
    let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
    let (group, started) = with_moves(&world, failover(), deadline(9), &[(1500, &["10.0.1.10"])]).await;
    assert_eq!(group["outcome"], "changed");
    assert_eq!(group["registered"], json!(["10.0.1.10:5432"]));
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
    let seen_after = world.aws.calls_of("RegisterTargets")[0].at.duration_since(started);
    assert!(seen_after < Duration::from_millis(1500 + 1000 + 500), "{seen_after:?}");
    // At the start, before and after the change, and once more at the end; DNS each second.
    assert_eq!(world.count("DescribeTargetHealth"), 4);
    // What is measured goes out at the end.
    assert_eq!((world.count("PutMetricData"), world.actions().last().unwrap().as_str()), (1, "PutMetricData"));
    assert!((5..=9).contains(&world.dns.queries().len()), "{}", world.dns.queries().len());
    assert!((5..8).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_direct_request_watches_for_the_seconds_it_gives() {
    let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
    let event = json!({"watch_seconds": 4});
    let (_, started) = with_moves(&world, event, deadline(30), &[(2500, &["10.0.1.10"])]).await;
    assert!((3..=5).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
}

#[tokio::test]
async fn polling_asks_at_its_interval_until_the_deadline_comes_near() {
    let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
    world.dns.set_ttl(60);
    let world = world.set("POLL_INTERVAL_SECONDS", 2);
    let (group, started) = with_moves(&world, json!({}), deadline(10), &[(3500, &["10.0.1.10"])]).await;
    assert_eq!(group["outcome"], "changed");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
    assert!((3..=6).contains(&world.dns.queries().len()), "{}", world.dns.queries().len());
    let took = started.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_millis(8300)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn polling_leaves_no_hole_before_the_next_minute() {
    let (world, _) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
    let world = world.set("POLL_INTERVAL_SECONDS", 1);
    let (group, started) = with_moves(&world, json!({}), deadline(90), &[]).await;
    assert_eq!(group["outcome"], "in_sync");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    let last_look = world.dns.queries().last().unwrap().at.duration_since(started.into_std());
    assert!(last_look > Duration::from_millis(58_900), "{last_look:?}");
    assert_eq!(world.count("PutMetricData"), 1);
}

#[tokio::test]
async fn polling_asks_sooner_where_the_answer_is_good_for_less() {
    let (world, _) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
    world.dns.set_ttl(1);
    let world = world.set("POLL_INTERVAL_SECONDS", 30);
    with_moves(&world, json!({}), deadline(9), &[]).await;
    assert!(world.dns.queries().len() >= 4, "{}", world.dns.queries().len());
}

#[tokio::test]
async fn a_dry_run_does_not_poll() {
    let (world, _) = World::with_database(&["10.0.1.9"], &[]).await;
    let world = world.set("POLL_INTERVAL_SECONDS", 1);
    let (_, started) = with_moves(&world, json!({"dry_run": true}), deadline(20), &[]).await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_watch_waits_for_the_end_of_a_grace_period() {
    let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
    let binding = json!([{"hostname": "db.test", "target_group_arn": arn, "deregister_after_seconds": 3}]);
    let world = world.set("BINDINGS", binding);
    let (group, started) = with_moves(&world, failover(), deadline(10), &[(1500, &["10.0.1.10"])]).await;
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    let gone_after = world.aws.calls_of("DeregisterTargets")[0].at.duration_since(started);
    assert!((Duration::from_millis(4500)..Duration::from_secs(7)).contains(&gone_after), "{gone_after:?}");
}

#[tokio::test]
async fn a_watch_that_ends_without_another_turn_still_says_why_it_failed() {
    let (world, first) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
    let second = world.aws.create_target_group(TargetGroup::new("second"));
    let shared = |arn: &str| json!({"hostname": "db.test", "target_group_arn": arn, "ownership": "shared"});
    let world = world.set("BINDINGS", json!([shared(&first), shared(&second)])).set("ELB_REQUESTS_PER_SECOND", 1);
    world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::error(403, "AccessDenied", "no")));
    let message = invoke_within(&world.function().await, failover(), deadline(7)).await.unwrap_err().to_string();
    let causes: Vec<_> = message.split(" | ").collect();
    assert_eq!(causes.len(), 2, "{message}");
    assert!(causes.iter().all(|cause| cause.contains("AccessDenied") || cause.contains("given up")), "{message}");
}

#[tokio::test]
async fn a_watch_in_which_something_hangs_spoils_no_other_group_and_replies_in_time() {
    let hanging = [
        "DNS",
        "DescribeTargetHealth",
        "RegisterTargets",
        "DescribeTags",
        "AddTags",
        "DeregisterTargets",
        "PutMetricData",
    ];
    let checks = hanging.map(async |what| {
        let (world, first) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        world.dns.set_a("second.test", &["10.0.1.9"]);
        let second = world.aws.create_target_group(TargetGroup::new("second"));
        world.aws.set_tag(&first, "nlb-hostname-targets:owned/10.0.1.9_5432/test", "used");
        let shared = json!({"hostname": "db.test", "target_group_arn": first, "ownership": "shared"});
        let bindings = json!([shared, binding("second.test", &second)]);
        let world = world.set("BINDINGS", bindings).set("AWS_LAMBDA_FUNCTION_NAME", "test");
        let function = world.function().await;
        let time = deadline(12);
        let moving = async {
            sleep(Duration::from_millis(1500)).await;
            let hang = Fault::on(what, FaultKind::Hang);
            world.aws.fault(if what == "PutMetricData" { hang } else { hang.arn(&first) });
            world.dns.set_a("second.test", &["10.0.1.10"]);
            match what {
                "DNS" => world.dns.set_reply("db.test", RecordType::A, Reply::Silent),
                _ => world.dns.set_a("db.test", &["10.0.1.10"]),
            }
        };
        let (reply, ()) = join!(timeout(time, invoke_within(&function, failover(), time)), moving);
        let reply = reply.unwrap_or_else(|_| panic!("{what}: the reply has to go out before the deadline"));
        assert_eq!(world.aws.registered(&second), set(&["10.0.1.10:5432"]), "{what}");
        if what == "PutMetricData" {
            assert_eq!(reply.unwrap()["groups"][0]["outcome"], "changed");
            return;
        }
        let message = reply.unwrap_err().to_string();
        assert!(
            message.starts_with("1 of 2") && message.contains("db.test of") && message.contains(&first),
            "{message}"
        );
        let says = if what == "DNS" { "db.test: time-out".to_owned() } else { format!("waiting for {what}") };
        assert!(message.contains(&says), "{what}: {message}");
        assert_eq!(world.sum("Failures"), 1.0, "{what}: metrics are sent");
        assert!(world.aws.registered(&first).contains("10.0.1.9:5432"), "{what}");
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn a_watch_holds_the_targets_while_dns_fails_and_says_so() {
    // When DNS fails, in milliseconds, and for how long.
    let cases = [(0, Some(2500)), (1500, Some(2500)), (1500, None)];
    for (begins, lasts) in cases {
        let (log, _guard) = Log::start();
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        let fail = || world.dns.set_reply("db.test", RecordType::A, Reply::ServFail);
        if begins == 0 {
            fail();
        }
        let function = world.function().await;
        let outage = async {
            sleep(Duration::from_millis(begins)).await;
            fail();
            let Some(lasts) = lasts else { return };
            sleep(Duration::from_millis(lasts)).await;
            assert_eq!(world.aws.registered(&arn), targets(&[9]));
            world.dns.set_a("db.test", &["10.0.1.10"]);
        };
        let (reply, ()) = join!(invoke_within(&function, failover(), deadline(10)), outage);
        let stays = if lasts.is_some() { 10 } else { 9 };
        assert_eq!(world.aws.registered(&arn), targets(&[stays]), "{begins}, {lasts:?}");
        match lasts {
            Some(_) => assert_eq!(reply.unwrap()["groups"][0]["error"], Value::Null),
            None => assert!(reply.unwrap_err().to_string().contains("SERVFAIL")),
        }
        let text = log.text();
        let says = |words: &str| text.lines().filter(|line| line.contains(words)).collect::<Vec<_>>();
        let lines = if begins == 0 { says("failed before") } else { says("not resolved") };
        assert_eq!(lines.len(), 1, "{begins}, {lasts:?}: a line for each: {text}");
        assert!(lines[0].contains("db.test: SERVFAIL"), "{lines:?}");
    }
}
