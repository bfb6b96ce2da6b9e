//! Target groups that say by their tags what they follow.

use std::{collections::BTreeMap, time::Duration};

use lambda_runtime::Diagnostic;
use nlb_hostname_targets::function::Function;
use serde_json::{Value, json};
use support::{
    Log, World, advance,
    aws::{Fault, FaultKind, TargetGroup},
    binding, failover, invoke, invoke_within, parse, set, targets, waiting,
};

const HOSTNAME: &str = "nlb-hostname-targets:hostname";

/// A world whose function looks for tags, with a target group that has one: `db.test`, which resolves to 10.0.1.10.
async fn tagged() -> (World, String) {
    let world = World::new().await.set("DISCOVERY", "tags");
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let arn = group(&world, "db", "db.test");
    (world, arn)
}

/// A target group of this name that follows `hostnames`.
fn group(world: &World, name: &str, hostnames: &str) -> String {
    let arn = world.aws.create_target_group(TargetGroup::new(name));
    world.aws.set_tag(&arn, HOSTNAME, hostnames);
    arn
}

async fn message(function: &Function) -> String {
    invoke(function, json!({})).await.expect_err("the run has to fail").to_string()
}

fn arns(reply: &Value) -> Vec<&str> {
    let groups = reply["groups"].as_array().unwrap();
    groups.iter().map(|group| group["target_group_arn"].as_str().unwrap()).collect()
}

/// What GetResources fails with where the role may not call it.
fn denied() -> FaultKind {
    FaultKind::error(400, "AccessDeniedException", "not authorized to perform: tag:GetResources")
}

/// Sets tags of ours.
fn tag(world: &World, arn: &str, tags: &[(&str, &str)]) {
    tags.iter().for_each(|(name, value)| world.aws.set_tag(arn, &format!("nlb-hostname-targets:{name}"), value));
}

#[tokio::test]
async fn a_target_group_is_bound_by_its_tags() {
    let (world, arn) = tagged().await;
    for (hostname, address) in [("two.test", "10.0.1.2"), ("three.test", "10.0.1.3"), ("four.test", "10.0.1.4")] {
        world.dns.set_a(hostname, &[address]);
    }
    world.aws.create_target_group(TargetGroup::new("untagged"));
    world.aws.add_target(&arn, "10.0.1.9:5432", "healthy");
    let reply = world.run(json!({"dry_run": true})).await.unwrap();
    assert_eq!((arns(&reply), &reply["groups"][0]["hostnames"]), (vec![arn.as_str()], &json!(["db.test"])));
    assert_eq!(reply["groups"][0]["registered"], json!(["10.0.1.10:5432"]));
    assert_eq!(world.count("GetResources"), 1);
    assert_eq!((world.writes(), world.aws.registered(&arn)), (vec![], targets(&[9])));
    world.run(json!({})).await.unwrap();
    assert_eq!(world.aws.registered(&arn), targets(&[10]));

    let hostnames =
        [("hostname", "db.test  Two.Test."), ("hostname-2", "three.test"), ("hostname-10", "four.test db.test")];
    let others = [("port", "6000"), ("deregister-after-seconds", "90"), ("ownership", "shared"), ("lookups", "2")];
    tag(&world, &arn, &[&hostnames[..], &others].concat());
    let group = world.sync().await.unwrap();
    assert_eq!(group["hostnames"], json!(["db.test", "four.test", "three.test", "two.test"]));
    let registered = ["10.0.1.2:6000", "10.0.1.3:6000", "10.0.1.4:6000", "10.0.1.10:6000"];
    assert_eq!(group["registered"], json!(registered));
    assert_eq!((&group["ownership"], &group["deregister_after_seconds"]), (&json!("shared"), &json!(90)));
    assert!(group["kinds"].as_array().unwrap().iter().all(|kind| kind["lookups"] == 2), "{group}");
}

