//! Names with the caches in front of them, and what rule 15 makes of their answers: reckoned once more.

use super::*;

#[derive(Debug)]
pub struct Name {
    pub hostname: Hostname,
    /// The name, and those on its CNAME chain.
    chain: Vec<String>,
    pub gives: BTreeSet<u8>,
    /// How many addresses an answer holds at most, where it is a sample.
    most: usize,
    answers_in_full: bool,
    ttl: Duration,
    longest_ttl: Duration,
    /// What each cache keeps, and until when.
    caches: Vec<Option<(Instant, BTreeSet<IpAddr>)>>,
}

impl Name {
    pub fn new(chain: &[&str], most: usize, setting: &Setting) -> Self {
        let mut name = Self {
            hostname: chain[0].to_owned().try_into().unwrap(),
            chain: chain.iter().map(ToString::to_string).collect(),
            gives: BTreeSet::from([0]),
            most,
            answers_in_full: false,
            ttl: Duration::from_secs(setting.ttl),
            longest_ttl: Duration::from_secs(setting.longest_ttl.max(setting.ttl)),
            caches: vec![None; setting.caches],
        };
        name.set(setting);
        name
    }

    /// What is stated of it is true.
    pub fn set(&mut self, setting: &Setting) {
        self.answers_in_full = setting.grace == Some(0) || setting.lookups == Some(1);
    }

    pub fn gives_samples(&self) -> bool {
        !self.answers_in_full && self.gives.len() > self.most
    }

    pub fn drop_caches(&mut self) {
        self.caches.clear();
    }

    /// An answer by one of the caches; or, for one to whom something else is told, by none.
    pub fn ask(&mut self, told: Option<&BTreeSet<u8>>, now: Instant, rng: &mut Rng) -> Answer {
        let given: Vec<_> = told.unwrap_or(&self.gives).iter().map(|host| address(*host)).collect();
        let most = if self.answers_in_full { usize::MAX } else { self.most };
        let mut fresh = || rng.choose_multiple(&given, most.min(given.len())).into_iter().copied().collect();
        let (until, addresses) = if told.is_some() || self.caches.is_empty() {
            (now + self.longest_ttl, fresh())
        } else {
            let fresh = (now + self.longest_ttl, fresh());
            let cache = rng.usize(..self.caches.len());
            let held = &mut self.caches[cache];
            held.take_if(|(until, _)| *until <= now);
            held.get_or_insert(fresh).clone()
        };
        // Resolvers tell it in whole seconds.
        let left = Duration::from_secs(u64::try_from((until - now).as_millis().div_ceil(1000)).unwrap());
        Answer { addresses, names: self.chain.clone(), ttl: left.min(self.ttl), longest_ttl: left, at: now }
    }
}

/// What an environment was told of a name.
#[derive(Clone, Debug, Default)]
pub struct Count {
    pub largest: usize,
    longest_ttl: Duration,
    fresh_at: Option<Instant>,
    pub names: Vec<String>,
    addresses: BTreeMap<IpAddr, Absence>,
    /// How often an address came back, or may have.
    pub returns: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Absence {
    given_at: Option<Instant>,
    is_missing: bool,
    lacked: u32,
    came_back_after: u32,
}

impl Count {
    pub fn add(&mut self, answer: &Answer) {
        self.names.clone_from(&answer.names);
        self.largest = self.largest.max(answer.addresses.len());
        self.longest_ttl = self.longest_ttl.max(answer.longest_ttl);
        let is_fresh = self.fresh_at.is_none_or(|fresh_at| answer.at >= fresh_at + self.longest_ttl);
        if is_fresh {
            self.fresh_at = Some(answer.at);
        }
        for address in &answer.addresses {
            self.addresses.entry(*address).or_default();
        }
        for (address, absence) in &mut self.addresses {
            if answer.addresses.contains(address) {
                self.returns += usize::from(absence.is_missing && absence.given_at.is_some());
                let came_back_after = absence.came_back_after.max(absence.lacked);
                *absence = Absence { given_at: Some(answer.at), came_back_after, ..Absence::default() };
            } else {
                absence.is_missing = true;
                absence.lacked += u32::from(is_fresh);
            }
        }
    }

    /// A target of this address is registered, and was not when this environment looked last. What nobody has heard of for
    /// an hour begins anew.
    pub fn expect(&mut self, address: IpAddr, is_new: bool, now: Instant) {
        let absence = self.addresses.entry(address).or_default();
        if is_new {
            (absence.lacked, absence.is_missing) = (0, false);
            if absence.given_at.is_none_or(|at| at + Duration::from_secs(3600) < now) {
                *absence = Absence::default();
            }
        }
    }

    pub fn has_given(&self, address: IpAddr) -> bool {
        self.addresses.get(&address).is_some_and(|absence| absence.given_at.is_some())
    }

    /// How many fresh answers in a row lacked an address, and how many have to, of a name that has so many targets.
    pub fn evidence(&self, address: IpAddr, targets: usize) -> (u32, u32) {
        let Absence { lacked, came_back_after, .. } = self.addresses.get(&address).copied().unwrap_or_default();
        let lacks = 1.0 - (self.largest as f64 / targets.max(1) as f64).min(1.0);
        let needed = (1..).find(|answers| lacks.powi(*answers) < 1e-13).unwrap();
        (lacked, u32::try_from(needed).unwrap().max(3 * came_back_after))
    }
}
