//! Rules 2, 3 and 5: what does not resolve, what drains, and what is refused for good.

use nlb_hostname_targets_core::{failure::Failure, plan::HoldReason, report::Outcome, target::TargetState};

use crate::universe::{OWN, PUBLIC, Scene, address, held};

#[test]
fn rule_02_a_name_that_did_not_resolve_keeps_all_and_others_are_still_registered() {
    let mut scene = Scene::new(&[(OWN, &[2]), ("other.test", &[])]);
    scene.healthy(&[1]);
    scene.gives("other.test", &[]);
    let report = scene.run();
    assert_eq!((scene.registered(), held(&report)), (vec![1, 2], vec![(1, HoldReason::Unresolved)]));
    assert!(matches!(report.failures[..], [Failure::Unresolved { .. }]));
}

#[test]
fn rule_03_what_drains_is_registered_again_and_never_deregistered_twice() {
    let mut scene = Scene::with(OWN, &[1], &[2]);
    scene.state(1, TargetState::Draining);
    scene.state(3, TargetState::Draining);
    scene.run();
    assert_eq!(scene.changes(), ["Register [1]", "Deregister [2]"]);
    let states = [TargetState::Healthy, TargetState::Initial, TargetState::Other, TargetState::Unhealthy];
    for state in states {
        let mut scene = Scene::with(OWN, &[1], &[]);
        scene.state(1, state);
        assert_eq!((scene.run().outcome, scene.changes()), (Outcome::InSync, vec![]), "{state:?}");
    }
}

#[test]
fn rule_05_what_aws_refuses_for_good_keeps_no_other_out_and_no_stale_one_in() {
    let mut scene = Scene::with(OWN, &[2, 9], &[1]);
    scene.aws(|group, _| group.not_registrable.insert(address(9)));
    let report = scene.run();
    assert_eq!((scene.registered(), report.outcome), (vec![2], Outcome::Failed));
    // Where it is all that DNS gives, what is registered stays.
    scene.gives(OWN, &[9]);
    let report = scene.run();
    assert_eq!((scene.registered(), held(&report)), (vec![2], vec![(2, HoldReason::RegistrationFailed)]));
}

#[test]
fn rule_05_an_address_that_may_be_no_target_keeps_no_stale_one_of_another_name_in() {
    let mut scene = Scene::new(&[(OWN, &[2]), ("public.test", &[PUBLIC[0]])]);
    scene.healthy(&[1]);
    let report = scene.run();
    assert_eq!((scene.registered(), report.outcome), (vec![2], Outcome::Failed));
    assert!(matches!(report.failures[..], [Failure::NoUsableAddress { .. }]), "{:?}", report.failures);
    scene.gives(OWN, &[PUBLIC[0]]);
    assert_eq!((held(&scene.run()), scene.registered()), (vec![(2, HoldReason::RegistrationFailed)], vec![2]));
}

#[test]
fn rule_02_a_look_that_failed_is_no_answer_from_which_addresses_are_missing() {
    let mut scene = Scene::with(OWN, &[1], &[1, 2]);
    scene.lookups(OWN, 5);
    scene.samples(OWN, usize::MAX, 1);
    scene.gives_later(2, OWN, &[]);
    scene.gives_later(3, OWN, &[1]);
    let report = scene.run();
    assert_eq!((report.outcome, report.failures.len(), scene.registered()), (Outcome::InSync, 0, vec![1, 2]));
}
