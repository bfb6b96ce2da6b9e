//! The state in the tags of the target group.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, UNIX_EPOCH},
};

use aws_sdk_elasticloadbalancingv2::{Client, types::Tag};
use futures_util::future::join_all;
use nlb_hostname_targets::clock::Timestamp;
use serde_json::{Value, json};
use support::{
    Log, World, advance,
    aws::{Call, Fault, FaultKind, TargetGroup},
    binding, invoke, invoke_within, now, targets, waiting,
};

use super::{GRACE, MISSING, OWNED, bound_to, one_is_missing};

/// The time by the functions' clock, in milliseconds since the epoch.
fn milliseconds() -> u64 {
    u64::try_from(now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// How a tag says that a target has been missing for this long.
fn missing_for(seconds: u64, target: &str) -> String {
    format!("{target}@{}", Timestamp(milliseconds() - seconds * 1000))
}

fn foreign_tags(world: &World, arn: &str, count: usize) {
    for number in 0..count {
        world.aws.set_tag(arn, &format!("team:{number}"), "data, \"<&>\"");
    }
}

/// The values of our tags, in order.
fn state(world: &World, arn: &str) -> Vec<String> {
    let tags = world.aws.tags(arn).into_iter();
    tags.filter(|(key, _)| key.starts_with("nlb-hostname-targets:")).map(|(_, value)| value).collect()
}

#[tokio::test]
async fn rule_08_an_exclusive_group_without_grace_has_no_tag_written() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": 0, "ownership": "exclusive"})).await;
    foreign_tags(&world, &arn, 50);
    for addresses in [["10.0.1.10"], ["10.0.1.11"]] {
        world.dns.set_a("db.test", &addresses);
        world.sync().await.unwrap();
    }
    assert!(world.writes().iter().all(|action| action.ends_with("Targets")), "{:?}", world.actions());
}

#[tokio::test]
async fn rule_08_tags_are_written_only_when_the_state_changes() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    for _ in 0..3 {
        world.sync().await.unwrap();
        advance(10);
    }
    assert_eq!(world.writes(), ["AddTags"]);
    assert_eq!(world.count("DescribeTags"), 3);
    world.dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]);
    for _ in 0..3 {
        world.sync().await.unwrap();
    }
    assert_eq!(world.writes(), ["AddTags", "RemoveTags"]);
    assert_eq!(world.aws.tags(&arn).len(), 0);

    let (world, _) = one_is_missing(json!({"ownership": "shared"})).await;
    for _ in 0..3 {
        world.sync().await.unwrap();
    }
    assert_eq!(world.writes(), ["AddTags"]);
}

#[tokio::test]
async fn rule_08_a_person_can_read_the_tags() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    world.sync().await.unwrap();
    let value = &world.aws.tags(&arn)[MISSING];
    let (target, since) = value.split_once('@').unwrap();
    assert_eq!(target, "10.0.1.9_5432");
    let since = (since.parse::<f64>().unwrap() * 1000.0) as u64;
    assert!((milliseconds() - 10_000..=milliseconds()).contains(&since), "{value}");

    // And write: two targets, one of which is due.
    let value = format!("{}  {}", missing_for(601, "10.0.1.9_5432"), missing_for(5, "10.0.1.8_5432"));
    world.aws.set_tag(&arn, MISSING, &value);
    world.aws.add_target(&arn, "10.0.1.8:5432", "healthy");
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(waiting(&group), ["10.0.1.8:5432"]);
    assert_eq!(group["error"], Value::Null);
}

/// Checks every AddTags and RemoveTags call, besides what the emulation itself refuses.
fn check_calls(calls: &[Call], foreign: &BTreeMap<String, String>) {
    for call in calls {
        assert_eq!(call.arns.len(), 1);
        for (key, value) in &call.tags {
            assert!(key.starts_with("nlb-hostname-targets:") && key.len() <= 127, "{key}");
            assert!(value.len() <= 255, "{value}");
            let allowed = |c: char| c.is_ascii_alphanumeric() || " _.:/=+-@".contains(c);
            assert!(value.chars().all(allowed), "{value}");
        }
        let written = call.tags.iter().map(|(key, _)| key);
        assert!(written.chain(&call.tag_keys).all(|key| !foreign.contains_key(key)), "{call:?}");
    }
}

