//! When a watch looks at a group next, and when the group has settled. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use nlb_hostname_targets::{
    binding::Group,
    failure::Failure,
    memory::{InStep, Memory},
    plan::Desired,
    report::GroupReport,
    resolution::{Answer, Look, Resolution},
    run::Now,
    state::Timestamp,
    target::Target,
    watch::{Schedule, Watch},
};
use tokio::sync::mpsc;

const BEGAN: Timestamp = Timestamp(1_763_802_000_000);

/// A watch of one group that is in step with host 1.
struct Watched {
    schedule: Schedule,
    memory: Memory,
    began: Instant,
    elapsed: Duration,
}

fn target(host: u8) -> Target {
    Target { address: [10, 0, 1, host].into(), port: 5432.try_into().unwrap() }
}

fn in_step(hosts: &[u8]) -> InStep {
    let targets: BTreeSet<_> = hosts.iter().map(|host| target(*host)).collect();
    InStep { registered: targets.clone(), targets, due: None, thin: BTreeSet::new(), ttl: Some(Duration::from_secs(5)) }
}

fn report(has_failed: bool, is_unregistered: bool) -> GroupReport {
    let arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/db/0123456789abcdef";
    let mut report = GroupReport::new(&Group::without_members(arn.to_owned().try_into().unwrap()));
    report.failures.extend(has_failed.then(|| Failure::Deadline("DescribeTargetHealth".to_owned())));
    report.is_unregistered = is_unregistered;
    report
}

fn watch(interval: u64, heeds_ttl: bool) -> Watch {
    let began = Instant::now();
    let interval = Duration::from_secs(interval);
    let (progress, _) = mpsc::unbounded_channel();
    Watch { interval, heeds_ttl, ends_when_stable: !heeds_ttl, began, until: began + HOUR, progress }
}

impl Watched {
    fn new(watch: &Watch, first: &GroupReport, memory: Memory) -> Self {
        let now = Now { at: watch.began, time: BEGAN };
        let schedule = Schedule::new(watch, &memory, first, now);
        Self { schedule, memory, began: watch.began, elapsed: Duration::ZERO }
    }

    /// An RDS event's watch after a run that found host 1.
    fn in_step() -> Self {
        Self::new(&watch(1, false), &report(false, false), Memory { in_step: Some(in_step(&[1])), ..Memory::default() })
    }

    /// After a run that failed.
    fn failed(is_unregistered: bool) -> Self {
        Self::new(&watch(1, false), &report(true, is_unregistered), Memory::default())
    }

    fn now(&self) -> Now {
        let milliseconds = u64::try_from(self.elapsed.as_millis()).unwrap();
        Now { at: self.began + self.elapsed, time: Timestamp(BEGAN.0 + milliseconds) }
    }

    /// Seconds until the next look; `None`: the group has settled.
    fn pause(&self) -> Option<u64> {
        Some(self.schedule.next()?.duration_since(self.now().at).as_secs())
    }

    /// A look after so many seconds. DNS gives these hosts; nothing where a name did not resolve.
    fn look(&mut self, after: u64, hosts: &[u8], ttl: u64) -> bool {
        self.elapsed += Duration::from_secs(after);
        let now = self.now();
        self.schedule.retries(now.at);
        let targets: BTreeSet<_> = hosts.iter().map(|host| target(*host)).collect();
        let answer = Answer {
            addresses: targets.iter().map(|target| target.address).collect(),
            names: vec!["db.example.com".to_owned()],
            ttl: Duration::from_secs(ttl),
            longest_ttl: Duration::from_secs(ttl),
            at: now.at,
        };
        let hostname = "db.example.com".to_owned().try_into().unwrap();
        let resolution = Resolution { answers: [(hostname, Ok(answer))].into(), took: HOUR };
        let desired = Desired { targets, refused: BTreeSet::new(), is_complete: !hosts.is_empty() };
        let look = Look { desired, resolved: BTreeSet::new(), refused: BTreeMap::new(), failures: Vec::new() };
        self.schedule.note(&look, &resolution, &self.memory, now)
    }

