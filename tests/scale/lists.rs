//! Answers of thousands of addresses. A reply of Lambda has 6 MB at most, and a line of its log 256 KB.
//!
//! The emulations have threads of their own here, because the function computes for long.

use std::{fmt::Write, net::Ipv4Addr, time::Duration};

use hickory_proto::{op::Message, rr::Record};
use serde_json::{Value, json};
use support::{
    Log, World,
    aws::TargetGroup,
    binding_with,
    dns::{FakeDns, Reply},
    invoke_within,
    runtime_api::{Bootstrap, RuntimeApi},
};

use crate::alone;

/// Of a name that gives 1,000 addresses each.
const GROUPS: usize = 80;

const LIMIT: Duration = Duration::from_secs(60);

/// Bytes of a reply.
const MOST: usize = 5_000_000;
/// Bytes of a line of the log.
const LONGEST: usize = 256 * 1024;

/// A list of networks that is long by itself. None of the addresses lies in one of them, but for the first.
fn networks(first: &str, count: u16) -> String {
    (0..count).fold(first.to_owned(), |mut list, number| {
        write!(list, ",192.168.{number}.0/24").unwrap();
        list
    })
}

/// From 10.0.0.1 on.
fn give_a_thousand(reply: &mut Message) {
    let owner = reply.answers[0].name.clone();
    let address = |number: u32| Ipv4Addr::from_bits(0x0a00_0000 + number).into();
    reply.add_answers((2..=1000).map(|number| Record::from_rdata(owner.clone(), 60, address(number))));
}

/// Groups of one name that gives 1,000 addresses, 10.0.1.10 among them, of which those in `allowed` may be registered.
/// What they are bound to is the event.
async fn long_lists(allowed: &str) -> (World, Value, FakeDns) {
    let dns = FakeDns::always(Reply::Edited(give_a_thousand).truncated()).await;
    // Once more where the machine was too busy to hear it.
    let world = World::new().await.dns_servers(&[dns.address(); 3]);
    let bindings: Vec<_> = (0..GROUPS)
        .map(|number| {
            let arn = world.aws.create_target_group(TargetGroup::new(&format!("g{number}")));
            world.aws.add_target(&arn, "10.0.1.10", "healthy");
            binding_with("db.test", &arn, &json!({"lookups": 1}))
        })
        .collect();
    let world = world.set("ALLOWED_CIDRS", networks(allowed, 4)).set("ELB_REQUESTS_PER_SECOND", 0);
    (world, json!({ "bindings": bindings }), dns)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_of_thousands_of_refused_addresses_stays_under_5_mb() {
    let _alone = alone().await;
    let (log, _guard) = Log::start();
    let (world, event, _dns) = long_lists("10.0.1.10/32").await;
    let reply = invoke_within(&world.function().await, event, LIMIT).await.unwrap();
    // All are in step, and their lists of what was refused are too long for a reply.
    assert_eq!((reply["groups"].as_array().unwrap().len(), &reply["left_out"]), (0, &json!(GROUPS)));
    let length = reply.to_string().len();
    assert!(length < MOST, "{length} bytes");
    let longest = log.text().lines().map(str::len).max().unwrap_or_default();
    assert!(longest < LONGEST, "a line of {longest} bytes");
}

#[tokio::test]
async fn an_error_of_thousands_of_refused_addresses_stays_readable() {
    let _alone = alone().await;
    let (world, event, _dns) = long_lists("172.16.0.0/16").await;
    let api = RuntimeApi::start().await;
    let bootstrap = Bootstrap::start(env!("CARGO_BIN_EXE_bootstrap"), &api, world.environment());
    let error = api.invoke(event, LIMIT).await.unwrap_err();
    api.wait_for_poll().await;
    assert_eq!(error.error_type, "SyncFailed");
    let length = error.error_message.len();
    assert!(length < MOST, "{length} bytes");
    // Which names and target groups failed is told of all.
    assert!(error.error_message.starts_with("80 of 80 target groups failed"), "{:.200}", error.error_message);
    assert_eq!(error.error_message.matches("db.test of arn:").count(), GROUPS);
    assert!(error.error_message.contains("ALLOWED_CIDRS"), "{:.2000}", error.error_message);
    for line in bootstrap.lines() {
        assert!(line.len() < LONGEST, "a line of {} bytes: {line:.500}", line.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reply_of_thousands_of_targets_stays_under_5_mb() {
    let _alone = alone().await;
    // In a dry run each of them is one that would be registered, and is listed twice.
    let (world, mut event, _dns) = long_lists("10.0.0.0/8").await;
    event["dry_run"] = json!(true);
    let groups = event["bindings"].as_array_mut().unwrap();
    // So many times its own port.
    let more = (0..2).flat_map(|turn| {
        groups.clone().into_iter().map(move |mut binding| {
            binding["port"] = json!(6000 + turn);
            binding
        })
    });
    let more: Vec<_> = more.collect();
    groups.extend(more);
    let reply = invoke_within(&world.function().await, event, LIMIT).await.unwrap();
    assert_eq!(reply["groups"].as_array().unwrap().len(), GROUPS);
    let length = reply.to_string().len();
    assert!(length < MOST, "{length} bytes");
}
