//! What invokes the function: the files of `events/`, dry runs, bindings in the event, and which
//! RDS events start a watch.

use std::{
    collections::BTreeSet,
    fs,
    num::NonZeroU32,
    path::Path,
    time::{Duration, SystemTime},
};

use nlb_hostname_targets::{
    VERSION,
    report::{Outcome, Trigger},
    settings::event::{Request, WatchRequest},
};
use serde_json::{Value, json};
use support::{World, aws::TargetGroup, binding, binding_with, invoke_within, targets};

fn event(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("events").join(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn the_files_of_events_do_what_their_names_say() {
    let expected = [
        ("rds-blue-green-switchover.json", "rds-event", WatchRequest::UntilStable),
        ("rds-cluster-failover.json", "rds-event", WatchRequest::UntilStable),
        ("rds-cluster-topology.json", "rds-event", WatchRequest::UntilStable),
        ("rds-instance-backup.json", "rds-event", WatchRequest::No),
        ("rds-instance-failover.json", "rds-event", WatchRequest::UntilStable),
        ("rds-proxy-endpoint.json", "rds-event", WatchRequest::UntilStable),
        ("rule.json", "schedule", WatchRequest::No),
        ("scheduler.json", "schedule", WatchRequest::No),
        ("sns-rds-notification.json", "rds-event", WatchRequest::UntilStable),
    ];
    for (file, trigger, watch) in expected {
        assert_eq!(Request::from_event(event(file)).unwrap().watch, watch, "{file}");
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        let reply = invoke_within(&world.function().await, event(file), Duration::from_secs(4)).await;
        let reply = reply.unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!((reply["trigger"].as_str(), reply["dry_run"].as_bool()), (Some(trigger), Some(false)), "{file}");
        assert_eq!(world.aws.registered(&arn), targets(&[10]), "{file}");
    }
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("events")).unwrap();
    let names: BTreeSet<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    for file in ["check.json", "direct.json"] {
        assert_eq!(Request::from_event(event(file)).unwrap().trigger, Trigger::Direct, "{file}");
    }
    let tested = expected.iter().map(|(file, ..)| *file).chain(["check.json", "direct.json", "dry-run.json"]);
    assert_eq!(names, tested.map(ToOwned::to_owned).collect(), "every file is used by a test");
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
    assert_eq!(world.aws.registered(&arn), targets(&[9]));
    assert_eq!((world.writes(), world.count("PutMetricData")), (vec![], 0));
}

#[tokio::test]
async fn the_reply_has_the_shape_of_the_contract() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    let mut reply = world.run(json!({})).await.unwrap();
    let took = reply["groups"][0].as_object_mut().unwrap().remove("dns_milliseconds");
    assert!(took.unwrap().is_u64());
    assert_eq!(
        reply,
        json!({
            "version": VERSION,
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
                "held": [],
                "error": null,
                "kind": null,
            }],
        })
    );
    assert_eq!(world.sync().await.unwrap()["outcome"], "in_sync");
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
    let other = world.aws.create_target_group(TargetGroup { port: 3306, ..TargetGroup::new("other") });
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
    // A name that two of them have is asked once.
    let other_port = binding_with("DB.test.", &arn, &json!({"port": 6432}));
    let world = world.set("BINDINGS", json!([binding("db.test", &arn), binding("reader.test", &arn), other_port]));
    let reply = world.run(json!({})).await.unwrap();
    assert_eq!((reply["groups"].as_array().unwrap().len(), world.dns.queries().len()), (1, 2));
    let group = &reply["groups"][0];
    assert_eq!(group["hostnames"], json!(["db.test", "reader.test"]));
    assert_eq!(group["resolved"], json!(["10.0.1.10", "10.0.1.11", "10.0.1.12"]));
    assert_eq!(group["registered"], json!(["10.0.1.10:5432", "10.0.1.10:6432", "10.0.1.12:5432"]));
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
}

#[tokio::test]
async fn groups_of_several_regions_and_partitions_are_called_in_their_own() {
    let world = World::new().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let places = [("aws", "us-east-1"), ("aws", "eu-west-1"), ("aws-cn", "cn-north-1")];
    let create = |(partition, region)| TargetGroup { partition, region, ..TargetGroup::new("db") };
    let arns = places.map(|place| world.aws.create_target_group(create(place)));
    let bindings: Vec<_> = arns.iter().map(|arn| binding("db.test", arn)).collect();
    let reply = world.run(json!({"bindings": bindings})).await.unwrap();
    let order: Vec<_> = reply["groups"].as_array().unwrap().iter().map(|group| &group["target_group_arn"]).collect();
    assert_eq!(order, arns.iter().collect::<Vec<_>>());
    for arn in &arns {
        assert_eq!(world.aws.registered(arn).len(), 1, "{arn}");
    }
}

