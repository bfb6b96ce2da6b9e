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
    time::{Instant, sleep},
};

/// How an invocation goes on, and how often it polls.
fn modes() -> [(Value, u8); 2] {
    [(failover(), 0), (json!({}), 1)]
}

#[tokio::test]
async fn rule_18_a_dead_or_slow_name_server_fails_no_watch_and_no_polling() {
    // How many milliseconds the servers take; `None`: for ever.
    let cases: [&[Option<u64>]; 3] = [&[None, Some(0)], &[Some(1500)], &[Some(2500)]];
    let cases = cases.into_iter().flat_map(|delays| modes().map(|mode| (delays, mode)));
    let checks = cases.map(async |(delays, (event, interval))| {
        let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
        let servers = servers(delays, "10.0.1.9").await;
        let world = world.dns_servers(&servers.iter().map(FakeDns::address).collect::<Vec<_>>());
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        let function = world.function().await;
        let moving = async {
            sleep(Duration::from_secs(7)).await;
            servers.iter().for_each(|server| server.set_a("db.test", &["10.0.1.10"]));
        };
        let (reply, ()) = join!(invoke_within(&function, event, Duration::from_secs(22)), moving);
        let reply = reply.unwrap_or_else(|error| panic!("{delays:?}, interval {interval}: {error}"));
        assert_eq!(reply["groups"][0]["outcome"], "changed", "{delays:?}, interval {interval}");
        assert_eq!(world.aws.registered(&arn), targets(&[10]), "{delays:?}, interval {interval}");
        assert_eq!(world.sum("Failures"), 0.0, "{delays:?}, interval {interval}");
    });
    join_all(checks).await;
}

/// Servers that give this address after so many milliseconds, or are silent.
async fn servers(delays: &[Option<u64>], address: &str) -> Vec<FakeDns> {
    let servers = delays.iter().map(async |delay| {
        let server = FakeDns::start().await;
        server.set_a("db.test", &[address]);
        server.set_delay(Duration::from_millis(delay.unwrap_or_default()));
        server.set_quirks(if delay.is_none() { &[Quirk::Silent] } else { &[] });
        server
    });
    join_all(servers).await
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
        let servers = servers(delays, "10.0.1.10").await;
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
