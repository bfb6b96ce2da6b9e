//! Reads that lag writes, and runs beside one another.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{
    World,
    aws::{Fault, FaultKind, TWICE},
    binding, failover, invoke, invoke_within, set, targets,
};
use tokio::{
    join,
    time::{Instant, sleep, sleep_until, timeout},
};

const LAGS: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(5), Duration::from_secs(20)];

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

#[tokio::test]
async fn rule_17_a_failover_makes_one_registration_where_reads_lag() {
    let cases = LAGS.into_iter().flat_map(|lag| modes().map(|mode| (lag, mode)));
    let checks = cases.map(async |(lag, (event, interval))| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        world.aws.reconfigure(&arn, |group| group.target_lag(lag));
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        follow(&world, event, 32, &[(1500, 10)]).await;
        let counts = (world.count("RegisterTargets"), world.count("DeregisterTargets"));
        assert_eq!(counts, (1, 1), "lag {lag:?}, interval {interval}");
        assert_eq!(world.aws.registered(&arn), targets(&[10]), "lag {lag:?}, interval {interval}");
        // Nor does it ask again and again whether it is to be seen.
        let described = world.count("DescribeTargetHealth");
        assert!(described <= 10, "lag {lag:?}, interval {interval}: {described}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_17_a_plain_run_changes_each_target_once_where_reads_lag() {
    let fields = [json!({}), json!({"ownership": "shared"}), json!({"deregister_after_seconds": 60})];
    let checks = fields.map(async |fields| {
        let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11"], &["10.0.1.8", "10.0.1.9"]).await;
        let lag = Duration::from_secs(5);
        world.aws.reconfigure(&arn, |group| group.target_lag(lag).tag_lag(lag));
        let mut binding = binding("db.test", &arn);
        binding.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let world = world.set("BINDINGS", json!([binding]));
        world.sync().await.unwrap();
        for target in targets(&[10, 11]) {
            assert_eq!(world.aws.registrations(&arn, &target), 1, "{fields}");
        }
        for target in targets(&[8, 9]) {
            let gone = usize::from(fields == json!({}));
            assert_eq!(world.aws.deregistrations(&arn, &target), gone, "{fields}");
        }
        assert!(world.count("AddTags") <= 1, "{fields}: {:?}", world.actions());
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_17_a_name_that_moves_back_within_the_lag_is_followed_back() {
    let checks = modes().map(async |(event, interval)| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        world.aws.reconfigure(&arn, |group| group.target_lag(Duration::from_secs(5)));
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        // It is draining since 1.5 s, and would be seen so at 6.5 s.
        let watching = follow(&world, event, 12, &[(1500, 10), (4000, 9)]);
        let looking = async {
            sleep_until(Instant::now() + Duration::from_secs(6)).await;
            world.aws.registered(&arn)
        };
        let ((), registered) = join!(watching, looking);
        assert!(registered.contains("10.0.1.9:5432"), "interval {interval}: {registered:?}");
        assert_eq!(world.aws.registrations(&arn, "10.0.1.9:5432"), 1, "interval {interval}");
        assert!(world.aws.registrations(&arn, "10.0.1.10:5432") <= 1, "interval {interval}");
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
    sleep_until(Instant::now() + lag).await;
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[9, 13]));
}

#[tokio::test]
async fn rule_17_a_watch_sees_what_a_run_beside_it_undid() {
    let checks = modes().map(async |(event, interval)| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        world.aws.tolerate(TWICE);
        // The resolver of the run beside holds the old address for a minute.
        let resolver = world.dns.resolver().await;
        let own = world.dns.address();
        let world = world.dns_servers(&[resolver.address()]);
        let beside = world.function().await;
        invoke(&beside, json!({})).await.unwrap();
        let world = world.dns_servers(&[own]).set("POLL_INTERVAL_SECONDS", interval);
        let undoing = async {
            until(&world, &arn, &targets(&[10]), Duration::from_secs(6)).await;
            let followed = Instant::now();
            sleep(Duration::from_secs(1)).await;
            invoke(&beside, json!({})).await.unwrap();
            assert_eq!(world.aws.registered(&arn), targets(&[9]), "interval {interval}");
            // The change is looked at again 10 s after it was made at the latest.
            let left = followed + Duration::from_secs(12) - Instant::now();
            until(&world, &arn, &targets(&[10]), left).await;
        };
        join!(follow(&world, event, 24, &[(1500, 10)]), undoing);
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_09_two_runs_at_once_with_different_answers_leave_no_group_empty() {
    join_all((0..6).map(|_| two_runs_with_different_answers("exclusive", "0", Duration::from_secs(60), None))).await;
}

#[tokio::test]
async fn rule_09_what_two_runs_took_from_each_other_is_put_back_though_the_budget_is_used_up() {
    // Of the four requests of a burst, the dry run takes two, and the run one to read. Two more take a second, and a turn
    // for the registration two, which is too late.
    join_all((0..6).map(|_| two_runs_with_different_answers("exclusive", "1", Duration::from_secs(4), None))).await;
}

#[tokio::test]
async fn rule_09_what_two_runs_took_from_each_other_is_put_back_though_tags_can_be_written_and_read_no_more() {
    let faults = ["AddTags", "DescribeTags"];
    let checks = faults.iter().flat_map(|action| [*action; 6]);
    let time = Duration::from_secs(60);
    join_all(checks.map(|action| two_runs_with_different_answers("shared", "0", time, Some(action)))).await;
}

/// `denied` is what AWS denies once the runs deregister.
async fn two_runs_with_different_answers(ownership: &str, budget: &str, time: Duration, denied: Option<&str>) {
    let (world, arn) = World::with_database(&["10.0.1.9", "10.0.1.10"], &[]).await;
    let bindings = json!([{"hostname": "db.test", "target_group_arn": arn, "ownership": ownership}]);
    let world = world.set("BINDINGS", bindings);
    world.sync().await.unwrap();
    for target in ["10.0.1.9:5432", "10.0.1.10:5432"] {
        world.aws.set_state(&arn, target, "healthy");
    }
    world.aws.tolerate(TWICE);
    world.aws.set_latency(Duration::from_millis(20));
    world.dns.set_a("db.test", &["10.0.1.9"]);
    let resolver = world.dns.resolver().await;
    let own = world.dns.address();
    let world = world.set("ELB_REQUESTS_PER_SECOND", budget).dns_servers(&[resolver.address()]);
    let first = world.function().await;
    invoke(&first, json!({"dry_run": true})).await.unwrap();
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let world = world.dns_servers(&[own]);
    let second = world.function().await;
    invoke(&second, json!({"dry_run": true})).await.unwrap();
    if let Some(action) = denied {
        // Each run reads the tags once before it deregisters.
        let after = if action == "DescribeTags" { 2 } else { 0 };
        world.aws.fault(Fault::on(action, FaultKind::error(403, "AccessDenied", "no")).after(after));
    }
    let (one, other) = join!(invoke_within(&first, json!({}), time), invoke_within(&second, json!({}), time));
    if denied.is_none() {
        one.unwrap();
        other.unwrap();
    }
    let registered = world.aws.registered(&arn);
    assert_ne!(registered, BTreeSet::new(), "{:?}", world.actions());
    // A run that knows the name as it is repairs it all.
    world.aws.clear_faults();
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
}
