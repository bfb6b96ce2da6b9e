//! Name servers that are dead or slow.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{World, dns::FakeDns, failover, invoke_within, targets};
use tokio::{
    join,
    time::{Instant, sleep, sleep_until},
};

/// How an invocation goes on, and how often it polls.
fn modes() -> [(Value, u8); 3] {
    [(failover(), 0), (json!({}), 1), (json!({}), 5)]
}

/// An invocation of 20 s in which the name moves after 7 s, with these name servers.
async fn follows(what: &str, servers: &[&FakeDns], moving: &FakeDns, event: Value, interval: u8) {
    let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
    moving.set_a("db.test", &["10.0.1.9"]);
    let servers: Vec<_> = servers.iter().map(|server| server.address()).collect();
    let world = world.dns_servers(&servers).set("POLL_INTERVAL_SECONDS", interval);
    let function = world.function().await;
    let started = Instant::now();
    let failing_over = async {
        sleep_until(started + Duration::from_secs(7)).await;
        moving.set_a("db.test", &["10.0.1.10"]);
    };
    let (reply, ()) = join!(invoke_within(&function, event, Duration::from_secs(20)), failing_over);
    let reply = reply.unwrap_or_else(|error| panic!("{what}, interval {interval}: {error}"));
    assert_eq!(reply["groups"][0]["outcome"], "changed", "{what}, interval {interval}");
    assert_eq!(world.aws.registered(&arn), targets(&[10]), "{what}, interval {interval}");
    assert_eq!(world.sum("Failures"), 0.0, "{what}, interval {interval}");
}

#[tokio::test]
async fn rule_18_a_dead_first_name_server_fails_no_watch_and_no_polling() {
    let checks = modes().map(async |(event, interval)| {
        let (dead, well) = (FakeDns::start().await, FakeDns::start().await);
        dead.set_silent(true);
        follows("dead and well", &[&dead, &well], &well, event, interval).await;
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_18_a_name_server_that_takes_its_time_fails_no_watch_and_no_polling() {
    let cases = [1800, 2500].into_iter().flat_map(|delay| modes().map(|mode| (delay, mode)));
    let checks = cases.map(async |(delay, (event, interval))| {
        let slow = FakeDns::start().await;
        slow.set_delay(Duration::from_millis(delay));
        follows(&format!("{delay} ms"), &[&slow], &slow, event, interval).await;
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_18_a_last_look_that_could_not_end_leaves_what_was_last_known() {
    let checks = modes().map(async |(event, interval)| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        let function = world.function().await;
        let limit = Duration::from_secs(12);
        let turning_slow = async {
            // Of the 12 s two are for the reply.
            sleep(limit - Duration::from_millis(4200)).await;
            world.dns.set_delay(Duration::from_secs(5));
        };
        let (reply, ()) = join!(invoke_within(&function, event, limit), turning_slow);
        let reply = reply.unwrap_or_else(|error| panic!("interval {interval}: {error}"));
        assert_eq!(reply["groups"][0]["outcome"], "in_sync", "interval {interval}");
        assert_eq!(reply["groups"][0]["resolved"], json!(["10.0.1.9"]), "interval {interval}");
        assert_eq!(world.aws.registered(&arn), targets(&[9]));
        assert_eq!(world.sum("Failures"), 0.0, "interval {interval}");
    });
    join_all(checks).await;
}

/// What a server does: its delay in milliseconds, or silence.
const SILENT: Option<u64> = None;

#[tokio::test]
async fn rule_18_servers_that_are_slow_or_silent_are_all_listened_to() {
    let cases = [
        vec![Some(2500)],
        vec![Some(2500), Some(2500)],
        vec![Some(2500), SILENT],
        vec![SILENT, Some(2500)],
        vec![SILENT, SILENT, Some(1800)],
    ];
    let checks = cases.map(async |delays| {
        let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
        let mut servers = Vec::new();
        for delay in &delays {
            let server = FakeDns::start().await;
            server.set_a("db.test", &["10.0.1.10"]);
            server.set_silent(delay.is_none());
            server.set_delay(Duration::from_millis(delay.unwrap_or_default()));
            servers.push(server);
        }
        let addresses: Vec<_> = servers.iter().map(FakeDns::address).collect();
        let world = world.dns_servers(&addresses);
        let function = world.function().await;
        // In the run in which it learns of it, and in the next.
        for run in 1..=2 {
            let result = invoke_within(&function, json!({}), Duration::from_secs(15)).await;
            assert!(result.is_ok(), "{delays:?}, run {run}: {result:?}");
        }
        assert_eq!(world.aws.registered(&arn), targets(&[10]), "{delays:?}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_18_a_slow_server_that_says_that_there_is_no_such_name_is_believed() {
    let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
    world.dns.remove("db.test");
    world.dns.set_delay(Duration::from_millis(2500));
    let message = world.failure(json!({})).await;
    assert!(message.contains("NXDOMAIN"), "{message}");
    assert_eq!(world.aws.registered(&arn), targets(&[9]));
}
