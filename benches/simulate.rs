//! Weeks of names whose answers are samples, in virtual time: what goes by mistake, how long what is gone stays, and what
//! it takes. `make simulate` prints the table that docs/removal.md shows. `SEED` and `WEEKS` are of the environment;
//! `ROWS` picks rows that hold a text.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a wrong simulation shall stop where it is wrong"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use fastrand::Rng;
use nlb_hostname_targets::{
    binding::{Binding, Group},
    failure::{DnsFailure, ResolveError},
    hostname::Hostname,
    kind::HostnameKind,
    memory::Memory,
    network::AllowedNetworks,
    resolution::Answer,
    run::{Mode, Now, Run, Step, Task},
    state::Timestamp,
    tags::Tags,
    target::{Facts, IpFamily, RegisteredTarget, Target, TargetState},
};
use serde_json::json;

/// A name, and the resolver that is asked for it.
#[derive(Clone, Copy)]
struct Name {
    kind: HostnameKind,
    /// How many addresses it has; of an RDS Proxy, at most.
    addresses: usize,
    /// How many of them an answer holds.
    held: usize,
    order: Order,
    /// Whether one address is in one of 20 answers only.
    is_skewed: bool,
    ttl: Duration,
    /// How many caches there are, of which each query meets one. 0: each query is answered anew.
    caches: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Order {
    Fixed,
    OneByOne,
    Random,
}

/// The execution environments that take turns, and how long each lives.
#[derive(Clone, Copy)]
struct Environments {
    number: usize,
    life: Duration,
}

/// What a week is simulated with.
#[derive(Clone, Copy)]
struct Row {
    name: Name,
    environments: Environments,
}

/// What came of it.
#[derive(Default)]
struct Figures {
    runs: u32,
    queries: u32,
    calls: BTreeMap<&'static str, u32>,
    /// What the runs lasted, in sum.
    lasted: Duration,
    false_removals: u32,
    /// How long addresses that were gone stayed targets: dead ones, which are unhealthy, and those that live on.
    dead_stayed: Vec<Duration>,
    healthy_stayed: Vec<Duration>,
    /// How many there still are in the end, or came back, and for how long those that had stayed longest.
    still_there: Vec<Duration>,
    /// How long new addresses were no targets.
    waited: Vec<Duration>,
}

/// A target as AWS keeps it.
#[derive(Clone, Copy)]
struct Registration {
    registered_at: Duration,
    draining_since: Option<Duration>,
}

struct Gone {
    since: Duration,
    is_dead: bool,
}

/// Everything that changes as time goes by.
struct Week {
    row: Row,
    rng: Rng,
    now: Duration,
    /// What the name has at present.
    alive: Vec<IpAddr>,
    rare: Option<IpAddr>,
    last_address: u32,
    turn: usize,
    /// What a cache holds, and until when.
    caches: Vec<Option<(Duration, BTreeSet<IpAddr>)>>,
    next_change: Duration,
    /// An address that is to join, and when.
    joining: Option<Duration>,
    outage: Duration,
    started: Instant,
    group: Group,
    targets: BTreeMap<IpAddr, Registration>,
    tags: Tags,
    gone: BTreeMap<IpAddr, Gone>,
    joined_at: BTreeMap<IpAddr, Duration>,
    figures: Figures,
}

impl Week {
    fn new(row: Row, rng: Rng) -> Self {
        let mut week = Self {
            row,
            rng,
            now: Duration::ZERO,
            alive: Vec::new(),
            rare: None,
            last_address: 0,
            turn: 0,
            caches: vec![None; row.name.caches],
            next_change: Duration::ZERO,
            joining: None,
            outage: Duration::ZERO,
            started: Instant::now(),
            group: row.name.group(),
            targets: BTreeMap::new(),
            tags: Tags::new(),
            gone: BTreeMap::new(),
            joined_at: BTreeMap::new(),
            figures: Figures::default(),
        };
        for _ in 0..row.name.addresses {
            week.join();
        }
        week.joined_at.clear();
        let registration = Registration { registered_at: Duration::ZERO, draining_since: None };
        week.targets = week.alive.iter().map(|address| (*address, registration)).collect();
        week.next_change = week.between(CHANGES);
        week.outage = week.between(OUTAGES);
        week
    }

