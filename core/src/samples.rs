//! Rule 15: what the answers of a hostname tell of the addresses that they lack.
//!
//! An answer may hold a sample of the addresses of its name. Where a name has N targets and an answer holds s of them, an
//! answer lacks one that is still there with the probability 1 − s/N, and n answers in a row with (1 − s/N)ⁿ. An address is
//! gone where that is below 10⁻¹³, and where n is three times what it ever came back after.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use crate::{answer::Answer, clock::Timestamp, hostname::Hostname, kind::HostnameKind};

/// What an execution environment has learned of the answers of one hostname.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    /// What the bindings state.
    stated_lookups: Option<u32>,
    stated_grace: Option<u32>,
    /// By the name itself, and by the CNAME chain of the newest answer, or of the last that led to a sample.
    kind_by_name: HostnameKind,
    pub(crate) kind: HostnameKind,
    sampled_at: Option<Timestamp>,
    /// How many addresses the largest answer held.
    largest: usize,
    /// The longest time to live of any record of any answer.
    longest_ttl: Duration,
    /// When the last answer came that no cache can have given before.
    fresh_at: Option<Timestamp>,
    addresses: BTreeMap<IpAddr, Absence>,
    /// When addresses came back, within the last hour.
    returns: Vec<Timestamp>,
    /// Whether the name was seen to rotate.
    pub(crate) rotates: bool,
}

/// What the answers tell of one address.
#[derive(Clone, Copy, Debug, Default)]
struct Absence {
    /// When an answer last held it; `None`: none did in this environment.
    given_at: Option<Timestamp>,
    /// Since when answers have lacked it, and how many fresh ones in a row.
    lacked_since: Option<Timestamp>,
    lacked: u32,
    /// The most fresh answers that lacked it before it came back.
    came_back_after: u32,
}

/// What a name says of an address that its newest answer lacks, the surest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// It would have shown up.
    Gone,
    /// It is missing for longer than most are at any time.
    Suspicious,
    /// That is usual.
    Usual,
}

impl Samples {
    /// Nothing is known yet but the name.
    pub fn new(hostname: &Hostname) -> Self {
        Self { kind_by_name: hostname.kind(), kind: hostname.kind(), ..Self::default() }
    }

    /// Takes in what the bindings state: how many answers a run collects, and the grace period in seconds.
    pub fn state(&mut self, lookups: Option<u32>, grace: Option<u32>) {
        (self.stated_lookups, self.stated_grace) = (lookups, grace);
    }

    /// Whether the bindings state that an answer holds all addresses.
    fn is_in_full(&self) -> bool {
        self.stated_grace == Some(0) || self.stated_lookups == Some(1)
    }

    /// Takes in an answer that came at this time.
    pub fn add(&mut self, answer: &Answer, at: Timestamp) {
        let kind = answer.kind();
        if kind.lookups() > 1 {
            self.sampled_at = Some(at);
        }
        // Of several databases behind one name, some answers may lead to an instance.
        let is_past = self.sampled_at.is_none_or(|sampled_at| at.since(sampled_at) > RETURNS_WITHIN);
        if kind.lookups() > 1 || is_past {
            self.kind = kind;
        }
        self.largest = self.largest.max(answer.addresses.len());
        self.longest_ttl = self.longest_ttl.max(answer.longest_ttl);
        // A time that lies ahead is of a clock that was set back.
        self.fresh_at = self.fresh_at.map(|fresh_at| fresh_at.min(at));
        let is_fresh = self.fresh_at.is_none_or(|fresh_at| at.since(fresh_at) >= self.longest_ttl);
        if is_fresh {
            self.fresh_at = Some(at);
        }
        let mut has_returned = false;
        for address in &answer.addresses {
            let absence = self.addresses.entry(*address).or_default();
            let missing = absence.lacked_since.map(|since| at.since(since));
            has_returned |= absence.given_at.is_some() && missing >= Some(SHORTEST_RETURN);
            let came_back_after = absence.came_back_after.max(absence.lacked);
            *absence = Absence { given_at: Some(at), came_back_after, ..Absence::default() };
        }
        for (_, absence) in self.addresses.iter_mut().filter(|(address, _)| !answer.addresses.contains(address)) {
            absence.lacked_since.get_or_insert(at);
            absence.lacked = absence.lacked.saturating_add(u32::from(is_fresh));
        }
        if has_returned && self.may_rotate() {
            self.returns.retain(|returned_at| at.since(*returned_at) <= RETURNS_WITHIN);
            self.returns.push(at);
            self.rotates |= self.returns.len() >= RETURNS;
        }
    }

    /// An endpoint of an instance or a writer has one address, which each failover moves; what AWS names as a sample is one.
    fn may_rotate(&self) -> bool {
        self.kind_by_name == HostnameKind::Other && self.kind.lookups() == 1
    }

    /// The name was seen to rotate by an earlier execution environment.
    pub fn set_rotating(&mut self) {
        self.rotates |= self.may_rotate();
    }

