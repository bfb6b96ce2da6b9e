//! The contract's rules of behaviour, by their numbers, as far as only sockets show them: one scene for each. What is
//! decided is held by the core's tests, what AWS and name servers get wrong by the fault matrix.

use std::{collections::BTreeSet, time::Duration};

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use support::{
    World,
    aws::{Fault, FaultKind, TWICE, TargetGroup},
    binding, binding_with,
    dns::{FakeDns, Reply, cname, record},
    invoke, invoke_within, set, targets,
};
use tokio::{join, time::sleep};

#[tokio::test]
async fn rule_01_registers_first_and_deregisters_after() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[10]));
    assert_eq!(world.writes(), ["RegisterTargets", "DeregisterTargets"]);
}

#[tokio::test]
async fn rule_01_a_full_group_is_never_emptied_and_room_is_waited_for_in_later_runs() {
    let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11"], &["10.0.1.8", "10.0.1.9"]).await;
    world.aws.reconfigure(&arn, |group| (group.quota, group.draining_counts) = (2, true));
    let mut messages = Vec::new();
    // In each second run the targets drain.
    for run in 0..8 {
        messages.extend(world.sync().await.err().map(|error| error.to_string()));
        assert!(!world.aws.registered(&arn).is_empty());
        if run % 2 == 1 {
            world.aws.finish_draining(&arn);
        }
    }
    assert_eq!(world.aws.registered(&arn), targets(&[10, 11]), "{messages:?}");
    let words = ["wait for room", "are draining", "Targets per Target Group", "TooManyTargets"];
    assert!(words.iter().all(|word| messages[0].contains(word)), "{messages:?}");
}

#[tokio::test]
async fn rule_03_the_states_of_targets_are_read() {
    let states = ["initial", "healthy", "unhealthy", "unhealthy.draining", "unused", "unavailable", "draining"];
    for state in states {
        let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
        ["10.0.1.9", "10.0.1.10"].iter().for_each(|target| world.aws.add_target(&arn, target, state));
        let group = world.sync().await.unwrap();
        // Of one that was registered moments ago, DNS may come back to it: rule 16.
        let gone = if ["draining", "initial"].contains(&state) { json!([]) } else { json!(["10.0.1.9:5432"]) };
        let new = if state == "draining" { json!(["10.0.1.10:5432"]) } else { json!([]) };
        assert_eq!((&group["registered"], &group["deregistered"]), (&new, &gone), "{state}");
    }
}

#[tokio::test]
async fn rule_04_a_target_is_an_address_and_a_port() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.10"]).await;
    world.aws.add_target(&arn, "10.0.1.10:6000", "healthy");
    assert_eq!(world.sync().await.unwrap()["deregistered"], json!(["10.0.1.10:6000"]));
    let world = world.set("BINDINGS", json!([binding_with("db.test", &arn, &json!({"port": 6432}))]));
    assert_eq!(world.sync().await.unwrap()["deregistered"], json!(["10.0.1.10:5432"]));
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:6432"]));
}

#[tokio::test]
async fn rule_05_the_availability_zone_is_left_out_first_and_all_where_aws_wants_it() {
    // Outside the VPC, and inside one of its networks but in no subnet: two messages.
    for outside in ["10.9.9.", "10.1.0."] {
        let all: Vec<_> = (1..=6).map(|host| format!("{outside}{host}")).chain(["10.0.1.10".to_owned()]).collect();
        let all: Vec<_> = all.iter().map(String::as_str).collect();
        let (world, arn) = World::with_database(&all, &["10.0.1.9"]).await;
        world.aws.reconfigure(&arn, |group| group.vpc_cidrs = &["10.0.0.0/16", "10.1.0.0/16"]);
        world.sync().await.unwrap();
        assert_eq!(world.aws.registered(&arn), all.iter().map(|address| format!("{address}:5432")).collect());
        let calls = world.aws.calls_of("RegisterTargets");
        assert!(calls[0].targets.iter().all(|target| target.az.is_none()), "{calls:?}");
        for target in calls.iter().flat_map(|call| &call.targets).filter(|target| target.az.is_some()) {
            assert!(target.id.starts_with(outside) && target.az.as_deref() == Some("all"), "{target:?}");
        }
        // And they go again.
        world.dns.set_a("db.test", &["10.0.1.10"]);
        world.sync().await.unwrap();
        assert_eq!(world.aws.registered(&arn), targets(&[10]));
    }
}

