//! The contract's rules of behaviour, by their numbers.

use std::{collections::BTreeSet, time::Duration};

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use support::{
    World, advance,
    aws::{Fault, FaultKind, TWICE, TargetGroup},
    binding,
    dns::{Reply, record},
    invoke, invoke_within, set,
};

#[tokio::test]
async fn rule_01_registers_first_and_deregisters_after() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    let group = world.sync().await.unwrap();
    assert_eq!(group["outcome"], "changed");
    assert_eq!(group["registered"], json!(["10.0.1.10:5432"]));
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
    let writes: Vec<_> = world.actions().into_iter().filter(|action| action.ends_with("Targets")).collect();
    assert_eq!(writes, ["RegisterTargets", "DeregisterTargets"]);
}

#[tokio::test]
async fn rule_01_deregisters_nothing_where_the_registration_failed() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::on("RegisterTargets", FaultKind::error(403, "AccessDenied", "not authorized")));
    let message = world.failure(json!({})).await;
    assert!(message.contains("db.test") && message.contains(&arn) && message.contains("AccessDenied"), "{message}");
    assert!(message.contains("elasticloadbalancing:RegisterTargets"), "{message}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432"]));
    assert!(world.aws.calls_of("DeregisterTargets").is_empty());
}

#[tokio::test]
async fn rule_05_a_target_that_is_refused_for_good_holds_no_stale_one_back() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11"], &["10.0.1.9"]).await;
    world.aws.refuse_target(&arn, "10.0.1.11");
    let message = world.failure(json!({})).await;
    assert!(message.contains("10.0.1.11") && message.contains("InvalidTarget"), "{message}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
}

#[tokio::test]
async fn rule_01_stale_targets_go_first_where_the_quota_refuses_the_registration() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11"], &["10.0.1.8", "10.0.1.9"]).await;
    world.aws.reconfigure(&arn, |group| group.quota(2));
    // The last of them does not go to make room, and what drains is waited for.
    let message = world.failure(json!({})).await;
    assert!(message.contains("1 targets wait for room") && message.contains("Service Quotas"), "{message}");
    assert_eq!(world.aws.registered(&arn).len(), 2);
    world.aws.finish_draining(&arn);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432", "10.0.1.11:5432"]));
}

#[tokio::test]
async fn rule_01_no_more_stale_targets_go_first_than_room_is_needed_for() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.7", "10.0.1.8", "10.0.1.9"]).await;
    world.aws.reconfigure(&arn, |group| group.quota(3));
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
    let sizes: Vec<_> = world.aws.calls_of("DeregisterTargets").iter().map(|call| call.targets.len()).collect();
    assert_eq!(sizes, [1, 2]);
}

#[tokio::test]
async fn rule_01_room_that_helps_nothing_does_not_empty_the_group() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.7", "10.0.1.8", "10.0.1.9"]).await;
    world.aws.reconfigure(&arn, |group| group.quota(3).draining_counts(true));
    let message = world.failure(json!({})).await;
    assert!(message.contains("TooManyTargets"), "{message}");
    assert_eq!(world.aws.registered(&arn).len(), 2);
}

#[tokio::test]
async fn rule_01_a_quota_without_stale_targets_lets_in_what_fits_and_fails() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11", "10.0.1.12"], &[]).await;
    world.aws.reconfigure(&arn, |group| group.quota(2));
    let message = world.failure(json!({})).await;
    assert!(message.contains("TooManyTargets"), "{message}");
    assert_eq!(world.aws.registered(&arn).len(), 2);
}

#[tokio::test]
async fn rule_01_a_quota_never_removes_anything_while_a_hostname_is_unresolved() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.reconfigure(&arn, |group| group.quota(1));
    let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("gone.test", &arn)]));
    let message = world.failure(json!({})).await;
    assert!(message.contains("TooManyTargets") && message.contains("NXDOMAIN"), "{message}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432"]));
}

#[tokio::test]
async fn rule_02_a_name_that_did_not_resolve_changes_nothing() {
    let failures = [
        (Reply::NxDomain { negative_ttl: Some(1) }, "NXDOMAIN"),
        (Reply::NoData { negative_ttl: Some(1) }, "no data"),
        (Reply::NoData { negative_ttl: None }, "no data"),
        (Reply::ServFail, "SERVFAIL"),
        (Reply::Refused, "REFUSED"),
        (Reply::Silent, "time-out"),
        (Reply::Records(vec![record("other.test", 5, std::net::Ipv4Addr::new(10, 0, 1, 10))]), "no data"),
    ];
    for (reply, word) in failures {
        let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
        world.dns.set_reply("db.test", RecordType::A, reply);
        let message = world.failure(json!({})).await;
        assert!(message.contains(word) && message.contains("db.test") && message.contains(&arn), "{message}");
        assert!(message.contains(&world.dns.address().to_string()), "{message}");
        assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432"]), "{word}");
        assert!(world.actions().iter().all(|action| !action.ends_with("Targets")), "{word}");
        assert_eq!(world.metric("Failures"), Some(1.0), "{word}");
    }
}

#[tokio::test]
async fn rule_02_what_other_hostnames_of_the_group_resolved_to_is_still_registered() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("gone.test", &arn)]));
    let message = world.failure(json!({})).await;
    assert!(message.contains("gone.test: NXDOMAIN"), "{message}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432", "10.0.1.10:5432"]));
}