    fn clock(&self) -> Now {
        let since_epoch = 1_763_802_000_000 + u64::try_from(self.now.as_millis()).expect("a week is short");
        Now { at: self.started + self.now, time: Timestamp(since_epoch) }
    }

    fn ask_dns(&mut self) -> Result<Answer, ResolveError> {
        self.figures.queries += 1;
        let is_outage = self.now > self.outage && self.now < self.outage + OUTAGE;
        if is_outage || self.rng.f64() < FAILURE {
            // No reply, and none to the second attempt.
            self.pass(Duration::from_secs(4));
            let server = SocketAddr::from(([10, 0, 0, 2], 53));
            return Err(ResolveError { failures: vec![(server, DnsFailure::TimeOut(Duration::from_secs(4)))] });
        }
        self.pass(DNS_TIME);
        let (until, addresses) = match self.row.name.caches {
            0 => self.fresh(),
            caches => {
                let cache = self.rng.usize(..caches);
                match &self.caches[cache] {
                    Some((until, addresses)) if *until > self.now => (*until, addresses.clone()),
                    _ => {
                        let fresh = self.fresh();
                        self.caches[cache] = Some(fresh.clone());
                        fresh
                    }
                }
            }
        };
        // Resolvers tell whole seconds.
        let ttl = (until - self.now).as_millis().div_ceil(1000);
        let ttl = Duration::from_secs(ttl.try_into().expect("TTLs are short"));
        let names = vec![self.row.name.hostname().to_owned()];
        Ok(Answer { addresses, names, ttl, longest_ttl: ttl, at: self.clock().at })
    }

    fn call(&mut self, action: &'static str) {
        *self.figures.calls.entry(action).or_default() += 1;
        self.pass(CALL_TIME);
    }

    fn list(&mut self) -> Vec<RegisteredTarget> {
        self.call("DescribeTargetHealth");
        let now = self.now;
        self.targets.retain(|_, registration| registration.draining_since.is_none_or(|since| now - since <= DRAINING));
        let state = |address, registration: &Registration| match self.gone.get(address) {
            _ if registration.draining_since.is_some() => TargetState::Draining,
            _ if now - registration.registered_at < CHECKS => TargetState::Initial,
            Some(gone) if gone.is_dead && now - gone.since > CHECKS => TargetState::Unhealthy,
            _ => TargetState::Healthy,
        };
        let listed = self.targets.iter().map(|(address, registration)| RegisteredTarget {
            state: state(address, registration),
            ..RegisteredTarget::new(Target { address: *address, port: PORT })
        });
        listed.collect()
    }

    fn register(&mut self, targets: &[Target]) {
        self.call("RegisterTargets");
        for Target { address, .. } in targets {
            self.targets.insert(*address, Registration { registered_at: self.now, draining_since: None });
            if let Some(at) = self.joined_at.remove(address) {
                self.figures.waited.push(self.now - at);
            }
        }
    }

    fn deregister(&mut self, targets: &[Target]) {
        self.call("DeregisterTargets");
        for Target { address, .. } in targets {
            self.targets.get_mut(address).expect("it is registered").draining_since = Some(self.now);
            match self.gone.remove(address) {
                Some(Gone { since, is_dead: true }) => self.figures.dead_stayed.push(self.now - since),
                Some(Gone { since, is_dead: false }) => self.figures.healthy_stayed.push(self.now - since),
                None => self.figures.false_removals += 1,
            }
        }
    }

