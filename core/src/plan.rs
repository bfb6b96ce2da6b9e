//! The decision: what DNS says, what is registered, what is remembered and the time, turned into
//! what to register, to deregister and to remember. Pure: no I/O, no SDK type.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::Serialize;

use crate::{
    policy::Policy,
    sampling::Absence,
    state::{State, Timestamp},
    target::{RegisteredTarget, Target, TargetState},
};

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
    pub is_complete: bool,
}

/// What a plan is made from, besides what is desired.
pub struct Known<'a, A> {
    /// The targets of the group, draining ones among them.
    pub listed: &'a [RegisteredTarget],
    /// What is remembered of earlier runs; `None`: it can't be read or written.
    pub state: Option<&'a State>,
    /// What the group goes by.
    pub policy: Policy,
    /// Since when the addresses of targets have been missing in a row, as far as this execution environment knows.
    pub absent_since: &'a BTreeMap<Target, Timestamp>,
    /// When an answer last held a target, or it was registered anew, as far as this execution environment knows. A time in
    /// the tags that is older does not count: the run that saw the target may have been unable to write that down.
    pub last_seen: &'a BTreeMap<Target, Timestamp>,
    /// How sure it is that an address is gone that DNS does not give.
    pub absence: A,
    /// When this run began.
    pub began: Timestamp,
    /// The time.
    pub now: Timestamp,
}

/// Why a registered target stays that DNS does not give.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// AWS refused to deregister it.
    DeregistrationRefused,
    /// Answers are samples, and too few of them lacked it.
    Evidence,
    /// It is somebody else's.
    Foreign,
    /// Its grace period is not over.
    Grace,
    /// It was registered moments ago, and DNS may flap.
    Initial,
    /// Another function owns it as well.
    OwnedElsewhere,
    /// DNS gives its address, which may not become a target.
    RefusedAddress,
    /// What should be there instead could not be registered.
    RegistrationFailed,
    /// The tags that say whose it is, and since when it is missing, can't be read or written.
    StateUnknown,
    /// A hostname of the group did not resolve.
    Unresolved,
}

impl HoldReason {
    /// The words of the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeregistrationRefused => "AWS refused to deregister it",
            Self::Evidence => "too few answers lacked it",
            Self::Foreign => "it is somebody else's",
            Self::Grace => "its grace period is not over",
            Self::Initial => "it was registered moments ago, and DNS may flap",
            Self::OwnedElsewhere => "another function owns it, too",
            Self::RefusedAddress => "DNS gives its address, which may not become a target",
            Self::RegistrationFailed => "what should be there instead could not be registered",
            Self::StateUnknown => "the tags that say since when it is missing can't be read or written",
            Self::Unresolved => "a hostname did not resolve",
        }
    }
}

/// A registered target that stays although DNS does not give it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// Since when its address has been missing, where that counts.
    pub missing_since: Option<Timestamp>,
    /// When it goes, if nothing but time keeps it.
    pub until: Option<Timestamp>,
}

/// What to do to one target group.
///
/// | DNS gives it | listed as          | then                                                         |
/// |--------------|--------------------|--------------------------------------------------------------|
/// | yes          | not at all         | `register`                                                   |
/// | yes          | draining           | `register`                                                   |
/// | yes          | in any other state | nothing                                                      |
/// | no           | draining           | nothing                                                      |
/// | no           | in any other state | `deregister`, unless there is a reason to keep it in `held`  |
///
/// Where DNS gives nothing at all, nothing is deregistered whatever else is known: an empty
/// group is an outage, and a network load balancer whose targets are all unhealthy still tries
/// them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// To be registered first.
    pub register: BTreeSet<Target>,
    /// To be deregistered after the registration succeeded, with all that was shown of them.
    pub deregister: BTreeSet<RegisteredTarget>,
    /// Registered and not given by DNS, but kept, each for a reason.
    pub held: BTreeMap<Target, Hold>,
    /// What is to be remembered. In `shared` groups it has to be written before anything is
    /// registered, so that a reply that gets lost can't make a target of ours a foreign one; and it
    /// is forgotten when the target is really gone.
    pub state: State,
}

impl Plan {
    /// Compares what is desired with the targets that are listed, by what is known besides.
    pub fn new<A: Fn(&Target) -> Absence>(desired: &Desired, known: &Known<'_, A>) -> Self {
        let mut plan = Self::default();
        let empty = State::default();
        let remembered = known.state.unwrap_or(&empty);
        let is_certain = desired.is_complete && !desired.targets.is_empty();
        if known.policy.is_shared() {
            plan.remember_owned(desired, remembered, is_certain, known);
        }
        let mut registered = BTreeSet::new();
        for shown in known.listed.iter().filter(|shown| shown.state.is_registered()) {
            let target = shown.target;
            registered.insert(target);
            if desired.targets.contains(&target) {
                continue;
            }
            let hold = |reason| Some(Hold { reason, missing_since: None, until: None });
            let hold = if known.state.is_none() {
                hold(HoldReason::StateUnknown)
            } else if known.policy.is_shared() && !remembered.owned.contains(&target) {
                hold(HoldReason::Foreign)
            } else if desired.refused.contains(&target.address) {
                hold(HoldReason::RefusedAddress)
            } else if is_certain {
                plan.judge_missing(shown, remembered, known)
            } else {
                plan.state.missing.extend(remembered.missing.get_key_value(&target));
                hold(HoldReason::Unresolved)
            };
            match hold {
                // A sample need not hold every address.
                Some(Hold { reason: HoldReason::Evidence, missing_since: None, .. }) => {}
                Some(hold) => drop(plan.held.insert(target, hold)),
                None => drop(plan.deregister.insert(shown.clone())),
            }
        }
        if !known.policy.needs_state() {
            plan.state = State::default();
        }
        plan.register = desired.targets.difference(&registered).copied().collect();
        plan
    }

