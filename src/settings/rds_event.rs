//! Which events of Amazon RDS start a watch.
//!
//! Polling in vain costs next to nothing, and a failover that nobody watches is an outage: an
//! event starts a watch unless it is known to leave DNS alone. `docs/rds-events.md` lists the
//! events that AWS documents, with their sources; a test holds it against this module.

use serde_json::Value;

/// Whether an EventBridge event starts a watch; `None` where it is none of RDS.
pub(crate) fn eventbridge_starts_watch(event: &Value) -> Option<bool> {
    event.get("source").filter(|source| *source == RDS)?;
    Some(starts_watch(
        event.pointer("/detail/EventID"),
        event.get("detail-type"),
        event.pointer("/detail/EventCategories"),
    ))
}

/// Whether any of the `Records` of an SNS event starts a watch; `None` where none of them carries
/// what RDS publishes to a topic: its own notification, or the EventBridge event if a rule
/// forwards it.
pub(crate) fn sns_starts_watch(records: &Value) -> Option<bool> {
    records.as_array()?.iter().filter_map(record_starts_watch).reduce(|any, next| any || next)
}

fn record_starts_watch(record: &Value) -> Option<bool> {
    let sns = record.get("EventSource").filter(|source| *source == SNS).and_then(|_| record.get("Sns"))?;
    let text = sns.get("Message").and_then(Value::as_str).unwrap_or_default();
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    if let Some(watch) = eventbridge_starts_watch(&message) {
        return Some(watch);
    }
    let notification = (message.get("Event Source").is_some() && message.get("Event Message").is_some())
        || sns.get("Subject").is_some_and(|subject| subject == SUBJECT);
    // A notification names no categories.
    notification.then(|| {
        !text.starts_with(GREETING) && starts_watch(message.get("Event ID"), message.get("Event Source"), None)
    })
}

/// An id says most, so it goes before the kind of source and the categories. What is missing,
/// ill-typed or unknown decides nothing.
fn starts_watch(id: Option<&Value>, source: Option<&Value>, categories: Option<&Value>) -> bool {
    match id.and_then(Value::as_str).and_then(number) {
        Some(id) if HARMLESS.contains(&id) => return false,
        Some(id) if OF_A_DATABASE.contains(&id) => return true,
        _ => {}
    }
    let one_of = |known: &[&str], value: &Value| value.as_str().is_some_and(|text| known.contains(&text));
    let without_endpoint = source.is_some_and(|source| one_of(&WITHOUT_ENDPOINT, source));
    let harmless = categories
        .and_then(Value::as_array)
        .is_some_and(|all| !all.is_empty() && all.iter().all(|category| one_of(&HARMLESS_CATEGORIES, category)));
    !without_endpoint && !harmless
}

/// The number in `RDS-EVENT-0049`, which a notification has at the end of a link.
fn number(id: &str) -> Option<u16> {
    let (_, digits) = id.trim_end().rsplit_once("RDS-EVENT-")?;
    digits.parse().ok()
}

/// Events that leave DNS alone.
#[rustfmt::skip] // A line for each reason.
const HARMLESS: &[u16] = &[
    // Backups, exports and backtrack windows.
    1, 2, 23, 28, 32, 86, 131, 132, 234, 235, 236,
    // Credentials and security groups.
    9, 10, 16, 33, 67, 68, 327,
    // Parameter groups.
    11, 92,
    // Monitoring, and what RDS may do in other services.
    58, 78, 79, 80, 81, 82, 83,
    // Storage: low, changed, or unable to grow.
    7, 17, 18, 89, 189, 217, 218, 219, 220, 222, 223, 224, 225, 227, 231, 237, 254, 297, 298, 330, 331,
    // Replication to a read replica, which is not a switchover to it.
    45, 46, 57, 62, 63, 202, 357, 358, 359, 360, 415, 416,
    // Advice on settings, versions and what is in the database.
    54, 55, 56, 64, 253, 383, 403, 404, 424,
    // What is available, due or put off.
    48, 155, 156, 191, 193, 230, 287, 365, 396, 501, 502,
    // What was asked for and can't be done.
    84, 157, 158, 174, 425, 426, 429,
    // Connections that a proxy throttled.
    275,
    // Loading data into a shard group.
    321, 322, 323, 324, 325, 326,
];

/// Events that AWS lists among those of a snapshot, but which tell of a database: restored from
/// it, and renamed.
const OF_A_DATABASE: [u16; 2] = [43, 172];

/// Categories all of whose events leave DNS alone.
const HARMLESS_CATEGORIES: [&str; 4] = ["backtrack", "backup", "low storage", "security patching"];

/// What has no name in DNS: the `detail-type` of EventBridge
/// ([reference](https://docs.aws.amazon.com/eventbridge/latest/ref/events-ref-rds.html)), then the
/// `Event Source` of a notification, which is a
/// [`SourceType`](https://docs.aws.amazon.com/sdk-for-python/v4/reference/clients/rds/enums/SourceType/).
const WITHOUT_ENDPOINT: [&str; 12] = [
    "RDS Custom Engine Version Event",
    "RDS DB Cluster Snapshot Event",
    "RDS DB Parameter Group Event",
    "RDS DB Security Group Event",
    "RDS DB Snapshot Event",
    "RDS Zero ETL Event",
    "custom-engine-version",
    "db-cluster-snapshot",
    "db-parameter-group",
    "db-security-group",
    "db-snapshot",
    "zero-etl",
];

/// The `source` of RDS's EventBridge events
/// ([overview](https://docs.aws.amazon.com/AmazonRDS/latest/UserGuide/USER_Events.overview.md)).
const RDS: &str = "aws.rds";

/// The `EventSource` of a record that SNS hands to Lambda.
const SNS: &str = "aws:sns";

/// The subject of RDS's own notifications.
const SUBJECT: &str = "RDS Notification Message";

/// How the plain text begins that RDS sends once, when a subscription is made
/// ([Lambda's guide](https://github.com/awsdocs/aws-lambda-developer-guide/commit/d2164b30b9d0dfb4608da75ae3842be921d2cfd2)).
/// It tells of no database.
const GREETING: &str = "This is a message to notify";