    /// The product's own run, carried out.
    fn run(&mut self, memory: &mut Memory) {
        let group = self.group.clone();
        let allowed = AllowedNetworks::default();
        let task = Task {
            group: &group,
            allowed: &allowed,
            function: "simulated",
            mode: Mode::Full,
            facts: Some(Facts { port: PORT, family: IpFamily::V4 }),
            nonce: self.rng.u32(..1_000_000),
            cutoff: self.clock().at + TIME_OUT - RESERVE,
        };
        memory.begin_invocation();
        let mut run = Run::new(task, memory, None, self.clock());
        loop {
            let now = self.clock();
            if now.at >= task.cutoff {
                run.cut_off("simulated");
                break;
            }
            match run.next(now) {
                Step::Done => break,
                Step::Pause(pause) => self.pass(pause),
                Step::Read { hostnames, tags, .. } => {
                    let listed = self.list();
                    for hostname in hostnames {
                        let answer = self.ask_dns();
                        run.answered(BTreeMap::from([(hostname, answer)]), self.clock());
                    }
                    run.listed(Ok(listed), now.at);
                    if tags {
                        *self.figures.calls.entry("DescribeTags").or_default() += 1;
                        run.tags_read(Ok(self.tags.clone()));
                    }
                }
                Step::Resolve { hostnames, .. } => {
                    for hostname in hostnames {
                        let answer = self.ask_dns();
                        run.answered(BTreeMap::from([(hostname, answer)]), self.clock());
                    }
                }
                Step::Reread { tags } => {
                    let listed = self.list();
                    run.listed(Ok(listed), now.at);
                    if tags {
                        self.call("DescribeTags");
                        run.tags_read(Ok(self.tags.clone()));
                    }
                }
                Step::ReadTags => {
                    self.call("DescribeTags");
                    run.tags_read(Ok(self.tags.clone()));
                }
                Step::AddTags(tags) => {
                    self.call("AddTags");
                    self.tags.extend(tags.clone());
                    run.tags_added(&tags, Ok(()));
                }
                Step::RemoveTags(keys) => {
                    self.call("RemoveTags");
                    self.tags.retain(|key, _| !keys.contains(key));
                    run.tags_removed(&keys, Ok(()));
                }
                Step::Register(targets) => {
                    let targets: Vec<_> = targets.into_iter().collect();
                    self.register(&targets);
                    run.registered_targets(&targets, self.clock().at);
                    run.registration_ended(BTreeMap::new(), None);
                }
                Step::Deregister(targets) => {
                    let targets: Vec<_> = targets.into_iter().map(|shown| shown.target).collect();
                    self.deregister(&targets);
                    run.deregistered_targets(&targets, self.clock().at);
                    run.deregistration_ended(BTreeMap::new(), None);
                }
            }
        }
        drop(run.finish());
    }

    fn simulate(mut self, duration: Duration) -> Figures {
        let Environments { number, life } = self.row.environments;
        let mut environments: Vec<Option<(Duration, Memory)>> = (0..number).map(|_| None).collect();
        let mut scheduled = Duration::ZERO;
        while scheduled < duration {
            let began = scheduled + JITTER.mul_f64(self.rng.f64());
            let began = began.max(self.now);
            self.pass(began - self.now);
            let position = usize::try_from(self.figures.runs).expect("few runs") % number;
            let ends = self.now + life.mul_f64(0.5 + self.rng.f64());
            let slot = &mut environments[position];
            if slot.as_ref().is_none_or(|(ends, _)| *ends <= began) {
                *slot = Some((ends, Memory::default()));
            }
            let (_, memory) = slot.as_mut().expect("one was made");
            self.run(memory);
            self.figures.runs += 1;
            self.figures.lasted += self.now - began;
            scheduled += SCHEDULE;
        }
        let now = self.now;
        self.figures.still_there = self.gone.values().map(|gone| now - gone.since).collect();
        self.figures
    }

