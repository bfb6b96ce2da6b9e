//! What the answers of a hostname tell of the addresses that they lack, and how many answers to collect. Pure: no I/O, no
//! clock of its own.
//!
//! A name may answer with a sample of its addresses. That an answer lacks one then says little, that a hundred do says
//! much: how much, depends on how often answers used to hold it. docs/removal.md has the model, its assumptions and its
//! numbers; in short:
//!
//! - Answers count where no cache can have repeated them.
//! - Of an address that `h` of `h + l` answers held (since it was first seen), each further answer lacks it with the
//!   probability (l + 1) / (h + l + 2), whatever its share may be (Laplace's rule of succession). The product over all
//!   answers since it was last seen is how likely a live address is to be missing for so long.
//! - It is gone where that is so unlikely that it would not happen in a million weeks, for all the chances that it has:
//!   as many as there are answers and addresses.

mod absence;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    time::Duration,
};

pub use absence::Absence;
use absence::{Evidence, Expected};

use crate::{kind::HostnameKind, state::Timestamp};

/// What an execution environment has learned of the answers of one hostname.
#[derive(Clone, Debug)]
pub struct Samples {
    stated: Option<u32>,
    in_full: bool,
    kind: HostnameKind,
    /// How many answers came that no cache can have repeated, when the first and the last one did, and how many addresses
    /// they held together.
    answers: u32,
    first_at: Timestamp,
    last_at: Timestamp,
    held: u64,
    addresses: BTreeMap<IpAddr, Evidence>,
    /// How many of them are not gone.
    live: usize,
    /// The newest answer, how often it came in a row, and how many addresses the largest answer held.
    newest: BTreeSet<IpAddr>,
    lasted: u32,
    largest: usize,
    /// How often an address came back that an answer had lacked.
    returns: u32,
    /// How many of these were minutes apart, and when the last of them was.
    recurrences: u32,
    recurred_at: Timestamp,
    /// What is registered.
    expected: BTreeMap<IpAddr, Expected>,
    /// What caches may still repeat.
    cached: Vec<Cached>,
    /// Whether different answers came while one of them could still be repeated.
    has_several_caches: bool,
    longest_ttl: Duration,
    /// How many looks there were in all, and when the last of them brought an answer.
    all_looks: u32,
    looked_at: Timestamp,
    /// Of this run: when it first looked, when it last saw an address for the first time, how many looks there were, how
    /// many of them brought none, and how many in a row brought nothing but repetitions.
    began: Option<Timestamp>,
    news_at: Timestamp,
    looks: u32,
    failures: u32,
    repeats: u32,
}

/// An answer that a cache may give again.
#[derive(Clone, Debug)]
struct Cached {
    addresses: BTreeSet<IpAddr>,
    until: Timestamp,
}

impl Samples {
    /// Nothing is known yet. `stated_lookups` is how many answers a binding asks for, `in_full` whether it says that the
    /// name answers with all its addresses.
    pub fn new(stated_lookups: Option<u32>, in_full: bool) -> Self {
        Self {
            stated: stated_lookups,
            in_full: in_full || stated_lookups == Some(1),
            kind: HostnameKind::default(),
            answers: 0,
            first_at: Timestamp(0),
            last_at: Timestamp(0),
            held: 0,
            addresses: BTreeMap::new(),
            live: 0,
            newest: BTreeSet::new(),
            lasted: 0,
            largest: 0,
            returns: 0,
            recurrences: 0,
            recurred_at: Timestamp(0),
            expected: BTreeMap::new(),
            cached: Vec::new(),
            has_several_caches: false,
            longest_ttl: Duration::ZERO,
            all_looks: 0,
            looked_at: Timestamp(0),
            began: None,
            news_at: Timestamp(0),
            looks: 0,
            failures: 0,
            repeats: 0,
        }
    }

    /// Whether these go by the same stated settings.
    pub fn has_settings_of(&self, other: &Self) -> bool {
        (self.stated, self.in_full) == (other.stated, other.in_full)
    }

