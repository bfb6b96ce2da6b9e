//! Random histories, as proptest draws them.

use std::collections::BTreeSet;

use nlb_hostname_targets_core::{binding::Ownership, tags::MOST_TAGS};
use proptest::{collection::vec, prelude::*};

use super::{Fault, Happening, History, How, Kind, PUBLIC, Setting};

fn ownership() -> impl Strategy<Value = Ownership> {
    prop_oneof![Just(Ownership::Exclusive), Just(Ownership::Shared)]
}

fn grace() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![3 => Just(None), 1 => Just(Some(0)), 2 => Just(Some(60)), 2 => Just(Some(300))]
}

fn lookups() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![6 => Just(None), 2 => Just(Some(1)), 1 => Just(Some(3))]
}

pub fn setting() -> impl Strategy<Value = Setting> {
    let second = prop_oneof![3 => Just(None), 1 => Just(Some(0)), 2 => Just(Some(1))];
    let caches = prop_oneof![3 => Just(0_usize), 1 => Just(1), 1 => Just(3)];
    let ttl = prop_oneof![3 => Just(1_u64), 3 => Just(5), 2 => Just(60)];
    let times = (ttl.clone(), ttl);
    (kind(), second, ownership(), grace(), lookups(), caches, times, any::<u64>()).prop_map(
        |(kind, second, ownership, grace, lookups, caches, (ttl, longest_ttl), seed)| Setting {
            kind,
            second,
            ownership,
            grace,
            lookups,
            caches,
            ttl,
            longest_ttl,
            seed,
        },
    )
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        1 => Just(Kind::Balancer),
        1 => Just(Kind::Chained),
        4 => Just(Kind::Instance),
        3 => Just(Kind::Plain),
        2 => Just(Kind::Reader),
        1 => Just(Kind::Rotating),
    ]
}

fn hosts(most: usize) -> impl Strategy<Value = BTreeSet<u8>> {
    let public = PUBLIC[0]..=PUBLIC[1];
    prop::collection::btree_set(prop_oneof![4 => 0..8_u8, 1 => public], 0..=most)
}

fn how() -> impl Strategy<Value = How> {
    prop_oneof![6 => Just(How::Full), 1 => Just(How::DryRun), 2 => (5..45_u8).prop_map(How::Watch)]
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        8 => Just(Fault::None),
        1 => Just(Fault::Denied),
        1 => Just(Fault::Failed),
        2 => Just(Fault::LostReply),
        1 => Just(Fault::Never),
        1 => (0..3_u8).prop_map(Fault::Partial),
        1 => Just(Fault::Unavailable),
    ]
}

/// What becomes of DNS, of the targets and of the runs.
pub fn ordinary() -> impl Strategy<Value = Happening> {
    let port = prop_oneof![6 => Just(0_usize), 1 => Just(1), 1 => Just(2)];
    let port = move || port.clone();
    prop_oneof![
        4 => Just(Happening::CalmRun),
        4 => (0..3_usize, hosts(5)).prop_map(|(name, hosts)| Happening::Dns(name, hosts)),
        1 => (0..2_usize, prop::option::of(hosts(5))).prop_map(|(actor, hosts)| Happening::Told(actor, hosts)),
        1 => hosts(3).prop_map(Happening::Dead),
        1 => Just(Happening::Drained),
        1 => (0..3_usize).prop_map(Happening::Kill),
        2 => (0..16_u8, port()).prop_map(|(host, port)| Happening::HandDeregister(host, port)),
        2 => (prop_oneof![8 => 0..16_u8, 1 => Just(PUBLIC[0])], 0..3_u8, port())
            .prop_map(|(from, number, port)| Happening::HandRegister(from, number, port)),
        1 => (10..60_u8, 20..40_u8, port()).prop_map(|(from, number, port)| Happening::HandRegister(from, number, port)),
        3 => (1..3000_u64).prop_map(Happening::Pass),
        2 => (1..400_000_u64).prop_map(Happening::Pass),
        4 => (0..3_usize, how(), 0..6_usize).prop_map(|(actor, how, order)| Happening::Begin(actor, how, order)),
        12 => (0..3_usize, fault()).prop_map(|(actor, fault)| Happening::Step(actor, fault)),
        16 => (0..3_usize, 1..16_u8).prop_map(|(actor, steps)| Happening::Go(actor, steps)),
    ]
}

/// And what AWS refuses, lags and can't tell.
pub fn refusals() -> impl Strategy<Value = Happening> {
    prop_oneof![
        2 => (0..6000_u64).prop_map(Happening::Lag),
        1 => hosts(3).prop_map(Happening::NotDeregistrable),
        2 => hosts(3).prop_map(Happening::NotRegistrable),
        2 => prop_oneof![1..8_usize, Just(1000)].prop_map(Happening::Quota),
        2 => any::<bool>().prop_map(Happening::Unavailable),
    ]
}

/// And what others do to the tags and to the clock, and operators to the settings.
pub fn extraordinary() -> impl Strategy<Value = Happening> {
    let spoilt = prop::sample::select(vec!["", " ", "used", "176380200", "1763802000x", "1763802000.2", "released"]);
    prop_oneof![
        1 => (1..1000_u32).prop_map(Happening::ClockBack),
        2 => (prop::option::of(any::<usize>()), prop::option::of(spoilt))
            .prop_map(|(which, spoilt)| Happening::Tampered(which, spoilt)),
        1 => (0..=MOST_TAGS).prop_map(Happening::OthersTags),
    ]
}

pub fn settings() -> impl Strategy<Value = Happening> {
    (ownership(), grace(), lookups())
        .prop_map(|(ownership, grace, lookups)| Happening::Settings(ownership, grace, lookups))
}

pub fn history(event: impl Strategy<Value = Happening>) -> impl Strategy<Value = History> {
    vec(event, 0..60).prop_map(History)
}
