use nlb_hostname_targets::{
    binding::InvalidJson,
    report::Trigger,
    settings::event::{Request, WatchRequest},
};
use serde_json::{Map, Value};

use super::{assert_one_line, bindings::assert_kept};

/// The input is an event, as Lambda hands it over: JSON.
pub fn event(input: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Value>(input) else { return };
    match Request::from_event(event.clone()) {
        Ok(request) => assert_meant(&event, &request),
        Err(error) => assert_rightly_refused(&event, &error),
    }
}

/// What an accepted request does is what the event says, all of it.
fn assert_meant(event: &Value, request: &Request) {
    let none = Map::new();
    let fields = match event {
        Value::Null => &none,
        Value::Object(fields) => fields,
        other => panic!("accepted {other}"),
    };
    let source = fields.get("source").and_then(Value::as_str);
    let direct = fields.keys().filter(|field| DIRECT_FIELDS.contains(&field.as_str())).count();
    if request.trigger != Trigger::Direct {
        // Whoever says `dry_run` or `bindings` gets it, or an error.
        assert_eq!(direct, 0, "a field of a direct request was passed over");
        assert!(!request.dry_run && !request.check && request.groups.is_none());
    }
    match request.trigger {
        Trigger::Direct => {
            assert!(direct > 0 && direct == fields.len(), "a direct request with an unknown field was accepted");
            let flag = |name| fields.get(name).map_or(Some(false), Value::as_bool).expect("only a boolean is accepted");
            assert_eq!((flag("check"), flag("check") || flag("dry_run")), (request.check, request.dry_run));
            assert_eq!(
                fields.contains_key("bindings"),
                request.groups.as_ref().is_some_and(|groups| !groups.is_empty())
            );
            request.groups.iter().for_each(|groups| assert_kept(&event["bindings"], groups));
            let seconds = fields.get("watch_seconds").map_or(Some(0), Value::as_u64).expect("only a number");
            assert!(seconds <= 900);
            // A watch would apply what a dry run only shows.
            let watch = if request.dry_run || seconds == 0 { None } else { Some(seconds) };
            let asked_for = match request.watch {
                WatchRequest::No => None,
                WatchRequest::Seconds(seconds) => Some(seconds.get().into()),
                WatchRequest::UntilStable => panic!("a watch without end"),
            };
            assert_eq!(asked_for, watch);
        }
        Trigger::RdsEvent if source.is_none() => {
            let records = fields.get("Records").and_then(Value::as_array).expect("nothing else comes from RDS");
            assert!(records.iter().any(|record| record.get("EventSource").is_some_and(|source| source == "aws:sns")));
        }
        Trigger::RdsEvent => assert_eq!(source, Some("aws.rds")),
        Trigger::Schedule => {
            assert!(fields.is_empty() || source.is_some_and(|source| source != "aws.rds"));
            assert_eq!(request.watch, WatchRequest::No);
        }
    }
}

/// What is refused is not what has to be accepted, and the error says where it is wrong.
fn assert_rightly_refused(event: &Value, error: &InvalidJson) {
    assert_one_line(&error.to_string());
    let Some(fields) = event.as_object() else {
        return assert!(!event.is_null() && error.at == "event");
    };
    assert!(!fields.is_empty());
    let direct = fields.keys().any(|field| DIRECT_FIELDS.contains(&field.as_str()));
    assert!(direct || !fields.get("source").is_some_and(Value::is_string), "an event of AWS was refused: {error}");
    let dry_run_alone = fields.len() == 1 && fields.get("dry_run").is_some_and(Value::is_boolean);
    assert!(!dry_run_alone, "a well-formed request was refused: {error}");
    let named = error.at == "event" || fields.keys().any(|field| error.at.starts_with(field.as_str()));
    assert!(named, "{error} names nothing in {event}");
}

const DIRECT_FIELDS: [&str; 4] = ["bindings", "check", "dry_run", "watch_seconds"];
