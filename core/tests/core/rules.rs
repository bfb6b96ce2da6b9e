//! Rules 1 to 18, but for those of samples, each at the smallest scene that shows it.

use std::time::Duration;

use nlb_hostname_targets_core::{
    failure::{ElbErrorKind, Failure},
    plan::HoldReason,
    report::{GroupReport, Outcome},
    target::TargetState,
};

use crate::stage::{OWN, PUBLIC, READER, Stage, WRITER, hosts, target};

fn held(report: &GroupReport) -> Vec<(u8, HoldReason)> {
    report.held.iter().map(|held| (hosts([held.target])[0], held.reason)).collect()
}

fn changes(stage: &Stage) -> Vec<String> {
    stage.calls().into_iter().filter(|call| call.starts_with("Register") || call.starts_with("Deregister")).collect()
}

fn fail(stage: &Stage, call: &'static str, kind: Option<ElbErrorKind>) {
    let mut scene = stage.scene.borrow_mut();
    scene.fails.remove(call);
    scene.fails.extend(kind.map(|kind| (call, kind)));
}

#[test]
fn rule_01_registers_first_and_deregisters_after() {
    let mut stage = Stage::with(OWN, &[2], &[1]);
    let report = stage.run();
    assert_eq!(changes(&stage), ["Register [2]", "Deregister [1]"]);
    assert_eq!(
        (report.outcome, hosts(report.registered), hosts(report.deregistered)),
        (Outcome::Changed, vec![2], vec![1])
    );
}

#[test]
fn rule_01_deregisters_nothing_where_the_registration_failed() {
    for kind in [ElbErrorKind::Failed, ElbErrorKind::Throttled, ElbErrorKind::TimedOut, ElbErrorKind::Denied] {
        let mut stage = Stage::with(OWN, &[2], &[1]);
        fail(&stage, "Register", Some(kind));
        assert_eq!((stage.run().outcome, stage.registered()), (Outcome::Failed, vec![1]));
    }
}

/// Whatever is stale, whatever DNS gives and whatever the quota is: the group is never emptied for room, what is draining
/// is waited for, and in the end DNS's addresses are in, as far as the quota lets them.
#[test]
fn rule_01_a_group_is_never_emptied_for_room() {
    for stale in 1..=4_u8 {
        for given in 1..=4_u8 {
            for quota in stale.into()..=6 {
                let registered: Vec<u8> = (101..101 + stale).collect();
                let addresses: Vec<u8> = (1..=given).collect();
                let mut stage = Stage::with(OWN, &addresses, &registered);
                stage.scene.borrow_mut().quota = quota;
                // The last target stays, though it is the one that takes the room.
                let expected = if quota == 1 { 0 } else { quota.min(given.into()) };
                let is_in = |stage: &Stage| {
                    assert!(!stage.registered().is_empty(), "{stale} {given} {quota}");
                    stage.registered().into_iter().filter(|host| *host <= given).count() == expected
                };
                for _ in 0..10 {
                    is_in(&stage);
                    stage.run();
                    is_in(&stage);
                    // What drains has gone by the run after the next.
                    stage.run();
                    stage.settle();
                }
                assert!(is_in(&stage), "{stale} {given} {quota}: {:?}", stage.registered());
                let stays = quota > 1 && stage.registered().into_iter().any(|host| host > 100);
                assert!(!stays || usize::from(given) > quota, "{stale} {given} {quota}: {:?}", stage.registered());
            }
        }
    }
}

#[test]
fn rule_01_while_targets_drain_their_room_is_waited_for_and_the_report_says_so() {
    let mut stage = Stage::with(OWN, &[1], &[101, 102]);
    stage.scene.borrow_mut().quota = 2;
    let report = stage.run();
    assert_eq!(changes(&stage), ["Register [1]", "Deregister [101]", "Register [1]"]);
    let error = report.error.unwrap();
    assert!(error.contains("1 targets wait for room") && error.contains("1 targets are draining"), "{error}");
    stage.run();
    assert_eq!((changes(&stage), stage.registered()), (vec!["Register [1]".to_owned()], vec![102]));
    stage.settle();
    stage.run();
    assert_eq!(stage.registered(), [1]);
}

