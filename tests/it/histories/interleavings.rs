//! Every order in which two runs can take their steps, and every step at which one can be killed or AWS can fail it.

use std::cell::RefCell;

use nlb_hostname_targets::{policy::Ownership, tags::Tags};
use support::histories::{Fault, Happening, How, Kind, Setting, Theatre, Universe};

fn setting(ownership: Ownership, grace: u32) -> Setting {
    let kind = Kind::Instance;
    Setting { kind, has_two_names: false, ownership, grace: Some(grace), lookups: None, caches: 0, ttl: 1, seed: 0 }
}

/// Lets two runs that begin after `before` take their steps in every order until both have ended, and returns how many
/// orders there are. The first function has written these tags.
fn interleave(
    setting: Setting,
    actors: [usize; 2],
    tags: &Tags,
    before: &[Happening],
    after: impl Fn(&Universe),
) -> usize {
    // Which of the two goes on at each step, as far as there was a choice.
    let mut choices: Vec<bool> = Vec::new();
    for number in 1.. {
        let universe = RefCell::new(Universe::new(setting));
        let mut theatre = Theatre::new(&universe);
        universe.borrow_mut().write_tags(tags);
        before.iter().for_each(|event| theatre.play(event));
        actors.iter().for_each(|actor| theatre.play(&Happening::Begin(*actor, How::Full, 0)));
        let mut step = 0;
        while theatre.is_running(actors[0]) && theatre.is_running(actors[1]) {
            if step == choices.len() {
                choices.push(false);
            }
            theatre.request(actors[usize::from(choices[step])]);
            step += 1;
        }
        for actor in actors {
            while theatre.is_running(actor) {
                theatre.request(actor);
            }
        }
        after(&universe.borrow());
        // That they end where one would, some orders show.
        if number % 50 == 1 {
            theatre.calm_down();
        }
        choices.truncate(step);
        while choices.pop_if(|second| *second).is_some() {}
        match choices.last_mut() {
            Some(choice) => *choice = true,
            None => return number,
        }
    }
    unreachable!("the choices come to an end")
}

fn owned(entries: &[(&str, &str)]) -> Tags {
    let key = |rest: &str| format!("nlb-hostname-targets:owned-{rest}");
    entries.iter().map(|(rest, value)| (key(rest), (*value).to_owned())).collect()
}

#[test]
fn rule_09_in_whatever_order_two_runs_take_their_steps_no_ownership_is_lost() {
    let tags = owned(&[("1763801000.000-1/one", "10.0.0.12_5432"), ("1763801000.000-2/one", "10.0.0.13_5432")]);
    let before = [
        Happening::HandRegister(12, 1, 0),
        Happening::Told(0, Some([10].into())),
        Happening::Told(1, Some([11].into())),
    ];
    // Each makes seven requests: the facts, DNS, the targets, the tags, then it adds and removes tags, and registers.
    assert_eq!(interleave(setting(Ownership::Shared, 600), [0, 1], &tags, &before, |_| ()), 3432);
}

#[test]
fn rule_09_in_whatever_order_two_functions_take_their_steps_no_ownership_is_lost() {
    let tags = owned(&[
        ("1763801000.000-1/one", "10.0.0.1_5432 10.0.0.2_5432"),
        ("1763801000.000-1/two", "10.0.0.2_5432 10.0.0.3_5432"),
    ]);
    // Each takes up what the other one lets go.
    let before = [Happening::HandRegister(1, 2, 0), Happening::Dns(0, [3, 4].into()), Happening::Dns(2, [1, 5].into())];
    assert_eq!(interleave(setting(Ownership::Shared, 600), [0, 2], &tags, &before, |_| ()), 3432);
}

#[test]
fn rule_09_in_whatever_order_two_runs_with_different_answers_take_their_steps_a_target_stays_registered() {
    let before = [
        Happening::HandRegister(10, 2, 0),
        // What is initial is held.
        Happening::Pass(90_000),
        Happening::Told(0, Some([10].into())),
        Happening::Told(1, Some([11].into())),
    ];
    let orders = interleave(setting(Ownership::Exclusive, 0), [0, 1], &Tags::new(), &before, |universe| {
        assert!(!universe.registered().is_empty(), "each has deregistered what the other one needs");
    });
    assert!(orders > 200, "{orders}");
}

/// A run that has both to register and to deregister takes so many steps.
fn begin_a_change(theatre: &mut Theatre<'_>, steps: u8) {
    let events = [
        Happening::HandRegister(3, 1, 0),
        Happening::CalmRun,
        Happening::Pass(90_000),
        Happening::Dns(0, [1, 2].into()),
        Happening::Begin(0, How::Full, 0),
        Happening::Go(0, steps),
    ];
    events.iter().for_each(|event| theatre.play(event));
}

#[test]
fn rule_09_a_run_that_is_killed_at_any_step_is_repaired_by_the_next() {
    for ownership in [Ownership::Exclusive, Ownership::Shared] {
        for grace in [0, 60] {
            for fault in [Fault::None, Fault::LostReply] {
                for killed_after in 0.. {
                    let universe = RefCell::new(Universe::new(setting(ownership, grace)));
                    let mut theatre = Theatre::new(&universe);
                    begin_a_change(&mut theatre, killed_after);
                    let has_ended = !theatre.is_running(0);
                    theatre.play(&Happening::Step(0, fault));
                    theatre.play(&Happening::Kill(0));
                    theatre.calm_down();
                    if has_ended {
                        assert!(killed_after > 10, "it had some steps to take");
                        break;
                    }
                }
            }
        }
    }
}

#[test]
fn rule_18_from_whatever_step_on_aws_cannot_tell_the_targets_nothing_goes() {
    for ownership in [Ownership::Exclusive, Ownership::Shared] {
        for step in 0.. {
            let universe = RefCell::new(Universe::new(setting(ownership, 0)));
            let mut theatre = Theatre::new(&universe);
            begin_a_change(&mut theatre, step);
            let has_ended = !theatre.is_running(0);
            // What is known is old by now, and asked for again.
            theatre.play(&Happening::Pass(2500));
            theatre.play(&Happening::Unavailable(true));
            theatre.play(&Happening::Go(0, u8::MAX));
            theatre.calm_down();
            if has_ended {
                assert!(step > 10, "it had some steps to take");
                break;
            }
        }
    }
}

#[test]
fn rule_01_however_much_room_is_needed_it_empties_no_group_of_several() {
    for stale in 1..5 {
        for given in 1..5 {
            let universe = RefCell::new(Universe::new(setting(Ownership::Exclusive, 0)));
            let mut theatre = Theatre::new(&universe);
            let events = [
                Happening::HandRegister(20, stale - 1, 0),
                // What is initial is held.
                Happening::Pass(90_000),
                Happening::Quota(stale.into()),
                Happening::Dns(0, (1..=given).collect()),
                Happening::CalmRun,
            ];
            events.iter().for_each(|event| theatre.play(event));
            theatre.calm_down();
        }
    }
}

#[test]
fn rule_16_that_aws_cannot_tell_the_targets_for_a_while_does_not_begin_the_30_s_anew() {
    let universe = RefCell::new(Universe::new(setting(Ownership::Exclusive, 0)));
    let mut theatre = Theatre::new(&universe);
    let events = [
        Happening::HandRegister(3, 0, 0),
        Happening::CalmRun,
        Happening::Pass(20_000),
        Happening::Unavailable(true),
        Happening::CalmRun,
        Happening::Unavailable(false),
        Happening::Pass(11_000),
        // It would be held for too long.
        Happening::CalmRun,
    ];
    events.iter().for_each(|event| theatre.play(event));
}