#[tokio::test]
async fn rule_02_a_hostname_that_hangs_does_not_hold_up_its_siblings() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.dns.set_reply("silent.test", RecordType::A, Reply::Silent);
    let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("silent.test", &arn)]));
    // Also where the time that is left is shorter than what DNS would take.
    for time in [30, 6] {
        world.aws.remove_target(&arn, "10.0.1.10:5432");
        let function = world.function().await;
        let result = invoke_within(&function, json!({}), Duration::from_secs(time)).await;
        let message = result.unwrap_err().to_string();
        assert!(message.contains("silent.test: time-out") && !message.contains("db.test: "), "{message}");
        assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432", "10.0.1.10:5432"]));
    }
}

#[tokio::test]
async fn rule_02_a_look_that_failed_is_no_answer_from_which_addresses_are_missing() {
    let one = |address| Reply::addresses(&[address]);
    let (world, arn) = World::with_database(&[], &["10.0.1.8", "10.0.1.9"]).await;
    let world = world.set("BINDINGS", json!([{"hostname": "db.test", "target_group_arn": arn, "lookups": 2}]));
    world.dns.set_ttl(1);
    world.dns.set_reply("db.test", RecordType::A, Reply::sequence([one("10.0.1.8"), Reply::ServFail]));
    assert_eq!(world.sync().await.unwrap()["outcome"], "in_sync");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.8:5432", "10.0.1.9:5432"]));
}

#[tokio::test]
async fn rule_06_a_hostname_with_no_usable_address_fails_and_holds_no_stale_target_back() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.dns.set_a("public.test", &["54.1.2.3"]);
    let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("public.test", &arn)]));
    let message = world.failure(json!({})).await;
    assert!(message.contains("public.test") && message.contains("54.1.2.3"), "{message}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
}

#[tokio::test]
async fn rule_03_a_draining_target_to_which_dns_returns_is_registered_again() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
    world.aws.add_target(&arn, "10.0.1.10:5432", "draining");
    world.aws.add_target(&arn, "10.0.1.9:5432", "healthy");
    let group = world.sync().await.unwrap();
    assert_eq!(group["registered"], json!(["10.0.1.10:5432"]));
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
}

#[tokio::test]
async fn rule_03_a_draining_target_is_never_deregistered_twice() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.10", "10.0.1.9"]).await;
    let function = world.function().await;
    assert_eq!(invoke(&function, json!({})).await.unwrap()["groups"][0]["outcome"], "changed");
    assert_eq!(world.aws.targets(&arn)["10.0.1.9:5432"], "draining");
    world.aws.clear_calls();
    assert_eq!(invoke(&function, json!({})).await.unwrap()["groups"][0]["outcome"], "in_sync");
    assert!(world.aws.calls_of("DeregisterTargets").is_empty());
}

#[tokio::test]
async fn rule_03_every_state_but_draining_counts_as_registered() {
    for state in ["initial", "healthy", "unhealthy", "unhealthy.draining", "unused", "unavailable"] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
        world.aws.add_target(&arn, "10.0.1.10:5432", state);
        world.aws.add_target(&arn, "10.0.1.9:5432", state);
        let group = world.sync().await.unwrap();
        assert_eq!(group["registered"], json!([]), "{state}");
        // Of one that was registered just now, DNS may come back to it: rule 16.
        let gone = if state == "initial" { json!([]) } else { json!(["10.0.1.9:5432"]) };
        assert_eq!(group["deregistered"], gone, "{state}");
    }
}

#[tokio::test]
async fn rule_04_deregistering_sends_the_port_that_was_shown() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.10"]).await;
    world.aws.add_target(&arn, "10.0.1.10:6000", "healthy");
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.10:6000"]));
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
}

#[tokio::test]
async fn rule_04_a_binding_with_a_port_of_its_own_registers_on_it() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.10"]).await;
    let world = world.set("BINDINGS", json!([{"hostname": "db.test", "target_group_arn": arn, "port": 6432}]));
    let group = world.sync().await.unwrap();
    assert_eq!(group["registered"], json!(["10.0.1.10:6432"]));
    assert_eq!(group["deregistered"], json!(["10.0.1.10:5432"]));
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:6432"]));
}

#[tokio::test]
async fn rule_05_the_availability_zone_is_left_out_first_and_all_where_aws_wants_it() {
    // Outside the VPC, and inside one of its networks but in no subnet: two messages.
    for outside in ["10.9.9.9", "10.1.0.5"] {
        let (world, arn) = World::with_database(&["10.0.1.10", outside], &["10.0.1.9"]).await;
        world.aws.reconfigure(&arn, |group| group.vpc_cidrs(&["10.0.0.0/16", "10.1.0.0/16"]));
        let group = world.sync().await.unwrap();
        assert_eq!(group["outcome"], "changed", "{group}");
        assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432", &format!("{outside}:5432")]));
        let calls = world.aws.calls_of("RegisterTargets");
        assert!(calls[0].targets.iter().all(|target| target.az.is_none()), "{calls:?}");
        for call in &calls {
            for target in call.targets.iter().filter(|target| target.az.is_some()) {
                assert_eq!((target.id.as_str(), target.az.as_deref()), (outside, Some("all")));
            }
        }
    }
}

#[tokio::test]
async fn rule_05_a_target_outside_the_vpc_can_be_deregistered_again() {
    let (world, arn) = World::with_database(&["10.9.9.9"], &[]).await;
    world.sync().await.unwrap();
    world.dns.set_a("db.test", &["10.9.9.10"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.9.9.10:5432"]));
}

#[tokio::test]
async fn rule_05_many_targets_outside_the_vpc_are_registered_in_one_run() {
    let outside: Vec<_> = (1..=12).map(|host| format!("10.9.9.{host}")).collect();
    let mut addresses: Vec<_> = outside.iter().map(String::as_str).collect();
    addresses.extend(["10.0.1.1", "10.0.1.2"]);
    let (world, arn) = World::with_database(&addresses, &[]).await;
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn).len(), 14);
}

