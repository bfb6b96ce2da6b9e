//! What the answers of a name tell of the addresses that they lack: properties, and the cases that are named in
//! docs/removal.md. Pure; the simulation is the other half.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use fastrand::Rng;
use nlb_hostname_targets::{
    kind::HostnameKind::{self, AuroraReader, Instance, LoadBalancer, Other, RdsProxy},
    sampling::{Absence, Samples},
    state::Timestamp,
};
use proptest::{prelude::*, test_runner::RngSeed};

/// A name that draws its answers, and what an execution environment made of them.
#[derive(Clone)]
struct Name {
    kind: HostnameKind,
    ttl: u64,
    now: u64,
    samples: Samples,
    /// Registered, and since when tags say that it is missing.
    targets: BTreeMap<IpAddr, Option<Timestamp>>,
}

impl Name {
    fn new(kind: HostnameKind, ttl: u64, hosts: impl IntoIterator<Item = u8>) -> Self {
        let targets = hosts.into_iter().map(|host| (address(host), None)).collect();
        let mut name = Self { kind, ttl, now: 1_763_802_000_000, samples: Samples::new(None, false), targets };
        name.samples.expect(&name.targets, name.at());
        name
    }

    fn at(&self) -> Timestamp {
        Timestamp(self.now)
    }

    fn wait(&mut self, milliseconds: u64) {
        self.now += milliseconds;
    }

    /// An answer that comes now with this time to live.
    fn look(&mut self, hosts: &[u8], ttl: u64) {
        let at = self.at();
        self.samples.add(&addresses(hosts), self.kind, Duration::from_secs(ttl), at);
        self.samples.expect(&self.targets, at);
    }

    /// An answer after the time to live of the one before.
    fn answer(&mut self, hosts: &[u8]) {
        self.wait(self.ttl.max(1) * 1000 + 50);
        self.look(hosts, self.ttl);
    }

    fn answers(&mut self, hosts: &[u8], times: u32) {
        (0..times).for_each(|_| self.answer(hosts));
    }

    fn is_gone(&self, host: u8) -> bool {
        matches!(self.samples.absence(address(host)), Absence::Gone { .. })
    }

    /// After how many more answers like this one an address is gone.
    fn answers_until_gone(&mut self, gone: u8, mut answer: impl FnMut(u32) -> Vec<u8>) -> Option<u32> {
        (1..3000).find(|number| {
            self.answer(&answer(*number));
            self.is_gone(gone)
        })
    }

    fn next(&self) -> Option<Duration> {
        self.samples.next(&self.targets.keys().copied().collect(), Duration::from_secs(43))
    }
}

fn address(host: u8) -> IpAddr {
    IpAddr::from([10, 0, 1, host])
}

fn addresses(hosts: &[u8]) -> BTreeSet<IpAddr> {
    hosts.iter().copied().map(address).collect()
}

/// How a name chooses what an answer holds.
#[derive(Clone, Copy, Debug)]
enum Order {
    Fixed,
    InTurn,
    Random,
    /// The first one is in one of 20 answers.
    Skewed,
}

fn draw(rng: &mut Rng, order: Order, turn: usize, hosts: &[u8], size: usize) -> Vec<u8> {
    match (order, hosts) {
        (Order::Fixed, _) => hosts.iter().copied().take(size).collect(),
        (Order::InTurn, _) => (0..size).map(|number| hosts[(turn * size + number) % hosts.len()]).collect(),
        (Order::Skewed, [rare, others @ ..]) if !others.is_empty() => {
            if rng.u8(..20) == 0 {
                vec![*rare]
            } else {
                rng.choose_multiple(others.iter().copied(), size)
            }
        }
        _ => rng.choose_multiple(hosts.iter().copied(), size),
    }
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, rng_seed: RngSeed::Fixed(15), failure_persistence: None, ..ProptestConfig::default() }
}

fn order() -> impl Strategy<Value = Order> {
    prop_oneof![Just(Order::Fixed), Just(Order::InTurn), Just(Order::Random), Just(Order::Skewed)]
}

