//! A week of a name whose answers are samples, in virtual time: what the real plan, state and sampling make of it, for
//! several settings. `make simulate` prints the table that docs/removal.md shows. `SEED` and `WEEKS` are of the
//! environment.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a wrong simulation shall stop where it is wrong"
)]

#[path = "../tests/it/model.rs"]
mod model;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use fastrand::Rng;
use nlb_hostname_targets::{binding::Ownership, kind::HostnameKind, plan::Policy, state::Timestamp, target::Target};

use model::{Answer, Call, PORT, Read, Run, Settings, Step, TargetGroup, World};

/// A name, and the resolver that is asked for it.
#[derive(Clone, Copy)]
struct Name {
    kind: HostnameKind,
    /// How many addresses it has; of an RDS Proxy, at most.
    addresses: usize,
    /// How many of them an answer holds.
    held: usize,
    order: Order,
    ttl: Duration,
    /// How many caches there are, of which each query meets one. 0: each query is answered anew.
    caches: usize,
}

#[derive(Clone, Copy)]
enum Order {
    OneByOne,
    Random,
}

/// What a week is simulated with.
#[derive(Clone, Copy)]
struct Row {
    name: Name,
    /// Those of a binding; `None`: by the kind.
    lookups: Option<u32>,
    grace: Option<u32>,
    timeout: Duration,
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
    /// How long addresses that were gone stayed targets.
    stayed: Vec<Duration>,
    /// How long new addresses were no targets.
    waited: Vec<Duration>,
}

/// Everything that changes as time goes by.
struct Week {
    row: Row,
    rng: Rng,
    now: Duration,
    /// What the name has at present.
    alive: Vec<IpAddr>,
    last_address: u32,
    turn: usize,
    /// What a cache holds, and until when.
    caches: Vec<Option<(Duration, BTreeSet<IpAddr>)>>,
    next_change: Duration,
    /// An address that is to join, and when.
    joining: Option<Duration>,
    outage: Duration,
    group: TargetGroup,
    draining_since: BTreeMap<Target, Duration>,
    gone_since: BTreeMap<IpAddr, Duration>,
    joined_at: BTreeMap<IpAddr, Duration>,
    figures: Figures,
}

impl World for Week {
    fn now(&self) -> Duration {
        self.now
    }

    fn clock(&self) -> Timestamp {
        Timestamp(1_763_802_000_000 + u64::try_from(self.now.as_millis()).expect("a week is short"))
    }

    fn ask_dns(&mut self) -> Option<Answer> {
        self.figures.queries += 1;
        let is_outage = self.now > self.outage && self.now < self.outage + OUTAGE;
        if is_outage || self.rng.f64() < FAILURE {
            // No reply, and none to the second attempt.
            self.pass(Duration::from_secs(4));
            return None;
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
        let ttl =
            Duration::from_secs((until - self.now).as_millis().div_ceil(1000).try_into().expect("TTLs are short"));
        Some(Answer { addresses, refused: BTreeSet::new(), ttl, others_resolved: true })
    }

    fn call(&mut self, call: &Call) -> Option<&TargetGroup> {
        *self.figures.calls.entry(call.action()).or_default() += 1;
        self.pass(CALL_TIME);
        match call {
            Call::DescribeTargetHealth => {
                let drained: Vec<_> = self
                    .draining_since
                    .iter()
                    .filter(|(_, since)| self.now - **since > DRAINING)
                    .map(|(t, _)| *t)
                    .collect();
                for target in drained {
                    self.draining_since.remove(&target);
                    self.group.targets.remove(&target);
                }
            }
            Call::DeregisterTargets(targets) => {
                for target in targets {
                    self.draining_since.insert(*target, self.now);
                    match self.gone_since.remove(&target.address) {
                        Some(since) => self.figures.stayed.push(self.now - since),
                        None => self.figures.false_removals += 1,
                    }
                }
            }
            Call::RegisterTargets(targets) => {
                for target in targets {
                    self.draining_since.remove(target);
                    if let Some(at) = self.joined_at.remove(&target.address) {
                        self.figures.waited.push(self.now - at);
                    }
                }
            }
            _ => {}
        }
        self.group.apply(call);
        Some(&self.group)
    }
}

impl Week {
    fn new(row: Row, rng: Rng) -> Self {
        let mut week = Self {
            row,
            rng,
            now: Duration::ZERO,
            alive: Vec::new(),
            last_address: 0,
            turn: 0,
            caches: vec![None; row.name.caches],
            next_change: Duration::ZERO,
            joining: None,
            outage: Duration::ZERO,
            group: TargetGroup::default(),
            draining_since: BTreeMap::new(),
            gone_since: BTreeMap::new(),
            joined_at: BTreeMap::new(),
            figures: Figures::default(),
        };
        for _ in 0..row.name.addresses {
            week.join();
        }
        week.joined_at.clear();
        week.next_change = week.between(CHANGES);
        week.outage = week.between(OUTAGES);
        week
    }

