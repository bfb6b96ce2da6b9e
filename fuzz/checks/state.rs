use std::collections::{BTreeMap, BTreeSet};

use nlb_hostname_targets::{
    binding::Ownership,
    plan::{Desired, Plan, Policy},
    state::{State, Tags, Timestamp, is_ours},
    target::{RegisteredTarget, Target, TargetState},
};

use super::assert_one_line;

/// The input is a byte that tells where a written tag is damaged, then the tags of a target group:
/// `key=value`, with zero bytes between them.
pub fn state(input: &[u8]) {
    let Some((damage, tags)) = input.split_first() else { return };
    let tags: Tags = tags
        .split(|byte| *byte == 0)
        .filter_map(|tag| String::from_utf8_lossy(tag).split_once('=').map(|(key, value)| (key.into(), value.into())))
        // Elastic Load Balancing takes none.
        .filter(|(key, value): &(String, String)| !key.chars().chain(value.chars()).any(char::is_control))
        .collect();
    let (state, unreadable) = State::read(&tags);
    unreadable.iter().for_each(|warning| assert_one_line(warning));
    let ours: Tags = tags.into_iter().filter(|(key, _)| is_ours(key)).collect();
    assert_eq!(State::read(&ours).0, state, "a foreign tag was read");
    for (key, value) in &ours {
        let (alone, _) = State::read(&[(key.clone(), value.clone())].into());
        let goes_earlier = alone.missing.iter().any(|(target, since)| state.missing.get(target) < Some(since));
        assert!(!goes_earlier, "another tag than {key} lets a target go earlier");
    }
    assert!(state.missing.values().all(|since| *since >= IN_2020), "a time before this function was written");

    for (ownership, state) in [
        (Ownership::Exclusive, State { owned: BTreeSet::new(), ..state.clone() }),
        (Ownership::Shared, State { owned: &state.owned | &state.missing.keys().copied().collect(), ..state.clone() }),
    ] {
        assert_comes_back(&state, ownership);
        assert_damage_delays(&state, ownership, usize::from(*damage));
    }
    for ownership in [Ownership::Exclusive, Ownership::Shared] {
        for grace in [0, 300] {
            assert_does_no_harm(&state, Policy { ownership, deregister_after_seconds: grace });
        }
    }
}

/// What is written is what is read again, and Elastic Load Balancing takes it.
fn assert_comes_back(state: &State, ownership: Ownership) {
    let targets: BTreeSet<_> = state.missing.keys().chain(&state.owned).collect();
    for room in [0, 1, 2, 50] {
        let (tags, left_out) = state.write(ownership, room);
        assert!(tags.len() <= room);
        for (key, value) in &tags {
            assert!(is_ours(key) && key.chars().count() <= 127 && (1..=255).contains(&value.chars().count()));
            let plain = |c: char| c.is_ascii_alphanumeric() || " _.:/=+-@".contains(c);
            assert!(key.chars().chain(value.chars()).all(plain), "{key} = {value}");
        }
        let (again, unreadable) = State::read(&tags);
        assert_eq!(unreadable, Vec::<String>::new());
        let kept: BTreeSet<_> = again.missing.keys().chain(&again.owned).collect();
        assert_eq!(kept.len() + left_out, targets.len());
        assert!(again.missing.iter().all(|(target, since)| state.missing.get(target) == Some(since)));
        assert!(again.owned.is_subset(&state.owned));
        if left_out == 0 {
            assert_eq!(again, *state);
        }
    }
}

/// A tag that lost a character, or all behind it, never says that a target has been missing for
/// longer than it has; but for the fraction of a second.
fn assert_damage_delays(state: &State, ownership: Ownership, position: usize) {
    let (tags, _) = state.write(ownership, 50);
    let damaged = |change: fn(&str, &str) -> String| -> Tags {
        let mut damaged = tags.clone();
        // One tag only: two may lose a target and name it again.
        if let Some((_, value)) = damaged.iter_mut().nth(position % tags.len().max(1)) {
            let (before, behind) = value.split_at(position % value.len());
            *value = change(before, behind);
        }
        damaged
    };
    let without_one = damaged(|before, behind| format!("{before}{}", behind.get(1..).unwrap_or_default()));
    let cut_short = damaged(|before, _| before.to_owned());
    for damaged in [without_one, cut_short] {
        let (again, _) = State::read(&damaged);
        for (target, since) in &again.missing {
            // One that lies ahead counts as now.
            let written = state.missing.get(target).filter(|written| **written <= NOW);
            assert!(
                written.is_none_or(|written| written.0 < since.0.saturating_add(1000)),
                "{target} goes too early: {damaged:?}"
            );
        }
    }
}

/// Whatever the tags say, what DNS gives stays, a foreign target stays, and what is missing goes
/// after its time.
fn assert_does_no_harm(state: &State, policy: Policy) {
    let [given, gone, other]: [Target; 3] = ["10.0.1.10", "10.0.1.8", "fd00::8"].map(|address| Target {
        address: address.parse().expect("an address"),
        port: std::num::NonZeroU16::MIN.saturating_add(5431),
    });
    let listed = [given, gone, other].map(|target| RegisteredTarget {
        target,
        id: target.address.to_string(),
        availability_zone: None,
        state: TargetState::Healthy,
    });
    let desired = |targets: &[Target], complete| Desired {
        targets: targets.iter().copied().collect(),
        refused: BTreeSet::new(),
        complete,
    };
    let plan = |desired| Plan::new(&desired, &listed, state, policy, NOW, NOW);
    for uncertain in [desired(&[given], false), desired(&[], true)] {
        assert!(plan(uncertain).deregister.is_empty());
    }
    let plan = plan(desired(&[given], true));
    let going: BTreeSet<_> = plan.deregister.iter().map(|shown| shown.target).collect();
    let grace = u64::from(policy.deregister_after_seconds) * 1000;
    let is_due = |target: &Target| {
        grace == 0 || state.missing.get(target).is_some_and(|since| since.0.saturating_add(grace) <= NOW.0)
    };
    let is_ours = |target: &Target| policy.ownership == Ownership::Exclusive || state.owned.contains(target);
    let expected: BTreeSet<_> = [gone, other].into_iter().filter(|target| is_ours(target) && is_due(target)).collect();
    assert_eq!(going, expected);
    // The time that is left is never more than the grace period, however the clocks were set.
    let waiting: &BTreeMap<_, Timestamp> = &plan.waiting;
    assert!(waiting.values().all(|since| *since <= NOW && since.0 + grace > NOW.0));
    assert_comes_back(&plan.state, policy.ownership);
}

/// In milliseconds since the epoch.
const IN_2020: Timestamp = Timestamp(1_577_836_800_000);

/// As the seeds have it.
const NOW: Timestamp = Timestamp(1_763_802_300_000);