#[tokio::test]
async fn rule_08_much_state_is_spread_over_tags_within_their_limits() {
    for (ipv6, ownership) in [(false, "exclusive"), (false, "shared"), (true, "exclusive"), (true, "shared")] {
        let network = if ipv6 { "2600:1f18:1:100:ffff:ffff:ffff" } else { "10.0.100" };
        let separator = if ipv6 { ":" } else { "." };
        let addresses: Vec<_> = (100..160).map(|host| format!("{network}{separator}{host}")).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let world = World::new().await;
        let group = TargetGroup::new("db").port(65_535);
        let arn = world.aws.create_target_group(if ipv6 { group.ipv6() } else { group });
        foreign_tags(&world, &arn, 20);
        let foreign = world.aws.tags(&arn);
        let mut binding = binding("db.test", &arn);
        binding["deregister_after_seconds"] = json!(GRACE);
        binding["ownership"] = json!(ownership);
        binding["lookups"] = json!(1);
        let world = world.set("BINDINGS", json!([binding]));
        let answer = |addresses: &[&str]| {
            if ipv6 { world.dns.set_aaaa("db.test", addresses) } else { world.dns.set_a("db.test", addresses) }
        };
        answer(&addresses);
        world.sync().await.unwrap();
        answer(&addresses[..1]);
        let group = world.sync().await.unwrap();
        assert_eq!(waiting(&group).len(), 59);
        assert_eq!(group["error"], Value::Null);
        advance(GRACE - 30);
        world.sync().await.unwrap();
        assert_eq!(world.aws.registered(&arn).len(), 60);
        let tags = world.aws.tags(&arn);
        assert!(tags.len() > 20 + 5 && tags.len() <= 50, "{tags:?}");
        advance(30);
        let group = world.sync().await.unwrap();
        assert_eq!(group["deregistered"].as_array().unwrap().len(), 59);
        world.aws.finish_draining(&arn);
        world.sync().await.unwrap();
        let mut tags = world.aws.tags(&arn);
        tags.retain(|key, _| !key.starts_with(OWNED));
        assert_eq!(tags, foreign);
        assert_eq!(state(&world, &arn).len(), usize::from(ownership == "shared"));
        check_calls(&world.aws.calls_of("AddTags"), &foreign);
        check_calls(&world.aws.calls_of("RemoveTags"), &foreign);
    }
}

#[tokio::test]
async fn rule_08_an_ipv6_target_waits_and_goes_as_well() {
    let world = World::new().await;
    world.dns.set_aaaa("db.test", &["fd00::10"]);
    let arn = world.aws.create_target_group(TargetGroup::new("db6").ipv6());
    world.aws.add_target(&arn, "[fd00::9]:5432", "healthy");
    let mut binding = binding("db.test", &arn);
    binding["deregister_after_seconds"] = json!(GRACE);
    let world = world.set("BINDINGS", json!([binding]));
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), ["[fd00::9]:5432"]);
    assert!(world.aws.tags(&arn)[MISSING].starts_with("fd00::9_5432@"));
    advance(GRACE);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["[fd00::9]:5432"]));
}

