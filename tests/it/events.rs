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
    event::{Request, WatchRequest},
    report::{Outcome, Trigger},
};
use serde_json::{Value, json};
use support::{World, aws::TargetGroup, binding, invoke_within};

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
        let function = world.function().await;
        let reply = invoke_within(&function, event(file), Duration::from_secs(4))
            .await
            .unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!((reply["trigger"].as_str(), reply["dry_run"].as_bool()), (Some(trigger), Some(false)), "{file}");
        assert_eq!(world.aws.registered(&arn), BTreeSet::from(["10.0.1.10:5432".to_owned()]), "{file}");
    }
    let names: BTreeSet<_> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("events"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let tested = expected.iter().map(|(file, ..)| *file).chain(["check.json", "direct.json", "dry-run.json"]);
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
    assert_eq!((world.writes(), world.count("PutMetricData")), (vec![], 0));
}

#[tokio::test]
async fn the_reply_has_the_shape_of_the_contract() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    assert_eq!(
        world.run(json!({})).await.unwrap(),
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
    let reply = invoke_within(&world.function().await, sns("", message), Duration::from_secs(4)).await.unwrap();
    assert_eq!(reply["trigger"], "rds-event");
}

#[tokio::test]
async fn the_plain_text_with_which_rds_greets_a_new_subscription_is_an_rds_event() {
    let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
    assert_eq!(world.run(sns(SUBJECT, GREETING)).await.unwrap()["trigger"], "rds-event");
    assert_eq!(watch_of(sns(SUBJECT, GREETING)), WatchRequest::No, "it tells of no database");
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

#[test]
fn every_id_of_the_documentation_does_what_its_table_says() {
    let mut documented = BTreeSet::new();
    for (heading, watch, least) in
        [("Ids that start a watch", WatchRequest::UntilStable, 150), ("Ids that start none", WatchRequest::No, 90)]
    {
        let ids: Vec<_> = documented_rows(heading).iter().flat_map(|row| ids(&row[0])).collect();
        assert!(ids.len() >= least, "{heading}: {ids:?}");
        for id in ids {
            assert!(documented.insert(id), "{id} is in the tables twice");
            // The id alone decides: neither this source nor this category does.
            for (form, event) in forms(id, "RDS DB Instance Event", "db-instance", "notification") {
                assert_eq!(watch_of(event), watch, "RDS-EVENT-{id:04}, {form}");
            }
        }
    }
    for unknown in (0..10_000).filter(|id| !documented.contains(id)) {
        for (form, event) in forms(unknown, "RDS DB Instance Event", "db-instance", "notification") {
            assert_eq!(watch_of(event), WatchRequest::UntilStable, "RDS-EVENT-{unknown:04}, {form}");
        }
    }
}

#[test]
fn what_has_no_name_in_dns_starts_no_watch() {
    let rows = documented_rows("Sources without a name in DNS");
    assert_eq!(rows.len(), 6);
    for row in rows {
        let [detail_type, source] = [&row[0], &row[1]].map(|cell| cell.trim_matches('`'));
        let listed = ids(row[2].split("; not").next().unwrap());
        for id in listed.into_iter().chain([9999]) {
            for (form, event) in forms(id, detail_type, source, "notification") {
                assert_eq!(watch_of(event), WatchRequest::No, "{detail_type}, RDS-EVENT-{id:04}, {form}");
            }
        }
        // Restored, and renamed: these tell of a database.
        for id in [43, 172] {
            for (form, event) in forms(id, detail_type, source, "restoration") {
                assert_eq!(watch_of(event), WatchRequest::UntilStable, "{detail_type}, RDS-EVENT-{id:04}, {form}");
            }
        }
    }
}

#[test]
fn the_events_of_a_bad_day_start_a_watch() {
    for (id, detail_type, source, category) in [
        (4, "RDS DB Instance Event", "db-instance", "availability"),
        (13, "RDS DB Instance Event", "db-instance", "failover"),
        (15, "RDS DB Instance Event", "db-instance", "failover"),
        (49, "RDS DB Instance Event", "db-instance", "failover"),
        (12, "RDS DB Instance Event", "db-instance", "configuration change"),
        (26, "RDS DB Instance Event", "db-instance", "maintenance"),
        (31, "RDS DB Instance Event", "db-instance", "failure"),
        (385, "RDS DB Instance Event", "db-instance", "notification"),
        (71, "RDS DB Cluster Event", "db-cluster", "failover"),
        (151, "RDS DB Cluster Event", "db-cluster", "notification"),
        (172, "RDS DB Cluster Event", "db-cluster", "notification"),
        (184, "RDS DB Cluster Event", "db-cluster", "global failover"),
        (207, "RDS DB Proxy Event", "db-proxy", "configuration change"),
        (247, "RDS Blue Green Deployment Event", "blue-green-deployment", "notification"),
        (248, "RDS Blue Green Deployment Event", "blue-green-deployment", "notification"),
        (368, "RDS DB Shard Group Event", "db-shard-group", "maintenance"),
        (43, "RDS DB Snapshot Event", "db-snapshot", "restoration"),
        (9999, "RDS Something New Event", "something-new", "something new"),
    ] {
        for (form, event) in forms(id, detail_type, source, category) {
            assert_eq!(watch_of(event), WatchRequest::UntilStable, "RDS-EVENT-{id:04}, {form}");
        }
    }
}

#[test]
fn an_id_goes_before_the_categories_and_all_of_these_must_be_harmless() {
    for (id, categories, watch) in [
        (9999, vec!["backup"], WatchRequest::No),
        (9999, vec!["backtrack"], WatchRequest::No),
        (9999, vec!["low storage"], WatchRequest::No),
        (9999, vec!["security patching"], WatchRequest::No),
        (9999, vec!["backup", "low storage"], WatchRequest::No),
        (9999, vec!["backup", "failure"], WatchRequest::UntilStable),
        (9999, vec!["notification"], WatchRequest::UntilStable),
        (9999, vec!["empty"], WatchRequest::UntilStable),
        (9999, vec![], WatchRequest::UntilStable),
        (43, vec!["backup"], WatchRequest::UntilStable),
        (45, vec!["failover"], WatchRequest::No),
    ] {
        let id = format!("RDS-EVENT-{id:04}");
        let event = json!({"source": "aws.rds", "detail": {"EventID": id, "EventCategories": categories}});
        assert_eq!(watch_of(event), watch, "{id} {categories:?}");
    }
}

#[test]
fn an_event_that_cannot_be_read_starts_a_watch() {
    let wrong = [json!(null), json!(2), json!([2]), json!({"a": 2}), json!(true), json!("")];
    let mut events = vec![json!({"source": "aws.rds"})];
    for value in &wrong {
        events.push(json!({"source": "aws.rds", "detail": value}));
        events.push(json!({"source": "aws.rds", "detail-type": value, "detail": {"EventID": value}}));
        events.push(json!({"source": "aws.rds", "detail": {"EventCategories": value}}));
        events.push(json!({"source": "aws.rds", "detail": {"EventCategories": ["backup", value]}}));
    }
    for id in ["0002", "RDS-EVENT-", "RDS-EVENT-2x", "RDS-EVENT-99999", "RDS-EVENT--2", "rds-event-0002"] {
        events.push(json!({"source": "aws.rds", "detail": {"EventID": id}}));
    }
    // A category is one of a list.
    events.push(json!({"source": "aws.rds", "detail": {"EventCategories": "backup"}}));
    for event in &events {
        assert_eq!(watch_of(event.clone()), WatchRequest::UntilStable, "{event}");
        assert_eq!(watch_of(sns("", event)), WatchRequest::UntilStable, "{event} by SNS");
    }
    for value in &wrong {
        let message = json!({"Event Source": value, "Event ID": value, "Event Message": value});
        assert_eq!(watch_of(sns("", &message)), WatchRequest::UntilStable, "{message}");
        let record = json!({"EventSource": "aws:sns", "Sns": {"Subject": SUBJECT, "Message": value}});
        assert_eq!(watch_of(json!({"Records": [record]})), WatchRequest::UntilStable, "{record}");
    }
    let nested = "[".repeat(100_000);
    for text in ["{\"Event ID\":", "null", "0", "something new", &nested] {
        assert_eq!(watch_of(sns(SUBJECT, text)), WatchRequest::UntilStable, "{text:.20}");
    }
}

#[test]
fn the_id_of_a_notification_is_at_the_end_of_a_link() {
    for (link, watch) in [
        (
            "http://docs.amazonwebservices.com/AmazonRDS/latest/UserGuide/USER_Events.html#RDS-EVENT-0002",
            WatchRequest::No,
        ),
        (
            "https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_Events.Messages.html#RDS-EVENT-0002 \n",
            WatchRequest::No,
        ),
        ("RDS-EVENT-0002", WatchRequest::No),
        ("http://docs.amazonwebservices.com/AmazonRDS/latest/UserGuide/USER_Events.html", WatchRequest::UntilStable),
        ("USER_Events.html#RDS-EVENT-0002#RDS-EVENT-0049", WatchRequest::UntilStable),
    ] {
        let message = json!({"Event Source": "db-instance", "Event ID": link, "Event Message": "…"});
        assert_eq!(watch_of(sns(SUBJECT, message)), watch, "{link}");
    }
}

#[test]
fn one_of_several_records_is_enough() {
    let record = |id| forms(id, "RDS DB Instance Event", "db-instance", "failover")[1].1["Records"][0].clone();
    let greeting = sns(SUBJECT, GREETING)["Records"][0].clone();
    let other = json!({"EventSource": "aws:sqs", "body": "RDS-EVENT-0049"});
    for (records, watch) in [
        (json!([record(2), record(49)]), WatchRequest::UntilStable),
        (json!([record(49), greeting, record(2)]), WatchRequest::UntilStable),
        (json!([other, record(49), null]), WatchRequest::UntilStable),
        (json!([record(2), record(1), greeting]), WatchRequest::No),
        (json!([other, record(2)]), WatchRequest::No),
    ] {
        assert_eq!(watch_of(json!({"Records": records})), watch, "{records}");
    }
}

#[test]
fn a_direct_request_says_how_long_it_watches() {
    let watch = |request| Request::from_event(request).unwrap().watch;
    let seconds = |seconds| WatchRequest::Seconds(NonZeroU32::new(seconds).unwrap());
    assert_eq!(watch(json!({"watch_seconds": 1})), seconds(1));
    assert_eq!(watch(json!({"watch_seconds": 900, "dry_run": false})), seconds(900));
    for request in
        [json!({"watch_seconds": 0}), json!({"watch_seconds": 60, "dry_run": true}), json!({"dry_run": true})]
    {
        assert_eq!(watch(request.clone()), WatchRequest::No, "{request}");
    }
    for plain in [json!({}), json!(null), json!({"source": "my.app", "detail": {"EventID": "RDS-EVENT-0049"}})] {
        assert_eq!(watch(plain.clone()), WatchRequest::No, "{plain}");
    }
}

fn watch_of(event: Value) -> WatchRequest {
    let request = Request::from_event(event.clone()).unwrap_or_else(|error| panic!("{event}: {error}"));
    assert_eq!(request.trigger, Trigger::RdsEvent, "{event}");
    request.watch
}

/// An event of RDS in each form in which it comes.
fn forms(id: u16, detail_type: &str, source: &str, category: &str) -> [(&'static str, Value); 3] {
    let eventbridge = json!({
        "source": "aws.rds",
        "detail-type": detail_type,
        "detail": {"EventID": format!("RDS-EVENT-{id:04}"), "EventCategories": [category]},
    });
    let link =
        format!("http://docs.amazonwebservices.com/AmazonRDS/latest/UserGuide/USER_Events.html#RDS-EVENT-{id:04}");
    let notification = json!({"Event Source": source, "Event ID": link, "Event Message": "…"});
    let forwarded = sns("", &eventbridge);
    [("EventBridge", eventbridge), ("notification", sns(SUBJECT, notification)), ("EventBridge by SNS", forwarded)]
}

fn sns(subject: &str, message: impl ToString) -> Value {
    json!({"Records": [{"EventSource": "aws:sns", "Sns": {"Subject": subject, "Message": message.to_string()}}]})
}

/// The cells of a table of `docs/rds-events.md`, without its head.
fn documented_rows(heading: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/rds-events.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).expect(heading);
    let table = section.trim_start().lines().take_while(|line| line.starts_with('|')).skip(2);
    table.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The ids of a cell: `0013, 0049–0051`.
fn ids(cell: &str) -> Vec<u16> {
    let number = |text: &str| text.parse::<u16>().unwrap_or_else(|error| panic!("{cell}: {text}: {error}"));
    cell.split(", ")
        .filter(|item| *item != "not listed")
        .flat_map(|item| match item.split_once('–') {
            Some((first, last)) => number(first)..=number(last),
            None => number(item)..=number(item),
        })
        .collect()
}

const SUBJECT: &str = "RDS Notification Message";

const GREETING: &str = "This is a message to notify that RDS will attempt to send you event notifications of type \
     db-instance to the topic arn:aws:sns:eu-west-1:123456789012:rds-events";