#[tokio::test]
async fn rule_05_a_message_that_names_no_address_still_keeps_no_target_out() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11", "10.0.1.12"], &[]).await;
    world
        .aws
        .fault(Fault::on("RegisterTargets", FaultKind::error(400, "InvalidTarget", "a target is not valid")).times(2));
    let message = world.failure(json!({})).await;
    assert!(message.contains("InvalidTarget"), "{message}");
    assert_eq!(world.aws.registered(&arn).len(), 2);
}

#[tokio::test]
async fn rule_05_one_refused_target_never_keeps_the_rest_of_the_batch_out() {
    let addresses: Vec<_> = (1..=20).map(|host| format!("10.0.1.{host}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let (world, arn) = World::with_database(&addresses, &[]).await;
    world.aws.refuse_target(&arn, "10.0.1.7");
    let message = world.failure(json!({})).await;
    assert!(message.contains("RegisterTargets refused 10.0.1.7:5432"), "{message}");
    assert_eq!(world.aws.registered(&arn).len(), 19);
    assert_eq!(world.metric("RefusedAddresses"), Some(1.0));
}

#[tokio::test]
async fn rule_06_an_address_outside_allowed_cidrs_is_never_sent() {
    let (world, arn) = World::with_database(&["10.0.1.10", "54.1.2.3"], &["10.0.1.9"]).await;
    let group = world.sync().await.unwrap();
    assert_eq!(group["resolved"], json!(["10.0.1.10"]));
    assert_eq!(group["refused"][0]["address"], "54.1.2.3");
    assert!(group["refused"][0]["reason"].as_str().unwrap().contains("ALLOWED_CIDRS"), "{group}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
    assert_eq!(world.metric("RefusedAddresses"), Some(1.0));
}

#[tokio::test]
async fn rule_06_allowed_cidrs_narrows_the_default() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.2.10"], &[]).await;
    world.set("ALLOWED_CIDRS", "10.0.1.0/24, 192.168.0.0/16").sync().await.unwrap();
    let world = World::with_database(&["10.0.2.10"], &["10.0.1.9"]).await.0.set("ALLOWED_CIDRS", "10.0.1.0/24");
    let message = world.failure(json!({})).await;
    assert!(message.contains("10.0.2.10") && message.contains("10.0.1.0/24"), "{message}");
    assert!(!message.contains("publicly accessible"), "{message}");
    drop(arn);
}

#[tokio::test]
async fn rule_06_some_addresses_are_never_sent_whatever_the_list_says() {
    let never = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255"];
    let (world, arn) = World::with_database(&never, &["10.0.1.9"]).await;
    let world = world.set("ALLOWED_CIDRS", "0.0.0.0/0");
    let message = world.failure(json!({})).await;
    for address in never {
        assert!(message.contains(address), "{message}");
    }
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432"]));

    let never = ["::1", "fe80::1", "ff02::1", "::", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:10a"];
    let world = World::new().await;
    world.dns.set_aaaa("db.test", &never);
    let arn = world.aws.create_target_group(TargetGroup::new("db6").ipv6());
    let world = world.set("ALLOWED_CIDRS", "::/0").set("BINDINGS", json!([binding("db.test", &arn)]));
    world.failure(json!({})).await;
    assert!(world.aws.calls_of("RegisterTargets").is_empty());
}

#[tokio::test]
async fn rule_06_if_no_address_is_left_the_message_speaks_of_publicly_accessible_databases() {
    let (world, arn) = World::with_database(&["54.1.2.3"], &["10.0.1.9"]).await;
    let message = world.failure(json!({})).await;
    for word in ["db.test", arn.as_str(), "54.1.2.3", "publicly accessible", "must run in that VPC"] {
        assert!(message.contains(word), "{message}");
    }
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432"]));
}

#[tokio::test]
async fn rule_06_a_registered_target_whose_address_dns_gives_is_not_touched_although_it_is_refused() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.2.10"], &["10.0.2.10", "10.0.1.9"]).await;
    let group = world.set("ALLOWED_CIDRS", "10.0.1.0/24").sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(group["refused"][0]["address"], "10.0.2.10");
    drop(arn);
}

#[tokio::test]
async fn rule_07_an_ipv6_group_asks_for_aaaa() {
    let world = World::new().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    world.dns.set_aaaa("db.test", &["fd00::10", "2600:1f18:1:100::5"]);
    let arn = world.aws.create_target_group(TargetGroup::new("db6").ipv6());
    let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
    let group = world.sync().await.unwrap();
    assert_eq!(group["resolved"], json!(["2600:1f18:1:100::5", "fd00::10"]));
    assert_eq!(group["registered"], json!(["[2600:1f18:1:100::5]:5432", "[fd00::10]:5432"]));
    assert!(world.dns.queries().iter().all(|query| query.record_type == RecordType::AAAA));
}

#[tokio::test]
async fn rule_07_a_record_of_another_owner_is_ignored() {
    let (world, arn) = World::with_database(&[], &[]).await;
    let ip = |last| std::net::Ipv4Addr::new(10, 0, 1, last);
    world.dns.set_reply(
        "db.test",
        RecordType::A,
        Reply::Records(vec![record("db.test", 5, ip(10)), record("evil.test", 5, ip(66))]),
    );
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
}

#[tokio::test]
async fn rule_07_a_cname_chain_is_followed() {
    let (world, arn) = World::with_database(&[], &[]).await;
    world.dns.set_cname("db.test", "a.test");
    world.dns.set_cname("a.test", "B.test");
    world.dns.set_a("b.test", &["10.0.1.10"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
    world.dns.dangling("db.test");
    world.dns.set_a("b.test", &["10.0.1.11"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.11:5432"]));
}

#[tokio::test]
async fn rule_07_a_group_that_is_not_of_type_ip_is_refused() {
    for target_type in ["instance", "lambda", "alb"] {
        let world = World::new().await;
        world.dns.set_a("db.test", &["10.0.1.10"]);
        let arn = world.aws.create_target_group(TargetGroup::new("web").target_type(target_type));
        let registered = if target_type == "instance" { "i-0123:80" } else { "arn:aws:lambda:x" };
        world.aws.add_target(&arn, registered, "healthy");
        let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
        let message = world.failure(json!({})).await;
        assert!(message.contains(&format!("target type `{target_type}`")) && message.contains("`ip`"), "{message}");
        assert!(world.actions().iter().all(|action| !action.ends_with("Targets")));
    }
}

#[tokio::test]
async fn rule_08_a_group_that_needs_no_state_has_no_tag_written_and_none_read_but_at_first() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.set_tag(&arn, "team", "data");
    let function = world.function().await;
    for address in ["10.0.1.10", "10.0.1.11"] {
        let is_first = address == "10.0.1.10";
        world.aws.clear_calls();
        world.dns.set_a("db.test", &[address]);
        invoke(&function, json!({})).await.unwrap();
        assert_eq!(world.writes(), ["RegisterTargets", "DeregisterTargets"]);
        // At the same time as the targets, not after all else.
        let has_read_tags = world
            .actions()
            .iter()
            .take_while(|action| *action != "RegisterTargets")
            .any(|action| action == "DescribeTags");
        assert_eq!(has_read_tags, is_first);
    }
    // What another setting left is looked for by the first run of an execution environment alone.
    assert_eq!(world.count("DescribeTags"), 0);
    assert_eq!(world.aws.tags(&arn).len(), 1);
}

#[tokio::test]
async fn rule_08_new_targets_do_not_wait_for_tags_that_cannot_be_removed() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.set_tag(&arn, "nlb-hostname-targets:owned/10.0.1.8_5432/", "1700000000.000");
    let world = world
        .set("BINDINGS", json!([{"hostname": "db.test", "target_group_arn": arn, "ownership": "shared"}]))
        .set("AWS_MAX_ATTEMPTS", 1);
    // So slow that what was read before is too old to act on.
    world.aws.fault(Fault::on("RemoveTags", FaultKind::Latency(Duration::from_millis(2200))));
    world.aws.fault(Fault::on("RemoveTags", FaultKind::error(403, "AccessDenied", "no")));
    let function = world.function().await;
    let message = invoke_within(&function, json!({}), Duration::from_secs(12)).await.unwrap_err().to_string();
    assert!(message.contains("RemoveTags: AccessDenied") && !message.contains("given up"), "{message}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432", "10.0.1.10:5432"]));
}

#[tokio::test]
async fn rule_08_the_grace_of_what_is_missing_begins_although_a_registration_fails() {
    // In a full target group, it is what has to go that makes room.
    let (world, arn) = World::with_database(&["10.0.1.9", "10.0.1.10"], &["10.0.1.8", "10.0.1.9"]).await;
    world.aws.reconfigure(&arn, |group| group.quota(2));
    let binding = json!({"hostname": "db.test", "target_group_arn": arn, "deregister_after_seconds": 60});
    let world = world.set("BINDINGS", json!([binding]));
    let message = world.failure(json!({})).await;
    assert!(message.contains("TooManyTargets"), "{message}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.8:5432", "10.0.1.9:5432"]));
    advance(61);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432", "10.0.1.10:5432"]));
}

