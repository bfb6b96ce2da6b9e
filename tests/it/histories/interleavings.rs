//! Every order in which two runs can take their steps, and every step at which one can be killed.

use std::cell::RefCell;

use nlb_hostname_targets::policy::Ownership;
use support::histories::{Fault, Happening, How, Kind, Setting, Theatre, Universe};

fn setting(ownership: Ownership, grace: u32) -> Setting {
    let kind = Kind::Instance;
    Setting { kind, has_two_names: false, ownership, grace: Some(grace), lookups: None, caches: 0, ttl: 1, seed: 0 }
}

/// Lets two runs that begin after `before` take their steps in every order, and returns how many orders there are.
fn interleave(setting: Setting, actors: [usize; 2], before: &[Happening]) -> usize {
    // Which of the two goes on at each step, as far as there was a choice.
    let mut choices: Vec<bool> = Vec::new();
    for number in 1.. {
        let universe = RefCell::new(Universe::new(setting));
        let mut theatre = Theatre::new(&universe);
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

/// A run of each actor to its end.
fn run(actors: [usize; 2]) -> Vec<Happening> {
    let run = |actor| [Happening::Begin(actor, How::Full, 0), Happening::Go(actor, 40)];
    actors.into_iter().flat_map(run).collect()
}

#[test]
fn rule_09_in_whatever_order_two_runs_take_their_steps_no_ownership_is_lost() {
    let told = |one, other| [Happening::Told(0, Some([one].into())), Happening::Told(1, Some([other].into()))];
    let kills = [Happening::Kill(0), Happening::Kill(1)];
    let before = told(12, 12).into_iter().chain(run([0, 1])).chain(told(10, 11)).chain(kills);
    // Each makes seven requests: the facts, DNS, the targets, the tags, then it adds and removes tags, and registers.
    let orders = interleave(setting(Ownership::Shared, 600), [0, 1], &before.collect::<Vec<_>>());
    assert_eq!(orders, 3432);
}

#[test]
fn rule_09_in_whatever_order_two_functions_take_their_steps_no_ownership_is_lost() {
    let given = |one: &[u8], other: &[u8]| {
        let hosts = |given: &[u8]| given.iter().copied().collect();
        [Happening::Dns(0, hosts(one)), Happening::Dns(2, hosts(other))]
    };
    // Each takes up what the other one lets go.
    let before = given(&[1, 2], &[2, 3]).into_iter().chain(run([0, 2])).chain(given(&[3, 4], &[1, 4]));
    // Six requests, since the facts are known.
    let orders = interleave(setting(Ownership::Shared, 600), [0, 2], &before.collect::<Vec<_>>());
    assert_eq!(orders, 924);
}

#[test]
fn rule_09_a_run_that_is_killed_at_any_step_is_repaired_by_the_next() {
    for ownership in [Ownership::Exclusive, Ownership::Shared] {
        for grace in [0, 60] {
            for fault in [Fault::None, Fault::LostReply] {
                for killed_after in 0.. {
                    let universe = RefCell::new(Universe::new(setting(ownership, grace)));
                    let mut theatre = Theatre::new(&universe);
                    let before = [
                        Happening::HandRegister(3, 1, 0),
                        Happening::CalmRun,
                        Happening::Pass(90_000),
                        Happening::Dns(0, [1, 2].into()),
                        Happening::Begin(0, How::Full, 0),
                        Happening::Go(0, killed_after),
                    ];
                    before.iter().for_each(|event| theatre.play(event));
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