#[tokio::test]
async fn without_discovery_or_a_tag_nothing_is_bound() {
    for value in ["", "off"] {
        let (world, arn) = tagged().await;
        let world = world.set("DISCOVERY", value);
        let message = world.failure(json!({})).await;
        assert!(message.contains("BINDINGS") && message.contains("DISCOVERY=tags"), "{message}");
        assert_eq!((world.count("GetResources"), world.aws.registered(&arn)), (0, set(&[])));
    }
    let world = World::new().await.set("DISCOVERY", "tags");
    world.aws.create_target_group(TargetGroup::new("untagged"));
    let (log, _guard) = Log::start();
    assert_eq!(world.run(json!({})).await.unwrap()["groups"], json!([]));
    assert!(log.text().contains("no target group is bound"), "{}", log.text());
}

#[tokio::test]
async fn tags_are_asked_for_once_in_a_minute_of_an_execution_environment() {
    let (world, _) = tagged().await;
    let function = world.function().await;
    for (seconds, calls) in [(0, 1), (0, 1), (30, 1), (30, 2), (30, 2), (30, 3)] {
        advance(seconds);
        invoke(&function, json!({})).await.unwrap();
        assert_eq!(world.count("GetResources"), calls);
    }
    // Neither where the clock goes back.
    advance(-600);
    invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.count("GetResources"), 4);
    invoke(&world.function().await, json!({})).await.unwrap();
    assert_eq!(world.count("GetResources"), 5);
}

#[tokio::test]
async fn tags_are_not_asked_for_while_it_polls_or_watches() {
    for event in [json!({}), failover()] {
        let (world, arn) = tagged().await;
        let world = world.set("POLL_INTERVAL_SECONDS", 1);
        let function = world.function().await;
        let invocation = invoke_within(&function, event.clone(), Duration::from_secs(7));
        let change = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            advance(300);
            world.dns.set_a("db.test", &["10.0.1.11"]);
            group(&world, "late", "db.test");
        };
        let (reply, ()) = tokio::join!(invocation, change);
        assert_eq!(arns(&reply.unwrap()), [&arn], "{event}");
        assert_eq!(world.aws.registered(&arn), targets(&[11]), "it did poll");
        assert_eq!(world.count("GetResources"), 1, "{event}");
    }
}

#[tokio::test]
async fn what_is_in_bindings_goes_by_bindings_with_a_warning() {
    for tag in ["other.test", "not_a_name!", "10.0.0.1"] {
        let (world, arn) = tagged().await;
        world.aws.set_tag(&arn, HOSTNAME, tag);
        world.dns.set_a("other.test", &["10.0.1.77"]);
        let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
        let (log, _guard) = Log::start();
        let function = world.function().await;
        for _ in 0..2 {
            let reply = invoke(&function, json!({})).await.unwrap();
            let group = &reply["groups"][0];
            assert_eq!((arns(&reply).len(), &group["hostnames"]), (1, &json!(["db.test"])), "{tag}");
            let warning = group["error"].as_str().unwrap();
            assert!(warning.contains("BINDINGS") && warning.contains(HOSTNAME), "{warning}");
        }
        assert!(log.text().contains("by its tags and by BINDINGS"), "{}", log.text());
        assert_eq!(world.aws.registered(&arn), targets(&[10]));
        assert_eq!(world.sum("Failures"), 0.0);
    }
}

