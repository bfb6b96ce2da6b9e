//! The contract's rules of behaviour, by their numbers, over sockets. What is decided is held by the core's tests; here it is
//! shown that the function carries it out. Rule 8 and 15 are in removal.rs, 14, 16, 17 and most of 18 in production.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use nlb_hostname_targets::function::Function;
use serde_json::{Value, json};
use support::{
    World,
    aws::{Fault, FaultKind, TWICE, TargetGroup},
    binding,
    dns::{Reply, record},
    invoke, invoke_within, set, targets,
};
use tokio::{
    join,
    time::{sleep, timeout},
};

fn denied() -> FaultKind {
    FaultKind::error(403, "AccessDenied", "not authorized")
}

#[tokio::test]
async fn rule_01_registers_first_and_deregisters_after() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    let group = world.sync().await.unwrap();
    assert_eq!(group["outcome"], "changed");
    assert_eq!(group["registered"], json!(["10.0.1.10:5432"]));
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(world.aws.registered(&arn), targets(&[10]));
    assert_eq!(world.writes(), ["RegisterTargets", "DeregisterTargets"]);
}

#[tokio::test]
async fn rule_01_deregisters_nothing_where_the_registration_failed() {
    // A proxy or a captive portal in between answers whatever it is asked.
    let bodies = ["", "no xml", "<html></html>", "<RegisterTargetsResponse><RegisterTargetsResult/>"];
    let bodies = bodies.map(|body| (FaultKind::body(200, body), "can't be read"));
    for (fault, word) in [(denied(), "elasticloadbalancing:RegisterTargets")].into_iter().chain(bodies) {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.fault(Fault::on("RegisterTargets", fault));
        let message = world.failure(json!({})).await;
        for part in ["db.test", &arn, "RegisterTargets", word] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert_eq!((world.aws.registered(&arn), world.count("DeregisterTargets")), (targets(&[9]), 0));
    }
}

#[tokio::test]
async fn rule_01_a_full_group_is_never_emptied_and_room_is_waited_for_in_later_runs() {
    for draining_counts in [true, false] {
        let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11"], &["10.0.1.8", "10.0.1.9"]).await;
        world.aws.reconfigure(&arn, |group| group.quota(2).draining_counts(draining_counts));
        let mut messages = Vec::new();
        for _ in 0..4 {
            messages.extend(world.sync().await.map_err(|error| error.to_string()).err());
            assert!(!world.aws.registered(&arn).is_empty());
            // For a run in between, the targets drain.
            messages.extend(world.sync().await.map_err(|error| error.to_string()).err());
            world.aws.finish_draining(&arn);
        }
        assert_eq!(world.aws.registered(&arn), targets(&[10, 11]), "{messages:?}");
        let words = ["wait for room", "are draining", "Targets per Target Group", "TooManyTargets"];
        assert!(words.iter().all(|word| messages[0].contains(word)), "{messages:?}");
    }
}

#[tokio::test]
async fn rule_02_a_name_that_did_not_resolve_changes_nothing_and_its_siblings_are_still_registered() {
    let other = Reply::Records(vec![record("other.test", 5, Ipv4Addr::new(10, 0, 1, 66))]);
    let failures = [
        (Reply::NxDomain { negative_ttl: Some(1) }, "NXDOMAIN"),
        (Reply::NoData { negative_ttl: Some(1) }, "no data"),
        (Reply::NoData { negative_ttl: None }, "no data"),
        (Reply::ServFail, "SERVFAIL"),
        (Reply::Refused, "REFUSED"),
        (Reply::Silent, "time-out"),
        (other, "no data"),
    ];
    let checks = failures.into_iter().map(async |(reply, word)| {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.dns.set_reply("gone.test", RecordType::A, reply);
        let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("gone.test", &arn)]));
        let message = world.failure(json!({})).await;
        for part in [&format!("gone.test: {word}"), &arn, &world.dns.address().to_string()] {
            assert!(message.contains(part), "{part}: {message}");
        }
        assert!(!message.contains("db.test: "), "{message}");
        assert_eq!(world.aws.registered(&arn), targets(&[9, 10]), "{word}");
        assert_eq!((world.metric("Failures"), world.count("DeregisterTargets")), (Some(1.0), 0), "{word}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_03_a_draining_target_is_registered_again_and_never_deregistered_twice() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.add_target(&arn, "10.0.1.10:5432", "draining");
    // The emulation takes it for a violation to deregister what drains.
    for changes in [&["RegisterTargets", "DeregisterTargets"][..], &[]] {
        world.aws.clear_calls();
        world.sync().await.unwrap();
        assert_eq!(world.writes(), changes);
        assert_eq!(world.aws.registered(&arn), targets(&[10]));
    }
    for state in ["initial", "healthy", "unhealthy", "unhealthy.draining", "unused", "unavailable"] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
        ["10.0.1.9", "10.0.1.10"].iter().for_each(|target| world.aws.add_target(&arn, target, state));
        let group = world.sync().await.unwrap();
        // Of one that was registered moments ago, DNS may come back to it: rule 16.
        let gone = if state == "initial" { json!([]) } else { json!(["10.0.1.9:5432"]) };
        assert_eq!((&group["registered"], &group["deregistered"]), (&json!([]), &gone), "{state}");
    }
}

