//! Lists of refused addresses.

use std::fmt::Write;

use serde_json::json;
use support::{Log, World};

/// A list of networks that is long by itself.
fn networks(first: &str, count: u16) -> String {
    (0..count).fold(first.to_owned(), |mut list, number| {
        write!(list, ",192.168.{number}.0/24").unwrap();
        list
    })
}

/// So many public addresses.
fn public(count: u8) -> Vec<String> {
    (0..count).map(|number| format!("54.1.0.{number}")).collect()
}

#[tokio::test]
async fn the_allowed_networks_are_not_repeated_for_each_refused_address() {
    let (log, _guard) = Log::start();
    let (world, arn) = World::with_database(&[], &["10.0.1.10"]).await;
    let mut addresses = public(20);
    addresses.push("10.0.1.10".to_owned());
    world.dns.set_a("db.test", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    let world = world.set("ALLOWED_CIDRS", networks("10.0.0.0/16", 20));
    let reply = world.run(json!({})).await.unwrap();
    let refused = reply["groups"][0]["refused"].as_array().unwrap();
    assert_eq!(refused.len(), 20, "so few are all told");
    assert!(refused.iter().all(|refused| refused["reason"].as_str().unwrap().contains("ALLOWED_CIDRS")));
    let repeated = |text: &str| text.matches("192.168.19.0/24").count();
    assert!(repeated(&reply.to_string()) <= 1, "{reply}");
    assert!(repeated(&log.text()) <= 1, "{}", log.text());

    world.dns.set_a("db.test", &public(20).iter().map(String::as_str).collect::<Vec<_>>());
    let message = world.failure(json!({})).await;
    assert!(repeated(&message) <= 1, "{message}");
    assert!(message.contains("54.1.0.19") && message.contains(&arn), "{message}");
}