#[tokio::test]
async fn a_tag_that_says_nothing_valid_fails_its_own_group_alone() {
    let wrong = [
        ("hostname", "|10.0.1.10|db..test|db.test https://db.test|db.test:5432"),
        ("hostname-2", "|-db.test"),
        ("port", "|0|65536|99999999999999999999999|+5432|postgresql"),
        ("deregister-after-seconds", "-1|1.5|4294967296"),
        ("ownership", "Shared|mine"),
        ("lookups", "0|51"),
        // What is not known may be a mistyped one.
        ("ports", "5433"),
        ("hostname-", "db.test"),
        ("hostname-two", "db.test"),
    ];
    let rows: Vec<_> =
        wrong.iter().flat_map(|(name, values)| values.split('|').map(move |value| (name, value))).collect();
    let (world, good) = tagged().await;
    let add = |(number, (name, value)): (usize, &(&&str, &str))| {
        let (arn, tag) = (group(&world, &format!("wrong-{number}"), "db.test"), format!("nlb-hostname-targets:{name}"));
        world.aws.add_target(&arn, "10.0.1.9:5432", "healthy");
        world.aws.set_tag(&arn, &tag, value);
        (arn, format!("the tag {tag} is `{value}`: "))
    };
    let wrong: Vec<_> = rows.iter().enumerate().map(add).collect();
    let message = world.failure(json!({})).await;
    assert!(message.starts_with(&format!("{0} of {1} target groups failed", rows.len(), rows.len() + 1)), "{message}");
    for (arn, problem) in wrong {
        assert!(message.contains(&format!("{arn}: {problem}")), "{arn} {problem}: {message}");
        assert_eq!(world.aws.registered(&arn), targets(&[9]), "{problem}");
    }
    assert_eq!((message.contains(&good), world.aws.registered(&good)), (false, targets(&[10])), "{message}");

    // Each wrong tag is named.
    let (world, arn) = tagged().await;
    world.aws.set_tag(&arn, HOSTNAME, "db.test 10.0.0.1 two.test");
    world.aws.set_tag(&arn, "nlb-hostname-targets:host", "db.test");
    let message = world.failure(json!({})).await;
    for part in [HOSTNAME, "`10.0.0.1` is", "nlb-hostname-targets:host is"] {
        assert_eq!(message.matches(part).count(), 1, "{part}: {message}");
    }
}

#[tokio::test]
async fn a_group_whose_tag_is_taken_away_is_left_as_it_is() {
    let (world, arn) = tagged().await;
    let (log, _guard) = Log::start();
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    world.aws.remove_tag(&arn, HOSTNAME);
    world.dns.set_a("db.test", &["10.0.1.11"]);
    advance(60);
    for function in [function, world.function().await] {
        let reply = invoke(&function, json!({})).await.unwrap();
        assert_eq!(arns(&reply), [""; 0]);
        assert_eq!(world.aws.registered(&arn), targets(&[10]));
    }
    assert!(log.text().contains("no longer bound by its tags"), "{}", log.text());
}

#[tokio::test]
async fn a_changed_and_a_new_tag_count_in_the_run_that_finds_them() {
    let (world, arn) = tagged().await;
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    world.dns.set_a("db.test", &["10.0.1.11"]);
    world.dns.set_a("two.test", &["10.0.1.2"]);
    world.aws.set_tag(&arn, HOSTNAME, "two.test");
    let new = group(&world, "a-new-one", "db.test");
    assert_eq!(arns(&invoke(&function, json!({})).await.unwrap()), [&arn]);
    assert_eq!(world.aws.registered(&arn), targets(&[11]), "as it is known");
    advance(60);
    world.dns.set_a("db.test", &["10.0.1.12"]);
    let reply = invoke(&function, json!({})).await.unwrap();
    let mut both = [&arn, &new];
    both.sort();
    assert_eq!(arns(&reply), both);
    assert_eq!((world.aws.registered(&arn), world.aws.registered(&new)), (targets(&[2]), targets(&[12])));
    let sent: Vec<_> =
        world.aws.calls_of("RegisterTargets").into_iter().filter(|call| call.arn.as_ref() == Some(&arn)).collect();
    let sent = sent.iter().flat_map(|call| &call.targets);
    assert!(sent.into_iter().all(|target| target.id != "10.0.1.12"), "by the old tag nothing was done");
    // And so does one that can't be read.
    world.aws.set_tag(&arn, HOSTNAME, "2");
    world.aws.set_tag(&arn, "nlb-hostname-targets:port", "x");
    world.dns.set_a("two.test", &["10.0.1.3"]);
    advance(60);
    let message = message(&function).await;
    assert!(message.starts_with("1 of 2 target groups failed"), "{message}");
    assert_eq!(world.aws.registered(&arn), targets(&[2]));
}

