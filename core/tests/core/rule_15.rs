//! Rule 15: when a name whose answers are samples lets a target go.

use std::{collections::BTreeSet, time::Duration};

use nlb_hostname_targets_core::{
    clock::Timestamp,
    plan::HoldReason,
    samples::{FALSE_REMOVAL, Samples, Verdict, answers_needed},
    target::TargetState,
};

use crate::universe::{Happening, INSTANCE, Kind, Name, OWN, READER, Setting, Stage, WRITER, address, held, target};

const LOAD_BALANCER: &str = "orders-0123456789abcdef.elb.eu-west-1.amazonaws.com";

/// How many answers it takes, and that fewer than one live target goes in a million group-weeks. In a minute, a run asks on
/// for at most 45 s, four times a second where nothing is cached, and only while something is missing suspiciously long.
#[test]
fn the_formulas_table() {
    let rows = [(2, 1, 44), (3, 1, 74), (5, 1, 135), (8, 1, 225), (15, 1, 434), (30, 1, 883)];
    for (targets, size, expected) in rows.into_iter().chain([(12, 8, 28), (40, 8, 135), (100, 8, 359)]) {
        let needed = answers_needed(size, targets, FALSE_REMOVAL);
        assert_eq!(needed, expected, "{size} of {targets}");
        let lacks = 1.0 - size as f64 / targets as f64;
        let chance = |answers: u32| (0..answers).fold(1.0, |chance, _| chance * lacks);
        assert!(chance(needed) < FALSE_REMOVAL && chance(needed - 1) >= FALSE_REMOVAL, "{size} of {targets}");
        for ttl in [0_u32, 1, 5, 60] {
            let runs = 7.0 * 24.0 * 60.0;
            let asked_on = 0.08 * 45.0 / f64::from(ttl).max(0.25);
            let answers = runs * (5.0 + asked_on);
            // An absence that is long enough begins after an answer that held the target.
            let false_removals = answers * targets as f64 * (1.0 - lacks) * chance(needed);
            assert!(false_removals * 1e6 < 1.0, "{size} of {targets}, TTL {ttl}: {false_removals}");
        }
    }
}

/// Absences are as long as the formula says, whether one cache answers or one of four does, each of which repeats what it
/// has until its time is over.
#[test]
fn absences_of_live_addresses_are_as_long_as_reckoned() {
    for (targets, size, caches, ttl, longest_ttl) in
        [(2, 1, 1, 5, 5), (2, 1, 4, 5, 1), (5, 1, 1, 1, 1), (5, 1, 4, 5, 60), (12, 8, 4, 0, 0), (12, 8, 1, 60, 5)]
    {
        let mut rng = fastrand::Rng::with_seed(11);
        let setting = Setting { caches, ttl, longest_ttl, ..Setting::of(Kind::Reader) };
        let mut name = Name::new(&[READER], size, &setting);
        let all: Vec<u8> = (1..=targets).collect();
        name.gives = all.iter().copied().collect();
        let mut samples = Samples::new(&name.hostname);
        let start = Stage::new(setting).now().now;
        let bar = answers_needed(size, targets.into(), 0.001);
        let (mut long, mut fresh) = (0, 0);
        for passed in (0..40_000_u64).map(|look| look * 700) {
            let answer = name.ask(None, start + Duration::from_millis(passed), &mut rng);
            let before: Vec<_> = all.iter().map(|number| samples.lacked(address(*number))).collect();
            samples.add(&answer, Timestamp(1_763_802_000_000 + passed));
            let after = all.iter().map(|number| samples.lacked(address(*number)));
            fresh += usize::from(before.iter().zip(after.clone()).any(|(before, after)| after > *before));
            long += before.iter().zip(after).filter(|(before, after)| **before < bar && *after >= bar).count();
        }
        let share = size as f64 / f64::from(targets);
        let expected = fresh as f64 * f64::from(targets) * share * 0.001;
        assert!(fresh > 100, "{fresh}");
        assert!((long as f64) < 1.5 * expected + 5.0, "{targets} {size} {caches} {ttl}: {long} of {expected}");
    }
}