#[tokio::test]
async fn rule_08_the_grace_of_what_is_missing_begins_although_a_deregistration_fails() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.8", "10.0.1.9", "10.0.1.10"]).await;
    world.aws.set_tag(&arn, "nlb-hostname-targets:missing/10.0.1.8_5432", "1700000000.000");
    let binding = json!({"hostname": "db.test", "target_group_arn": arn, "deregister_after_seconds": 60});
    let world = world.set("BINDINGS", json!([binding]));
    world.aws.fault(Fault::on("DeregisterTargets", FaultKind::error(403, "AccessDenied", "no")));
    let message = world.failure(json!({})).await;
    assert!(message.contains("DeregisterTargets: AccessDenied"), "{message}");
    world.aws.clear_faults();
    advance(61);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
}

#[tokio::test]
async fn rule_09_an_answer_older_than_2_s_is_asked_for_again_before_anything_is_planned() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::SlowReply(Duration::from_millis(2500))));
    let (result, ()) = tokio::join!(world.sync(), async {
        tokio::time::sleep(Duration::from_millis(1000)).await;
        world.dns.set_a("db.test", &["10.0.1.11"]);
    });
    assert_eq!(result.unwrap()["resolved"], json!(["10.0.1.11"]));
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.11:5432"]));
    assert!(world.aws.calls_of("RegisterTargets").iter().all(|call| call.targets[0].id == "10.0.1.11"));
}