#[test]
fn rule_02_a_name_that_did_not_resolve_keeps_all_and_others_are_still_registered() {
    let mut stage = Stage::new(&[(OWN, &[2]), ("other.test", &[])]);
    stage.healthy(&[1]);
    stage.name("other.test", |gives| gives.hosts = None);
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
    assert_eq!(changes(&stage), ["Register [1]", "Deregister [2]"]);
    let states = [TargetState::Healthy, TargetState::Initial, TargetState::Other, TargetState::Unhealthy];
    for state in states {
        let mut stage = Stage::with(OWN, &[1], &[]);
        stage.state(1, state);
        assert_eq!((stage.run().outcome, changes(&stage)), (Outcome::InSync, vec![]), "{state:?}");
    }
}

#[test]
fn rule_05_what_aws_refuses_for_good_keeps_no_other_out_and_no_stale_one_in() {
    let mut stage = Stage::with(OWN, &[2, 9], &[1]);
    stage.scene.borrow_mut().refused.insert(9);
    let report = stage.run();
    assert_eq!((stage.registered(), report.outcome), (vec![2], Outcome::Failed));
    // Where it is all that DNS gives, what is registered stays.
    stage.gives(OWN, &[9]);
    let report = stage.run();
    assert_eq!((stage.registered(), held(&report)), (vec![2], vec![(2, HoldReason::RegistrationFailed)]));
}

#[test]
fn rule_05_an_address_that_may_be_no_target_keeps_no_stale_one_of_another_name_in() {
    let mut stage = Stage::new(&[(OWN, &[2]), ("public.test", &[PUBLIC])]);
    stage.healthy(&[1]);
    let report = stage.run();
    assert_eq!((stage.registered(), report.outcome), (vec![2], Outcome::Failed));
    assert!(matches!(report.failures[..], [Failure::NoUsableAddress { .. }]), "{:?}", report.failures);
    stage.gives(OWN, &[PUBLIC]);
    assert_eq!((held(&stage.run()), stage.registered()), (vec![(2, HoldReason::RegistrationFailed)], vec![2]));
}

#[test]
fn rule_08_a_target_goes_when_its_grace_is_over_by_the_time_in_its_tag() {
    let mut stage = Stage::with(OWN, &[2], &[1, 2]).grace(60);
    stage.run();
    let tags = stage.scene.borrow().tags.clone();
    assert_eq!(tags.keys().collect::<Vec<_>>(), ["nlb-hostname-targets:missing/10.0.0.1_5432"]);
    for _ in 0..3 {
        // Another environment counts on by the tag.
        stage.memory = Default::default();
        stage.pass(20);
        assert_eq!(stage.registered(), [1, 2]);
        stage.run();
    }
    assert_eq!((stage.registered(), stage.scene.borrow().tags.len()), (vec![2], 0));
}

#[test]
fn rule_08_a_tag_that_somebody_removes_is_counted_on_from_memory_with_a_warning() {
    for is_shared in [false, true] {
        let mut stage = Stage::with(OWN, &[1, 2], &[1, 2]).grace(60);
        if is_shared {
            stage = stage.shared();
        }
        stage.run();
        stage.gives(OWN, &[2]);
        stage.run();
        for _ in 0..3 {
            stage.scene.borrow_mut().tags.clear();
            stage.pass(20);
            let report = stage.run();
            assert!(report.error.unwrap().contains("the tag of 10.0.0.1:5432 is gone"), "{is_shared}");
        }
        assert_eq!(stage.registered(), [2], "{is_shared}");
    }
}

#[test]
fn rule_08_what_dns_gives_is_registered_though_tags_cannot_be_had_and_the_run_fails() {
    for call in ["ReadTags", "WriteTags"] {
        for stage in [Stage::with(OWN, &[2], &[1]).shared(), Stage::with(OWN, &[2], &[1]).grace(60)] {
            let mut stage = stage;
            fail(&stage, call, Some(ElbErrorKind::Denied));
            assert_eq!((stage.run().outcome, stage.registered()), (Outcome::Failed, vec![1, 2]), "{call}");
        }
    }
}

