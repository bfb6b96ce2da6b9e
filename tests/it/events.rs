//! What invokes the function: the files of `events/`, dry runs, and bindings in the event.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use nlb_hostname_targets::report::Outcome;
use serde_json::{Value, json};

use crate::support::{World, aws::TargetGroup, binding};

fn event(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("events").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn the_files_of_events_do_what_their_names_say() {
    let expected = [
        ("rds-cluster-failover.json", "rds-event"),
        ("rds-instance-failover.json", "rds-event"),
        ("rule.json", "schedule"),
        ("scheduler.json", "schedule"),
        ("sns-rds-notification.json", "rds-event"),
    ];
    for (file, trigger) in expected {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        let reply = world.run(event(file)).await.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!((reply["trigger"].as_str(), reply["dry_run"].as_bool()), (Some(trigger), Some(false)), "{file}");
        assert_eq!(world.aws.registered(&arn), BTreeSet::from(["10.0.1.10:5432".to_owned()]), "{file}");
    }
    let names: BTreeSet<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("events"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let tested = expected.iter().map(|(file, _)| *file).chain(["direct.json", "dry-run.json"]);
    assert_eq!(names, tested.map(ToOwned::to_owned).collect(), "every file is used by a test");
}

#[tokio::test]
async fn the_direct_request_of_events_is_well_formed() {
    let world = World::new().await;
    // The example's target group is in nobody's account.
    let message = world.failure(event("direct.json")).await;
    assert!(message.starts_with("1 of 1 target groups failed"), "{message}");
    assert!(!world.dns.queries().is_empty() || !world.aws.calls().is_empty());
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_writes_nothing() {
    let (world, arn) = World::with_database(&["10.0.1.10", "54.1.2.3"], &["10.0.1.9"]).await;
    let reply = world.run(event("dry-run.json")).await.unwrap();
    assert_eq!((reply["trigger"].as_str(), reply["dry_run"].as_bool()), (Some("direct"), Some(true)));
    let group = &reply["groups"][0];
    assert_eq!(group["outcome"], "changed");
    assert_eq!(group["registered"], json!(["10.0.1.10:5432"]));
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(group["refused"][0]["address"], "54.1.2.3");
    assert_eq!(world.aws.registered(&arn), BTreeSet::from(["10.0.1.9:5432".to_owned()]));
    let actions: BTreeSet<_> = world.actions().into_iter().collect();
    assert_eq!(actions, BTreeSet::from(["DescribeTargetGroups".to_owned(), "DescribeTargetHealth".to_owned()]));
}

#[tokio::test]
async fn the_reply_has_the_shape_of_the_contract() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    assert_eq!(
        world.run(json!({})).await.unwrap(),
        json!({
            "trigger": "schedule",
            "dry_run": false,
            "groups": [{
                "target_group_arn": arn,
                "hostnames": ["db.test"],
                "ownership": "exclusive",
                "deregister_after_seconds": 0,
                "kinds": [{"hostname": "db.test", "kind": "other", "lookups": 1}],
                "outcome": "changed",
                "resolved": ["10.0.1.10"],
                "registered": ["10.0.1.10:5432"],
                "deregistered": ["10.0.1.9:5432"],
                "waiting": [],
                "refused": [],
                "error": null,
            }],
        })
    );
    assert_eq!(world.sync().await.unwrap()["outcome"], "in_sync");
}

#[tokio::test]
async fn plain_runs() {
    for plain in [json!({}), json!(null), json!({"source": "my.app", "detail-type": "x", "detail": {}})] {
        let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
        assert_eq!(world.run(plain).await.unwrap()["trigger"], "schedule");
    }
}

#[tokio::test]
async fn an_eventbridge_event_that_sns_forwards_is_an_rds_event() {
    let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
    let message = event("rds-instance-failover.json").to_string();
    let record = json!({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": message}}]});
    assert_eq!(world.run(record).await.unwrap()["trigger"], "rds-event");
}

#[tokio::test]
async fn the_plain_text_with_which_rds_greets_a_new_subscription_is_an_rds_event() {
    let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
    let sns = json!({"Subject": "RDS Notification Message", "Message": "This is a message to notify …"});
    let record = json!({"Records": [{"EventSource": "aws:sns", "Sns": sns}]});
    assert_eq!(world.run(record).await.unwrap()["trigger"], "rds-event");
}

#[tokio::test]
async fn a_deadline_that_was_over_before_the_start_is_not_known() {
    let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
    let function = world.function().await;
    let reply = function.handle(json!({}), SystemTime::UNIX_EPOCH + Duration::from_secs(600)).await.unwrap();
    assert_eq!(reply.groups[0].outcome, Outcome::Changed);
}

#[tokio::test]
async fn the_bindings_of_an_event_replace_those_of_the_environment() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
    let other = world.aws.create_target_group(TargetGroup::new("other").port(3306));
    world.dns.set_a("other.test", &["10.0.2.10"]);
    let reply = world.run(json!({"bindings": [binding("other.test", &other)]})).await.unwrap();
    assert_eq!(reply["groups"].as_array().unwrap().len(), 1);
    assert_eq!(reply["groups"][0]["registered"], json!(["10.0.2.10:3306"]));
    assert!(world.aws.registered(&arn).is_empty());
}

#[tokio::test]
async fn several_hostnames_of_a_group_are_reconciled_together() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9", "10.0.1.11"]).await;
    world.dns.set_a("reader.test", &["10.0.1.11", "10.0.1.12"]);
    let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("reader.test", &arn)]));
    let reply = world.run(json!({})).await.unwrap();
    assert_eq!(reply["groups"].as_array().unwrap().len(), 1);
    let group = &reply["groups"][0];
    assert_eq!(group["hostnames"], json!(["db.test", "reader.test"]));
    assert_eq!(group["resolved"], json!(["10.0.1.10", "10.0.1.11", "10.0.1.12"]));
    assert_eq!(group["registered"], json!(["10.0.1.10:5432", "10.0.1.12:5432"]));
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
}

#[tokio::test]
async fn groups_of_several_regions_and_partitions_are_called_in_their_own() {
    let world = World::new().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let arns = [
        world.aws.create_target_group(TargetGroup::new("a").region("us-east-1")),
        world.aws.create_target_group(TargetGroup::new("b").region("eu-west-1")),
        world.aws.create_target_group(TargetGroup::new("c").region("cn-north-1").partition("aws-cn")),
    ];
    let bindings: Vec<_> = arns.iter().map(|arn| binding("db.test", arn)).collect();
    let reply = world.run(json!({"bindings": bindings})).await.unwrap();
    let order: Vec<_> = reply["groups"].as_array().unwrap().iter().map(|group| &group["target_group_arn"]).collect();
    assert_eq!(order, arns.iter().collect::<Vec<_>>());
    for arn in &arns {
        assert_eq!(world.aws.registered(arn).len(), 1, "{arn}");
    }
}