#[tokio::test]
async fn rule_09_a_slow_registration_does_not_lead_to_an_outdated_deregistration() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::on("RegisterTargets", FaultKind::SlowReply(Duration::from_millis(2500))).times(1));
    let (result, ()) = tokio::join!(world.sync(), async {
        tokio::time::sleep(Duration::from_millis(1000)).await;
        // Back to where it was: the stale target is stale no more.
        world.dns.set_a("db.test", &["10.0.1.9"]);
    });
    result.unwrap();
    // The other one was registered moments ago, and DNS may flap: rule 16.
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432", "10.0.1.10:5432"]));
    let deregistered = world.aws.calls_of("DeregisterTargets");
    assert!(deregistered.iter().flat_map(|call| &call.targets).all(|target| target.id != "10.0.1.9"));
}

#[tokio::test]
async fn rule_09_parallel_invocations_with_different_answers_leave_what_dns_gives_last() {
    let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9", "10.0.1.10"]).await;
    world.aws.tolerate(TWICE);
    // What one run deregisters is carried out after the other has listed the targets.
    world.aws.fault(Fault::on("DeregisterTargets", FaultKind::Latency(Duration::from_millis(1000))).times(1));
    let (first, second) = tokio::join!(world.sync(), async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        world.dns.set_a("db.test", &["10.0.1.10"]);
        world.sync().await
    });
    first.unwrap();
    second.unwrap();
    assert!(world.aws.registered(&arn).contains("10.0.1.10:5432"), "{:?}", world.aws.targets(&arn));
}

#[tokio::test]
async fn rule_09_parallel_invocations_end_where_one_would() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11"], &["10.0.1.8", "10.0.1.9"]).await;
    world.aws.tolerate(TWICE);
    let (first, second, third) = tokio::join!(world.sync(), world.sync(), world.sync());
    for result in [first, second, third] {
        result.unwrap();
    }
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432", "10.0.1.11:5432"]));
}

/// Three groups, of which the first is `slow.test`'s.
async fn three_groups() -> (World, Vec<String>) {
    let world = World::new().await;
    let mut bindings = Vec::new();
    let mut arns = Vec::new();
    for (name, address) in [("slow", "10.0.1.1"), ("second", "10.0.1.2"), ("third", "10.0.1.3")] {
        world.dns.set_a(&format!("{name}.test"), &[address]);
        let arn = world.aws.create_target_group(TargetGroup::new(name));
        bindings.push(binding(&format!("{name}.test"), &arn));
        arns.push(arn);
    }
    (world.set("BINDINGS", Value::from(bindings)), arns)
}

#[tokio::test]
async fn rule_10_a_group_that_hangs_spoils_no_other_and_the_reply_goes_out_in_time() {
    for action in ["DescribeTargetGroups", "DescribeTargetHealth", "RegisterTargets"] {
        let (world, arns) = three_groups().await;
        world.aws.fault(Fault::on(action, FaultKind::Hang).arn(&arns[0]));
        let function = world.function().await;
        let time = Duration::from_secs(4);
        let result = tokio::time::timeout(time, invoke_within(&function, json!({}), time)).await;
        let message = result.expect("the reply has to go out before the deadline").unwrap_err().to_string();
        assert!(message.contains("slow.test") && message.contains(&arns[0]), "{message}");
        assert!(message.contains(&format!("waiting for {action}")), "{message}");
        assert!(!message.contains("second.test"), "{message}");
        assert_eq!(world.aws.registered(&arns[1]), set(&["10.0.1.2:5432"]));
        assert_eq!(world.aws.registered(&arns[2]), set(&["10.0.1.3:5432"]));
        assert_eq!(world.sum("Failures"), 1.0, "metrics are sent");
    }
}

#[tokio::test]
async fn rule_10_a_tag_call_that_hangs_spoils_no_other_group_and_the_reply_goes_out_in_time() {
    let checks = ["DescribeTags", "AddTags", "RemoveTags", "DeregisterTargets"].map(async |action| {
        let (world, arns) = three_groups().await;
        let slow = json!({"hostname": "slow.test", "target_group_arn": arns[0], "ownership": "shared"});
        let others = [("second.test", &arns[1]), ("third.test", &arns[2])].map(|(name, arn)| binding(name, arn));
        let world = world.set("BINDINGS", Value::from([&[slow], &others[..]].concat()));
        world.aws.add_target(&arns[0], "10.0.1.9:5432", "healthy");
        world.aws.set_tag(&arns[0], "nlb-hostname-targets:owned/10.0.1.9_5432/", "used");
        world.aws.set_tag(&arns[0], "nlb-hostname-targets:owned/10.0.1.8_5432/", "1700000000.000");
        world.aws.fault(Fault::on(action, FaultKind::Hang));
        let function = world.function().await;
        let time = Duration::from_secs(5);
        let result = tokio::time::timeout(time, invoke_within(&function, json!({}), time)).await;
        let message = result.expect("the reply has to go out before the deadline").unwrap_err().to_string();
        assert!(message.starts_with("1 of 3") && message.contains("slow.test"), "{message}");
        assert!(message.contains(&format!("waiting for {action}")), "{message}");
        assert_eq!(world.aws.registered(&arns[1]), set(&["10.0.1.2:5432"]));
        assert_eq!(world.aws.registered(&arns[2]), set(&["10.0.1.3:5432"]));
        assert_eq!(world.sum("Failures"), 1.0, "metrics are sent");
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn rule_18_tags_that_nobody_needs_fail_no_run_where_they_hang_until_the_deadline() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::on("DescribeTags", FaultKind::Hang));
    let reply = invoke_within(&world.function().await, json!({}), Duration::from_secs(3)).await.unwrap();
    assert_eq!(reply["groups"][0]["outcome"], "changed");
    assert_eq!((world.count("DescribeTags"), world.aws.registered(&arn)), (1, set(&["10.0.1.10:5432"])));
}

#[tokio::test]
async fn rule_10_many_groups_that_hang_hold_up_no_other() {
    let (world, arns) = fleet(100).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 0);
    let (hanging, others) = arns.split_at(40);
    for arn in hanging {
        world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::Hang).arn(arn));
    }
    let function = world.function().await;
    let message = invoke_within(&function, json!({}), Duration::from_secs(15)).await.unwrap_err().to_string();
    assert!(message.starts_with("40 of 100 target groups failed"), "{message}");
    assert!(others.iter().all(|arn| !message.contains(arn)), "{message}");
}

