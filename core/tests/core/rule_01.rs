//! Rule 1: register first, deregister after.

use nlb_hostname_targets_core::report::Outcome;

use crate::universe::{Fault, OWN, Stage, hosts};

#[test]
fn registers_first_and_deregisters_after() {
    let mut stage = Stage::with(OWN, &[2], &[1]);
    let report = stage.run();
    assert_eq!(stage.changes(), ["Register [2]", "Deregister [1]"]);
    assert_eq!(
        (report.outcome, hosts(report.registered), hosts(report.deregistered)),
        (Outcome::Changed, vec![2], vec![1])
    );
}

#[test]
fn deregisters_nothing_where_the_registration_failed() {
    for (fault, registered) in [(Fault::Failed, vec![1]), (Fault::Denied, vec![1]), (Fault::LostReply, vec![1, 2])] {
        let mut stage = Stage::with(OWN, &[2], &[1]);
        stage.fails("RegisterTargets", fault);
        assert_eq!((stage.run().outcome, stage.registered()), (Outcome::Failed, registered));
    }
}

#[test]
fn while_targets_drain_their_room_is_waited_for_and_the_report_says_so() {
    let mut stage = Stage::with(OWN, &[1], &[101, 102]);
    stage.aws(|group, _| group.quota = 2);
    let report = stage.run();
    assert_eq!(stage.changes(), ["Register [1]", "Deregister [101]", "Register [1]"]);
    let error = report.error.unwrap();
    for words in ["1 targets wait for room", "Targets per Target Group", "1 targets are draining"] {
        assert!(error.contains(words), "{error}");
    }
    stage.run();
    assert_eq!((stage.changes(), stage.registered()), (vec!["Register [1]".to_owned()], vec![102]));
    stage.settle();
    stage.run();
    assert_eq!(stage.registered(), [1]);
}

#[test]
fn only_what_may_go_makes_room() {
    // What has its grace, and what may be an unresolved name's.
    for (grace, other) in [(60, &[3][..]), (0, &[])] {
        let mut stage = Stage::following(&[(OWN, &[2]), ("other.test", &[])]).grace(grace);
        stage.healthy(&[1, 3]);
        stage.gives("other.test", other);
        stage.aws(|group, _| group.quota = 2);
        for _ in 0..3 {
            assert_eq!((stage.run().outcome, stage.registered()), (Outcome::Failed, vec![1, 3]), "{grace}");
        }
        stage.gives("other.test", &[3]);
        stage.pass(60);
        stage.run();
        stage.settle();
        stage.run();
        assert_eq!(stage.registered(), [2, 3], "{grace}");
    }
}
