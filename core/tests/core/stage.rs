//! A stage for one target group: a world in which each call succeeds at once, unless a test says otherwise.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    future::pending,
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    ops::Deref,
    pin::pin,
    task::{Context, Waker},
    time::{Duration, Instant},
};

use nlb_hostname_targets_core::{
    answer::{Answer, Answers},
    binding::{Group, Ownership},
    clock::{Now, Timestamp},
    failure::{DnsFailure, ElbError, ElbErrorKind, ResolveError},
    hostname::Hostname,
    memory::Memory,
    network::AllowedNetworks,
    plan::HoldReason,
    report::GroupReport,
    run::{Known, Mode, Task},
    tags::{TagChanges, Tags},
    target::{Facts, IpFamily, RegisteredTarget, Target, TargetState},
    watch::{Course, Watch},
    world::{Changed, World},
};

pub const READER: &str = "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com";
pub const WRITER: &str = "orders.cluster-c9akciq32abc.eu-west-1.rds.amazonaws.com";
pub const OWN: &str = "db.test";

/// What a name gives.
#[derive(Clone, Debug)]
pub struct Gives {
    /// `None`: it does not resolve.
    pub hosts: Option<Vec<u8>>,
    /// How many of them an answer holds, drawn by chance.
    pub at_once: usize,
    pub ttl: u64,
    /// The names on its CNAME chain.
    pub chain: Vec<&'static str>,
}

/// The stage. Its fields are what is so now; what was called is in `calls`.
pub struct Stage {
    pub group: Group,
    pub memory: Memory,
    pub scene: Set,
}

/// The scene, to which each call has access.
pub struct Set(RefCell<Scene>);

impl Deref for Set {
    type Target = RefCell<Scene>;

    fn deref(&self) -> &RefCell<Scene> {
        &self.0
    }
}

pub struct Scene {
    pub now: Instant,
    pub time: u64,
    rng: fastrand::Rng,
    pub dns: BTreeMap<String, Gives>,
    pub targets: BTreeMap<Target, TargetState>,
    pub tags: Tags,
    /// Draining targets count.
    pub quota: usize,
    /// What AWS refuses for good, to register and to deregister.
    pub refused: BTreeSet<u8>,
    pub stuck: BTreeSet<u8>,
    /// Calls that fail, and calls that take long.
    pub fails: BTreeMap<&'static str, ElbErrorKind>,
    pub slow: BTreeMap<&'static str, Duration>,
    /// What lists show in place of what is so.
    pub shown: Option<BTreeMap<Target, TargetState>>,
    pub calls: Vec<String>,
    /// Whether a name that does not resolve is one that there was no time for.
    pub is_out_of_time: bool,
    /// Whether no list ever comes.
    pub hangs: bool,
    /// What happens when so much time has passed.
    later: Vec<(Instant, Later)>,
}

type Later = Box<dyn FnOnce(&mut Scene)>;

/// A host with a public address, which may be no target.
pub const PUBLIC: u8 = 200;

/// Some instant.
#[allow(clippy::disallowed_methods, reason = "there is no other way to get one")]
pub fn start() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

pub fn host(host: u8) -> IpAddr {
    let first = if host == PUBLIC { 54 } else { 10 };
    Ipv4Addr::new(first, 0, 0, host).into()
}