#[tokio::test]
async fn rule_08_a_state_that_cannot_be_read_is_reported_and_makes_no_target_go_earlier() {
    let long_ago = milliseconds() / 1000 - 100_000;
    let values = [
        "garbage".to_owned(),
        "10.0.1.9".to_owned(),
        "10.0.1.9_5432@".to_owned(),
        "10.0.1.9_5432@garbage".to_owned(),
        // Cut short, or short of a digit: it must not read as a time long ago.
        format!("10.0.1.9_5432@{}", long_ago / 1000),
        format!("10.0.1.9_5432@{}.250", long_ago / 10),
        format!("10.0.1.9_5432@{long_ago}."),
        format!("10.0.1.9_5432@{long_ago}.2"),
        format!("10.0.1.9_5432@{long_ago}.2500"),
        format!("10.0.1.9_5432@-{long_ago}.250"),
        format!("10.0.1.9_5432@+{long_ago}.250"),
        "10.0.1.9_5432@0.000".to_owned(),
        "10.0.1.9_5432@1.000".to_owned(),
        // Milliseconds, and a digit too many.
        format!("10.0.1.9_5432@{long_ago}250"),
        format!("10.0.1.9_5432@{long_ago}0.250"),
        format!("10.0.1.9_5432@{}", u128::MAX),
        // Not a target.
        format!("10.0.1.9:5432@{long_ago}.250"),
        format!("10.0.1.9_0@{long_ago}.250"),
        format!("10.0.1.9_65536@{long_ago}.250"),
        format!("10.0.1_5432@{long_ago}.250"),
        format!("db.test_5432@{long_ago}.250"),
        format!("10.0.1.9_5432@{long_ago}.250,10.0.1.7_5432@{long_ago}.250"),
    ];
    let (log, _guard) = Log::start();
    let mut cases = Vec::new();
    for value in values {
        let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
        world.aws.set_tag(&arn, MISSING, &value);
        cases.push((value, world, arn));
    }
    for (value, world, arn) in &cases {
        let group = world.sync().await.unwrap();
        let error = group["error"].as_str().unwrap_or_else(|| panic!("{value}: {group}"));
        assert!(error.contains(MISSING) && error.contains("can't be read"), "{value}: {error}");
        assert_eq!(group["outcome"], "in_sync", "{value}");
        assert_eq!(waiting(&group), ["10.0.1.9:5432"], "{value}");
        assert_eq!(group["deregistered"], json!([]), "{value}");
        assert!(state(world, arn)[0].starts_with("10.0.1.9_5432@"), "{value}");
    }
    let warnings = log.text().lines().filter(|line| line.contains("WARN") && line.contains(MISSING)).count();
    assert_eq!(warnings, cases.len(), "{}", log.text());
    advance(GRACE - 30);
    for (value, world, _) in &cases {
        let group = world.sync().await.unwrap();
        assert_eq!(group["deregistered"], json!([]), "{value}");
        assert_eq!(group["error"], Value::Null, "{value}: what was written since can be read");
    }
}

#[tokio::test]
async fn rule_08_what_can_be_read_of_a_tag_counts() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    world.aws.add_target(&arn, "10.0.1.8:5432", "healthy");
    let value = format!("{} and {}", missing_for(601, "10.0.1.9_5432"), missing_for(601, "10.0.1.8:5432"));
    world.aws.set_tag(&arn, MISSING, &value);
    let group = world.sync().await.unwrap();
    let error = group["error"].as_str().unwrap();
    assert!(error.contains("`and`") && error.contains("`10.0.1.8:5432@"), "{error}");
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(waiting(&group), ["10.0.1.8:5432"]);
}

#[tokio::test]
async fn rule_08_a_time_that_lies_ahead_counts_from_now() {
    for ahead in [1, 3600, 100_000_000] {
        let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
        let time = Timestamp(milliseconds() + ahead * 1000);
        world.aws.set_tag(&arn, MISSING, &format!("10.0.1.9_5432@{time}"));
        let group = world.sync().await.unwrap();
        assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
        advance(GRACE - 30);
        let group = world.sync().await.unwrap();
        assert_eq!(group["deregistered"], json!([]));
        advance(30);
        let group = world.sync().await.unwrap();
        assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]), "{ahead} s ahead");
    }
}

#[tokio::test]
async fn rule_08_an_empty_tag_says_nothing() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    world.aws.set_tag(&arn, MISSING, "");
    world.aws.set_tag(&arn, "nlb-hostname-targets:missing-2", " ");
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
    assert_eq!(state(&world, &arn).len(), 1);
}

