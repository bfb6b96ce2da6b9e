use std::collections::BTreeSet;

use nlb_hostname_targets_core::{
    clock::Timestamp,
    tags::{MOST_TAGS, State, Tags, is_own},
};

/// The input is a byte that tells where a written tag is damaged, then the tags of a target group: `key=value`, with zero
/// bytes between them.
pub fn state(input: &[u8]) {
    let Some((damage, tags)) = input.split_first() else { return };
    let tags: Tags = tags
        .split(|byte| *byte == 0)
        .filter_map(|tag| String::from_utf8_lossy(tag).split_once('=').map(|(key, value)| (key.into(), value.into())))
        // Elastic Load Balancing takes none.
        .filter(|(key, value): &(String, String)| !key.chars().chain(value.chars()).any(char::is_control))
        .collect();
    let (state, unreadable) = State::read(&tags, FUNCTION);
    let is_line = |warning: &String| !warning.is_empty() && !warning.chars().any(char::is_control);
    assert!(unreadable.iter().all(is_line), "{unreadable:?}");
    assert!(state.missing.values().all(|since| *since >= IN_2020), "a time before this function was written");
    let ours: Tags = tags.into_iter().filter(|(key, _)| is_own(key, FUNCTION)).collect();
    // What other functions own is read as well.
    let state_of_ours = State { elsewhere: state.elsewhere.clone(), ..State::read(&ours, FUNCTION).0 };
    assert_eq!(state_of_ours, state, "a foreign tag was read");
    for (key, value) in &ours {
        let (alone, _) = State::read(&[(key.clone(), value.clone())].into(), FUNCTION);
        let goes_earlier = alone.missing.iter().any(|(target, since)| state.missing.get(target) < Some(since));
        assert!(!goes_earlier, "another tag than {key} lets a target go earlier");
    }
    let exclusive = State { missing: state.missing.clone(), rotating: state.rotating.clone(), ..State::default() };
    let mut shared = State { elsewhere: BTreeSet::new(), ..state };
    // In a `shared` group, a target that is missing is one of ours.
    shared.missing.retain(|target, _| shared.owned.contains(target));
    for (state, is_shared) in [(exclusive, false), (shared, true)] {
        assert_comes_back(&state, is_shared);
        assert_damage_delays(&state, is_shared, usize::from(*damage));
    }
}

/// The tags that say this where there is room for so many, and how many found no place.
fn write(state: &State, is_shared: bool, room: usize) -> (Tags, usize) {
    let foreign: Tags = (room..MOST_TAGS).map(|number| (format!("foreign-{number}"), String::new())).collect();
    let (changes, left_out) = state.changes(&foreign, is_shared, FUNCTION);
    assert!(changes.remove.is_empty(), "others' tags are touched");
    (changes.add, left_out)
}

/// What is written is what is read again, and Elastic Load Balancing takes it.
fn assert_comes_back(state: &State, is_shared: bool) {
    for room in [0, 1, 2, MOST_TAGS] {
        let (tags, left_out) = write(state, is_shared, room);
        assert!(tags.len() <= room);
        for (key, value) in &tags {
            let is_short = key.chars().count() <= 127 && (1..=255).contains(&value.chars().count());
            let is_plain = |c: char| c.is_ascii_alphanumeric() || " _.:/=+-@".contains(c);
            // How a rotating name is written is the user's.
            let is_plain = key.contains(":rotates/") || key.chars().chain(value.chars()).all(is_plain);
            assert!(is_own(key, FUNCTION) && (is_short || key.contains(":rotates/")) && is_plain, "{key} = {value}");
        }
        let (again, unreadable) = State::read(&tags, FUNCTION);
        assert_eq!(unreadable, Vec::<String>::new());
        assert!(again.missing.iter().all(|(target, since)| state.missing.get(target) == Some(since)));
        assert!(again.owned.is_subset(&state.owned));
        assert!(left_out == 0 || tags.len() == room, "room is left over");
        if left_out == 0 {
            assert_eq!(again, *state);
        }
        let (changes, _) = state.changes(&tags, is_shared, FUNCTION);
        assert!(left_out > 0 || changes.is_empty(), "it is written again: {changes:?}");
    }
}

/// A tag that lost a character, or all behind it, never says that a target has been missing for longer than it has; but for
/// the fraction of a second.
fn assert_damage_delays(state: &State, is_shared: bool, position: usize) {
    let (tags, _) = write(state, is_shared, MOST_TAGS);
    let damaged = |change: fn(&str, &str) -> String| -> Tags {
        let mut damaged = tags.clone();
        if let Some((_, value)) = damaged.iter_mut().nth(position % tags.len().max(1)) {
            let (before, behind) = value.split_at(position % value.len());
            *value = change(before, behind);
        }
        damaged
    };
    let without_one = |before: &str, behind: &str| format!("{before}{}", behind.get(1..).unwrap_or_default());
    for damaged in [damaged(without_one), damaged(|before, _| before.to_owned())] {
        for (target, since) in &State::read(&damaged, FUNCTION).0.missing {
            let written = state.missing.get(target);
            let is_later = written.is_some_and(|written| written.0 < since.0.saturating_add(1000));
            assert!(is_later, "{target} goes too early: {damaged:?}");
        }
    }
}

const FUNCTION: &str = "orders";

/// In milliseconds since the epoch.
const IN_2020: Timestamp = Timestamp(1_577_836_800_000);