#[tokio::test]
async fn rule_10_a_name_that_hangs_spoils_no_other_group() {
    let (world, arns) = three_groups().await;
    world.dns.set_reply("slow.test", RecordType::A, Reply::Silent);
    let function = world.function().await;
    let time = Duration::from_secs(4);
    let result = tokio::time::timeout(time, invoke_within(&function, json!({}), time)).await;
    let message = result.expect("the reply has to go out before the deadline").unwrap_err().to_string();
    assert!(message.contains("slow.test: time-out"), "{message}");
    assert_eq!(world.aws.registered(&arns[1]), set(&["10.0.1.2:5432"]));
}

#[tokio::test]
async fn rule_10_a_group_that_fails_or_is_throttled_spoils_no_other() {
    for kind in [FaultKind::throttling(), FaultKind::error(403, "AccessDenied", "no")] {
        let (world, arns) = three_groups().await;
        world.aws.fault(Fault::any(kind).arn(&arns[0]));
        let message = world.failure(json!({})).await;
        assert!(message.starts_with("1 of 3 target groups failed"), "{message}");
        assert_eq!(world.aws.registered(&arns[1]), set(&["10.0.1.2:5432"]));
        assert_eq!(world.aws.registered(&arns[2]), set(&["10.0.1.3:5432"]));
    }
}

#[tokio::test]
async fn rule_09_what_aws_did_although_its_reply_was_lost_is_done_once() {
    for action in ["RegisterTargets", "DeregisterTargets"] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.tolerate(TWICE);
        world.aws.fault(Fault::on(action, FaultKind::ResetAfter).times(1));
        let group = world.sync().await.unwrap();
        assert_eq!(group["registered"], json!(["10.0.1.10:5432"]), "{action}");
        assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]), "{action}");
        assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]), "{action}");
    }
}

#[tokio::test]
async fn rule_10_a_passing_fault_of_aws_is_retried() {
    let faults = [
        FaultKind::throttling(),
        FaultKind::error(400, "Throttling", "Rate exceeded"),
        FaultKind::error(500, "HealthUnavailable", "not now"),
        FaultKind::body(503, "<html>Service Unavailable</html>"),
        FaultKind::ResetBefore,
    ];
    for fault in faults {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.fault(Fault::on("DescribeTargetHealth", fault.clone()).times(2));
        world.sync().await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
    }
}

#[tokio::test]
async fn rule_10_a_reply_that_cannot_be_read_changes_nothing() {
    for body in ["", "no xml", "<html></html>", "<a><b></a>"] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::body(200, body)));
        let message = world.failure(json!({})).await;
        assert!(message.contains("DescribeTargetHealth") && message.contains("can't be read"), "{body}: {message}");
        assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432"]));
    }
}

#[tokio::test]
async fn rule_01_a_reply_that_is_not_of_elb_is_no_registration() {
    // As a proxy or a captive portal in between answers, whatever it is asked.
    for body in ["", "no xml", "<html></html>", "<RegisterTargetsResponse><RegisterTargetsResult/>"] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.fault(Fault::on("RegisterTargets", FaultKind::body(200, body)));
        let message = world.failure(json!({})).await;
        assert!(message.contains("RegisterTargets") && message.contains("can't be read"), "{body}: {message}");
        assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432"]), "{body}");
    }
}

#[tokio::test]
async fn rule_10_a_dead_endpoint_is_reported_before_the_deadline() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::any(FaultKind::Hang));
    let message = world.failure(json!({})).await;
    assert!(message.contains("no reply in time") && message.contains("DescribeTarget"), "{message}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.9:5432"]));
}

#[tokio::test]
async fn rule_11_metrics_that_cannot_be_sent_never_fail_a_sync() {
    for kind in [FaultKind::error(403, "AccessDenied", "no"), FaultKind::Hang, FaultKind::ResetBefore] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
        world.aws.fault(Fault::on("PutMetricData", kind));
        let function = world.function().await;
        let time = Duration::from_secs(4);
        let reply = tokio::time::timeout(time, invoke_within(&function, json!({}), time)).await;
        assert_eq!(reply.expect("in time").unwrap()["groups"][0]["outcome"], "changed");
        assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]));
    }
}

/// `count` groups named g00, g01 …, each in step with 10.0.1.N.
async fn fleet(count: u8) -> (World, Vec<String>) {
    let world = World::new().await;
    let mut bindings = Vec::new();
    let mut arns = Vec::new();
    for number in 0..count {
        let name = format!("g{number:02}");
        let address = format!("10.0.1.{number}");
        world.dns.set_a(&format!("{name}.test"), &[&address]);
        let arn = world.aws.create_target_group(TargetGroup::new(&name));
        world.aws.add_target(&arn, &format!("{address}:5432"), "healthy");
        bindings.push(binding(&format!("{name}.test"), &arn));
        arns.push(arn);
    }
    (world.set("BINDINGS", Value::from(bindings)), arns)
}