#[tokio::test]
async fn where_the_tags_cannot_be_had_what_is_known_goes_on_and_the_run_fails() {
    let throttled = FaultKind::error(400, "ThrottledException", "Rate exceeded");
    let failures = [
        (denied(), "tag:GetResources", 1),
        (throttled, "ThrottledException: Rate exceeded", 0),
        (FaultKind::body(200, ""), "a reply that can't be read", 0),
        (FaultKind::SlowReply(Duration::from_secs(9)), "given up after 3.0 s", 0),
    ];
    for (fault, text, after) in failures {
        let (world, arn) = tagged().await;
        let other = world.aws.create_target_group(TargetGroup::new("in-bindings"));
        let world = world.set("BINDINGS", json!([binding("db.test", &other)]));
        let function = world.function().await;
        invoke(&function, json!({})).await.unwrap();
        world.dns.set_a("db.test", &["10.0.1.11"]);
        advance(60);
        world.aws.clear_calls();
        // Half a list is none.
        world.aws.set_listing_page_size(1);
        world.aws.fault(Fault::on("GetResources", fault.clone()).after(after));
        let (log, _guard) = Log::start();
        let error = message(&function).await;
        assert!(error.contains("GetResources") && error.contains(text), "{fault:?}: {error}");
        for arn in [&arn, &other] {
            assert_eq!(world.aws.registered(arn), targets(&[11]), "{fault:?}");
        }
        assert_eq!(world.sum("Failures"), 0.0, "no group failed");
        assert!(log.text().contains("\"kind\":\"discovery\""), "{}", log.text());
        // And again, for as long as it lasts, also where there is little time; what else fails is named, too.
        world.dns.set_a("db.test", &["54.1.2.3"]);
        let error = invoke_within(&function, json!({}), Duration::from_secs(5)).await.unwrap_err().to_string();
        for part in ["2 of 2 target groups failed", "db.test", "54.1.2.3", "GetResources"] {
            assert!(error.contains(part), "{part}, {fault:?}: {error}");
        }
        // The next run does not wait for a minute to be over.
        world.aws.clear_faults();
        world.dns.set_a("db.test", &["10.0.1.11"]);
        let reply = invoke(&function, json!({})).await.unwrap();
        assert_eq!(arns(&reply), [&other, &arn], "those of BINDINGS come first");
    }
}

#[tokio::test]
async fn an_event_with_bindings_discovers_nothing() {
    let (world, arn) = tagged().await;
    let function = world.function().await;
    world.dns.set_a("two.test", &["10.0.1.2"]);
    let given = json!({"bindings": [binding("two.test", &arn)]});
    for (event, hostname, host, calls) in
        [(&given, "two.test", 2, 0), (&json!({}), "db.test", 10, 1), (&given, "two.test", 2, 1)]
    {
        let reply = invoke(&function, event.clone()).await.unwrap();
        assert_eq!((arns(&reply).len(), &reply["groups"][0]["hostnames"]), (1, &json!([hostname])));
        assert_eq!((world.aws.registered(&arn), world.count("GetResources")), (targets(&[host]), calls));
    }
}