#[test]
fn rule_08_owners_are_written_first_and_only_what_is_ours_goes() {
    let mut stage = Stage::with(OWN, &[2], &[1]).shared();
    stage.run();
    assert_eq!(stage.calls(), ["DNS", "List", "ReadTags", "WriteTags", "Register [2]", "ReadTags"]);
    stage.settle();
    stage.gives(OWN, &[3]);
    let report = stage.run();
    assert_eq!((stage.registered(), held(&report)), (vec![1, 3], vec![(1, HoldReason::Foreign)]));
}

#[test]
fn rule_08_what_another_function_owns_stays_until_it_lets_go() {
    let mut stage = Stage::with(OWN, &[1], &[1]).shared();
    let theirs = "nlb-hostname-targets:owned/10.0.0.1_5432/two";
    stage.scene.borrow_mut().tags.insert(theirs.to_owned(), "used".to_owned());
    stage.run();
    stage.gives(OWN, &[2]);
    let report = stage.run();
    assert_eq!(held(&report), [(1, HoldReason::OwnedElsewhere)]);
    let ours = "nlb-hostname-targets:owned/10.0.0.1_5432/one";
    assert!(stage.scene.borrow().tags[ours].ends_with(" released"), "{:?}", stage.scene.borrow().tags);
    stage.scene.borrow_mut().tags.insert(theirs.to_owned(), "1763802000.250 released".to_owned());
    stage.run();
    assert_eq!(stage.registered(), [2]);
}

#[test]
fn rule_08_a_group_that_needs_no_state_reads_and_writes_no_tag() {
    let mut stage = Stage::with(OWN, &[2], &[1]);
    stage.run();
    assert!(!stage.calls().iter().any(|call| call.ends_with("Tags")));
}

#[test]
fn rule_08_what_has_no_room_in_fifty_tags_is_said_and_goes_later() {
    let all: Vec<u8> = (1..=60).collect();
    let mut stage = Stage::with(OWN, &[61], &all).grace(60);
    stage.healthy(&[61]);
    stage.scene.borrow_mut().tags.extend((0..6).map(|tag| (format!("team:{tag}"), String::new())));
    let report = stage.run();
    assert!(report.error.unwrap().contains("to remember 16 targets"));
    assert_eq!(stage.registered().len(), 61);
    stage.pass(61);
    stage.run();
    stage.run();
    assert_eq!((stage.registered(), stage.scene.borrow().tags.len()), (vec![61], 6));
}

#[test]
fn rule_09_an_answer_that_is_old_by_the_time_the_targets_are_known_is_asked_for_again() {
    let mut stage = Stage::with(OWN, &[1], &[1]);
    stage.scene.borrow_mut().slow.insert("List", Duration::from_secs(3));
    stage.later(2, |scene| scene.dns.get_mut(OWN).unwrap().hosts = Some(vec![2]));
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
    let before = stage.scene.borrow().targets.clone();
    stage.scene.borrow_mut().shown = Some(before);
    stage.run();
    assert_eq!(changes(&stage), ["Register [2]", "Deregister [1]"]);
    // A watch looks again some seconds after a change of its own.
    stage.scene.borrow_mut().shown = None;
    stage.settle();
    stage.gives(OWN, &[3]);
    stage.later(3, |scene| scene.targets.extend([(target(3), TargetState::Draining)]));
    stage.watch(20);
    assert_eq!(changes(&stage), ["Register [3]", "Deregister [2]", "Register [3]"]);
}

#[test]
fn rule_18_where_aws_cannot_tell_the_targets_addresses_are_registered_and_nothing_goes() {
    for kind in [ElbErrorKind::Unavailable, ElbErrorKind::Denied, ElbErrorKind::TimedOut] {
        let mut stage = Stage::with(OWN, &[2], &[1]);
        fail(&stage, "List", Some(kind));
        let expected = if kind == ElbErrorKind::Unavailable { vec![1, 2] } else { vec![1] };
        assert_eq!((stage.run().outcome, stage.registered()), (Outcome::Failed, expected), "{kind:?}");
    }
}