#[tokio::test]
async fn rule_08_a_key_of_ours_that_is_not_known_is_reported_and_left_alone() {
    let (log, _guard) = Log::start();
    let keys = ["nlb-hostname-targets:mising-1", "nlb-hostname-targets:missing", "nlb-hostname-targets:owned-one"];
    for key in keys {
        let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
        let value = missing_for(700, "10.0.1.9_5432");
        world.aws.set_tag(&arn, key, &value);
        for _ in 0..2 {
            let group = world.sync().await.unwrap();
            assert!(group["error"].as_str().is_some_and(|error| error.contains(key)), "{group}");
            assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
        }
        assert_eq!(world.aws.tags(&arn)[key], value);
        assert!(log.text().contains(key));
    }
}

#[tokio::test]
async fn rule_08_an_infrastructure_as_code_run_that_removes_the_tags_loses_time_only() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    world.sync().await.unwrap();
    advance(GRACE - 30);
    world.aws.remove_tag(&arn, MISSING);
    advance(30);
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
    advance(GRACE);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));

    // The second of two tags alone says what it says, and the first is written again.
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    world.aws.set_tag(&arn, "nlb-hostname-targets:missing-2", &missing_for(570, "10.0.1.9_5432"));
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
    advance(30);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
}

#[tokio::test]
async fn rule_08_a_change_of_ownership_keeps_the_times() {
    for (before, after) in [("exclusive", "shared"), ("shared", "exclusive")] {
        let (world, arn) = bound_to("db.test", &["10.0.1.9", "10.0.1.10"], &[], json!({"ownership": "shared"})).await;
        world.sync().await.unwrap();
        world.dns.set_a("db.test", &["10.0.1.10"]);
        let with = |ownership: &str| {
            let mut binding = binding("db.test", &arn);
            binding["deregister_after_seconds"] = json!(GRACE);
            binding["ownership"] = json!(ownership);
            json!({"bindings": [binding]})
        };
        world.run(with(before)).await.unwrap();
        advance(GRACE);
        let group = world.run(with(after)).await.unwrap()["groups"][0].take();
        assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]), "{before} to {after}: {group}");
        let tags = world.aws.tags(&arn);
        assert_eq!(tags.is_empty(), after == "exclusive", "{tags:?}");
        assert!(tags.keys().all(|key| key.starts_with(OWNED)), "{tags:?}");
    }
}

#[tokio::test]
async fn rule_08_state_finds_room_beside_49_tags_and_aws_own_tags_take_none() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    foreign_tags(&world, &arn, 49);
    for key in ["aws:cloudformation:stack-name", "aws:cloudformation:stack-id", "aws:cloudformation:logical-id"] {
        world.aws.set_tag(&arn, key, "db");
    }
    let foreign = world.aws.tags(&arn);
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
    assert_eq!(state(&world, &arn).len(), 1);
    advance(GRACE);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(world.aws.tags(&arn), foreign);
}

#[tokio::test]
async fn rule_08_a_group_without_room_for_its_state_keeps_its_targets_and_says_so() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    foreign_tags(&world, &arn, 50);
    let foreign = world.aws.tags(&arn);
    // What DNS gives is registered all the same.
    world.dns.set_a("db.test", &["10.0.1.10", "10.0.1.11"]);
    for _ in 0..3 {
        let message = world.failure(json!({})).await;
        for word in ["no room", "1 target", "50 of 50", "db.test", arn.as_str()] {
            assert!(message.contains(word), "{word}: {message}");
        }
        advance(2 * GRACE);
    }
    assert_eq!(world.aws.registered(&arn).len(), 3);
    assert_eq!(world.aws.tags(&arn), foreign);
    assert_eq!(world.writes(), ["RegisterTargets"]);
    assert_eq!(world.sum("Failures"), 3.0);
}