#[tokio::test]
async fn rule_04_a_target_is_an_address_and_a_port() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.10"]).await;
    world.aws.add_target(&arn, "10.0.1.10:6000", "healthy");
    assert_eq!(world.sync().await.unwrap()["deregistered"], json!(["10.0.1.10:6000"]));
    let world = world.set("BINDINGS", json!([{"hostname": "db.test", "target_group_arn": arn, "port": 6432}]));
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
        world.aws.reconfigure(&arn, |group| group.vpc_cidrs(&["10.0.0.0/16", "10.1.0.0/16"]));
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
        let addresses: Vec<_> = (10..30).map(|host| format!("10.0.1.{host}")).collect();
        let addresses: Vec<_> = addresses[..7].iter().map(String::as_str).collect();
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
        (Some("10.0.1.0/24, 192.168.0.0/16"), &["10.0.2.10"], &["10.0.2.10", "10.0.1.0/24"]),
        (Some("0.0.0.0/0"), &never, &never),
        (Some("::/0"), &never6, &["::1", "fe80::1", "ff02::1"]),
        (Some("::/0"), &["64:ff9b::a00:10a"], &["64:ff9b::a00:10a", "DNS64"]),
    ];
    for (allowed, addresses, words) in rows {
        let (world, _) = World::with_database(addresses, &[]).await;
        let mut spec = TargetGroup::new("db6");
        if addresses[0].contains(':') {
            world.dns.set_aaaa("db.test", addresses);
            spec = spec.ipv6();
        }
        let arn = world.aws.create_target_group(spec);
        world.aws.add_target(&arn, if addresses[0].contains(':') { "fd00::9" } else { "10.0.1.9" }, "healthy");
        let mut world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
        if let Some(allowed) = allowed {
            world = world.set("ALLOWED_CIDRS", allowed);
        }
        let message = world.failure(json!({})).await;
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
        assert_eq!(message.contains("publicly accessible"), allowed.is_none(), "{message}");
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
    let arn = world.aws.create_target_group(TargetGroup::new("db6").ipv6());
    let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
    let group = world.sync().await.unwrap();
    assert_eq!(group["resolved"], json!(["2600:1f18:1:100::5", "fd00::10"]));
    assert_eq!(group["registered"], json!(["[2600:1f18:1:100::5]:5432", "[fd00::10]:5432"]));
    assert!(world.dns.queries().iter().all(|query| query.record_type == RecordType::AAAA));
}

#[tokio::test]
async fn rule_07_a_cname_chain_is_followed_and_a_record_of_another_owner_ignored() {
    let (world, arn) = World::with_database(&[], &[]).await;
    world.dns.set_cname("db.test", "a.test");
    world.dns.set_cname("a.test", "B.test");
    world.dns.set_a("b.test", &["10.0.1.10"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[10]));
    world.dns.dangling("db.test");
    world.dns.set_a("b.test", &["10.0.1.11"]);
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[11]));
    let ip = |last| Ipv4Addr::new(10, 0, 1, last);
    let records = vec![record("db.test", 5, ip(12)), record("evil.test", 5, ip(66))];
    world.dns.set_reply("db.test", RecordType::A, Reply::Records(records));
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[12]));
}

#[tokio::test]
async fn rule_07_a_group_that_is_not_of_type_ip_is_refused() {
    for (target_type, registered) in [("instance", "i-0123:80"), ("lambda", "arn:aws:lambda:x"), ("alb", "arn:aws:x")] {
        let world = World::new().await;
        world.dns.set_a("db.test", &["10.0.1.10"]);
        let arn = world.aws.create_target_group(TargetGroup::new("web").target_type(target_type));
        world.aws.add_target(&arn, registered, "healthy");
        let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
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
        assert_eq!((world.count("DescribeTags"), world.aws.tags(&arn).len()), (reads, 1));
    }
}

