//! DNS that flaps, reads that lag writes, and runs beside one another.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use support::{World, aws::TWICE, dns::Reply, failover, invoke, invoke_within, set, targets};
use tokio::{
    join,
    time::{Instant, sleep, sleep_until, timeout},
};

const OLD: &str = "10.0.1.9:5432";
const NEW: &str = "10.0.1.10:5432";

/// Invokes the function as `event` says, while DNS moves at these milliseconds.
async fn follow(world: &World, event: Value, seconds: u64, moves: &[(u64, u8)]) {
    let function = world.function().await;
    let started = Instant::now();
    let moving = async {
        for (at, host) in moves {
            sleep_until(started + Duration::from_millis(*at)).await;
            world.dns.set_a("db.test", &[&format!("10.0.1.{host}")]);
        }
    };
    let (reply, ()) = join!(invoke_within(&function, event, Duration::from_secs(seconds)), moving);
    reply.unwrap();
}

/// Until these are registered.
async fn until(world: &World, arn: &str, expected: &BTreeSet<String>, time: Duration) {
    let waiting = async {
        while world.aws.registered(arn) != *expected {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let result = timeout(time, waiting).await;
    assert!(result.is_ok(), "{expected:?} after {time:?}: {:?}, {:?}", world.aws.targets(arn), world.actions());
}

/// A watch and polling, and what makes an invocation go on so.
fn modes() -> [(Value, u8); 2] {
    [(failover(), 0), (json!({}), 1)]
}

/// In a failover of Aurora, a resolver may give the old address and the new one in turn for half a minute.
#[tokio::test]
async fn rule_16_flapping_undoes_no_failover() {
    let checks = modes().map(async |(event, interval)| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        world.aws.reconfigure(&arn, |group| group.initial_for(Duration::from_secs(600)));
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        let function = world.function().await;
        let started = Instant::now();
        let at = |seconds: u64| sleep_until(started + Duration::from_secs(seconds));
        let flapping = async {
            at(2).await;
            let answers: [&[&str]; 2] = [&["10.0.1.10"], &["10.0.1.9"]];
            world.dns.set_reply("db.test", RecordType::A, Reply::flapping(Duration::from_secs(3), &answers));
            at(11).await;
            world.dns.set_a("db.test", &["10.0.1.10"]);
        };
        let (reply, ()) = join!(invoke_within(&function, event, Duration::from_secs(22)), flapping);
        assert_eq!(reply.unwrap()["groups"][0]["error"], Value::Null, "{interval}");
        // The first change was followed at once. When DNS went back, the old one was registered again beside the new.
        let counts = |target: &str| (world.aws.registrations(&arn, target), world.aws.deregistrations(&arn, target));
        assert_eq!((counts(NEW), counts(OLD)), ((1, 0), (1, 1)), "{interval}: {:?}", world.actions());
        assert_eq!(world.aws.registered(&arn), set(&[OLD, NEW]), "{interval}");

        // What the watch does not live to see, later runs of its execution environment do.
        at(48).await;
        invoke_within(&function, json!({"watch_seconds": 1}), Duration::from_secs(10)).await.unwrap();
        assert_eq!(world.aws.registered(&arn), set(&[NEW]), "{interval}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_17_a_failover_makes_one_registration_where_reads_lag() {
    // How far reads lag, when DNS moves to which host, how often each target is registered and goes, and who stays. The
    // last one moves back while it is draining, which is not to be seen yet.
    type Case = (u64, &'static [(u64, u8)], [(usize, usize); 2], u8);
    let cases: [Case; 4] = [
        (500, &[(1500, 10)], [(0, 1), (1, 0)], 10),
        (5000, &[(1500, 10)], [(0, 1), (1, 0)], 10),
        (20_000, &[(1500, 10)], [(0, 1), (1, 0)], 10),
        (5000, &[(1500, 10), (4500, 9)], [(1, 1), (1, 1)], 9),
    ];
    let cases = cases.into_iter().flat_map(|case| modes().map(|mode| (case, mode)));
    let checks = cases.map(async |((lag, moves, counts, stays), (event, interval))| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        world.aws.reconfigure(&arn, |group| group.target_lag(Duration::from_millis(lag)));
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        follow(&world, event, 32, moves).await;
        let counted =
            [OLD, NEW].map(|target| (world.aws.registrations(&arn, target), world.aws.deregistrations(&arn, target)));
        assert_eq!(counted, counts, "lag {lag}, {moves:?}, interval {interval}: {:?}", world.actions());
        assert_eq!(world.aws.registered(&arn), targets(&[stays]), "lag {lag}, {moves:?}, interval {interval}");
        // Nor does it ask again and again whether it is to be seen.
        let described = world.count("DescribeTargetHealth");
        assert!(described <= 12, "lag {lag}, {moves:?}, interval {interval}: {described}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_17_tags_that_lag_orphan_nothing() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    let world = world.set("BINDINGS", json!([{"hostname": "db.test", "target_group_arn": arn, "ownership": "shared"}]));
    world.sync().await.unwrap();
    let lag = Duration::from_secs(5);
    world.aws.reconfigure(&arn, |group| group.target_lag(lag).tag_lag(lag));
    follow(&world, failover(), 24, &[(1500, 11), (4500, 12)]).await;
    assert_eq!(world.aws.registered(&arn), targets(&[9, 12]));
    // Another execution environment knows whose they are.
    world.dns.set_a("db.test", &["10.0.1.13"]);
    sleep(lag).await;
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[9, 13]));
}

#[tokio::test]
async fn rule_17_a_watch_sees_what_a_run_beside_it_undid() {
    let checks = modes().map(async |(event, interval)| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        world.aws.tolerate(TWICE);
        // The resolver of the run beside holds the old address for a minute.
        let beside = world.function_with(&[world.dns.resolver().await.address()]).await;
        invoke(&beside, json!({})).await.unwrap();
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        let undoing = async {
            until(&world, &arn, &targets(&[10]), Duration::from_secs(8)).await;
            sleep(Duration::from_secs(1)).await;
            invoke(&beside, json!({})).await.unwrap();
            assert_eq!(world.aws.registered(&arn), targets(&[9]), "interval {interval}");
            // The change is looked at again 10 s after it was made at the latest.
            until(&world, &arn, &targets(&[10]), Duration::from_secs(12)).await;
        };
        join!(follow(&world, event, 28, &[(1500, 10)]), undoing);
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_09_two_runs_at_once_with_different_answers_leave_no_group_empty() {
    let checks = (0..6).map(async |_| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9", "10.0.1.10"]).await;
        world.aws.tolerate(TWICE);
        world.aws.set_latency(Duration::from_millis(20));
        let first = world.function_with(&[world.dns.resolver().await.address()]).await;
        invoke(&first, json!({"dry_run": true})).await.unwrap();
        world.dns.set_a("db.test", &["10.0.1.10"]);
        let second = world.function().await;
        invoke(&second, json!({"dry_run": true})).await.unwrap();
        let (one, other) = join!(invoke(&first, json!({})), invoke(&second, json!({})));
        one.and(other).unwrap();
        assert_ne!(world.aws.registered(&arn), BTreeSet::new(), "{:?}", world.actions());
        // A run that knows the name as it is repairs it all.
        world.sync().await.unwrap();
        assert_eq!(world.aws.registered(&arn), set(&[NEW]));
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_08_what_two_functions_own_stays_until_both_let_go() {
    let (mut world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
    let mut functions = Vec::new();
    for name in ["one", "other"] {
        let hostname = format!("{name}.test");
        world.dns.set_a(&hostname, &["10.0.1.10"]);
        let binding = json!({"hostname": hostname, "target_group_arn": arn, "ownership": "shared"});
        world = world.set("BINDINGS", json!([binding])).set("AWS_LAMBDA_FUNCTION_NAME", name);
        functions.push(world.function().await);
    }
    for (name, host, expected) in
        [("one", 10, &[9, 10][..]), ("one", 11, &[9, 10, 11]), ("other", 11, &[9, 11]), ("other", 12, &[9, 11, 12])]
    {
        world.dns.set_a(&format!("{name}.test"), &[&format!("10.0.1.{host}")]);
        for function in functions.iter().chain(&functions) {
            invoke(function, json!({})).await.unwrap();
        }
        assert_eq!(world.aws.registered(&arn), targets(expected), "{name} {host}");
    }
    // The tags tell the next execution environment, here of the second one.
    world.dns.set_a("other.test", &["10.0.1.13"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[9, 11, 13]));
}
