//! When a target goes: grace periods, ownership, and the state that is kept for them.

mod kinds; // the rows of the table of kinds in docs/rules.md
mod sampling; // names whose answers are samples
mod shared; // ownership
mod state; // the tags

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{
    World, advance,
    aws::{Fault, FaultKind, TWICE, TargetGroup},
    binding,
    dns::Reply,
    invoke, waiting,
};
use tokio::join;

const READER: &str = "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com";

/// The grace period of most tests, in seconds. A test that means a time before its end stays 30 s away from it, because
/// tests take time, too.
const GRACE: i64 = 600;

/// The tag that holds the state of an `exclusive` group.
const MISSING: &str = "nlb-hostname-targets:missing-1";

/// What the keys of the tags begin with that say which targets are ours.
const OWNED: &str = "nlb-hostname-targets:owned-";

/// A group that is bound to `hostname` with these fields besides.
async fn bound_to(hostname: &str, addresses: &[&str], registered: &[&str], fields: Value) -> (World, String) {
    let world = World::new().await;
    world.dns.set_a(hostname, addresses);
    let arn = world.aws.create_target_group(TargetGroup::new("db"));
    for address in registered {
        world.aws.add_target(&arn, &format!("{address}:5432"), "healthy");
    }
    let world = world.set("BINDINGS", json!([with_fields(hostname, &arn, &fields)]));
    (world, arn)
}

/// `db.test` gives 10.0.1.10, and its group holds 10.0.1.9 too.
async fn one_is_missing(fields: Value) -> (World, String) {
    bound_to("db.test", &["10.0.1.10"], &["10.0.1.9", "10.0.1.10"], fields).await
}

fn with_fields(hostname: &str, arn: &str, fields: &Value) -> Value {
    let mut binding = binding(hostname, arn);
    for (name, value) in fields.as_object().unwrap() {
        binding[name] = value.clone();
    }
    binding
}

#[tokio::test]
async fn rule_08_a_target_goes_when_its_grace_is_over() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    let group = world.sync().await.unwrap();
    assert_eq!(group["outcome"], "in_sync");
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
    assert_eq!(world.aws.tags(&arn).len(), 1);
    assert_eq!(world.aws.registered(&arn).len(), 2);
    advance(GRACE - 30);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!([]));
    advance(30);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(group["waiting"], json!([]));
    assert_eq!(world.aws.tags(&arn).len(), 0);
}

#[tokio::test]
async fn rule_08_counting_is_by_time_and_not_by_runs() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    let function = world.function().await;
    let (first, second, third) =
        join!(invoke(&function, json!({})), invoke(&function, json!({})), invoke(&function, json!({})));
    for reply in [first, second, third] {
        assert_eq!(waiting(&reply.unwrap()["groups"][0]), ["10.0.1.9:5432"]);
    }
    for _ in 0..10 {
        advance(GRACE / 20);
        let reply = invoke(&function, json!({})).await.unwrap();
        assert_eq!(waiting(&reply["groups"][0]), ["10.0.1.9:5432"]);
    }
    // After a pause of days, it has been missing for long enough.
    advance(200_000);
    invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.aws.targets(&arn)["10.0.1.9:5432"], "draining");
}

#[tokio::test]
async fn rule_08_what_is_stated_wins_over_the_kind() {
    let fields = json!({"deregister_after_seconds": 0, "lookups": 1});
    let (world, _) = bound_to(READER, &["10.0.1.10"], &["10.0.1.9"], fields).await;
    let group = world.sync().await.unwrap();
    assert_eq!(group["kinds"], json!([{"hostname": READER, "kind": "aurora_reader", "lookups": 1}]));
    assert_eq!(group["deregister_after_seconds"], 0);
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));

    let (world, _) = one_is_missing(json!({"deregister_after_seconds": 4_294_967_295_u32})).await;
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregister_after_seconds"], 4_294_967_295_u32);
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
}