#[test]
fn what_came_back_after_long_is_waited_for_three_times_as_long() {
    let mut name = Name::new(&[READER], 1, &Setting::of(Kind::Reader));
    let mut samples = Samples::new(&name.hostname);
    let (mut rng, mut time) = (fastrand::Rng::with_seed(7), Timestamp(1_763_802_000_000));
    let mut at = Stage::with(READER, &[], &[]).now().now;
    let mut verdict_after = |answers, host| {
        name.gives = [host].into();
        for _ in 0..answers {
            at += Duration::from_secs(1);
            time = time.plus_seconds(1);
            samples.add(&name.ask(None, at, &mut rng), time);
        }
        samples.verdict(address(2), 2)
    };
    verdict_after(1, 2);
    assert_eq!(verdict_after(30, 1), Verdict::Suspicious);
    verdict_after(1, 2);
    // The formula alone asks for 44.
    assert_eq!(verdict_after(89, 1), Verdict::Suspicious);
    assert_eq!(verdict_after(1, 1), Verdict::Gone);
}

#[test]
fn a_promoted_reader_of_two_leaves_after_its_count_and_not_before() {
    let mut stage = Stage::with(READER, &[1, 2], &[1, 2]);
    stage.samples(READER, 1, 5);
    for _ in 0..5 {
        stage.run();
        stage.pass(60);
    }
    assert_eq!(stage.registered(), [1, 2]);
    stage.gives(READER, &[2]);
    let began = stage.now().now;
    stage.runs_until(30, |stage| stage.registered() == [2]);
    let took = (stage.now().now - began).as_secs();
    // 44 answers at 5 s each take 220 s without a pause; the grace is 300 s.
    assert!((300..900).contains(&took), "{took}");
}

#[test]
fn an_unhealthy_target_goes_after_its_grace_alone_but_where_none_is_healthy() {
    for (other, stays) in [(TargetState::Healthy, false), (TargetState::Unhealthy, true)] {
        let mut stage = Stage::with(READER, &[2], &[]);
        stage.samples(READER, usize::MAX, 5);
        stage.state(1, TargetState::Unhealthy);
        stage.state(2, other);
        stage.run();
        stage.pass(301);
        stage.kill(0);
        let report = stage.run();
        assert_eq!(stage.registered().contains(&1), stays, "{:?}", report.held);
    }
}

#[test]
fn a_new_environment_takes_nothing_that_lives() {
    let all = [1, 2, 3, 4, 5];
    let mut stage = Stage::with(READER, &all, &all);
    stage.samples(READER, 1, 1);
    for _ in 0..200 {
        stage.kill(0);
        stage.run();
        stage.pass(60);
    }
    assert_eq!(stage.registered(), all);
}

/// A name of one's own that leads by weighted CNAMEs to two instances.
#[test]
fn a_name_that_rotates_stops_churning_once_it_was_seen_to_and_says_what_to_state() {
    let mut stage = Stage::with(OWN, &[1, 2], &[1, 2]);
    stage.samples(OWN, 1, 30);
    stage.name(OWN, |name| name.chain.push(INSTANCE.to_owned()));
    let mut churn = Vec::new();
    for _ in 0..120 {
        let report = stage.run();
        churn.push(report.deregistered.len());
        stage.settle();
        stage.pass(60);
    }
    assert!(churn.iter().sum::<usize>() >= 3, "it takes three returns");
    assert_eq!(churn[60..].iter().sum::<usize>(), 0, "{churn:?}");
    assert_eq!(stage.registered(), [1, 2]);
    let report = stage.run();
    assert!(report.error.unwrap().contains("state `deregister_after_seconds`"));
    assert!(report.rotating.len() == 1 && stage.tags().contains_key("nlb-hostname-targets:rotates/db.test"));
    // A new environment knows it by the tag, and takes nothing.
    stage.kill(0);
    let mut churns = |_| {
        stage.pass(60);
        !stage.run().deregistered.is_empty()
    };
    assert!(!(0..5).any(&mut churns));
    // With a stated grace, nothing is warned of.
    stage = stage.grace(300);
    assert_eq!(stage.run().rotating.len(), 0);
}

