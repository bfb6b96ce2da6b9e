//! The time, as the outside tells it: the core has no clock of its own.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::{Serialize, Serializer, ser::Error};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// The time, by both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// By the one that only goes forward: it tells how old something is.
    pub at: Instant,
    /// By the one on the wall: it tells since when something has been missing.
    pub time: Timestamp,
}

/// A time in milliseconds since the epoch. It is written in seconds: `1763802000.250`.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// How long after `earlier` this is; nothing where it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Reads a time at which this function can have run: one that lost a digit must not read as one long ago.
    pub fn parse(text: &str) -> Option<Self> {
        // A second is over when it ends: where the fraction was cut off, no target must go earlier.
        let (seconds, fraction) = text.split_once('.').unwrap_or((text, "999"));
        let is_plain = [seconds, fraction].concat().bytes().all(|byte| byte.is_ascii_digit());
        let milliseconds = format!("{seconds}{fraction}").parse().ok()?;
        let is_plausible = is_plain && fraction.len() == 3 && (EARLIEST..LATEST).contains(&milliseconds);
        is_plausible.then_some(Self(milliseconds))
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

impl Serialize for Timestamp {
    /// To the second, as AWS shows times.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let seconds = i64::try_from(self.0 / 1000).map_err(S::Error::custom)?;
        let time = OffsetDateTime::from_unix_timestamp(seconds).map_err(S::Error::custom)?;
        serializer.serialize_str(&time.format(&Rfc3339).map_err(S::Error::custom)?)
    }
}

/// The beginnings of 2020 and of 2100, in milliseconds.
const EARLIEST: u64 = 1_577_836_800_000;
const LATEST: u64 = 4_102_444_800_000;
