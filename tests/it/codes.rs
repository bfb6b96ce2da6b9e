//! Each code of a check is found where it is so, and not where it is not.

use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use support::{
    World,
    aws::{FakeAws, Fault, FaultKind, LoadBalancer, TargetGroup},
    binding_with,
    dns::Reply,
};

use crate::check::{findings, only, set_up};

/// Changes what is right, given the target group and the load balancer.
type Change = fn(World, &str, &str) -> World;

/// What a finding is about; else it is what is named.
const GROUP: &str = "$group";
const BALANCER: &str = "$balancer";
const LISTENER: &str = "$listener";

fn aws(world: World, change: impl FnOnce(&FakeAws)) -> World {
    change(&world.aws);
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

fn set(world: World, arn: &str, key: &str, value: &str) -> World {
    aws(world, |aws| aws.set_attribute(arn, key, value))
}

fn change(world: World, arn: &str, change: fn(&mut TargetGroup)) -> World {
    aws(world, |aws| aws.reconfigure(arn, change))
}

fn change_lb(world: World, arn: &str, change: impl FnOnce(&mut LoadBalancer)) -> World {
    aws(world, |aws| aws.reconfigure_load_balancer(arn, change))
}

fn speak(world: World, arn: &str, of_group: &'static str, balancer: &str, of_listener: &'static str) -> World {
    world.aws.reconfigure(arn, |group| group.protocol = of_group);
    change_lb(world, balancer, |own| own.listeners[0].protocol = of_listener)
}

/// The listener on port 5432 forwards with these weights, to the group and to another one.
fn weigh(world: World, arn: &str, balancer: &str, weights: [u32; 2]) -> World {
    let other = world.aws.create_target_group(TargetGroup::new("other"));
    let world = change_lb(world, balancer, |own| own.listeners.clear());
    aws(world, |aws| aws.create_listener(balancer, 5432, &[(arn, Some(weights[0])), (&other, Some(weights[1]))]))
}

/// The target has this state for this reason.
fn health(world: World, arn: &str, state: &str, reason: &str) -> World {
    aws(world, |aws| aws.set_health(arn, "10.0.1.10:5432", state, reason, "AWS's words"))
}

/// Beside it there is a target in a zone that the load balancer is not in, for which AWS has these words.
fn outside(world: World, arn: &str, balancer: &str, words: &str) -> World {
    let world = change_lb(world, balancer, |own| own.zones = vec!["us-east-1a"]);
    world.aws.add_target(arn, "10.0.128.10:5432", "unused");
    world.aws.set_health(arn, "10.0.128.10:5432", "unused", "Target.NotInUse", words);
    answer(world, &["10.0.1.10", "10.0.128.10"])
}

/// A load balancer that no longer listens is named before the one that does.
fn beside_former(world: World, arn: &str) -> World {
    let former = LoadBalancer { zones: vec!["us-east-1c"], ..LoadBalancer::new("a") };
    let former = world.aws.create_load_balancer(former);
    world.aws.reconfigure(arn, |group| group.former_load_balancer = Some(former.clone()));
    set(world, &former, "load_balancing.cross_zone.enabled", "true")
}

/// The group is of IPv6 and holds this address, which is all that DNS gives.
fn ipv6(world: World, arn: &str, address: &str) -> World {
    world.aws.reconfigure(arn, |group| group.ipv6 = true);
    world.aws.remove_target(arn, "10.0.1.10:5432");
    world.aws.add_target(arn, &format!("[{address}]:5432"), "healthy");
    world.dns.set_aaaa("db.test", &[address]);
    world.set("ALLOWED_CIDRS", "::/0")
}

fn fail(world: World, action: &str, kind: FaultKind) -> World {
    aws(world.set("AWS_MAX_ATTEMPTS", 1), |aws| aws.fault(Fault::on(action, kind)))
}

fn deny(world: World, action: &str) -> World {
    let message = format!("no identity-based policy allows the elasticloadbalancing:{action} action");
    fail(world, action, FaultKind::error(403, "AccessDenied", &message))
}

/// The database is known by this name, and bound with these fields.
fn bound(world: World, arn: &str, name: &str, fields: Value) -> World {
    world.dns.set_a(name, &["10.0.1.10"]);
    world.set("BINDINGS", json!([binding_with(name, arn, &fields)]))
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
        (|w, _, _| says(w, Reply::NoData { negative_ttl: Some(1) }), "error", "unresolved", "db.test", &["no data", "TargetGroupArn"]),
        (|w, _, _| says(w, Reply::ServFail), "error", "unresolved", "db.test", &["SERVFAIL", "DNS_SERVERS"]),
        (|w, _, _| says(w, Reply::Refused), "error", "unresolved", "db.test", &["REFUSED", "DNS_SERVERS"]),
        (|w, _, _| says(w, Reply::Silent), "error", "unresolved", "db.test", &["time-out", "UDP and TCP"]),
        (|w, _, _| answer(w, &["10.0.1.10", "169.254.1.1", "127.0.0.1"]), "error", "refused-address", "db.test", &["127.0.0.1, 169.254.1.1", "loopback", "ALLOWED_CIDRS"]),
        (|w, _, _| w.set("ALLOWED_CIDRS", "10.0.2.0/24"), "error", "refused-address", "db.test", &["10.0.1.10", "10.0.2.0/24", "AllowedCidrs"]),
        (|w, arn, _| ipv6(w, arn, "64:ff9b::a00:10a"), "error", "refused-address", "db.test", &["64:ff9b::a00:10a", "DNS64", "TargetGroupArn"]),
        (|w, _, _| answer(w, &["10.0.1.10", "54.1.2.3"]), "error", "public-address", "db.test", &["54.1.2.3", "FunctionSubnetIds", "publicly accessible", "VPC itself", "state ALLOWED_CIDRS"]),
        (|w, _, _| answer(w.set("AWS_LAMBDA_FUNCTION_NAME", "orders-function"), &["10.0.1.11"]), "warning", "out-of-step", GROUP, &["register 10.0.1.11:5432 and deregister 10.0.1.10:5432", "--function-name orders-function"]),
        (|w, arn, _| { w.aws.add_target(arn, "10.0.1.9:5432", "healthy"); bound(w, arn, "db.test", json!({"deregister_after_seconds": 600})) }, "warning", "missing-target", "10.0.1.9:5432", &["grace period", "deregister-targets --target-group-arn $group --targets Id=10.0.1.9,Port=5432"]),
        (|w, arn, _| bound(w, arn, READERS, json!({"lookups": 1})), "warning", "flapping", READERS, &["`lookups` 1", "come and go"]),
        (|w, arn, _| bound(w, arn, READERS, json!({"deregister_after_seconds": 0})), "warning", "flapping", READERS, &["`deregister_after_seconds` 0"]),
        (|w, arn, _| bound(w, arn, PROXY, json!({"deregister_after_seconds": 0, "lookups": 1})), "warning", "flapping", PROXY, &["`lookups` 1 and `deregister_after_seconds` 0"]),
        (|w, arn, _| change(w, arn, |group| group.target_type = "instance"), "error", "target-type", GROUP, &["`instance`", "--target-type ip", "TargetGroupArn"]),
        (|w, arn, _| change(w, arn, |group| group.target_type = "lambda"), "error", "target-type", GROUP, &["`lambda`", "--target-type ip", "TargetGroupArn"]),
        (|w, arn, _| change(w, arn, |group| group.target_type = "alb"), "error", "target-type", GROUP, &["`alb`", "--target-type ip", "TargetGroupArn"]),
        (|w, _, lb| aws(w, |aws| aws.delete_load_balancer(lb)), "error", "unused", GROUP, &["no load balancer", "create-listener", "--port 5432", "$group"]),
        (|w, arn, lb| change_lb(weigh(w, arn, lb, [1, 1]), lb, |lb| lb.listeners.clear()), "error", "unused", GROUP, &["no load balancer has"]),
        (|w, arn, lb| { w.aws.reconfigure(arn, |group| group.former_load_balancer = Some(lb.to_owned())); change_lb(w, lb, |lb| lb.listeners.clear()) }, "error", "unused", GROUP, &["no listener of $balancer", "--load-balancer-arn $balancer"]),
        (|w, arn, lb| weigh(w, arn, lb, [0, 1]), "warning", "unused", GROUP, &["weight 0", "port 5432", "modify-listener", "listener/net/db"]),
        (|w, arn, lb| weigh(w, arn, lb, [0, 0]), "error", "unused", GROUP, &["weight 0"]),
        (|w, _, lb| change_lb(w, lb, |lb| lb.kind = "application"), "error", "load-balancer-type", BALANCER, &["`application`", "--type network", "SubnetIds"]),
        (|w, _, lb| change_lb(w, lb, |lb| lb.state = "provisioning"), "error", "load-balancer-state", BALANCER, &["`provisioning`", "AWS's reason", "in some minutes"]),
        (|w, _, lb| change_lb(w, lb, |lb| lb.state = "active_impaired"), "error", "load-balancer-state", BALANCER, &["`active_impaired`", "addresses"]),
        (|w, _, lb| change_lb(w, lb, |lb| lb.state = "failed"), "error", "load-balancer-state", BALANCER, &["`failed`", "create-load-balancer"]),
        (|w, _, lb| change_lb(w, lb, |lb| lb.scheme = "internet-facing"), "error", "scheme", BALANCER, &["internet", "--scheme internal"]),
        (|w, _, lb| change_lb(w, lb, |lb| lb.security_groups = vec!["sg-1", "sg-2"]), "error", "security-group-rules", BALANCER, &["sg-1, sg-2", "--security-groups sg-1 sg-2", "private-link-traffic off", "$balancer"]),
        // Of which client IP preservation can't be turned off.
        (|w, arn, lb| set(speak(w, arn, "UDP", lb, "UDP"), arn, "preserve_client_ip.enabled", "true"), "error", "protocol", GROUP, &["speaks UDP", "--protocol TCP"]),
        (|w, arn, lb| speak(w, arn, "TCP_UDP", lb, "TCP_UDP"), "error", "protocol", GROUP, &["speaks TCP_UDP", "create-target-group"]),
        (|w, arn, lb| speak(w, arn, "TCP_QUIC", lb, "TCP_QUIC"), "error", "protocol", GROUP, &["speaks TCP_QUIC"]),
        (|w, arn, lb| speak(w, arn, "TCP", lb, "TCP_UDP"), "error", "protocol", LISTENER, &["speaks TCP_UDP", "modify-listener", "--protocol TCP"]),
        (|w, arn, lb| speak(w, arn, "TCP", lb, "TLS"), "warning", "protocol", LISTENER, &["TLS", "modify-listener --listener-arn $listener --protocol TCP"]),
        (|w, arn, lb| speak(w, arn, "TLS", lb, "TCP"), "warning", "protocol", GROUP, &["TLS", "create-target-group"]),
        (|w, arn, _| set(w, arn, "proxy_protocol_v2.enabled", "true"), "error", "proxy-protocol", GROUP, &["modify-target-group-attributes --target-group-arn $group", "proxy_protocol_v2.enabled,Value=false"]),
        (|w, arn, _| set(w, arn, "preserve_client_ip.enabled", "true"), "error", "client-ip", GROUP, &["preserve_client_ip.enabled,Value=false"]),
        (|w, arn, _| set(w, arn, "stickiness.enabled", "true"), "warning", "stickiness", GROUP, &["stickiness.enabled,Value=false"]),
        (|w, arn, _| set(w, arn, "load_balancing.cross_zone.enabled", "false"), "warning", "cross-zone", GROUP, &["cross_zone.enabled,Value=true"]),
        (|w, _, lb| set(w, lb, "load_balancing.cross_zone.enabled", "false"), "warning", "cross-zone", BALANCER, &["modify-load-balancer-attributes --load-balancer-arn $balancer", "cross_zone.enabled,Value=true"]),
        (|w, arn, _| set(w, arn, "deregistration_delay.timeout_seconds", "61"), "info", "slow-drain", GROUP, &["61 s"]),
        (|w, arn, _| set(w, arn, "deregistration_delay.connection_termination.enabled", "false"), "info", "slow-drain", GROUP, &["connection_termination.enabled,Value=true"]),
        (|w, arn, _| change(w, arn, |group| (group.check_interval, group.unhealthy_threshold) = (30, 3)), "info", "slow-health-check", GROUP, &["90 s", "--health-check-interval-seconds 10"]),
        (|w, arn, _| change(w, arn, |group| (group.check_protocol, group.check_port) = ("HTTP", "traffic-port")), "warning", "health-check", GROUP, &["HTTP", "--health-check-protocol TCP --health-check-port traffic-port"]),
        (|w, arn, _| change(w, arn, |group| (group.check_protocol, group.check_port) = ("TCP", "8008")), "warning", "health-check", GROUP, &["`8008`", "--target-group-arn $group"]),
        (|w, arn, _| health(beside_former(w, arn), arn, "unhealthy", "Target.Timeout"), "error", "no-healthy-target", GROUP, &["subnet-us-east-1a, subnet-us-east-1b"]),
        (|w, arn, lb| health(change_lb(w, lb, |lb| (lb.security_groups, lb.enforces_inbound_rules) = (vec!["sg-1"], false)), arn, "unhealthy", "Target.Timeout"), "error", "no-healthy-target", GROUP, &["--source-group sg-1"]),
        // What was registered moments ago says more soon.
        (|w, arn, _| aws(answer(w, &["10.0.1.9", "10.0.1.10", "10.0.1.11"]), |aws| { aws.add_target(arn, "10.0.1.9:5432", "unhealthy"); aws.add_target(arn, "10.0.1.11:5432", "initial"); }), "warning", "unhealthy-target", "10.0.1.9:5432", &["Target.FailedHealthChecks", "--port 5432"]),
        (|w, arn, lb| outside(w, arn, lb, "Target is in an Availability Zone that is not enabled for the load balancer"), "warning", "zone-not-enabled", "10.0.128.10:5432", &["us-east-1b is not enabled", "set-subnets", "--subnets subnet-us-east-1a SUBNET", "$balancer"]),
        (|w, arn, lb| outside(beside_former(w, arn), arn, lb, "Whatever the words for people are"), "warning", "zone-not-enabled", "10.0.128.10:5432", &["us-east-1b is not enabled", "--load-balancer-arn $balancer"]),
        (|w, _, _| fail(w, "DescribeTargetHealth", FaultKind::health_unavailable()), "error", "failed", GROUP, &["HealthUnavailable", "AWS itself"]),
        (|w, _, _| fail(w, "DescribeTargetHealth", FaultKind::throttling()), "error", "failed", GROUP, &["Rate exceeded", "bindings"]),
        (|w, _, _| fail(w, "DescribeListeners", FaultKind::error(400, "ValidationError", "no")), "error", "failed", BALANCER, &["ValidationError", "Mend"]),
        (|w, _, _| fail(w, "DescribeTargetGroupAttributes", FaultKind::body(200, "<html>")), "error", "failed", GROUP, &["can't be read", "Mend"]),
    ];
    for (change, severity, code, subject, words) in rows {
        let (world, arn, balancer) = set_up().await;
        let listener = format!("{}/{:016x}", balancer.replace(":loadbalancer/", ":listener/"), 0);
        let world = change(world, &arn, &balancer);
        let fill = |word: &&str| word.replace(GROUP, &arn).replace(BALANCER, &balancer).replace(LISTENER, &listener);
        let words: Vec<_> = words.iter().map(fill).collect();
        only(&world, severity, code, &fill(subject), &words.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
}

#[tokio::test]
async fn each_reason_why_no_target_is_healthy_has_its_advice() {
    let connects: &[&str] =
        &["port 5432 of 10.0.1.10", "--protocol tcp --port 5432", "subnet-us-east-1a, subnet-us-east-1b", "--cidr"];
    let rows: [(&str, &str, &[&str]); 10] = [
        ("unhealthy", "Target.FailedHealthChecks", connects),
        ("unhealthy", "Target.Timeout", connects),
        ("unhealthy", "Target.ResponseCodeMismatch", &["HTTP", "--health-check-protocol TCP"]),
        ("unhealthy", "Elb.InternalError", &["AWS itself", "open a case"]),
        ("initial", "Elb.InitialHealthChecking", &["moments ago", "Check again"]),
        ("initial", "Elb.RegistrationInProgress", &["moments ago", "Check again"]),
        ("unused", "Target.IpUnusable", &["reserved for a load balancer", "Hostname"]),
        ("unused", "Target.NotInUse", &["nothing forwards to it yet", "Check again"]),
        ("unused", "Target.InvalidState", &["can't be used", "describe-target-health"]),
        ("unavailable", "Target.HealthCheckDisabled", &["disabled", "--health-check-enabled"]),
    ];
    for (state, reason, words) in rows {
        let (world, arn, _) = set_up().await;
        let world = health(world, &arn, state, reason);
        let severity = if state == "initial" { "info" } else { "error" };
        let told = format!("({reason}: AWS's words)");
        let words = [words, &["none of the 1 targets", &told]].concat();
        only(&world, severity, "no-healthy-target", &arn, &words).await;
    }
}

#[tokio::test]
async fn each_action_that_the_role_lacks_is_found() {
    // Tags tell which names rotate.
    let of_group = ["DescribeTargetGroups", "DescribeTargetHealth", "DescribeTargetGroupAttributes", "DescribeTags"];
    let of_balancer = ["DescribeLoadBalancers", "DescribeLoadBalancerAttributes", "DescribeListeners"];
    for action in of_group.into_iter().chain(of_balancer) {
        let (world, arn, balancer) = set_up().await;
        let subject = if of_group.contains(&action) { arn } else { balancer };
        let allow = format!("Allow elasticloadbalancing:{action} ");
        only(&deny(world, action), "error", "permission", &subject, &[&allow, "no identity-based policy"]).await;
    }
}

#[tokio::test]
#[rustfmt::skip]
async fn several_codes_come_in_their_order_and_errors_first() {
    let rows: &[(Change, &[(&str, &str)])] = &[
        (|w, arn, lb| {
            let w = set(set(w, arn, "deregistration_delay.timeout_seconds", "300"), arn, "proxy_protocol_v2.enabled", "true");
            let w = set(answer(w, &["10.0.1.11"]), lb, "load_balancing.cross_zone.enabled", "false");
            change_lb(w, lb, |lb| lb.scheme = "internet-facing")
        }, &[("error", "scheme"), ("error", "proxy-protocol"), ("warning", "out-of-step"), ("warning", "cross-zone"), ("info", "slow-drain")]),
        // What a target lacks whose group is not used is that use, which may be meant not to be.
        (|w, arn, lb| { w.aws.delete_load_balancer(lb); health(w, arn, "unused", "Target.NotInUse") }, &[("error", "unused"), ("error", "no-healthy-target")]),
        (|w, arn, lb| health(weigh(w, arn, lb, [0, 1]), arn, "unused", "Target.NotInUse"), &[("warning", "unused"), ("warning", "no-healthy-target")]),
        // What is known is judged whatever else is not.
        (|w, arn, _| deny(set(w, arn, "proxy_protocol_v2.enabled", "true"), "DescribeListeners"), &[("error", "permission"), ("error", "proxy-protocol")]),
        (|w, _, _| deny(deny(w, "DescribeTargetGroupAttributes"), "DescribeLoadBalancers"), &[("error", "permission"), ("error", "permission")]),
        // What can be no target takes nobody's place.
        (|w, _, _| answer(w, &["54.1.2.3"]), &[("error", "public-address"), ("warning", "missing-target")]),
        // No target, and one that drains.
        (|w, arn, _| aws(w, |aws| aws.remove_target(arn, "10.0.1.10:5432")), &[("error", "no-healthy-target"), ("warning", "out-of-step")]),
        (|w, arn, _| aws(w, |aws| aws.set_state(arn, "10.0.1.10:5432", "draining")), &[("error", "no-healthy-target"), ("warning", "out-of-step")]),
        (|w, arn, lb| health(change_lb(w, lb, |lb| lb.zones = vec!["us-east-1b"]), arn, "unused", "Target.NotInUse"), &[("error", "no-healthy-target"), ("warning", "zone-not-enabled")]),
    ];
    for (change, codes) in rows {
        let (world, arn, balancer) = set_up().await;
        let found = findings(&change(world, &arn, &balancer)).await;
        let found: Vec<_> = found.iter().map(|finding| (&finding["severity"], &finding["code"])).collect();
        assert_eq!(json!(found), json!(codes));
    }
}

#[tokio::test]
#[rustfmt::skip]
async fn nothing_is_found_at_the_limits_of_what_is_right() {
    let rows: &[Change] = &[
        |w, arn, _| set(w, arn, "deregistration_delay.timeout_seconds", "60"),
        // The group's own setting goes before that of the load balancer.
        |w, arn, lb| set(set(w, arn, "load_balancing.cross_zone.enabled", "true"), lb, "load_balancing.cross_zone.enabled", "false"),
        |w, _, lb| change_lb(w, lb, |lb| (lb.security_groups, lb.enforces_inbound_rules) = (vec!["sg-1"], false)),
        |w, arn, _| change(w, arn, |group| (group.check_interval, group.unhealthy_threshold) = (30, 2)),
        |w, arn, _| change(w, arn, |group| (group.check_protocol, group.check_port) = ("TCP", "5432")),
        |w, arn, lb| weigh(w, arn, lb, [1, 9]),
        // On a later page, too.
        |w, arn, lb| aws(weigh(w, arn, lb, [0, 1]), |aws| { aws.create_listener(lb, 5433, &[(arn, None)]); aws.reconfigure_load_balancer(lb, |lb| lb.page_size = 1); }),
        |w, arn, _| bound(w, arn, READERS, json!({})),
        // It has no more addresses than an answer of such a name can hold.
        |w, arn, _| bound(w, arn, BALANCED, json!({"lookups": 1})),
        |w, arn, _| ipv6(w, arn, "2600:1f18:1:100::10"),
        |w, arn, _| { w.aws.add_target(arn, "10.0.1.9:5432", "healthy"); bound(w, arn, "db.test", json!({"ownership": "shared"})) },
    ];
    for (number, change) in rows.iter().enumerate() {
        let (world, arn, balancer) = set_up().await;
        let world = change(world, &arn, &balancer);
        assert_eq!(findings(&world).await, [] as [Value; 0], "row {number}");
    }
}
