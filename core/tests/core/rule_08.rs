//! Rule 8: what is remembered, in tags and from memory.

use nlb_hostname_targets_core::{plan::HoldReason, report::Outcome, target::TargetState};

use crate::universe::{Fault, Happening, OWN, READER, Stage, WRITER, held};

const PROXY: &str = "orders.proxy-c9akciq32abc.eu-west-1.rds.amazonaws.com";

#[test]
fn a_target_goes_when_its_grace_is_over_by_the_time_in_its_tag() {
    let mut stage = Stage::with(OWN, &[2], &[1, 2]).grace(60);
    stage.run();
    let tags = stage.tags();
    assert_eq!(tags.keys().collect::<Vec<_>>(), ["nlb-hostname-targets:missing/10.0.0.1_5432"]);
    for _ in 0..3 {
        // Another environment counts on by the tag.
        stage.kill(0);
        stage.pass(20);
        assert_eq!(stage.registered(), [1, 2]);
        stage.run();
    }
    assert_eq!((stage.registered(), stage.tags().len()), (vec![2], 0));
}

#[test]
fn a_tag_that_somebody_removes_is_counted_on_from_memory_with_a_warning() {
    for is_shared in [false, true] {
        let stage = Stage::with(OWN, &[1, 2], &[1, 2]).grace(60);
        let mut stage = if is_shared { stage.shared() } else { stage };
        stage.run();
        stage.gives(OWN, &[2]);
        stage.run();
        // Each time.
        for _ in 0..3 {
            stage.play(&Happening::Tampered(None, None));
            stage.pass(20);
            let report = stage.run();
            assert!(report.error.unwrap().contains("the tag of 10.0.0.1:5432 is gone"), "{is_shared}");
        }
        assert_eq!(stage.registered(), [2], "{is_shared}");
    }
}

#[test]
fn what_dns_gives_is_registered_though_tags_cannot_be_had_and_the_run_fails() {
    for call in ["DescribeTags", "AddTags"] {
        for mut stage in [Stage::with(OWN, &[2], &[1]).shared(), Stage::with(OWN, &[2], &[1]).grace(60)] {
            stage.fails(call, Fault::Denied);
            assert_eq!((stage.run().outcome, stage.registered()), (Outcome::Failed, vec![1, 2]), "{call}");
        }
    }
}

#[test]
fn owners_are_written_first_and_only_what_is_ours_goes() {
    let mut stage = Stage::with(OWN, &[2], &[1]).shared();
    stage.run();
    assert_eq!(stage.calls(), ["DNS", "List", "ReadTags", "WriteTags", "Register [2]", "ReadTags"]);
    stage.settle();
    stage.gives(OWN, &[3]);
    let report = stage.run();
    assert_eq!((stage.registered(), held(&report)), (vec![1, 3], vec![(1, HoldReason::Foreign)]));
}

#[test]
fn what_another_function_owns_stays_until_it_lets_go() {
    let mut stage = Stage::with(OWN, &[1], &[1]).shared();
    let theirs = "nlb-hostname-targets:owned/10.0.0.1_5432/two";
    stage.write_tags(&[(theirs, "used")]);
    stage.run();
    stage.gives(OWN, &[2]);
    let report = stage.run();
    assert_eq!(held(&report), [(1, HoldReason::OwnedElsewhere)]);
    let ours = "nlb-hostname-targets:owned/10.0.0.1_5432/one";
    assert!(stage.tags()[ours].ends_with(" released"), "{:?}", stage.tags());
    stage.write_tags(&[(theirs, "1763802000.250 released")]);
    stage.run();
    assert_eq!(stage.registered(), [2]);
}

