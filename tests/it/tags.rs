//! How state is written into tags, row by row. Pure; what must hold of any tags is in `fuzz/checks/state.rs`.

use std::collections::BTreeMap;

use nlb_hostname_targets::{
    policy::Ownership::{self, Exclusive, Shared},
    state::{State, Timestamp},
    tags::{Field, MOST_TAGS, Notation, Subject, TagChanges, Tags},
    target::Target,
};

const NOW: Timestamp = Timestamp(1_763_802_300_000);

const SINCE: &str = "1763802000.250";

fn notation(ownership: Ownership) -> Notation<'static> {
    Notation { function: "orders", ownership }
}

fn target(host: u8) -> Target {
    Target { address: [10, 0, 1, host].into(), port: 5432.try_into().unwrap() }
}

fn tags<const N: usize>(entries: [(&str, &str); N]) -> Tags {
    entries.into_iter().map(|(key, value)| (format!("nlb-hostname-targets:{key}"), value.to_owned())).collect()
}

fn missing(hosts: impl IntoIterator<Item = u8>) -> State {
    State {
        missing: hosts.into_iter().map(|host| (target(host), Timestamp(1_763_802_000_250))).collect(),
        ..State::default()
    }
}

fn owned(hosts: impl IntoIterator<Item = u8>) -> State {
    State { owned: hosts.into_iter().map(target).collect(), ..State::default() }
}

fn changes(ownership: Ownership, present: &Tags, state: &State) -> (TagChanges, usize) {
    notation(ownership).changes(present, state, NOW, 4711)
}

#[test]
fn each_form_of_a_tag_is_read() {
    let waiting = format!("10.0.1.8_5432@{SINCE}");
    let released = format!("10.0.1.8_5432@{SINCE}/released");
    let elsewhere = |host| State { elsewhere: [(target(host), "bills".to_owned())].into(), ..State::default() };
    let since = missing([8]).missing;
    for (ownership, key, value, expected) in [
        (Exclusive, "missing-1", waiting.as_str(), missing([8])),
        (Exclusive, "missing-1", "fd00::8_5432", State::default()),
        // What was written under the other ownership.
        (Exclusive, "owned-1763802000.250-7/orders", &waiting, missing([8])),
        (Shared, "missing-1", &waiting, State { missing: since.clone(), ..owned([8]) }),
        (Shared, "owned-1763802000.250-7/orders", "10.0.1.8_5432 10.0.1.9_5432", owned([8, 9])),
        (Shared, "owned-1763802000.250-7/orders", &waiting, State { missing: since.clone(), ..owned([8]) }),
        (
            Shared,
            "owned-1763802000.250-7/orders",
            &released,
            State { missing: since, released: [target(8)].into(), ..owned([8]) },
        ),
        // Before keys had a name.
        (Shared, "owned-1763802000.250-7", "10.0.1.8_5432", owned([8])),
        // Of another function.
        (Shared, "owned-1763802000.250-7/bills", &waiting, elsewhere(8)),
        (Shared, "owned-1763802000.250-7/bills", &released, State::default()),
    ] {
        let (state, unreadable) = notation(ownership).read(&tags([(key, value)]));
        assert_eq!((state, unreadable), (expected, vec![]), "{ownership:?} {key} = {value}");
    }
}

#[test]
fn what_can_not_be_read_is_named_and_counts_as_empty() {
    for value in ["10.0.1.8", "10.0.1.8_0", "10.0.1.8_5432@", "10.0.1.8_5432@12", "x_5432", "10.0.1.8:5432"] {
        let (state, unreadable) = notation(Exclusive).read(&tags([("missing-1", value)]));
        assert_eq!(state, State::default(), "{value}");
        assert!(
            unreadable[0].contains("nlb-hostname-targets:missing-1") && unreadable[0].contains(value),
            "{unreadable:?}"
        );
    }
}

#[test]
fn of_two_times_the_later_one_counts() {
    let two = [("missing-1", "10.0.1.8_5432@1763802000.250"), ("missing-2", "10.0.1.8_5432@1763802100.000")];
    let (state, _) = notation(Exclusive).read(&tags(two));
    assert_eq!(state.missing, BTreeMap::from([(target(8), Timestamp(1_763_802_100_000))]));
}

