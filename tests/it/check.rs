//! The check: each code found where it is so, and not where it is not; what it costs; and what it never does.

use std::{collections::BTreeSet, time::Duration};

use hickory_server::proto::rr::RecordType;
use nlb_hostname_targets::{
    binding::Group,
    check::Check,
    finding::{Code, Finding, Severity},
    network::AllowedNetworks,
    plan::HoldReason,
    report::{self, GroupReport, HeldTarget, Trigger},
    set_up::SetUp,
    target::Target,
};
use serde_json::{Value, json};
use support::{
    ARN, World,
    aws::{Fault, FaultKind, LoadBalancer, TargetGroup},
    binding,
    dns::Reply,
    invoke, invoke_within,
};

/// A set-up that is as the template makes it: a database, its target group, and the load balancer in front of that.
async fn set_up() -> (World, String, String) {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.10"]).await;
    let load_balancer = world.aws.offer(&arn);
    (world, arn, load_balancer)
}

/// The reply to a check, which writes nothing and sends nothing.
async fn reply(world: &World) -> Value {
    world.aws.clear_calls();
    let event = include_str!("../../events/check.json");
    let reply = world.run(serde_json::from_str(event).unwrap()).await.unwrap();
    assert!(world.actions().iter().all(|action| action.starts_with("Describe")), "{:?}", world.actions());
    let is_error = |finding: &Value| finding["severity"] == "error";
    let groups = reply["groups"].as_array().unwrap();
    let findings = groups.iter().flat_map(|group| group["findings"].as_array().unwrap());
    assert_eq!(reply["ok"], !findings.clone().any(is_error), "{reply}");
    for finding in findings {
        let fields: BTreeSet<_> = finding.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(["severity", "code", "subject", "message", "advice"]));
        assert!(finding.as_object().unwrap().values().all(|value| !value.as_str().unwrap().is_empty()), "{finding}");
    }
    reply
}

/// The findings of the first target group.
async fn findings(world: &World) -> Vec<Value> {
    reply(world).await["groups"][0]["findings"].as_array().unwrap().clone()
}