#[test]
fn a_name_that_an_event_leaves_out_is_still_known_to_rotate() {
    let mut stage = Stage::following(&[(OWN, &[1, 2]), (INSTANCE, &[3])]);
    stage.samples(OWN, 1, 30);
    for _ in 0..60 {
        stage.run();
        stage.settle();
        stage.pass(60);
    }
    assert_eq!(stage.registered(), [1, 2, 3]);
    let mut members = None;
    stage.binding(|group| {
        members = Some(group.members.clone());
        group.members.retain(|(name, _)| name.canonical() == INSTANCE);
    });
    stage.run();
    stage.binding(|group| group.members = members.unwrap());
    let mut deregistered = 0;
    for _ in 0..5 {
        stage.settle();
        stage.pass(60);
        deregistered += stage.run().deregistered.len();
    }
    assert_eq!(deregistered, 0);
}

#[test]
fn an_instance_is_followed_at_once_however_often_it_fails_over() {
    let mut stage = Stage::with(INSTANCE, &[1], &[1]);
    for failover in 0..20 {
        let next = 1 + failover % 2;
        stage.gives(INSTANCE, &[next]);
        stage.run();
        assert_eq!(stage.registered(), [next]);
        stage.settle();
        stage.pass(120);
    }
}

#[test]
fn an_answer_of_eight_addresses_is_a_sample_and_one_of_seven_is_not() {
    for (size, stays) in [(7, false), (8, true)] {
        let given: Vec<u8> = (1..=size).collect();
        let mut stage = Stage::with(OWN, &given, &given);
        stage.healthy(&[99]);
        stage.run();
        assert_eq!(stage.registered().contains(&99), stays, "{size}");
    }
}

#[test]
fn stated_lookups_count_for_every_name() {
    for (name, lookups, grace, asked, stays) in [
        (OWN, 3, None, 3, true),
        (INSTANCE, 4, None, 4, true),
        (READER, 1, None, 1, false),
        (READER, 5, Some(0), 1, false),
        (READER, 50, None, 50, true),
    ] {
        let mut stage = Stage::with(name, &[2], &[1, 2]);
        stage.samples(name, usize::MAX, 60);
        stage.lookups(name, lookups);
        stage.binding(|group| group.deregister_after_seconds = grace);
        stage.run();
        assert_eq!(stage.calls().iter().filter(|call| *call == "DNS").count(), asked, "{name} {lookups}");
        stage.pass(301);
        stage.run();
        assert_eq!(stage.registered().contains(&1), stays, "{name} {lookups}");
    }
}

#[test]
fn a_port_that_no_binding_asks_for_is_stale_at_once() {
    let mut stage = Stage::with(READER, &[1, 2], &[]);
    stage.play(&Happening::HandRegister(1, 1, 2));
    stage.settle();
    stage.run();
    assert_eq!(stage.targets(), [target(1, 0), target(2, 0)].into());
}

/// The targets of a name that a binding no longer has go after the count.
#[test]
fn the_targets_of_another_hostname_go_after_the_count() {
    let mut stage = Stage::with(READER, &[3, 4], &[1, 2]);
    stage.samples(READER, 1, 5);
    let report = stage.run();
    let evidence =
        report.held.iter().filter(|held| held.reason == HoldReason::Evidence || held.reason == HoldReason::Grace);
    assert_eq!(evidence.count(), 2, "{:?}", report.held);
    stage.runs_until(60, |stage| stage.registered() == [3, 4]);
}

#[test]
fn a_healthy_target_of_a_load_balancer_that_was_never_seen_goes_after_a_day() {
    let mut stage = Stage::with(LOAD_BALANCER, &[1, 2], &[1, 2, 9]);
    stage.samples(LOAD_BALANCER, usize::MAX, 60);
    let began = stage.now().now;
    stage.runs_until(2000, |stage| stage.registered() == [1, 2]);
    let hours = (stage.now().now - began).as_secs() / 3600;
    assert_eq!(hours, 24);
}

#[test]
fn what_is_missing_is_registered_before_more_answers_are_collected() {
    let mut stage = Stage::with(READER, &[2], &[1]);
    stage.run();
    let calls = stage.calls();
    let asked = calls.iter().take_while(|call| *call != "Register [2]").filter(|call| *call == "DNS").count();
    assert_eq!((asked, calls.iter().filter(|call| *call == "DNS").count()), (1, 5), "{calls:?}");
}

#[test]
fn a_run_that_a_watch_follows_collects_nothing_of_its_own() {
    let mut stage = Stage::with(READER, &[1, 2], &[1, 2]);
    stage.samples(READER, 1, 0);
    stage.watch(2);
    assert!(stage.calls().iter().filter(|call| *call == "DNS").count() <= 4);
}

