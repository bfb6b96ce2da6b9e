//! The check: what it costs, what it advises, and what it never does.

use std::{collections::BTreeSet, time::Duration};

use nlb_hostname_targets::{
    binding::Group,
    check::Check,
    finding::{Code, Finding},
    network::AllowedNetworks,
    plan::HoldReason,
    report::{self, GroupReport, HeldTarget, TargetCounts, Trigger},
    set_up::SetUp,
    target::Target,
};
use serde_json::{Value, json};
use support::{
    ARN, World,
    aws::{Fault, FaultKind, LoadBalancer, TargetGroup},
    binding, binding_with, invoke, invoke_within,
};

/// A set-up that is as the template makes it: a database, its target group, and the load balancer in front of that.
pub(crate) async fn set_up() -> (World, String, String) {
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
        let fields: Vec<_> = finding.as_object().unwrap().keys().collect();
        assert_eq!(fields, ["advice", "code", "message", "severity", "subject"]);
    }
    reply
}

/// The findings of the first target group.
pub(crate) async fn findings(world: &World) -> Vec<Value> {
    reply(world).await["groups"][0]["findings"].as_array().unwrap().clone()
}

pub(crate) fn codes(findings: &[Value]) -> Vec<&str> {
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

/// The only finding, which has to be of this severity, code and subject, and to hold these words.
pub(crate) async fn only(world: &World, severity: &str, code: &str, subject: &str, words: &[&str]) {
    let found = findings(world).await;
    assert_eq!(codes(&found), [code], "{found:#?}");
    expect(&found[0], severity, code, subject, words);
}

pub(crate) fn expect(finding: &Value, severity: &str, code: &str, subject: &str, words: &[&str]) {
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

#[tokio::test]
async fn a_check_takes_seven_calls_and_one_query() {
    let (world, _, _) = set_up().await;
    let function = world.function().await;
    for _ in 0..2 {
        world.aws.clear_calls();
        let reply = invoke(&function, json!({"check": true})).await.unwrap();
        assert_eq!(json!([reply["ok"], reply["dry_run"], reply["trigger"]]), json!([true, true, "direct"]));
        assert_eq!(json!([reply["groups"][0]["findings"], reply["groups"][0]["outcome"]]), json!([[], "in_sync"]));
        assert_eq!((world.actions().len(), BTreeSet::from_iter(world.actions()).len()), (7, 7));
    }
    assert_eq!(world.dns.queries().len(), 2);
}

#[tokio::test]
async fn only_a_check_has_findings() {
    let (world, _, _) = set_up().await;
    for event in [json!({}), json!({"dry_run": true}), json!({"check": false})] {
        let reply = world.run(event).await.unwrap();
        assert!(reply.get("ok").is_none() && reply["groups"][0].get("findings").is_none(), "{reply}");
    }
    assert_eq!(world.run(json!({"check": true, "dry_run": true})).await.unwrap()["ok"], true);
}

#[tokio::test]
async fn a_public_range_of_a_vpc_is_followed_where_it_is_stated() {
    let (world, arn) = World::with_database(&["11.0.1.10"], &[]).await;
    world.aws.reconfigure(&arn, |group| group.vpc_subnets = &["11.0.0.0/17"]);
    world.failure(json!({})).await;
    let world = world.set("ALLOWED_CIDRS", "11.0.0.0/16");
    assert_eq!(world.sync().await.unwrap()["registered"], json!(["11.0.1.10:5432"]));
    world.aws.offer(&arn);
    assert_eq!(findings(&world).await, [] as [Value; 0]);
}

#[tokio::test]
async fn advice_that_runs_the_function_acts_on_no_other_group() {
    let (world, arn, _) = set_up().await;
    let own = world.aws.create_target_group(TargetGroup::new("own"));
    world.aws.offer(&own);
    world.dns.set_a("other.test", &["10.0.1.11"]);
    let world = world.set("BINDINGS", json!([binding("other.test", &arn)]));
    let stated = json!({"port": 6543, "deregister_after_seconds": 60, "ownership": "shared", "lookups": 2});
    let stated = binding_with("db.test", &own, &stated);
    for bindings in [json!([binding("db.test", &own)]), json!([stated])] {
        let reply = world.run(json!({"check": true, "bindings": bindings})).await.unwrap();
        let found = reply["groups"][0]["findings"].as_array().unwrap();
        assert_eq!(codes(found), ["no-healthy-target", "out-of-step"]);
        assert!(found.iter().all(|finding| payload(finding) == json!({"bindings": bindings})), "{found:#?}");
    }
    // Without any in the event, those of the group are meant.
    let found = findings(&world).await;
    assert_eq!(payload(&found[0]), json!({"bindings": [binding("other.test", &arn)]}));
    world.run(payload(&found[0])).await.unwrap();
    assert_eq!(world.aws.registered(&arn), support::targets(&[11]));
    assert!(world.aws.registered(&own).is_empty());
}

/// So many groups behind one load balancer, each with a healthy target.
async fn fleet(count: usize) -> (World, Vec<String>) {
    let world = World::new().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let own = world.aws.create_load_balancer(LoadBalancer::new("db"));
    let make = |number| {
        let arn = world.aws.create_target_group(TargetGroup::new(&format!("db-{number}")));
        world.aws.add_target(&arn, "10.0.1.10:5432", "healthy");
        world.aws.create_listener(&own, 5432, &[(&arn, None)]);
        arn
    };
    let arns: Vec<_> = (0..count).map(make).collect();
    let bindings: Vec<_> = arns.iter().map(|arn| binding("db.test", arn)).collect();
    (world.set("BINDINGS", json!(bindings)), arns)
}

fn group() -> Group {
    let bindings = serde_json::from_value::<Vec<_>>(json!([binding("db.test", ARN)])).unwrap();
    Group::from_bindings("bindings", &bindings).unwrap().remove(0)
}

#[test]
fn what_a_run_tells_of_names_and_missing_targets_is_found() {
    use HoldReason::*;
    let group = &group();
    let (allowed, set_up) = (&AllowedNetworks::default(), &SetUp::default());
    let find = |report: &GroupReport| json!(Check { group, report, set_up, allowed, function: "" }.findings());
    let mut report = GroupReport::new(group);
    report.rotating = report.hostnames.clone();
    expect(&find(&report)[0], "warning", "rotating-name", "db.test", &["deregister_after_seconds"]);

    let stay = [Grace, Evidence, Initial, OwnedElsewhere, RegistrationFailed, DeregistrationRefused, StateUnknown];
    for reason in stay.into_iter().chain([Foreign, RefusedAddress, Unresolved]) {
        let mut report = GroupReport::new(group);
        report.targets = Some(TargetCounts { registered: 30, healthy: 30 });
        let target = |host| Target { address: [10, 0, 1, host].into(), port: 5432.try_into().unwrap() };
        report.held = (0..30).map(|host| HeldTarget { target: target(host), reason }).collect();
        let found = find(&report);
        let count = if stay.contains(&reason) { 30 } else { 0 };
        assert_eq!(codes(found.as_array().unwrap()), vec!["missing-target"; count]);
        if count > 0 {
            expect(&found[0], "warning", "missing-target", "10.0.1.0:5432", &[reason.as_str()]);
        }
    }
}

#[tokio::test]
async fn a_group_that_was_deleted_spoils_no_other() {
    let (world, arns) = fleet(21).await;
    world.aws.delete_target_group(&arns[3]);
    let reply = reply(&world).await;
    for (number, group) in reply["groups"].as_array().unwrap().iter().enumerate() {
        let found = codes(group["findings"].as_array().unwrap());
        assert_eq!((found.contains(&"failed"), found.contains(&"slow-drain")), (number == 3, number != 3), "{group:#}");
    }
    // The load balancer is one.
    for action in ["DescribeListeners", "DescribeLoadBalancerAttributes", "DescribeLoadBalancers"] {
        assert_eq!(world.count(action), 1, "{action}");
    }
}

#[tokio::test]
async fn a_load_balancer_that_was_deleted_is_none() {
    for is_left_out in [false, true] {
        let (world, arns) = fleet(2).await;
        let own = world.aws.offer(&arns[0]);
        world.aws.delete_load_balancer(&own);
        // It is still said to have the group.
        world.aws.reconfigure(&arns[0], |group| group.former_load_balancer = Some(own));
        world.aws.leave_out_load_balancers(is_left_out);
        let reply = reply(&world).await;
        let groups = reply["groups"].as_array().unwrap().iter();
        let found: Vec<_> = groups.map(|group| codes(group["findings"].as_array().unwrap())).collect();
        assert_eq!(found, [vec!["cross-zone"], vec!["cross-zone", "slow-drain"]], "{reply:#}");
    }
}

#[tokio::test]
async fn a_call_that_hangs_defers_its_group_alone() {
    let (world, arns) = fleet(2).await;
    world.aws.fault(Fault::on("DescribeTargetGroupAttributes", FaultKind::Hang).arn(&arns[0]));
    let function = world.function().await;
    let reply = invoke_within(&function, json!({"check": true}), Duration::from_secs(6)).await.unwrap();
    let [first, second] = &reply["groups"].as_array().unwrap()[..] else { panic!("{reply}") };
    assert_eq!((&first["outcome"], &second["outcome"]), (&json!("deferred"), &json!("in_sync")));
    assert_eq!(codes(first["findings"].as_array().unwrap()), ["not-checked"]);
    expect(&first["findings"][0], "error", "not-checked", &arns[0], &["time", "bindings", "time-out"]);
    assert_eq!(codes(second["findings"].as_array().unwrap()), ["cross-zone", "slow-drain"]);
}

#[tokio::test]
async fn a_check_forgets_nothing_learns_nothing_and_logs_what_it_found() {
    let (world, arn, _) = set_up().await;
    world.dns.set_a("db.test", &["10.0.1.11"]);
    let (log, _guard) = support::Log::start();
    let function = world.function().await;
    let check = invoke(&function, json!({"check": true})).await.unwrap();
    assert_eq!(check["groups"][0]["registered"], json!(["10.0.1.11:5432"]));
    let text = log.text();
    assert!(text.contains("\"code\":\"out-of-step\"") && text.contains(&arn), "{text}");
    invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.aws.registered(&arn), support::targets(&[11]));
}

#[test]
fn a_reply_that_is_too_long_keeps_the_worst_finding_of_each_group() {
    let unhealthy = |number| Finding::new(Code::UnhealthyTarget, number, "w".repeat(500), "a".repeat(500));
    let mut report = GroupReport::new(&group());
    report.findings =
        Some([Finding::new(Code::Scheme, ARN, "m", "a")].into_iter().chain((0..20).map(unhealthy)).collect());
    let (trigger, groups) = (Trigger::Direct, vec![report; 600]);
    let mut reply =
        report::Reply { version: "0", trigger, dry_run: true, ok: Some(false), findings: vec![], groups, left_out: 0 };
    reply.fit();
    assert!(serde_json::to_string(&reply).unwrap().len() <= 5_000_000);
    assert!(reply.groups.iter().all(|group| group.findings.as_ref().unwrap()[0].code == Code::Scheme));
}
