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

/// What makes the tags say something else.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TagChanges {
    /// To be added or overwritten, in one call.
    pub add: Tags,
    /// To be removed.
    pub remove: BTreeSet<String>,
    /// Whether there is no room for the new ones beside the old ones, so that those go first.
    pub removes_first: bool,
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
                Some(Key::Missing(target)) => match value.parse() {
                    Ok(since) => state.note_missing(target, since),
                    Err(error) => {
                        unreadable.push(format!("the tag {key} is `{value}`, which is {error}: it counts as empty"))
                    }
                },
                Some(Key::Owned(target, owner)) => {
                    let words: Vec<_> = value.split_ascii_whitespace().collect();
                    let since = words.first().and_then(|word| word.parse().ok());
                    let is_released = since.is_some() && words.get(1) == Some(&RELEASED);
                    if owner == tail(function, LONGEST_FUNCTION) {
                        state.owned.insert(target);
                        since.into_iter().for_each(|since| state.note_missing(target, since));
                        state.released.extend(is_released.then_some(target));
                    } else if !is_released {
                        state.elsewhere.insert(target);
                    }
                }
                Some(Key::Rotates(name)) => drop(state.rotating.insert(name.to_owned())),
                None if Subject::of(key) == Some(Subject::Unknown) => {
                    unreadable.push(format!("the tag {key} is not known, and says nothing"));
                }
                None => {}
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
        let (own, others): (Vec<_>, Vec<_>) = present.iter().partition(|(key, _)| is_own(key, function));
        let room = MOST_TAGS.saturating_sub(others.iter().filter(|(key, _)| takes_room(key)).count());
        let all = self.tags(is_shared, function);
        let left_out = all.len().saturating_sub(room);
        let wanted: Tags = all.into_iter().take(room).collect();
        let mut changes = TagChanges::default();
        changes.remove.extend(own.iter().filter(|(key, _)| !wanted.contains_key(*key)).map(|(key, _)| (*key).clone()));
        changes.add.extend(wanted.into_iter().filter(|(key, value)| present.get(key) != Some(value)));
        let new = changes.add.keys().filter(|key| !present.contains_key(*key)).count();
        changes.removes_first = own.len() + new > room;
        (changes, left_out)
    }

    /// The tags that say this. Those of targets that have been missing longest come first: what has no room loses least.
    fn tags(&self, is_shared: bool, function: &str) -> Vec<(String, String)> {
        let function = tail(function, LONGEST_FUNCTION);
        let targets: BTreeSet<_> = if is_shared { self.owned.iter().collect() } else { self.missing.keys().collect() };
        let mut targets: Vec<_> = targets.into_iter().map(|target| (self.missing.get(target), target)).collect();
        targets.sort_by_key(|(since, target)| (since.is_none(), *since, *target));
        let rotating = self.rotating.iter().map(|name| (format!("{PREFIX}{ROTATES}{name}"), "seen".to_owned()));
        let of_target = |(since, target): (Option<&Timestamp>, &Target)| {
            // ELBv2 takes no brackets in a tag, which an IPv6 address and a port are written with.
            let written = format!("{}_{}", target.address, target.port);
            let since = since.map_or_else(|| "used".to_owned(), ToString::to_string);
            match (is_shared, self.released.contains(target)) {
                (false, _) => (format!("{PREFIX}{MISSING}{written}"), since),
                (true, false) => (format!("{PREFIX}{OWNED}{written}/{function}"), since),
                (true, true) => (format!("{PREFIX}{OWNED}{written}/{function}"), format!("{since} {RELEASED}")),
            }
        };
        rotating.chain(targets.into_iter().map(of_target)).collect()
    }
}

/// How a tag writes the name that rotates: a long name by its end, which is what tells names apart.
pub fn rotating_name(hostname: &Hostname) -> &str {
    tail(hostname.canonical(), LONGEST_NAME)
}

/// Whether the tag of this key holds state of this function.
pub fn is_own(key: &str, function: &str) -> bool {
    match Key::parse(key) {
        Some(Key::Owned(_, owner)) => owner == tail(function, LONGEST_FUNCTION),
        Some(_) => true,
        None => false,
    }
}

/// Whether the tag of this key counts towards the quota, which AWS's own do not.
pub fn takes_room(key: &str) -> bool {
    !key.starts_with("aws:")
}

/// The last characters of a text.
fn tail(text: &str, most: usize) -> &str {
    text.get(text.len().saturating_sub(most)..).unwrap_or(text)
}

/// What the key of a tag of state says.
enum Key<'a> {
    Missing(Target),
    Owned(Target, &'a str),
    Rotates(&'a str),
}

impl<'a> Key<'a> {
    fn parse(key: &'a str) -> Option<Self> {
        let name = key.strip_prefix(PREFIX)?;
        if let Some(target) = name.strip_prefix(MISSING) {
            return parse_target(target).map(Self::Missing);
        }
        if let Some(name) = name.strip_prefix(ROTATES) {
            return Some(Self::Rotates(name));
        }
        let (target, function) = name.strip_prefix(OWNED)?.split_once('/')?;
        Some(Self::Owned(parse_target(target)?, function))
    }
}

fn parse_target(text: &str) -> Option<Target> {
    let (address, port) = text.split_once('_')?;
    Some(Target { address: address.parse().ok()?, port: port.parse().ok()? })
}

/// What a tag under our prefix is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Subject {
    /// A field of a binding, which the user wrote.
    Binding(Field),
    /// What runs remember.
    State,
    /// Nothing that is known.
    Unknown,
}

/// A field of a binding that a tag may hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    /// The grace period.
    DeregisterAfterSeconds,
    /// Hostnames, in a tag that may have a number.
    Hostnames,
    /// How many answers a run collects.
    Lookups,
    /// Whose targets may be deregistered.
    Ownership,
    /// The port to register addresses on.
    Port,
}

impl Subject {
    /// Reads the key of a tag; `None` where it is not under our prefix.
    pub fn of(key: &str) -> Option<Self> {
        let name = key.strip_prefix(PREFIX)?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        Some(match name {
            "hostname" => Self::Binding(Field::Hostnames),
            "deregister-after-seconds" => Self::Binding(Field::DeregisterAfterSeconds),
            "lookups" => Self::Binding(Field::Lookups),
            "ownership" => Self::Binding(Field::Ownership),
            "port" => Self::Binding(Field::Port),
            _ if name.strip_prefix("hostname-").is_some_and(is_number) => Self::Binding(Field::Hostnames),
            _ if Key::parse(key).is_some() => Self::State,
            _ => Self::Unknown,
        })
    }
}

/// What the keys of our tags begin with.
pub const PREFIX: &str = "nlb-hostname-targets:";

const MISSING: &str = "missing/";
const OWNED: &str = "owned/";
const ROTATES: &str = "rotates/";
const RELEASED: &str = "released";

/// Characters of a function's name that a key has room for: it may have 127, the prefix and an IPv6 target take 73
/// ([tags](https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-tags.html)).
const LONGEST_FUNCTION: usize = 54;

/// Characters of a hostname that a key has room for.
const LONGEST_NAME: usize = 98;

/// Tags that a target group can have, those of others among them (same page).
pub const MOST_TAGS: usize = 50;