    /// A new run begins. What was learned stays.
    pub fn begin_run(&mut self) {
        self.began = None;
        self.looks = 0;
        self.failures = 0;
        self.repeats = 0;
    }

    /// Takes in what is registered now, each with the time since when it is missing according to the tags, if they say so:
    /// an earlier execution environment found that out.
    ///
    /// What is registered anew is not missing for longer, whatever was known of it: another run, in another execution
    /// environment, may have registered it, because DNS gave it. Of what is no longer registered, nothing is missed.
    pub fn expect(&mut self, targets: &BTreeMap<IpAddr, Option<Timestamp>>, at: Timestamp) {
        self.expected.retain(|address, _| targets.contains_key(address));
        // A time that lies ahead is of a clock that was set back.
        self.addresses.values_mut().for_each(|evidence| evidence.last_seen = at.min(evidence.last_seen));
        for (address, noted) in targets {
            let new = Expected { answers: self.answers, since: at, noted: None, is_set_back: false };
            let expected = self.expected.entry(*address);
            let is_new = match &expected {
                Entry::Vacant(_) => true,
                // A run that saw it took its time out of the tags.
                Entry::Occupied(known) => known.get().noted.is_some() && noted.is_none(),
            };
            let expected = expected.or_insert(new);
            if is_new {
                *expected = new;
                if let Some(evidence) = self.addresses.get_mut(address) {
                    *evidence = Evidence { last_seen: at, missing: 0, surprise: 0.0, ..*evidence };
                }
            }
            if let (Some(before), Some(noted)) = (expected.noted, noted) {
                expected.is_set_back = (expected.is_set_back && *noted == before) || *noted < before;
            }
            expected.noted = *noted;
        }
    }

    /// Takes in an answer of a name of this kind, which came at this time. `ttl` is as it was received, the shortest of
    /// the CNAME chain.
    pub fn add(&mut self, addresses: &BTreeSet<IpAddr>, kind: HostnameKind, ttl: Duration, at: Timestamp) {
        let began = *self.began.get_or_insert(at);
        self.looked_at = at;
        self.looks += 1;
        self.all_looks = self.all_looks.saturating_add(1);
        self.kind = kind;
        self.largest = self.largest.max(addresses.len());
        self.longest_ttl = self.longest_ttl.max(ttl);
        for address in addresses {
            let known = self.addresses.get_mut(address);
            if known.as_ref().is_none_or(|evidence| evidence.last_seen < began) {
                self.news_at = at;
            }
            if let Some(evidence) = known {
                evidence.last_seen = at;
            }
        }
        if self.is_repeated(addresses, ttl, at) {
            self.repeats += 1;
            return;
        }
        self.repeats = 0;
        self.cached.retain(|cached| later(cached.until, ROUNDING) > at);
        // A cache does not change its mind before its time.
        self.has_several_caches |= self.cached.iter().any(|cached| later(at, ROUNDING) < cached.until);
        if self.cached.len() >= MOST_CACHED {
            self.cached.remove(0);
        }
        self.cached.push(Cached { addresses: addresses.clone(), until: later(at, ttl) });
        self.learn(addresses, at);
    }

    /// Takes in that a look brought no answer. That says nothing of any address.
    pub fn fail(&mut self) {
        self.looks += 1;
        self.failures += 1;
    }

    /// Whether an answer may hold but a sample of the addresses. Where it does not, what the newest answer lacks is
    /// missing.
    pub fn is_sample(&self) -> bool {
        if self.in_full {
            return false;
        }
        match self.kind {
            HostnameKind::AuroraReader | HostnameKind::LoadBalancer | HostnameKind::RdsProxy => true,
            HostnameKind::Instance => false,
            HostnameKind::Other => {
                self.largest >= LARGE_ANSWER
                    || self.recurrences >= RECURRENCES
                    || self.stated.is_some_and(|lookups| lookups > 1)
            }
        }
    }

