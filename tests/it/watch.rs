//! Watches and polling: DNS is asked again and again within one invocation.

use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use support::{
    Log, World,
    aws::{Fault, FaultKind, TargetGroup},
    binding, binding_with,
    dns::Reply,
    failover, invoke_within, targets,
};
use tokio::{
    join,
    time::{Instant, sleep, timeout},
};
use tracing::instrument::WithSubscriber;

/// A world in step, where `db.test` gives 10.0.1.9.
async fn in_step() -> (World, String) {
    World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await
}

/// Invokes the function, and lets DNS give 10.0.1.10 after so many milliseconds, if any. The report of the group, and how
/// long after the start each call of the action arrived.
async fn follow(
    world: &World,
    event: Value,
    seconds: u64,
    moves_after: Option<u64>,
    action: &str,
) -> (Value, Vec<Duration>) {
    let function = world.function().await;
    let started = Instant::now();
    let moving = async {
        if let Some(milliseconds) = moves_after {
            sleep(Duration::from_millis(milliseconds)).await;
            world.dns.set_a("db.test", &["10.0.1.10"]);
        }
    };
    let (reply, ()) = join!(invoke_within(&function, event, Duration::from_secs(seconds)), moving);
    let arrived = world.aws.calls_of(action).iter().map(|call| call.at - started).collect();
    (reply.unwrap()["groups"][0].take(), arrived)
}

#[tokio::test]
async fn an_rds_event_is_followed_by_a_watch_that_applies_the_change_when_it_is_seen() {
    let (world, arn) = in_step().await;
    let (group, registered) = follow(&world, failover(), 9, Some(1500), "RegisterTargets").await;
    assert_eq!(group["outcome"], "changed");
    assert_eq!((&group["registered"], &group["deregistered"]), (&json!(["10.0.1.10:5432"]), &json!(["10.0.1.9:5432"])));
    assert_eq!(world.aws.registered(&arn), targets(&[10]));
    assert!(registered[0] < Duration::from_millis(1500 + 1000 + 500), "{registered:?}");
    // At the start, before and after the change, and once more at the end; DNS each second.
    assert_eq!(world.count("DescribeTargetHealth"), 4);
    assert!((5..=9).contains(&world.dns.queries().len()), "{}", world.dns.queries().len());
    // What is measured goes out at the end.
    let published = world.aws.calls_of("PutMetricData");
    assert_eq!((published.len(), world.actions().last().unwrap().as_str()), (1, "PutMetricData"));
}

/// A request for so many seconds, and polling at an interval until the deadline comes near or, where the answer is good for
/// less, sooner.
#[tokio::test]
async fn an_invocation_goes_on_for_as_long_as_it_is_asked_to() {
    // The event, the interval, the time to live, the time-out, when metrics go out, and how many queries there are.
    let cases = [
        (json!({"watch_seconds": 4}), 0, 60, 30, 3..=5, 3..=6),
        (json!({}), 2, 60, 10, 5..=8, 3..=6),
        (json!({}), 30, 1, 9, 4..=7, 4..=9),
        (json!({"dry_run": true}), 1, 1, 20, 0..=0, 1..=1),
    ];
    let checks = cases.map(async |(event, interval, ttl, seconds, ends, queries)| {
        let (world, arn) = in_step().await;
        world.dns.set_ttl(ttl);
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        let is_dry_run = event.get("dry_run").is_some();
        let moves = (!is_dry_run).then_some(2500);
        let (_, published) = follow(&world, event.clone(), seconds, moves, "PutMetricData").await;
        let published: Vec<_> = published.iter().map(Duration::as_secs).collect();
        assert!(published.len() == usize::from(!is_dry_run), "{event}, {interval}: {published:?}");
        assert!(published.iter().all(|at| ends.contains(at)), "{event}, {interval}: {published:?}");
        assert!(queries.contains(&world.dns.queries().len()), "{event}, {interval}: {}", world.dns.queries().len());
        assert_eq!(world.aws.registered(&arn), targets(&[if is_dry_run { 9 } else { 10 }]), "{event}, {interval}");
    });
    join_all(checks).await;
}

#[tokio::test]
#[ignore = "it takes a minute: `make test-all` runs it"]
async fn polling_leaves_no_hole_before_the_next_minute() {
    let (world, _) = in_step().await;
    let world = world.set("POLL_INTERVAL_SECONDS", 1);
    let started = std::time::Instant::now();
    let (group, published) = follow(&world, json!({}), 90, None, "PutMetricData").await;
    assert_eq!((&group["outcome"], published.len()), (&json!("in_sync"), 1));
    assert!(published[0] < Duration::from_secs(60), "{published:?}");
    let last_look = world.dns.queries().last().unwrap().at - started;
    assert!(last_look > Duration::from_millis(58_900), "{last_look:?}");
}