    /// Carries over whose the targets of a `shared` group are.
    fn remember_owned<A>(&mut self, desired: &Desired, remembered: &State, is_certain: bool, known: &Known<'_, A>) {
        let listed: BTreeMap<_, _> = known.listed.iter().map(|listed| (listed.target, listed.state)).collect();
        // What DNS gives is adopted.
        self.state.owned.clone_from(&desired.targets);
        for target in remembered.owned.difference(&desired.targets) {
            let listed = listed.get(target);
            // What is not listed is gone, or another run is about to register it: only what was
            // found missing by an earlier run is forgotten.
            let was_missing =
                remembered.missing.get(target).is_some_and(|since| since.plus_seconds(LAG_SECONDS) < known.began);
            if listed.is_none() && is_certain && was_missing {
                continue;
            }
            self.state.owned.insert(*target);
            let is_registered = listed.is_some_and(|state| state.is_registered());
            if !is_registered && (is_certain || remembered.missing.contains_key(target)) {
                // A time that lies ahead was written before the clock was set back.
                let since = remembered.missing.get(target).map_or(known.now, |since| known.now.min(*since));
                self.state.missing.insert(*target, since);
            }
        }
    }

    /// Why a target stays whose address DNS does not give although every hostname resolved; `None`: it goes.
    fn judge_missing<A: Fn(&Target) -> Absence>(
        &mut self,
        shown: &RegisteredTarget,
        remembered: &State,
        known: &Known<'_, A>,
    ) -> Option<Hold> {
        let target = shown.target;
        let absent_since = known.absent_since.get(&target).copied().unwrap_or(known.now);
        let is_unhealthy = shown.state == TargetState::Unhealthy;
        let absence = (known.absence)(&target);
        let since = match (remembered.missing.get(&target), absence) {
            (Some(tag), _) => *tag,
            (None, Absence::Gone { since } | Absence::Thin { since }) => since,
            // Missing begins with the first answer that lacks it. Only the tags tell that no other execution environment
            // has seen it since.
            (None, Absence::Usual) if is_unhealthy => known.now,
            (None, Absence::Usual) => {
                return Some(Hold { reason: HoldReason::Evidence, missing_since: None, until: None });
            }
        };
        // A run that saw it later may have been unable to write that down.
        let since = match known.last_seen.get(&target) {
            Some(seen) if since < *seen => absent_since.max(*seen),
            _ => since,
        };
        // A time that lies ahead was written before the clock was set back.
        let since = since.min(known.now);
        if known.policy.deregister_after_seconds > 0 {
            self.state.missing.insert(target, since);
        }
        let until = since.plus_seconds(known.policy.deregister_after_seconds);
        let hold = |reason, missing_since, until| Some(Hold { reason, missing_since: Some(missing_since), until });
        if until > known.now {
            return hold(HoldReason::Grace, since, Some(until));
        }
        // What AWS finds dead needs no more evidence.
        if !matches!(absence, Absence::Gone { .. }) && !is_unhealthy {
            return hold(HoldReason::Evidence, since, None);
        }
        let settled = absent_since.plus_seconds(FLAPPING_SECONDS);
        if shown.state == TargetState::Initial && settled > known.now {
            return hold(HoldReason::Initial, absent_since, Some(settled));
        }
        if known.policy.is_shared() && remembered.elsewhere.contains_key(&target) {
            self.state.released.insert(target);
            self.state.missing.insert(target, since);
            return hold(HoldReason::OwnedElsewhere, since, None);
        }
        None
    }

    /// Keeps those targets that `accepted` names, for this reason.
    pub fn hold(&mut self, reason: HoldReason, accepted: impl Fn(&Target) -> bool) {
        self.deregister.retain(|shown| {
            let is_held = accepted(&shown.target);
            if is_held {
                self.held.insert(shown.target, Hold { reason, missing_since: None, until: None });
            }
            !is_held
        });
    }

    /// When time alone changes what is to be done.
    pub fn due(&self) -> Option<Timestamp> {
        self.held.values().filter_map(|hold| hold.until).min()
    }
}

/// How long a target that was registered moments ago must have been missing in a row: in an Aurora failover, a resolver
/// gave the old and the new address in turn for 20 to 30 s
/// ([report](https://github.com/awslabs/aws-mysql-jdbc/issues/377)).
const FLAPPING_SECONDS: u32 = 30;

/// How long a list may lack a target that was registered: only after that is what is not listed really gone.
pub(crate) const LAG_SECONDS: u32 = 60;
