use std::collections::{BTreeMap, BTreeSet};

use nlb_hostname_targets::{
    plan::{Desired, Known, Plan},
    policy::{Ownership, Policy},
    sampling::Absence,
    state::{State, Timestamp},
    tags::{MOST_TAGS, Notation, Tags},
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
    let shared = notation(Ownership::Shared);
    let (state, unreadable) = shared.read(&tags);
    unreadable.iter().for_each(|warning| assert_one_line(warning));
    let ours: Tags = tags.into_iter().filter(|(key, _)| shared.is_ours(key)).collect();
    // What other functions own is read as well.
    let state_of_ours = State { elsewhere: state.elsewhere.clone(), ..shared.read(&ours).0 };
    assert_eq!(state_of_ours, state, "a foreign tag was read");
    for (key, value) in &ours {
        let (alone, _) = shared.read(&[(key.clone(), value.clone())].into());
        let goes_earlier = alone.missing.iter().any(|(target, since)| state.missing.get(target) < Some(since));
        assert!(!goes_earlier, "another tag than {key} lets a target go earlier");
    }
    assert!(state.missing.values().all(|since| *since >= IN_2020), "a time before this function was written");

    for (ownership, state) in [
        (Ownership::Exclusive, State { missing: state.missing.clone(), ..State::default() }),
        (Ownership::Shared, State { elsewhere: BTreeMap::new(), ..state.clone() }),
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

fn notation(ownership: Ownership) -> Notation<'static> {
    Notation { function: "orders", ownership }
}

/// The tags that say this where there is room for so many, and how many targets found no place.
fn write(state: &State, ownership: Ownership, room: usize) -> (Tags, usize) {
    let foreign: Tags = (room..MOST_TAGS).map(|number| (format!("foreign-{number}"), String::new())).collect();
    let (changes, left_out) = notation(ownership).changes(&foreign, state, NOW, 4711);
    assert!(changes.remove.is_empty());
    (changes.add, left_out)
}

/// What is written is what is read again, and Elastic Load Balancing takes it.
fn assert_comes_back(state: &State, ownership: Ownership) {
    let targets: BTreeSet<_> = state.missing.keys().chain(&state.owned).collect();
    for room in [0, 1, 2, 50] {
        let (tags, left_out) = write(state, ownership, room);
        assert!(tags.len() <= room);
        for (key, value) in &tags {
            assert!(
                notation(ownership).is_ours(key)
                    && key.chars().count() <= 127
                    && (1..=255).contains(&value.chars().count())
            );
            let plain = |c: char| c.is_ascii_alphanumeric() || " _.:/=+-@".contains(c);
            assert!(key.chars().chain(value.chars()).all(plain), "{key} = {value}");
        }
        let (again, unreadable) = notation(ownership).read(&tags);
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
    let (tags, _) = write(state, ownership, MOST_TAGS);
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
        let (again, _) = notation(ownership).read(&damaged);
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
    let desired = |targets: &[Target], is_complete| Desired {
        targets: targets.iter().copied().collect(),
        refused: BTreeSet::new(),
        is_complete,
    };
    let absent_since = BTreeMap::new();
    let plan = |desired| {
        let known = Known {
            listed: &listed,
            state: Some(state),
            policy,
            absent_since: &absent_since,
            last_seen: &absent_since,
            absence: |_: &Target| Absence::Gone { since: NOW },
            began: NOW,
            now: NOW,
        };
        Plan::new(&desired, &known)
    };
    for uncertain in [desired(&[given], false), desired(&[], true)] {
        assert!(plan(uncertain).deregister.is_empty());
    }
    let plan = plan(desired(&[given], true));
    let going: BTreeSet<_> = plan.deregister.iter().map(|shown| shown.target).collect();
    let grace = u64::from(policy.deregister_after_seconds) * 1000;
    let is_due = |target: &Target| {
        grace == 0 || state.missing.get(target).is_some_and(|since| since.0.saturating_add(grace) <= NOW.0)
    };
    let is_ours = |target: &Target| {
        !policy.is_shared() || (state.owned.contains(target) && !state.elsewhere.contains_key(target))
    };
    let expected: BTreeSet<_> = [gone, other].into_iter().filter(|target| is_ours(target) && is_due(target)).collect();
    assert_eq!(going, expected);
    // The time that is left is never more than the grace period, however the clocks were set.
    assert!(plan.held.values().filter_map(|hold| hold.until).all(|until| until > NOW && until.0 <= NOW.0 + grace));
    let written = State { elsewhere: BTreeMap::new(), ..plan.state };
    assert_comes_back(&written, policy.ownership);
}

/// In milliseconds since the epoch.
const IN_2020: Timestamp = Timestamp(1_577_836_800_000);

/// As the seeds have it.
const NOW: Timestamp = Timestamp(1_763_802_300_000);
