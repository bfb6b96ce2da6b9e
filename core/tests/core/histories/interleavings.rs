//! Every order in which two runs can take their steps, and every step at which one can be killed or AWS can fail it.

use nlb_hostname_targets_core::{binding::Ownership, tags::Tags};

use crate::universe::{Fault, Happening, How, Kind, Setting, Stage, Universe, target};

fn setting(ownership: Ownership, grace: u32) -> Setting {
    Setting { ownership, grace: Some(grace), ..Setting::of(Kind::Instance) }
}

/// Lets two runs that begin after `before` take their steps in every order until both have ended, and returns how many
/// orders there are. Earlier runs wrote these tags.
fn interleave(
    setting: Setting,
    actors: [usize; 2],
    tags: &[(&str, &str)],
    before: &[Happening],
    after: impl Fn(&Universe),
) -> usize {
    let key = |rest: &str| format!("nlb-hostname-targets:{rest}");
    let tags: Tags = tags.iter().map(|(rest, value)| (key(rest), (*value).to_owned())).collect();
    // Which of the two goes on at each step, as far as there was a choice.
    let mut choices: Vec<bool> = Vec::new();
    for number in 1.. {
        let mut stage = Stage::new(setting);
        stage.change().write_tags(&tags);
        before.iter().for_each(|event| stage.play(event));
        actors.iter().for_each(|actor| stage.play(&Happening::Begin(*actor, How::Full, 0)));
        let mut step = 0;
        while stage.is_running(actors[0]) && stage.is_running(actors[1]) {
            if step == choices.len() {
                choices.push(false);
            }
            stage.request(actors[usize::from(choices[step])]);
            step += 1;
        }
        for actor in actors {
            while stage.is_running(actor) {
                stage.request(actor);
            }
        }
        after(&stage.now());
        // That they end where one would, some orders show.
        if number % 20 == 1 {
            stage.calm_down();
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

fn told(first: u8, second: u8) -> [Happening; 2] {
    [Happening::Told(0, Some([first].into())), Happening::Told(1, Some([second].into()))]
}

#[test]
fn rule_09_in_whatever_order_two_runs_take_their_steps_no_ownership_is_lost() {
    let tags = [("owned/10.0.0.12_5432/one", "used"), ("owned/10.0.0.13_5432/one", "1763801990.000")];
    let before = [&[Happening::HandRegister(12, 1, 0)][..], &told(10, 11)].concat();
    let orders = interleave(setting(Ownership::Shared, 300), [0, 1], &tags, &before, |universe| {
        let owners = universe.group.tags();
        for host in 10..14 {
            assert!(owners.contains_key(&format!("nlb-hostname-targets:owned/10.0.0.{host}_5432/one")), "{owners:?}");
        }
    });
    assert!(orders > 200, "{orders}");
}

#[test]
fn rule_09_in_whatever_order_two_functions_take_their_steps_no_ownership_is_lost() {
    let tags = ["1_5432/one", "2_5432/one", "2_5432/two", "3_5432/two"].map(|rest| format!("owned/10.0.0.{rest}"));
    let tags: Vec<_> = tags.iter().map(|key| (key.as_str(), "used")).collect();
    // Each takes up what the other one lets go.
    let before = [Happening::HandRegister(1, 2, 0), Happening::Dns(0, [3, 4].into()), Happening::Dns(2, [1, 5].into())];
    for grace in [0, 300] {
        let orders = interleave(setting(Ownership::Shared, grace), [0, 2], &tags, &before, |universe| {
            let wanted = [1, 3, 4, 5].map(|host| target(host, 0));
            assert!(wanted.iter().all(|target| universe.group.registered().contains(target)));
        });
        assert!(orders > 200, "{orders}");
    }
}

#[test]
fn rule_09_in_whatever_order_two_runs_take_their_steps_no_missing_target_is_forgotten() {
    let tags = [("missing/10.0.0.12_5432", "1763801995.000")];
    let before = [&[Happening::HandRegister(10, 3, 0)][..], &told(10, 11)].concat();
    let orders = interleave(setting(Ownership::Exclusive, 300), [0, 1], &tags, &before, |universe| {
        let since = |host| universe.group.tags().get(&format!("nlb-hostname-targets:missing/10.0.0.{host}_5432"));
        assert_eq!(since(12).map(String::as_str), Some("1763801995.000"));
        assert!(since(13).is_some());
    });
    assert!(orders > 50, "{orders}");
}

#[test]
fn rule_09_in_whatever_order_two_runs_with_different_answers_take_their_steps_a_target_stays_registered() {
    let registered = [Happening::HandRegister(10, 2, 0), Happening::Pass(90_000)];
    let before = [&registered[..], &told(10, 11)].concat();
    let orders = interleave(setting(Ownership::Exclusive, 0), [0, 1], &[], &before, |universe| {
        assert!(!universe.group.registered().is_empty(), "each has deregistered what the other one needs");
    });
    assert!(orders > 200, "{orders}");
}

/// A run that has both to register and to deregister takes so many steps. Returned is whether it has ended.
fn begin_a_change(stage: &mut Stage, steps: u8) -> bool {
    let events = [
        Happening::HandRegister(3, 1, 0),
        Happening::CalmRun,
        Happening::Pass(90_000),
        Happening::Dns(0, [1, 2].into()),
        Happening::Begin(0, How::Full, 0),
        Happening::Go(0, steps),
    ];
    events.iter().for_each(|event| stage.play(event));
    assert!(steps > 10 || stage.is_running(0), "it has some steps to take");
    !stage.is_running(0)
}

#[test]
fn rule_09_a_run_that_is_killed_at_any_step_is_repaired_by_the_next() {
    for (ownership, grace) in [Ownership::Exclusive, Ownership::Shared].map(|it| [(it, 0), (it, 60)]).concat() {
        for fault in [Fault::None, Fault::LostReply, Fault::Partial(1)] {
            for killed_after in 0.. {
                let mut stage = Stage::new(setting(ownership, grace));
                let has_ended = begin_a_change(&mut stage, killed_after);
                [Happening::Step(0, fault), Happening::Kill(0)].iter().for_each(|event| stage.play(event));
                stage.calm_down();
                if has_ended {
                    break;
                }
            }
        }
    }
}

#[test]
fn rule_18_from_whatever_step_on_aws_cannot_tell_the_targets_nothing_goes() {
    for ownership in [Ownership::Exclusive, Ownership::Shared] {
        for step in 0.. {
            let mut stage = Stage::new(setting(ownership, 0));
            let has_ended = begin_a_change(&mut stage, step);
            // What is known is old by now, and asked for again.
            let events = [Happening::Pass(2500), Happening::Unavailable(true), Happening::Go(0, u8::MAX)];
            events.iter().for_each(|event| stage.play(event));
            stage.calm_down();
            if has_ended {
                break;
            }
        }
    }
}

#[test]
fn rule_01_however_much_room_is_needed_no_group_is_emptied_and_what_fits_gets_in() {
    for (stale, given, more) in
        (1..=5).flat_map(|stale| (1..=5).flat_map(move |given| [0, 1, 2].map(|more| (stale, given, more))))
    {
        let mut stage = Stage::new(setting(Ownership::Exclusive, 0));
        let quota = usize::from(stale) + more;
        let events = [
            Happening::HandRegister(20, stale - 1, 0),
            Happening::Quota(quota),
            Happening::Dns(0, (1..8).take(given).collect()),
        ];
        events.iter().for_each(|event| stage.play(event));
        for _ in 0..12 {
            // What is initial is held, and what drains takes room.
            [Happening::Pass(310_000), Happening::CalmRun, Happening::CalmRun]
                .iter()
                .for_each(|event| stage.play(event));
            assert!(!stage.now().group.registered().is_empty());
        }
        let desired = (1..8).take(given).map(|host| target(host, 0)).collect();
        let registered = stage.now().group.registered();
        let is_last = quota == 1;
        assert!(is_last || registered.is_subset(&desired), "{stale} {given} {quota}: {registered:?}");
        assert_eq!(registered.len(), given.min(quota), "{stale} {given} {quota}: {registered:?}");
    }
}
