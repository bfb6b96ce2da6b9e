//! Groups of which others own targets too.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use support::{
    World, advance,
    aws::{Fault, FaultKind, TWICE},
    dns::{FakeDns, Reply},
    invoke, targets, waiting,
};
use tokio::{join, net::UdpSocket, select, time::sleep};

use super::{GRACE, MISSING, OWNED, READER, bound_to};

const SHARED: &str = r#"{"ownership": "shared"}"#;

/// A shared group bound to `db.test`, without a grace, that holds foreign targets.
async fn shared(addresses: &[&str], foreign: &[&str]) -> (World, String) {
    bound_to("db.test", addresses, foreign, serde_json::from_str(SHARED).unwrap()).await
}

/// The tags that say which targets are ours.
fn owned_tags(world: &World, arn: &str) -> BTreeMap<String, String> {
    let mut tags = world.aws.tags(arn);
    tags.retain(|key, _| key.starts_with(OWNED));
    tags
}

/// The targets that they name.
fn owned(world: &World, arn: &str) -> BTreeSet<String> {
    named(owned_tags(world, arn).values())
}

fn named<'a>(values: impl Iterator<Item = &'a String>) -> BTreeSet<String> {
    let entries = values.flat_map(|value| value.split_whitespace());
    entries.map(|entry| entry.split('@').next().unwrap().replace('_', ":")).collect()
}

/// Checks that whatever was registered had been written down as ours before.
fn remembered_first(world: &World) {
    let mut remembered = BTreeSet::new();
    for call in world.aws.calls() {
        if call.status == 200 {
            remembered.extend(named(call.tags.iter().map(|(_, value)| value)));
        }
        if call.action == "RegisterTargets" {
            let sent = call.targets.iter().map(|target| format!("{}:{}", target.id, target.port.unwrap()));
            assert!(sent.collect::<BTreeSet<_>>().is_subset(&remembered), "{call:?}");
        }
    }
}

/// Lets what was deregistered disappear, and so much time pass that nobody can be about to register it again.
async fn finish_draining(world: &World, arn: &str) {
    world.aws.finish_draining(arn);
    world.sync().await.unwrap();
    advance(300);
    world.sync().await.unwrap();
}

#[tokio::test]
async fn rule_08_in_a_shared_group_only_our_own_targets_go() {
    let (world, arn) = shared(&["10.0.1.10"], &["10.0.1.9"]).await;
    let group = world.sync().await.unwrap();
    assert_eq!(group["registered"], json!(["10.0.1.10:5432"]));
    assert_eq!(world.writes(), ["AddTags", "RegisterTargets"], "ownership is written first");
    world.dns.set_a("db.test", &["10.0.1.11"]);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.10:5432"]));
    assert_eq!(group["waiting"], json!([]));
    // It is ours until it is really gone: DNS may return to it.
    assert_eq!(owned(&world, &arn), targets(&[10, 11]));
    world.sync().await.unwrap();
    assert_eq!(owned(&world, &arn), targets(&[10, 11]));
    finish_draining(&world, &arn).await;
    assert_eq!(owned(&world, &arn), targets(&[11]));
    assert_eq!(world.aws.registered(&arn), targets(&[9, 11]));
    remembered_first(&world);
}

#[tokio::test]
async fn rule_08_in_a_shared_group_a_target_of_ours_has_its_grace() {
    let fields = json!({"ownership": "shared", "deregister_after_seconds": GRACE});
    let (world, arn) = bound_to("db.test", &["10.0.1.10", "10.0.1.11"], &["10.0.1.9"], fields).await;
    world.sync().await.unwrap();
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), ["10.0.1.11:5432"]);
    let known = world.writes();
    advance(GRACE / 2);
    assert_eq!(waiting(&world.sync().await.unwrap()), ["10.0.1.11:5432"]);
    assert_eq!(world.writes(), known, "nothing has changed");
    world.dns.set_a("db.test", &["10.0.1.10", "10.0.1.11"]);
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), [""; 0]);
    assert!(owned_tags(&world, &arn).values().all(|value| !value.contains('@')));
    world.dns.set_a("db.test", &["10.0.1.10"]);
    world.sync().await.unwrap();
    advance(GRACE - 30);
    assert_eq!(waiting(&world.sync().await.unwrap()), ["10.0.1.11:5432"]);
    advance(30);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.11:5432"]));
    assert!(!world.aws.tags(&arn).contains_key(MISSING));
    assert_eq!(world.aws.registered(&arn), targets(&[9, 10]));
}

