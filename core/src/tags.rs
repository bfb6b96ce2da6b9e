//! Rule 8: the state of a target group in its tags, one tag for each target that needs it.
//!
//! A person can read and repair them:
//!
//! ```text
//! nlb-hostname-targets:missing/10.0.1.8_5432         1763802000.250           in an `exclusive` group: missing since
//! nlb-hostname-targets:owned/10.0.1.8_5432/FUNCTION  used                     in a `shared` one: this function's
//! nlb-hostname-targets:owned/10.0.1.8_5432/FUNCTION  1763802000.250           the same, and missing since
//! nlb-hostname-targets:owned/10.0.1.8_5432/FUNCTION  1763802000.250 released  it would go, but others own it as well
//! nlb-hostname-targets:rotates/db.example.com        seen                     this name was seen to rotate
//! ```
//!
//! No run writes over what another one wrote of another target, so two runs at once lose nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::{clock::Timestamp, hostname::Hostname, target::Target};

/// Tags of a target group by their keys.
pub type Tags = BTreeMap<String, String>;

/// What is remembered of a target group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// Since when the address of a target has been missing from DNS.
    pub missing: BTreeMap<Target, Timestamp>,
    /// The targets that this function registered, or whose address DNS gave it; empty in `exclusive` groups.
    pub owned: BTreeSet<Target>,
    /// Those of them that this function would have deregistered, had no other function owned them as well.
    pub released: BTreeSet<Target>,
    /// The targets that other functions own and have not released. This is only read.
    pub elsewhere: BTreeSet<Target>,
    /// The names that were seen to rotate, as [`rotating_name`] writes them.
    pub rotating: BTreeSet<String>,
}

/// What makes the tags say something else. What is removed goes first: there may be no room for the new beside the old.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct TagChanges {
    pub add: Tags,
    pub remove: BTreeSet<String>,
}

impl TagChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// What `tags` are after this.
    pub fn apply(&self, tags: &mut Tags) {
        tags.retain(|key, _| !self.remove.contains(key));
        tags.extend(self.add.clone());
    }
}

impl State {
    /// Reads the tags for the function of this name. What can't be read counts as not being there, and is described in the
    /// list, as is a tag under our prefix whose key is not known.
    pub fn read(tags: &Tags, function: &str) -> (Self, Vec<String>) {
        let mut state = Self::default();
        let mut unreadable = Vec::new();
        for (key, value) in tags {
            match Key::parse(key) {
                Some(Key::Missing(target)) => match Timestamp::parse(value) {
                    Some(since) => state.note_missing(target, since),
                    None => unreadable.push(format!(
                        "the tag {key} is `{value}`, which is not a time in seconds since the epoch, from 2020 to 2099: it \
                         counts as empty"
                    )),
                },
                Some(Key::Owned(target, owner)) => {
                    let (since, released) = value.split_once(' ').unwrap_or((value, ""));
                    let since = Timestamp::parse(since);
                    let is_released = since.is_some() && released == RELEASED;
                    if owner == own_name(function) {
                        state.owned.insert(target);
                        since.into_iter().for_each(|since| state.note_missing(target, since));
                        state.released.extend(is_released.then_some(target));
                    } else if !is_released {
                        state.elsewhere.insert(target);
                    }
                }
                Some(Key::Rotates(name)) => drop(state.rotating.insert(name.to_owned())),
                Some(Key::Unknown) => unreadable.push(format!("the tag {key} is not known, and says nothing")),
                _ => {}
            }
        }
        (state, unreadable)
    }

    /// Of two tags of one target, which somebody wrote by hand, the one counts that lets it go later.
    fn note_missing(&mut self, target: Target, since: Timestamp) {
        let noted = self.missing.entry(target).or_insert(since);
        *noted = since.max(*noted);
    }

    /// What makes the tags `present` say this, and for how many targets there is no room.
    pub fn changes(&self, present: &Tags, is_shared: bool, function: &str) -> (TagChanges, usize) {
        let (own, others): (Vec<_>, Vec<_>) = present.keys().partition(|key| is_own(key, function));
        // AWS's own don't count towards the quota.
        let room = MOST_TAGS.saturating_sub(others.iter().filter(|key| !key.starts_with("aws:")).count());
        let all = self.tags(is_shared, function);
        let left_out = all.len().saturating_sub(room);
        let wanted: Tags = all.into_iter().take(room).collect();
        let remove = own.into_iter().filter(|key| !wanted.contains_key(*key)).cloned().collect();
        let add = wanted.into_iter().filter(|(key, value)| present.get(key) != Some(value)).collect();
        (TagChanges { add, remove }, left_out)
    }

