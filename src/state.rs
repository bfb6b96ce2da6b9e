//! What is remembered of a target group between runs, and how it is written into the tags of that
//! target group.
//!
//! A person can read and repair it. In an `exclusive` group, `nlb-hostname-targets:missing-1`
//! (and `-2` and so on, where one tag does not suffice) lists the targets whose address is missing
//! from DNS, each with the time since when, in seconds since the epoch:
//!
//! ```text
//! 10.0.1.8_5432@1763802000.250 10.0.1.9_5432@1763802060.000
//! ```
//!
//! In a `shared` group, `nlb-hostname-targets:owned-1763802000.250-4711` (and `-4712`) lists all
//! targets that the function registered, with the time where one is missing:
//!
//! ```text
//! 10.0.1.8_5432@1763802000.250 10.0.1.10_5432
//! ```
//!
//! The first number in that key is the time when the tag was written, the second one a random one,
//! so that no two runs write the same tag. Such a tag is never written over: ELBv2 can't be asked to
//! do so only if nobody else has, and what another run wrote in between would be lost, with it whose
//! a target is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{BuildHasher, Hasher, RandomState},
    net::IpAddr,
    num::NonZeroU16,
    str::FromStr,
    time::{Duration, SystemTime},
};

use crate::{binding::Ownership, target::Target};

/// What is remembered of a target group.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct State {
    /// Since when the address of a registered target has been missing from DNS.
    pub missing: BTreeMap<Target, Timestamp>,
    /// The targets that this function registered; empty in `exclusive` groups.
    pub owned: BTreeSet<Target>,
}

/// A time in milliseconds since the epoch. It is written in seconds: `1763802000.250`.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub u64);

/// Tags of a target group by their keys.
pub type Tags = BTreeMap<String, String>;