#[tokio::test]
async fn a_watch_waits_for_the_end_of_a_grace_period() {
    let (world, arn) = in_step().await;
    let bound = binding_with("db.test", &arn, &json!({"deregister_after_seconds": 3}));
    let world = world.set("BINDINGS", json!([bound]));
    let (group, deregistered) = follow(&world, failover(), 10, Some(1500), "DeregisterTargets").await;
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert!((Duration::from_millis(4500)..Duration::from_secs(7)).contains(&deregistered[0]), "{deregistered:?}");
}

#[tokio::test]
async fn a_watch_that_ends_without_another_turn_still_says_why_it_failed() {
    let (world, first) = in_step().await;
    let second = world.aws.create_target_group(TargetGroup::new("second"));
    let shared = |arn: &str| binding_with("db.test", arn, &json!({"ownership": "shared"}));
    let world = world.set("BINDINGS", json!([shared(&first), shared(&second)])).set("ELB_REQUESTS_PER_SECOND", 1);
    world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::denied()));
    let result = invoke_within(&world.function().await, failover(), Duration::from_secs(7)).await;
    let message = result.unwrap_err().to_string();
    let causes: Vec<_> = message.split(" | ").collect();
    assert_eq!(causes.len(), 2, "{message}");
    assert!(causes.iter().all(|cause| cause.contains("AccessDenied") || cause.contains("given up")), "{message}");
}

#[tokio::test]
async fn a_watch_in_which_something_hangs_spoils_no_other_group_and_replies_in_time() {
    let hanging = "DNS DescribeTargetHealth RegisterTargets DescribeTags AddTags DeregisterTargets PutMetricData";
    let checks = hanging.split(' ').map(async |what| {
        let (world, first) = in_step().await;
        world.dns.set_a("second.test", &["10.0.1.9"]);
        let second = world.aws.create_target_group(TargetGroup::new("second"));
        world.aws.set_tag(&first, "nlb-hostname-targets:owned/10.0.1.9_5432/test", "used");
        let shared = binding_with("db.test", &first, &json!({"ownership": "shared"}));
        let bindings = json!([shared, binding("second.test", &second)]);
        let world = world.set("BINDINGS", bindings).set("AWS_LAMBDA_FUNCTION_NAME", "test");
        let function = world.function().await;
        let time = Duration::from_secs(16);
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
        assert_eq!(world.aws.registered(&second), targets(&[10]), "{what}");
        if what == "PutMetricData" {
            assert_eq!(reply.unwrap()["groups"][0]["outcome"], "changed");
            return;
        }
        let message = reply.err().unwrap_or_else(|| panic!("{what}: it has failed")).to_string();
        let words = ["1 of 2", "db.test of", &first, if what == "DNS" { "db.test: time-out" } else { what }];
        assert!(words.iter().all(|word| message.contains(word)), "{what}: {message}");
        let is_hanging = ["waiting for", "no reply in time", "time-out"].iter().any(|words| message.contains(words));
        assert!(is_hanging, "{what}: {message}");
        assert_eq!(world.sum("Failures"), 1.0, "{what}: metrics are sent");
        assert!(world.aws.registered(&first).contains("10.0.1.9:5432"), "{what}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn a_watch_holds_the_targets_while_dns_fails_and_says_so() {
    // When DNS fails, in milliseconds, and for how long.
    let cases = [(0, Some(2500)), (1500, Some(2500)), (1500, None)];
    let checks = cases.map(async |(begins, lasts)| {
        let (log, dispatch) = Log::dispatch();
        let (world, arn) = in_step().await;
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
        let watch = invoke_within(&function, failover(), Duration::from_secs(10)).with_subscriber(dispatch);
        let (reply, ()) = join!(watch, outage);
        let stays = if lasts.is_some() { 10 } else { 9 };
        assert_eq!(world.aws.registered(&arn), targets(&[stays]), "{begins}, {lasts:?}");
        match lasts {
            Some(_) => assert_eq!(reply.unwrap()["groups"][0]["error"], Value::Null),
            None => assert!(reply.unwrap_err().to_string().contains("SERVFAIL")),
        }
        let text = log.text();
        let words = if begins == 0 { "failed before" } else { "not resolved" };
        let lines: Vec<_> = text.lines().filter(|line| line.contains(words)).collect();
        assert_eq!(lines.len(), 1, "{begins}, {lasts:?}: a line for each: {text}");
        assert!(lines[0].contains("db.test: SERVFAIL"), "{lines:?}");
    });
    join_all(checks).await;
}