fn kind() -> impl Strategy<Value = HostnameKind> {
    prop_oneof![Just(AuroraReader), Just(LoadBalancer), Just(RdsProxy)]
}

proptest! {
    #![proptest_config(config(60))]

    #[test]
    fn rule_15_no_live_address_is_ever_gone(
        kind in kind(), order in order(), count in 1..20_u8, size in 1..9_usize, ttl in 0..61_u64, seed: u64,
        targets in 0..40_u8, several: bool
    ) {
        // A load balancer tells all of few addresses.
        let size = if kind == LoadBalancer { 8 } else { size };
        let mut rng = Rng::with_seed(seed);
        let hosts: Vec<_> = (0..count).collect();
        let mut name = Name::new(kind, ttl, 0..count.max(targets.min(count)));
        for turn in 0..1000 {
            let held = draw(&mut rng, order, turn, &hosts, size);
            if several && ttl > 1 {
                name.wait(1200);
                name.look(&held, rng.u64(1..=ttl));
            } else {
                name.answer(&held);
            }
            for host in &hosts {
                prop_assert!(!name.is_gone(*host), "{host} in answer {turn}");
            }
        }
    }

    #[test]
    fn rule_15_a_lost_memory_makes_nothing_go_earlier(
        kind in kind(), count in 1..9_u8, ttl in 0..6_u64, seed: u64, lived in 0..600, lost_after in 0..300
    ) {
        let mut rng = Rng::with_seed(seed);
        let hosts: Vec<_> = (1..=count).collect();
        let mut kept = Name::new(kind, ttl, 0..=count);
        for _ in 0..lived {
            let all: Vec<_> = (0..=count).collect();
            kept.answer(&draw(&mut rng, Order::Random, 0, &all, 1));
        }
        // From now on 0 is gone.
        for _ in 0..lost_after {
            kept.answer(&draw(&mut rng, Order::Random, 0, &hosts, 1));
        }
        let mut lost = kept.clone();
        lost.samples = Samples::new(None, false);
        lost.samples.expect(&lost.targets, lost.at());
        for _ in 0..700 {
            let held = draw(&mut rng, Order::Random, 0, &hosts, 1);
            kept.answer(&held);
            lost.answer(&held);
            prop_assert!(!lost.is_gone(0) || kept.is_gone(0) || lived == 0);
        }
    }

    #[test]
    fn rule_15_what_a_cache_repeats_is_no_second_answer(
        kind in kind(), count in 1..9_u8, ttl in 2..61_u64, seed: u64, repeats in prop::collection::vec(0..5_u64, 400)
    ) {
        let mut rng = Rng::with_seed(seed);
        let hosts: Vec<_> = (1..=count).collect();
        let mut once = Name::new(kind, ttl, 0..=count);
        let mut again = once.clone();
        for repeats in repeats {
            let held = draw(&mut rng, Order::Random, 0, &hosts, 1);
            once.answer(&held);
            let began = again.now;
            again.answer(&held);
            let renewed = again.now + ttl * 1000;
            // Whole seconds, rounded up or down.
            for number in 1..=repeats {
                again.now = renewed - ttl * 1000 + number * ttl * 1000 / (repeats + 1);
                let left = renewed - again.now;
                again.look(&held, if rng.bool() { left / 1000 } else { left.div_ceil(1000) });
            }
            again.now = began + ttl.max(1) * 1000 + 50;
            for host in 0..=count {
                let (one, other) = (once.samples.absence(address(host)), again.samples.absence(address(host)));
                prop_assert_eq!(std::mem::discriminant(&one), std::mem::discriminant(&other));
            }
        }
    }
}

/// Answers until a gone one of so many readers is gone, when the others are drawn at random.
fn answers_for(readers: u8, learned: u32) -> u32 {
    let mut rng = Rng::with_seed(u64::from(readers));
    let all: Vec<_> = (0..readers).collect();
    let others: Vec<_> = if readers == 1 { vec![200] } else { (1..readers).collect() };
    let mut name = Name::new(AuroraReader, 5, 0..readers);
    for _ in 0..learned {
        name.answer(&draw(&mut rng, Order::Random, 0, &all, 1));
    }
    name.answers_until_gone(0, |_| draw(&mut rng, Order::Random, 0, &others, 1)).unwrap()
}

