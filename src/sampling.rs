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

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

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
    /// How many addresses the newest answer held, and the largest one.
    newest: usize,
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
    /// Of this run: when it first looked, how many looks there were, how many of them brought none, and how many in a row
    /// brought nothing but repetitions.
    began: Option<Timestamp>,
    looks: u32,
    failures: u32,
    repeats: u32,
}

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
    Usual {
        /// When it was last seen, if it was in this execution environment.
        last_seen: Option<Timestamp>,
    },
}

impl Absence {
    /// Of two hostnames' verdicts on one address, the one that says less: either may have had it.
    #[must_use]
    pub fn weaker(self, other: Self) -> Self {
        match (self, other) {
            (Self::Usual { last_seen: one }, Self::Usual { last_seen: two }) => Self::Usual { last_seen: one.max(two) },
            (usual @ Self::Usual { .. }, _) | (_, usual @ Self::Usual { .. }) => usual,
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
struct Evidence {
    last_seen: Timestamp,
    /// How many of the answers held it and how many lacked it, from the one after that in which it was first seen to the
    /// one in which it was last seen. No whole numbers, because they are weighed anew when addresses join.
    held: f64,
    lacked: f64,
    /// How many have lacked it since, and how surprising that is in a live one: -ln of the probability.
    missing: u32,
    surprise: f64,
}

/// Of a target, whether any answer held it or not.
#[derive(Clone, Copy, Debug)]
struct Expected {
    /// How many answers there had been when it was first found registered, and when that was.
    answers: u32,
    since: Timestamp,
    /// Since when an earlier execution environment found it missing, as the tags tell.
    noted: Option<Timestamp>,
}

/// What it takes to call an address gone.
#[derive(Clone, Copy, Debug)]
struct Bar {
    /// How surprising its absence has to be: so much that it would not happen in a million weeks, at the pace at which
    /// answers come.
    surprise: f64,
    /// After how many answers it counts as gone where none or hardly any held it: a live one is taken to be in one of
    /// `RAREST` answers at least or, where there are many addresses, two thirds as often as they are on average; half as
    /// often in those of a large load balancer, which prefers none.
    gap: f64,
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
            newest: 0,
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
        for (address, noted) in targets {
            let new = Expected { answers: self.answers, since: at, noted: None };
            let expected = self.expected.entry(*address).or_insert_with(|| {
                if let Some(evidence) = self.addresses.get_mut(address) {
                    *evidence = Evidence { last_seen: at, missing: 0, surprise: 0.0, ..*evidence };
                }
                new
            });
            expected.noted = *noted;
        }
    }

    /// Takes in an answer of a name of this kind, which came at this time. `ttl` is as it was received, the shortest of
    /// the CNAME chain.
    pub fn add(&mut self, addresses: &BTreeSet<IpAddr>, kind: HostnameKind, ttl: Duration, at: Timestamp) {
        self.began.get_or_insert(at);
        self.looked_at = at;
        self.looks += 1;
        self.all_looks = self.all_looks.saturating_add(1);
        self.kind = kind;
        self.newest = addresses.len();
        self.largest = self.largest.max(addresses.len());
        self.longest_ttl = self.longest_ttl.max(ttl);
        for address in addresses {
            if let Some(evidence) = self.addresses.get_mut(address) {
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

    /// What is known of an address that the answers of this run lack, where answers are samples.
    pub fn absence(&self, address: IpAddr) -> Absence {
        let Some(evidence) = self.addresses.get(&address) else {
            return match self.expected.get(&address) {
                // Where answers hold only ever the same addresses, others may well live.
                Some(expected) if self.rotates() || expected.noted.is_some() => {
                    let since = expected.since;
                    match f64::from(self.answers.saturating_sub(expected.answers)) / self.bar().gap {
                        share if share >= 1.0 => Absence::Gone { since },
                        share if share >= UNUSUAL => Absence::Thin { since },
                        _ => Absence::Usual { last_seen: None },
                    }
                }
                _ => Absence::Usual { last_seen: None },
            };
        };
        let since = evidence.last_seen;
        match evidence.share_of(self.bar()) {
            share if share >= 1.0 => Absence::Gone { since },
            share if share >= UNUSUAL => Absence::Thin { since },
            _ => Absence::Usual { last_seen: Some(since) },
        }
    }

    /// How long to wait before this run looks again, or `None` if it has looked enough. `targets` are registered now,
    /// `left` is the time that is left for all looks.
    ///
    /// Where nothing is amiss, some answers in a few seconds suffice: the next run learns more. While an address is missing
    /// for longer than most are at any time, the run takes all the time that there is.
    pub fn next(&self, targets: &BTreeSet<IpAddr>, left: Duration) -> Option<Duration> {
        let most = self.stated.unwrap_or(MOST_LOOKUPS);
        if !self.is_sample() || self.looks >= most || self.failures >= self.lookups() {
            return None;
        }
        let is_urgent = targets.iter().any(|address| self.is_looked_for(*address));
        let left = match self.began {
            Some(began) if self.stated.is_none() && !is_urgent => {
                if self.looks >= self.lookups() {
                    return None;
                }
                left.min(BRIEFLY.saturating_sub(self.looked_at.since(began)))
            }
            _ => left,
        };
        let ends_at = self.cached.iter().map(|cached| cached.until).min();
        let renewed = ends_at.map_or(Duration::ZERO, |until| until.since(self.looked_at)).max(SHORTEST_PAUSE) + MARGIN;
        let tries = if self.has_several_caches { self.cached.len() + 1 } else { usize::from(self.all_looks < PROBES) };
        let is_worth_it = usize::try_from(self.repeats).is_ok_and(|repeats| repeats < tries);
        let pause = if is_worth_it { renewed.min(ROUNDING + SHORTEST_PAUSE / 5) } else { renewed };
        (pause <= left.min(LONGEST_PAUSE)).then_some(pause)
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
        let is_same = self.is_sample() && self.answers >= MANY && self.addresses.len() == self.newest;
        is_same.then(|| {
            format!(
                "{} answers, not counting what a cache repeated, held the same {} of its addresses each, so other targets \
                 stay: if these are all addresses that it has, state `lookups`: 1, or deregister the targets by hand",
                self.answers,
                if self.newest == 1 { "one".to_owned() } else { self.newest.to_string() },
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
            if after > FLAPPING {
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

    /// Whether addresses that an answer lacked come back all the time.
    fn rotates(&self) -> bool {
        self.returns >= 3 && f64::from(self.returns) * RAREST >= f64::from(self.answers)
    }

    /// How much evidence it takes.
    fn bar(&self) -> Bar {
        let pause = self.last_at.since(self.first_at).as_secs_f64() / f64::from(self.answers.max(2) - 1);
        let answers = WEEKS * WEEK.as_secs_f64() / pause.clamp(1.0, 60.0);
        let surprise = (answers * self.live.max(1) as f64).ln();
        let mean_gap = self.live as f64 / self.size();
        let is_even = self.kind == HostnameKind::LoadBalancer && self.size() >= LARGE_ANSWER as f64;
        Bar { surprise, gap: surprise * if is_even { 2.0 * mean_gap } else { RAREST.max(1.5 * mean_gap) } }
    }

    /// How many addresses an answer holds.
    fn size(&self) -> f64 {
        (self.held as f64 / f64::from(self.answers.max(1))).max(1.0)
    }

    /// Whether an address is missing for longer than one of them is most of the time, and that may yet come to something.
    fn is_looked_for(&self, address: IpAddr) -> bool {
        let live = self.live.max(1) as f64;
        match self.addresses.get(&address) {
            Some(evidence) => evidence.surprise > live.ln() + SUSPICIOUS && evidence.share_of(self.bar()) < 1.0,
            None => self.expected.get(&address).is_some_and(|expected| {
                let missing = f64::from(self.answers.saturating_sub(expected.answers));
                missing < self.bar().gap
                    && match expected.noted {
                        // Of one that has stayed for so long, there never is enough evidence.
                        Some(since) => self.looked_at.since(since) < HOPELESS_AFTER,
                        None => self.rotates() && missing * self.size() / (live + 1.0) > live.ln() + SUSPICIOUS,
                    }
            }),
        }
    }
}

impl Evidence {
    /// How much of the evidence there is that it takes to call the address gone.
    fn share_of(&self, bar: Bar) -> f64 {
        // What was hardly seen has no record to go by.
        let mean_gap = (self.held + self.lacked + 2.0) / (self.held + 1.0);
        (self.surprise / bar.surprise).max(f64::from(self.missing) / bar.gap.max(bar.surprise * mean_gap))
    }
}

/// How long a run collects answers that has so much time left. What is done with them takes some of it, and the next
/// minute's run collects, too.
pub fn time_to_collect(left: Duration) -> Duration {
    (left * 3 / 4).min(LONGEST_COLLECTION)
}

fn later(time: Timestamp, by: Duration) -> Timestamp {
    Timestamp(time.0.saturating_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

/// In so many weeks of one target group, less than one live target may go.
const WEEKS: f64 = 1e6;

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A live address is in one of so many answers at least.
const RAREST: f64 = 25.0;

/// The share of the evidence from which on an absence is remembered in the tags.
const UNUSUAL: f64 = 0.5;

/// How much more surprising than usual an absence is that a run looks into: e⁻² of all runs do so in vain.
const SUSPICIOUS: f64 = 2.0;

/// After how long a run stops looking for an address that stays missing.
const HOPELESS_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How many answers show that there is but one.
const MANY: u32 = 30;

/// How often an address has to come back for its name to give samples, and how far apart that has to be: a failover may
/// flap for up to a minute.
const RECURRENCES: u32 = 5;

const FLAPPING: Duration = Duration::from_secs(50);

/// After how long without one it begins anew.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// How long a run collects answers at most.
const LONGEST_COLLECTION: Duration = Duration::from_secs(45);

/// And where nothing is amiss: two answers of a name of RDS.
const BRIEFLY: Duration = Duration::from_millis(5200);

/// The most answers that a run collects of one name.
const MOST_LOOKUPS: u32 = 50;

/// Addresses in an answer from which on it may be a sample: Route 53 answers with eight at most
/// ([multivalue answers](https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/routing-policy-multivalue.html)).
const LARGE_ANSWER: usize = 8;

/// Answers to collect of a name with such an answer, as many as of a load balancer's.
const LARGE_ANSWER_LOOKUPS: u32 = 5;

/// How many looks of an execution environment find out whether there are several caches.
const PROBES: u32 = 10;

/// Caches tell whole seconds.
const ROUNDING: Duration = Duration::from_secs(1);

/// The next run, a minute later, learns as much of a name with a longer time to live.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// How long after a time to live has ended the next answer is asked for.
const MARGIN: Duration = Duration::from_millis(50);

/// How much is remembered at most of a name.
const MOST_ADDRESSES: usize = 512;

const MOST_CACHED: usize = 64;