fn codes(findings: &[Value]) -> Vec<&str> {
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

/// The only finding, which has to be of this severity, code and subject, and to hold these words.
async fn only(world: &World, severity: &str, code: &str, subject: &str, words: &[&str]) {
    let found = findings(world).await;
    assert_eq!(codes(&found), [code], "{found:#?}");
    expect(&found[0], severity, code, subject, words);
}

fn expect(finding: &Value, severity: &str, code: &str, subject: &str, words: &[&str]) {
    for (field, value) in [("severity", severity), ("code", code), ("subject", subject)] {
        assert_eq!(finding[field], value, "{finding:#}");
    }
    let text = format!("{} {}", finding["message"].as_str().unwrap(), finding["advice"].as_str().unwrap());
    for word in words {
        assert!(text.contains(word), "{text}\nlacks {word}");
    }
}

/// The payload of the command that a finding advises.
fn payload(finding: &Value) -> Value {
    let advice = finding["advice"].as_str().unwrap();
    serde_json::from_str(advice.split('\'').nth(1).unwrap()).unwrap()
}

fn denied(action: &str) -> Fault {
    let message = format!(
        "User: arn:aws:sts::123456789012:assumed-role/function/function is not authorized to perform: \
         elasticloadbalancing:{action} because no identity-based policy allows the elasticloadbalancing:{action} action"
    );
    Fault::on(action, FaultKind::error(403, "AccessDenied", &message))
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() {
    let (world, arn, _) = set_up().await;
    let reply = reply(&world).await;
    assert_eq!(reply["ok"], true);
    assert_eq!(reply["dry_run"], true);
    assert_eq!(reply["trigger"], "direct");
    assert_eq!(reply["groups"][0]["findings"], json!([]));
    assert_eq!(reply["groups"][0]["outcome"], "in_sync");
    assert_eq!(reply["groups"][0]["target_group_arn"], arn.as_str());
}

#[tokio::test]
async fn a_check_takes_six_calls_and_one_query() {
    let (world, _, _) = set_up().await;
    let function = world.function().await;
    for _ in 0..2 {
        world.aws.clear_calls();
        invoke(&function, json!({"check": true})).await.unwrap();
        let mut actions = world.actions();
        actions.sort();
        let expected = [
            "DescribeListeners",
            "DescribeLoadBalancerAttributes",
            "DescribeLoadBalancers",
            "DescribeTargetGroupAttributes",
            "DescribeTargetGroups",
            "DescribeTargetHealth",
        ];
        assert_eq!(actions, expected);
    }
    assert_eq!(world.dns.queries().len(), 2);
}

#[tokio::test]
async fn a_check_reads_the_tags_where_a_run_does() {
    let (world, arn, _) = set_up().await;
    let world = bound(world, &arn, "db.test", json!({"ownership": "shared"}));
    assert!(findings(&world).await.is_empty());
    assert_eq!(world.count("DescribeTags"), 1);
}

#[tokio::test]
async fn only_a_check_has_findings() {
    let (world, _, _) = set_up().await;
    for event in [json!({}), json!({"dry_run": true}), json!({"check": false})] {
        let reply = world.run(event).await.unwrap();
        assert!(reply.get("ok").is_none() && reply["groups"][0].get("findings").is_none(), "{reply}");
    }
    let reply = world.run(json!({"check": true, "dry_run": true})).await.unwrap();
    assert_eq!(reply["ok"], true);
}

/// Changes what is right, given the target group and the load balancer.
type Change = fn(World, &str, &str) -> World;

/// Of the group, of the load balancer, of its first listener, or of what is named.
const GROUP: &str = "group";
const BALANCER: &str = "balancer";
const LISTENER: &str = "listener";

fn set(world: World, arn: &str, key: &str, value: &str) -> World {
    world.aws.set_attribute(arn, key, value);
    world
}

fn speak(world: World, arn: &str, balancer: &str, (of_group, of_listener): (&str, &str)) -> World {
    world.aws.set_protocol(arn, of_group);
    world.aws.set_listener_protocol(balancer, 5432, of_listener);
    world
}

fn reconfigure(world: World, balancer: &str, change: impl FnOnce(LoadBalancer) -> LoadBalancer) -> World {
    world.aws.reconfigure_load_balancer(balancer, change);
    world
}

fn check_by(world: World, arn: &str, protocol: &str, port: &str) -> World {
    world.aws.set_health_check_by(arn, protocol, port);
    world
}

/// The listener on port 5432 forwards with these weights, to the group and to another one.
fn weigh(world: World, arn: &str, balancer: &str, weights: [u32; 2]) -> World {
    let other = world.aws.create_target_group(TargetGroup::new("other"));
    world.aws.delete_listener(balancer, 5432);
    world.aws.create_listener(balancer, 5432, &[(arn, Some(weights[0])), (&other, Some(weights[1]))]);
    world
}

fn answer(world: World, addresses: &[&str]) -> World {
    world.dns.set_a("db.test", addresses);
    world
}

fn says(world: World, reply: Reply) -> World {
    world.dns.set_reply("db.test", RecordType::A, reply);
    world
}

/// The database is known by this name of AWS's, and bound with these fields.
fn bound(world: World, arn: &str, name: &str, fields: Value) -> World {
    world.dns.set_a(name, &["10.0.1.10"]);
    let mut bound = binding(name, arn);
    bound.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    world.set("BINDINGS", json!([bound]))
}

const READERS: &str = "db.cluster-ro-c9akciq32abc.us-east-1.rds.amazonaws.com";
const PROXY: &str = "db.proxy-c9akciq32abc.us-east-1.rds.amazonaws.com";
const BALANCED: &str = "db-0123456789abcdef.elb.us-east-1.amazonaws.com";

#[tokio::test]
#[rustfmt::skip]
async fn each_code_is_found_where_it_is_so_and_alone() {
    type Row = (Change, &'static str, &'static str, &'static str, &'static [&'static str]);
    let rows: &[Row] = &[
        (|w, _, _| says(w, Reply::NxDomain { negative_ttl: Some(1) }), "error", "unresolved", "db.test", &["NXDOMAIN", "FunctionSubnetIds"]),
        (|w, _, _| says(w, Reply::NoData { negative_ttl: Some(1) }), "error", "unresolved", "db.test", &["no data", "IpAddressType"]),
        (|w, _, _| says(w, Reply::ServFail), "error", "unresolved", "db.test", &["SERVFAIL", "DNS_SERVERS"]),
        (|w, _, _| says(w, Reply::Refused), "error", "unresolved", "db.test", &["REFUSED", "DNS_SERVERS"]),
        (|w, _, _| says(w, Reply::Silent), "error", "unresolved", "db.test", &["time-out", "UDP and TCP"]),
        (|w, _, _| answer(w, &["10.0.1.10", "169.254.1.1", "127.0.0.1"]), "error", "refused-address", "db.test", &["127.0.0.1, 169.254.1.1", "loopback", "ALLOWED_CIDRS"]),
        (|w, _, _| w.set("ALLOWED_CIDRS", "10.0.2.0/24"), "error", "refused-address", "db.test", &["10.0.1.10", "10.0.2.0/24", "Settings"]),
        (|w, _, _| answer(w, &["54.1.2.3"]), "error", "public-address", "db.test", &["54.1.2.3", "FunctionSubnetIds", "publicly accessible", "VPC itself", "state ALLOWED_CIDRS"]),
        (|w, _, _| answer(w, &["10.0.1.10", "54.1.2.3"]), "error", "public-address", "db.test", &["54.1.2.3", "VPC itself", "state ALLOWED_CIDRS"]),
        (|w, _, _| answer(w, &["10.0.1.11"]), "warning", "out-of-step", GROUP, &["register 10.0.1.11:5432 and deregister 10.0.1.10:5432", "--function-name FUNCTION"]),
        (|w, _, _| answer(w.set("AWS_LAMBDA_FUNCTION_NAME", "orders-function"), &["10.0.1.11"]), "warning", "out-of-step", GROUP, &["--function-name orders-function"]),
        (|w, arn, _| { w.aws.add_target(arn, "10.0.1.9:5432", "healthy"); bound(w, arn, "db.test", json!({"deregister_after_seconds": 600})) },
            "warning", "missing-target", "10.0.1.9:5432", &["grace period", "deregister-targets --target-group-arn $group --targets Id=10.0.1.9,Port=5432"]),
        (|w, arn, _| bound(w, arn, READERS, json!({"lookups": 1})), "warning", "flapping", READERS, &["`lookups` 1", "come and go"]),
        (|w, arn, _| bound(w, arn, READERS, json!({"deregister_after_seconds": 0})), "warning", "flapping", READERS, &["`deregister_after_seconds` 0"]),
        (|w, arn, _| bound(w, arn, PROXY, json!({"deregister_after_seconds": 0, "lookups": 1})), "warning", "flapping", PROXY, &["`lookups` 1 and `deregister_after_seconds` 0"]),
        (|w, _, lb| { w.aws.delete_load_balancer(lb); w }, "error", "unused", GROUP, &["no load balancer", "create-listener", "--port 5432", "$group"]),
        (|w, arn, lb| { let w = weigh(w, arn, lb, [1, 1]); w.aws.delete_listener(lb, 5432); w }, "error", "unused", GROUP, &["no load balancer has"]),
        (|w, arn, lb| { w.aws.delete_listener(lb, 5432); w.aws.set_former_load_balancer(arn, lb); w }, "error", "unused", GROUP, &["no listener of $balancer", "--load-balancer-arn $balancer"]),
        (|w, arn, lb| weigh(w, arn, lb, [0, 1]), "warning", "unused", GROUP, &["weight 0", "port 5432", "modify-listener", "listener/net/db"]),
        (|w, arn, lb| weigh(w, arn, lb, [0, 0]), "error", "unused", GROUP, &["weight 0"]),
        (|w, _, lb| reconfigure(w, lb, |lb| lb.kind("application")), "error", "load-balancer-type", BALANCER, &["`application`", "--type network", "SubnetIds"]),
        (|w, _, lb| reconfigure(w, lb, |lb| lb.in_state("provisioning")), "error", "load-balancer-state", BALANCER, &["`provisioning`", "AWS's reason", "in some minutes"]),
        (|w, _, lb| reconfigure(w, lb, |lb| lb.in_state("active_impaired")), "error", "load-balancer-state", BALANCER, &["`active_impaired`", "addresses"]),
        (|w, _, lb| reconfigure(w, lb, |lb| lb.in_state("failed")), "error", "load-balancer-state", BALANCER, &["`failed`", "create-load-balancer"]),
        (|w, _, lb| reconfigure(w, lb, LoadBalancer::internet_facing), "error", "scheme", BALANCER, &["internet", "--scheme internal"]),
        (|w, _, lb| reconfigure(w, lb, |lb| lb.security_groups(&["sg-1", "sg-2"])), "error", "security-group-rules", BALANCER, &["sg-1, sg-2", "--security-groups sg-1 sg-2", "private-link-traffic off", "$balancer"]),
        (|w, arn, lb| speak(w, arn, lb, ("UDP", "UDP")), "error", "protocol", GROUP, &["speaks UDP", "--protocol TCP"]),
        (|w, arn, lb| speak(w, arn, lb, ("TCP_UDP", "TCP_UDP")), "error", "protocol", GROUP, &["speaks TCP_UDP", "create-target-group"]),
        (|w, arn, lb| speak(w, arn, lb, ("QUIC", "QUIC")), "error", "protocol", GROUP, &["speaks QUIC"]),
        (|w, arn, lb| speak(w, arn, lb, ("TCP_QUIC", "TCP_QUIC")), "error", "protocol", GROUP, &["speaks TCP_QUIC"]),
        (|w, arn, lb| speak(w, arn, lb, ("TCP", "TCP_UDP")), "error", "protocol", LISTENER, &["speaks TCP_UDP", "modify-listener", "--protocol TCP"]),
        (|w, arn, lb| speak(w, arn, lb, ("TCP", "TLS")), "warning", "protocol", LISTENER, &["TLS", "modify-listener --listener-arn $listener --protocol TCP"]),
        (|w, arn, lb| speak(w, arn, lb, ("TLS", "TCP")), "warning", "protocol", GROUP, &["TLS", "create-target-group"]),
        (|w, arn, _| set(w, arn, "proxy_protocol_v2.enabled", "true"), "error", "proxy-protocol", GROUP, &["modify-target-group-attributes --target-group-arn $group", "proxy_protocol_v2.enabled,Value=false"]),
        (|w, arn, _| set(w, arn, "preserve_client_ip.enabled", "true"), "error", "client-ip", GROUP, &["preserve_client_ip.enabled,Value=false"]),
        (|w, arn, _| set(w, arn, "stickiness.enabled", "true"), "warning", "stickiness", GROUP, &["stickiness.enabled,Value=false"]),
        (|w, arn, _| set(w, arn, "load_balancing.cross_zone.enabled", "false"), "warning", "cross-zone", GROUP, &["cross_zone.enabled,Value=true"]),
        (|w, _, lb| set(w, lb, "load_balancing.cross_zone.enabled", "false"), "warning", "cross-zone", BALANCER, &["modify-load-balancer-attributes --load-balancer-arn $balancer", "cross_zone.enabled,Value=true"]),
        (|w, arn, _| set(w, arn, "deregistration_delay.timeout_seconds", "61"), "info", "slow-drain", GROUP, &["61 s"]),
        (|w, arn, _| set(w, arn, "deregistration_delay.connection_termination.enabled", "false"), "info", "slow-drain", GROUP, &["connection_termination.enabled,Value=true"]),
        (|w, arn, _| { w.aws.set_health_check(arn, 30, 3); w }, "info", "slow-health-check", GROUP, &["90 s", "--health-check-interval-seconds 10"]),
        (|w, arn, _| check_by(w, arn, "HTTP", "traffic-port"), "warning", "health-check", GROUP, &["HTTP", "--health-check-protocol TCP --health-check-port traffic-port"]),
        (|w, arn, _| check_by(w, arn, "TCP", "8008"), "warning", "health-check", GROUP, &["`8008`", "--target-group-arn $group"]),
    ];
    for (change, severity, code, subject, words) in rows {
        let (world, arn, balancer) = set_up().await;
        let listener = format!("{}/{:016x}", balancer.replace(":loadbalancer/", ":listener/"), 0);
        let world = change(world, &arn, &balancer);
        let subject = match *subject { GROUP => &arn, BALANCER => &balancer, LISTENER => &listener, other => other };
        let fill = |word: &&str| word.replace("$group", &arn).replace("$balancer", &balancer).replace("$listener", &listener);
        let words: Vec<_> = words.iter().map(fill).collect();
        only(&world, severity, code, subject, &words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
}

#[tokio::test]
#[rustfmt::skip]
async fn nothing_is_found_at_the_limits_of_what_is_right() {
    let rows: &[Change] = &[
        |w, arn, _| set(w, arn, "deregistration_delay.timeout_seconds", "60"),
        // The group's own setting goes before that of the load balancer.
        |w, arn, lb| set(set(w, arn, "load_balancing.cross_zone.enabled", "true"), lb, "load_balancing.cross_zone.enabled", "false"),
        |w, _, lb| reconfigure(w, lb, |lb| lb.security_groups(&["sg-1"]).lets_private_link_in()),
        |w, arn, _| { w.aws.set_health_check(arn, 30, 2); w },
        |w, arn, _| check_by(w, arn, "TCP", "5432"),
        |w, arn, lb| weigh(w, arn, lb, [1, 9]),
        // One that does not listen on its behalf beside one that does.
        |w, arn, lb| { w.aws.create_listener(lb, 5433, &[(arn, Some(0))]); w },
        |w, arn, _| bound(w, arn, READERS, json!({})),
        // It has no more addresses than an answer of such a name can hold.
        |w, arn, _| bound(w, arn, BALANCED, json!({"lookups": 1})),
        // A VPC may have any range, which is not public where it is stated.
        |w, arn, _| {
            w.aws.reconfigure(arn, |group| group.vpc_cidrs(&["11.0.0.0/16"]).vpc_subnets(&["11.0.0.0/17"]));
            w.aws.remove_target(arn, "10.0.1.10:5432");
            w.aws.add_target(arn, "11.0.1.10:5432", "healthy");
            answer(w, &["11.0.1.10"]).set("ALLOWED_CIDRS", "11.0.0.0/16")
        },
        |w, arn, _| { w.aws.add_target(arn, "10.0.1.9:5432", "healthy"); bound(w, arn, "db.test", json!({"ownership": "shared"})) },
        |w, arn, lb| {
            (1..=5).for_each(|port| w.aws.create_listener(lb, port, &[(arn, Some(0))]));
            w.aws.set_listener_page_size(2);
            w
        },
    ];
    for (number, change) in rows.iter().enumerate() {
        let (world, arn, balancer) = set_up().await;
        let world = change(world, &arn, &balancer);
        assert_eq!(findings(&world).await, [] as [Value; 0], "row {number}");
    }
}

#[tokio::test]
async fn an_ipv6_address_is_none_that_is_public_and_none_that_dns64_made() {
    for (address, code) in [("2600:1f18:1:100::10", None), ("64:ff9b::a00:10a", Some("refused-address"))] {
        let world = World::new().await.set("ALLOWED_CIDRS", "::/0");
        world.dns.set_aaaa("db.test", &[address]);
        let arn = world.aws.create_target_group(TargetGroup::new("db").ipv6());
        world.aws.add_target(&arn, &format!("[{address}]:5432"), "healthy");
        world.aws.offer(&arn);
        let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
        let found = findings(&world).await;
        assert_eq!(codes(&found), Vec::from_iter(code), "{found:#?}");
        if code.is_some() {
            expect(&found[0], "error", "refused-address", "db.test", &[address, "DNS64", "IpAddressType"]);
            world.aws.remove_target(&arn, &format!("[{address}]:5432"));
            let message = world.failure(json!({})).await;
            assert!(message.contains("DNS64") && world.count("RegisterTargets") == 0, "{message}");
        }
    }
}

#[tokio::test]
async fn a_database_in_a_vpc_with_a_public_range_is_followed_where_that_is_stated() {
    let (world, _) = World::with_database(&["11.0.1.10"], &[]).await;
    let spec = TargetGroup::new("public").vpc_cidrs(&["11.0.0.0/16"]).vpc_subnets(&["11.0.0.0/17"]);
    let arn = world.aws.create_target_group(spec);
    let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
    let message = world.failure(json!({})).await;
    for words in ["publicly accessible", "must run in that VPC", "state ALLOWED_CIDRS"] {
        assert!(message.contains(words), "{message}");
    }
    let world = world.set("ALLOWED_CIDRS", "11.0.0.0/16");
    assert_eq!(world.sync().await.unwrap()["registered"], json!(["11.0.1.10:5432"]));
}

#[tokio::test]
async fn advice_that_runs_the_function_acts_on_no_other_group() {
    let (world, arn, _) = set_up().await;
    let own = world.aws.create_target_group(TargetGroup::new("own"));
    world.aws.offer(&own);
    world.dns.set_a("other.test", &["10.0.1.11"]);
    let world = world.set("BINDINGS", json!([binding("other.test", &arn)]));
    let mut shared = binding("db.test", &own);
    shared.as_object_mut().unwrap().extend([
        ("port".to_owned(), json!(6543)),
        ("deregister_after_seconds".to_owned(), json!(60)),
        ("ownership".to_owned(), json!("shared")),
        ("lookups".to_owned(), json!(2)),
    ]);
    for bindings in [json!([binding("db.test", &own)]), json!([shared])] {
        let reply = world.run(json!({"check": true, "bindings": bindings})).await.unwrap();
        let found = reply["groups"][0]["findings"].as_array().unwrap();
        assert_eq!(codes(found), ["no-healthy-target", "out-of-step"]);
        assert!(found.iter().all(|finding| payload(finding) == json!({"bindings": bindings})), "{found:#?}");
    }
    // Without any in the event, it is those of the group that are meant.
    let found = findings(&world).await;
    assert_eq!(payload(&found[0]), json!({"bindings": [binding("other.test", &arn)]}));
    world.run(payload(&found[0])).await.unwrap();
    assert_eq!(world.aws.registered(&arn), support::set(&["10.0.1.11:5432"]));
    assert!(world.aws.registered(&own).is_empty());
}

#[tokio::test]
async fn a_group_that_could_not_be_looked_at_is_not_well() {
    let world = World::new().await.set("ELB_REQUESTS_PER_SECOND", 1);
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let arns = (0..12).map(|number| world.aws.create_target_group(TargetGroup::new(&format!("db-{number}"))));
    let arns: Vec<_> = arns.collect();
    for arn in &arns {
        world.aws.add_target(arn, "10.0.1.10:5432", "healthy");
        world.aws.offer(arn);
    }
    let bindings: Vec<_> = arns.iter().map(|arn| binding("db.test", arn)).collect();
    let world = world.set("BINDINGS", json!(bindings));
    let function = world.function().await;
    let reply = invoke_within(&function, json!({"check": true}), Duration::from_secs(7)).await.unwrap();
    assert_eq!(reply["ok"], false, "{reply}");
    let mut deferred = 0;
    for group in reply["groups"].as_array().unwrap().iter().filter(|group| group["outcome"] == "deferred") {
        deferred += 1;
        let found = group["findings"].as_array().unwrap();
        assert_eq!(codes(found), ["not-checked"]);
        let arn = group["target_group_arn"].as_str().unwrap();
        expect(&found[0], "error", "not-checked", arn, &["time", "bindings", "Settings"]);
    }
    assert!(deferred > 0, "{reply}");
}

#[test]
fn what_a_run_tells_of_names_and_missing_targets_is_found() {
    let bindings = serde_json::from_value::<Vec<_>>(json!([binding("db.test", ARN)])).unwrap();
    let group = &Group::from_bindings("bindings", &bindings).unwrap()[0];
    let allowed = &AllowedNetworks::default();
    let find =
        |report: &GroupReport| Check { group, report, set_up: &SetUp::default(), allowed, function: "" }.findings();

    let mut report = GroupReport::new(group);
    report.rotating = report.hostnames.clone();
    let found = serde_json::to_value(find(&report)).unwrap();
    assert_eq!(found.as_array().unwrap().len(), 1);
    expect(&found[0], "warning", "rotating-name", "db.test", &["deregister_after_seconds"]);

    for (reason, is_found) in [
        (HoldReason::Grace, true),
        (HoldReason::Evidence, true),
        (HoldReason::Initial, true),
        (HoldReason::OwnedElsewhere, true),
        (HoldReason::RegistrationFailed, true),
        (HoldReason::DeregistrationRefused, true),
        (HoldReason::StateUnknown, true),
        (HoldReason::Foreign, false),
        (HoldReason::RefusedAddress, false),
        (HoldReason::Unresolved, false),
    ] {
        let mut report = GroupReport::new(group);
        report.targets = Some(report::TargetCounts { registered: 30, healthy: 30 });
        let target = |host: u8| Target { address: [10, 0, 1, host].into(), port: 5432.try_into().unwrap() };
        report.held = (0..30).map(|host| HeldTarget { target: target(host), reason }).collect();
        let found = find(&report);
        // Of many, the first are named.
        assert_eq!(found.len(), if is_found { 21 } else { 0 }, "{found:#?}");
        assert!(
            found.iter().all(|finding| finding.code == Code::MissingTarget && finding.severity == Severity::Warning)
        );
        assert!(found.iter().take(20).all(|finding| finding.message.contains(reason.as_str())), "{found:#?}");
    }
}

#[tokio::test]
async fn target_type() {
    for kind in ["instance", "lambda", "alb"] {
        let (world, _, _) = set_up().await;
        let arn = world.aws.create_target_group(TargetGroup::new("db").target_type(kind));
        if kind == "instance" {
            world.aws.add_target(&arn, "i-0123456789abcdef0:5432", "healthy");
        }
        world.aws.offer(&arn);
        let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
        only(&world, "error", "target-type", &arn, &[kind, "--target-type ip", "TargetGroupArn"]).await;
    }
}

#[tokio::test]
async fn targets_of_a_group_that_is_not_used_lead_to_its_use() {
    let (world, arn, own) = set_up().await;
    world.aws.delete_load_balancer(&own);
    let words = "Target group is not configured to receive traffic from the load balancer";
    world.aws.set_health(&arn, "10.0.1.10:5432", "unused", "Target.NotInUse", words);
    let found = findings(&world).await;
    assert_eq!(codes(&found), ["unused", "no-healthy-target"]);
    expect(&found[1], "error", "no-healthy-target", &arn, &["Target.NotInUse", words, "create-listener"]);
}

#[tokio::test]
async fn no_healthy_target_with_each_of_aws_reasons() {
    let let_in = "--protocol tcp --port 5432";
    for (severity, state, reason, words) in [
        ("error", "unhealthy", "Target.FailedHealthChecks", ["port 5432 of 10.0.1.10", let_in]),
        ("error", "unhealthy", "Target.Timeout", ["port 5432 of 10.0.1.10", let_in]),
        ("error", "unhealthy", "Target.ResponseCodeMismatch", ["HTTP", "--health-check-protocol TCP"]),
        ("error", "unhealthy", "Elb.InternalError", ["AWS itself", "open a case"]),
        ("info", "initial", "Elb.InitialHealthChecking", ["moments ago", "Check again"]),
        ("info", "initial", "Elb.RegistrationInProgress", ["moments ago", "Check again"]),
        ("error", "unused", "Target.IpUnusable", ["reserved for a load balancer", "Hostname"]),
        ("error", "unused", "Target.NotInUse", ["nothing forwards to it yet", "Check again"]),
        ("error", "unused", "Target.InvalidState", ["can't be used", "describe-target-health"]),
        ("error", "unavailable", "Target.HealthCheckDisabled", ["disabled", "--health-check-enabled"]),
        ("error", "unavailable", "Elb.InternalError", ["AWS itself", "open a case"]),
    ] {
        let (world, arn, _) = set_up().await;
        world.aws.set_health(&arn, "10.0.1.10:5432", state, reason, "AWS's words");
        let words = [&words[..], &[reason, "AWS's words", "10.0.1.10:5432", "none of the 1 targets"]].concat();
        only(&world, severity, "no-healthy-target", &arn, &words).await;
        assert_eq!(world.count("DescribeTargetHealth"), 2);
    }
    // Nor is it an error where nothing is meant to come.
    let (world, arn, own) = set_up().await;
    let world = weigh(world, &arn, &own, [0, 1]);
    world.aws.set_health(&arn, "10.0.1.10:5432", "unused", "Target.NotInUse", "AWS's words");
    let found = findings(&world).await;
    assert_eq!(codes(&found), ["unused", "no-healthy-target"]);
    assert!(found.iter().all(|finding| finding["severity"] == "warning"), "{found:#?}");
}

#[tokio::test]
async fn what_to_let_in_is_what_the_load_balancer_has_that_listens() {
    let (world, arn, own) = set_up().await;
    world.aws.set_health(&arn, "10.0.1.10:5432", "unhealthy", "Target.FailedHealthChecks", "Health checks failed");
    // One that no longer listens is named first.
    let former = world.aws.create_load_balancer(LoadBalancer::new("a").zones(&["us-east-1c"]));
    world.aws.set_attribute(&former, "load_balancing.cross_zone.enabled", "true");
    world.aws.set_former_load_balancer(&arn, &former);
    let words = ["subnet-us-east-1a, subnet-us-east-1b", "--cidr"];
    only(&world, "error", "no-healthy-target", &arn, &words).await;
    world.aws.reconfigure_load_balancer(&own, |own| own.security_groups(&["sg-1"]).lets_private_link_in());
    only(&world, "error", "no-healthy-target", &arn, &["--source-group sg-1"]).await;
}

#[tokio::test]
async fn no_healthy_target_because_there_is_none() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
    world.aws.offer(&arn);
    let found = findings(&world).await;
    assert_eq!(codes(&found), ["no-healthy-target", "out-of-step"]);
    expect(&found[0], "error", "no-healthy-target", &arn, &["no target", "aws lambda invoke"]);
    // One that drains is none.
    world.aws.add_target(&arn, "10.0.1.9:5432", "draining");
    assert_eq!(codes(&findings(&world).await), ["no-healthy-target", "out-of-step"]);
}

#[tokio::test]
async fn unhealthy_target() {
    let (world, arn, _) = set_up().await;
    world.dns.set_a("db.test", &["10.0.1.10", "10.0.1.11", "10.0.1.12"]);
    for target in ["10.0.1.11:5432", "10.0.1.12:5432"] {
        world.aws.add_target(&arn, target, "healthy");
    }
    assert!(findings(&world).await.is_empty());
    world.aws.set_health(&arn, "10.0.1.11:5432", "unhealthy", "Target.FailedHealthChecks", "Health checks failed");
    // It says more soon.
    world.aws.set_health(&arn, "10.0.1.12:5432", "initial", "Elb.InitialHealthChecking", "Initial health checks");
    only(&world, "warning", "unhealthy-target", "10.0.1.11:5432", &["Target.FailedHealthChecks", "--port 5432"]).await;
}

#[tokio::test]
async fn of_many_unhealthy_targets_the_first_are_named() {
    let (world, arn, _) = set_up().await;
    let addresses: Vec<_> = (1..=30).map(|host| format!("10.0.2.{host}")).collect();
    let mut known: Vec<&str> = addresses.iter().map(String::as_str).collect();
    known.push("10.0.1.10");
    world.dns.set_a("db.test", &known);
    let world = world.set("BINDINGS", json!([{"hostname": "db.test", "target_group_arn": arn, "lookups": 1}]));
    for address in &addresses {
        world.aws.add_target(&arn, &format!("{address}:5432"), "unhealthy");
    }
    let found = findings(&world).await;
    assert_eq!(codes(&found), ["unhealthy-target"; 21]);
    assert!(found.iter().any(|finding| finding["message"] == "so are 10 more targets"), "{found:#?}");
}

#[tokio::test]
async fn zone_not_enabled() {
    let (world, arn, own) = set_up().await;
    world.dns.set_a("db.test", &["10.0.1.10", "10.0.128.10"]);
    world.aws.add_target(&arn, "10.0.128.10:5432", "healthy");
    world.aws.reconfigure_load_balancer(&own, |own| own.zones(&["us-east-1a"]));
    assert!(findings(&world).await.is_empty());
    let words = "Target is in an Availability Zone that is not enabled for the load balancer";
    world.aws.set_health(&arn, "10.0.128.10:5432", "unused", "Target.NotInUse", words);
    let words = [words, "us-east-1b is not enabled", "set-subnets", "--subnets subnet-us-east-1a SUBNET", &own];
    only(&world, "warning", "zone-not-enabled", "10.0.128.10:5432", &words).await;
    // Whatever the words for people are.
    world.aws.set_health(&arn, "10.0.128.10:5432", "unused", "Target.NotInUse", "unused");
    only(&world, "warning", "zone-not-enabled", "10.0.128.10:5432", &[]).await;

    world.aws.remove_target(&arn, "10.0.1.10:5432");
    world.dns.set_a("db.test", &["10.0.128.10"]);
    let found = findings(&world).await;
    assert_eq!(codes(&found), ["no-healthy-target", "zone-not-enabled"]);
    expect(&found[0], "error", "no-healthy-target", &arn, &["us-east-1b is not enabled", "set-subnets"]);
}

#[tokio::test]
async fn permission() {
    for (action, others) in [
        ("DescribeTargetGroups", &[] as &[&str]),
        ("DescribeTargetHealth", &["proxy-protocol"]),
        ("DescribeTargetGroupAttributes", &[]),
        ("DescribeLoadBalancers", &["proxy-protocol"]),
        ("DescribeLoadBalancerAttributes", &["proxy-protocol"]),
        ("DescribeListeners", &["proxy-protocol"]),
    ] {
        let (world, arn, own) = set_up().await;
        world.aws.set_attribute(&arn, "proxy_protocol_v2.enabled", "true");
        world.aws.fault(denied(action));
        let found = findings(&world).await;
        // What is known otherwise is judged all the same.
        let others = if action == "DescribeTargetGroups" { &["proxy-protocol"][..] } else { others };
        assert_eq!(codes(&found), [&["permission"], others].concat(), "{found:#?}");
        let subject = if action.contains("LoadBalancer") || action == "DescribeListeners" { &own } else { &arn };
        let words = [&format!("Allow elasticloadbalancing:{action} "), "no identity-based policy"];
        expect(&found[0], "error", "permission", subject, &words);
    }
    // Each action that is lacking.
    let (world, arn, _) = set_up().await;
    for action in ["DescribeTargetGroupAttributes", "DescribeLoadBalancers", "DescribeTags"] {
        world.aws.fault(denied(action));
    }
    let world = bound(world, &arn, "db.test", json!({"ownership": "shared"}));
    assert_eq!(codes(&findings(&world).await), ["permission"; 3]);
}

#[tokio::test]
async fn what_fails_otherwise_is_found_too() {
    for (fault, words) in [
        (Fault::on("DescribeTargetHealth", FaultKind::health_unavailable()), ["HealthUnavailable", "AWS itself"]),
        (Fault::on("DescribeTargetHealth", FaultKind::throttling()), ["Rate exceeded", "bindings"]),
        (Fault::on("DescribeListeners", FaultKind::error(400, "ValidationError", "no")), ["ValidationError", "Mend"]),
        (Fault::on("DescribeTargetGroupAttributes", FaultKind::body(200, "<html>")), ["can't be read", "Mend"]),
    ] {
        let (world, arn, own) = set_up().await;
        let world = world.set("AWS_MAX_ATTEMPTS", 1);
        let subject = if format!("{fault:?}").contains("Listeners") { &own } else { &arn };
        world.aws.fault(fault);
        only(&world, "error", "failed", subject, &words).await;
    }
    let (world, arn, _) = set_up().await;
    world.aws.delete_target_group(&arn);
    let found = findings(&world).await;
    assert!(!found.is_empty() && codes(&found).iter().all(|code| *code == "failed"), "{found:#?}");
    assert!(found[0]["message"].as_str().unwrap().contains("TargetGroupNotFound"), "{found:#?}");
}

#[tokio::test]
async fn a_group_that_was_deleted_spoils_no_other() {
    let world = World::new().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let arns: Vec<_> =
        (0..21).map(|number| world.aws.create_target_group(TargetGroup::new(&format!("db-{number}")))).collect();
    let own = world.aws.create_load_balancer(LoadBalancer::new("db"));
    world.aws.set_attribute(&own, "load_balancing.cross_zone.enabled", "true");
    for arn in &arns {
        world.aws.add_target(arn, "10.0.1.10:5432", "healthy");
        world.aws.create_listener(&own, 5432, &[(arn, None)]);
    }
    world.aws.delete_target_group(&arns[3]);
    let bindings: Vec<_> = arns.iter().map(|arn| binding("db.test", arn)).collect();
    let world = world.set("BINDINGS", json!(bindings));
    let reply = reply(&world).await;
    for (number, group) in reply["groups"].as_array().unwrap().iter().enumerate() {
        let found = codes(group["findings"].as_array().unwrap());
        let is_deleted = number == 3;
        assert_eq!(found.contains(&"failed"), is_deleted, "{number}: {group:#}");
        assert_eq!(found.contains(&"slow-drain"), !is_deleted, "{number}: {group:#}");
    }
    // The load balancer is one.
    for action in ["DescribeListeners", "DescribeLoadBalancerAttributes", "DescribeLoadBalancers"] {
        assert_eq!(world.count(action), 1, "{action}");
    }
}

#[tokio::test]
async fn a_load_balancer_that_was_deleted_is_none() {
    for is_left_out in [false, true] {
        let (world, arn, own) = set_up().await;
        let other = world.aws.create_target_group(TargetGroup::new("other"));
        world.aws.add_target(&other, "10.0.1.10:5432", "healthy");
        world.aws.offer(&other);
        world.aws.delete_load_balancer(&own);
        // It is still said to have the group.
        world.aws.set_former_load_balancer(&arn, &own);
        world.aws.leave_out_load_balancers(is_left_out);
        let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("db.test", &other)]));
        let reply = reply(&world).await;
        assert_eq!(codes(reply["groups"][0]["findings"].as_array().unwrap()), ["unused"], "{reply:#}");
        assert_eq!(reply["groups"][1]["findings"], json!([]), "{reply:#}");
        assert_eq!(reply["groups"][0]["outcome"], "in_sync");
    }
}

#[tokio::test]
async fn errors_come_first() {
    let (world, arn, own) = set_up().await;
    world.dns.set_a("db.test", &["10.0.1.11"]);
    world.aws.set_attribute(&arn, "deregistration_delay.timeout_seconds", "300");
    world.aws.set_attribute(&arn, "proxy_protocol_v2.enabled", "true");
    world.aws.set_attribute(&own, "load_balancing.cross_zone.enabled", "false");
    world.aws.reconfigure_load_balancer(&own, LoadBalancer::internet_facing);
    let found = findings(&world).await;
    assert_eq!(codes(&found), ["scheme", "proxy-protocol", "out-of-step", "cross-zone", "slow-drain"]);
}

#[tokio::test]
async fn a_call_that_hangs_defers_its_group_alone() {
    let (world, arn, own) = set_up().await;
    let other = world.aws.create_target_group(TargetGroup::new("other"));
    world.aws.add_target(&other, "10.0.1.10:5432", "healthy");
    world.aws.create_listener(&own, 5433, &[(&other, None)]);
    world.aws.set_attribute(&other, "proxy_protocol_v2.enabled", "true");
    let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("db.test", &other)]));
    world.aws.fault(Fault::on("DescribeTargetGroupAttributes", FaultKind::Hang).arn(&arn));
    let function = world.function().await;
    let reply = invoke_within(&function, json!({"check": true}), Duration::from_secs(6)).await.unwrap();
    assert_eq!(reply["groups"][0]["outcome"], "deferred");
    assert_eq!(reply["groups"][1]["outcome"], "in_sync");
    assert_eq!(codes(reply["groups"][1]["findings"].as_array().unwrap())[0], "proxy-protocol");
}