    /// How long to wait before this run looks again, or `None` if it has looked enough. `targets` are registered now,
    /// `left` is the time that is left for all looks.
    ///
    /// Where nothing is amiss, some answers in a few seconds suffice: the next run learns more. While an address is missing
    /// for longer than most are at any time, the run takes all the time that there is.
    pub fn next(&self, targets: &BTreeSet<IpAddr>, left: Duration) -> Option<Duration> {
        let most = self.stated.unwrap_or(MOST_LOOKUPS);
        let is_failing = self.failures >= self.lookups();
        let began = self.began.filter(|_| self.is_sample() && self.looks < most && !is_failing)?;
        let is_urgent = targets.iter().any(|address| self.is_looked_for(*address));
        let left = if self.stated.is_some() {
            // What was asked for, unless nothing new came for long.
            if self.looked_at.since(self.news_at) >= BRIEFLY { Duration::ZERO } else { left }
        } else if is_urgent {
            left
        } else if self.looks < self.lookups() {
            left.min(BRIEFLY.saturating_sub(self.looked_at.since(began)))
        } else {
            Duration::ZERO
        };
        let live = self.cached.iter().filter(|cached| cached.until > self.looked_at);
        let ends_at = live.map(|cached| cached.until).min().unwrap_or(self.looked_at);
        let renewed = ends_at.since(self.looked_at).max(SHORTEST_PAUSE) + MARGIN;
        // Another cache may have another answer now.
        let tries = match is_urgent && self.has_several_caches {
            true => self.cached.len() + 1,
            false => usize::from(self.has_several_caches || (self.all_looks < PROBES && self.stated.is_none())),
        };
        let may_differ = usize::try_from(self.repeats).is_ok_and(|repeats| repeats < tries);
        let pause = if may_differ { renewed.min(PROBE) } else { renewed };
        // Rather all that was asked for a little early than some of it not at all.
        let due = self.stated.map_or(0, |stated| stated.saturating_sub(self.looks));
        let pause = if due > 0 { pause.min(left * 19 / 20 / due) } else { pause };
        (!left.is_zero() && pause <= left.min(LONGEST_PAUSE)).then_some(pause)
    }

    /// How many answers a run collects where nothing makes it more or fewer.
    pub fn lookups(&self) -> u32 {
        let by_size = if self.is_sample() { LARGE_ANSWER_LOOKUPS } else { 1 };
        self.stated.unwrap_or_else(|| match self.kind {
            HostnameKind::Other => by_size,
            kind => kind.lookups(),
        })
    }

    /// What the user should know where a target is kept for want of evidence.
    pub fn warning(&self) -> Option<String> {
        let is_same = self.is_sample() && self.addresses.len() == self.newest.len() && self.returns == 0;
        // That a large answer is a sample is but a guess, unlike what the name tells.
        let many = if self.kind == HostnameKind::Other { 1 } else { MANY };
        (is_same && self.answers >= many).then(|| {
            format!(
                "{} answers, not counting what a cache repeated, held the same {} of its addresses each, so other targets \
                 stay: if these are all addresses that it has, state `lookups`: 1, or deregister the targets by hand",
                self.answers,
                if self.newest.len() == 1 { "one".to_owned() } else { self.newest.len().to_string() },
            )
        })
    }