#[tokio::test]
async fn rule_08_where_there_is_room_for_some_the_longest_missing_are_remembered() {
    let stale: Vec<_> = (100..120).map(|host| format!("10.0.1.{host}")).collect();
    let stale: Vec<_> = stale.iter().map(String::as_str).collect();
    let (world, arn) =
        bound_to("db.test", &["10.0.1.10"], &stale[..3], json!({"deregister_after_seconds": GRACE})).await;
    foreign_tags(&world, &arn, 49);
    world.sync().await.unwrap();
    advance(GRACE / 2);
    for address in &stale[3..] {
        world.aws.add_target(&arn, &format!("{address}:5432"), "healthy");
    }
    let message = world.failure(json!({})).await;
    assert!(message.contains("no room") && message.contains("12 targets"), "{message}");
    assert_eq!(state(&world, &arn).len(), 1);
    // The first ones go in their time, and make room for others.
    advance(GRACE / 2);
    world.failure(json!({})).await;
    assert_eq!(world.aws.registered(&arn).len(), 1 + 17);
    assert!(stale[..3].iter().all(|address| world.aws.targets(&arn)[&format!("{address}:5432")] == "draining"));
    for _ in 0..4 {
        advance(GRACE);
        let _ = world.run(json!({})).await;
    }
    assert_eq!(world.aws.registered(&arn).len(), 1, "in the end all of them are gone");
    world.sync().await.unwrap();
    assert_eq!(state(&world, &arn).len(), 0);
}

#[tokio::test]
async fn rule_08_tags_that_are_renamed_need_no_room_for_both() {
    // A tool removed the first of two tags and used its place; and a group that becomes a shared one.
    for (stale, ownership) in [("nlb-hostname-targets:missing-2", "exclusive"), (MISSING, "shared")] {
        let fields = json!({"deregister_after_seconds": GRACE, "ownership": ownership});
        let (world, arn) = one_is_missing(fields).await;
        world.aws.set_tag(&arn, stale, &missing_for(30, "10.0.1.9_5432"));
        foreign_tags(&world, &arn, 49);
        let group = world.sync().await.unwrap_or_else(|error| panic!("{ownership}: {error}"));
        assert_eq!(group["error"], Value::Null);
        assert_eq!(waiting(&group).len(), usize::from(ownership == "exclusive"));
        assert_eq!(state(&world, &arn).len(), 1);
        assert_eq!(world.aws.tags(&arn).len(), 50);
    }
}

#[tokio::test]
async fn rule_08_a_time_that_was_dropped_does_not_come_back_where_a_tag_is_not_removed() {
    // Two tags become one, and the run ends before the second is removed.
    let stale: Vec<_> = (100..110).map(|host| format!("10.0.1.{host}")).collect();
    let stale: Vec<_> = stale.iter().map(String::as_str).collect();
    let (world, arn) = bound_to("db.test", &["10.0.1.10"], &stale, json!({"deregister_after_seconds": GRACE})).await;
    world.sync().await.unwrap();
    assert_eq!(state(&world, &arn).len(), 2);
    world.aws.fault(Fault::on("RemoveTags", FaultKind::error(403, "AccessDenied", "no")));
    world.dns.set_a("db.test", &[&["10.0.1.10"], &stale[..1], &stale[8..]].concat());
    let message = world.failure(json!({})).await;
    assert!(message.contains("elasticloadbalancing:RemoveTags"), "{message}");
    assert_eq!(state(&world, &arn)[1], "");
    advance(GRACE);
    world.aws.clear_faults();
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"].as_array().unwrap().len(), 7);
    assert_eq!(waiting(&group), ["10.0.1.100:5432", "10.0.1.108:5432", "10.0.1.109:5432"]);
}

/// What a run did in which an action on tags fails in this way, where a new target is to be registered, one is due and
/// another begins to be missing.
struct Failed {
    message: String,
    registered: BTreeSet<String>,
    tags: BTreeMap<String, String>,
    world: World,
    arn: String,
    how: String,
}