#[tokio::test]
async fn rule_05_one_refused_target_keeps_no_other_out_and_no_stale_one_in() {
    for names_it in [true, false] {
        let addresses: Vec<_> = (10..17).map(|host| format!("10.0.1.{host}")).collect();
        let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
        let (world, arn) = World::with_database(&addresses, &["10.0.1.9"]).await;
        if names_it {
            world.aws.refuse_target(&arn, "10.0.1.13");
        } else {
            // All together, and then the first by itself.
            let refusal = FaultKind::error(400, "InvalidTarget", "a target is not valid");
            world.aws.fault(Fault::on("RegisterTargets", refusal).times(2));
        }
        let message = world.failure(json!({})).await;
        let refused = if names_it { 13 } else { 10 };
        assert!(message.contains(&format!("RegisterTargets refused 10.0.1.{refused}:5432")), "{message}");
        let others: Vec<_> = (10..17).filter(|host| *host != refused).collect();
        assert_eq!(world.aws.registered(&arn), targets(&others));
        assert_eq!(world.metric("RefusedAddresses"), Some(1.0));
    }
}

#[tokio::test]
async fn rule_06_an_address_that_may_be_no_target_is_never_sent() {
    let never = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "255.255.255.255"];
    let never6 = ["::1", "fe80::1", "ff02::1", "::", "::ffff:127.0.0.1", "::ffff:169.254.169.254"];
    let public = ["db.test", "54.1.2.3", "publicly accessible", "must run in that VPC", "state ALLOWED_CIDRS"];
    let rows: [(Option<&str>, &[&str], &[&str]); 5] = [
        (None, &["54.1.2.3"], &public),
        (Some("10.0.1.0/24, 192.168.0.0/16"), &["10.0.2.10", "10.0.2.11"], &["10.0.2.10", "10.0.1.0/24"]),
        (Some("0.0.0.0/0"), &never, &never),
        (Some("::/0"), &never6, &["::1", "fe80::1", "ff02::1"]),
        (Some("::/0"), &["64:ff9b::a00:10a"], &["64:ff9b::a00:10a", "DNS64"]),
    ];
    for (allowed, addresses, words) in rows {
        let ipv6 = addresses[0].contains(':');
        let world = World::new().await;
        let record_type = if ipv6 { RecordType::AAAA } else { RecordType::A };
        world.dns.set_reply("db.test", record_type, Reply::addresses(addresses));
        let arn = world.aws.create_target_group(TargetGroup { ipv6, ..TargetGroup::new("db") });
        world.aws.add_target(&arn, if ipv6 { "fd00::9" } else { "10.0.1.9" }, "healthy");
        let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
        let world = world.set("ALLOWED_CIDRS", allowed.unwrap_or_default());
        let message = world.failure(json!({})).await;
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        assert_eq!(message.contains("publicly accessible"), allowed.is_none(), "{message}");
        // The list is not repeated for each address.
        assert!(message.matches("192.168.0.0/16").count() <= 1, "{message}");
        assert_eq!(world.writes(), [""; 0], "{message}");
    }
    // Beside one that may, it fails nothing; and one that is registered already is not touched.
    let (world, arn) = World::with_database(&["10.0.1.10", "54.1.2.3", "54.1.2.4"], &["10.0.1.9", "54.1.2.4"]).await;
    let group = world.sync().await.unwrap();
    assert_eq!(group["resolved"], json!(["10.0.1.10"]));
    assert_eq!(group["refused"][0]["address"], "54.1.2.3");
    assert!(group["refused"][0]["reason"].as_str().unwrap().contains("ALLOWED_CIDRS"), "{group}");
    assert_eq!(world.aws.registered(&arn), set(&["10.0.1.10:5432", "54.1.2.4:5432"]));
    assert_eq!(world.metric("RefusedAddresses"), Some(2.0));
}

#[tokio::test]
async fn rule_07_an_ipv6_group_asks_for_aaaa() {
    let world = World::new().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    world.dns.set_aaaa("db.test", &["fd00::10", "2600:1f18:1:100::5"]);
    let arn = world.aws.create_target_group(TargetGroup { ipv6: true, ..TargetGroup::new("db6") });
    let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
    let group = world.sync().await.unwrap();
    assert_eq!(group["resolved"], json!(["2600:1f18:1:100::5", "fd00::10"]));
    assert_eq!(group["registered"], json!(["[2600:1f18:1:100::5]:5432", "[fd00::10]:5432"]));
    assert!(world.dns.queries().iter().all(|query| query.record_type == RecordType::AAAA));
}