#[test]
fn a_key_tells_what_its_tag_is_about() {
    for (key, subject) in [
        ("hostname", Some(Subject::Binding(Field::Hostnames))),
        ("hostname-2", Some(Subject::Binding(Field::Hostnames))),
        ("hostname-", Some(Subject::Unknown)),
        ("port", Some(Subject::Binding(Field::Port))),
        ("ownership", Some(Subject::Binding(Field::Ownership))),
        ("lookups", Some(Subject::Binding(Field::Lookups))),
        ("deregister-after-seconds", Some(Subject::Binding(Field::DeregisterAfterSeconds))),
        ("missing-1", Some(Subject::State)),
        ("owned-1763802000.250-7/orders", Some(Subject::State)),
        ("owned-x/orders", Some(Subject::Unknown)),
        ("Missing-1", Some(Subject::Unknown)),
    ] {
        assert_eq!(Subject::of(&format!("nlb-hostname-targets:{key}")), subject, "{key}");
    }
    assert_eq!(Subject::of("Name"), None);
}

#[test]
fn an_exclusive_group_has_its_tags_in_a_row() {
    let value = format!("10.0.1.8_5432@{SINCE}");
    let (new, left_out) = changes(Exclusive, &Tags::new(), &missing([8]));
    assert_eq!((new.add, new.remove, left_out), (tags([("missing-1", value.as_str())]), vec![], 0));
    // It says so already.
    assert!(changes(Exclusive, &tags([("missing-1", value.as_str())]), &missing([8])).0.is_empty());
    // It says too much: what goes is emptied first, so that a run that is killed leaves no old time.
    let (less, _) =
        changes(Exclusive, &tags([("missing-1", "10.0.1.9_5432"), ("missing-2", value.as_str())]), &missing([8]));
    assert_eq!(less.add, tags([("missing-1", value.as_str()), ("missing-2", "")]));
    assert_eq!(less.remove, ["nlb-hostname-targets:missing-2"]);
    // Nothing is to be remembered.
    let (none, _) = changes(Exclusive, &tags([("missing-1", value.as_str())]), &State::default());
    assert_eq!((none.add, none.remove), (Tags::new(), vec!["nlb-hostname-targets:missing-1".to_owned()]));
}

#[test]
fn a_shared_group_gets_a_tag_of_a_new_key_and_then_loses_the_old_ones() {
    let old = tags([("owned-1763802000.000-1/orders", "10.0.1.8_5432")]);
    let (change, _) = changes(Shared, &old, &owned([8, 9]));
    assert_eq!(
        change.add,
        tags([
            ("owned-1763802000.000-1/orders", ""),
            ("owned-1763802300.000-4711/orders", "10.0.1.8_5432 10.0.1.9_5432")
        ])
    );
    assert_eq!(change.remove, ["nlb-hostname-targets:owned-1763802000.000-1/orders"]);
    // A clock that is behind that of another run writes a newer key all the same.
    let ahead = tags([("owned-1763802999.000-1/orders", "10.0.1.8_5432")]);
    let (change, _) = changes(Shared, &ahead, &owned([9]));
    assert!(change.add.contains_key("nlb-hostname-targets:owned-1763802999.001-4711/orders"), "{change:?}");
    // Tags of others are never touched, whatever they say.
    let others = tags([("owned-1763802000.000-1/bills", "10.0.1.8_5432"), ("hostname", "db.example.com")]);
    assert!(changes(Shared, &others, &State::default()).0.is_empty());
}

#[test]
fn values_keep_within_255_characters_and_tags_within_50() {
    let (change, left_out) = changes(Exclusive, &Tags::new(), &missing(0..=255));
    assert_eq!(left_out, 0);
    assert!(change.add.len() > 1 && change.add.values().all(|value| value.len() <= 255));

    // Of tags that are somebody else's, AWS's own take no room.
    let mut present: Tags = (0..MOST_TAGS - 1).map(|number| (format!("team-{number}"), String::new())).collect();
    present.extend((0..5).map(|number| (format!("aws:{number}"), String::new())));
    assert_eq!(notation(Exclusive).foreign_tags(&present), MOST_TAGS - 1);
    let mut state = missing(0..=255);
    state.missing.insert(target(200), Timestamp(1_763_801_000_000));
    let (change, left_out) = changes(Exclusive, &present, &state);
    let (kept, _) = notation(Exclusive).read(&change.add);
    assert_eq!((change.add.len(), kept.missing.len() + left_out), (1, 256));
    assert!(kept.missing.contains_key(&target(200)), "what has been missing longest is what counts most");
}