    /// Lets time go by, with what happens in it.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        if self.joining.is_some_and(|at| at <= self.now) {
            self.joining = None;
            self.join();
        }
        if self.next_change <= self.now {
            self.next_change = self.now + self.between(CHANGES);
            self.change();
        }
        if self.outage + OUTAGE < self.now {
            self.outage = self.now + self.between(OUTAGES);
        }
    }

    /// An address leaves, and another one takes its place some minutes later. A proxy scales.
    fn change(&mut self) {
        match self.row.name.kind {
            HostnameKind::RdsProxy => {
                let grows = self.alive.len() <= 2 || (self.alive.len() < self.row.name.addresses && self.rng.bool());
                if grows { self.join() } else { self.leave() }
            }
            _ if self.alive.len() == 1 => {
                self.leave();
                self.join();
            }
            _ => {
                self.leave();
                self.joining = Some(self.now + self.between(REPLACEMENT));
            }
        }
    }

    fn leave(&mut self) {
        let address = self.alive.remove(self.rng.usize(..self.alive.len()));
        self.joined_at.remove(&address);
        // Who is alone is in all answers, and no longer rare.
        if self.rare == Some(address) || self.alive.len() == 1 {
            self.rare = None;
        }
        if self.targets.get(&address).is_some_and(|registration| registration.draining_since.is_none()) {
            let is_dead = self.rng.bool();
            self.gone.insert(address, Gone { since: self.now, is_dead });
        }
    }

    fn join(&mut self) {
        self.last_address += 1;
        let address = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + self.last_address));
        self.alive.push(address);
        self.joined_at.insert(address, self.now);
        if self.row.name.is_skewed && self.rare.is_none() && self.alive.len() > 1 {
            self.rare = Some(address);
        }
    }

    fn fresh(&mut self) -> (Duration, BTreeSet<IpAddr>) {
        let Name { held, order, ttl, .. } = self.row.name;
        let mut pool = self.alive.clone();
        let mut held = held.min(pool.len());
        let mut addresses = BTreeSet::new();
        if let Some(rare) = self.rare.filter(|_| pool.len() > 1) {
            pool.retain(|address| *address != rare);
            held = held.min(pool.len());
            if self.rng.f64() < 1.0 / 20.0 {
                addresses.insert(rare);
                held -= 1;
            }
        }
        match order {
            Order::Fixed => addresses.extend(pool.iter().take(held)),
            Order::OneByOne => {
                self.turn += held;
                addresses.extend((0..held).map(|number| pool[(self.turn + number) % pool.len()]));
            }
            Order::Random => addresses.extend(self.rng.choose_multiple(pool, held)),
        }
        (self.now + ttl, addresses)
    }

    fn between(&mut self, (shortest, longest): (Duration, Duration)) -> Duration {
        shortest + (longest - shortest).mul_f64(self.rng.f64())
    }
}

impl Row {
    fn print(&self, figures: &Figures) {
        let a_run = |number: u32| f64::from(number) / f64::from(figures.runs);
        let calls: u32 = figures.calls.values().sum();
        let lasted = figures.lasted.as_secs_f64() / f64::from(figures.runs);
        let cost = RUNS_A_MONTH * (lasted * 0.125 * GB_SECOND + REQUEST);
        println!(
            "| {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {:.2} | {:.2} |",
            self.describe(),
            figures.false_removals,
            median_and_most(&figures.dead_stayed),
            median_and_most(&figures.healthy_stayed),
            if figures.still_there.is_empty() {
                "–".to_owned()
            } else {
                format!("{} ({})", figures.still_there.len(), figures.still_there.iter().max().unwrap().as_secs() / 60)
            },
            median_and_most(&figures.waited),
            a_run(figures.queries),
            lasted,
            a_run(calls),
            cost,
        );
    }

    fn describe(&self) -> String {
        let Environments { number, life } = self.environments;
        let life = format!("{} min", life.as_secs() / 60);
        let environments = if number == 1 { life } else { format!("{number} in turn, {life}") };
        format!("{} | {environments}", self.name.describe())
    }
}