#[tokio::test]
async fn all_pages_of_the_own_region_are_read_the_empty_ones_too() {
    let (world, first) = tagged().await;
    let mut bound = vec![first];
    for number in 0..11 {
        let arn = world.aws.create_target_group(TargetGroup::new(&format!("g{number}")));
        if number > 8 {
            world.aws.set_tag(&arn, HOSTNAME, "db.test");
            bound.push(arn);
        }
    }
    bound.sort();
    let elsewhere = TargetGroup { region: "eu-west-1", ..TargetGroup::new("elsewhere") };
    let elsewhere = world.aws.create_target_group(elsewhere);
    world.aws.set_tag(&elsewhere, HOSTNAME, "db.test");
    // What is throttled is asked for again, and so is what gets no reply.
    world.aws.fault(Fault::on("GetResources", FaultKind::error(400, "ThrottledException", "Rate exceeded")).times(1));
    world.aws.fault(Fault::on("GetResources", FaultKind::Hang).times(1));
    world.aws.set_listing_page_size(2);
    assert_eq!(arns(&world.run(json!({})).await.unwrap()), bound);
    assert_eq!(world.count("GetResources"), 2 + 6);
}

#[tokio::test]
async fn a_deleted_group_that_is_still_listed_fails_nothing() {
    let (world, arn) = tagged().await;
    let deleted = group(&world, "deleted", "db.test");
    let function = world.function().await;
    assert_eq!(arns(&invoke(&function, json!({})).await.unwrap()).len(), 2);
    world.aws.reconfigure(&deleted, |group| group.listing_lag = Duration::from_secs(60));
    world.aws.delete_target_group(&deleted);
    let (log, _guard) = Log::start();
    for _ in 0..2 {
        assert_eq!(arns(&invoke(&function, json!({})).await.unwrap()), [&arn]);
        advance(60);
    }
    assert!(log.text().contains("there is no such target group any more"), "{}", log.text());
    // One of BINDINGS has been deleted by mistake.
    let world = world.set("BINDINGS", json!([binding("db.test", &deleted)]));
    assert!(world.failure(json!({})).await.contains("TargetGroupNotFound"));
}

#[tokio::test]
async fn the_tags_of_the_state_and_of_the_binding_leave_each_other_alone() {
    for ownership in ["exclusive", "shared"] {
        let (world, arn) = tagged().await;
        world.dns.set_a("two.test", &["10.0.1.2"]);
        tag(&world, &arn, &[("hostname-2", "two.test"), ("deregister-after-seconds", "60"), ("ownership", ownership)]);
        let bound = world.aws.tags(&arn);
        let is_bound = || bound.iter().all(|(tag, value)| world.aws.tags(&arn).get(tag) == Some(value));
        let function = world.function().await;
        invoke(&function, json!({})).await.unwrap();
        world.dns.set_a("db.test", &["10.0.1.11"]);
        let reply = invoke(&function, json!({})).await.unwrap();
        assert_eq!(waiting(&reply["groups"][0]), ["10.0.1.10:5432"]);
        assert!(is_bound() && world.aws.tags(&arn).len() > bound.len(), "{:?}", world.aws.tags(&arn));
        // Both are read anew, with all that the state wrote.
        advance(61);
        invoke(&function, json!({})).await.unwrap();
        assert_eq!((world.aws.registered(&arn), is_bound()), (targets(&[2, 11]), true), "{ownership}");
        assert_eq!(world.aws.tags(&arn) == bound, ownership == "exclusive", "{:?}", world.aws.tags(&arn));
    }
}

#[tokio::test]
async fn a_hostname_outside_the_allowed_ones_is_refused_wherever_it_is_from() {
    let (world, arn) = tagged().await;
    let refused = group(&world, "refused", "db.test evil.example");
    let world = world.set("ALLOWED_HOSTNAMES", "db.test, *.rds.amazonaws.com");
    // In a tag, its group.
    let function = world.function().await;
    let error = message(&function).await;
    assert!(error.starts_with("1 of 2 target groups failed"), "{error}");
    for part in [refused.as_str(), HOSTNAME, "`db.test evil.example`", "`evil.example` is outside ALLOWED_HOSTNAMES"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!((world.aws.registered(&arn), world.aws.registered(&refused)), (targets(&[10]), set(&[])));
    // In an event, the event.
    world.aws.clear_calls();
    let event = json!({"bindings": [binding("db.test", &arn), binding("evil.example", &refused)]});
    let error = invoke(&function, event).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("bindings: `evil.example` is outside ALLOWED_HOSTNAMES"), "{text}");
    assert_eq!(Diagnostic::from(error).error_type, "InvalidEvent");
    assert_eq!(world.actions(), [""; 0]);
    // In BINDINGS, the start.
    let bindings = json!([binding("db.test", &arn), binding("evil.example", &refused)]).to_string();
    let error = parse(&[("BINDINGS", &bindings), ("ALLOWED_HOSTNAMES", "db.test")]).unwrap_err().to_string();
    for part in ["BINDINGS is", "`evil.example` is outside ALLOWED_HOSTNAMES"] {
        assert!(error.contains(part), "{error}");
    }
}