    fn learn(&mut self, addresses: &BTreeSet<IpAddr>, at: Timestamp) {
        if self.answers == 0 {
            self.first_at = at;
        }
        self.last_at = at;
        self.answers = self.answers.saturating_add(1);
        self.held += addresses.len() as u64;
        // Those that join take from the others' shares: what is known of these is weighed as if they had always been there.
        let joining = addresses.iter().filter(|address| !self.addresses.contains_key(address)).count();
        let share = self.live as f64 / (self.live + joining).max(1) as f64;
        let mut returns = 0;
        // Where an answer lasted, what came before it does not belong to a sample, should it come back: it is a failover.
        let was_brief = self.lasted <= BRIEF;
        self.lasted = if *addresses == self.newest { self.lasted.saturating_add(1) } else { 1 };
        self.newest.clone_from(addresses);
        for (address, evidence) in &mut self.addresses {
            let displaced = evidence.held * (1.0 - share);
            evidence.held -= displaced;
            evidence.lacked += displaced;
            let lacked = evidence.lacked + f64::from(evidence.missing);
            if addresses.contains(address) {
                returns += u32::from(evidence.missing > 0);
                *evidence = Evidence { held: evidence.held + 1.0, lacked, missing: 0, surprise: 0.0, ..*evidence };
            } else {
                evidence.missing = evidence.missing.saturating_add(1);
                evidence.surprise -= ((lacked + 1.0) / (evidence.held + lacked + 2.0)).ln();
            }
        }
        let new = Evidence { last_seen: at, held: 0.0, lacked: 0.0, missing: 0, surprise: 0.0 };
        for address in addresses {
            self.addresses.entry(*address).or_insert(new);
        }
        while self.addresses.len() > MOST_ADDRESSES {
            let longest = self.addresses.iter().max_by_key(|(_, evidence)| evidence.missing);
            let Some(address) = longest.map(|(address, _)| *address) else { break };
            self.addresses.remove(&address);
        }
        let bar = self.bar();
        self.live = self.addresses.values().filter(|evidence| evidence.share_of(bar) < 1.0).count();
        if returns > 0 {
            self.returns = self.returns.saturating_add(returns);
            let after = at.since(self.recurred_at);
            if after > FORGOTTEN_AFTER {
                self.recurrences = 0;
            }
            if was_brief && after > FLAPPING {
                self.recurrences = self.recurrences.saturating_add(1);
                self.recurred_at = at;
            }
        }
    }

    /// Whether a cache gave this answer before.
    fn is_repeated(&self, addresses: &BTreeSet<IpAddr>, ttl: Duration, at: Timestamp) -> bool {
        // Nothing caches what may live for no time.
        !self.longest_ttl.is_zero()
            && self.cached.iter().filter(|cached| cached.addresses == *addresses).any(|cached| {
                let goes_on = later(at, ttl) <= later(cached.until, ROUNDING);
                goes_on || (at < cached.until && !self.has_several_caches)
            })
    }
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp(time.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

/// How many answers show that there is but one.
const MANY: u32 = 30;

/// How often an address has to come back for its name to give samples, and how far apart that has to be: a failover may
/// flap for up to a minute.
const RECURRENCES: u32 = 4;

const FLAPPING: Duration = Duration::from_secs(50);

/// How many answers in a row that are the same are few: of a sample, as of one that flaps.
const BRIEF: u32 = 2;

/// After how long without one it begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// How long a run collects answers where nothing is amiss: two answers of a name of RDS.
const BRIEFLY: Duration = Duration::from_millis(5200);

/// The most answers that a run collects of one name.
const MOST_LOOKUPS: u32 = 50;

/// Addresses in an answer from which on it may be a sample: Route 53 answers with eight at most
/// ([multivalue answers](https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/routing-policy-multivalue.html)).
const LARGE_ANSWER: usize = 8;

/// Answers to collect of a name with such an answer, as many as of a load balancer's.
const LARGE_ANSWER_LOOKUPS: u32 = 5;

/// How many looks of an execution environment find out whether there are several caches, and how far apart: so that the
/// times to live tell one from the other.
const PROBES: u32 = 10;

const PROBE: Duration = Duration::from_millis(1050);

/// Caches tell whole seconds.
const ROUNDING: Duration = Duration::from_secs(1);

/// The next run, a minute later, learns as much of a name with a longer time to live.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// How long after a time to live has ended the next answer is asked for.
const MARGIN: Duration = Duration::from_millis(50);

/// How much is remembered at most of a name.
const MOST_ADDRESSES: usize = 512;

const MOST_CACHED: usize = 64;
