//! What DNS said to the hostnames of a target group, and what of it may be registered (rules 2, 6 and 7).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::failure::{Failure, RUN_IN_THE_VPC, ResolveError, list};
use crate::network::{AllowedNetworks, is_public};
use crate::{hostname::Hostname, kind::HostnameKind, run::Task, target::Target};

/// An answer that holds at least one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The addresses of the name or of the names on its CNAME chain.
    pub addresses: BTreeSet<IpAddr>,
    /// The name, then the names on its CNAME chain, in lower case.
    pub names: Vec<String>,
    /// How long a resolver in between may repeat it: the shortest time to live of its records.
    pub ttl: Duration,
    /// The longest time to live of its records: a cache may have kept each of them by itself.
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

/// What the answers mean for a target group.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// The union of the answers, as targets.
    pub desired: BTreeSet<Target>,
    /// The addresses that may become targets.
    pub resolved: BTreeSet<IpAddr>,
    /// The addresses that may not, each with the reason. Those of them that are registered are not stale: DNS gives them.
    pub refused: BTreeMap<IpAddr, String>,
    /// What is the matter with the hostnames that give none.
    pub failures: Vec<Failure>,
    /// Whether every hostname resolved. Where one did not, any target may be one of its own.
    pub is_complete: bool,
}

impl Look {
    /// Judges the answers. A name that was not asked did not resolve.
    pub fn new(task: &Task<'_>, answers: &Answers) -> Self {
        let mut look = Self { is_complete: true, ..Self::default() };
        for hostname in task.group.hostnames() {
            let answer = match answers.get(hostname) {
                Some(Ok(answer)) => answer,
                other => {
                    let error = other.and_then(|answer| answer.as_ref().err()).cloned();
                    look.failures.extend(error.map(|error| Failure::Unresolved { hostname: hostname.clone(), error }));
                    look.is_complete = false;
                    continue;
                }
            };
            let refused =
                answer.addresses.iter().filter_map(|address| Some((*address, task.allowed.refusal(*address)?)));
            let refused: BTreeMap<_, _> = refused.collect();
            let usable = answer.addresses.iter().filter(|address| !refused.contains_key(*address));
            if refused.len() == answer.addresses.len() {
                look.failures.push(no_usable_address(hostname, &refused, task.allowed));
            }
            for address in usable {
                look.resolved.insert(*address);
                look.desired.extend(task.ports(hostname).map(|port| Target { address: *address, port }));
            }
            look.refused.extend(refused);
        }
        look
    }

    /// Whether DNS gives a target, be it one that may not be registered.
    pub fn gives(&self, target: &Target) -> bool {
        self.desired.contains(target) || self.refused.contains_key(&target.address)
    }
}

fn no_usable_address(hostname: &Hostname, refused: &BTreeMap<IpAddr, String>, allowed: &AllowedNetworks) -> Failure {
    let refusals = list(refused.iter().map(|(address, reason)| format!("{address}: {reason}")));
    let advice = if refused.keys().copied().any(is_public) { RUN_IN_THE_VPC } else { "" };
    let refusals = format!("{refusals}; ALLOWED_CIDRS is {allowed}");
    Failure::NoUsableAddress { hostname: hostname.clone(), refusals, advice }
}