#[test]
fn rule_18_one_target_that_aws_refuses_to_deregister_keeps_no_other_in() {
    let mut stage = Stage::with(OWN, &[4], &[1, 2, 3]);
    stage.scene.borrow_mut().stuck.insert(2);
    let report = stage.run();
    assert_eq!((stage.registered(), held(&report)), (vec![2, 4], vec![(2, HoldReason::DeregistrationRefused)]));
    assert_eq!(report.outcome, Outcome::Failed);
}

#[test]
fn a_watch_applies_each_change_and_ends_30_s_after_the_last_one() {
    let mut stage = Stage::with(WRITER, &[1], &[1]);
    for (at, host) in [(5, 2), (9, 1), (12, 2)] {
        stage.later(at, move |scene| scene.dns.get_mut(WRITER).unwrap().hosts = Some(vec![host]));
    }
    let began = stage.scene.borrow().now;
    stage.watch(600);
    assert_eq!(stage.registered(), [2]);
    let took = stage.scene.borrow().now - began;
    assert!((40..=50).contains(&took.as_secs()), "{took:?}");
    // What the run before the watch changed counts as a change.
    stage.settle();
    stage.gives(WRITER, &[3]);
    let began = stage.scene.borrow().now;
    stage.watch(600);
    let took = stage.scene.borrow().now - began;
    assert!((30..=35).contains(&took.as_secs()), "{took:?}");
}

#[test]
fn a_watch_tries_again_4_s_after_what_failed() {
    let mut stage = Stage::with(OWN, &[2], &[1]);
    fail(&stage, "Register", Some(ElbErrorKind::Throttled));
    stage.later(18, |scene| scene.fails.clear());
    stage.watch(30);
    assert_eq!(stage.registered(), [2]);
    let tries = changes(&stage).iter().filter(|call| *call == "Register [2]").count();
    assert!((5..=6).contains(&tries), "{tries}");
}

#[test]
fn a_writer_beside_its_readers_is_followed_at_once() {
    let mut stage = Stage::new(&[(WRITER, &[1]), (READER, &[2, 3])]);
    stage.healthy(&[1, 2, 3]);
    stage.run();
    stage.gives(WRITER, &[4]);
    stage.run();
    assert_eq!(stage.registered(), [2, 3, 4]);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_writes_nothing() {
    let mut stage = Stage::with(OWN, &[2], &[1]).shared();
    stage.scene.borrow_mut().tags.insert("nlb-hostname-targets:owned/10.0.0.1_5432/one".to_owned(), "used".to_owned());
    let report = stage.dry_run();
    assert_eq!((hosts(report.registered), hosts(report.deregistered)), (vec![2], vec![1]));
    assert_eq!(stage.calls(), ["DNS", "List", "ReadTags"]);
}

#[test]
fn a_watch_of_readers_runs_no_more_than_it_has_to() {
    let mut stage = Stage::with(READER, &[1, 2, 3], &[1, 2, 3]);
    stage.name(READER, |gives| (gives.at_once, gives.ttl) = (1, 1));
    stage.later(10, |scene| scene.dns.get_mut(READER).unwrap().hosts = Some(vec![1, 2, 3, 4]));
    stage.watch(120);
    assert_eq!(stage.registered(), [1, 2, 3, 4]);
    let lists = stage.calls().iter().filter(|call| *call == "List").count();
    // Of the run before, the one that registers, the look after it and the last one.
    assert!(lists <= 6, "{lists}");
}

#[test]
fn rule_18_a_name_that_fell_silent_in_a_watch_has_failed_though_the_last_look_could_not_end() {
    let mut stage = Stage::with(WRITER, &[1], &[1]);
    stage.later(5, |scene| scene.dns.get_mut(WRITER).unwrap().hosts = None);
    stage.later(20, |scene| scene.is_out_of_time = true);
    let report = stage.watch(22);
    assert_eq!((report.outcome, stage.registered()), (Outcome::Failed, vec![1]));
}