#[test]
fn the_numbers_of_the_documentation() {
    for (readers, least, most) in [(1, 20, 60), (2, 25, 60), (3, 50, 100), (5, 90, 200), (8, 150, 400), (15, 300, 560)]
    {
        let answers = answers_for(readers, 600);
        assert!((least..=most).contains(&answers), "{readers} readers: {answers}");
    }
    // Who has learned little needs more.
    assert!(answers_for(5, 30) > answers_for(5, 600) * 3 / 2);
}

#[test]
fn an_address_that_no_answer_held_goes_late_and_only_where_answers_rotate() {
    let mut name = Name::new(AuroraReader, 5, 0..4);
    let answers = name.answers_until_gone(0, |number| vec![1 + u8::try_from(number % 3).unwrap()]).unwrap();
    assert!((400..700).contains(&answers), "{answers}");

    let mut name = Name::new(AuroraReader, 5, 0..4);
    assert_eq!(name.answers_until_gone(0, |_| vec![1]), None);
    assert_eq!(name.samples.absence(address(0)), Absence::Usual);
    let warning = name.samples.warning().unwrap();
    assert!(warning.contains("`lookups`: 1") && warning.contains("the same one"), "{warning}");

    // Unless an earlier environment saw it go.
    let mut name = Name::new(AuroraReader, 5, 0..4);
    let since = name.at();
    name.targets.insert(address(0), Some(since));
    name.samples.expect(&name.targets, since);
    let answers = name.answers_until_gone(0, |_| vec![1]).unwrap();
    assert!((400..700).contains(&answers), "{answers}");
}

#[test]
fn what_another_environment_registered_is_not_missing_from_before() {
    let mut name = Name::new(AuroraReader, 5, 1..4);
    for number in 0..2000 {
        name.answer(&[1 + u8::try_from(number % 3).unwrap()]);
    }
    // It joined, and was seen and registered elsewhere.
    name.targets.insert(address(0), None);
    name.answer(&[1]);
    assert!(!name.is_gone(0));
    let answers = name.answers_until_gone(0, |number| vec![1 + u8::try_from(number % 3).unwrap()]).unwrap();
    assert!(answers > 400, "{answers}");

    // One that went here comes back there.
    name.targets.remove(&address(0));
    name.answer(&[1]);
    name.targets.insert(address(0), None);
    name.answer(&[2]);
    assert!(!name.is_gone(0));
}

#[test]
fn the_grace_counts_from_when_it_was_last_seen() {
    let mut name = Name::new(AuroraReader, 5, 0..2);
    for number in 0..200 {
        name.answer(&[u8::try_from(number % 2).unwrap()]);
    }
    let last_seen = Timestamp(name.now - 5050);
    assert_eq!(name.samples.absence(address(0)), Absence::Usual);
    let mut seen = BTreeSet::new();
    while !name.is_gone(0) {
        name.answer(&[1]);
        let (step, since) = match name.samples.absence(address(0)) {
            Absence::Usual => (0, None),
            Absence::Thin { since } => (1, Some(since)),
            Absence::Gone { since } => (2, Some(since)),
        };
        assert!(since.is_none_or(|since| since == last_seen));
        assert!(seen.insert(step) || seen.last() == Some(&step), "it went back");
    }
    assert_eq!(seen.len(), 3);
    // To be seen once is enough.
    name.answer(&[0]);
    assert!(matches!(name.samples.absence(address(0)), Absence::Usual));
}

#[test]
fn addresses_that_join_lower_what_is_expected_of_the_others() {
    let mut rng = Rng::with_seed(1);
    let mut name = Name::new(AuroraReader, 5, 0..2);
    for _ in 0..400 {
        name.answer(&draw(&mut rng, Order::Random, 0, &[0, 1], 1));
    }
    // A cluster scales from 2 readers to 15.
    let all: Vec<_> = (0..15).collect();
    for _ in 0..20_000 {
        name.answer(&draw(&mut rng, Order::Random, 0, &all, 1));
        assert!(all.iter().all(|host| !name.is_gone(*host)));
    }
}

