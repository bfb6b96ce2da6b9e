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
use std::{fmt::Display, ops::RangeInclusive, str::FromStr};

use crate::binding::{Group, LOOKUPS, PORTS, SECONDS, accepted, integer_of, ownership_of};
use crate::hostname::{AllowedHostnames, Hostname};
use crate::tags::{Key, PREFIX, Tags};
use crate::{failure::Failure, target::TargetGroupArn};

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

/// What the tags of a target group bind it to, or what is wrong with which.
fn group(arn: &TargetGroupArn, tags: &Tags, allowed: &AllowedHostnames) -> Result<Group, Vec<Failure>> {
    let mut group = Group::without_members(arn.clone());
    let mut hostnames: Vec<Hostname> = Vec::new();
    let (mut port, mut lookups) = (None, None);
    let mut failures = Vec::new();
    for (tag, value) in tags {
        let text = value.trim();
        let read = match Key::parse(tag) {
            None | Some(Key::Missing(_) | Key::Owned(..) | Key::Rotates(_)) => Ok(()),
            Some(Key::Hostnames) => read_hostnames(text, allowed).map(|names| hostnames.extend(names)),
            Some(Key::DeregisterAfterSeconds) => read_integer(text, &SECONDS, &mut group.deregister_after_seconds),
            Some(Key::Lookups) => read_integer(text, &LOOKUPS, &mut lookups),
            Some(Key::Port) => read_integer(text, &PORTS, &mut port),
            Some(Key::Ownership) => ownership_of(text).map(|ownership| group.ownership = ownership),
            Some(Key::Unknown) => Err(format!("there is no such tag; known are {KNOWN} after {PREFIX}")),
        };
        if let Err(problem) = read {
            failures.push(Failure::Tag { tag: tag.clone(), value: value.clone(), problem });
        }
    }
    if !failures.is_empty() || hostnames.is_empty() {
        return Err(failures);
    }
    if let Some(number) = lookups {
        group.lookups = hostnames.iter().map(|hostname| (hostname.clone(), number)).collect();
    }
    group.members = hostnames.into_iter().map(|hostname| (hostname, port)).collect();
    Ok(group)
}

fn read_integer<N: Display + FromStr + PartialOrd>(
    text: &str,
    bounds: &RangeInclusive<N>,
    into: &mut Option<N>,
) -> Result<(), String> {
    *into = Some(integer_of(text, bounds).ok_or_else(|| format!("accepted is {}", accepted(bounds)))?);
    Ok(())
}

/// The hostnames of a tag, or what is wrong with the first that may not be bound.
fn read_hostnames(text: &str, allowed: &AllowedHostnames) -> Result<Vec<Hostname>, String> {
    if text.is_empty() {
        return Err("it holds no hostname".to_owned());
    }
    let read = |name: &str| {
        let hostname = Hostname::try_from(name.to_owned())?;
        allowed.refusal(&hostname).map_or(Ok(hostname), Err)
    };
    text.split_whitespace().map(read).collect()
}

/// The tags of a binding.
const KNOWN: &str = "hostname, hostname-2 and so on, port, deregister-after-seconds, ownership and lookups";