#[tokio::test]
async fn rule_12_where_the_budget_does_not_suffice_changed_groups_go_first_and_the_rest_take_turns() {
    let (world, arns) = fleet(12).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 1);
    let function = world.function().await;
    let outcomes = |reply: &Value| -> Vec<String> {
        reply["groups"].as_array().unwrap().iter().map(|group| group["outcome"].as_str().unwrap().to_owned()).collect()
    };
    // Bursts of 4 s' worth: four requests at once, and one a second. A first look takes two.
    let first = invoke_within(&function, json!({}), Duration::from_secs(6)).await.unwrap();
    let verified = outcomes(&first).iter().filter(|outcome| *outcome == "in_sync").count();
    let deferred = outcomes(&first).iter().filter(|outcome| *outcome == "deferred").count();
    assert!(verified >= 2 && deferred >= 4 && verified + deferred == 12, "{:?}", outcomes(&first));
    let asked: BTreeSet<_> = world.dns.queries().into_iter().map(|query| query.name).collect();
    assert_eq!(asked.len(), 12, "all names are asked in every run");
    assert_eq!(world.sum("Failures"), 0.0);

    // What was looked at comes last now, except where its answer changed.
    let seen = outcomes(&first).iter().position(|outcome| outcome == "in_sync").unwrap();
    world.dns.set_a(&format!("g{seen:02}.test"), &["10.0.1.200"]);
    world.aws.clear_calls();
    let second = invoke_within(&function, json!({}), Duration::from_secs(8)).await.unwrap();
    assert_eq!(second["groups"][seen]["outcome"], "changed");
    assert_eq!(world.aws.registered(&arns[seen]), set(&["10.0.1.200:5432"]));
    assert_eq!(world.aws.calls_of("DescribeTargetHealth")[0].arn.as_deref(), Some(arns[seen].as_str()));
    for (position, outcome) in outcomes(&second).iter().enumerate() {
        let again = outcomes(&first)[position] == "in_sync" && position != seen;
        assert!(!(again && outcome == "in_sync"), "{position} had its turn already: {:?}", outcomes(&second));
    }
}

#[tokio::test]
async fn rule_12_a_change_goes_first_although_polling_had_no_turn_left_to_verify_the_group() {
    let (world, arns) = fleet(24).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 2).set("POLL_INTERVAL_SECONDS", 1);
    let function = world.function().await;
    invoke_within(&function, json!({}), Duration::from_secs(10)).await.unwrap();
    let described: Vec<_> =
        world.aws.calls_of("DescribeTargetHealth").into_iter().filter_map(|call| call.arn).collect();
    assert!(described.len() > 12 && !arns.iter().all(|arn| described.contains(arn)), "{described:?}");
    let once = |arn: &&String| described.iter().filter(|other| other == arn).count() == 1;
    let unverified = described.iter().rfind(once).unwrap();
    let position = arns.iter().position(|arn| arn == unverified).unwrap();
    world.dns.set_a(&format!("g{position:02}.test"), &["10.0.1.200"]);
    let reply = invoke_within(&function, json!({}), Duration::from_secs(10)).await.unwrap();
    assert_eq!(reply["groups"][position]["outcome"], "changed");
}

#[tokio::test]
async fn rule_12_a_failed_name_of_a_group_that_is_put_off_is_still_reported() {
    let (world, _) = fleet(8).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 1);
    let function = world.function().await;
    for _ in 0..6 {
        invoke_within(&function, json!({}), Duration::from_secs(8)).await.unwrap();
    }
    for number in 0..8 {
        world.dns.set_reply(&format!("g{number:02}.test"), RecordType::A, Reply::ServFail);
    }
    let message = invoke_within(&function, json!({}), Duration::from_secs(4)).await.unwrap_err().to_string();
    assert!(message.starts_with("8 of 8"), "{message}");
}

#[tokio::test]
async fn rule_12_where_all_groups_change_at_once_all_are_brought_in_step() {
    let (world, arns) = fleet(20).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 4);
    for number in 0..20 {
        world.dns.set_a(&format!("g{number:02}.test"), &[&format!("10.0.2.{number}")]);
    }
    // 20 × 4 requests, of which 16 go out at once: 16 s.
    let function = world.function().await;
    let reply = invoke_within(&function, json!({}), Duration::from_secs(40)).await.unwrap();
    for (number, arn) in arns.iter().enumerate() {
        assert_eq!(reply["groups"][number]["outcome"], "changed");
        assert_eq!(world.aws.registered(arn), set(&[&format!("10.0.2.{number}:5432")]));
    }
    assert_eq!(world.aws.calls_of("RegisterTargets").len(), 20);
    assert_eq!(world.aws.calls_of("DeregisterTargets").len(), 20);
    let calls = world.aws.calls();
    let requests: Vec<_> = calls.iter().filter(|call| call.action != "PutMetricData").map(|call| call.at).collect();
    for (count, at) in requests.iter().enumerate() {
        let allowed = 16.0 + 4.0 * (*at - requests[0]).as_secs_f64();
        assert!((count as f64) < allowed + 1.0, "request {count} came too soon");
    }
}