#[tokio::test]
async fn a_check_forgets_nothing_and_learns_nothing() {
    let (world, arn, _) = set_up().await;
    world.dns.set_a("db.test", &["10.0.1.11"]);
    let function = world.function().await;
    let check = invoke(&function, json!({"check": true})).await.unwrap();
    assert_eq!(check["groups"][0]["registered"], json!(["10.0.1.11:5432"]));
    let run = invoke(&function, json!({})).await.unwrap();
    assert_eq!(run["groups"][0]["outcome"], "changed");
    assert_eq!(world.aws.registered(&arn), support::set(&["10.0.1.11:5432"]));
}

#[tokio::test]
async fn findings_are_logged() {
    let (world, arn, _) = set_up().await;
    world.aws.set_attribute(&arn, "proxy_protocol_v2.enabled", "true");
    let (log, _guard) = support::Log::start();
    findings(&world).await;
    let text = log.text();
    assert!(text.contains("\"code\":\"proxy-protocol\"") && text.contains(&arn), "{text}");
}

#[test]
fn a_reply_that_is_too_long_keeps_the_worst_finding_of_each_group() {
    let groups =
        Group::from_bindings("bindings", &serde_json::from_value::<Vec<_>>(json!([binding("db.test", ARN)])).unwrap());
    let group = groups.unwrap().remove(0);
    let report = || {
        let unhealthy = |number| Finding::new(Code::UnhealthyTarget, number, "w".repeat(500), "a".repeat(500));
        let mut report = GroupReport::new(&group);
        report.findings = Some((0..20).map(unhealthy).chain([Finding::new(Code::Scheme, ARN, "m", "a")]).collect());
        report.findings.as_mut().unwrap().sort();
        report
    };
    for count in [300, 600] {
        let groups = (0..count).map(|_| report()).collect();
        let (version, trigger, findings) = ("0", Trigger::Direct, Vec::new());
        let mut reply =
            report::Reply { version, trigger, dry_run: true, ok: Some(false), findings, groups, left_out: 0 };
        reply.fit();
        let text = serde_json::to_string(&reply).unwrap();
        assert!(text.len() <= 5_000_000, "{count}: {}", text.len());
        for group in &reply.groups {
            let findings = group.findings.as_ref().unwrap();
            assert_eq!(findings[0].code, Code::Scheme);
            assert_eq!(findings.len() + group.left_out.get("findings").copied().unwrap_or_default(), 21);
        }
    }
}
