//! The check: each code found where it is so, and not where it is not; what it costs; and what it never does.

use std::{collections::BTreeSet, time::Duration};

use hickory_server::proto::rr::RecordType;
use nlb_hostname_targets::{
    binding::Group,
    finding::{Code, Finding},
    report::{self, GroupReport, Trigger},
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
    assert_eq!(finding["severity"], severity, "{finding:#}");
    assert_eq!(finding["code"], code, "{finding:#}");
    assert_eq!(finding["subject"], subject, "{finding:#}");
    let text = format!("{} {}", finding["message"].as_str().unwrap(), finding["advice"].as_str().unwrap());
    for word in words {
        assert!(text.contains(word), "{text}\nlacks {word}");
    }
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
    let mut shared = binding("db.test", &arn);
    shared["ownership"] = json!("shared");
    let world = world.set("BINDINGS", json!([shared]));
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

#[tokio::test]
async fn a_check_takes_bindings_from_the_event() {
    let (world, arn, _) = set_up().await;
    let world = world.set("BINDINGS", "");
    let reply = world.run(json!({"check": true, "bindings": [binding("gone.test", &arn)]})).await.unwrap();
    assert_eq!(reply["ok"], false);
    assert_eq!(codes(reply["groups"][0]["findings"].as_array().unwrap()), ["unresolved"]);
    let message = world.failure(json!({"check": true})).await;
    assert!(message.contains("BINDINGS"), "{message}");
}

#[tokio::test]
async fn unresolved() {
    for (reply, words) in [
        (Reply::NxDomain { negative_ttl: Some(1) }, ["NXDOMAIN", "FunctionSubnetIds"]),
        (Reply::NoData { negative_ttl: Some(1) }, ["no data", "IpAddressType"]),
        (Reply::ServFail, ["SERVFAIL", "DNS_SERVERS"]),
        (Reply::Refused, ["REFUSED", "DNS_SERVERS"]),
        (Reply::Silent, ["time-out", "UDP and TCP"]),
    ] {
        let (world, _, _) = set_up().await;
        world.dns.set_reply("db.test", RecordType::A, reply);
        only(&world, "error", "unresolved", "db.test", &words).await;
    }
}

#[tokio::test]
async fn refused_address() {
    let (world, _, _) = set_up().await;
    world.dns.set_a("db.test", &["10.0.1.10", "169.254.1.1", "127.0.0.1"]);
    only(&world, "error", "refused-address", "db.test", &["127.0.0.1, 169.254.1.1", "loopback", "ALLOWED_CIDRS"]).await;

    let (world, _, _) = set_up().await;
    let world = world.set("ALLOWED_CIDRS", "10.0.2.0/24");
    only(&world, "error", "refused-address", "db.test", &["10.0.1.10", "10.0.2.0/24", "Settings"]).await;
}

#[tokio::test]
async fn public_address() {
    let (world, _, _) = set_up().await;
    world.dns.set_a("db.test", &["54.1.2.3"]);
    only(&world, "error", "public-address", "db.test", &["54.1.2.3", "FunctionSubnetIds"]).await;

    // Whatever is allowed, a load balancer does not take it.
    world.dns.set_a("db.test", &["10.0.1.10", "54.1.2.3"]);
    let world = world.set("ALLOWED_CIDRS", "0.0.0.0/0");
    let found = findings(&world).await;
    assert_eq!(codes(&found), ["public-address", "out-of-step"]);
    expect(&found[0], "error", "public-address", "db.test", &["54.1.2.3"]);
}

#[tokio::test]
async fn an_ipv6_address_of_a_vpc_is_no_public_address() {
    let world = World::new().await;
    world.dns.set_aaaa("db.test", &["2600:1f18:1:100::10"]);
    let arn = world.aws.create_target_group(TargetGroup::new("db").ipv6());
    world.aws.add_target(&arn, "[2600:1f18:1:100::10]:5432", "healthy");
    world.aws.offer(&arn);
    let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
    assert_eq!(findings(&world).await, [] as [Value; 0]);
}

#[tokio::test]
async fn out_of_step() {
    let (world, arn, _) = set_up().await;
    world.dns.set_a("db.test", &["10.0.1.11"]);
    let world = world.set("AWS_LAMBDA_FUNCTION_NAME", "orders-function");
    let words = ["register 10.0.1.11:5432 and deregister 10.0.1.10:5432", "--function-name orders-function"];
    only(&world, "warning", "out-of-step", &arn, &words).await;
    assert_eq!(world.aws.registered(&arn), support::set(&["10.0.1.10:5432"]));
}

#[tokio::test]
async fn a_target_that_waits_is_in_step() {
    let (world, arn, _) = set_up().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    world.aws.add_target(&arn, "10.0.1.9:5432", "healthy");
    let mut waits = binding("db.test", &arn);
    waits["deregister_after_seconds"] = json!(600);
    let world = world.set("BINDINGS", json!([waits]));
    assert!(findings(&world).await.is_empty());
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
async fn unused() {
    // No load balancer.
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.10"]).await;
    let own = world.aws.offer(&arn);
    world.aws.delete_load_balancer(&own);
    only(&world, "error", "unused", &arn, &["no load balancer", "create-listener", "--port 5432", &arn]).await;

    // Only others are forwarded to.
    let (world, arn, own) = set_up().await;
    let other = world.aws.create_target_group(TargetGroup::new("other"));
    world.aws.delete_listener(&own, 5432);
    world.aws.create_listener(&own, 5432, &[(&other, None)]);
    only(&world, "error", "unused", &arn, &["no load balancer has"]).await;

    // It gets nothing.
    world.aws.delete_listener(&own, 5432);
    world.aws.create_listener(&own, 5432, &[(&other, Some(1)), (&arn, Some(0))]);
    only(&world, "error", "unused", &arn, &["weight 0", "port 5432", "modify-listener", "listener/net/db"]).await;
    world.aws.create_listener(&own, 5433, &[(&arn, Some(0))]);
    only(&world, "error", "unused", &arn, &["weight 0"]).await;
    world.aws.create_listener(&own, 5434, &[(&other, Some(9)), (&arn, Some(1))]);
    assert!(findings(&world).await.is_empty());
}

#[tokio::test]
async fn a_listener_is_found_on_whatever_page_it_is() {
    let (world, arn, own) = set_up().await;
    let other = world.aws.create_target_group(TargetGroup::new("other"));
    world.aws.delete_listener(&own, 5432);
    (1..=5).for_each(|port| world.aws.create_listener(&own, port, &[(&other, Some(1)), (&arn, Some(0))]));
    world.aws.create_listener(&own, 5432, &[(&arn, None)]);
    world.aws.set_listener_page_size(2);
    assert!(findings(&world).await.is_empty());
    assert_eq!(world.count("DescribeListeners"), 3);
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
async fn load_balancer_type() {
    let (world, arn, own) = set_up().await;
    world.aws.delete_load_balancer(&own);
    let own = world.aws.create_load_balancer(LoadBalancer::new("web").kind("application"));
    world.aws.create_listener(&own, 80, &[(&arn, None)]);
    only(&world, "error", "load-balancer-type", &own, &["`application`", "--type network", "SubnetIds"]).await;
    assert_eq!(world.count("DescribeListeners"), 0);
}

#[tokio::test]
async fn scheme() {
    let (world, _, own) = set_up().await;
    world.aws.reconfigure_load_balancer(&own, LoadBalancer::internet_facing);
    only(&world, "error", "scheme", &own, &["internet", "--scheme internal"]).await;
}

#[tokio::test]
async fn attributes_of_the_target_group() {
    for (key, value, severity, code, words) in [
        ("proxy_protocol_v2.enabled", "true", "error", "proxy-protocol", "proxy_protocol_v2.enabled,Value=false"),
        ("preserve_client_ip.enabled", "true", "error", "client-ip", "preserve_client_ip.enabled,Value=false"),
        ("stickiness.enabled", "true", "warning", "stickiness", "stickiness.enabled,Value=false"),
        ("load_balancing.cross_zone.enabled", "false", "warning", "cross-zone", "cross_zone.enabled,Value=true"),
        ("deregistration_delay.timeout_seconds", "61", "info", "slow-drain", "61 s"),
        (
            "deregistration_delay.connection_termination.enabled",
            "false",
            "info",
            "slow-drain",
            "connection_termination.enabled,Value=true",
        ),
    ] {
        let (world, arn, _) = set_up().await;
        world.aws.set_attribute(&arn, key, value);
        let command = format!("aws elbv2 modify-target-group-attributes --target-group-arn {arn}");
        only(&world, severity, code, &arn, &[&command, words]).await;
    }
    // At the limit, and with the group's own setting before that of the load balancer.
    let (world, arn, own) = set_up().await;
    world.aws.set_attribute(&arn, "deregistration_delay.timeout_seconds", "60");
    world.aws.set_attribute(&arn, "load_balancing.cross_zone.enabled", "true");
    world.aws.set_attribute(&own, "load_balancing.cross_zone.enabled", "false");
    assert!(findings(&world).await.is_empty());
}

#[tokio::test]
async fn cross_zone_that_is_inherited() {
    let (world, _, own) = set_up().await;
    world.aws.set_attribute(&own, "load_balancing.cross_zone.enabled", "false");
    let command = format!("aws elbv2 modify-load-balancer-attributes --load-balancer-arn {own}");
    only(&world, "warning", "cross-zone", &own, &[&command, "cross_zone.enabled,Value=true"]).await;
}

#[tokio::test]
async fn security_group_rules() {
    let (world, _, own) = set_up().await;
    world.aws.reconfigure_load_balancer(&own, |own| own.security_groups(&["sg-1", "sg-2"]));
    let words = ["sg-1, sg-2", "--security-groups sg-1 sg-2", "private-link-traffic off", &own];
    only(&world, "error", "security-group-rules", &own, &words).await;
    world.aws.reconfigure_load_balancer(&own, LoadBalancer::lets_private_link_in);
    assert!(findings(&world).await.is_empty());
}

#[tokio::test]
async fn no_healthy_target_with_each_of_aws_reasons() {
    let let_in = "--protocol tcp --port 5432";
    for (state, reason, words) in [
        ("unhealthy", "Target.FailedHealthChecks", ["port 5432 of 10.0.1.10", let_in]),
        ("unhealthy", "Target.Timeout", ["port 5432 of 10.0.1.10", let_in]),
        ("unhealthy", "Target.ResponseCodeMismatch", ["HTTP", "--health-check-protocol TCP"]),
        ("unhealthy", "Elb.InternalError", ["AWS itself", "open a case"]),
        ("initial", "Elb.InitialHealthChecking", ["moments ago", "Check again"]),
        ("initial", "Elb.RegistrationInProgress", ["moments ago", "Check again"]),
        ("unused", "Target.IpUnusable", ["reserved for a load balancer", "Hostname"]),
        ("unused", "Target.NotInUse", ["nothing forwards to it yet", "Check again"]),
        ("unused", "Target.InvalidState", ["can't be used", "describe-target-health"]),
        ("unavailable", "Target.HealthCheckDisabled", ["disabled", "--health-check-enabled"]),
        ("unavailable", "Elb.InternalError", ["AWS itself", "open a case"]),
    ] {
        let (world, arn, _) = set_up().await;
        world.aws.set_health(&arn, "10.0.1.10:5432", state, reason, "AWS's words");
        let words = [&words[..], &[reason, "AWS's words", "10.0.1.10:5432", "none of the 1 targets"]].concat();
        only(&world, "error", "no-healthy-target", &arn, &words).await;
        assert_eq!(world.count("DescribeTargetHealth"), 2);
    }
}

#[tokio::test]
async fn what_to_let_in_is_what_the_load_balancer_has() {
    let (world, arn, own) = set_up().await;
    world.aws.set_health(&arn, "10.0.1.10:5432", "unhealthy", "Target.FailedHealthChecks", "Health checks failed");
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
    assert!(found.iter().any(|finding| finding["message"] == "10 more targets are not healthy"), "{found:#?}");
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
async fn slow_health_check() {
    let (world, arn, _) = set_up().await;
    world.aws.set_health_check(&arn, 30, 3);
    only(&world, "info", "slow-health-check", &arn, &["90 s", "--health-check-interval-seconds 10"]).await;
    world.aws.set_health_check(&arn, 30, 2);
    assert!(findings(&world).await.is_empty());
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
}

#[tokio::test]
async fn permission_for_all_that_is_lacking() {
    let (world, arn, _) = set_up().await;
    for action in ["DescribeTargetGroupAttributes", "DescribeLoadBalancers", "DescribeTags"] {
        world.aws.fault(denied(action));
    }
    let mut shared = binding("db.test", &arn);
    shared["ownership"] = json!("shared");
    let world = world.set("BINDINGS", json!([shared]));
    let found = findings(&world).await;
    assert_eq!(codes(&found), ["permission"; 3], "{found:#?}");
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
        let mut reply = report::Reply { version, trigger, dry_run: true, ok: Some(false), findings, groups };
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
