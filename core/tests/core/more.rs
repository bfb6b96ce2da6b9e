//! What the rules say of groups with several names, of full ones, and of runs that are cut off.

use std::{
    collections::BTreeSet,
    future::pending,
    pin::pin,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use nlb_hostname_targets_core::{
    answer::Answers,
    clock::Now,
    failure::ElbError,
    hostname::Hostname,
    network::AllowedNetworks,
    plan::HoldReason,
    report::Outcome,
    run::{Known, Mode, Task, reconcile},
    tags::{TagChanges, Tags},
    target::{Facts, IpFamily, RegisteredTarget, Target, TargetState},
    world::{Changed, World},
};

use crate::stage::{OWN, READER, Set, Stage, WRITER, port};

const PROXY: &str = "orders.proxy-c9akciq32abc.eu-west-1.rds.amazonaws.com";

#[test]
fn rule_01_only_what_may_go_makes_room() {
    // What has its grace, and what may be an unresolved name's.
    for (grace, other) in [(60, Some(vec![3])), (0, None)] {
        let mut stage = Stage::new(&[(OWN, &[2]), ("other.test", &[])]).grace(grace);
        stage.healthy(&[1, 3]);
        stage.name("other.test", |gives| gives.hosts = other.clone());
        stage.scene.borrow_mut().quota = 2;
        for _ in 0..3 {
            assert_eq!((stage.run().outcome, stage.registered()), (Outcome::Failed, vec![1, 3]), "{grace}");
        }
        stage.gives("other.test", &[3]);
        stage.pass(60);
        stage.run();
        stage.settle();
        stage.run();
        assert_eq!(stage.registered(), [2, 3], "{grace}");
    }
}

#[test]
fn rule_02_a_look_that_failed_is_no_answer_from_which_addresses_are_missing() {
    let mut stage = Stage::with(OWN, &[1], &[1, 2]);
    stage.group.lookups.insert(OWN.to_owned().try_into().unwrap(), 5);
    stage.name(OWN, |gives| gives.ttl = 1);
    stage.later(2, |scene| scene.dns.get_mut(OWN).unwrap().hosts = None);
    stage.later(3, |scene| scene.dns.get_mut(OWN).unwrap().hosts = Some(vec![1]));
    let report = stage.run();
    assert_eq!((report.outcome, report.failures.len(), stage.registered()), (Outcome::InSync, 0, vec![1, 2]));
}

#[test]
fn rule_08_what_is_stated_counts_for_all_names_and_else_the_longest_default_is_told() {
    for (names, stated, told) in [
        (&[OWN, PROXY][..], None, 120),
        (&[WRITER, PROXY, READER], None, 300),
        (&[OWN, READER], Some(30), 30),
        (&[READER, OWN], Some(0), 0),
        (&[OWN], Some(u32::MAX), u32::MAX),
    ] {
        let names: Vec<(_, &[u8])> = names.iter().map(|name| (*name, &[2][..])).collect();
        let mut stage = Stage::new(&names);
        stage.group.deregister_after_seconds = stated;
        stage.healthy(&[2]);
        stage.state(1, TargetState::Unhealthy);
        let report = stage.run();
        assert_eq!(report.deregister_after_seconds, told, "{names:?}");
        assert_eq!(stage.registered().contains(&1), told > 0, "{names:?}");
    }
}

#[test]
fn rule_08_what_any_name_of_the_group_gives_is_not_missing() {
    let mut stage = Stage::new(&[(OWN, &[1]), ("other.test", &[2])]).grace(60);
    stage.healthy(&[1, 2]);
    stage.run();
    // It moves from one name to the other, for longer than its grace.
    for (own, other) in [(&[1, 2][..], &[1][..]), (&[1], &[2]), (&[2], &[1])] {
        stage.gives(OWN, own);
        stage.gives("other.test", other);
        stage.pass(61);
        let report = stage.run();
        assert!(report.held.is_empty() && stage.scene.borrow().tags.is_empty(), "{:?}", report.held);
    }
    // Missing begins anew when it is over.
    for (given, is_held) in [(&[1][..], true), (&[1, 2], false), (&[1], true)] {
        stage.gives(OWN, given);
        stage.gives("other.test", &[1]);
        let held: Vec<_> = stage.run().held.iter().map(|held| held.reason).collect();
        assert_eq!(held.contains(&HoldReason::Grace), is_held, "{held:?}");
        stage.pass(40);
    }
}

/// A world whose lists never come.
struct Hangs<'a>(&'a Set);

impl World for Hangs<'_> {
    fn now(&self) -> Now {
        self.0.now()
    }

    async fn turn(&self) {}

    async fn resolve(&self, names: &BTreeSet<Hostname>) -> Answers {
        self.0.resolve(names).await
    }

    async fn list(&self) -> (Instant, Result<Vec<RegisteredTarget>, ElbError>) {
        pending().await
    }

    async fn read_tags(&self) -> Result<Tags, ElbError> {
        self.0.read_tags().await
    }

    async fn write_tags(&self, _: &TagChanges) -> Result<(), ElbError> {
        pending().await
    }

    async fn register(&self, _: &BTreeSet<Target>) -> Changed {
        pending().await
    }

    async fn deregister(&self, _: &BTreeSet<RegisteredTarget>) -> Changed {
        pending().await
    }

    async fn sleep(&self, _: Duration) {}
}

#[test]
fn rule_08_what_dns_gave_to_a_run_that_was_cut_off_is_missing_anew() {
    let mut stage = Stage::with(OWN, &[2], &[1, 2]).grace(60);
    stage.run();
    stage.pass(40);
    stage.gives(OWN, &[1, 2]);
    {
        let (facts, allowed) = (Facts { port: port(5432), family: IpFamily::V4 }, AllowedNetworks::default());
        let task = Task { group: &stage.group, facts, allowed: &allowed, function: "one" };
        let now = stage.scene.now();
        let mut known = Known::new(Mode::Full, Answers::new(), now, now.at + Duration::from_secs(900));
        let world = Hangs(&stage.scene);
        let run = pin!(reconcile(&world, &task, &mut known, &mut stage.memory));
        assert!(run.poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    stage.gives(OWN, &[2]);
    stage.pass(30);
    stage.run();
    assert_eq!(stage.registered(), [1, 2], "it has been missing for 30 s at most");
    stage.pass(60);
    stage.run();
    assert_eq!(stage.registered(), [2]);
}
