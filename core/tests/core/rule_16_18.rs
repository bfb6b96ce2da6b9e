//! Rules 9, 16, 17 and 18: answers that are old, DNS that flaps, reads that lag, and what AWS cannot tell or refuses.

use nlb_hostname_targets_core::{plan::HoldReason, report::Outcome, target::TargetState};

use crate::universe::{Fault, Happening, OWN, Scene, WRITER, address, held, target};

#[test]
fn rule_09_an_answer_that_is_old_by_the_time_the_targets_are_known_is_asked_for_again() {
    let mut scene = Scene::with(OWN, &[1], &[1]);
    scene.slow_lists(3);
    scene.gives_later(2, OWN, &[2]);
    scene.run();
    assert_eq!(scene.registered(), [2]);
}

#[test]
fn rule_16_what_was_registered_moments_ago_goes_after_30_s_in_a_row() {
    let mut scene = Scene::with(OWN, &[2], &[2]);
    scene.state(1, TargetState::Initial);
    scene.run();
    scene.pass(20);
    scene.gives(OWN, &[1, 2]);
    scene.run();
    scene.gives(OWN, &[2]);
    // The answer between began the time anew.
    for seconds in [29, 2] {
        let report = scene.run();
        assert_eq!(held(&report), [(1, HoldReason::Initial)]);
        scene.pass(seconds);
    }
    scene.run();
    assert_eq!(scene.registered(), [2]);
}

#[test]
fn rule_17_within_a_run_nothing_is_done_again_for_want_of_being_seen() {
    let mut scene = Scene::with(OWN, &[2], &[1]);
    scene.pass(60);
    scene.play(&Happening::Lag(30_000));
    scene.run();
    assert_eq!(scene.changes(), ["Register [2]", "Deregister [1]"]);
    // A watch looks again some seconds after a change of its own.
    scene.play(&Happening::Lag(0));
    scene.settle();
    scene.gives(OWN, &[3]);
    scene.later(3, |universe| drop(universe.group.deregister([target(3, 0)], universe.now)));
    scene.watch(20);
    assert_eq!(scene.changes(), ["Register [3]", "Deregister [2]", "Register [3]"]);
}

#[test]
fn rule_18_where_aws_cannot_tell_the_targets_addresses_are_registered_and_nothing_goes() {
    for fault in [Fault::Unavailable, Fault::Denied, Fault::LostReply, Fault::Never] {
        let mut scene = Scene::with(OWN, &[2], &[1]);
        scene.fails("DescribeTargetHealth", fault);
        let expected = if fault == Fault::Unavailable { vec![1, 2] } else { vec![1] };
        assert_eq!((scene.run().outcome, scene.registered()), (Outcome::Failed, expected), "{fault:?}");
    }
}

#[test]
fn rule_18_one_target_that_aws_refuses_to_deregister_keeps_no_other_in() {
    let mut scene = Scene::with(OWN, &[4], &[1, 2, 3]);
    scene.aws(|group, _| group.not_deregistrable.insert(address(2)));
    let report = scene.run();
    assert_eq!((scene.registered(), held(&report)), (vec![2, 4], vec![(2, HoldReason::DeregistrationRefused)]));
    assert_eq!(report.outcome, Outcome::Failed);
}

#[test]
fn rule_18_a_name_that_fell_silent_in_a_watch_has_failed_though_the_last_look_could_not_end() {
    let mut scene = Scene::with(WRITER, &[1], &[1]);
    scene.gives_later(5, WRITER, &[]);
    scene.later(20, |universe| universe.is_out_of_time = true);
    let report = scene.watch(22);
    assert_eq!((report.outcome, scene.registered()), (Outcome::Failed, vec![1]));
}