#[test]
fn a_failover_of_a_name_of_ones_own_is_no_rotation() {
    // A, then B for good.
    let mut name = Name::new(Other, 5, 0..2);
    name.answers(&[0], 100);
    name.answers(&[1], 100);
    assert!(!name.samples.is_sample());
    // In turn for a minute.
    for _ in 0..30 {
        name.wait(1000);
        name.look(&[0], 0);
        name.wait(1000);
        name.look(&[1], 0);
    }
    name.answers(&[1], 100);
    assert!(!name.samples.is_sample());
    // There and back again, some minutes each.
    for _ in 0..10 {
        name.wait(60_000);
        name.answers(&[0], 4);
        name.wait(60_000);
        name.answers(&[1], 4);
    }
    assert!(!name.samples.is_sample());
}

#[test]
fn a_name_of_ones_own_that_rotates_is_a_sample_soon() {
    let mut rng = Rng::with_seed(1);
    for hosts in [2_u8, 3, 5, 15] {
        let all: Vec<_> = (0..hosts).collect();
        let mut name = Name::new(Other, 60, 0..hosts);
        let answers = (1..100).find(|_| {
            name.answer(&draw(&mut rng, Order::Random, 0, &all, 1));
            name.samples.is_sample()
        });
        assert!(answers.is_some_and(|answers| answers < 30), "{hosts} addresses: {answers:?}");
        assert_eq!(name.samples.lookups(), 5);
    }
}

#[test]
fn instances_and_what_is_stated_to_answer_in_full_are_never_samples() {
    let mut instance = Name::new(Instance, 5, 0..10);
    let mut stated = Name::new(AuroraReader, 5, 0..10);
    stated.samples = Samples::new(Some(1), true);
    for number in 0..200 {
        for name in [&mut instance, &mut stated] {
            name.answer(&[number % 10]);
            assert!(!name.samples.is_sample());
            assert_eq!(name.next(), None);
        }
    }
    assert_eq!(instance.samples.lookups(), 1);
    assert_eq!(stated.samples.lookups(), 1);
}

#[test]
fn a_small_load_balancer_answers_in_full() {
    let mut name = Name::new(LoadBalancer, 60, 0..3);
    name.answers(&[0, 1, 2], 10);
    assert!(matches!(name.samples.absence(address(9)), Absence::Usual));
    // One is replaced.
    let answers = name.answers_until_gone(0, |_| vec![1, 2, 3]).unwrap();
    assert!(answers <= 5, "{answers}");
    // A new environment knows from the tags that it is missing.
    let mut name = Name::new(LoadBalancer, 60, 0..4);
    let since = name.at();
    name.targets.insert(address(0), Some(since));
    let answers = name.answers_until_gone(0, |_| vec![1, 2, 3]).unwrap();
    assert!(answers <= 5, "{answers}");
    // Another never saw it, as where answers prefer the zone of the client.
    let mut name = Name::new(LoadBalancer, 60, 0..4);
    assert_eq!(name.answers_until_gone(0, |_| vec![1, 2, 3]), None);
}

#[test]
fn looks_are_few_where_nothing_is_amiss() {
    // Seconds of a run by the time to live, and its looks.
    for (ttl, looks, most) in [(0, 5, 4.3), (1, 5, 4.3), (2, 3, 4.2), (5, 2, 5.1), (60, 1, 0.1)] {
        let mut name = Name::new(AuroraReader, ttl, 0..3);
        // It has found out that there is one cache.
        (0..20).for_each(|number| name.answer(&[number % 3]));
        name.wait(60_000);
        name.samples.begin_run();
        let (mut asked, mut lasted) = (1, Duration::ZERO);
        name.look(&[0], ttl);
        while let Some(pause) = name.next() {
            name.wait(u64::try_from(pause.as_millis()).unwrap());
            lasted += pause;
            asked += 1;
            name.look(&[asked % 3], ttl);
        }
        assert_eq!(asked, looks, "{ttl}");
        assert!(lasted.as_secs_f64() <= most, "{ttl}: {lasted:?}");
    }
}

