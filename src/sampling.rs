//! How many answers to collect of a name whose answers are samples, and when to ask for the next.
//! Pure: no I/O, no clock of its own.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use crate::kind::HostnameKind;

/// The answers that a run has collected of one hostname.
#[derive(Clone, Debug)]
pub struct Sampling {
    stated: Option<u32>,
    kind: HostnameKind,
    /// How many looks brought an answer, and how many answers that were not the one before,
    /// repeated by a caching resolver.
    looks: u32,
    answers: u32,
    /// How many looks brought none.
    failures: u32,
    seen: BTreeSet<IpAddr>,
    /// How many addresses the largest answer held.
    largest: usize,
    /// The last answer, its time to live, and whether it was one from a cache.
    last: BTreeSet<IpAddr>,
    ttl: Duration,
    is_cached: bool,
    /// How many answers in a row brought nothing new, and for how long.
    repeats: u32,
    quiet: Duration,
}

impl Sampling {
    /// Nothing is collected yet. `stated` is how many answers a binding asks for at most.
    pub fn new(stated: Option<u32>) -> Self {
        Self {
            stated,
            kind: HostnameKind::default(),
            looks: 0,
            answers: 0,
            failures: 0,
            seen: BTreeSet::new(),
            largest: 0,
            last: BTreeSet::new(),
            ttl: Duration::ZERO,
            is_cached: false,
            repeats: 0,
            quiet: Duration::ZERO,
        }
    }

    /// Takes in an answer of a name of this kind with this time to live, that came `after` the one
    /// before it.
    pub fn add(&mut self, addresses: &BTreeSet<IpAddr>, kind: HostnameKind, ttl: Duration, after: Duration) {
        self.kind = kind;
        self.looks += 1;
        self.largest = self.largest.max(addresses.len());
        // A cache says how long it will go on to repeat itself, in whole seconds: in the last one, it
        // says 0.
        let is_less = ttl < self.ttl || ttl.is_zero();
        self.is_cached = *addresses == self.last && is_less && ttl + after <= self.ttl + Duration::from_secs(1);
        self.ttl = ttl;
        self.last.clone_from(addresses);
        if self.is_cached {
            return;
        }
        self.answers += 1;
        if addresses.is_subset(&self.seen) {
            self.repeats += 1;
            self.quiet += after;
        } else {
            self.repeats = 0;
            self.quiet = Duration::ZERO;
            self.seen.extend(addresses);
        }
    }

    /// Takes in that a look brought no answer. That says nothing of any address: it is made up for
    /// by another look.
    pub fn fail(&mut self) {
        self.failures += 1;
    }

    /// Whether one answer may not be all there is.
    pub fn is_sample(&self) -> bool {
        self.lookups() > 1 || self.kind.lookups() > 1 || self.largest >= LARGE_ANSWER
    }

    /// Whether an address that no answer held is missing: failed looks were made up for, and not
    /// all that came is one answer and its repetitions by a cache.
    pub fn is_conclusive(&self) -> bool {
        let is_whole = !self.is_sample() || (self.kind == HostnameKind::LoadBalancer && self.largest < LARGE_ANSWER);
        self.answers >= self.lookups() || (self.failures == 0 && (self.answers > 1 || is_whole))
    }

    /// How long to wait before the next look, or `None` if there have been enough. `unseen` tells
    /// whether targets are registered that no answer of this run has held, `left` is the time that
    /// is left for all looks.
    ///
    /// A caching resolver in between repeats its answer until its time to live is over, so that a
    /// look that comes sooner shows nothing. Where that is longer than AWS gives such names, there
    /// may be more than one cache.
    pub fn next(&self, unseen: bool, left: Duration) -> Option<Duration> {
        let lookups = self.lookups();
        let most = if unseen && self.is_sample() && self.stated.is_none() { MOST_LOOKUPS } else { lookups };
        let patience = if unseen { self.patience() } else { REPEATS };
        let has_settled = self.repeats >= patience && self.quiet >= LONGEST_PAUSE;
        if self.looks >= most || self.failures >= lookups || (has_settled && self.is_conclusive()) {
            return None;
        }
        if self.is_cached {
            return Some(self.ttl.max(SHORTEST_PAUSE) + MARGIN).filter(|pause| *pause < left);
        }
        let pause = self.ttl.clamp(SHORTEST_PAUSE, LONGEST_PAUSE) + MARGIN;
        // Rather all looks a little early than some of them not at all.
        let due = lookups.saturating_sub(self.looks);
        let pause = if due > 0 { pause.min(left * 19 / 20 / due) } else { pause };
        (pause < left).then_some(pause)
    }

    /// How many answers to collect where nothing is amiss.
    pub fn lookups(&self) -> u32 {
        let by_size = if self.largest >= LARGE_ANSWER { LARGE_ANSWER_LOOKUPS } else { 1 };
        self.stated.unwrap_or_else(|| self.kind.lookups().max(by_size))
    }

    /// How many answers in a row have to bring nothing new before it is unlikely that there is
    /// anything: if there were one address more than was seen, and answers held `largest` of them
    /// at random, as many would miss it with a probability of 2 % (e⁻⁴).
    fn patience(&self) -> u32 {
        let looks = (4 * (self.seen.len() + 1)).div_ceil(self.largest.max(1));
        u32::try_from(looks).unwrap_or(u32::MAX).max(REPEATS)
    }
}

/// How long a run collects answers that has so much time left. What is done with them takes some
/// of it, and the next minute's run collects, too.
pub fn time_to_collect(left: Duration) -> Duration {
    (left * 3 / 4).min(LONGEST_COLLECTION)
}

/// How long a run collects answers at most.
const LONGEST_COLLECTION: Duration = Duration::from_secs(45);

/// The most answers that a run collects of one name.
const MOST_LOOKUPS: u32 = 50;

/// Addresses in an answer from which on it may be a sample: Route 53 answers with eight at most
/// ([multivalue answers](https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/routing-policy-multivalue.html)).
const LARGE_ANSWER: usize = 8;

/// Answers to collect of a name with such an answer, as many as of a load balancer's.
const LARGE_ANSWER_LOOKUPS: u32 = 5;

/// Answers in a row without anything new that end the collection, where all targets were seen.
const REPEATS: u32 = 2;

/// The pauses are those of the times to live that RDS gives its names, 1 to 5 s.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// And what passes without anything new before a collection ends.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long after a time to live has ended the next answer is asked for.
const MARGIN: Duration = Duration::from_millis(50);
