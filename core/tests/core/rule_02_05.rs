//! Rules 2, 3 and 5: what does not resolve, what drains, and what is refused for good.

use std::time::Duration;

use nlb_hostname_targets_core::{
    failure::Failure, plan::HoldReason, report::Outcome, run::dns_cutoff, target::TargetState,
};

use crate::universe::{OWN, PUBLIC, Stage, address, held};

#[test]
fn rule_02_a_name_that_did_not_resolve_keeps_all_and_others_are_still_registered() {
    let mut stage = Stage::following(&[(OWN, &[2]), ("other.test", &[])]);
    stage.healthy(&[1]);
    stage.gives("other.test", &[]);
    let report = stage.run();
    assert_eq!((stage.registered(), held(&report)), (vec![1, 2], vec![(1, HoldReason::Unresolved)]));
    assert!(matches!(report.failures[..], [Failure::Unresolved { .. }]));
}

#[test]
fn rule_03_what_drains_is_registered_again_and_never_deregistered_twice() {
    let mut stage = Stage::with(OWN, &[1], &[2]);
    stage.state(1, TargetState::Draining);
    stage.state(3, TargetState::Draining);
    stage.run();
    assert_eq!(stage.changes(), ["Register [1]", "Deregister [2]"]);
    let states = [TargetState::Healthy, TargetState::Initial, TargetState::Other, TargetState::Unhealthy];
    for state in states {
        let mut stage = Stage::with(OWN, &[1], &[]);
        stage.state(1, state);
        assert_eq!((stage.run().outcome, stage.changes()), (Outcome::InSync, vec![]), "{state:?}");
    }
}

#[test]
fn rule_05_what_aws_refuses_for_good_keeps_no_other_out_and_no_stale_one_in() {
    let mut stage = Stage::with(OWN, &[2, 9], &[1]);
    stage.aws(|group, _| group.not_registrable.insert(address(9)));
    let report = stage.run();
    assert_eq!((stage.registered(), report.outcome), (vec![2], Outcome::Failed));
    // Where it is all that DNS gives, what is registered stays.
    stage.gives(OWN, &[9]);
    let report = stage.run();
    assert_eq!((stage.registered(), held(&report)), (vec![2], vec![(2, HoldReason::RegistrationFailed)]));
}

#[test]
fn rule_05_an_address_that_may_be_no_target_keeps_no_stale_one_of_another_name_in() {
    let mut stage = Stage::following(&[(OWN, &[2]), ("public.test", &[PUBLIC[0]])]);
    stage.healthy(&[1]);
    let report = stage.run();
    assert_eq!((stage.registered(), report.outcome), (vec![2], Outcome::Failed));
    assert!(matches!(report.failures[..], [Failure::NoUsableAddress { .. }]), "{:?}", report.failures);
    stage.gives(OWN, &[PUBLIC[0]]);
    assert_eq!((held(&stage.run()), stage.registered()), (vec![(2, HoldReason::RegistrationFailed)], vec![2]));
}

#[test]
fn rule_02_a_look_that_failed_is_no_answer_from_which_addresses_are_missing() {
    let mut stage = Stage::with(OWN, &[1], &[1, 2]);
    stage.lookups(OWN, 5);
    stage.samples(OWN, usize::MAX, 1);
    stage.gives_later(2, OWN, &[]);
    stage.gives_later(3, OWN, &[1]);
    let report = stage.run();
    assert_eq!((report.outcome, report.failures.len(), stage.registered()), (Outcome::InSync, 0, vec![1, 2]));
}

#[test]
fn rule_02_dns_that_hangs_leaves_time_for_what_else_it_gave() {
    let now = Stage::following(&[]).now().now;
    assert_eq!(dns_cutoff(now, now + Duration::from_secs(8)), now + Duration::from_secs(6));
}
