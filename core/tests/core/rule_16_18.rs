//! Rules 9, 16, 17 and 18: answers that are old, DNS that flaps, reads that lag, and what AWS cannot tell or refuses.

use nlb_hostname_targets_core::{plan::HoldReason, report::Outcome, target::TargetState};

use crate::universe::{Fault, Happening, OWN, Stage, WRITER, address, held, target};

#[test]
fn rule_09_an_answer_that_is_old_by_the_time_the_targets_are_known_is_asked_for_again() {
    let mut stage = Stage::with(OWN, &[1], &[1]);
    stage.slow_lists(3);
    stage.gives_later(2, OWN, &[2]);
    stage.run();
    assert_eq!(stage.registered(), [2]);
}

#[test]
fn rule_16_what_was_registered_moments_ago_goes_after_30_s_in_a_row() {
    let mut stage = Stage::with(OWN, &[2], &[2]);
    stage.state(1, TargetState::Initial);
    stage.run();
    stage.pass(20);
    stage.gives(OWN, &[1, 2]);
    stage.run();
    stage.gives(OWN, &[2]);
    // The answer between began the time anew.
    for seconds in [29, 2] {
        let report = stage.run();
        assert_eq!(held(&report), [(1, HoldReason::Initial)]);
        stage.pass(seconds);
    }
    stage.run();
    assert_eq!(stage.registered(), [2]);
}

#[test]
fn rule_17_within_a_run_nothing_is_done_again_for_want_of_being_seen() {
    let mut stage = Stage::with(OWN, &[2], &[1]);
    stage.pass(60);
    stage.play(&Happening::Lag(30_000));
    stage.run();
    assert_eq!(stage.changes(), ["Register [2]", "Deregister [1]"]);
}

#[test]
fn rule_17_a_watch_sees_what_somebody_undid_some_seconds_after_a_change_of_its_own() {
    for is_gone in [false, true] {
        let mut stage = Stage::with(OWN, &[2], &[1]);
        stage.later(3, move |universe| {
            universe.group.deregister([target(2, 0)], universe.now);
            if is_gone {
                universe.group.finish_draining(universe.now);
            }
        });
        stage.watch(20);
        assert_eq!(stage.changes(), ["Register [2]", "Deregister [1]", "Register [2]"], "{is_gone}");
    }
}

#[test]
fn rule_18_where_aws_cannot_tell_the_targets_addresses_are_registered_and_nothing_goes() {
    for fault in [Fault::Unavailable, Fault::Denied, Fault::LostReply, Fault::Never] {
        let mut stage = Stage::with(OWN, &[2], &[1]);
        stage.fails("DescribeTargetHealth", fault);
        let expected = if fault == Fault::Unavailable { vec![1, 2] } else { vec![1] };
        assert_eq!((stage.run().outcome, stage.registered()), (Outcome::Failed, expected), "{fault:?}");
    }
}

#[test]
fn rule_18_one_target_that_aws_refuses_to_deregister_keeps_no_other_in() {
    let mut stage = Stage::with(OWN, &[4], &[1, 2, 3]);
    stage.aws(|group, _| group.not_deregistrable.insert(address(2)));
    let report = stage.run();
    assert_eq!((stage.registered(), held(&report)), (vec![2, 4], vec![(2, HoldReason::DeregistrationRefused)]));
    assert_eq!(report.outcome, Outcome::Failed);
}

#[test]
fn rule_18_a_name_that_fell_silent_in_a_watch_has_failed_though_the_last_look_could_not_end() {
    let mut stage = Stage::with(WRITER, &[1], &[1]);
    stage.gives_later(5, WRITER, &[]);
    stage.later(20, |universe| universe.is_out_of_time = true);
    let report = stage.watch(22);
    assert_eq!((report.outcome, stage.registered()), (Outcome::Failed, vec![1]));
}