/// Its tag is written while the run that deregisters asks for more answers.
#[test]
fn what_another_function_claims_within_a_run_stays() {
    let mut stage = Stage::with(OWN, &[1, 2], &[1, 2]).shared().grace(60);
    stage.lookups(OWN, 5);
    stage.samples(OWN, usize::MAX, 5);
    stage.run();
    stage.gives(OWN, &[2]);
    stage.run();
    stage.pass(61);
    stage.later(3, |universe| {
        let theirs = "nlb-hostname-targets:owned/10.0.0.1_5432/two".to_owned();
        universe.write_tags(&[(theirs, "used".to_owned())].into());
    });
    stage.run();
    assert_eq!(stage.registered(), [1, 2]);
}

#[test]
fn a_group_that_needs_no_state_reads_and_writes_no_tag() {
    let mut stage = Stage::with(OWN, &[2], &[1]);
    stage.run();
    assert!(!stage.calls().iter().any(|call| call.ends_with("Tags")));
}

#[test]
fn what_has_no_room_in_fifty_tags_is_said_and_goes_later() {
    let all: Vec<u8> = (1..=60).collect();
    let mut stage = Stage::with(OWN, &[61], &all).grace(60);
    stage.healthy(&[61]);
    stage.play(&Happening::OthersTags(6));
    let report = stage.run();
    assert!(report.error.unwrap().contains("to remember 16 targets"));
    assert_eq!(stage.registered().len(), 61);
    stage.pass(61);
    stage.run();
    stage.run();
    assert_eq!((stage.registered(), stage.tags().len()), (vec![61], 6));
}

#[test]
fn what_is_stated_counts_for_all_names_and_else_the_longest_default_is_told() {
    for (names, stated, told) in [
        (&[OWN, PROXY][..], None, 120),
        (&[WRITER, PROXY, READER], None, 300),
        (&[OWN, READER], Some(30), 30),
        (&[READER, OWN], Some(0), 0),
        (&[OWN], Some(u32::MAX), u32::MAX),
    ] {
        let names: Vec<(_, &[u8])> = names.iter().map(|name| (*name, &[2][..])).collect();
        let mut stage = Stage::following(&names);
        stage.binding(|group| group.deregister_after_seconds = stated);
        stage.healthy(&[2]);
        stage.state(1, TargetState::Unhealthy);
        let report = stage.run();
        assert_eq!(report.deregister_after_seconds, told, "{names:?}");
        assert_eq!(stage.registered().contains(&1), told > 0, "{names:?}");
    }
}

#[test]
fn what_any_name_of_the_group_gives_is_not_missing() {
    let mut stage = Stage::following(&[(OWN, &[1]), ("other.test", &[2])]).grace(60);
    stage.healthy(&[1, 2]);
    stage.run();
    // It moves from one name to the other, for longer than its grace.
    for (own, other) in [(&[1, 2][..], &[1][..]), (&[1], &[2]), (&[2], &[1])] {
        stage.gives(OWN, own);
        stage.gives("other.test", other);
        stage.pass(61);
        let report = stage.run();
        assert!(report.held.is_empty() && stage.tags().is_empty(), "{:?}", report.held);
    }
    // Missing begins anew when it is over.
    for (given, is_held) in [(&[1][..], true), (&[1, 2], false), (&[1], true)] {
        stage.gives(OWN, given);
        stage.gives("other.test", &[1]);
        let held: Vec<_> = stage.run().held.iter().map(|held| held.reason).collect();
        assert_eq!(held.contains(&HoldReason::Grace), is_held, "{held:?}");
        stage.pass(40);
    }
}

#[test]
fn what_dns_gave_to_a_run_that_was_cut_off_is_missing_anew() {
    let mut stage = Stage::with(OWN, &[2], &[1, 2]).grace(60);
    stage.run();
    stage.pass(40);
    stage.gives(OWN, &[1, 2]);
    stage.fails("DescribeTargetHealth", Fault::Never);
    stage.run();
    stage.fails("DescribeTargetHealth", Fault::None);
    stage.gives(OWN, &[2]);
    stage.pass(30);
    stage.run();
    assert_eq!(stage.registered(), [1, 2], "it has been missing for 30 s at most");
    stage.pass(60);
    stage.run();
    assert_eq!(stage.registered(), [2]);
}