fn codes(findings: &Value) -> Vec<&str> {
    findings.as_array().unwrap().iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_check_says_what_keeps_it_from_discovering() {
    for is_known in [false, true] {
        let (world, arn) = tagged().await;
        world.aws.add_target(&arn, "10.0.1.10:5432", "healthy");
        world.aws.offer(&arn);
        let function = world.function().await;
        if is_known {
            invoke(&function, json!({})).await.unwrap();
            advance(60);
        }
        world.aws.fault(Fault::on("GetResources", denied()));
        let reply = invoke(&function, json!({"check": true})).await.unwrap();
        assert_eq!((&reply["ok"], arns(&reply).len()), (&json!(false), usize::from(is_known)));
        assert_eq!(codes(&reply["findings"]), ["permission"], "{reply}");
        let finding = &reply["findings"][0];
        assert_eq!((&finding["severity"], &finding["subject"]), (&json!("error"), &json!("DISCOVERY")));
        for field in ["message", "advice"] {
            assert!(finding[field].as_str().unwrap().contains(" tag:GetResources"), "{finding}");
        }
        // Which says nothing of the groups that are known.
        assert!(!is_known || reply["groups"][0]["findings"] == json!([]), "{reply}");
    }
    let throttled = FaultKind::error(400, "ThrottledException", "Rate exceeded");
    for (fault, words) in [(throttled, "in a minute"), (FaultKind::body(200, ""), "Mend what AWS names")] {
        let (world, _) = tagged().await;
        world.aws.fault(Fault::on("GetResources", fault));
        let reply = world.run(json!({"check": true})).await.unwrap();
        assert_eq!((&reply["ok"], codes(&reply["findings"])), (&json!(false), vec!["failed"]));
        assert!(reply["findings"][0]["advice"].as_str().unwrap().contains(words), "{reply}");
    }
}

#[tokio::test]
async fn a_check_finds_groups_that_are_tagged_in_vain() {
    let (world, well) = tagged().await;
    world.aws.add_target(&well, "10.0.1.10:5432", "healthy");
    world.aws.offer(&well);
    let unused = group(&world, "unused", "db.test");
    let wrong = group(&world, "wrong", "db.test");
    world.aws.set_tag(&wrong, "nlb-hostname-targets:port", "psql");
    let reply = world.run(json!({"check": true})).await.unwrap();
    assert_eq!((&reply["ok"], reply.get("findings")), (&json!(false), None));
    let found: BTreeMap<_, _> = arns(&reply).into_iter().zip(reply["groups"].as_array().unwrap()).collect();
    assert_eq!((found.len(), &found[well.as_str()]["findings"]), (3, &json!([])));
    assert!(codes(&found[unused.as_str()]["findings"]).contains(&"unused"), "{reply}");
    let findings = &found[wrong.as_str()]["findings"];
    assert_eq!(codes(findings), ["failed"]);
    for part in ["aws elbv2 add-tags", &wrong, "Key=nlb-hostname-targets:port,"] {
        assert!(findings[0]["advice"].as_str().unwrap().contains(part), "{findings}");
    }
    assert_eq!(world.writes(), [""; 0]);
}