pub fn port(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

pub fn target(number: u8) -> Target {
    Target { address: host(number), port: port(5432) }
}

pub fn hosts(targets: impl IntoIterator<Item = Target>) -> Vec<u8> {
    let last = |address| if let IpAddr::V4(v4) = address { v4.octets()[3] } else { 0 };
    targets.into_iter().map(|target| last(target.address)).collect()
}

impl Stage {
    /// A group that follows these names, each with the hosts that it gives.
    pub fn new(names: &[(&'static str, &[u8])]) -> Self {
        let gives = |hosts: &[u8]| Gives { hosts: Some(hosts.to_vec()), at_once: 255, ttl: 0, chain: Vec::new() };
        let scene = Scene {
            now: start(),
            time: 1_763_802_000_250,
            rng: fastrand::Rng::with_seed(7),
            dns: names.iter().map(|(name, hosts)| ((*name).to_owned(), gives(hosts))).collect(),
            targets: BTreeMap::new(),
            tags: Tags::new(),
            quota: 1000,
            refused: BTreeSet::new(),
            stuck: BTreeSet::new(),
            fails: BTreeMap::new(),
            slow: BTreeMap::new(),
            shown: None,
            calls: Vec::new(),
            is_out_of_time: false,
            hangs: false,
            later: Vec::new(),
        };
        let arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/db/0123456789abcdef";
        let mut group = Group::without_members(arn.parse().unwrap());
        group.members = names.iter().map(|(name, _)| ((*name).to_owned().try_into().unwrap(), None)).collect();
        Self { group, memory: Memory::default(), scene: Set(RefCell::new(scene)) }
    }

    /// One name that gives `given`, and these targets, which are healthy.
    pub fn with(name: &'static str, given: &[u8], registered: &[u8]) -> Self {
        let stage = Self::new(&[(name, given)]);
        stage.healthy(registered);
        stage
    }

    pub fn shared(mut self) -> Self {
        self.group.ownership = Ownership::Shared;
        self
    }

    pub fn grace(mut self, seconds: u32) -> Self {
        self.group.deregister_after_seconds = Some(seconds);
        self
    }

    pub fn healthy(&self, numbers: &[u8]) {
        self.scene.borrow_mut().targets.extend(numbers.iter().map(|number| (target(*number), TargetState::Healthy)));
    }

    pub fn gives(&self, name: &str, hosts: &[u8]) {
        self.name(name, |gives| gives.hosts = Some(hosts.to_vec()));
    }

    pub fn name(&self, name: &str, change: impl FnOnce(&mut Gives)) {
        change(self.scene.borrow_mut().dns.get_mut(name).unwrap());
    }

    pub fn state(&self, number: u8, state: TargetState) {
        self.scene.borrow_mut().targets.insert(target(number), state);
    }

    /// Everything that is `initial` becomes healthy, and what drains is gone.
    pub fn settle(&self) {
        let mut scene = self.scene.borrow_mut();
        scene.targets.retain(|_, state| *state != TargetState::Draining);
        scene.targets.values_mut().filter(|s| **s == TargetState::Initial).for_each(|s| *s = TargetState::Healthy);
    }

    pub fn pass(&self, seconds: u64) {
        self.scene.borrow_mut().pass(Duration::from_secs(seconds));
    }

    pub fn later(&self, seconds: u64, change: impl FnOnce(&mut Scene) + 'static) {
        let mut scene = self.scene.borrow_mut();
        let at = scene.now + Duration::from_secs(seconds);
        scene.later.push((at, Box::new(change)));
    }

    pub fn registered(&self) -> Vec<u8> {
        let scene = self.scene.borrow();
        hosts(scene.targets.iter().filter(|(_, state)| state.is_registered()).map(|(target, _)| *target))
    }

    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.scene.borrow_mut().calls)
    }

    /// Those that change targets.
    pub fn changes(&self) -> Vec<String> {
        self.calls().into_iter().filter(|call| call.contains("egister")).collect()
    }

    pub fn fails(&self, call: &'static str, kind: ElbErrorKind) {
        self.scene.borrow_mut().fails.insert(call, kind);
    }

    /// Lets DNS give these hosts for a name so many seconds from now; `None`: it does not resolve then.
    pub fn gives_later(&self, seconds: u64, name: &'static str, hosts: Option<&'static [u8]>) {
        self.later(seconds, move |scene| scene.dns.get_mut(name).unwrap().hosts = hosts.map(<[u8]>::to_vec));
    }

    pub fn run(&mut self) -> GroupReport {
        self.course(Mode::Full, None)
    }

    pub fn dry_run(&mut self) -> GroupReport {
        let memory = self.memory.clone();
        let report = self.course(Mode::DryRun, None);
        self.memory = memory;
        report
    }

    /// Runs each minute; returned is how many it took until `done`.
    pub fn runs_until(&mut self, most: usize, done: impl Fn(&Self) -> bool) -> usize {
        for run in 0..most {
            if done(self) {
                return run;
            }
            self.run();
            self.settle();
            self.pass(60);
        }
        panic!("not done after {most} runs: {:?}", self.scene.borrow().targets);
    }

    /// A run, and then a watch of so many seconds.
    pub fn watch(&mut self, seconds: u64) -> GroupReport {
        let until = self.scene.borrow().now + Duration::from_secs(seconds);
        let interval = Duration::from_secs(1);
        self.course(Mode::Single, Some(Watch { interval, heeds_ttl: false, ends_when_stable: true, until }))
    }

    pub fn course(&mut self, mode: Mode, watch: Option<Watch>) -> GroupReport {
        let (facts, allowed) = (Facts { port: port(5432), family: IpFamily::V4 }, AllowedNetworks::default());
        let task = Task { group: &self.group, facts, allowed: &allowed, function: "one" };
        self.memory.begin_invocation();
        let cutoff = self.scene.borrow().now + Duration::from_secs(900);
        let mut course = Course::new(Known::new(mode, Answers::new(), self.scene.now(), cutoff), cutoff);
        let is_over = pin!(course.follow(&self.scene, &task, watch.as_ref(), &mut self.memory))
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready();
        assert!(is_over || self.scene.borrow().hangs, "this world never waits");
        course.finish(&task, &self.memory, self.scene.now(), "nothing")
    }
}

/// The hosts that stay although no name gives them, and why.
pub fn held(report: &GroupReport) -> Vec<(u8, HoldReason)> {
    report.held.iter().map(|held| (hosts([held.target])[0], held.reason)).collect()
}

impl Scene {
    pub fn pass(&mut self, time: Duration) {
        self.now += time;
        self.time += u64::try_from(time.as_millis()).unwrap();
        while let Some(next) = self.later.iter().position(|(at, _)| *at <= self.now) {
            let (_, change) = self.later.remove(next);
            change(self);
        }
    }

    fn call(&mut self, name: &'static str, what: &str) -> Result<(), ElbError> {
        self.calls.push(if what.is_empty() { name.to_owned() } else { format!("{name} {what}") });
        if let Some(time) = self.slow.get(name) {
            self.pass(*time);
        }
        match self.fails.get(name) {
            Some(kind) => Err(error(name, *kind)),
            None => Ok(()),
        }
    }

    fn answer(&mut self, hostname: &Hostname) -> Result<Answer, ResolveError> {
        let none = |failure| ResolveError { failures: vec![(([127, 0, 0, 1], 53).into(), failure)] };
        let gives = self.dns.get(hostname.canonical()).cloned().ok_or_else(|| none(DnsFailure::NxDomain))?;
        let out_of_time = DnsFailure::OutOfTime(Duration::from_secs(1));
        let failure = if self.is_out_of_time { out_of_time } else { DnsFailure::ServFail };
        let given = gives.hosts.ok_or_else(|| none(failure))?;
        let chosen = self.rng.choose_multiple(given, gives.at_once);
        let ttl = Duration::from_secs(gives.ttl);
        let chain = gives.chain.iter().map(ToString::to_string);
        let names = [hostname.canonical().to_owned()].into_iter().chain(chain).collect();
        Ok(Answer { addresses: chosen.into_iter().map(host).collect(), names, ttl, longest_ttl: ttl, at: self.now })
    }
}

pub fn error(operation: &'static str, kind: ElbErrorKind) -> ElbError {
    ElbError { operation, kind, problem: "no".to_owned() }
}

impl World for Set {
    fn now(&self) -> Now {
        Now { at: self.borrow().now, time: Timestamp(self.borrow().time) }
    }

    async fn turn(&self) {}

    async fn resolve(&self, names: &BTreeSet<Hostname>) -> Answers {
        let mut scene = self.borrow_mut();
        let _ = scene.call("DNS", "");
        names.iter().map(|name| (name.clone(), scene.answer(name))).collect()
    }

    async fn list(&self) -> (Instant, Result<Vec<RegisteredTarget>, ElbError>) {
        if self.borrow().hangs {
            pending::<()>().await;
        }
        let mut scene = self.borrow_mut();
        let targets = scene.shown.clone().unwrap_or_else(|| scene.targets.clone());
        let shown = |(target, state)| RegisteredTarget { state, ..RegisteredTarget::new(target) };
        let at = scene.now;
        (at, scene.call("List", "").map(|()| targets.into_iter().map(shown).collect()))
    }

    async fn read_tags(&self) -> Result<Tags, ElbError> {
        let mut scene = self.borrow_mut();
        scene.call("ReadTags", "")?;
        Ok(scene.tags.clone())
    }

    async fn write_tags(&self, changes: &TagChanges) -> Result<(), ElbError> {
        let mut scene = self.borrow_mut();
        scene.call("WriteTags", "")?;
        changes.apply(&mut scene.tags);
        assert!(scene.tags.len() <= 50, "more than 50 tags");
        Ok(())
    }

    async fn register(&self, targets: &BTreeSet<Target>) -> Changed {
        let mut scene = self.borrow_mut();
        let mut changed = Changed::default();
        if let Err(error) = scene.call("Register", &format!("{:?}", hosts(targets.iter().copied()))) {
            return Changed { failed: Some(error), ..changed };
        }
        for target in targets {
            if scene.refused.contains(&hosts([*target])[0]) {
                changed.refused.insert(*target, "refused".to_owned());
            } else if !scene.targets.contains_key(target) && scene.targets.len() >= scene.quota {
                changed.failed = Some(error("RegisterTargets", ElbErrorKind::QuotaReached));
                break;
            } else {
                let state = scene.targets.entry(*target).or_insert(TargetState::Draining);
                *state = if state.is_registered() { *state } else { TargetState::Initial };
                changed.accepted.insert(*target);
            }
        }
        changed
    }

    async fn deregister(&self, targets: &BTreeSet<RegisteredTarget>) -> Changed {
        let mut scene = self.borrow_mut();
        let mut changed = Changed::default();
        let going = hosts(targets.iter().map(|shown| shown.target));
        if let Err(error) = scene.call("Deregister", &format!("{going:?}")) {
            return Changed { failed: Some(error), ..changed };
        }
        for RegisteredTarget { target, .. } in targets {
            if scene.stuck.contains(&hosts([*target])[0]) {
                changed.refused.insert(*target, "refused".to_owned());
            } else {
                scene.targets.insert(*target, TargetState::Draining);
                changed.accepted.insert(*target);
            }
        }
        changed
    }

    async fn sleep(&self, pause: Duration) {
        self.borrow_mut().pass(pause);
    }
}