#[tokio::test]
async fn rule_08_of_several_bindings_the_longest_default_counts_and_what_one_states_counts_for_all() {
    let proxy = "orders.proxy-c9akciq32abc.eu-west-1.rds.amazonaws.com";
    let cases = [
        (vec![("db.test", json!({})), (proxy, json!({}))], 120),
        (vec![("db.test", json!({})), (proxy, json!({})), (READER, json!({}))], 300),
        (vec![("db.test", json!({"deregister_after_seconds": 30})), (READER, json!({}))], 30),
        (vec![(READER, json!({})), ("db.test", json!({"deregister_after_seconds": 0}))], 0),
        (
            vec![
                (READER, json!({"deregister_after_seconds": 45})),
                (proxy, json!({})),
                ("db.test", json!({"deregister_after_seconds": 45})),
            ],
            45,
        ),
    ];
    for (members, grace) in cases {
        let world = World::new().await;
        let arn = world.aws.create_target_group(TargetGroup::new("db"));
        world.aws.add_target(&arn, "10.0.1.9:5432", "healthy");
        let mut bindings = Vec::new();
        for ((hostname, fields), host) in members.iter().zip(10..) {
            world.dns.set_a(hostname, &[&format!("10.0.1.{host}")]);
            let mut binding = with_fields(hostname, &arn, fields);
            binding["lookups"] = json!(1);
            bindings.push(binding);
        }
        let world = world.set("BINDINGS", Value::from(bindings));
        let group = world.sync().await.unwrap();
        assert_eq!(group["deregister_after_seconds"], grace, "{members:?}");
        assert_eq!(group["kinds"].as_array().unwrap().len(), members.len());
        assert_eq!(group["registered"].as_array().unwrap().len(), members.len(), "the union of the answers");
        assert_eq!(waiting(&group).len(), usize::from(grace > 0), "{members:?}");
    }
}

#[tokio::test]
async fn rule_08_what_another_hostname_of_the_group_gives_is_not_missing() {
    let (world, arn) = one_is_missing(json!({})).await;
    world.dns.set_a("other.test", &["10.0.1.9", "10.0.1.11"]);
    let grace = json!({"deregister_after_seconds": GRACE});
    let bindings = json!([with_fields("db.test", &arn, &grace), with_fields("other.test", &arn, &json!({}))]);
    let world = world.set("BINDINGS", bindings);
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), [""; 0]);
    world.dns.set_a("other.test", &["10.0.1.11"]);
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
    // It comes back by the other hostname.
    world.dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]);
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), [""; 0]);
    assert_eq!(world.aws.tags(&arn).len(), 0);
}

#[tokio::test]
async fn rule_08_what_is_refused_or_unresolved_keeps_what_is_known() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    world.sync().await.unwrap();
    let tags = world.aws.tags(&arn);
    // Nothing goes while the name does not resolve, even though the grace is over meanwhile.
    world.dns.set_reply("db.test", hickory_proto::rr::RecordType::A, Reply::ServFail);
    advance(GRACE);
    world.failure(json!({})).await;
    assert_eq!(world.aws.registered(&arn).len(), 2);
    assert_eq!(world.aws.tags(&arn), tags);
    // An address that may not be registered is given all the same.
    world.dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]);
    let world = world.set("ALLOWED_CIDRS", "10.0.1.10/32");
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn).len(), 2);
    assert_eq!(world.aws.tags(&arn).len(), 0, "DNS gave it, so it is not missing any more");
}

#[tokio::test]
async fn rule_08_time_counts_while_dns_fails() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    world.sync().await.unwrap();
    world.dns.set_reply("db.test", hickory_proto::rr::RecordType::A, Reply::ServFail);
    advance(GRACE);
    world.failure(json!({})).await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(world.aws.tags(&arn).len(), 0);
}

#[tokio::test]
async fn rule_08_a_clock_that_is_set_back_makes_no_target_go_earlier() {
    for back in [10, 3600, 100_000_000] {
        let (world, _) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
        world.sync().await.unwrap();
        advance(-back);
        let group = world.sync().await.unwrap();
        assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
        advance(GRACE - 30);
        let group = world.sync().await.unwrap();
        assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
        // Nor is it kept for as long as the clock was set back.
        advance(30);
        let group = world.sync().await.unwrap();
        assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]), "set back by {back} s");
    }
}

#[tokio::test]
async fn rule_08_a_target_that_returns_while_it_drains_is_registered_and_starts_anew() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    world.sync().await.unwrap();
    advance(GRACE);
    world.sync().await.unwrap();
    assert_eq!(world.aws.targets(&arn)["10.0.1.9:5432"], "draining");
    world.dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]);
    let group = world.sync().await.unwrap();
    assert_eq!(group["registered"], json!(["10.0.1.9:5432"]));
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let group = world.sync().await.unwrap();
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
}