#[tokio::test]
async fn rule_09_an_answer_that_is_old_when_the_targets_are_known_or_changed_is_asked_for_again() {
    for (action, given, registered) in [("DescribeTargetHealth", 11, &[11][..]), ("RegisterTargets", 9, &[9, 10])] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.reconfigure(&arn, |group| group.initial_for(Duration::from_secs(600)));
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
    let faults =
        ["RegisterTargets", "DeregisterTargets"].map(|action| Fault::on(action, FaultKind::ResetAfter).times(1));
    for fault in faults.map(Some).into_iter().chain([None]) {
        let (world, arn) = World::with_database(&["10.0.1.10", "10.0.1.11"], &["10.0.1.8", "10.0.1.9"]).await;
        world.aws.tolerate(TWICE);
        fault.into_iter().for_each(|fault| world.aws.fault(fault));
        let (first, second, third) = join!(world.sync(), world.sync(), world.sync());
        for result in [first, second, third] {
            result.unwrap();
        }
        assert_eq!(world.aws.registered(&arn), targets(&[10, 11]));
    }
}

/// Three groups, of which the first is `slow.test`'s and `shared`.
async fn three_groups() -> (World, Vec<String>) {
    let world = World::new().await;
    let names = ["slow", "second", "third"];
    let groups = names.into_iter().zip(1..).map(|(name, host)| {
        world.dns.set_a(&format!("{name}.test"), &[&format!("10.0.1.{host}")]);
        let arn = world.aws.create_target_group(TargetGroup::new(name));
        let mut binding = binding(&format!("{name}.test"), &arn);
        if name == "slow" {
            binding["ownership"] = json!("shared");
            world.aws.add_target(&arn, "10.0.1.9", "healthy");
            for host in [8, 9] {
                world.aws.set_tag(&arn, &format!("nlb-hostname-targets:owned/10.0.1.{host}_5432/"), "1763802000.250");
            }
        }
        (binding, arn)
    });
    let (bindings, arns): (Vec<_>, Vec<_>) = groups.unzip();
    (world.set("BINDINGS", Value::from(bindings)), arns)
}

/// The first group fails alone, before the deadline, and metrics are sent.
async fn only_the_first_fails(function: &Function, world: &World, arns: &[String], word: &str) {
    let time = Duration::from_secs(12);
    let result = timeout(time, invoke_within(function, json!({}), time)).await;
    let message = result.expect("the reply has to go out before the deadline").unwrap_err().to_string();
    assert!(message.starts_with("1 of 3 target groups failed"), "{word}: {message}");
    for part in ["slow.test", &arns[0], word] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(world.aws.registered(&arns[1]), targets(&[2]), "{word}");
    assert_eq!(world.aws.registered(&arns[2]), targets(&[3]), "{word}");
    assert_eq!(world.sum("Failures"), 1.0, "{word}");
}

#[tokio::test]
async fn rule_10_a_group_that_hangs_fails_or_is_throttled_spoils_no_other() {
    let actions = ["DescribeTargetGroups", "DescribeTargetHealth", "DescribeTags", "AddTags", "RegisterTargets"];
    let hanging = actions.into_iter().chain(["DeregisterTargets", "RemoveTags"]);
    let hanging = hanging.map(|action| (Some(Fault::on(action, FaultKind::Hang)), format!("waiting for {action}")));
    let failing = [(FaultKind::throttling(), "Throttling"), (denied(), "AccessDenied")];
    let failing = failing.map(|(kind, word)| (Some(Fault::any(kind)), word.to_owned()));
    let mut cases = Vec::new();
    for (fault, word) in hanging.chain(failing).chain([(None, "slow.test: time-out".to_owned())]) {
        let (world, arns) = three_groups().await;
        match fault {
            Some(fault) => world.aws.fault(fault.arn(&arns[0])),
            None => world.dns.set_reply("slow.test", RecordType::A, Reply::Silent),
        }
        // What takes long to set up must not take the time of another.
        cases.push((world.function().await, world, arns, word));
    }
    let checks = cases.iter().map(|(function, world, arns, word)| only_the_first_fails(function, world, arns, word));
    join_all(checks).await;
}

#[tokio::test]
async fn rule_10_many_groups_that_hang_hold_up_no_other() {
    let (world, arns) = fleet(60).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 0);
    let (hanging, others) = arns.split_at(40);
    hanging.iter().for_each(|arn| world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::Hang).arn(arn)));
    let function = world.function().await;
    let message = invoke_within(&function, json!({}), Duration::from_secs(15)).await.unwrap_err().to_string();
    assert!(message.starts_with("40 of 60 target groups failed"), "{message}");
    assert!(others.iter().all(|arn| !message.contains(arn)), "{message}");
}