/// All kinds of faults of an action, each in a world of its own.
async fn tags_fail(action: &str, ownership: &str) -> Vec<Failed> {
    let faults = [
        ("AccessDenied", FaultKind::error(403, "AccessDenied", "no")),
        ("Rate exceeded", FaultKind::throttling()),
        ("InternalFailure", FaultKind::error(500, "InternalFailure", "try again")),
        ("can't be read", FaultKind::body(400, "no xml")),
        ("waiting for", FaultKind::Hang),
    ];
    let runs = faults.into_iter().map(|(word, fault)| async move {
        let fields = json!({"deregister_after_seconds": GRACE, "ownership": ownership});
        let (world, arn) = bound_to("db.test", &["10.0.1.8", "10.0.1.9", "10.0.1.10"], &[], fields).await;
        world.sync().await.unwrap();
        world.dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]);
        world.sync().await.unwrap();
        (word, fault, world, arn)
    });
    let runs = join_all(runs).await;
    advance(GRACE);
    join_all(runs.into_iter().map(|(word, fault, world, arn)| async move {
        world.dns.set_a("db.test", &["10.0.1.10", "10.0.1.11"]);
        let function = world.function().await;
        world.aws.fault(Fault::on(action, fault));
        let message = invoke_within(&function, json!({}), Duration::from_secs(6)).await.unwrap_err().to_string();
        let how = format!("{ownership}, {action}: {message}");
        assert!(message.contains(word) && message.contains(action), "{how}");
        world.aws.clear_faults();
        Failed { registered: world.aws.registered(&arn), tags: world.aws.tags(&arn), message, world, arn, how }
    }))
    .await
}

/// Once the fault is gone, one run puts everything right.
async fn recover(failed: &[Failed], registered: &[u8]) {
    for Failed { world, arn, how, .. } in failed {
        let group = world.sync().await.unwrap_or_else(|error| panic!("{how}: {error}"));
        assert_eq!(world.aws.registered(arn), targets(registered), "{how}: {group}");
        assert_eq!(waiting(&group), ["10.0.1.9:5432"], "{how}");
    }
}

#[tokio::test]
async fn rule_08_where_tags_cannot_be_read_nothing_goes() {
    let failed = tags_fail("DescribeTags", "exclusive").await;
    for Failed { message, registered, tags, how, .. } in &failed {
        assert!(tags[MISSING].starts_with("10.0.1.8_5432@"), "{how}");
        // What DNS gives is registered where there is time left for it.
        let hosts: &[u8] = if message.contains("waiting for") { &[8, 9, 10] } else { &[8, 9, 10, 11] };
        assert_eq!(*registered, targets(hosts), "{how}");
    }
    recover(&failed, &[9, 10, 11]).await;

    // In a shared group, what is registered could not be remembered as ours.
    let failed = tags_fail("DescribeTags", "shared").await;
    for Failed { registered, how, .. } in &failed {
        assert_eq!(*registered, targets(&[8, 9, 10]), "{how}");
    }
    recover(&failed, &[9, 10, 11]).await;
}

#[tokio::test]
async fn rule_08_where_tags_cannot_be_written_what_is_not_remembered_is_not_done() {
    let failed = tags_fail("AddTags", "exclusive").await;
    for Failed { registered, tags, how, .. } in &failed {
        // What was due went: that was remembered.
        assert_eq!(*registered, targets(&[9, 10, 11]), "{how}");
        assert!(tags[MISSING].starts_with("10.0.1.8_5432@"), "{how}");
    }
    recover(&failed, &[9, 10, 11]).await;

    let failed = tags_fail("AddTags", "shared").await;
    for Failed { registered, how, .. } in &failed {
        assert_eq!(*registered, targets(&[8, 9, 10]), "{how}");
    }
    recover(&failed, &[9, 10, 11]).await;
}

#[tokio::test]
async fn rule_08_where_tags_cannot_be_removed_all_else_is_done() {
    for ownership in ["exclusive", "shared"] {
        let (world, arn) = bound_to("db.test", &["10.0.1.8"], &[], json!({"ownership": ownership})).await;
        world.sync().await.unwrap();
        let key = if ownership == "shared" { "nlb-hostname-targets:owned-9" } else { "nlb-hostname-targets:missing-9" };
        world.aws.set_tag(&arn, key, &missing_for(700, "10.0.1.99_5432"));
        world.dns.set_a("db.test", &["10.0.1.10"]);
        world.aws.fault(Fault::on("RemoveTags", FaultKind::error(403, "AccessDenied", "no")));
        let mut binding = binding("db.test", &arn);
        binding["deregister_after_seconds"] = json!(GRACE);
        binding["ownership"] = json!(ownership);
        let event = json!({"bindings": [binding]});
        let message = world.failure(event.clone()).await;
        assert!(message.contains("RemoveTags") && message.contains("AccessDenied"), "{message}");
        assert_eq!(world.aws.registered(&arn), targets(&[8, 10]), "{ownership}");
        world.aws.clear_faults();
        let group = world.run(event).await.unwrap()["groups"][0].take();
        assert_eq!(waiting(&group), ["10.0.1.8:5432"], "{ownership}");
        assert_eq!(state(&world, &arn).len(), 1);
    }
}

