//! Which events of Amazon RDS start a watch, and those of Neptune and DocumentDB, which come as its own: all but those
//! whose source or categories are known to leave DNS alone. Polling in vain costs next to nothing; a failover that nobody
//! watches is an outage.

use serde_json::Value;

/// Whether an EventBridge event starts a watch; `None` where it is none of RDS.
pub(super) fn eventbridge_starts_watch(event: &Value) -> Option<bool> {
    event.get("source").filter(|source| *source == "aws.rds")?;
    let is_quiet = |category: &Value| category.as_str().is_some_and(|text| QUIET_CATEGORIES.contains(&text));
    let categories = event.pointer("/detail/EventCategories").and_then(Value::as_array);
    let are_quiet = categories.is_some_and(|all| !all.is_empty() && all.iter().all(is_quiet));
    Some(!are_quiet && has_endpoint(event.get("detail-type")))
}

/// Whether any of the `Records` of an SNS event starts a watch; an error where none of them carries what RDS publishes to a
/// topic, or a rule forwards of it.
pub(super) fn sns_starts_watch(records: &Value) -> Result<bool, String> {
    let (mut watch, mut problem) = (None, "it holds no record that carries an RDS notification".to_owned());
    for record in records.as_array().into_iter().flatten() {
        match record_starts_watch(record) {
            Ok(starts) => watch = Some(watch.unwrap_or_default() || starts),
            Err(other) => problem = other,
        }
    }
    watch.ok_or(problem)
}

fn record_starts_watch(record: &Value) -> Result<bool, String> {
    let service = record.get("EventSource").or_else(|| record.get("eventSource")).unwrap_or(&Value::Null);
    if *service != "aws:sns" {
        return Err(format!("it is a record of {service}, not of SNS{CONNECT}"));
    }
    let text = record.pointer("/Sns/Message").and_then(Value::as_str).unwrap_or_default();
    if text.starts_with(GREETING) {
        return Ok(false);
    }
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    if let Some(starts_watch) = eventbridge_starts_watch(&message) {
        return Ok(starts_watch);
    }
    let source = message.get("Event Source");
    let id = message.get("Event ID").and_then(Value::as_str).unwrap_or_default();
    let is_of_rds = source.and_then(Value::as_str).is_some_and(|source| {
        source.starts_with("db-") || ["blue-green-deployment", "custom-engine-version", "zero-etl"].contains(&source)
    });
    // An id is a link, at whose end the service names itself.
    if is_of_rds && (!id.contains("-EVENT-") || id.contains("RDS-EVENT-")) {
        return Ok(has_endpoint(source));
    }
    let carried = source.map(|source| format!(" but one of the source {source}, event id `{id}`")).unwrap_or_default();
    Err(format!("it is an SNS record that carries no RDS notification{carried}"))
}

/// Whether what is missing, ill-typed or unknown may have a name in DNS: it decides nothing.
fn has_endpoint(source: Option<&Value>) -> bool {
    !source.and_then(Value::as_str).is_some_and(|source| WITHOUT_ENDPOINT.contains(&source))
}

/// How to connect what comes another way.
pub(super) const CONNECT: &str = ": events of RDS reach this function by an EventBridge rule (pattern \
     {\"source\":[\"aws.rds\"]}) whose target it is, or by an SNS topic that it subscribes to, not by way of SQS or \
     EventBridge Pipes";

/// Categories all of whose events leave DNS alone.
const QUIET_CATEGORIES: [&str; 4] = ["backtrack", "backup", "low storage", "security patching"];

/// What has no name in DNS: the `detail-type` of EventBridge
/// ([reference](https://docs.aws.amazon.com/eventbridge/latest/ref/events-ref-rds.html)), then the `Event Source` of a
/// notification, which is a
/// [`SourceType`](https://docs.aws.amazon.com/sdk-for-python/v4/reference/clients/rds/enums/SourceType/).
#[rustfmt::skip]
const WITHOUT_ENDPOINT: [&str; 12] = [
    "RDS Custom Engine Version Event", "RDS DB Cluster Snapshot Event", "RDS DB Parameter Group Event",
    "RDS DB Security Group Event", "RDS DB Snapshot Event", "RDS Zero ETL Event",
    "custom-engine-version", "db-cluster-snapshot", "db-parameter-group", "db-security-group", "db-snapshot", "zero-etl",
];

/// How the plain text begins that RDS sends once, when a subscription is made
/// ([Lambda's guide](https://github.com/awsdocs/aws-lambda-developer-guide/commit/d2164b30b9d0dfb4608da75ae3842be921d2cfd2)).
/// It tells of no database.
const GREETING: &str = "This is a message to notify that RDS";
