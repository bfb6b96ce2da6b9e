//! How the state of a target group is written into its tags.
//!
//! A person can read and repair it. In an `exclusive` group, `nlb-hostname-targets:missing-1`
//! (and `-2` and so on, where one tag does not suffice) lists the targets whose address is missing
//! from DNS, each with the time since when, in seconds since the epoch:
//!
//! ```text
//! 10.0.1.8_5432@1763802000.250 10.0.1.9_5432@1763802060.000
//! ```
//!
//! In a `shared` group, `nlb-hostname-targets:owned-1763802000.250-4711/FUNCTION` (and `-4712`) lists all
//! targets that the function of this name owns, with the time where one is missing. `/released` follows where the
//! function no longer needs the target, but left it in because another function owns it, too:
//!
//! ```text
//! 10.0.1.8_5432@1763802000.250 10.0.1.10_5432 10.0.1.9_5432@1763802000.250/released
//! ```
//!
//! The first number in that key is the time when the tag was written, the second one a random one,
//! so that no two runs write the same tag. Such a tag is never written over: ELBv2 can't be asked to
//! do so only if nobody else has, and what another run wrote in between would be lost, with it whose
//! a target is. Tags of other functions are read, and never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    num::NonZeroU16,
    str::FromStr,
};

use crate::{
    policy::Ownership,
    state::{State, Timestamp},
    target::Target,
};

/// Tags of a target group by their keys.
pub type Tags = BTreeMap<String, String>;

/// What a function of this name writes in a group of this ownership.
#[derive(Clone, Copy, Debug)]
pub struct Notation<'a> {
    /// The name of the function.
    pub function: &'a str,
    /// Whose targets may be deregistered.
    pub ownership: Ownership,
}

/// What has to be done to tags so that they say something else.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TagChanges {
    /// To be added or overwritten, in one call. What is to be removed is in it, too, without a
    /// value: a run that is killed before it removes that must leave no time that was dropped.
    pub add: Tags,
    /// To be removed after that.
    pub remove: Vec<String>,
}

impl TagChanges {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

impl Notation<'_> {
    /// Reads the tags; those of others are passed over. What can't be read counts as not
    /// being there, and is described in the list, as is a tag whose key is not known.
    ///
    /// What was written when the group was `exclusive` says of a `shared` one whose those targets are.
    pub fn read(self, tags: &Tags) -> (State, Vec<String>) {
        let mut state = State::default();
        let mut unreadable = Vec::new();
        for (key, value) in tags {
            let Some(parsed) = Key::parse(key) else {
                if let Some(Subject::Unknown) = Subject::of(key) {
                    unreadable.push(format!(
                        "the tag {key} is not known, and says nothing (known are {PREFIX}{MISSING}-NUMBER and \
                         {PREFIX}{OWNED}-NUMBER/FUNCTION)"
                    ));
                }
                continue;
            };
            for entry in value.split_ascii_whitespace() {
                let Ok(Entry { target, missing_since, is_released }) = entry.parse() else {
                    unreadable.push(format!(
                        "the tag {key} can't be read where it says `{entry}`, which is not of the form ADDRESS_PORT or \
                         ADDRESS_PORT@SECONDS, and counts as empty"
                    ));
                    continue;
                };
                if let Some(function) = self.other_function(parsed) {
                    if !is_released {
                        state.elsewhere.insert(target, function.to_owned());
                    }
                    continue;
                }
                if self.ownership == Ownership::Shared {
                    state.owned.insert(target);
                    state.released.extend(is_released.then_some(target));
                }
                if let Some(since) = missing_since {
                    // Of two times the later one, so that no target goes too early.
                    let known = state.missing.entry(target).or_insert(since);
                    *known = since.max(*known);
                }
            }
        }
        (state, unreadable)
    }