#[test]
fn looks_go_on_while_one_is_missing_for_long() {
    let mut name = Name::new(AuroraReader, 5, 0..2);
    (0..200).for_each(|number| name.answer(&[u8::from(number % 2 == 0)]));
    name.answers(&[1], 12);
    name.samples.begin_run();
    let mut asked = 0;
    let mut left = Duration::from_secs(43);
    loop {
        name.look(&[1], 5);
        asked += 1;
        let Some(pause) = name.samples.next(&name.targets.keys().copied().collect(), left) else { break };
        name.wait(u64::try_from(pause.as_millis()).unwrap());
        left -= pause;
    }
    assert!((8..=10).contains(&asked), "{asked}");
    // Once it is gone for sure, they need not.
    while !name.is_gone(0) {
        name.answer(&[1]);
    }
    name.samples.begin_run();
    name.answer(&[1]);
    name.answer(&[1]);
    assert_eq!(name.next(), None);
}

#[test]
fn several_caches_are_asked_one_after_the_other() {
    let mut rng = Rng::with_seed(3);
    let mut name = Name::new(LoadBalancer, 60, 0..40);
    let all: Vec<_> = (0..40).collect();
    // Each look meets one of four caches.
    let mut caches: Vec<(u64, Vec<u8>)> = vec![(0, Vec::new()); 4];
    let mut looks = 0;
    for _ in 0..60 {
        name.wait(60_000);
        name.samples.begin_run();
        loop {
            let cache = &mut caches[rng.usize(..4)];
            if cache.0 <= name.now {
                *cache = (name.now + 60_000, draw(&mut rng, Order::Random, 0, &all, 8));
            }
            let (until, held) = cache.clone();
            name.look(&held, (until - name.now).div_ceil(1000));
            looks += 1;
            let Some(pause) = name.next() else { break };
            name.wait(u64::try_from(pause.as_millis()).unwrap());
        }
    }
    assert!((150..=300).contains(&looks), "{looks} looks in an hour");
}

#[test]
fn stated_lookups_are_collected_but_for_what_brings_nothing() {
    let stated = |lookups, held: &dyn Fn(u8) -> Vec<u8>| {
        let mut name = Name::new(AuroraReader, 1, 0..2);
        name.samples = Samples::new(Some(lookups), false);
        let mut looks = 0;
        loop {
            name.look(&held(looks), 1);
            looks += 1;
            let Some(pause) = name.next() else { return looks };
            name.wait(u64::try_from(pause.as_millis()).unwrap());
        }
    };
    assert_eq!(stated(15, &|look| vec![look]), 15);
    assert!((4..=7).contains(&stated(15, &|_| vec![1])), "{}", stated(15, &|_| vec![1]));
    assert_eq!(stated(2, &|look| vec![look]), 2);
}

#[test]
fn a_time_to_live_of_nothing_makes_each_answer_a_new_one() {
    let mut name = Name::new(AuroraReader, 0, 0..2);
    for number in 0..400 {
        name.wait(10);
        name.look(&[u8::from(number % 2 == 0)], 0);
    }
    let answers = (1..200).find(|_| {
        name.wait(10);
        name.look(&[1], 0);
        name.is_gone(0)
    });
    assert!(answers.is_some_and(|answers| answers < 60), "{answers:?}");
}

#[test]
fn rule_15_who_takes_the_time_of_a_target_out_of_the_tags_has_seen_it() {
    let mut name = Name::new(AuroraReader, 1, [1, 2]);
    (0..50).for_each(|number| name.answer(&[1 + number % 2]));
    *name.targets.get_mut(&address(2)).unwrap() = Some(name.at());
    name.answers_until_gone(2, |_| vec![1]).expect("it is gone in the end");
    *name.targets.get_mut(&address(2)).unwrap() = None;
    name.answer(&[1]);
    assert!(!name.is_gone(2), "another execution environment has seen it since");
    assert!(name.answers_until_gone(2, |_| vec![1]).is_some_and(|more| more > 20), "it takes as much evidence again");
}
