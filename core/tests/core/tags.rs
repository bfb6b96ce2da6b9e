//! How state is written into tags, and read from them.

use std::collections::BTreeSet;

use nlb_hostname_targets_core::{
    clock::Timestamp,
    tags::{Key, State, Tags},
    target::Target,
};

use crate::universe::target;

const PREFIX: &str = "nlb-hostname-targets:";

fn tags(entries: &[(&str, &str)]) -> Tags {
    entries.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect()
}

#[test]
fn each_form_of_a_tag_is_read() {
    let (state, unreadable) = State::read(
        &tags(&[
            ("missing/10.0.0.1_5432", "1763802000.250"),
            ("missing/fd00::1_5432", "1763802000"),
            ("owned/10.0.0.2_5432/one", "used"),
            ("owned/10.0.0.3_5432/one", "1763802000.250"),
            ("owned/10.0.0.4_5432/one", "1763802000.250 released"),
            ("owned/10.0.0.5_5432/two", "1763802000.250"),
            ("owned/10.0.0.6_5432/two", "1763802000.250 released"),
            ("rotates/db.test", "seen"),
            ("hostname", "db.test"),
        ]),
        "one",
    );
    assert_eq!(unreadable, Vec::<String>::new());
    assert_eq!(state.owned, BTreeSet::from([target(2, 0), target(3, 0), target(4, 0)]));
    assert_eq!(state.released, BTreeSet::from([target(4, 0)]));
    assert_eq!(state.elsewhere, BTreeSet::from([target(5, 0)]));
    let fd00 = Target { address: "fd00::1".parse().unwrap(), ..target(1, 0) };
    let missing: BTreeSet<_> = state.missing.keys().copied().collect();
    assert_eq!(missing, BTreeSet::from([target(1, 0), target(3, 0), target(4, 0), fd00]));
    // Where the fraction was cut off, no target goes earlier.
    assert_eq!(state.missing[&fd00], Timestamp(1_763_802_000_999));
    assert_eq!(state.rotating, BTreeSet::from(["db.test".to_owned()]));
}

#[test]
fn what_can_not_be_read_is_named_and_counts_as_empty() {
    for (key, value, word) in [
        ("missing/10.0.0.1_5432", "", "missing/10.0.0.1_5432"),
        ("missing/10.0.0.1_5432", "17638020", "17638020"),
        ("missing/10.0.0.1_5432", "1763802000250", "1763802000250"),
        ("missing/10.0.0.1", "1763802000", "not known"),
        ("mising/10.0.0.1_5432", "1763802000", "not known"),
    ] {
        let (state, unreadable) = State::read(&tags(&[(key, value)]), "one");
        assert_eq!(state, State::default(), "{key} {value}");
        assert!(matches!(&unreadable[..], [text] if text.contains(word)), "{unreadable:?}");
    }
}

#[test]
fn what_is_written_is_read_back_and_a_second_time_changes_nothing() {
    for is_shared in [false, true] {
        let mut state = State::default();
        state.missing.insert(target(1, 0), Timestamp(1_763_802_000_250));
        state.rotating.insert("db.test".to_owned());
        if is_shared {
            state.owned.extend([target(1, 0), target(2, 0)]);
            state.released.insert(target(1, 0));
        }
        let mut written = tags(&[("missing/10.0.0.9_5432", "garbage"), ("owned/10.0.0.1_5432/two", "used")]);
        state.changes(&written, is_shared, "one").0.apply(&mut written);
        let (read, _) = State::read(&written, "one");
        assert_eq!(State { elsewhere: BTreeSet::new(), ..read }, state, "{is_shared}");
        assert!(!written.contains_key("nlb-hostname-targets:missing/10.0.0.9_5432"));
        assert!(written.contains_key("nlb-hostname-targets:owned/10.0.0.1_5432/two"));
        assert!(state.changes(&written, is_shared, "one").0.is_empty(), "{is_shared}");
    }
}

#[test]
fn keys_have_127_characters_at_most() {
    let function = "a".repeat(64);
    let longest =
        Target { address: "2600:1f18:1234:5678:abcd:ef01:2345:6789".parse().unwrap(), port: 65535.try_into().unwrap() };
    let state = State {
        owned: BTreeSet::from([longest]),
        rotating: BTreeSet::from([nlb_hostname_targets_core::tags::rotating_name(
            &format!("{0}.{0}.{0}.test", "b".repeat(63)).try_into().unwrap(),
        )
        .to_owned()]),
        ..State::default()
    };
    let (changes, _) = state.changes(&Tags::new(), true, &function);
    assert_eq!(changes.add.len(), 2);
    assert!(changes.add.keys().all(|key| key.len() <= 127), "{changes:?}");
    let (read, _) = State::read(&changes.add, &function);
    assert_eq!(read.owned, state.owned);
}

#[test]
fn a_key_tells_what_its_tag_is_about() {
    for (key, read) in [
        ("hostname", Key::Hostnames),
        ("hostname-2", Key::Hostnames),
        ("hostname-x", Key::Unknown),
        ("port", Key::Port),
        ("missing/10.0.0.1_5432", Key::Missing(target(1, 0))),
        ("owned/10.0.0.1_5432/one", Key::Owned(target(1, 0), "one")),
        ("rotates/db.test", Key::Rotates("db.test")),
        ("owned/10.0.0.1_5432", Key::Unknown),
    ] {
        assert_eq!(Key::parse(&format!("{PREFIX}{key}")), Some(read), "{key}");
    }
    assert_eq!(Key::parse("team"), None);
}
