//! When a target goes: kinds of hostnames, grace periods, ownership, and the tags that keep the state of them.

use std::collections::BTreeMap;

use hickory_proto::rr::RecordType;
use serde_json::json;
use support::{World, advance, aws::TargetGroup, binding, binding_with, dns::Reply, invoke, set, targets, waiting};

const READER: &str = "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com";

/// The grace period of a test, in seconds. What means a time before its end stays 30 s away from it.
const GRACE: i64 = 600;

/// The tags under our prefix, without it.
fn state(world: &World, arn: &str) -> BTreeMap<String, String> {
    let tags = world.aws.tags(arn).into_iter();
    tags.filter_map(|(key, value)| Some((key.strip_prefix("nlb-hostname-targets:")?.to_owned(), value))).collect()
}

/// The name itself or one that leads to it by a CNAME: its kind, its grace period and its lookups.
#[tokio::test]
async fn rule_08_each_kind_of_hostname_has_its_grace_and_its_lookups() {
    for (name, kind, grace, lookups) in [
        (READER, "aurora_reader", 300, 5),
        ("Orders.Proxy-c9akciq32abc.us-iso-east-1.rds.c2s.ic.gov.", "rds_proxy", 120, 3),
        ("web-0123456789abcdef.elb.cn-north-1.amazonaws.com.cn", "load_balancer", 300, 5),
        ("orders.cluster-c9akciq32abc.eu-west-1.rds.amazonaws.com", "other", 0, 1),
    ] {
        for hostname in [name, "db.example.com"] {
            let world = World::new().await;
            world.dns.set_ttl(0);
            world.dns.set_cname("db.example.com", name);
            world.dns.set_a(name, &["10.0.1.10"]);
            let arn = world.aws.create_target_group(TargetGroup::new("db"));
            world.aws.add_target(&arn, "10.0.1.10", "healthy");
            // What is dead needs its grace alone.
            world.aws.add_target(&arn, "10.0.1.9", "unhealthy");
            let group = world.set("BINDINGS", json!([binding(hostname, &arn)])).sync().await.unwrap();
            // As DNS compares names.
            let told = hostname.trim_end_matches('.').to_lowercase();
            let kinds = json!([{"hostname": told, "kind": kind, "lookups": lookups}]);
            assert_eq!((&group["kinds"], &group["deregister_after_seconds"]), (&kinds, &json!(grace)), "{group}");
            let (gone, waits) = (group["deregistered"].as_array().unwrap().len(), waiting(&group).len());
            assert_eq!((gone, waits), if grace == 0 { (1, 0) } else { (0, 1) }, "{group}");
        }
    }
}

#[tokio::test]
async fn rule_08_a_target_goes_when_its_grace_is_over_by_the_time_in_its_tag() {
    for ipv6 in [false, true] {
        let world = World::new().await;
        let arn = world.aws.create_target_group(TargetGroup { ipv6, ..TargetGroup::new("db") });
        let (given, missing, key) = match ipv6 {
            false => ("10.0.1.10:5432", "10.0.1.9:5432", "missing/10.0.1.9_5432"),
            true => ("[fd00::10]:5432", "[fd00::9]:5432", "missing/fd00::9_5432"),
        };
        world.dns.set_a("db.test", &["10.0.1.10"]);
        world.dns.set_reply("db.test", RecordType::AAAA, Reply::addresses(&["fd00::10"]));
        [given, missing].iter().for_each(|target| world.aws.add_target(&arn, target, "healthy"));
        world.aws.set_tag(&arn, "team", "data, \"<&>\"");
        let bound = binding_with("db.test", &arn, &json!({"deregister_after_seconds": GRACE}));
        let world = world.set("BINDINGS", json!([bound]));
        // Each run is of a new environment.
        for _ in 0..3 {
            let group = world.sync().await.unwrap();
            assert_eq!((&group["outcome"], waiting(&group)), (&json!("in_sync"), vec![missing]));
            let tags = state(&world, &arn);
            assert_eq!(tags.keys().collect::<Vec<_>>(), [key]);
            let since: f64 = tags[key].parse().unwrap();
            let told = &group["waiting"][0]["missing_since"];
            assert!(since > 1_763_802_000.0 && told.as_str().is_some_and(|text| text.ends_with('Z')), "{since} {told}");
            advance((GRACE - 30) / 3);
        }
        assert_eq!(world.writes(), ["AddTags"], "only what changes is written");
        assert_eq!(world.sum("WaitingTargets"), 3.0);
        world.aws.clear_calls();
        advance(30);
        let group = world.sync().await.unwrap();
        assert_eq!((&group["deregistered"], waiting(&group)), (&json!([missing]), vec![]));
        assert_eq!(world.aws.registered(&arn), set(&[given]));
        assert_eq!(world.aws.tags(&arn).into_keys().collect::<Vec<_>>(), ["team"]);
        assert_eq!(world.metric("WaitingTargets"), None, "what is 0 is not sent");
    }
}

