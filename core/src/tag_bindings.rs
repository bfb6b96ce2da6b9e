//! Bindings by tags: what the tags of target groups say that they follow. Pure: no I/O.
//!
//! ```text
//! nlb-hostname-targets:hostname                  db.example.com reader.example.com
//! nlb-hostname-targets:hostname-2                more.example.com
//! nlb-hostname-targets:port                      5433
//! nlb-hostname-targets:deregister-after-seconds  300
//! nlb-hostname-targets:ownership                 shared
//! nlb-hostname-targets:lookups                   5
//! ```

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::{
    binding::{Binding, Group, InvalidJson, from_json},
    failure::Failure,
    hostname::AllowedHostnames,
    tags::{Field, PREFIX, Subject, Tags},
    target::TargetGroupArn,
};

/// The target groups that have a tag of hostnames, by what their tags say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Found {
    /// Those that are bound by their tags.
    pub groups: BTreeMap<TargetGroupArn, Group>,
    /// Those whose tags can't be read: what is wrong with which.
    pub invalid: BTreeMap<TargetGroupArn, Vec<Failure>>,
    /// Those that are in `BINDINGS` as well, which goes before their tags.
    pub given: BTreeSet<TargetGroupArn>,
}

impl Found {
    /// Reads the tags of target groups. `given` are those that are in `BINDINGS`, `allowed` the hostnames that may be bound.
    pub fn read(
        tagged: &BTreeMap<TargetGroupArn, Tags>,
        given: &BTreeSet<TargetGroupArn>,
        allowed: &AllowedHostnames,
    ) -> Self {
        let mut found = Self::default();
        for (arn, tags) in tagged {
            if given.contains(arn) {
                found.given.insert(arn.clone());
                continue;
            }
            match group(arn, tags, allowed) {
                Ok(group) => drop(found.groups.insert(arn.clone(), group)),
                Err(failures) => drop(found.invalid.insert(arn.clone(), failures)),
            }
        }
        found
    }
}

/// What the tags of a target group bind it to, or what is wrong with them.
fn group(arn: &TargetGroupArn, tags: &Tags, allowed: &AllowedHostnames) -> Result<Group, Vec<Failure>> {
    let mut failures = Vec::new();
    let mut refuse = |tag: &str, value: &str, problem: String| {
        let failure = Failure::Tag { tag: tag.to_owned(), value: value.to_owned(), problem };
        if !failures.contains(&failure) {
            failures.push(failure);
        }
    };
    // The fields that count for all hostnames, and the tag that each is from.
    let mut fields = Map::from_iter([("target_group_arn".to_owned(), arn.as_str().into())]);
    let mut sources = BTreeMap::new();
    let mut hostnames = Vec::new();
    for (tag, value) in tags {
        let (name, value_of_field) = match Subject::of(tag) {
            None | Some(Subject::State) => continue,
            Some(Subject::Unknown) => {
                refuse(tag, value, format!("there is no such tag; known are {KNOWN} after {PREFIX}"));
                continue;
            }
            Some(Subject::Binding(Field::Hostnames)) => {
                if value.trim().is_empty() {
                    refuse(tag, value, "it holds no hostname".to_owned());
                }
                hostnames.extend(value.split_whitespace().map(|hostname| (hostname, tag, value)));
                continue;
            }
            Some(Subject::Binding(Field::DeregisterAfterSeconds)) => ("deregister_after_seconds", integer(value)),
            Some(Subject::Binding(Field::Lookups)) => ("lookups", integer(value)),
            Some(Subject::Binding(Field::Port)) => ("port", integer(value)),
            Some(Subject::Binding(Field::Ownership)) => ("ownership", value.trim().into()),
        };
        fields.insert(name.to_owned(), value_of_field);
        sources.insert(name, (tag, value));
    }
    let mut bindings: Vec<Binding> = Vec::new();
    for (hostname, tag, value) in hostnames {
        fields.insert("hostname".to_owned(), hostname.into());
        match from_json::<Binding>("", &Value::Object(fields.clone())) {
            Ok(binding) => match allowed.refusal(&binding.hostname) {
                Some(problem) => refuse(tag, value, problem),
                None => bindings.push(binding),
            },
            Err(InvalidJson { at, problem }) => {
                let (tag, value) = sources.get(at.as_str()).copied().unwrap_or((tag, value));
                refuse(tag, value, problem);
            }
        }
    }
    if !failures.is_empty() {
        return Err(failures);
    }
    let groups = Group::from_bindings(PREFIX, &bindings).unwrap_or_default();
    groups.into_iter().next().ok_or_else(Vec::new)
}

/// As it would stand in JSON. What is no integer stays a text, which the field then refuses.
fn integer(value: &str) -> Value {
    let value = value.trim();
    let is_plain = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse::<u64>().ok().filter(|_| is_plain).map_or_else(|| value.into(), Value::from)
}

/// The tags of a binding.
const KNOWN: &str = "hostname, hostname-2 and so on, port, deregister-after-seconds, ownership and lookups";
