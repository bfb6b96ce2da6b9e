//! Name servers that are dead or slow.

use std::time::Duration;

use futures_util::future::join_all;
use nlb_hostname_targets::{dns::Resolver, target::IpFamily};
use serde_json::{Value, json};
use support::{
    World,
    dns::{FakeDns, Quirk},
    failover, invoke_within, targets,
};
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
        dead.set_quirks(&[Quirk::Silent]);
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

#[tokio::test]
async fn rule_18_servers_that_are_slow_or_silent_are_all_listened_to() {
    // What each server does: its delay in milliseconds, or silence.
    let cases: [&[Option<u64>]; 5] =
        [&[Some(2500)], &[Some(2500), Some(2500)], &[Some(2500), None], &[None, Some(2500)], &[None, None, Some(1800)]];
    let checks = cases.map(async |delays| {
        let servers = join_all(delays.iter().map(async |delay| {
            let server = FakeDns::start().await;
            server.set_a("db.test", &["10.0.1.10"]);
            server.set_delay(Duration::from_millis(delay.unwrap_or_default()));
            server.set_quirks(if delay.is_none() { &[Quirk::Silent] } else { &[] });
            server
        }));
        let servers = servers.await;
        let resolver = Resolver::new(Some(&servers.iter().map(FakeDns::address).collect::<Vec<_>>())).unwrap();
        let hostname = "db.test".to_owned().try_into().unwrap();
        let ask = || resolver.resolve(&hostname, IpFamily::V4, (Instant::now() + Duration::from_secs(9)).into_std());
        // One that says that there is no such name is believed, too.
        assert!(ask().await.is_ok(), "{delays:?}");
        servers.iter().for_each(|server| server.remove("db.test"));
        let error = ask().await.unwrap_err().to_string();
        assert!(error.contains("NXDOMAIN"), "{delays:?}: {error}");
    });
    join_all(checks).await;
}