impl Name {
    fn hostname(&self) -> &'static str {
        match self.kind {
            HostnameKind::AuroraReader => "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com",
            HostnameKind::LoadBalancer => "internal-web-1234567890.eu-west-1.elb.amazonaws.com",
            HostnameKind::RdsProxy => "orders.proxy-c9akciq32abc.eu-west-1.rds.amazonaws.com",
            HostnameKind::Instance => "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com",
            HostnameKind::Other => "db.example.com",
        }
    }

    /// Bound with nothing stated.
    fn group(&self) -> Group {
        let hostname = Hostname::try_from(self.hostname().to_owned()).expect("it is a hostname");
        assert_eq!(hostname.kind(), self.kind);
        let arn = "arn:aws:elasticloadbalancing:eu-west-1:123456789012:targetgroup/db/0123456789abcdef";
        let binding: Binding =
            serde_json::from_value(json!({"hostname": hostname, "target_group_arn": arn})).expect("it is a binding");
        Group::from_bindings("simulated", &[binding]).expect("it is a group").remove(0)
    }

    fn describe(&self) -> String {
        let Self { kind, addresses, held, order, is_skewed, ttl, caches } = self;
        let what = match kind {
            HostnameKind::AuroraReader => format!("{addresses} readers"),
            HostnameKind::LoadBalancer => format!("load balancer, {addresses} addresses"),
            HostnameKind::RdsProxy => format!("proxy, 2 to {addresses} addresses"),
            HostnameKind::Instance | HostnameKind::Other => format!("{addresses} addresses"),
        };
        let order = match order {
            Order::Fixed => "always the same",
            _ if held >= addresses => "all",
            Order::OneByOne => "one by one",
            Order::Random => "random",
        };
        let skewed = if *is_skewed { ", one in 1 of 20" } else { "" };
        let caches = match caches {
            0 => format!("{} s uncached", ttl.as_secs()),
            1 => format!("{} s", ttl.as_secs()),
            caches => format!("{} s, {caches} caches", ttl.as_secs()),
        };
        format!("{what}, {order}{skewed} | {caches}")
    }
}

fn median_and_most(durations: &[Duration]) -> String {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(most)) => {
            format!("{:.1} / {:.1}", median.as_secs_f64() / 60.0, most.as_secs_f64() / 60.0)
        }
        _ => "–".to_owned(),
    }
}

fn rows() -> Vec<Row> {
    let seconds = Duration::from_secs;
    let usual = Environments { number: 1, life: seconds(2 * 3600) };
    let reader = Name {
        kind: HostnameKind::AuroraReader,
        addresses: 1,
        held: 1,
        order: Order::Random,
        is_skewed: false,
        ttl: seconds(5),
        caches: 1,
    };
    let balancer = Name { kind: HostnameKind::LoadBalancer, held: 8, ttl: seconds(60), ..reader };
    let mut rows = Vec::new();
    let mut row = |name, environments| rows.push(Row { name, environments });
    for addresses in [1, 2, 3, 5, 8, 15, 30, 100] {
        for ttl in [0, 1, 5, 60] {
            for order in [Order::Random, Order::OneByOne] {
                row(Name { addresses, ttl: seconds(ttl), order, ..reader }, usual);
            }
        }
        row(Name { addresses, caches: 4, ..reader }, usual);
        row(Name { addresses, caches: 4, ttl: seconds(60), ..reader }, usual);
        if addresses > 1 {
            for ttl in [1, 5] {
                row(Name { addresses, is_skewed: true, ttl: seconds(ttl), ..reader }, usual);
            }
            row(Name { addresses, is_skewed: true, caches: 4, ..reader }, usual);
            row(Name { addresses, is_skewed: true, caches: 4, ttl: seconds(60), ..reader }, usual);
            row(Name { addresses, order: Order::Fixed, ..reader }, usual);
        }
        for life in [20 * 60, 12 * 3600] {
            row(Name { addresses, ..reader }, Environments { number: 1, life: seconds(life) });
        }
        row(Name { addresses, ..reader }, Environments { number: 2, life: seconds(2 * 3600) });
    }
    for addresses in [2, 6, 8, 12, 40, 100] {
        for caches in [1, 4, 0] {
            row(Name { addresses, caches, ..balancer }, usual);
        }
        if addresses > 8 {
            row(Name { addresses, order: Order::Fixed, ..balancer }, usual);
        }
        row(Name { addresses, ..balancer }, Environments { number: 1, life: seconds(20 * 60) });
        row(Name { addresses, ..balancer }, Environments { number: 2, life: seconds(2 * 3600) });
    }
    row(Name { kind: HostnameKind::RdsProxy, addresses: 6, held: 6, ..reader }, usual);
    rows
}

