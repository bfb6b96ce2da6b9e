//! What it tells that answers lack an address: how surprising that is, and from when on the address counts as gone.

use std::{net::IpAddr, time::Duration};

use super::{BRIEF, LARGE_ANSWER, Samples};
use crate::{kind::HostnameKind, state::Timestamp};

/// What is known of an address that the answers of a run lack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Absence {
    /// So many answers lacked it that a live one would have shown up.
    Gone {
        /// When it was last seen; where it never was, when this execution environment first looked.
        since: Timestamp,
    },
    /// It is missing for unusually long, but a live one might still be.
    Thin {
        /// As above.
        since: Timestamp,
    },
    /// A live one is often missing so long.
    Usual,
}

impl Absence {
    /// Of two hostnames' verdicts on one address, the one that says less: either may have had it.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        match (self, other) {
            (Self::Usual, _) | (_, Self::Usual) => Self::Usual,
            (Self::Gone { since: one }, Self::Gone { since: two }) => Self::Gone { since: one.max(two) },
            (
                Self::Thin { since: one } | Self::Gone { since: one },
                Self::Thin { since: two } | Self::Gone { since: two },
            ) => Self::Thin { since: one.max(two) },
        }
    }
}

/// Of one address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Evidence {
    pub(super) last_seen: Timestamp,
    /// How many of the answers held it and how many lacked it, from the one after that in which it was first seen to the
    /// one in which it was last seen. No whole numbers, because they are weighed anew when addresses join.
    pub(super) held: f64,
    pub(super) lacked: f64,
    /// How many have lacked it since, and how surprising that is in a live one: -ln of the probability.
    pub(super) missing: u32,
    pub(super) surprise: f64,
}

/// Of a target, whether any answer held it or not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// How many answers there had been when it was first found registered, and when that was.
    pub(super) answers: u32,
    pub(super) since: Timestamp,
    /// Since when an earlier execution environment found it missing, as the tags tell.
    pub(super) noted: Option<Timestamp>,
    /// Whether it was set back since: somebody wants it to count, whatever was seen.
    pub(super) is_set_back: bool,
}

/// What it takes to call an address gone.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bar {
    /// How surprising its absence has to be: so much that it would not happen in a million weeks, at the pace at which
    /// answers come.
    surprise: f64,
    /// After how many answers it counts as gone where none or hardly any held it: a live one is taken to be in one of
    /// `RAREST` answers at least or, where there are many addresses, two thirds as often as they are on average; half as
    /// often in those of a large load balancer, which prefers none.
    longest_gap: f64,
}

impl Samples {
    /// What is known of an address that the answers of this run lack, where answers are samples.
    pub fn absence(&self, address: IpAddr) -> Absence {
        let bar = self.bar();
        let evidence = self.addresses.get(&address);
        let expected = self.expected.get(&address);
        let share = match (evidence, expected) {
            (Some(evidence), _) if evidence.missing > 0 && self.answers_in_full() => 1.0,
            (Some(evidence), _) => evidence.share_of(bar),
            (None, Some(Expected { noted: Some(_), .. })) if self.answers_in_full() => 1.0,
            (None, Some(expected)) if expected.noted.is_some() || self.rotates() => {
                f64::from(self.answers.saturating_sub(expected.answers)) / bar.longest_gap
            }
            _ => 0.0,
        };
        let since = match (evidence, expected) {
            (Some(evidence), _) => evidence.last_seen,
            (None, Some(expected)) => expected.since,
            (None, None) => self.first_at,
        };
        match share {
            share if share >= 1.0 => Absence::Gone { since },
            share if share >= UNUSUAL => Absence::Thin { since },
            _ => Absence::Usual,
        }
    }

    /// When an answer last held this address, or a target of it was registered anew; `None` also where that does not count,
    /// because somebody has set back the time in the tags.
    pub fn last_seen(&self, address: IpAddr) -> Option<Timestamp> {
        let is_set_back = self.expected.get(&address).is_some_and(|expected| expected.is_set_back);
        self.addresses.get(&address).filter(|_| !is_set_back).map(|evidence| evidence.last_seen)
    }

    /// Whether addresses that an answer lacked come back all the time.
    pub(super) fn rotates(&self) -> bool {
        self.returns >= 3 && f64::from(self.returns) * RAREST >= f64::from(self.answers)
    }

    /// Whether answers hold all addresses although the name may give samples: those of a load balancer with few, one like
    /// the other. They may also prefer addresses in the zone of the client: then they differ, or lack some from the start.
    fn answers_in_full(&self) -> bool {
        let is_small = self.kind == HostnameKind::LoadBalancer && self.newest.len() < LARGE_ANSWER;
        is_small && self.returns == 0 && self.lasted > BRIEF
    }

    /// How much evidence it takes.
    pub(super) fn bar(&self) -> Bar {
        let pause = self.last_at.since(self.first_at).as_secs_f64() / f64::from(self.answers.max(2) - 1);
        let weeks = WEEKS * WEEK.as_secs_f64() * self.live.max(1) as f64;
        let mean_gap = self.live as f64 / self.size();
        let is_even = self.kind == HostnameKind::LoadBalancer && self.size() >= LARGE_ANSWER as f64;
        let rarest = if is_even { 2.0 * mean_gap } else { RAREST.max(1.5 * mean_gap) };
        let surprise = (weeks / pause.clamp(1.0, 60.0)).ln();
        // An address that was not seen yet has one chance in an environment, which has to last for as long.
        let once = (weeks / (pause.clamp(1.0, 60.0) * rarest * surprise)).ln();
        Bar { surprise, longest_gap: rarest * once }
    }

    /// How many addresses an answer holds.
    fn size(&self) -> f64 {
        (self.held as f64 / f64::from(self.answers.max(1))).max(1.0)
    }

    /// Whether an address is missing for longer than one of them is most of the time, and that may yet come to something.
    pub(super) fn is_looked_for(&self, address: IpAddr) -> bool {
        if matches!(self.absence(address), Absence::Gone { .. }) {
            return false;
        }
        let live = self.live.max(1) as f64;
        let surprise = match (self.addresses.get(&address), self.expected.get(&address)) {
            (Some(evidence), _) => evidence.surprise,
            // Of one that has stayed for so long, there never is enough evidence.
            (None, Some(Expected { noted: Some(since), .. })) => {
                return self.looked_at.since(*since) < HOPELESS_AFTER;
            }
            (None, Some(expected)) if self.rotates() => {
                f64::from(self.answers.saturating_sub(expected.answers)) * self.size() / (live + 1.0)
            }
            _ => 0.0,
        };
        surprise > live.ln() + SUSPICIOUS
    }
}

impl Evidence {
    /// How much of the evidence there is that it takes to call the address gone.
    pub(super) fn share_of(&self, bar: Bar) -> f64 {
        // What was hardly seen has no record to go by.
        let mean_gap = (self.held + self.lacked + 2.0) / (self.held + 1.0);
        (self.surprise / bar.surprise).max(f64::from(self.missing) / bar.longest_gap.max(bar.surprise * mean_gap))
    }
}

/// In so many weeks of one target group, less than one live target may go.
const WEEKS: f64 = 1e6;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A live address is in one of so many answers at least.
const RAREST: f64 = 25.0;

/// The share of the evidence from which on an absence is remembered in the tags.
const UNUSUAL: f64 = 0.3;

/// How much more surprising than usual an absence is that a run looks into: e⁻³ of all runs do so in vain.
const SUSPICIOUS: f64 = 3.0;

/// After how long a run stops looking for an address that stays missing.
const HOPELESS_AFTER: Duration = Duration::from_secs(6 * 3600);
