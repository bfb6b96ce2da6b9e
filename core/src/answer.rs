//! What DNS said to the hostnames of a target group, and what of it may be registered. Pure: no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    binding::Group,
    failure::{Failure, ResolveError},
    hostname::Hostname,
    kind::HostnameKind,
    network::{AllowedNetworks, is_public},
    plan::Desired,
    target::Facts,
};

/// An answer that holds at least one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The addresses of the name or of the names on its CNAME chain.
    pub addresses: BTreeSet<IpAddr>,
    /// The name, then the names on its CNAME chain, in lower case.
    pub names: Vec<String>,
    /// How long a resolver in between may repeat it: the shortest time to live of its records.
    pub ttl: Duration,
    /// The longest time to live of its records: only after that, an answer holds nothing that this one held.
    pub longest_ttl: Duration,
    /// When it came.
    pub at: Instant,
}

impl Answer {
    /// What the hostname belongs to, as its CNAME chain tells.
    pub fn kind(&self) -> HostnameKind {
        HostnameKind::of(self.names.iter().map(String::as_str))
    }
}

/// What name servers said to some hostnames.
pub type Answers = BTreeMap<Hostname, Result<Answer, ResolveError>>;

/// What DNS said to all hostnames of a target group.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    /// The newest answer of each hostname. Of one whose answers are samples, it holds all addresses of this run.
    pub answers: Answers,
    /// How long DNS took.
    pub took: Duration,
}

/// What the answers mean for a target group.
#[derive(Clone, Debug)]
pub struct Look {
    /// What should be registered.
    pub desired: Desired,
    /// The addresses that may become targets.
    pub resolved: BTreeSet<IpAddr>,
    /// The addresses that may not, each with the reason.
    pub refused: BTreeMap<IpAddr, String>,
    /// What is the matter with the hostnames that give none.
    pub failures: Vec<Failure>,
}

impl Resolution {
    /// Whether every hostname resolved.
    pub fn is_complete(&self) -> bool {
        self.answers.values().all(Result::is_ok)
    }

    /// How long a resolver in between may repeat the answers; `None` where there is none.
    pub fn ttl(&self) -> Option<Duration> {
        self.answers.values().flatten().map(|answer| answer.ttl).min()
    }

    /// The hostnames whose answer is too old to plan on.
    pub fn old(&self, now: Instant) -> BTreeSet<Hostname> {
        let is_old = |answer: &Answer| now.saturating_duration_since(answer.at) > OLDEST_ANSWER;
        let old = self.answers.iter().filter(|(_, answer)| answer.as_ref().is_ok_and(is_old));
        old.map(|(hostname, _)| hostname.clone()).collect()
    }

    /// Why hostnames did not resolve, of those whose error counts.
    pub fn failures(&self, counts: impl Fn(&ResolveError) -> bool) -> impl Iterator<Item = Failure> {
        self.answers.iter().filter_map(move |(hostname, answer)| {
            let error = answer.as_ref().err().filter(|error| counts(error))?;
            Some(Failure::Unresolved { hostname: hostname.clone(), error: error.clone() })
        })
    }

    /// What kind each hostname is of; one that did not resolve, by its name alone.
    pub fn kinds(&self) -> impl Iterator<Item = (&Hostname, HostnameKind)> {
        self.answers
            .iter()
            .map(|(hostname, answer)| (hostname, answer.as_ref().map_or_else(|_| hostname.kind(), Answer::kind)))
    }

    /// Judges the answers: which addresses may become targets, and what is the matter with the
    /// hostnames that give none.
    pub fn look(&self, group: &Group, facts: Facts, allowed: &AllowedNetworks) -> Look {
        let mut usable: BTreeMap<&Hostname, BTreeSet<IpAddr>> = BTreeMap::new();
        let mut refused = BTreeMap::new();
        let mut failures = Vec::new();
        for (hostname, answer) in &self.answers {
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    failures.push(Failure::Unresolved { hostname: hostname.clone(), error: error.clone() });
                    continue;
                }
            };
            let mut own = BTreeMap::new();
            for address in &answer.addresses {
                match allowed.refusal(*address) {
                    Some(reason) => drop(own.insert(*address, reason)),
                    None => drop(usable.entry(hostname).or_default().insert(*address)),
                }
            }
            if !usable.contains_key(hostname) {
                failures.push(no_usable_address(hostname, &own, allowed));
            }
            refused.extend(own);
        }
        Look {
            desired: Desired {
                targets: group.targets(facts.port, |hostname| usable.get(hostname).into_iter().flatten().copied()),
                refused: refused.keys().copied().collect(),
                is_complete: failures.is_empty(),
            },
            resolved: usable.values().flatten().copied().collect(),
            refused,
            failures,
        }
    }
}

fn no_usable_address(hostname: &Hostname, refused: &BTreeMap<IpAddr, String>, allowed: &AllowedNetworks) -> Failure {
    let mut refusals: Vec<_> =
        refused.iter().take(MOST_NAMED).map(|(address, reason)| format!("{address}: {reason}")).collect();
    if refused.len() > MOST_NAMED {
        refusals.push(format!("and {} more", refused.len() - MOST_NAMED));
    }
    Failure::NoUsableAddress {
        hostname: hostname.clone(),
        refusals: format!("{}; ALLOWED_CIDRS is {allowed}", refusals.join("; ")),
        is_public: refused.keys().copied().any(is_public),
    }
}

/// Until when DNS may take in a run that ends at `cutoff`. DNS that hangs has to leave some of the time for what else DNS
/// gave.
pub fn dns_cutoff(now: Instant, cutoff: Instant) -> Instant {
    now + cutoff.saturating_duration_since(now) * 3 / 4
}

/// The contract: an answer that is older by the time the targets are known is asked for again.
pub const OLDEST_ANSWER: Duration = Duration::from_secs(2);

/// Addresses that a message names, of the thousands that an answer may hold.
const MOST_NAMED: usize = 50;