    fn simulate(mut self, duration: Duration) -> Figures {
        let settings = self.row.settings();
        let mut scheduled = Duration::ZERO;
        while scheduled < duration {
            let began = scheduled + JITTER.mul_f64(self.rng.f64());
            let began = began.max(self.now);
            self.pass(began - self.now);
            let mut run = Run::new(
                settings,
                false,
                began + self.row.timeout - RESERVE,
                vec![Read::Dns, Read::Tags, Read::Targets],
            );
            loop {
                match run.step(&mut self) {
                    Step::Called => {}
                    Step::Paused(pause) => self.pass(pause),
                    Step::Ended { .. } => break,
                }
            }
            self.figures.runs += 1;
            self.figures.lasted += self.now - began;
            scheduled += SCHEDULE;
        }
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
        if self.group.registered().contains(&Target { address, port: PORT }) {
            self.gone_since.insert(address, self.now);
        }
    }

    fn join(&mut self) {
        self.last_address += 1;
        let address = IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + self.last_address));
        self.alive.push(address);
        self.joined_at.insert(address, self.now);
    }

    fn fresh(&mut self) -> (Duration, BTreeSet<IpAddr>) {
        let Name { held, order, ttl, .. } = self.row.name;
        let held = held.min(self.alive.len());
        let addresses = match order {
            Order::OneByOne => {
                self.turn += held;
                (0..held).map(|number| self.alive[(self.turn + number) % self.alive.len()]).collect()
            }
            Order::Random => self.rng.choose_multiple(self.alive.iter().copied(), held).into_iter().collect(),
        };
        (self.now + ttl, addresses)
    }

    fn between(&mut self, (shortest, longest): (Duration, Duration)) -> Duration {
        shortest + (longest - shortest).mul_f64(self.rng.f64())
    }
}

impl Row {
    fn settings(&self) -> Settings {
        let Self { name, lookups, grace, .. } = *self;
        Settings {
            policy: Policy {
                ownership: Ownership::Exclusive,
                deregister_after_seconds: grace.unwrap_or_else(|| name.kind.deregister_after_seconds()),
            },
            kind: name.kind,
            lookups,
        }
    }

    fn print(&self, figures: &Figures) {
        let Self { name, lookups, grace, timeout } = self;
        let by_kind = |stated: Option<u32>, default: u32| {
            stated.map_or_else(|| format!("({default})"), |number| number.to_string())
        };
        let a_run = |number: u32| f64::from(number) / f64::from(figures.runs);
        let calls = |action| a_run(figures.calls.get(action).copied().unwrap_or_default());
        println!(
            "| {} | {} | {} | {} | {} | {} | {} | {:.1} | {:.1} | {:.2} | {:.2} | {:.3} | {:.3} |",
            name.describe(),
            by_kind(*grace, name.kind.deregister_after_seconds()),
            by_kind(*lookups, name.kind.lookups()),
            timeout.as_secs(),
            figures.false_removals,
            median_and_most(&figures.stayed),
            median_and_most(&figures.waited),
            a_run(figures.queries),
            figures.lasted.as_secs_f64() / f64::from(figures.runs),
            calls("DescribeTargetHealth") + calls("DescribeTags"),
            calls("AddTags") + calls("RemoveTags"),
            calls("RegisterTargets"),
            calls("DeregisterTargets"),
        );
    }
}