#[tokio::test]
async fn rule_07_a_cname_chain_is_followed_and_a_record_of_another_owner_ignored() {
    let (world, arn) = World::with_database(&[], &[]).await;
    let ip = |last| std::net::Ipv4Addr::new(10, 0, 1, last);
    world.dns.set_cname("db.test", "a.test");
    world.dns.set_cname("a.test", "B.test");
    world.dns.set_a("b.test", &["10.0.1.10"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[10]));
    // A CNAME alone, and an address beside which there is one of another name.
    world.dns.set_reply("db.test", RecordType::A, Reply::Records(vec![cname("db.test", 5, "b.test")]));
    let records = vec![record("b.test", 5, ip(11)), record("evil.test", 5, ip(66))];
    world.dns.set_reply("b.test", RecordType::A, Reply::Records(records));
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[11]));
}

#[tokio::test]
async fn rule_07_a_group_that_is_not_of_type_ip_is_refused() {
    for (target_type, registered) in [("instance", "i-0123:80"), ("lambda", "arn:aws:lambda:x"), ("alb", "arn:aws:x")] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
        world.aws.reconfigure(&arn, |group| group.target_type = target_type);
        world.aws.add_target(&arn, registered, "healthy");
        let message = world.failure(json!({})).await;
        assert!(message.contains(&format!("target type `{target_type}`")) && message.contains("`ip`"), "{message}");
        assert_eq!(world.writes(), [""; 0]);
    }
}

#[tokio::test]
async fn rule_08_a_group_that_needs_no_state_has_no_tag_written_and_none_read_but_at_first() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.set_tag(&arn, "team", "data");
    let function = world.function().await;
    // Which names rotate is read with the facts.
    for (address, reads) in [("10.0.1.10", 1), ("10.0.1.11", 0)] {
        world.aws.clear_calls();
        world.dns.set_a("db.test", &[address]);
        invoke(&function, json!({})).await.unwrap();
        assert_eq!(world.writes(), ["RegisterTargets", "DeregisterTargets"]);
        assert_eq!(world.count("DescribeTags"), reads);
    }
}

#[tokio::test]
async fn rule_09_an_answer_that_is_old_when_the_targets_are_known_or_changed_is_asked_for_again() {
    for (action, given, registered) in [("DescribeTargetHealth", 11, &[11][..]), ("RegisterTargets", 9, &[9, 10])] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.reconfigure(&arn, |group| group.initial_for = Duration::from_secs(600));
        world.aws.fault(Fault::on(action, FaultKind::SlowReply(Duration::from_millis(2500))).times(1));
        let moves = async {
            while world.count(action) == 0 {
                sleep(Duration::from_millis(20)).await;
            }
            world.dns.set_a("db.test", &[&format!("10.0.1.{given}")]);
        };
        let (group, ()) = join!(world.sync(), moves);
        group.unwrap();
        assert_eq!(world.aws.registered(&arn), targets(registered), "{action}: {:?}", world.actions());
        let gone = world.aws.calls_of("DeregisterTargets").into_iter().flat_map(|call| call.targets);
        assert!(gone.into_iter().all(|target| target.id != format!("10.0.1.{given}")), "{action}");
    }
}

#[tokio::test]
async fn rule_09_parallel_invocations_and_lost_replies_end_where_one_run_would() {
    for struck in ["RegisterTargets", "DeregisterTargets", "nothing"] {
        let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11"], &["10.0.1.8", "10.0.1.9"]).await;
        world.aws.tolerate(TWICE);
        world.aws.fault(Fault::on(struck, FaultKind::ResetAfter).times(1));
        let (first, second, third) = join!(world.sync(), world.sync(), world.sync());
        first.and(second).and(third).unwrap();
        assert_eq!(world.aws.registered(&arn), targets(&[10, 11]));
    }
}