    /// The values that say this, and how many targets found no place in `room` tags. Those that
    /// have been missing longest come first, so that what has no place is what loses least.
    fn values(state: &State, room: usize) -> (Vec<String>, usize) {
        let targets: BTreeSet<_> = state.missing.keys().chain(&state.owned).collect();
        let mut entries: Vec<_> = targets
            .into_iter()
            .map(|target| Entry {
                target: *target,
                missing_since: state.missing.get(target).copied(),
                is_released: state.released.contains(target),
            })
            .collect();
        entries.sort_by_key(|entry| (entry.missing_since.is_none(), entry.missing_since));
        let mut values: Vec<String> = Vec::new();
        let mut left_out = 0;
        for entry in entries.iter().map(ToString::to_string) {
            let tags = values.len();
            match values.last_mut() {
                Some(value) if value.len() + 1 + entry.len() <= LONGEST_VALUE => *value = format!("{value} {entry}"),
                _ if tags < room => values.push(entry),
                _ => left_out += 1,
            }
        }
        (values, left_out)
    }

    /// What makes a target group with the tags `present` say this, at this time, and how many targets found no place.
    /// `nonce` is the random number that the keys begin to count from.
    ///
    /// Whose a target is must not get lost. So in `shared` groups tags are only removed that were
    /// read, and none is written over as long as there is room for more: whatever two runs do at
    /// once, the next one reads what both of them wrote. And a tag only makes way for newer ones:
    /// of two runs that found the tags of both, each could else keep its own and remove the other's.
    pub fn changes(self, present: &Tags, state: &State, at: Timestamp, nonce: u32) -> (TagChanges, usize) {
        let room = MOST_TAGS.saturating_sub(self.foreign_tags(present));
        let (values, left_out) = Self::values(state, room);
        let mut surplus = present.clone();
        surplus.retain(|key, _| self.is_ours(key));
        let mut add = Tags::new();
        match self.ownership {
            Ownership::Exclusive => {
                let wanted: Tags = values
                    .into_iter()
                    .zip(1..)
                    .map(|(value, number)| (format!("{PREFIX}{MISSING}-{number}"), value))
                    .collect();
                if surplus != wanted {
                    surplus.retain(|key, _| !wanted.contains_key(key));
                    add = wanted;
                } else {
                    surplus.clear();
                }
            }
            Ownership::Shared => add = self.additions(present, &mut surplus, values, at, nonce),
        }
        surplus.retain(|key, _| !add.contains_key(key));
        let remove: Vec<_> = surplus.into_keys().collect();
        if !add.is_empty() {
            add.extend(remove.iter().map(|key| (key.clone(), String::new())));
        }
        (TagChanges { add, remove }, left_out)
    }

    /// The tags to add in a `shared` group. What stays as it is is taken out of `surplus`.
    fn additions(self, present: &Tags, surplus: &mut Tags, wanted: Vec<String>, at: Timestamp, nonce: u32) -> Tags {
        let known = surplus.keys().filter_map(|key| Key::parse(key)?.written_at()).max();
        let mut values = Vec::new();
        let mut kept = Tags::new();
        for value in wanted {
            let is_same = |key: &str, shown: &str| {
                shown == value && Key::parse(key).is_some_and(|key| key.function == Some(self.function))
            };
            match surplus.iter().find(|(key, shown)| is_same(key, shown)).map(|(key, _)| key.clone()) {
                Some(key) => kept.extend(surplus.remove_entry(&key)),
                None => values.push(value),
            }
        }
        let newest = surplus.keys().max_by_key(|key| age(key)).cloned();
        for (key, value) in kept {
            if newest.as_ref().is_some_and(|newest| age(&key) < age(newest)) {
                values.push(value.clone());
                surplus.insert(key, value);
            }
        }
        // Also where the clock is behind that of another run.
        let at = known.map_or(at, |known| at.max(Timestamp(known.0 + 1)));
        let fresh = (nonce..).map(|number| format!("{PREFIX}{OWNED}-{at}-{number}/{}", self.function));
        let mut fresh = fresh.filter(|key| !present.contains_key(key));
        let room = MOST_TAGS.saturating_sub(present.keys().filter(|key| takes_room(key)).count());
        let beside: Vec<_> = fresh.by_ref().take(room).collect();
        let is_own = |key: &str| Key::parse(key).is_some_and(|key| key.function == Some(self.function));
        let over = surplus.keys().filter(|key| is_own(key)).cloned().collect::<Vec<_>>();
        // What else there is takes the room of tags that are removed first.
        beside.into_iter().chain(over).chain(fresh).zip(values).collect()
    }

