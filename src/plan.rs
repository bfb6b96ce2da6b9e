//! The decision: what DNS says, what is registered, what is remembered and the time, turned into
//! what to register, to deregister and to remember. Pure: no I/O, no SDK type.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::{
    binding::Ownership,
    state::{State, Timestamp},
    target::{RegisteredTarget, Target},
};

/// What a target group goes by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Whose targets may be deregistered.
    pub ownership: Ownership,
    /// How long, in seconds, an address must be missing from DNS before its target goes.
    pub deregister_after_seconds: u32,
}

impl Policy {
    /// Whether anything has to be remembered between runs.
    pub fn needs_state(self) -> bool {
        self.ownership == Ownership::Shared || self.deregister_after_seconds > 0
    }
}

/// What should be registered, as far as DNS told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Desired {
    /// The union of the answers, as targets.
    pub targets: BTreeSet<Target>,
    /// Addresses that DNS gave as well, and that may not become targets. Nothing is done to those
    /// that are registered: DNS gives them, so they are not stale.
    pub refused: BTreeSet<IpAddr>,
    /// Whether every hostname of the group resolved. Where one did not, its addresses are
    /// unknown, and any target may be one of them.
    pub complete: bool,
}

/// What to do to one target group.
///
/// | DNS gives it | listed as         | every hostname resolved | then                              |
/// |--------------|-------------------|-------------------------|-----------------------------------|
/// | yes          | not at all        | –                       | `register`                        |
/// | yes          | draining          | –                       | `register`                        |
/// | yes          | in any other state| –                       | `keep`                            |
/// | no           | draining          | –                       | nothing                           |
/// | no           | in any other state| yes                     | `deregister`, or before its time `waiting` |
/// | no           | in any other state| no                      | `held`                            |
/// | refused      | in any other state| –                       | `held`                            |
///
/// In a `shared` group, what DNS does not give and is not ours is `foreign` in any case.
///
/// Where DNS gives nothing at all, nothing is deregistered whatever `complete` says: an empty
/// group is an outage, and a network load balancer whose targets are all unhealthy still tries
/// them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// To be registered first.
    pub register: BTreeSet<Target>,
    /// Registered, and to stay so.
    pub keep: BTreeSet<Target>,
    /// To be deregistered after the registration succeeded, with all that was shown of them.
    pub deregister: BTreeSet<RegisteredTarget>,
    /// Missing from DNS, each since when; their time has not come.
    pub waiting: BTreeMap<Target, Timestamp>,
    /// Not desired, but kept: not every hostname resolved, or DNS gives the address and it is
    /// refused.
    pub held: BTreeSet<Target>,
    /// Somebody else's.
    pub foreign: BTreeSet<Target>,
    /// What is to be remembered. In `shared` groups it has to be written before anything is
    /// registered, so that a reply that gets lost can't make a target of ours a foreign one; and it
    /// is forgotten when the target is really gone.
    pub state: State,
}

impl Plan {
    /// Compares what is desired with the targets that DescribeTargetHealth lists, by what is
    /// remembered of earlier runs. `began` is when this run did.
    pub fn new(
        desired: &Desired,
        listed: &[RegisteredTarget],
        state: &State,
        policy: Policy,
        began: Timestamp,
        now: Timestamp,
    ) -> Self {
        let mut plan = Self::default();
        let certain = desired.complete && !desired.targets.is_empty();
        // A time that lies ahead was written before the clock was set back.
        let missing_since = |target: &Target| state.missing.get(target).map_or(now, |since| now.min(*since));
        if policy.ownership == Ownership::Shared {
            let states: BTreeMap<_, _> = listed.iter().map(|listed| (listed.target, listed.state)).collect();
            // What DNS gives is adopted.
            plan.state.owned.clone_from(&desired.targets);
            for target in state.owned.difference(&desired.targets) {
                let listed = states.get(target);
                // What is not listed is gone, or another run is about to register it: only what was
                // found missing by an earlier run is forgotten.
                if listed.is_none() && certain && state.missing.get(target).is_some_and(|since| *since < began) {
                    continue;
                }
                plan.state.owned.insert(*target);
                let is_registered = listed.is_some_and(|state| state.is_registered());
                if !is_registered && (certain || state.missing.contains_key(target)) {
                    plan.state.missing.insert(*target, missing_since(target));
                }
            }
        }
        for registered in listed.iter().filter(|listed| listed.state.is_registered()) {
            let target = registered.target;
            let missing_since = missing_since(&target);
            if desired.targets.contains(&target) {
                plan.keep.insert(target);
            } else if policy.ownership == Ownership::Shared && !state.owned.contains(&target) {
                plan.foreign.insert(target);
            } else if desired.refused.contains(&target.address) {
                plan.held.insert(target);
            } else if !certain {
                plan.held.insert(target);
                plan.state.missing.extend(state.missing.get_key_value(&target));
            } else {
                if policy.deregister_after_seconds > 0 {
                    plan.state.missing.insert(target, missing_since);
                }
                if missing_since.plus_seconds(policy.deregister_after_seconds) <= now {
                    plan.deregister.insert(registered.clone());
                } else {
                    plan.waiting.insert(target, missing_since);
                }
            }
        }
        if !policy.needs_state() {
            plan.state = State::default();
        }
        plan.register = desired.targets.difference(&plan.keep).copied().collect();
        plan
    }
}
