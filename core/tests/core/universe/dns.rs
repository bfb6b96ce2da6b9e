//! Names with the caches in front of them.

use super::*;

#[derive(Debug)]
pub struct Name {
    pub hostname: Hostname,
    /// The name, and those on its CNAME chain.
    pub chain: Vec<String>,
    pub gives: BTreeSet<u8>,
    /// How many addresses an answer holds at most, where it is a sample.
    pub most: usize,
    answers_in_full: bool,
    pub ttl: Duration,
    pub longest_ttl: Duration,
    /// What each cache keeps, and until when.
    caches: Vec<Option<(Instant, BTreeSet<IpAddr>)>>,
}

impl Name {
    pub fn new(chain: &[&str], most: usize, setting: &Setting) -> Self {
        Self {
            hostname: chain[0].to_owned().try_into().unwrap(),
            chain: chain.iter().map(ToString::to_string).collect(),
            gives: BTreeSet::from([0]),
            most,
            answers_in_full: setting.answers_in_full(),
            ttl: Duration::from_secs(setting.ttl),
            longest_ttl: Duration::from_secs(setting.longest_ttl.max(setting.ttl)),
            caches: vec![None; setting.caches],
        }
    }

    /// What is stated of it is true.
    pub fn set(&mut self, setting: &Setting) {
        self.answers_in_full = setting.answers_in_full();
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
        let fresh = rng.choose_multiple(&given, most.min(given.len())).into_iter().copied().collect();
        let fresh = (now + self.longest_ttl, fresh);
        let (until, addresses) = if told.is_some() || self.caches.is_empty() {
            fresh
        } else {
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
