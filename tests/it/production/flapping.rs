//! DNS that flaps: in a failover of Aurora, a resolver may give the old address and the new one in turn for half a
//! minute.

use std::time::Duration;

use futures_util::future::join_all;
use hickory_server::proto::rr::RecordType;
use serde_json::{Value, json};
use support::{World, dns::Reply, failover, invoke, invoke_within, set};
use tokio::{
    join,
    time::{Instant, sleep_until},
};

const OLD: &str = "10.0.1.9";
const NEW: &str = "10.0.1.10";

/// How long each answer lasts.
const PERIOD: Duration = Duration::from_secs(2);

/// How long a target must be missing to go, while it is `initial`.
const INITIAL: Duration = Duration::from_secs(30);

/// A database whose new targets are `initial` for longer than any test takes.
async fn database() -> (World, String) {
    let (world, arn) = World::with_database(&[OLD], &[OLD]).await;
    world.aws.reconfigure(&arn, |group| group.initial_for(Duration::from_secs(600)));
    (world, arn)
}

#[tokio::test]
async fn rule_16_flapping_undoes_no_failover() {
    let cases = [("a watch", failover(), 0), ("polling", json!({}), 1)];
    let checks = cases.map(async |(what, event, interval)| {
        let (world, arn) = database().await;
        let (old, new) = (format!("{OLD}:5432"), format!("{NEW}:5432"));
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        let function = world.function().await;
        let started = Instant::now();
        let at = |seconds: f64| sleep_until(started + Duration::from_secs_f64(seconds));
        let flapping = async {
            at(1.5).await;
            world.dns.set_reply("db.test", RecordType::A, Reply::flapping(PERIOD, &[&[NEW], &[OLD]]));
            at(7.5).await;
            world.dns.set_a("db.test", &[NEW]);
        };
        let (reply, ()) = join!(invoke_within(&function, event, Duration::from_secs(20)), flapping);
        assert_eq!(reply.unwrap()["groups"][0]["error"], Value::Null, "{what}");
        // The first change was followed at once. When DNS went back, the old one was registered again beside the new.
        let counts = |target: &str| (world.aws.registrations(&arn, target), world.aws.deregistrations(&arn, target));
        assert_eq!(counts(&new), (1, 0), "{what}: {:?}", world.actions());
        assert_eq!(counts(&old), (1, 1), "{what}: {:?}", world.actions());
        assert_eq!(world.aws.registered(&arn), set(&[&old, &new]), "{what}");

        // What the watch does not live to see, later runs of its execution environment do.
        if interval > 0 {
            return;
        }
        invoke(&function, json!({})).await.unwrap();
        at(20.0 + INITIAL.as_secs_f64()).await;
        invoke(&function, json!({})).await.unwrap();
        assert_eq!(world.aws.registered(&arn), set(&[&new]), "{what}");
        assert_eq!(counts(&new), (1, 0), "{what}");
        assert_eq!(counts(&old), (1, 2), "{what}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_16_the_time_counts_in_the_execution_environment_and_in_a_row() {
    let (world, arn) = database().await;
    let (old, new) = (format!("{OLD}:5432"), format!("{NEW}:5432"));
    let function = world.function().await;
    let started = Instant::now();
    let look = async |seconds: u64, address: &str| {
        sleep_until(started + Duration::from_secs(seconds)).await;
        world.dns.set_a("db.test", &[address]);
        invoke(&function, json!({})).await.unwrap();
        world.aws.registered(&arn)
    };
    assert_eq!(look(0, NEW).await, set(&[&new]), "the first change is followed at once");
    assert_eq!(look(1, OLD).await, set(&[&old, &new]), "the new one was registered just now");
    // It comes back, so that the time begins anew.
    assert_eq!(look(20, NEW).await, set(&[&old, &new]));
    assert_eq!(look(21, OLD).await, set(&[&old, &new]));
    assert_eq!(look(40, OLD).await, set(&[&old, &new]), "missing for 19 s in a row, and for 38 s in all");
    // A new execution environment has seen nothing yet.
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&[&old, &new]));
    assert_eq!(look(52, OLD).await, set(&[&old]), "missing for 31 s in a row");
}

#[tokio::test]
async fn rule_16_a_target_that_is_no_longer_initial_goes_at_once() {
    let (world, arn) = database().await;
    world.aws.reconfigure(&arn, |group| group.initial_for(Duration::from_secs(3)));
    let function = world.function().await;
    let started = Instant::now();
    let moving = async {
        for (seconds, address) in [(1, NEW), (8, OLD)] {
            sleep_until(started + Duration::from_secs(seconds)).await;
            world.dns.set_a("db.test", &[address]);
        }
    };
    let (reply, ()) = join!(invoke_within(&function, failover(), Duration::from_secs(16)), moving);
    reply.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432"]));
}