#[tokio::test]
async fn rule_12_groups_that_always_fail_take_turns_with_the_others() {
    let (world, arns) = fleet(8).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 1);
    for number in 0..4 {
        world.dns.set_reply(&format!("g{number:02}.test"), RecordType::A, Reply::ServFail);
    }
    let function = world.function().await;
    for _ in 0..4 {
        invoke_within(&function, json!({}), Duration::from_secs(8)).await.unwrap_err();
    }
    let looked_at: BTreeSet<_> =
        world.aws.calls_of("DescribeTargetHealth").into_iter().filter_map(|call| call.arn).collect();
    assert_eq!(looked_at, arns.into_iter().collect());
}

#[tokio::test]
async fn rule_12_a_failed_name_is_reported_although_its_group_was_never_looked_at() {
    let (world, arns) = fleet(12).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 1);
    world.dns.set_reply("g11.test", RecordType::A, Reply::ServFail);
    let function = world.function().await;
    let message = invoke_within(&function, json!({}), Duration::from_secs(6)).await.unwrap_err().to_string();
    assert!(message.starts_with("1 of 12") && message.contains("g11.test: SERVFAIL"), "{message}");
    drop(arns);
}

#[tokio::test]
async fn rule_12_a_dead_name_server_makes_no_failure_of_a_group_that_is_put_off() {
    let (world, _) = fleet(12).await;
    let dead = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let servers = [dead.local_addr().unwrap(), world.dns.address()];
    let world = world.dns_servers(&servers).set("ELB_REQUESTS_PER_SECOND", 1);
    let function = world.function().await;
    for _ in 0..3 {
        let reply = invoke_within(&function, json!({}), Duration::from_secs(12)).await.unwrap();
        let groups = reply["groups"].as_array().unwrap();
        assert!(groups.iter().any(|group| group["outcome"] == "in_sync"), "{reply}");
    }
}

#[tokio::test]
async fn rule_12_a_limit_of_0_is_none() {
    let (world, _) = fleet(60).await;
    let reply = world.set("ELB_REQUESTS_PER_SECOND", 0).run(json!({})).await.unwrap();
    assert!(reply["groups"].as_array().unwrap().iter().all(|group| group["outcome"] == "in_sync"));
}

#[tokio::test]
async fn rule_13_a_steady_run_is_one_query_one_describe_and_one_put() {
    let (world, _) = World::with_database(&["10.0.1.10"], &["10.0.1.10"]).await;
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.aws.calls_of("DescribeTargetGroups").len(), 1);
    world.aws.clear_calls();
    world.dns.clear_queries();
    invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.actions(), ["DescribeTargetHealth", "PutMetricData"]);
    assert_eq!(world.dns.queries().len(), 1);
}

#[tokio::test]
async fn rule_13_dns_and_describe_target_health_are_asked_at_the_same_time() {
    let (world, _) = World::with_database(&["10.0.1.10"], &["10.0.1.10"]).await;
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    world.aws.clear_calls();
    world.dns.clear_queries();
    // Both wait for half a second, so the second one is asked before the first one has answered.
    let pause = Duration::from_millis(500);
    world.dns.set_reply("db.test", RecordType::A, Reply::addresses(&["10.0.1.10"]).delayed(pause));
    world.aws.set_latency(pause);
    invoke(&function, json!({})).await.unwrap();
    let described = world.aws.calls_of("DescribeTargetHealth")[0].at.into_std();
    let queried = world.dns.queries()[0].at;
    let apart = described.max(queried) - described.min(queried);
    assert!(apart < pause, "{apart:?}");
}

#[tokio::test]
async fn rule_18_what_aws_refuses_as_expired_is_signed_and_sent_once_more() {
    let refusals = [
        (403, "SignatureDoesNotMatch", "Signature expired: 20261130T100000Z is now earlier than 20261130T100500Z"),
        (403, "InvalidSignatureException", "Signature expired: 20261130T100000Z is now earlier than 20261130T100500Z"),
        (400, "RequestExpired", "Request has expired. Timestamp date is 2026-11-30T10:00:00Z"),
        (403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large"),
        (403, "ExpiredToken", "The security token included in the request is expired"),
        (400, "ExpiredTokenException", "The security token included in the request is expired"),
    ];
    let actions = [
        "DescribeTargetGroups",
        "DescribeTargetHealth",
        "RegisterTargets",
        "DeregisterTargets",
        "GetResources",
        "PutMetricData",
    ];
    for (status, code, message) in refusals {
        let world = World::new().await.set("DISCOVERY", "tags");
        world.dns.set_a("db.test", &["10.0.1.10"]);
        let arn = world.aws.create_target_group(TargetGroup::new("db"));
        world.aws.add_target(&arn, "10.0.1.9:5432", "healthy");
        world.aws.set_tag(&arn, "nlb-hostname-targets:hostname", "db.test");
        for action in actions {
            world.aws.fault(Fault::on(action, FaultKind::error(status, code, message)).times(1));
        }
        assert_eq!(world.sync().await.unwrap()["outcome"], "changed", "{code}");
        assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432"]), "{code}");
        let calls = actions.map(|action| world.count(action));
        assert_eq!((calls[0], calls[2..].to_vec()), (2, vec![2; 4]), "{code}");
        assert_eq!(world.metric("Registrations"), Some(1.0), "{code}");
    }
    // A wrong key stays wrong.
    let (world, _) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    let wrong = FaultKind::error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match");
    world.aws.fault(Fault::on("DescribeTargetHealth", wrong));
    assert!(world.failure(json!({})).await.contains("SignatureDoesNotMatch"));
    assert_eq!(world.count("DescribeTargetHealth"), 1);
}