    /// A run brought the group in step with these hosts, or failed.
    fn ran(&mut self, hosts: &[u8], report: &GroupReport) {
        self.schedule.begin_run(self.now().at);
        self.memory.in_step = report.failures.is_empty().then(|| in_step(hosts));
        self.schedule.reconciled(report, &self.memory, self.now());
    }
}

#[test]
fn a_look_follows_the_other_after_a_second_and_nothing_is_due_while_the_answer_is_the_same() {
    let mut watched = Watched::in_step();
    for _ in 0..200 {
        assert_eq!(watched.pause(), Some(1), "an answer that has never changed has not settled");
        assert!(!watched.look(1, &[1], 5));
    }
}

#[test]
fn a_watch_ends_30_s_after_the_last_change() {
    let mut watched = Watched::in_step();
    assert!(watched.look(1, &[2], 5));
    watched.ran(&[2], &report(false, false));
    for _ in 0..28 {
        assert!(!watched.look(1, &[2], 5));
        assert_eq!(watched.pause(), Some(1));
    }
    // Before the time is over, it goes back.
    assert!(watched.look(1, &[1], 5));
    watched.ran(&[1], &report(false, false));
    for second in 1..30 {
        assert!(!watched.look(1, &[1], 5));
        assert_eq!(watched.pause(), (second < 29).then_some(1), "after {second} s");
    }
}

#[test]
fn what_is_not_in_step_or_does_not_resolve_has_not_settled() {
    let mut watched = Watched::in_step();
    assert!(watched.look(1, &[2], 5));
    watched.ran(&[2], &report(false, false));
    for _ in 0..100 {
        assert!(!watched.look(1, &[], 5), "by a name that does not resolve nothing can be done");
        assert_eq!(watched.pause(), Some(1));
    }
    for second in 1..=30 {
        watched.look(1, &[2], 5);
        assert_eq!(watched.pause(), (second < 29).then_some(1), "after {second} s");
        if watched.pause().is_none() {
            return;
        }
    }
}

#[test]
fn what_time_alone_changes_is_looked_at_when_it_is_due() {
    let due = BEGAN.plus_seconds(40);
    let memory = Memory { in_step: Some(InStep { due: Some(due), ..in_step(&[1]) }), ..Memory::default() };
    let mut watched = Watched::new(&watch(60, true), &report(false, false), memory);
    assert_eq!(watched.pause(), Some(5), "the time to live is over sooner");
    assert!(!watched.look(5, &[1], 60));
    assert_eq!(watched.pause(), Some(35));
    assert!(watched.look(35, &[1], 60));
}

#[test]
fn polling_heeds_the_time_to_live_and_never_asks_twice_in_a_second() {
    let memory = || Memory { in_step: Some(in_step(&[1])), ..Memory::default() };
    for (interval, ttl, expected) in [(10, 60, 10), (10, 5, 5), (10, 0, 1), (1, 5, 1)] {
        let mut watched = Watched::new(&watch(interval, true), &report(false, false), memory());
        watched.look(1, &[1], ttl);
        assert_eq!(watched.pause(), Some(expected), "interval {interval} s, time to live {ttl} s");
    }
    // An RDS event's watch goes by its interval.
    let mut watched = Watched::new(&watch(1, false), &report(false, false), memory());
    watched.look(1, &[1], 60);
    assert_eq!(watched.pause(), Some(1));
}

#[test]
fn what_failed_is_tried_again_after_pauses_that_grow_or_for_another_answer() {
    for (is_unregistered, most) in [(false, 30), (true, 4)] {
        let mut watched = Watched::failed(is_unregistered);
        let mut pauses = Vec::new();
        let mut since = 0;
        for _ in 0..200 {
            since += 1;
            if watched.look(1, &[1], 5) {
                pauses.push(since);
                since = 0;
                watched.ran(&[], &report(true, is_unregistered));
            }
        }
        // At first nobody knows what was tried.
        assert_eq!(pauses[..4], [1, 2, 4, most.min(8)], "{pauses:?}");
        assert_eq!(pauses.iter().max(), Some(&most), "{pauses:?}");
        assert!(watched.look(1, &[2], 5), "another answer waits for nothing");
    }
}

const HOUR: Duration = Duration::from_secs(3600);