#[tokio::test]
async fn rule_10_what_aws_gets_wrong_for_a_while_is_retried_and_what_can_not_be_read_changes_nothing() {
    let passing = [
        FaultKind::throttling(),
        FaultKind::health_unavailable(),
        FaultKind::body(503, "<html>Service Unavailable</html>"),
        FaultKind::ResetBefore,
    ];
    for fault in passing {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.fault(Fault::on("DescribeTargetHealth", fault.clone()).times(2));
        world.sync().await.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(world.aws.registered(&arn), targets(&[10]));
    }
    for body in ["", "no xml", "<html></html>", "<a><b></a>"] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::body(200, body)));
        let message = world.failure(json!({})).await;
        assert!(message.contains("DescribeTargetHealth") && message.contains("can't be read"), "{body}: {message}");
        assert_eq!(world.aws.registered(&arn), targets(&[9]));
    }
}

#[tokio::test]
async fn rule_11_metrics_that_can_not_be_sent_never_fail_a_sync() {
    for kind in [denied(), FaultKind::Hang, FaultKind::ResetBefore] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
        world.aws.fault(Fault::on("PutMetricData", kind));
        let function = world.function().await;
        let time = Duration::from_secs(6);
        let reply = timeout(time, invoke_within(&function, json!({}), time)).await;
        assert_eq!(reply.expect("in time").unwrap()["groups"][0]["outcome"], "changed");
        assert_eq!(world.aws.registered(&arn), targets(&[10]));
    }
}

/// So many groups g00, g01 …, each in step with an address of its own.
async fn fleet(count: u8) -> (World, Vec<String>) {
    let world = World::new().await;
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
async fn rule_12_where_the_budget_does_not_suffice_changed_groups_go_first_and_the_rest_take_turns() {
    let (world, arns) = fleet(12).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 1);
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
    let (world, arns) = fleet(20).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 4);
    (0..20).for_each(|number| world.dns.set_a(&format!("g{number:02}.test"), &[&format!("10.0.1.{}", 100 + number)]));
    // 120 requests, of which 16 go out at once: 26 s.
    let function = world.function().await;
    let reply = invoke_within(&function, json!({}), Duration::from_secs(50)).await.unwrap();
    assert_eq!(outcomes(&reply), ["changed"; 20]);
    for (number, arn) in (0..).zip(&arns) {
        assert_eq!(world.aws.registered(arn), targets(&[100 + number]));
    }
    assert_eq!((world.count("RegisterTargets"), world.count("DeregisterTargets")), (20, 20));
}

#[tokio::test]
async fn rule_12_polling_that_has_no_turn_left_for_a_group_fails_none() {
    let (world, arns) = fleet(24).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 2).set("POLL_INTERVAL_SECONDS", 1);
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
    let (world, arns) = fleet(8).await;
    let world = world.set("ELB_REQUESTS_PER_SECOND", 1);
    (0..4).for_each(|number| world.dns.set_reply(&format!("g{number:02}.test"), RecordType::A, Reply::Refused));
    let function = world.function().await;
    for _ in 0..4 {
        let message = invoke_within(&function, json!({}), Duration::from_secs(8)).await.unwrap_err().to_string();
        assert!(message.starts_with("4 of 8") && message.contains("g03.test: REFUSED"), "{message}");
    }
    let looked_at: BTreeSet<_> =
        world.aws.calls_of("DescribeTargetHealth").into_iter().filter_map(|call| call.arn).collect();
    assert_eq!(looked_at, arns.into_iter().collect());
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
        assert!(outcomes(&reply).contains(&"in_sync"), "{reply}");
    }
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
    assert_eq!(world.dns.looks(), 1);
    let queried = world.dns.queries()[0].at;
    let described = world.aws.calls_of("DescribeTargetHealth")[0].at.into_std();
    assert!(described < queried + pause && queried < described + pause);
}

#[tokio::test]
async fn rule_18_a_request_whose_signature_or_token_had_expired_is_sent_once_more() {
    for code in ["SignatureDoesNotMatch", "RequestExpired", "ExpiredToken", "RequestTimeTooSkewed"] {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        let kind =
            FaultKind::error(403, code, "Signature expired: 20261122T090000Z is now earlier than 20261122T091000Z");
        world.aws.fault(Fault::any(kind).times(1));
        world.sync().await.unwrap_or_else(|error| panic!("{code}: {error}"));
        assert_eq!(world.aws.registered(&arn), targets(&[10]), "{code}");
    }
}

#[tokio::test]
async fn rule_18_tags_that_nobody_needs_fail_no_run_where_they_hang_until_the_deadline() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    world.aws.fault(Fault::on("DescribeTags", FaultKind::Hang));
    let reply = invoke_within(&world.function().await, json!({}), Duration::from_secs(8)).await.unwrap();
    assert_eq!(reply["groups"][0]["outcome"], "changed");
    assert_eq!((world.count("DescribeTags"), world.aws.registered(&arn)), (1, targets(&[10])));
}