#[tokio::test]
async fn rule_08_in_a_shared_group_foreign_targets_are_never_touched() {
    let (world, arn) = shared(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.add_target(&arn, "10.0.1.7:5432", "draining");
    world.aws.add_target(&arn, "10.0.1.10:6000", "unhealthy");
    // Tags of others, also such as look a little like ours, say nothing.
    world.aws.set_tag(&arn, "nlb-hostname-target:owned-1", "10.0.1.9_5432");
    world.aws.set_tag(&arn, "owned-1", "10.0.1.9_5432");
    let foreign = world.aws.tags(&arn);
    for addresses in [&["10.0.1.10"][..], &["10.0.1.11"], &["10.0.1.11", "10.0.1.12"], &["10.0.1.10"]] {
        world.dns.set_a("db.test", addresses);
        world.sync().await.unwrap();
        advance(1000);
    }
    let all = world.aws.targets(&arn);
    assert_eq!(all["10.0.1.9:5432"], "healthy");
    assert_eq!(all["10.0.1.7:5432"], "draining");
    assert_eq!(all["10.0.1.10:6000"], "unhealthy");
    for call in world.aws.calls_of("DeregisterTargets") {
        assert!(
            call.targets.iter().all(|target| ["10.0.1.10", "10.0.1.11", "10.0.1.12"].contains(&target.id.as_str()))
        );
        assert!(call.targets.iter().all(|target| target.port == Some(5432)));
    }
    let mut tags = world.aws.tags(&arn);
    tags.retain(|key, _| !key.starts_with(OWNED));
    assert_eq!(tags, foreign);
    remembered_first(&world);
}

#[tokio::test]
async fn rule_08_in_a_shared_group_a_lost_reply_to_register_targets_orphans_nothing() {
    let (world, arn) = shared(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::on("RegisterTargets", FaultKind::ResetAfter));
    let message = world.failure(json!({})).await;
    assert!(message.contains("RegisterTargets"), "{message}");
    assert_eq!(owned(&world, &arn), targets(&[10]));
    world.aws.clear_faults();
    world.dns.set_a("db.test", &["10.0.1.11"]);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.10:5432"]));
    assert_eq!(world.aws.registered(&arn), targets(&[9, 11]));
}

/// Runs the function until AWS has handled this action, and kills it before it hears of that.
async fn killed_at(world: &World, arn: &str, action: &str) {
    world.aws.fault(Fault::on(action, FaultKind::SlowReply(Duration::from_secs(30))));
    let handled = async {
        let mine = || match action {
            "AddTags" => owned(world, arn),
            _ => world.aws.registered(arn),
        };
        while !mine().contains("10.0.1.10:5432") {
            sleep(Duration::from_millis(5)).await;
        }
    };
    select! {
        result = world.sync() => panic!("{result:?}"),
        () = handled => {}
    }
    assert_eq!(world.writes().last().unwrap(), action);
    world.aws.clear_faults();
}

#[tokio::test]
async fn rule_08_in_a_shared_group_a_run_that_is_killed_orphans_nothing() {
    for action in ["AddTags", "RegisterTargets"] {
        for moved in [false, true] {
            let (world, arn) = shared(&["10.0.1.10"], &["10.0.1.9"]).await;
            killed_at(&world, &arn, action).await;
            assert_eq!(owned(&world, &arn), targets(&[10]));
            if moved {
                world.dns.set_a("db.test", &["10.0.1.11"]);
            }
            world.sync().await.unwrap();
            world.dns.set_a("db.test", &["10.0.1.12"]);
            world.sync().await.unwrap();
            finish_draining(&world, &arn).await;
            assert_eq!(world.aws.registered(&arn), targets(&[9, 12]), "{action}, {moved}");
            assert_eq!(owned(&world, &arn), targets(&[12]));
        }
    }
}

#[tokio::test]
async fn rule_08_in_a_shared_group_without_its_tags_what_dns_gives_is_adopted_and_the_rest_left_alone() {
    let (world, arn) = shared(&["10.0.1.10", "10.0.1.11"], &[]).await;
    world.sync().await.unwrap();
    owned_tags(&world, &arn).keys().for_each(|key| world.aws.remove_tag(&arn, key));
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let group = world.sync().await.unwrap();
    assert_eq!(group["outcome"], "in_sync");
    assert_eq!(owned(&world, &arn), targets(&[10]));
    assert_eq!(group["waiting"], json!([]));
    world.dns.set_a("db.test", &["10.0.1.12"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[11, 12]));
    // It is adopted once DNS returns to it.
    world.dns.set_a("db.test", &["10.0.1.11"]);
    world.sync().await.unwrap();
    world.dns.set_a("db.test", &["10.0.1.12"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[12]));
}

#[tokio::test]
async fn rule_08_in_a_shared_group_an_unreadable_tag_leaves_alone_what_dns_does_not_give() {
    let (world, arn) = shared(&["10.0.1.10", "10.0.1.11"], &[]).await;
    world.sync().await.unwrap();
    for key in owned_tags(&world, &arn).keys() {
        world.aws.set_tag(&arn, key, "10.0.1.10_5432,10.0.1.11_5432");
    }
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let group = world.sync().await.unwrap();
    assert!(group["error"].as_str().unwrap().contains(OWNED), "{group}");
    assert_eq!(world.aws.registered(&arn), targets(&[10, 11]));
    assert_eq!(owned(&world, &arn), targets(&[10]));
}

#[tokio::test]
async fn rule_08_in_a_shared_group_without_room_what_dns_gives_is_registered_and_kept_and_said_so() {
    let (world, arn) = shared(&["10.0.1.10"], &["10.0.1.9"]).await;
    for number in 0..50 {
        world.aws.set_tag(&arn, &format!("team:{number}"), "data");
    }
    let message = world.failure(json!({})).await;
    assert!(message.contains("no room") && message.contains("will not be deregistered"), "{message}");
    assert_eq!(world.aws.registered(&arn), targets(&[9, 10]));
    world.dns.set_a("db.test", &["10.0.1.11"]);
    world.failure(json!({})).await;
    assert_eq!(world.aws.registered(&arn), targets(&[9, 10, 11]));
    assert_eq!(world.writes(), ["RegisterTargets"; 2]);
    assert_eq!(world.aws.tags(&arn).len(), 50);
    // With room, it knows what is its own from then on.
    world.aws.remove_tag(&arn, "team:0");
    world.sync().await.unwrap();
    world.dns.set_a("db.test", &["10.0.1.12"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[9, 10, 12]));
}

#[tokio::test]
async fn rule_08_in_a_shared_group_nothing_goes_while_a_name_is_unresolved() {
    let (world, arn) = shared(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.sync().await.unwrap();
    world.dns.set_reply("db.test", RecordType::A, Reply::ServFail);
    world.failure(json!({})).await;
    assert_eq!(world.aws.registered(&arn), targets(&[9, 10]));
    assert_eq!(owned(&world, &arn), targets(&[10]));
}

/// Two functions that see different name servers, and the group that both are bound to.
async fn two_views(hostname: &str, views: [Reply; 2], fields: Value) -> TwoViews {
    let (world, arn) = bound_to(hostname, &[], &["10.0.1.9"], fields).await;
    world.aws.tolerate(TWICE);
    let other = FakeDns::start().await;
    let first = world.function().await;
    let dns = [world.dns.clone(), other.clone()];
    for (dns, view) in dns.iter().zip(views) {
        dns.set_ttl(1);
        dns.set_reply(hostname, RecordType::A, view);
    }
    let world = world.dns_servers(&[other.address()]);
    let second = world.function().await;
    TwoViews { world, arn, functions: [first, second], dns }
}

struct TwoViews {
    world: World,
    arn: String,
    functions: [nlb_hostname_targets::function::Function; 2],
    dns: [FakeDns; 2],
}

impl TwoViews {
    async fn at_once(&self) {
        let [first, second] = &self.functions;
        let (first, second) = join!(invoke(first, json!({})), invoke(second, json!({})));
        first.unwrap();
        second.unwrap();
    }
}

#[tokio::test]
async fn rule_09_two_functions_at_once_in_a_shared_group_end_where_one_would() {
    let rounds = (0..5).map(|_| async move {
        let views = [(); 2].map(|()| Reply::addresses(&["10.0.1.10", "10.0.1.11"]));
        let round = two_views("db.test", views, serde_json::from_str(SHARED).unwrap()).await;
        round.at_once().await;
        assert_eq!(owned(&round.world, &round.arn), targets(&[10, 11]));
        round.dns.iter().for_each(|dns| dns.set_a("db.test", &["10.0.1.11", "10.0.1.12"]));
        round.at_once().await;
        assert_eq!(round.world.aws.registered(&round.arn), targets(&[9, 11, 12]));
        assert_eq!(owned(&round.world, &round.arn), targets(&[10, 11, 12]));
    });
    join_all(rounds).await;
}

#[tokio::test]
async fn rule_09_two_functions_at_once_with_different_answers_orphan_nothing() {
    let rounds = (0..5).map(|_| async move {
        let views = [Reply::addresses(&["10.0.1.10"]), Reply::addresses(&["10.0.1.11"])];
        let fields = json!({"ownership": "shared", "deregister_after_seconds": GRACE});
        let round = two_views("db.test", views, fields).await;
        round.at_once().await;
        let TwoViews { world, arn, .. } = &round;
        assert_eq!(world.aws.registered(arn), targets(&[9, 10, 11]));
        assert_eq!(owned(world, arn), targets(&[10, 11]), "{:?}", world.actions());
        round
    });
    let rounds = join_all(rounds).await;
    rounds.iter().flat_map(|round| &round.dns).for_each(|dns| dns.set_a("db.test", &["10.0.1.12"]));
    join_all(rounds.iter().map(TwoViews::at_once)).await;
    advance(GRACE);
    join_all(rounds.iter().map(TwoViews::at_once)).await;
    for round in &rounds {
        assert_eq!(round.world.aws.registered(&round.arn), targets(&[9, 12]));
    }
}

#[tokio::test]
async fn rule_09_a_run_that_waits_for_dns_does_not_plan_on_an_old_list() {
    let views = [Reply::addresses(&["10.0.1.10"]), Reply::addresses(&["10.0.1.11"])];
    let fields = json!({"ownership": "shared", "deregister_after_seconds": GRACE});
    let TwoViews { world, arn, functions: [quick, _], dns } = two_views("db.test", views.clone(), fields).await;
    // The first name server is dead, and the second takes its time.
    let dead = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let [_, slow] = &dns;
    let [_, late] = views;
    slow.set_reply("db.test", RecordType::A, late.delayed(Duration::from_millis(500)));
    let world = world.dns_servers(&[dead.local_addr().unwrap(), slow.address()]);
    let (first, second) = join!(invoke(&quick, json!({})), world.sync());
    first.unwrap();
    second.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[9, 10, 11]));
    assert_eq!(owned(&world, &arn), targets(&[10, 11]), "{:?}", world.actions());
}