impl State {
    /// Reads the tags; those that are not ours are passed over. What can't be read counts as not
    /// being there, and is described in the list, as is a tag whose key is not known.
    pub fn read(tags: &Tags) -> (Self, Vec<String>) {
        let mut state = Self::default();
        let mut unreadable = Vec::new();
        for (key, value) in tags {
            let Some(family) = family(key) else {
                if key.starts_with(PREFIX) {
                    unreadable.push(format!(
                        "the tag {key} is not known, and says nothing (known are {PREFIX}{MISSING}-NUMBER and \
                         {PREFIX}{OWNED}-NUMBER)"
                    ));
                }
                continue;
            };
            for entry in value.split_ascii_whitespace() {
                let Ok(Entry { target, missing_since }) = entry.parse() else {
                    unreadable.push(format!(
                        "the tag {key} can't be read where it says `{entry}`, which is not of the form ADDRESS_PORT or \
                         ADDRESS_PORT@SECONDS, and counts as empty"
                    ));
                    continue;
                };
                if family == OWNED {
                    state.owned.insert(target);
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

    /// The tags that say this, and how many targets found no place in `room` tags. Those that
    /// have been missing longest come first in the tags, so that what has no place is what loses least.
    pub fn write(&self, ownership: Ownership, room: usize) -> (Tags, usize) {
        let family = match ownership {
            Ownership::Exclusive => MISSING,
            Ownership::Shared => OWNED,
        };
        let targets: BTreeSet<_> = self.missing.keys().chain(&self.owned).collect();
        let mut entries: Vec<_> = targets
            .into_iter()
            .map(|target| Entry { target: *target, missing_since: self.missing.get(target).copied() })
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
        let tags = values.into_iter().zip(1..).map(|(value, number)| (format!("{PREFIX}{family}-{number}"), value));
        (tags.collect(), left_out)
    }
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
    /// What makes a target group with the tags `present` say what [`State::write`] gave for this
    /// ownership, at this time.
    ///
    /// Whose a target is must not get lost. So in `shared` groups tags are only removed that were
    /// read, and none is written over as long as there is room for more: whatever two runs do at
    /// once, the next one reads what both of them wrote. And a tag only makes way for newer ones:
    /// of two runs that found the tags of both, each could else keep its own and remove the other's.
    pub fn new(present: &Tags, wanted: Tags, ownership: Ownership, at: Timestamp) -> Self {
        let mut own = present.clone();
        own.retain(|key, _| is_ours(key));
        let mut surplus = own.clone();
        let mut add = Tags::new();
        match ownership {
            Ownership::Exclusive => {
                surplus.retain(|key, _| !wanted.contains_key(key));
                if own != wanted {
                    add = wanted;
                }
            }
            Ownership::Shared => {
                let mut values = Vec::new();
                let mut kept = Tags::new();
                for value in wanted.into_values() {
                    let same = surplus.iter().find(|(key, shown)| family(key) == Some(OWNED) && **shown == value);
                    match same.map(|(key, _)| key.clone()) {
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
                let known = own.keys().filter_map(|key| written_at(key)).max();
                let at = known.map_or(at, |known| at.max(Timestamp(known.0 + 1)));
                let first = RandomState::new().build_hasher().finish() % 1_000_000;
                let fresh = (first..).map(|number| format!("{PREFIX}{OWNED}-{at}-{number}"));
                let mut fresh = fresh.filter(|key| !present.contains_key(key));
                let room = MOST_TAGS.saturating_sub(present.keys().filter(|key| takes_room(key)).count());
                let beside: Vec<_> = fresh.by_ref().take(room).collect();
                let over = surplus.keys().filter(|key| family(key) == Some(OWNED)).cloned();
                // What else there is takes the room of tags that are removed first.
                add.extend(beside.into_iter().chain(over).chain(fresh).zip(values));
            }
        }
        surplus.retain(|key, _| !add.contains_key(key));
        let remove: Vec<_> = surplus.into_keys().collect();
        if !add.is_empty() {
            add.extend(remove.iter().map(|key| (key.clone(), String::new())));
        }
        Self { add, remove }
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// Whether the tag of this key counts towards the quota, which AWS's own do not.
pub fn takes_room(key: &str) -> bool {
    !key.starts_with("aws:")
}

/// Whether the tag of this key holds our state.
pub fn is_ours(key: &str) -> bool {
    family(key).is_some()
}

fn family(key: &str) -> Option<&'static str> {
    let (family, number) = key.strip_prefix(PREFIX)?.split_once('-')?;
    let is_number = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-');
    [MISSING, OWNED].into_iter().find(|known| *known == family && is_number)
}

/// When the tag of this key was written, where the key says so.
fn written_at(key: &str) -> Option<Timestamp> {
    let (_, numbers) = key.strip_prefix(PREFIX)?.split_once('-')?;
    numbers.split_once('-')?.0.parse().ok()
}

/// What keys are in the order of by the age of their tags, the oldest first.
fn age(key: &str) -> (Option<Timestamp>, &str) {
    (written_at(key), key)
}

/// What a tag says of a target.
struct Entry {
    target: Target,
    missing_since: Option<Timestamp>,
}

impl fmt::Display for Entry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // ELBv2 takes no brackets in a tag, which an IPv6 address and a port are written with.
        write!(formatter, "{}_{}", self.target.address, self.target.port)?;
        match self.missing_since {
            Some(since) => write!(formatter, "@{since}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Entry {
    type Err = InvalidEntry;

    fn from_str(text: &str) -> Result<Self, InvalidEntry> {
        let read = || {
            let (target, since) = match text.split_once('@') {
                Some((target, since)) => (target, Some(since.parse().ok()?)),
                None => (text, None),
            };
            let (address, port) = target.split_once('_')?;
            let address: IpAddr = address.parse().ok()?;
            let port: NonZeroU16 = port.parse().ok()?;
            Some(Self { target: Target { address, port }, missing_since: since })
        };
        read().ok_or(InvalidEntry)
    }
}

struct InvalidEntry;

impl Timestamp {
    /// How long after `earlier` this is; nothing where it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This many seconds later.
    pub fn plus_seconds(self, seconds: u32) -> Self {
        Self(self.0.saturating_add(u64::from(seconds) * 1000))
    }
}

impl From<SystemTime> for Timestamp {
    /// A clock before the epoch reads as the epoch.
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

impl FromStr for Timestamp {
    type Err = ImplausibleTime;

    fn from_str(text: &str) -> Result<Self, ImplausibleTime> {
        // A second is over when it ends: where the fraction was cut off, no target must go earlier.
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, "999"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(seconds) || !digits(fraction) || fraction.len() != 3 {
            return Err(ImplausibleTime);
        }
        let milliseconds: u64 = format!("{seconds}{fraction}").parse().map_err(|_| ImplausibleTime)?;
        // A time that lost a digit must not read as one long ago. One that gained some, as a time
        // in milliseconds has, would do no harm; but it is as wrong.
        if (EARLIEST..LATEST).contains(&milliseconds) { Ok(Self(milliseconds)) } else { Err(ImplausibleTime) }
    }
}

/// A text that is not a time at which this function can have run.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a time in seconds since the epoch, from 2020 to 2099")]
pub struct ImplausibleTime;

/// What the keys of our tags begin with.
const PREFIX: &str = "nlb-hostname-targets:";

const MISSING: &str = "missing";

const OWNED: &str = "owned";

/// Characters that the value of a tag may have: the user guide says 255, the API reference 256
/// ([tags](https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-tags.html)).
const LONGEST_VALUE: usize = 255;

/// Tags that a target group can have, those of others among them
/// ([tags](https://docs.aws.amazon.com/elasticloadbalancing/latest/network/target-group-tags.html)).
pub const MOST_TAGS: usize = 50;

/// The beginning of 2020, in milliseconds.
const EARLIEST: u64 = 1_577_836_800_000;

/// The beginning of 2100, in milliseconds.
const LATEST: u64 = 4_102_444_800_000;
