//! How many answers to collect of a name whose answers are samples, and when to ask for the next.
//! Pure: no I/O, no clock of its own.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use crate::kind::HostnameKind;

/// The answers that a run has collected of one hostname.
#[derive(Clone, Debug)]
pub struct Sampling {
    stated: Option<u32>,
    kind: HostnameKind,
    answers: u32,
    /// How many looks brought no answer.
    failures: u32,
    seen: BTreeSet<IpAddr>,
    /// How many addresses the largest answer held.
    largest: usize,
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
            answers: 0,
            failures: 0,
            seen: BTreeSet::new(),
            largest: 0,
            repeats: 0,
            quiet: Duration::ZERO,
        }
    }

    /// Takes in an answer of a name of this kind, that came `after` the one before it.
    pub fn add(&mut self, addresses: &BTreeSet<IpAddr>, kind: HostnameKind, after: Duration) {
        self.kind = kind;
        self.answers += 1;
        self.largest = self.largest.max(addresses.len());
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

    /// Whether failed looks were made up for, so that an address that no answer held is missing.
    pub fn is_conclusive(&self) -> bool {
        self.failures == 0 || self.answers >= self.lookups()
    }

    /// Whether one answer may not be all there is.
    pub fn collects(&self) -> bool {
        self.lookups() > 1
    }

    /// How long to wait before the next look, or `None` if there have been enough. `unseen` tells
    /// whether targets are registered that no answer of this run has held; `ttl` is the time to
    /// live of the last answer, `left` the time that is left for all looks.
    ///
    /// A caching resolver in between repeats its answer until its time to live is over, so that a
    /// look that comes sooner shows nothing. Names whose time to live is said wrongly are asked
    /// less and less often.
    pub fn next(&self, unseen: bool, ttl: Duration, left: Duration) -> Option<Duration> {
        let lookups = self.lookups();
        let most = if unseen && lookups > 1 && self.stated.is_none() { MOST_LOOKUPS } else { lookups };
        let patience = if unseen { self.patience() } else { REPEATS };
        let has_settled = self.repeats >= patience && self.quiet >= LONGEST_PAUSE;
        if self.answers >= most || self.failures >= lookups || (has_settled && self.is_conclusive()) {
            return None;
        }
        let pause = ttl.clamp(SHORTEST_PAUSE, LONGEST_PAUSE) * 2_u32.saturating_pow(self.repeats.min(3));
        let pause = pause.min(LONGEST_PAUSE) + MARGIN;
        // Rather all looks a little early than some of them not at all.
        let due = lookups.saturating_sub(self.answers);
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

/// The most answers that a run collects of one name.
const MOST_LOOKUPS: u32 = 50;

/// Addresses in an answer from which on it may be a sample: Route 53 answers with eight at most
/// ([multivalue answers](https://docs.aws.amazon.com/Route53/latest/DeveloperGuide/routing-policy-multivalue.html)).
const LARGE_ANSWER: usize = 8;

/// Answers to collect of a name with such an answer, as many as of a load balancer's.
const LARGE_ANSWER_LOOKUPS: u32 = 5;

/// Answers in a row without anything new that end the collection, where all targets were seen.
const REPEATS: u32 = 2;

/// The pauses are those of the times to live that AWS gives such names, 1 to 5 s.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// And what passes without anything new before a collection ends.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long after a time to live has ended the next answer is asked for.
const MARGIN: Duration = Duration::from_millis(50);