#[test]
fn a_writer_beside_its_readers_is_followed_at_once() {
    let mut stage = Stage::following(&[(WRITER, &[1]), (READER, &[2, 3])]);
    stage.healthy(&[1, 2, 3]);
    stage.run();
    stage.gives(WRITER, &[4]);
    stage.run();
    assert_eq!(stage.registered(), [2, 3, 4]);
}

/// A blue/green switchover moves a writer and its readers; beside readers, another name may give samples; an answer may hold
/// hundreds.
#[test]
fn what_is_gone_is_told_and_goes_in_the_end_whatever_stands_beside_it() {
    // A name, and what it gives before and after.
    type Moves<'a> = &'a [(&'static str, &'a [u8], &'a [u8])];
    let many: Vec<u8> = (10..250).collect();
    let rows: [(Moves<'_>, &[u8]); 3] = [
        (&[(WRITER, &[1], &[4]), (READER, &[2, 3], &[5, 6])], &[2, 3]),
        (&[(LOAD_BALANCER, &[1, 2], &[1, 2]), (READER, &[3, 4], &[4, 5])], &[3]),
        (&[(OWN, &many, &many[1..])], &[10]),
    ];
    for (names, waits) in rows {
        let before: Vec<_> = names.iter().map(|(name, before, _)| (*name, *before)).collect();
        let mut stage = Stage::following(&before);
        names.iter().for_each(|(_, before, _)| stage.healthy(before));
        for (name, ..) in names.iter().filter(|(name, ..)| [READER, LOAD_BALANCER].contains(name)) {
            stage.samples(name, 1, 5);
        }
        (0..8).for_each(|_| {
            stage.run();
            stage.pass(60);
        });
        names.iter().for_each(|(name, _, after)| stage.gives(name, after));
        let report = stage.run();
        let told: Vec<_> = held(&report).into_iter().map(|(host, _)| host).collect();
        assert!(waits.iter().all(|host| told.contains(host)), "{told:?}");
        let after: BTreeSet<u8> = names.iter().flat_map(|(.., after)| after.iter().copied()).collect();
        stage.settle();
        stage.runs_until(60, |stage| stage.registered().into_iter().collect::<BTreeSet<_>>() == after);
    }
}

#[test]
fn a_cold_start_beside_a_foreign_target_looks_for_no_evidence_of_it() {
    let mut stage = Stage::with(READER, &[1, 2], &[1, 2, 9]).shared();
    stage.samples(READER, usize::MAX, 0);
    for _ in 0..3 {
        stage.kill(0);
        stage.run();
        assert_eq!(stage.calls().iter().filter(|call| *call == "DNS").count(), 5);
    }
}

#[test]
fn a_name_of_which_one_answer_in_ten_leads_to_an_instance_loses_nothing() {
    let mut stage = Stage::with(OWN, &[1, 2, 3], &[1, 2, 3]);
    stage.samples(OWN, 1, 5);
    let mut deregistered = 0;
    for run in 0..40 {
        let leads_to = if run % 10 == 9 { INSTANCE } else { READER };
        stage.name(OWN, |name| name.chain = vec![OWN.to_owned(), leads_to.to_owned()]);
        deregistered += stage.run().deregistered.len();
        stage.pass(60);
    }
    assert_eq!(deregistered, 0);
}

#[test]
fn what_a_name_of_another_port_gives_keeps_nothing() {
    let mut stage = Stage::following(&[(LOAD_BALANCER, &[1, 2]), (READER, &[3, 4])]);
    stage.binding(|group| {
        let port = |name: &str| (name == READER).then_some(target(3, 1).port);
        group.members = group.members.iter().map(|(name, _)| (name.clone(), port(name.canonical()))).collect();
    });
    stage.samples(READER, 1, 5);
    let runs = |stage: &mut Stage, count: u32| {
        for _ in 0..count {
            stage.run();
            stage.settle();
            stage.pass(60);
        }
    };
    runs(&mut stage, 8);
    assert!(stage.targets().contains(&target(3, 1)));
    stage.gives(READER, &[4, 5]);
    runs(&mut stage, 60);
    assert_eq!(stage.targets(), [target(1, 0), target(2, 0), target(4, 1), target(5, 1)].into());
}