    /// The tags that say this. Those of targets that have been missing longest come first: what has no room loses least.
    fn tags(&self, is_shared: bool, function: &str) -> Vec<(String, String)> {
        let targets: Vec<_> = if is_shared { self.owned.iter().collect() } else { self.missing.keys().collect() };
        let mut targets: Vec<_> = targets.into_iter().map(|target| (self.missing.get(target), target)).collect();
        targets.sort_by_key(|(since, target)| (since.is_none(), *since, *target));
        let rotating = self.rotating.iter().map(|name| (format!("{PREFIX}rotates/{name}"), "seen".to_owned()));
        let of_target = |(since, target): (Option<&Timestamp>, &Target)| {
            // ELBv2 takes no brackets in a tag, which an IPv6 address and a port are written with.
            let written = format!("{}_{}", target.address, target.port);
            let since = since.map_or_else(|| "used".to_owned(), ToString::to_string);
            if !is_shared {
                return (format!("{PREFIX}missing/{written}"), since);
            }
            let value = if self.released.contains(target) { format!("{since} {RELEASED}") } else { since };
            (format!("{PREFIX}owned/{written}/{}", own_name(function)), value)
        };
        rotating.chain(targets.into_iter().map(of_target)).collect()
    }
}

/// How a tag writes the name that rotates: a long name by its end, which is what tells names apart. A key may have 127
/// characters ([tags](https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-tags.html)).
pub fn rotating_name(hostname: &Hostname) -> &str {
    tail(hostname.canonical(), 98)
}

/// How a tag writes the name of a function: the prefix and an IPv6 target take 73 characters.
fn own_name(function: &str) -> &str {
    tail(function, 54)
}

/// The last characters of a text.
fn tail(text: &str, most: usize) -> &str {
    text.get(text.len().saturating_sub(most)..).unwrap_or(text)
}

/// Whether the tag of this key holds state of this function.
pub fn is_own(key: &str, function: &str) -> bool {
    match Key::parse(key) {
        Some(Key::Owned(_, owner)) => owner == own_name(function),
        Some(Key::Missing(_) | Key::Rotates(_)) => true,
        _ => false,
    }
}

/// What the key of a tag under our prefix says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "the fields are those of a binding")]
pub enum Key<'a> {
    DeregisterAfterSeconds,
    Hostnames,
    Lookups,
    /// State: the target is missing.
    Missing(Target),
    /// State: the target belongs to this function.
    Owned(Target, &'a str),
    Ownership,
    Port,
    /// State: this name rotates.
    Rotates(&'a str),
    /// Nothing that is known.
    Unknown,
}

impl<'a> Key<'a> {
    /// Reads a key; `None` where it is not under our prefix.
    pub fn parse(key: &'a str) -> Option<Self> {
        let name = key.strip_prefix(PREFIX)?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let read = match name.split_once('/') {
            Some(("missing", target)) => parse_target(target).map(Self::Missing),
            Some(("owned", rest)) => {
                rest.split_once('/').and_then(|(target, function)| Some(Self::Owned(parse_target(target)?, function)))
            }
            Some(("rotates", name)) => Some(Self::Rotates(name)),
            _ => match name {
                "deregister-after-seconds" => Some(Self::DeregisterAfterSeconds),
                "hostname" => Some(Self::Hostnames),
                "lookups" => Some(Self::Lookups),
                "ownership" => Some(Self::Ownership),
                "port" => Some(Self::Port),
                _ => name.strip_prefix("hostname-").filter(|text| is_number(text)).map(|_| Self::Hostnames),
            },
        };
        Some(read.unwrap_or(Self::Unknown))
    }
}

fn parse_target(text: &str) -> Option<Target> {
    let (address, port) = text.split_once('_')?;
    Some(Target { address: address.parse().ok()?, port: port.parse().ok()? })
}

/// What the keys of our tags begin with.
pub const PREFIX: &str = "nlb-hostname-targets:";

const RELEASED: &str = "released";

/// Tags that a target group can have, those of others among them (same page).
pub const MOST_TAGS: usize = 50;
