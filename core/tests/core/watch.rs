//! Watches, and dry runs.

use crate::universe::{Fault, OWN, READER, Stage, WRITER, hosts};

#[test]
fn a_watch_applies_each_change_and_ends_30_s_after_the_last_one() {
    let mut stage = Stage::with(WRITER, &[1], &[1]);
    for (at, hosts) in [(5, &[2]), (9, &[1]), (12, &[2])] {
        stage.gives_later(at, WRITER, hosts);
    }
    let began = stage.now().now;
    stage.watch(600);
    assert_eq!(stage.registered(), [2]);
    let took = stage.now().now - began;
    assert!((40..=50).contains(&took.as_secs()), "{took:?}");
    // What the run before the watch changed counts as a change.
    stage.settle();
    stage.gives(WRITER, &[3]);
    let began = stage.now().now;
    stage.watch(600);
    let took = stage.now().now - began;
    assert!((30..=35).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_watch_tries_again_4_s_after_what_failed() {
    let mut stage = Stage::with(OWN, &[2], &[1]);
    stage.fails("RegisterTargets", Fault::Failed);
    stage.later(18, |universe| universe.faults.clear());
    stage.watch(30);
    assert_eq!(stage.registered(), [2]);
    let tries = stage.changes().iter().filter(|call| *call == "Register [2]").count();
    assert!((5..=6).contains(&tries), "{tries}");
}

#[test]
fn a_dry_run_says_what_would_be_done_and_writes_nothing() {
    let mut stage = Stage::with(OWN, &[2], &[1]).shared();
    stage.write_tags(&[("nlb-hostname-targets:owned/10.0.0.1_5432/one", "used")]);
    let report = stage.dry_run();
    assert_eq!((hosts(report.registered), hosts(report.deregistered)), (vec![2], vec![1]));
    assert_eq!(stage.calls(), ["DNS", "List", "ReadTags"]);
}

#[test]
fn a_watch_of_readers_runs_no_more_than_it_has_to() {
    let mut stage = Stage::with(READER, &[1, 2, 3], &[1, 2, 3]);
    stage.samples(READER, 1, 1);
    stage.gives_later(10, READER, &[1, 2, 3, 4]);
    stage.watch(120);
    assert_eq!(stage.registered(), [1, 2, 3, 4]);
    let lists = stage.calls().iter().filter(|call| *call == "List").count();
    // Of the run before, the one that registers, the look after it and the last one.
    assert!(lists <= 6, "{lists}");
}
