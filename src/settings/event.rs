//! What invoked the function, and what it asks for.

use std::num::NonZeroU32;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    binding::{Binding, Group, InvalidJson, boolean, from_json, integer},
    report::Trigger,
    settings::rds_event::{eventbridge_starts_watch, sns_starts_watch},
};

/// What an invocation asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Request {
    /// What invoked the function.
    pub trigger: Trigger,
    /// Target groups to reconcile in place of those of `BINDINGS`.
    pub groups: Option<Vec<Group>>,
    /// Whether to say what would be done, and write nothing anywhere. A check does so, too.
    pub dry_run: bool,
    /// Whether to say what is wrong with the set-up.
    pub check: bool,
    /// Whether to keep asking DNS after the run. Never together with `dry_run`.
    pub watch: WatchRequest,
}

/// How long DNS is asked after a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WatchRequest {
    /// Not at all.
    No,
    /// For so many seconds, 900 at most: a direct request asks for it.
    Seconds(NonZeroU32),
    /// Until the answer has changed and stayed the same for a while: an event of RDS says that it
    /// may change, but comes up to minutes before it does.
    UntilStable,
}

impl Request {
    /// Reads an event.
    ///
    /// # Errors
    ///
    /// Where it is neither an event that is known nor a well-formed direct request. A mistyped
    /// `dryrun` must never change anything, so what is unknown is refused by name.
    pub fn from_event(event: Value) -> Result<Self, InvalidJson> {
        let plain = |trigger| Self { trigger, groups: None, dry_run: false, check: false, watch: WatchRequest::No };
        let rds_event = |starts_watch| Self {
            watch: if starts_watch { WatchRequest::UntilStable } else { WatchRequest::No },
            ..plain(Trigger::RdsEvent)
        };
        let refused = |at: &str, problem: String| InvalidJson { at: at.to_owned(), problem };
        let fields = match &event {
            Value::Null => return Ok(plain(Trigger::Schedule)),
            Value::Object(fields) if fields.is_empty() => return Ok(plain(Trigger::Schedule)),
            Value::Object(fields) => fields,
            other => {
                let kind = match other {
                    Value::Array(_) => "an array",
                    Value::String(_) => "a string",
                    Value::Number(_) => "a number",
                    _ => "a boolean",
                };
                return Err(refused(EVENT, format!("it is {kind}; {ACCEPTED}")));
            }
        };
        let source = fields.get("source").and_then(Value::as_str);
        let envelope = if source.is_some() { "source" } else { "Records" };
        if fields.contains_key(envelope)
            && let Some(field) = DIRECT_FIELDS.iter().find(|field| fields.contains_key(**field))
        {
            return Err(refused(
                EVENT,
                format!("`{envelope}` makes it an event of AWS, which has no `{field}`: leave one of them out"),
            ));
        }
        if source.is_some() {
            return Ok(eventbridge_starts_watch(&event).map_or_else(|| plain(Trigger::Schedule), rds_event));
        }
        if let Some(records) = fields.get("Records") {
            return sns_starts_watch(records).map(rds_event).ok_or_else(|| {
                refused("Records", format!("it is no SNS record that carries an RDS notification; {ACCEPTED}"))
            });
        }
        let direct: DirectRequest = from_json("", &event).map_err(|error| InvalidJson {
            at: if error.at.is_empty() { EVENT.to_owned() } else { error.at },
            problem: error.problem,
        })?;
        if direct.check && fields.contains_key("watch_seconds") {
            return Err(refused(
                "watch_seconds",
                "a check looks once and changes nothing, so there is nothing to watch: leave out `watch_seconds`, or \
                 `check`"
                    .to_owned(),
            ));
        }
        let dry_run = direct.dry_run || direct.check;
        // A dry run applies nothing, so one look tells all that it can tell.
        let watch =
            NonZeroU32::new(direct.watch_seconds).filter(|_| !dry_run).map_or(WatchRequest::No, WatchRequest::Seconds);
        Ok(Self {
            trigger: Trigger::Direct,
            groups: direct
                .bindings
                .map(|bindings| {
                    if bindings.is_empty() {
                        return Err(refused(
                            "bindings",
                            "it is empty: give at least one binding, or leave it out to use those of BINDINGS"
                                .to_owned(),
                        ));
                    }
                    Group::from_bindings("bindings", &bindings)
                })
                .transpose()?,
            dry_run,
            check: direct.check,
            watch,
        })
    }
}

/// The names here are those of [`DIRECT_FIELDS`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DirectRequest {
    #[serde(default, deserialize_with = "bindings")]
    bindings: Option<Vec<Binding>>,
    #[serde(default, deserialize_with = "boolean")]
    check: bool,
    #[serde(default, deserialize_with = "boolean")]
    dry_run: bool,
    #[serde(default, deserialize_with = "watch_seconds")]
    watch_seconds: u32,
}

/// An array, never `null`: who says `bindings` means it.
fn bindings<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<Binding>>, D::Error> {
    Vec::deserialize(deserializer).map(Some)
}

fn watch_seconds<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    integer(deserializer, 0..=LONGEST_INVOCATION)
}

/// What a message calls the event as a whole.
const EVENT: &str = "event";

const ACCEPTED: &str = "accepted are an empty object, an EventBridge event, an SNS record that carries an RDS \
     notification, and a direct request: an object of `bindings`, `check`, `dry_run` and `watch_seconds`";

const DIRECT_FIELDS: [&str; 4] = ["bindings", "check", "dry_run", "watch_seconds"];

/// Seconds that Lambda lets an invocation run at most.
const LONGEST_INVOCATION: u32 = 900;