#[tokio::test]
async fn rule_09_two_runs_at_once_with_different_answers_leave_no_group_empty() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9", "10.0.1.10"]).await;
    world.aws.tolerate(TWICE);
    // The name server of the second run still gives the old address.
    let old = FakeDns::start().await;
    old.set_a("db.test", &["10.0.1.9"]);
    let (first, second) = (world.function().await, world.function_with(&[old.address()]).await);
    let (one, other) = join!(invoke(&first, json!({})), invoke(&second, json!({})));
    one.and(other).unwrap();
    assert_ne!(world.aws.registered(&arn), BTreeSet::new(), "{:?}", world.actions());
    // A run that knows the name as it is repairs it all.
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[10]));
}

/// So many groups g00, g01 …, each in step with an address of its own.
async fn fleet(count: u8, requests_per_second: u32) -> (World, Vec<String>) {
    let world = World::new().await.set("ELB_REQUESTS_PER_SECOND", requests_per_second);
    let groups = (0..count).map(|number| {
        let (hostname, address) = (format!("g{number:02}.test"), format!("10.0.1.{number}"));
        world.dns.set_a(&hostname, &[&address]);
        let arn = world.aws.create_target_group(TargetGroup::new(&hostname[..3]));
        world.aws.add_target(&arn, &address, "healthy");
        (binding(&hostname, &arn), arn)
    });
    let (bindings, arns): (Vec<_>, Vec<_>) = groups.unzip();
    (world.set("BINDINGS", Value::from(bindings)), arns)
}