    /// How many tags there are whose room we can't take.
    pub fn foreign_tags(self, present: &Tags) -> usize {
        present.keys().filter(|key| takes_room(key) && !self.is_ours(key)).count()
    }

    /// Whether the tag of this key holds our state.
    pub fn is_ours(self, key: &str) -> bool {
        Key::parse(key).is_some_and(|key| self.other_function(key).is_none())
    }

    /// The other function that wrote this, if one did. A key without a name was written before keys had one.
    fn other_function<'k>(self, key: Key<'k>) -> Option<&'k str> {
        key.function.filter(|function| *function != self.function)
    }
}

/// Whether the tag of this key counts towards the quota, which AWS's own do not.
pub fn takes_room(key: &str) -> bool {
    !key.starts_with("aws:")
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

/// What the key of a tag of ours says.
#[derive(Clone, Copy)]
struct Key<'a> {
    /// `1`, or `TIME-NUMBER`.
    number: &'a str,
    /// Which function wrote it.
    function: Option<&'a str>,
}

impl<'a> Key<'a> {
    fn parse(key: &'a str) -> Option<Self> {
        let (family, rest) = key.strip_prefix(PREFIX)?.split_once('-')?;
        let (number, function) = match rest.split_once('/') {
            Some((number, function)) if family == OWNED => (number, Some(function)),
            _ => (rest, None),
        };
        let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-');
        ([MISSING, OWNED].contains(&family) && is_number).then_some(Self { number, function })
    }

    /// When the tag was written, where the key says so.
    fn written_at(self) -> Option<Timestamp> {
        self.number.split_once('-')?.0.parse().ok()
    }
}

/// What keys are in the order of by the age of their tags, the oldest first.
fn age(key: &str) -> (Option<Timestamp>, &str) {
    (Key::parse(key).and_then(Key::written_at), key)
}

/// What a tag says of a target.
struct Entry {
    target: Target,
    missing_since: Option<Timestamp>,
    is_released: bool,
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // ELBv2 takes no brackets in a tag, which an IPv6 address and a port are written with.
        write!(formatter, "{}_{}", self.target.address, self.target.port)?;
        if let Some(since) = self.missing_since {
            write!(formatter, "@{since}")?;
        }
        formatter.write_str(if self.is_released { RELEASED } else { "" })
    }
}

impl FromStr for Entry {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let read = || {
            let (text, is_released) = text.strip_suffix(RELEASED).map_or((text, false), |text| (text, true));
            let (target, since) = match text.split_once('@') {
                Some((target, since)) => (target, Some(since.parse().ok()?)),
                None => (text, None),
            };
            let (address, port) = target.split_once('_')?;
            let address: IpAddr = address.parse().ok()?;
            let port: NonZeroU16 = port.parse().ok()?;
            Some(Self { target: Target { address, port }, missing_since: since, is_released })
        };
        read().ok_or(InvalidEntry)
    }
}

struct InvalidEntry;

/// What the keys of our tags begin with.
pub const PREFIX: &str = "nlb-hostname-targets:";

const MISSING: &str = "missing";

const OWNED: &str = "owned";

const RELEASED: &str = "/released";

/// Characters that the value of a tag may have: the user guide says 255, the API reference 256
/// ([tags](https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-tags.html)).
const LONGEST_VALUE: usize = 255;

/// Tags that a target group can have, those of others among them
/// ([tags](https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-tags.html)).
pub const MOST_TAGS: usize = 50;