#[tokio::test]
async fn rule_08_two_functions_share_a_group_and_what_both_own_stays_until_both_let_go() {
    let (mut world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
    let mut functions = Vec::new();
    for name in ["one", "two"] {
        let hostname = format!("{name}.test");
        world.dns.set_a(&hostname, &["10.0.1.10"]);
        let bindings = json!([binding_with(&hostname, &arn, &json!({"ownership": "shared"}))]);
        world = world.set("BINDINGS", bindings).set("AWS_LAMBDA_FUNCTION_NAME", name);
        functions.push(world.function().await);
    }
    let both = async || {
        for function in functions.iter().chain(&functions) {
            invoke(function, json!({})).await.unwrap();
        }
    };
    both().await;
    // Whose it is was written before it was registered.
    let found = world.aws.calls_of("RegisterTargets")[0].found.clone().unwrap();
    assert_eq!(found.tags["nlb-hostname-targets:owned/10.0.1.10_5432/one"], "used");
    let owners: Vec<_> = state(&world, &arn).into_keys().collect();
    assert_eq!(owners, ["owned/10.0.1.10_5432/one", "owned/10.0.1.10_5432/two"]);
    for (name, registered) in [("one.test", [9, 10, 11].as_slice()), ("two.test", &[9, 11])] {
        world.dns.set_a(name, &["10.0.1.11"]);
        both().await;
        // What nobody here owns is never touched.
        assert_eq!(world.aws.registered(&arn), targets(registered), "{:?}", state(&world, &arn));
    }
    // Another environment of the second function knows by its tag what is its own.
    ["one.test", "two.test"].iter().for_each(|name| world.dns.set_a(name, &["10.0.1.12"]));
    invoke(&functions[0], json!({})).await.unwrap();
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[9, 12]));
}

#[tokio::test]
async fn rule_08_wiped_tags_are_counted_on_from_memory_which_a_dry_run_by_other_bindings_leaves_alone() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9", "10.0.1.10"]).await;
    let bound = binding_with("db.test", &arn, &json!({"deregister_after_seconds": GRACE}));
    let world = world.set("BINDINGS", json!([bound]));
    let function = world.function().await;
    world.dns.set_a("other.test", &["10.0.1.9"]);
    for _ in 0..2 {
        invoke(&function, json!({})).await.unwrap();
        advance(GRACE / 2);
        // So that memory alone knows.
        state(&world, &arn).keys().for_each(|key| world.aws.remove_tag(&arn, &format!("nlb-hostname-targets:{key}")));
        let dry_run = json!({"dry_run": true, "bindings": [binding("other.test", &arn)]});
        invoke(&function, dry_run).await.unwrap();
    }
    let group = invoke(&function, json!({})).await.unwrap()["groups"][0].take();
    let warning = group["error"].as_str().unwrap();
    assert!(warning.contains("the tag of 10.0.1.9:5432 is gone"), "{warning}");
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
}

#[tokio::test]
async fn rule_15_the_answers_of_a_reader_endpoint_are_collected_and_what_one_lacks_stays() {
    let world = World::new().await;
    let readers = ["10.0.1.11", "10.0.1.12", "10.0.1.13", "10.0.1.14", "10.0.1.15"];
    world.dns.set_ttl(0);
    world.dns.set_reply(READER, RecordType::A, Reply::in_turn(&readers));
    let arn = world.aws.create_target_group(TargetGroup::new("db"));
    world.aws.add_target(&arn, "10.0.1.99", "unhealthy");
    let world = world.set("BINDINGS", json!([binding(READER, &arn)]));
    let function = world.function().await;
    let group = invoke(&function, json!({})).await.unwrap()["groups"][0].take();
    assert_eq!(group["registered"].as_array().unwrap().len(), 5, "{group}");
    // What is dead goes after its grace; of the living, an answer lacks four.
    for fields in [json!({}), json!({"lookups": 2})] {
        advance(301);
        invoke(&function, json!({"bindings": [binding_with(READER, &arn, &fields)]})).await.unwrap();
        assert_eq!(world.aws.registered(&arn), targets(&[11, 12, 13, 14, 15]), "{fields}");
    }
}

#[tokio::test]
async fn rule_15_that_a_name_rotates_is_known_to_a_new_environment_by_a_tag_that_is_read_with_the_facts() {
    let (world, arn) = World::with_database(&["10.0.1.12"], &["10.0.1.11", "10.0.1.12"]).await;
    world.dns.set_ttl(0);
    for is_known in [true, false] {
        if is_known {
            world.aws.set_tag(&arn, "nlb-hostname-targets:rotates/db.test", "seen");
        }
        world.aws.clear_calls();
        let group = world.sync().await.unwrap();
        let read_first: Vec<_> =
            world.actions().into_iter().take_while(|action| action != "DescribeTargetHealth").collect();
        assert!(read_first.contains(&"DescribeTags".to_owned()), "{:?}", world.actions());
        assert_eq!(world.aws.registered(&arn), targets(if is_known { &[11, 12] } else { &[12] }), "{group}");
        let warning = group["error"].as_str().unwrap_or_default();
        assert_eq!(warning.contains("state `deregister_after_seconds`"), is_known, "{warning}");
        world.aws.remove_tag(&arn, "nlb-hostname-targets:rotates/db.test");
    }
}