fn outcomes(reply: &Value) -> Vec<&str> {
    reply["groups"].as_array().unwrap().iter().map(|group| group["outcome"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn rule_10_many_groups_that_hang_hold_up_no_other() {
    let (world, arns) = fleet(60, 0).await;
    let (hanging, others) = arns.split_at(40);
    hanging.iter().for_each(|arn| world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::Hang).arn(arn)));
    let function = world.function().await;
    let message = invoke_within(&function, json!({}), Duration::from_secs(15)).await.unwrap_err().to_string();
    assert!(message.starts_with("40 of 60 target groups failed"), "{message}");
    assert!(others.iter().all(|arn| !message.contains(arn)), "{message}");
}

#[tokio::test]
async fn rule_10_what_can_not_be_read_changes_nothing() {
    // A proxy or a captive portal in between answers whatever it is asked.
    let bodies = ["", "no xml", "<html></html>", "<a><b></a>", "<RegisterTargetsResponse><RegisterTargetsResult/>"];
    for (action, body) in
        bodies.into_iter().flat_map(|body| [("DescribeTargetHealth", body), ("RegisterTargets", body)])
    {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.fault(Fault::on(action, FaultKind::body(200, body)));
        let message = world.failure(json!({})).await;
        assert!(message.contains(action) && message.contains("can't be read"), "{body}: {message}");
        assert_eq!((world.aws.registered(&arn), world.count("DeregisterTargets")), (targets(&[9]), 0));
    }
}

#[tokio::test]
async fn rule_12_where_the_budget_does_not_suffice_changed_groups_go_first_and_the_rest_take_turns() {
    let (world, arns) = fleet(12, 1).await;
    let function = world.function().await;
    // Bursts of 4 s' worth: four requests at once, and one a second.
    let first = invoke_within(&function, json!({}), Duration::from_secs(6)).await.unwrap();
    let of = |outcome| outcomes(&first).into_iter().filter(|other| *other == outcome).count();
    assert!(of("in_sync") >= 2 && of("deferred") >= 4 && of("in_sync") + of("deferred") == 12, "{first}");
    let asked: BTreeSet<_> = world.dns.queries().into_iter().map(|query| query.name).collect();
    assert_eq!(asked.len(), 12, "all names are asked in every run");
    assert_eq!(world.sum("Failures"), 0.0);

    // What was looked at comes last now, except where its answer changed.
    let seen = outcomes(&first).iter().position(|outcome| *outcome == "in_sync").unwrap();
    world.dns.set_a(&format!("g{seen:02}.test"), &["10.0.1.200"]);
    world.aws.clear_calls();
    let second = invoke_within(&function, json!({}), Duration::from_secs(8)).await.unwrap();
    assert_eq!(second["groups"][seen]["outcome"], "changed");
    assert_eq!(world.aws.registered(&arns[seen]), targets(&[200]));
    assert_eq!(world.aws.calls_of("DescribeTargetHealth")[0].arn.as_deref(), Some(arns[seen].as_str()));
    for (position, (before, now)) in outcomes(&first).into_iter().zip(outcomes(&second)).enumerate() {
        let has_turn_again = before == "in_sync" && now == "in_sync" && position != seen;
        assert!(!has_turn_again, "{position} had its turn already: {second}");
    }
}

#[tokio::test]
async fn rule_12_where_all_groups_change_at_once_all_are_brought_in_step() {
    let (world, arns) = fleet(20, 6).await;
    (0..20).for_each(|number| world.dns.set_a(&format!("g{number:02}.test"), &[&format!("10.0.1.{}", 100 + number)]));
    // 120 requests, of which 24 go out at once: 16 s.
    let reply = invoke_within(&world.function().await, json!({}), Duration::from_secs(40)).await.unwrap();
    assert_eq!(outcomes(&reply), ["changed"; 20]);
    for (number, arn) in (0..).zip(&arns) {
        assert_eq!(world.aws.registered(arn), targets(&[100 + number]));
    }
    assert_eq!((world.count("RegisterTargets"), world.count("DeregisterTargets")), (20, 20));
}

#[tokio::test]
async fn rule_12_polling_that_has_no_turn_left_for_a_group_fails_none() {
    let (world, arns) = fleet(24, 2).await;
    let world = world.set("POLL_INTERVAL_SECONDS", 1);
    let function = world.function().await;
    invoke_within(&function, json!({}), Duration::from_secs(10)).await.unwrap();
    // Of those that were looked at, the last one moves.
    let last = world.aws.calls_of("DescribeTargetHealth").pop().unwrap().arn.unwrap();
    let position = arns.iter().position(|arn| *arn == last).unwrap();
    world.dns.set_a(&format!("g{position:02}.test"), &["10.0.1.200"]);
    let reply = invoke_within(&function, json!({}), Duration::from_secs(10)).await.unwrap();
    assert_eq!(reply["groups"][position]["outcome"], "changed");
}

#[tokio::test]
async fn rule_12_a_name_that_fails_is_reported_though_its_group_is_put_off_and_takes_no_turn_away() {
    let (world, arns) = fleet(8, 1).await;
    (0..4).for_each(|number| world.dns.set_reply(&format!("g{number:02}.test"), RecordType::A, Reply::Refused));
    let function = world.function().await;
    for _ in 0..4 {
        let message = invoke_within(&function, json!({}), Duration::from_secs(8)).await.unwrap_err().to_string();
        assert!(message.starts_with("4 of 8") && message.contains("g03.test: REFUSED"), "{message}");
    }
    let looked_at = world.aws.calls_of("DescribeTargetHealth").into_iter().filter_map(|call| call.arn);
    assert_eq!(looked_at.collect::<BTreeSet<_>>(), arns.into_iter().collect());
}

#[tokio::test]
async fn rule_13_a_steady_run_is_one_query_one_describe_and_one_put_the_first_two_at_the_same_time() {
    let (world, _) = World::with_database(&["10.0.1.10"], &["10.0.1.10"]).await;
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.count("DescribeTargetGroups"), 1);
    world.aws.clear_calls();
    world.dns.clear_queries();
    // Each is asked before the other one has answered.
    let pause = Duration::from_millis(500);
    world.dns.set_reply("db.test", RecordType::A, Reply::addresses(&["10.0.1.10"]).delayed(pause));
    world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::Latency(pause)));
    invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.actions(), ["DescribeTargetHealth", "PutMetricData"]);
    let looks: BTreeSet<_> = world.dns.queries().into_iter().map(|query| query.id).collect();
    assert_eq!(looks.len(), 1);
    let queried = world.dns.queries()[0].at;
    let described = world.aws.calls_of("DescribeTargetHealth")[0].at.into_std();
    assert!(described < queried + pause && queried < described + pause);
}

#[tokio::test]
async fn rule_18_tags_that_nobody_needs_fail_no_run_where_they_hang_until_the_deadline() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::on("DescribeTags", FaultKind::Hang));
    let reply = invoke_within(&world.function().await, json!({}), Duration::from_secs(8)).await.unwrap();
    assert_eq!(reply["groups"][0]["outcome"], "changed");
    assert_eq!((world.count("DescribeTags"), world.aws.registered(&arn)), (1, targets(&[10])));
}
