//! What invoked the function, and what it asks for.

use std::num::NonZeroU32;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::from_json;
use super::rds_event::{CONNECT, eventbridge_starts_watch, sns_starts_watch};
use crate::binding::{Binding, Group, InvalidJson, integer};
use crate::report::Trigger;

/// What an invocation asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// What invoked the function.
    pub trigger: Trigger,
    /// In place of those of `BINDINGS`.
    pub groups: Option<Vec<Group>>,
    /// Whether to write nothing anywhere. A check does so, too.
    pub dry_run: bool,
    /// Whether to say what is wrong with the set-up.
    pub check: bool,
    /// Never together with `dry_run`.
    pub watch: WatchRequest,
}

/// How long DNS is asked after a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WatchRequest {
    /// Not at all.
    No,
    /// For so many seconds, 900 at most: a direct request asks for it.
    Seconds(NonZeroU32),
    /// Until the answer has changed and stayed the same for a while, which may be minutes after an event of RDS.
    UntilStable,
}

impl Request {
    /// Reads an event. What is unknown is refused by name: a mistyped `dryrun` must never change anything.
    pub fn from_event(event: Value) -> Result<Self, InvalidJson> {
        let of_event = |starts_watch: Option<bool>| Self {
            trigger: if starts_watch.is_some() { Trigger::RdsEvent } else { Trigger::Schedule },
            groups: None,
            dry_run: false,
            check: false,
            watch: if starts_watch == Some(true) { WatchRequest::UntilStable } else { WatchRequest::No },
        };
        let refused = |problem| Err(InvalidJson::new(EVENT, problem));
        let fields = match &event {
            Value::Null => return Ok(of_event(None)),
            Value::Object(fields) if fields.is_empty() => return Ok(of_event(None)),
            Value::Object(fields) => fields,
            Value::Array(_) => return refused(format!("it is an array, as EventBridge Pipes sends it{CONNECT}")),
            other => return refused(format!("{other} is no object; {ACCEPTED}")),
        };
        let is_of_eventbridge = fields.get("source").is_some_and(Value::is_string);
        let envelope = if is_of_eventbridge { "source" } else { "Records" };
        let Some(records) = fields.get(envelope) else { return Self::from_direct(&event) };
        if let Some(field) = DIRECT_FIELDS.iter().find(|field| fields.contains_key(**field)) {
            return refused(format!("`{envelope}` makes it an event of AWS, which has no `{field}`: leave one out"));
        }
        if is_of_eventbridge {
            return Ok(of_event(eventbridge_starts_watch(&event)));
        }
        match sns_starts_watch(records) {
            Ok(starts_watch) => Ok(of_event(Some(starts_watch))),
            Err(problem) => Err(InvalidJson::new("Records", format!("{problem}; {ACCEPTED}"))),
        }
    }

    fn from_direct(event: &Value) -> Result<Self, InvalidJson> {
        let DirectRequest { bindings, check, dry_run, watch_seconds } = from_json(EVENT, event)?;
        if bindings.as_ref().is_some_and(Vec::is_empty) {
            let problem = "it is empty: give at least one binding, or leave it out";
            return Err(InvalidJson::new("bindings", problem));
        }
        if check && watch_seconds.is_some() {
            let problem = "a check looks once: leave out `watch_seconds`, or `check`";
            return Err(InvalidJson::new("watch_seconds", problem));
        }
        // A dry run applies nothing, so one look tells all that it can tell.
        let dry_run = dry_run || check;
        let seconds = watch_seconds.and_then(NonZeroU32::new).filter(|_| !dry_run);
        Ok(Self {
            trigger: Trigger::Direct,
            groups: bindings.map(|bindings| Group::from_bindings("bindings", &bindings)).transpose()?,
            dry_run,
            check,
            watch: seconds.map_or(WatchRequest::No, WatchRequest::Seconds),
        })
    }
}

/// The names here are those of [`DIRECT_FIELDS`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DirectRequest {
    #[serde(default, deserialize_with = "bindings")]
    bindings: Option<Vec<Binding>>,
    #[serde(default)]
    check: bool,
    #[serde(default)]
    dry_run: bool,
    #[serde(default, deserialize_with = "watch_seconds")]
    watch_seconds: Option<u32>,
}

/// An array, never `null`: who says `bindings` means it.
fn bindings<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Binding>>, D::Error> {
    Vec::deserialize(deserializer).map(Some)
}

fn watch_seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    integer(deserializer, 0..=LONGEST_INVOCATION)
}

const EVENT: &str = "event";

const ACCEPTED: &str = "accepted are an empty object, an EventBridge event, an SNS record that carries an RDS \
     notification, and a direct request: an object of `bindings`, `check`, `dry_run` and `watch_seconds`";

const DIRECT_FIELDS: [&str; 4] = ["bindings", "check", "dry_run", "watch_seconds"];

/// Seconds that Lambda lets an invocation run at most.
const LONGEST_INVOCATION: u32 = 900;