#[tokio::test]
async fn rule_08_a_lost_reply_to_a_tag_call_does_no_harm() {
    for action in ["AddTags", "DescribeTags", "RemoveTags"] {
        for ownership in ["exclusive", "shared"] {
            let fields = json!({"deregister_after_seconds": GRACE, "ownership": ownership});
            let (world, arn) = bound_to("db.test", &["10.0.1.9", "10.0.1.10"], &[], fields).await;
            world.aws.set_tag(&arn, "nlb-hostname-targets:missing-2", "");
            world.sync().await.unwrap();
            world.aws.fault(Fault::on(action, FaultKind::ResetAfter).times(1));
            world.dns.set_a("db.test", &["10.0.1.10"]);
            world.sync().await.unwrap();
            advance(GRACE);
            world.sync().await.unwrap();
            assert_eq!(world.aws.registered(&arn), targets(&[10]), "{action}, {ownership}");
        }
    }
}

#[tokio::test]
async fn the_emulation_is_as_strict_about_tags_as_elbv2_is() {
    let world = World::new().await;
    let (aws, client) = (&world.aws, Client::new(&world.sdk().await));
    let arns: Vec<_> = (0..21).map(|number| aws.create_target_group(TargetGroup::new(&format!("g{number}")))).collect();
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let add = async |arns: &[String], tags: Vec<Tag>| {
        let result = client.add_tags().set_resource_arns(Some(arns.to_vec())).set_tags(Some(tags)).send().await;
        assert_eq!(result.is_err(), !aws.take_violations().is_empty(), "{result:?}");
        result.is_ok()
    };
    let one = &arns[..1];
    assert!(add(one, vec![tag("k", ""), tag("a/b:c=d+e-f@g.h_i j", "ä 1")]).await);
    assert!(add(one, vec![tag(&"k".repeat(127), &"v".repeat(255))]).await);
    let wrong = [
        vec![],
        vec![tag("k", "a,b")],
        vec![tag("k", "[fd00::9]")],
        vec![tag("k", "a\nb")],
        vec![tag("k", " a")],
        vec![tag("", "a")],
        vec![tag("k", &"v".repeat(256))],
        vec![tag(&"k".repeat(128), "v")],
        vec![tag("aws:k", "v")],
        vec![tag("AWS:k", "v")],
        vec![tag("k", "1"), tag("k", "2")],
        (0..51).map(|number| tag(&format!("n{number}"), "v")).collect(),
    ];
    for tags in wrong {
        assert!(!add(one, tags.clone()).await, "{tags:?}");
    }
    assert!(!add(&arns[..2], vec![tag("k", "v")]).await, "one resource");
    let remove = async |arns: &[String], keys: &[&str]| {
        let keys = keys.iter().map(ToString::to_string).collect();
        client.remove_tags().set_resource_arns(Some(arns.to_vec())).set_tag_keys(Some(keys)).send().await.is_ok()
    };
    assert!(!remove(&arns[..2], &["k"]).await, "one resource");
    assert!(!remove(one, &["aws:k"]).await);
    assert!(!remove(one, &[]).await);
    assert!(remove(one, &["k", "not there"]).await);
    let describe = async |arns: &[String]| client.describe_tags().set_resource_arns(Some(arns.to_vec())).send().await;
    assert!(describe(&arns[..20]).await.is_ok());
    assert!(describe(&arns).await.is_err(), "20 resources at most");
    assert_eq!(aws.tags(&arns[0]).len(), 2);
    assert_eq!(aws.take_violations().len(), 4, "of all that was refused since");
}