#[tokio::test]
async fn rule_08_a_deregistration_that_failed_is_made_up_for() {
    let (world, arn) = one_is_missing(json!({"deregister_after_seconds": GRACE})).await;
    world.sync().await.unwrap();
    advance(GRACE);
    world.aws.fault(Fault::on("DeregisterTargets", FaultKind::error(403, "AccessDenied", "no")).times(1));
    let message = world.failure(json!({})).await;
    assert!(message.contains("elasticloadbalancing:DeregisterTargets"), "{message}");
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(world.aws.tags(&arn).len(), 0);
}

#[tokio::test]
async fn rule_08_a_dry_run_shows_who_waits_and_who_is_due_and_writes_nothing() {
    for ownership in ["exclusive", "shared"] {
        let fields = json!({"deregister_after_seconds": GRACE, "ownership": ownership});
        let (world, arn) = one_is_missing(fields).await;
        world.dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]);
        world.sync().await.unwrap();
        world.dns.set_a("db.test", &["10.0.1.10"]);
        let dry = async || world.run(json!({"dry_run": true})).await.unwrap()["groups"][0].take();

        // Not even that it is missing is remembered.
        world.aws.clear_calls();
        let tags = world.aws.tags(&arn);
        let group = dry().await;
        assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
        assert_eq!(group["deregistered"], json!([]));
        assert_eq!(world.aws.tags(&arn), tags);
        advance(GRACE);
        assert_eq!(waiting(&dry().await), ["10.0.1.9:5432"]);
        assert_eq!(world.writes(), [""; 0]);
        assert_eq!(world.aws.metrics().len(), 0);

        world.sync().await.unwrap();
        advance(GRACE);
        world.dns.set_a("db.test", &["10.0.1.10", "10.0.1.11"]);
        world.aws.clear_calls();
        let tags = world.aws.tags(&arn);
        let group = dry().await;
        assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
        assert_eq!(group["registered"], json!(["10.0.1.11:5432"]));
        assert_eq!(group["waiting"], json!([]));
        assert_eq!(world.writes(), [""; 0]);
        assert_eq!(world.aws.tags(&arn), tags);
        assert_eq!(world.aws.registered(&arn).len(), 2);
    }
}

#[tokio::test]
async fn rule_08_the_waiting_targets_are_a_metric() {
    let (world, _) = bound_to(
        "db.test",
        &["10.0.1.10"],
        &["10.0.1.8", "10.0.1.9", "10.0.1.10"],
        json!({"deregister_after_seconds": GRACE}),
    )
    .await;
    world.sync().await.unwrap();
    assert_eq!(world.metric("WaitingTargets"), Some(2.0));
    world.aws.clear_calls();
    advance(GRACE);
    world.sync().await.unwrap();
    assert_eq!(world.metric("WaitingTargets"), Some(0.0));
    assert_eq!(world.metric("Deregistrations"), Some(2.0));
}

#[tokio::test]
async fn rule_09_two_functions_at_once_end_where_one_would() {
    // Several times, because which call comes first differs.
    let rounds = (0..5).map(|_| async move {
        let fields = json!({"deregister_after_seconds": GRACE});
        let (world, arn) = bound_to("db.test", &["10.0.1.10"], &["10.0.1.8", "10.0.1.9"], fields).await;
        world.aws.tolerate(TWICE);
        let functions = (world.function().await, world.function().await);
        (world, arn, functions)
    });
    let rounds = join_all(rounds).await;
    let at_once = async || {
        join_all(rounds.iter().map(|(_, _, (first, second))| async move {
            let (first, second) = join!(invoke(first, json!({})), invoke(second, json!({})));
            [first.unwrap()["groups"][0].take(), second.unwrap()["groups"][0].take()]
        }))
        .await
    };
    for [first, second] in at_once().await {
        assert_eq!(waiting(&first), ["10.0.1.8:5432", "10.0.1.9:5432"]);
        assert_eq!(waiting(&second), waiting(&first));
    }
    advance(GRACE - 30);
    for group in at_once().await.as_flattened() {
        assert_eq!(group["deregistered"], json!([]));
    }
    // One of the two comes back just when the other has to go.
    rounds.iter().for_each(|(world, ..)| world.dns.set_a("db.test", &["10.0.1.9", "10.0.1.10"]));
    advance(30);
    at_once().await;
    for (world, arn, _) in &rounds {
        assert_eq!(world.aws.targets(arn)["10.0.1.8:5432"], "draining");
        assert_eq!(world.aws.registered(arn).len(), 2);
        assert_eq!(world.aws.tags(arn).len(), 0);
    }
}