    /// Whether nobody states how the name answers.
    pub fn is_unstated(&self) -> bool {
        self.stated_lookups.is_none() && self.stated_grace.is_none()
    }

    /// Takes in that a target of this address is registered, and whether it was registered just now. What another run
    /// registers, DNS gave to that run, so its absence begins anew.
    pub fn expect(&mut self, address: IpAddr, is_new: bool) {
        let absence = self.addresses.entry(address).or_default();
        if is_new {
            (absence.lacked, absence.lacked_since) = (0, None);
        }
    }

    /// Forgets addresses that are not registered, and were not given for long.
    pub fn forget(&mut self, is_registered: impl Fn(IpAddr) -> bool, now: Timestamp) {
        let is_recent = |given_at: Option<Timestamp>| given_at.is_some_and(|at| now.since(at) <= RETURNS_WITHIN);
        self.addresses.retain(|address, absence| is_registered(*address) || is_recent(absence.given_at));
    }

    /// When an answer last held this address.
    pub fn given_at(&self, address: IpAddr) -> Option<Timestamp> {
        self.addresses.get(&address)?.given_at
    }

    /// Whether an answer may hold but a sample of the addresses.
    pub fn is_sample(&self) -> bool {
        !self.is_in_full() && (self.stated_lookups.is_some() || self.kind_by_answers().lookups() > 1)
    }

    /// The kind whose defaults count: a name that answers as a load balancer's does is treated like one.
    fn kind_by_answers(&self) -> HostnameKind {
        let is_large = self.rotates || self.largest >= LARGE_ANSWER;
        if is_large && self.kind.lookups() == 1 { HostnameKind::LoadBalancer } else { self.kind }
    }

    /// How many answers a run collects.
    pub fn lookups(&self) -> u32 {
        let by_kind = || self.kind_by_answers().lookups();
        if self.is_in_full() { 1 } else { self.stated_lookups.unwrap_or_else(by_kind) }
    }

    /// How long, in seconds, an address must be missing where no binding says so.
    pub fn grace(&self) -> u32 {
        self.kind_by_answers().deregister_after_seconds()
    }

    /// Whether the name may never give this address here: that of a load balancer may give each zone its own.
    pub fn may_hide(&self, address: IpAddr) -> bool {
        self.kind == HostnameKind::LoadBalancer && self.given_at(address).is_none()
    }

    /// What the answers say of an address that the newest one lacks, of a name that has so many targets.
    pub fn verdict(&self, address: IpAddr, targets: usize) -> Verdict {
        let Absence { lacked, came_back_after, .. } = self.addresses.get(&address).copied().unwrap_or_default();
        let needed = |most| answers_needed(self.largest, targets, most);
        if lacked >= needed(FALSE_REMOVAL).max(came_back_after.saturating_mul(3)) {
            Verdict::Gone
        } else if lacked >= needed(USUAL_ABSENCE / targets.max(1) as f64).max(came_back_after.saturating_add(1)) {
            Verdict::Suspicious
        } else {
            Verdict::Usual
        }
    }

    /// How many fresh answers in a row lacked this address.
    pub fn lacked(&self, address: IpAddr) -> u32 {
        self.addresses.get(&address).map_or(0, |absence| absence.lacked)
    }

    /// How long to wait until another answer tells more: for the next fresh one, or briefly.
    pub fn pause(&self, needs_fresh: bool, now: Timestamp) -> Duration {
        let next_fresh = self.fresh_at.map_or(Duration::ZERO, |at| self.longest_ttl.saturating_sub(now.since(at)));
        let pause = if needs_fresh { next_fresh } else { self.longest_ttl.min(LONGEST_PAUSE) };
        pause.max(SHORTEST_PAUSE)
    }
}

/// The smallest n with (1 − `size`/`targets`)ⁿ < `most`.
pub fn answers_needed(size: usize, targets: usize, most: f64) -> u32 {
    if size == 0 {
        return u32::MAX;
    }
    if size >= targets {
        return 1;
    }
    let lacks = 1.0 - size as f64 / targets as f64;
    // The number is at least 1, and too large a one becomes the largest.
    (most.ln() / lacks.ln()).floor() as u32 + 1
}

/// How unlikely it must be that an address that is still there shows up in no answer.
pub const FALSE_REMOVAL: f64 = 1e-13;

/// How likely it is at any time that one of all targets is missing suspiciously long: then a run asks on.
const USUAL_ABSENCE: f64 = 0.08;

/// DNS gives at most eight addresses of a load balancer in an answer, and Route 53 as many of a multivalue record.
pub(crate) const LARGE_ANSWER: usize = 8;

/// How long an address must have been missing to have come back: a failover flaps for 20 to 30 s.
const SHORTEST_RETURN: Duration = Duration::from_secs(50);

/// How many returns within which time make a name one that rotates.
const RETURNS: usize = 3;
const RETURNS_WITHIN: Duration = Duration::from_secs(3600);

/// Between two answers of a run: five take as long as the time to live of RDS's records.
const LONGEST_PAUSE: Duration = Duration::from_millis(1300);
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
