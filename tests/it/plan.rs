//! Properties of the pure plan.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
};

use nlb_hostname_targets::{
    binding::Ownership,
    plan::{Desired, Plan, Policy},
    state::{State, Timestamp},
    target::{RegisteredTarget, Target, TargetState},
};
use proptest::{collection::vec, prelude::*};

/// Few addresses and ports, so that what DNS says and what is registered meet often.
fn target() -> impl Strategy<Value = Target> {
    (0..8_u8, 1..3_u16).prop_map(|(host, port)| Target {
        address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, host)),
        port: NonZeroU16::new(port).unwrap(),
    })
}

fn state() -> impl Strategy<Value = TargetState> {
    prop_oneof![Just(TargetState::Draining), Just(TargetState::Healthy), Just(TargetState::Other)]
}

fn listed() -> impl Strategy<Value = Vec<RegisteredTarget>> {
    vec((target(), state()), 0..12).prop_map(|targets| {
        let mut seen = BTreeSet::new();
        let listed = targets.into_iter().filter(|(target, _)| seen.insert(*target));
        listed
            .map(|(target, state)| RegisteredTarget {
                target,
                id: target.address.to_string(),
                availability_zone: Some("us-east-1a".to_owned()),
                state,
            })
            .collect()
    })
}

/// Of what DNS gives, some addresses are refused.
fn desired() -> impl Strategy<Value = Desired> {
    (vec(target(), 0..8), any::<bool>(), vec(target(), 0..2)).prop_map(|(targets, complete, refused)| {
        let refused: BTreeSet<_> = refused.into_iter().map(|target| target.address).collect();
        Desired {
            targets: targets.into_iter().filter(|target| !refused.contains(&target.address)).collect(),
            refused,
            complete,
        }
    })
}

fn registered(listed: &[RegisteredTarget]) -> BTreeSet<Target> {
    listed.iter().filter(|shown| shown.state.is_registered()).map(|shown| shown.target).collect()
}

/// What a plan is in an `exclusive` group without a grace period.
fn plain(desired: &Desired, listed: &[RegisteredTarget]) -> Plan {
    let policy = Policy { ownership: Ownership::Exclusive, deregister_after_seconds: 0 };
    let now = Timestamp(1_763_802_000_000);
    Plan::new(desired, listed, &State::default(), policy, now, now)
}

/// What ELBv2 lists after the plan was carried out.
fn carried_out(plan: &Plan, listed: &[RegisteredTarget]) -> Vec<RegisteredTarget> {
    let mut after: Vec<_> = listed.iter().filter(|shown| !plan.register.contains(&shown.target)).cloned().collect();
    for shown in &mut after {
        if plan.deregister.contains(shown) {
            shown.state = TargetState::Draining;
        }
    }
    after.extend(plan.register.iter().map(|target| RegisteredTarget {
        target: *target,
        id: target.address.to_string(),
        availability_zone: None,
        state: TargetState::Other,
    }));
    after
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_address_that_dns_gives_is_never_deregistered(desired in desired(), listed in listed()) {
        let plan = plain(&desired, &listed);
        let gone: Vec<_> = plan.deregister.iter().map(|shown| shown.target).collect();
        prop_assert!(gone.iter().all(|target| !desired.targets.contains(target)));
        prop_assert!(gone.iter().all(|target| !desired.refused.contains(&target.address)));
    }

    #[test]
    fn every_address_that_dns_gives_ends_up_registered(desired in desired(), listed in listed()) {
        let after = registered(&carried_out(&plain(&desired, &listed), &listed));
        prop_assert!(after.is_superset(&desired.targets));
    }

    #[test]
    fn where_every_hostname_resolved_the_group_holds_what_dns_says(
        mut desired in desired(), one in target(), listed in listed()
    ) {
        desired.complete = true;
        desired.refused.clear();
        desired.targets.insert(one);
        let after = registered(&carried_out(&plain(&desired, &listed), &listed));
        prop_assert_eq!(after, desired.targets);
    }

    #[test]
    fn where_a_hostname_did_not_resolve_nothing_is_deregistered(mut desired in desired(), listed in listed()) {
        desired.complete = false;
        prop_assert!(plain(&desired, &listed).deregister.is_empty());
    }

    #[test]
    fn a_group_is_never_emptied(desired in desired(), listed in listed()) {
        let before = registered(&listed);
        let after = registered(&carried_out(&plain(&desired, &listed), &listed));
        prop_assert!(before.is_empty() || !after.is_empty());
    }

    #[test]
    fn a_second_plan_has_nothing_to_do(desired in desired(), listed in listed()) {
        let plan = plain(&desired, &listed);
        let again = plain(&desired, &carried_out(&plan, &listed));
        prop_assert!(again.register.is_empty() && again.deregister.is_empty(), "{:?}", again);
    }

    #[test]
    fn the_order_of_the_list_does_not_matter(desired in desired(), listed in listed().prop_flat_map(|listed| {
        (Just(listed.clone()), Just(listed).prop_shuffle())
    })) {
        prop_assert_eq!(plain(&desired, &listed.0), plain(&desired, &listed.1));
    }

    #[test]
    fn a_draining_target_is_never_deregistered_again(desired in desired(), listed in listed()) {
        let plan = plain(&desired, &listed);
        prop_assert!(plan.deregister.iter().all(|shown| shown.state != TargetState::Draining));
    }

    #[test]
    fn every_registered_target_is_kept_held_or_deregistered(desired in desired(), listed in listed()) {
        let plan = plain(&desired, &listed);
        let gone: BTreeSet<_> = plan.deregister.iter().map(|shown| shown.target).collect();
        prop_assert_eq!(plan.keep.len() + plan.held.len() + gone.len(), registered(&listed).len());
        let all: BTreeSet<_> = plan.keep.iter().chain(&plan.held).chain(&gone).copied().collect();
        prop_assert_eq!(all, registered(&listed));
    }
}