#[test]
fn an_event_of_rds_starts_a_watch_unless_it_leaves_dns_alone() {
    let (instance, snapshot) = (("RDS DB Instance Event", "db-instance"), ("RDS DB Snapshot Event", "db-snapshot"));
    // By EventBridge, and by SNS, whose notifications have no categories.
    for (source, categories, watch) in [
        (instance, json!(["failover"]), (true, true)),
        (instance, json!(["notification"]), (true, true)),
        (instance, json!(["backup"]), (false, true)),
        (instance, json!(["backtrack"]), (false, true)),
        (instance, json!(["low storage", "security patching"]), (false, true)),
        (instance, json!(["backup", "failure"]), (true, true)),
        (("RDS DB Cluster Event", "db-cluster"), json!(["failover"]), (true, true)),
        (("RDS DB Proxy Event", "db-proxy"), json!(["configuration change"]), (true, true)),
        (("RDS Blue Green Deployment Event", "blue-green-deployment"), json!(["notification"]), (true, true)),
        (("RDS DB Shard Group Event", "db-shard-group"), json!(["maintenance"]), (true, true)),
        (("RDS Something New Event", "db-something-new"), json!(["something new"]), (true, true)),
        (snapshot, json!(["notification"]), (false, false)),
        (("RDS DB Cluster Snapshot Event", "db-cluster-snapshot"), json!(["restoration"]), (false, false)),
        (("RDS DB Parameter Group Event", "db-parameter-group"), json!([]), (false, false)),
        (("RDS DB Security Group Event", "db-security-group"), json!([]), (false, false)),
        (("RDS Custom Engine Version Event", "custom-engine-version"), json!([]), (false, false)),
        (("RDS Zero ETL Event", "zero-etl"), json!([]), (false, false)),
        // What is missing or ill-typed decides nothing.
        (instance, json!([]), (true, true)),
        (instance, json!("backup"), (true, true)),
        (instance, json!(["backup", 2]), (true, true)),
        (instance, json!(null), (true, true)),
    ] {
        let (detail_type, source) = source;
        let detail = json!({"EventID": "RDS-EVENT-9999", "EventCategories": categories});
        let event = json!({"source": "aws.rds", "detail-type": detail_type, "detail": detail});
        assert_eq!(starts_watch(event.clone()), watch.0, "{event}");
        assert_eq!(starts_watch(records([sns(&event)])), watch.0, "{event}, forwarded");
        for id in [json!("http://docs.amazonwebservices.com/…/USER_Events.html#RDS-EVENT-9999"), json!(null)] {
            let notification = json!({"Event Source": source, "Event ID": id, "Event Message": "…"});
            assert_eq!(starts_watch(records([sns(&notification)])), watch.1, "{notification}");
        }
    }
    for event in [json!({"source": "aws.rds"}), json!({"source": "aws.rds", "detail-type": 2, "detail": [2]})] {
        assert!(starts_watch(event.clone()), "{event}");
    }
}

#[test]
fn one_of_several_records_is_enough() {
    let of = |source: &str| sns(json!({"Event Source": source, "Event Message": "…"}));
    let (failover, snapshot, greeting) = (of("db-instance"), of("db-snapshot"), sns(GREETING));
    let other = json!({"eventSource": "aws:sqs", "body": "RDS-EVENT-0049"});
    assert!(starts_watch(records([snapshot.clone(), failover.clone(), greeting.clone()])));
    assert!(starts_watch(records([failover, other.clone(), json!(null)])));
    assert!(!starts_watch(records([snapshot, other])));
    assert!(!starts_watch(records([greeting])), "it tells of no database");
    let nested = records([sns("[".repeat(100_000))]);
    assert!(Request::from_event(nested).is_err());
}

#[test]
fn the_other_events() {
    for (event, trigger, seconds) in [
        (json!({}), Trigger::Schedule, 0),
        (json!(null), Trigger::Schedule, 0),
        (json!({"source": "my.app", "detail": {"EventID": "RDS-EVENT-0049"}}), Trigger::Schedule, 0),
        (json!({"watch_seconds": 1}), Trigger::Direct, 1),
        (json!({"watch_seconds": 900, "dry_run": false}), Trigger::Direct, 900),
        (json!({"watch_seconds": 0}), Trigger::Direct, 0),
        (json!({"watch_seconds": 60, "dry_run": true}), Trigger::Direct, 0),
        (json!({"dry_run": true}), Trigger::Direct, 0),
    ] {
        let request = Request::from_event(event.clone()).unwrap();
        let watch = NonZeroU32::new(seconds).map_or(WatchRequest::No, WatchRequest::Seconds);
        assert_eq!((request.trigger, request.watch), (trigger, watch), "{event}");
    }
}

fn starts_watch(event: Value) -> bool {
    let request = Request::from_event(event.clone()).unwrap_or_else(|error| panic!("{event}: {error}"));
    assert_eq!(request.trigger, Trigger::RdsEvent, "{event}");
    request.watch == WatchRequest::UntilStable
}

fn records<const COUNT: usize>(records: [Value; COUNT]) -> Value {
    json!({"Records": records.to_vec()})
}

fn sns(message: impl ToString) -> Value {
    json!({"EventSource": "aws:sns", "Sns": {"Message": message.to_string()}})
}

const GREETING: &str = "This is a message to notify that RDS will attempt to send you event notifications of type \
     db-instance to the topic arn:aws:sns:eu-west-1:123456789012:rds-events";
