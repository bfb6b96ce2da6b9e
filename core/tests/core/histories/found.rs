//! Histories that random ones found, cut down to what matters.

use nlb_hostname_targets_core::binding::Ownership;

use crate::universe::{Fault, Happening, Happening::*, History, How, Kind, Setting, Stage, happen, target};

fn play(setting: Setting, events: impl Into<Vec<Happening>>) {
    happen(setting, &History(events.into()));
}

/// A name of one's own that leads to a reader endpoint, which answers in full as far as nobody says otherwise.
fn chained() -> Setting {
    Setting { lookups: Some(1), ..Setting::of(Kind::Chained) }
}

#[test]
fn rule_01_what_drained_and_was_registered_again_may_stay_alone_when_room_is_made() {
    let events = [CalmRun, Quota(1), Dns(1, [1].into()), Pass(60_000), HandDeregister(0, 0), CalmRun];
    play(Setting { second: Some(1), grace: Some(0), ..chained() }, events);
}

#[test]
fn rule_16_what_an_answer_held_is_not_missing_since_before_though_it_was_too_old_to_count() {
    let events = [
        HandRegister(4, 0, 0),
        Step(0, Fault::None),
        Go(0, 10),
        Dns(0, [4].into()),
        Step(0, Fault::None),
        Begin(0, How::Full, 2),
        Go(0, 4),
        CalmRun,
        // The other name is waited for until this one is asked again.
        Step(0, Fault::Never),
        Dns(0, [0].into()),
    ];
    play(Setting { second: Some(1), grace: Some(0), ..chained() }, events);
}

#[test]
fn rule_16_that_aws_cannot_tell_the_targets_for_a_while_does_not_begin_the_30_s_anew() {
    let mut stage = Stage::new(Setting::of(Kind::Instance));
    let events = [
        HandRegister(3, 0, 0),
        CalmRun,
        Pass(20_000),
        Unavailable(true),
        CalmRun,
        Unavailable(false),
        Pass(11_000),
        CalmRun,
    ];
    events.iter().for_each(|event| stage.play(event));
    assert_eq!(stage.now().group.registered(), [target(0, 0)].into());
}

#[test]
fn rule_08_a_name_that_does_not_resolve_takes_no_state_that_its_chain_asks_for() {
    let cold = [Begin(1, How::Full, 4), Go(1, 3), Step(1, Fault::Denied)];
    play(chained(), [vec![HandRegister(0, 1, 0), CalmRun, Pass(300_000)], cold.into()].concat());
}

#[test]
fn rule_08_a_clock_that_is_set_back_within_a_run_loses_no_ownership() {
    let events = [
        Step(0, Fault::None),
        Step(0, Fault::None),
        Told(0, Some([0, 1].into())),
        Step(1, Fault::None),
        Go(0, 13),
        Step(0, Fault::None),
        Go(0, 9),
        ClockBack(61),
        Go(1, 6),
    ];
    play(Setting { second: Some(1), ownership: Ownership::Shared, ..chained() }, events);
}

#[test]
fn rule_08_by_a_tag_that_calls_it_missing_no_target_is_registered_where_aws_cannot_tell_the_targets() {
    let setting = Setting { ownership: Ownership::Shared, grace: Some(0), ..chained() };
    let moved = |host| vec![Pass(70_000), Dns(0, [host].into())];
    let before = [moved(1), vec![CalmRun], moved(2), vec![CalmRun]].concat();
    let then = |events: &[Happening]| [&before[..], &moved(1), &[Unavailable(true)], events].concat();
    play(setting, then(&[CalmRun]));
    // Nor where nothing can be written.
    let reads = [Begin(0, How::Full, 0), Step(0, Fault::None), Step(0, Fault::None), Step(0, Fault::None)];
    play(setting, then(&[&reads[..], &[Step(0, Fault::Denied), Go(0, 30)]].concat()));
}

#[test]
fn rule_08_what_dns_gave_is_missing_anew_though_aws_could_not_tell_the_targets_or_nothing_could_be_written() {
    let setting = Setting { grace: Some(60), ..chained() };
    let gives = |host| [Pass(40_000), Dns(0, [host].into())];
    let begins = [&[HandRegister(4, 0, 0)][..], &gives(0), &[CalmRun], &gives(4)].concat();
    let ends = [&gives(0)[..], &[CalmRun]].concat();
    let cannot_tell = [Unavailable(true), CalmRun, Unavailable(false)];
    play(setting, [&begins, &cannot_tell[..], &ends].concat());
    for fault in [Fault::Denied, Fault::Failed, Fault::Never] {
        let failing = [Begin(0, How::Full, 0), Step(0, Fault::None), Step(0, fault), Go(0, 30), Pass(30_000)];
        play(setting, [&begins, &failing[..], &ends[1..]].concat());
    }
}