#[tokio::test]
async fn rule_08_what_dns_gave_to_a_run_that_could_not_write_it_down_is_missing_anew() {
    let hang = Fault::on("DescribeTargetHealth", FaultKind::Hang);
    let denied = ["AddTags", "RemoveTags"].map(|action| Fault::on(action, FaultKind::error(403, "AccessDenied", "no")));
    let cases = [
        ("one that is cut off", 0, vec![hang]),
        ("one that may not write", 0, denied.into()),
        ("one that has no turn", 1, vec![]),
    ];
    for (what, budget, faults) in cases {
        let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
        let world = world.set("ELB_REQUESTS_PER_SECOND", budget);
        let function = world.function().await;
        invoke(&function, json!({})).await.unwrap();
        advance(GRACE - 30);
        world.dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]);
        faults.into_iter().for_each(|fault| world.aws.fault(fault));
        world.aws.clear_calls();
        // Whether it fails or not.
        drop(invoke_within(&function, json!({}), Duration::from_millis(2500)).await);
        let is_forgotten = world.aws.calls_of("RemoveTags").iter().any(|call| call.status == 200);
        assert!(!is_forgotten, "{what}: it wrote that down");
        world.aws.clear_faults();
        world.dns.set_a("db.test", &["10.0.1.10"]);
        advance(60);
        invoke(&function, json!({})).await.unwrap();
        assert_eq!(world.aws.registered(&arn), targets(&[9, 10]), "{what}");
        advance(GRACE);
        invoke(&function, json!({})).await.unwrap();
        assert_eq!(world.aws.registered(&arn), targets(&[10]), "{what}");
    }
}

#[tokio::test]
async fn rule_08_a_time_that_a_person_sets_back_counts() {
    for fields in
        [json!({"deregister_after_seconds": GRACE}), json!({"deregister_after_seconds": GRACE, "ownership": "shared"})]
    {
        let (world, arn) = bound_to("db.test", &["10.0.1.9"], &[], fields.clone()).await;
        let function = world.function().await;
        invoke(&function, json!({})).await.unwrap();
        world.dns.set_a("db.test", &["10.0.1.10"]);
        invoke(&function, json!({})).await.unwrap();
        assert_eq!(world.aws.registered(&arn), targets(&[9, 10]), "{fields}");
        let tags = world.aws.tags(&arn);
        let (key, value) = tags.iter().find(|(_, value)| value.contains("10.0.1.9_5432@")).unwrap();
        let entries = value.split(' ').map(|entry| match entry.split_once('@') {
            Some((target, _)) => missing_for(u64::try_from(GRACE).unwrap(), target),
            None => entry.to_owned(),
        });
        world.aws.set_tag(&arn, key, &entries.collect::<Vec<_>>().join(" "));
        invoke(&function, json!({})).await.unwrap();
        assert_eq!(world.aws.registered(&arn), targets(&[10]), "{fields}");
    }
}

#[tokio::test]
async fn rule_08_a_dry_run_by_other_bindings_that_puts_a_group_off_forgets_nothing_of_it() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 1);
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    advance(GRACE - 30);
    world.dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]);
    for action in ["AddTags", "RemoveTags"] {
        world.aws.fault(Fault::on(action, FaultKind::error(403, "AccessDenied", "no")));
    }
    invoke(&function, json!({})).await.unwrap_err();
    world.aws.clear_faults();
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let others = ["a", "b", "c", "d"].map(|name| world.aws.create_target_group(TargetGroup::new(name)));
    let mut bindings: Vec<_> = others.iter().chain([&arn]).map(|arn| binding("db.test", arn)).collect();
    bindings.iter_mut().for_each(|binding| binding["lookups"] = 2.into());
    let dry_run = json!({"dry_run": true, "bindings": bindings});
    let reply = invoke_within(&function, dry_run, Duration::from_millis(2500)).await.unwrap();
    let outcomes: Vec<_> = reply["groups"].as_array().unwrap().iter().map(|group| &group["outcome"]).collect();
    assert!(outcomes.iter().all(|outcome| *outcome == "deferred"), "{outcomes:?}");
    advance(60);
    invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[9, 10]));
}