#[tokio::test]
async fn rule_09_two_functions_at_once_with_different_samples_orphan_nothing() {
    let rounds = (0..4).map(|_| async move {
        let views = [Reply::in_turn(&["10.0.1.10", "10.0.1.11"]), Reply::in_turn(&["10.0.1.12", "10.0.1.13"])];
        let round = two_views(READER, views, json!({"ownership": "shared", "lookups": 2})).await;
        round.at_once().await;
        let TwoViews { world, arn, .. } = &round;
        assert_eq!(world.aws.registered(arn), targets(&[9, 10, 11, 12, 13]));
        assert_eq!(owned(world, arn), targets(&[10, 11, 12, 13]), "{:?}", world.actions());
        round
    });
    let rounds = join_all(rounds).await;
    rounds.iter().flat_map(|round| &round.dns).for_each(|dns| dns.set_a(READER, &["10.0.1.13"]));
    // What AWS finds dead needs no evidence besides its grace.
    for round in &rounds {
        for address in ["10.0.1.10", "10.0.1.11", "10.0.1.12"] {
            round.world.aws.add_target(&round.arn, &format!("{address}:5432"), "unhealthy");
        }
    }
    for _ in 0..2 {
        join_all(rounds.iter().map(TwoViews::at_once)).await;
        advance(301);
    }
    for round in &rounds {
        assert_eq!(round.world.aws.registered(&round.arn), targets(&[9, 13]));
    }
}
