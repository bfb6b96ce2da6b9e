use std::sync::LazyLock;

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{TestRng, TestRunner},
};

use crate::universe::{
    Happening, History, Setting, happen,
    strategies::{extraordinary, ordinary, refusals, setting, settings},
};

/// The first two bytes choose a setting, each two after that what happens next.
pub fn run(input: &[u8]) {
    let mut numbers = input.as_chunks().0.iter().map(|bytes| usize::from(u16::from_le_bytes(*bytes)) % CHOICES);
    let Some(setting) = numbers.next() else { return };
    let events = numbers.take(MOST_EVENTS).map(|number| POOL.1[number].clone()).collect();
    happen(POOL.0[setting], &History(events));
}

/// What there is to choose from, always the same.
static POOL: LazyLock<(Vec<Setting>, Vec<Happening>)> = LazyLock::new(|| {
    let rng = TestRng::deterministic_rng(ProptestConfig::default().rng_algorithm);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let event = prop_oneof![6 => ordinary(), 1 => refusals(), 1 => extraordinary(), 1 => settings()];
    let settings = draw(&setting(), &mut runner);
    (settings, draw(&event, &mut runner))
});

fn draw<T: std::fmt::Debug>(strategy: &impl Strategy<Value = T>, runner: &mut TestRunner) -> Vec<T> {
    (0..CHOICES).filter_map(|_| Some(strategy.new_tree(runner).ok()?.current())).collect()
}

const CHOICES: usize = 4096;

const MOST_EVENTS: usize = 200;
