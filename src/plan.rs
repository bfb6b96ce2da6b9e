//! The decision: what DNS says and what is registered, turned into what to register and to
//! deregister. Pure: no I/O, no SDK type.

use std::{collections::BTreeSet, net::IpAddr};

use crate::target::{RegisteredTarget, Target};

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
/// | DNS gives it | listed as         | every hostname resolved | then         |
/// |--------------|-------------------|-------------------------|--------------|
/// | yes          | not at all        | –                       | `register`   |
/// | yes          | draining          | –                       | `register`   |
/// | yes          | in any other state| –                       | `keep`       |
/// | no           | draining          | –                       | nothing      |
/// | no           | in any other state| yes                     | `deregister` |
/// | no           | in any other state| no                      | `held`       |
/// | refused      | in any other state| –                       | `held`       |
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
    /// Not desired, but kept: not every hostname resolved, or DNS gives the address and it is
    /// refused.
    pub held: BTreeSet<Target>,
}

impl Plan {
    /// Compares what is desired with the targets that DescribeTargetHealth lists.
    pub fn new(desired: &Desired, listed: &[RegisteredTarget]) -> Self {
        let mut plan = Self::default();
        for registered in listed.iter().filter(|listed| listed.state.is_registered()) {
            if desired.targets.contains(&registered.target) {
                plan.keep.insert(registered.target);
            } else if desired.complete
                && !desired.targets.is_empty()
                && !desired.refused.contains(&registered.target.address)
            {
                plan.deregister.insert(registered.clone());
            } else {
                plan.held.insert(registered.target);
            }
        }
        plan.register = desired.targets.difference(&plan.keep).copied().collect();
        plan
    }
}
