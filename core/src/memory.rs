//! What an execution environment remembers of a target group from run to run. Losing it makes targets stay longer; but what
//! a run saw and could not write into the tags is forgotten. Pure: no I/O.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use crate::{
    answer::{Answer, Resolution},
    binding::Group,
    failure::ResolveError,
    hostname::Hostname,
    plan::Desired,
    sampling::{Absence, Samples},
    state::Timestamp,
    target::Target,
    writes::Writes,
};

/// What an execution environment remembers of a target group.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// What the group was last found or brought in step with; `None` where that is not known.
    pub in_step: Option<InStep>,
    /// What was learned of the answers of each hostname.
    pub samples: BTreeMap<Hostname, Samples>,
    /// Since when the addresses of registered targets have been missing in a row.
    pub absent_since: BTreeMap<Target, Timestamp>,
    /// What AWS accepted within this invocation.
    pub writes: Writes,
    /// Whether the tags hold nothing that another setting left, as far as this function may see.
    pub is_tidy: bool,
    /// Whether they were read for that in a run that failed before it could use them. One that is done begins anew.
    pub has_read_in_vain: bool,
    /// When a change of our own is to be verified.
    pub verify_at: Option<Timestamp>,
}

/// What a target group was found or brought in step with.
#[derive(Clone, Debug)]
pub struct InStep {
    /// What DNS gave. Where answers are samples, also what else is registered.
    pub targets: BTreeSet<Target>,
    /// What is registered, also what DNS does not give.
    pub registered: BTreeSet<Target>,
    /// When it should be looked at again: a target's time has come, or a change of our own is to be verified.
    pub due: Option<Timestamp>,
    /// Targets that only the thin evidence keeps.
    pub thin: BTreeSet<Target>,
    /// How long a resolver in between may repeat the answers.
    pub ttl: Option<Duration>,
}

impl Memory {
    /// An invocation begins: what earlier ones wrote is to be seen by now.
    pub fn begin_invocation(&mut self) {
        self.writes.clear();
    }

    /// A run of this group begins.
    pub fn begin_run(&mut self, group: &Group) {
        let in_full = group.deregister_after_seconds == Some(0);
        self.samples.retain(|hostname, _| group.hostnames().contains(hostname));
        for hostname in group.hostnames() {
            let new = Samples::new(group.lookups.get(hostname).copied(), in_full);
            match self.samples.get_mut(hostname) {
                Some(known) if known.has_settings_of(&new) => known.begin_run(),
                _ => drop(self.samples.insert(hostname.clone(), new)),
            }
        }
    }

    /// Takes in what a name server said, now or before. Both `now` and `at` are the time.
    pub fn answered(
        &mut self,
        hostname: &Hostname,
        answer: &Result<Answer, ResolveError>,
        now: Timestamp,
        at: Instant,
    ) {
        match (self.samples.get_mut(hostname), answer) {
            (Some(samples), Ok(answer)) => {
                let came = now.minus(at.saturating_duration_since(answer.at));
                samples.add(&answer.addresses, answer.kind(), answer.ttl, came);
            }
            // That we had no time left says nothing of the name.
            (Some(samples), Err(error)) if !error.is_out_of_time() => samples.fail(),
            _ => {}
        }
    }

    /// Whether an answer of this hostname may hold but a sample of its addresses.
    pub fn is_sample(&self, hostname: &Hostname) -> bool {
        self.samples.get(hostname).is_some_and(Samples::is_sample)
    }

    /// Whether an answer of any hostname may hold but a sample of its addresses.
    pub fn is_sampled(&self) -> bool {
        self.samples.values().any(Samples::is_sample)
    }

    /// Takes in which targets are registered, and since when the tags say that some are missing.
    pub fn expect<'a>(
        &mut self,
        registered: impl IntoIterator<Item = &'a Target>,
        missing: &BTreeMap<Target, Timestamp>,
        now: Timestamp,
    ) {
        let expected = registered.into_iter().map(|target| (target.address, missing.get(target).copied())).collect();
        self.samples.values_mut().for_each(|samples| samples.expect(&expected, now));
    }

    /// When an answer of one of these hostnames last held this address.
    pub fn last_seen<'a>(&self, address: IpAddr, hostnames: impl Iterator<Item = &'a Hostname>) -> Option<Timestamp> {
        hostnames.filter_map(|hostname| self.samples.get(hostname)?.last_seen(address)).max()
    }

    /// How sure it is that an address is gone: by the hostname that knows least, since any may have had it.
    pub fn absence(&self, address: IpAddr, now: Timestamp) -> Absence {
        let sampled = self.samples.values().filter(|samples| samples.is_sample());
        sampled.map(|samples| samples.absence(address)).reduce(Absence::weaker).unwrap_or(Absence::Gone { since: now })
    }

    /// Takes in a look of a watch that changes nothing.
    pub fn take_in(&mut self, resolution: &Resolution, desired: &Desired, now: Timestamp, at: Instant) {
        for (hostname, answer) in &resolution.answers {
            self.answered(hostname, answer, now, at);
        }
        let registered = self.in_step.as_ref().map(|in_step| in_step.registered.clone()).unwrap_or_default();
        self.note(desired, &registered, now);
    }

    /// Takes in what is desired, and which targets are registered, to know since when which are missing.
    pub fn note<'a>(&mut self, desired: &Desired, registered: impl IntoIterator<Item = &'a Target>, now: Timestamp) {
        self.absent_since.retain(|target, _| !desired.targets.contains(target));
        if desired.is_complete {
            for target in registered.into_iter().filter(|target| !desired.targets.contains(target)) {
                let since = self.absent_since.entry(*target).or_insert(now);
                // A time that lies ahead is of a clock that was set back.
                *since = now.min(*since);
            }
        }
    }
}

impl InStep {
    /// Whether DNS gives something else.
    pub fn differs(&self, desired: &Desired, is_sampled: bool) -> bool {
        if desired.is_complete && !is_sampled {
            desired.targets != self.targets
        } else {
            !desired.targets.is_subset(&self.targets)
        }
    }
}