impl Name {
    fn describe(&self) -> String {
        let Self { kind, addresses, held, order, ttl, caches } = self;
        let what = match kind {
            HostnameKind::AuroraReader => format!("{addresses} readers"),
            HostnameKind::LoadBalancer => format!("load balancer, {addresses} addresses"),
            HostnameKind::RdsProxy => format!("proxy, 2 to {addresses} addresses"),
            HostnameKind::Other => format!("{addresses} addresses"),
        };
        let order = match order {
            _ if held >= addresses => "all",
            Order::OneByOne => "one by one",
            Order::Random => "random",
        };
        let caches = match caches {
            0 => "uncached".to_owned(),
            1 => format!("{} s", ttl.as_secs()),
            caches => format!("{} s, {caches} caches", ttl.as_secs()),
        };
        format!("{what}, {order}, {caches}")
    }
}

fn median_and_most(durations: &[Duration]) -> String {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    match (sorted.get(sorted.len() / 2), sorted.last()) {
        (Some(median), Some(most)) => format!("{} / {}", median.as_secs(), most.as_secs()),
        _ => "–".to_owned(),
    }
}

fn rows() -> Vec<Row> {
    let seconds = Duration::from_secs;
    let mut rows = Vec::new();
    for addresses in [1, 2, 3, 5, 8, 15] {
        for order in [Order::OneByOne, Order::Random] {
            for ttl in [1, 5] {
                let name =
                    Name { kind: HostnameKind::AuroraReader, addresses, held: 1, order, ttl: seconds(ttl), caches: 1 };
                for (grace, lookups, timeout) in SETTINGS {
                    rows.push(Row { name, lookups, grace, timeout: seconds(timeout) });
                }
            }
        }
    }
    for addresses in [2, 6, 12, 40] {
        for caches in [1, 4, 0] {
            let name = Name {
                kind: HostnameKind::LoadBalancer,
                addresses,
                held: 8,
                order: Order::Random,
                ttl: seconds(60),
                caches,
            };
            for (grace, lookups, timeout) in SETTINGS {
                rows.push(Row { name, lookups, grace, timeout: seconds(timeout) });
            }
        }
    }
    let name =
        Name { kind: HostnameKind::RdsProxy, addresses: 6, held: 6, order: Order::Random, ttl: seconds(5), caches: 1 };
    for (grace, lookups, timeout) in SETTINGS {
        rows.push(Row { name, lookups, grace, timeout: seconds(timeout) });
    }
    rows
}

fn main() {
    let number = |name, default| env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (seed, weeks) = (number("SEED", 4), number("WEEKS", 1));
    let duration = WEEK * u32::try_from(weeks).expect("a few weeks");
    let rows = rows();
    println!(
        "SEED={seed} WEEKS={weeks}, a run each minute; times in seconds; calls, queries and seconds of a run: mean.\n"
    );
    println!(
        "| name, order of its answers, TTL | grace | lookups | time-out | false removals | gone stayed, median / most | \
         new waited, median / most | queries | lasted | reads | tag writes | registers | deregisters |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
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
}

/// Grace, lookups (`None`: by the kind) and the function's time-out.
const SETTINGS: [(Option<u32>, Option<u32>, u64); 12] = [
    (None, None, 30),
    (None, None, 60),
    (Some(120), None, 60),
    (Some(300), Some(1), 60),
    (Some(300), Some(5), 60),
    (Some(300), Some(15), 60),
    (Some(900), None, 60),
    (Some(1800), None, 30),
    (Some(1800), None, 60),
    (Some(1800), Some(5), 60),
    (Some(3600), None, 60),
    (Some(3600), Some(5), 60),
];

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

const SCHEDULE: Duration = Duration::from_secs(60);

/// How much later than its minute a run begins at most.
const JITTER: Duration = Duration::from_secs(10);

/// How long before the time-out a run gives up.
const RESERVE: Duration = Duration::from_secs(2);

const DNS_TIME: Duration = Duration::from_millis(2);

const CALL_TIME: Duration = Duration::from_millis(20);

const DRAINING: Duration = Duration::from_secs(300);

/// How often an address leaves.
const CHANGES: (Duration, Duration) = (Duration::from_secs(3 * 3600), Duration::from_secs(9 * 3600));

/// How long until another one takes its place.
const REPLACEMENT: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(900));

/// The share of queries that fail.
const FAILURE: f64 = 0.002;

/// How long no query is answered, and how often that happens.
const OUTAGE: Duration = Duration::from_secs(180);

const OUTAGES: (Duration, Duration) = (Duration::from_secs(24 * 3600), Duration::from_secs(72 * 3600));