fn main() {
    let number = |name, default| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, weeks) = (number("SEED", 4), number("WEEKS", 2));
    let picked = env::var("ROWS").unwrap_or_default();
    let duration = WEEK * u32::try_from(weeks).expect("a few weeks");
    let rows: Vec<_> = rows().into_iter().filter(|row| row.describe().contains(&picked)).collect();
    println!(
        "SEED={seed} WEEKS={weeks}, {} rows, a run each minute; minutes, but queries, seconds, calls of a run.\n",
        rows.len()
    );
    println!(
        "| name, order of its answers | TTL | environment lives | false | dead stayed | healthy stayed | still there | new \
         waited | queries | lasted, s | ELBv2 calls | $ a month |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let next = AtomicUsize::new(0);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut figures: Vec<_> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let position = next.fetch_add(1, Ordering::Relaxed);
                let Some(row) = rows.get(position) else { return done };
                // Each row has a seed of its own, whichever thread draws from it.
                let rng = Rng::with_seed(seed + 1000 * u64::try_from(position).expect("few rows"));
                done.push((position, Week::new(*row, rng).simulate(duration)));
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no worker panics")).collect()
    });
    figures.sort_by_key(|(position, _)| *position);
    for (row, (_, figures)) in rows.iter().zip(&figures) {
        row.print(figures);
    }
    let false_removals: u32 = figures.iter().map(|(_, figures)| figures.false_removals).sum();
    println!("\n{false_removals} false removals in {} weeks", rows.len() as u64 * weeks);
}

/// The port of all targets.
const PORT: NonZeroU16 = NonZeroU16::new(5432).unwrap();

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

const SCHEDULE: Duration = Duration::from_secs(60);

/// How much later than its minute a run begins at most.
const JITTER: Duration = Duration::from_secs(10);

const TIME_OUT: Duration = Duration::from_secs(60);

/// How long before the time-out a run gives up.
const RESERVE: Duration = Duration::from_secs(2);

const DNS_TIME: Duration = Duration::from_millis(2);

const CALL_TIME: Duration = Duration::from_millis(20);

const DRAINING: Duration = Duration::from_secs(300);

/// How long health checks take to find a dead target, or a new one alive.
const CHECKS: Duration = Duration::from_secs(30);

/// How often an address leaves.
const CHANGES: (Duration, Duration) = (Duration::from_secs(3 * 3600), Duration::from_secs(9 * 3600));

/// How long until another one takes its place.
const REPLACEMENT: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(900));

/// The share of queries that fail.
const FAILURE: f64 = 0.002;

/// How long no query is answered, and how often that happens.
const OUTAGE: Duration = Duration::from_secs(180);

const OUTAGES: (Duration, Duration) = (Duration::from_secs(24 * 3600), Duration::from_secs(72 * 3600));

/// Prices in dollars: of a GB-second on arm64, of a request.
const GB_SECOND: f64 = 0.000_013_333_4;

const REQUEST: f64 = 0.000_000_2;

const RUNS_A_MONTH: f64 = 43_800.0;
