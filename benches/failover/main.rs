//! How soon targets follow a change in DNS, in each mode, next to what functions do that look once a minute or once at
//! an event: `make bench-failover`. It prints a Markdown table, and draws docs/failover.svg.
//!
//! The release binary runs against the name server and the AWS of the tests, which live in this process. All modes run
//! at the same time, each with a binary, a name server and an AWS of its own. AWS takes [`AWS_LATENCY`] for each call;
//! what the real one takes instead comes on top.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that goes wrong shall stop where it does"
)]

mod chart;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{
    aws::{Call, FakeAws, TargetGroup},
    binding,
    dns::FakeDns,
    front::{Death, Front},
    release_binary,
    runtime_api::{Bootstrap, RuntimeApi},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use chart::Curve;

/// What RDS gives its names.
const TTL_SECONDS: u32 = 5;

const AWS_LATENCY: Duration = Duration::from_millis(20);

/// How long each mode is measured.
const DURATION: Duration = Duration::from_secs(260);

/// From the start of one mode to that of the next, so that they do not all have their minutes' beginnings together.
const APART: Duration = Duration::from_millis(5300);

/// From one event to the next: DNS moves within [`DNS_IS_LATE`], and a watch ends 30 s after that.
const ROUND: Duration = Duration::from_secs(85);

/// How many seconds after an event DNS moves.
const DNS_IS_LATE: (f64, f64) = (1.0, 40.0);

/// The same where what counts is how soon the function is ready after a freeze.
const DNS_IS_SOON: (f64, f64) = (0.0, 1.0);

/// Until each function has looked for the first time.
const WARM_UP: Duration = Duration::from_secs(4);

const MINUTE: Duration = Duration::from_secs(60);

/// A kind of function, and when it is invoked.
struct Mode {
    title: &'static str,
    /// Its colour in the chart, where it is drawn.
    colour: Option<&'static str>,
    invoked: Invoked,
    poll_interval: u32,
    /// How many functions there are, each with invocations, and with names, of its own.
    functions: usize,
    /// How many names each function has, of which each changes by itself.
    names: usize,
    /// Whether a resolver in between repeats answers for as long as they live.
    through_cache: bool,
    /// Whether the process is frozen between two invocations, and its connections vanish without a word.
    is_frozen: bool,
    /// How soon a change has to be followed: the median, where there is a goal for it, and the worst.
    goal: Option<(Option<f64>, f64)>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum Invoked {
    /// At each event of RDS, which starts a watch.
    ByEvents,
    /// At each event, as by one that says nothing to the function: it looks once.
    OnceAtEvents,
    /// At the same second of each minute.
    EachMinute,
    /// At any second of each minute, which is as precise as EventBridge Scheduler says that it is.
    AnySecondOfEachMinute,
}

/// One function with 30 names.
const ONCE_A_MINUTE: Mode = Mode {
    title: "once a minute",
    colour: None,
    invoked: Invoked::EachMinute,
    poll_interval: 0,
    functions: 1,
    names: 30,
    through_cache: false,
    is_frozen: false,
    goal: None,
};

const MODES: [Mode; 12] = [
    Mode {
        title: "watch after an RDS event",
        colour: Some("#0a84d6"),
        invoked: Invoked::ByEvents,
        functions: 30,
        names: 1,
        goal: Some((Some(0.6), 1.5)),
        ..ONCE_A_MINUTE
    },
    Mode {
        title: "watch, through a resolver that caches",
        colour: Some("#6a8fc9"),
        invoked: Invoked::ByEvents,
        functions: 30,
        names: 1,
        through_cache: true,
        goal: Some((None, 1.5 + TTL_SECONDS as f64)),
        ..ONCE_A_MINUTE
    },
    Mode {
        title: "watch, DNS moves within 1 s after a freeze, connections vanished",
        invoked: Invoked::ByEvents,
        functions: 30,
        names: 1,
        is_frozen: true,
        goal: Some((None, 1.5)),
        ..ONCE_A_MINUTE
    },
    Mode { title: "polling, 1 s", colour: Some("#0f9d6c"), poll_interval: 1, goal: Some((None, 1.5)), ..ONCE_A_MINUTE },
    Mode {
        title: "polling, 1 s, through a resolver that caches",
        poll_interval: 1,
        through_cache: true,
        goal: Some((None, 1.5 + TTL_SECONDS as f64)),
        ..ONCE_A_MINUTE
    },
    Mode { title: "polling, 2 s", colour: Some("#7fa60a"), poll_interval: 2, goal: Some((None, 2.5)), ..ONCE_A_MINUTE },
    Mode { title: "polling, 5 s", colour: Some("#c9a000"), poll_interval: 5, goal: Some((None, 5.5)), ..ONCE_A_MINUTE },
    Mode {
        title: "polling, 5 s, through a resolver that caches",
        poll_interval: 5,
        through_cache: true,
        goal: Some((None, 5.5 + TTL_SECONDS as f64)),
        ..ONCE_A_MINUTE
    },
    Mode {
        title: "polling, 1 s, invoked at any second of each minute",
        invoked: Invoked::AnySecondOfEachMinute,
        poll_interval: 1,
        functions: 15,
        names: 4,
        ..ONCE_A_MINUTE
    },
    Mode { colour: Some("#e07b00"), functions: 30, names: 1, ..ONCE_A_MINUTE },
    Mode {
        title: "once a minute, at any second of it",
        colour: Some("#d5483b"),
        invoked: Invoked::AnySecondOfEachMinute,
        functions: 20,
        names: 3,
        ..ONCE_A_MINUTE
    },
    Mode {
        title: "once at an RDS event",
        colour: Some("#c23b9a"),
        invoked: Invoked::OnceAtEvents,
        functions: 15,
        names: 2,
        ..ONCE_A_MINUTE
    },
];

/// A change in DNS.
struct Flip {
    name: usize,
    at: Instant,
    address: &'static str,
    /// What comes too late for it: the next change of this name, or the next event.
    until: Instant,
}

/// What came of a mode.
#[derive(Default)]
struct Outcome {
    /// Seconds from each flip to RegisterTargets, sorted; infinite where it did not come.
    registered: Vec<f64>,
    /// Likewise to DeregisterTargets.
    deregistered: Vec<f64>,
    queries: usize,
    elb_calls: usize,
    put_metric_data: usize,
    /// Seconds that each invocation lasted, sorted.
    billed: Vec<f64>,
    /// What invocations failed with, as they do where this machine has too little time for all of it.
    errors: Vec<String>,
}

impl Outcome {
    /// That of all functions.
    fn sum(functions: Vec<Self>) -> Self {
        let mut sum = Self::default();
        for function in functions {
            sum.registered.extend(function.registered);
            sum.deregistered.extend(function.deregistered);
            sum.queries += function.queries;
            sum.elb_calls += function.elb_calls;
            sum.put_metric_data += function.put_metric_data;
            sum.billed.extend(function.billed);
            sum.errors.extend(function.errors);
        }
        for seconds in [&mut sum.registered, &mut sum.deregistered, &mut sum.billed] {
            seconds.sort_by(f64::total_cmp);
        }
        sum
    }

    /// How many changes were followed, of how many.
    fn followed(&self) -> (usize, usize) {
        (self.deregistered.iter().filter(|seconds| seconds.is_finite()).count(), self.deregistered.len())
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let binary = binary();
    println!(
        "{} modes of {}, for {} s each. Times: median, 95 %, worst.\n",
        MODES.len(),
        binary.display(),
        DURATION.as_secs()
    );
    let started = Instant::now() + Duration::from_millis(500);
    let binary = &binary;
    let runs = MODES.iter().enumerate().map(async |(number, mode)| {
        let started = started + APART * u32::try_from(number).unwrap();
        let functions = (0..mode.functions).map(|function| {
            let random = Random::new(number * 100 + function);
            run(mode, binary, started, random)
        });
        Outcome::sum(join_all(functions).await)
    });
    let outcomes = join_all(runs).await;

    println!(
        "| mode | changes followed | until RegisterTargets | until DeregisterTargets | goal |\n|---|---|---|---|---|"
    );
    let mut all_met = true;
    for (mode, outcome) in MODES.iter().zip(&outcomes) {
        println!("{}", row(mode, outcome));
        all_met &= is_met(mode, outcome) && outcome.errors.is_empty();
    }
    println!(
        "\n| mode | functions, names of each | changes | DNS queries | ELBv2 calls | PutMetricData calls | invocations | \
         seconds of one |\n|---|---|---|---|---|---|---|---|"
    );
    for (mode, outcome) in MODES.iter().zip(&outcomes) {
        println!("{}", calls_row(mode, outcome));
    }
    for (mode, outcome) in MODES.iter().zip(&outcomes) {
        if let Some(first) = outcome.errors.first() {
            println!("\n{}: {} invocations failed, the first with: {first}", mode.title, outcome.errors.len());
        }
    }
    let curves: Vec<_> = MODES
        .iter()
        .zip(&outcomes)
        .filter_map(|(mode, outcome)| {
            let (followed, flips) = outcome.followed();
            let spread = if followed == flips {
                spread(&outcome.deregistered)
            } else {
                format!("{followed} of {flips} followed")
            };
            let label = format!("{}: {spread}", mode.title);
            Some(Curve { label, colour: mode.colour?, seconds: &outcome.deregistered })
        })
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/failover.svg");
    fs::write(&path, chart::draw(&curves)).unwrap();
    println!("\n{} is drawn", path.display());
    if all_met { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The binary that is given, or that `make build` made.
fn binary() -> PathBuf {
    // Cargo gives `--bench`.
    let given = env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let binary = given.unwrap_or_else(release_binary);
    assert!(binary.exists(), "{} is not there", binary.display());
    binary
}

/// Lets a function follow names that flip.
async fn run(mode: &Mode, binary: &Path, started: Instant, mut random: Random) -> Outcome {
    // Not all functions in the same instant.
    let started = started + random.seconds((0.0, if mode.functions > 1 { 10.0 } else { 0.0 }));
    let dns = FakeDns::start().await;
    dns.set_ttl(TTL_SECONDS);
    let aws = FakeAws::start().await;
    aws.set_latency(AWS_LATENCY);
    let arns: Vec<_> = (0..mode.names)
        .map(|name| {
            let arn = aws.create_target_group(TargetGroup::new(&format!("db-{name}")));
            aws.add_target(&arn, &format!("{}:5432", ADDRESSES[0]), "healthy");
            dns.set_a(&hostname(name), &[ADDRESSES[0]]);
            arn
        })
        .collect();
    if mode.through_cache {
        dns.set_caching();
    }
    let bindings: Vec<_> = arns.iter().enumerate().map(|(name, arn)| binding(&hostname(name), arn)).collect();
    let front = Front::new(aws.address()).await;
    let url = if mode.is_frozen { format!("http://{}", front.address()) } else { aws.url().to_owned() };
    let environments = Environments {
        binary: binary.to_owned(),
        front: mode.is_frozen.then_some(front),
        variables: BTreeMap::from([
            ("AWS_ENDPOINT_URL", url),
            ("BINDINGS", json!(bindings).to_string()),
            ("DNS_SERVERS", dns.address().to_string()),
            // The names are so many functions in one, and shall not share one function's budget.
            ("ELB_REQUESTS_PER_SECOND", "0".to_owned()),
            ("POLL_INTERVAL_SECONDS", mode.poll_interval.to_string()),
        ]),
        idle: Mutex::default(),
    };
    if mode.is_frozen {
        // There is an execution environment that was frozen before the first event, too.
        environments.invoke(json!({}), MINUTE).await;
    }
    let (invocations, flips) = tokio::join!(
        invoke(mode, Arc::new(environments), started, random.clone()),
        join_all((0..mode.names).map(|name| flip(mode, &dns, name, started, random.of(name)))),
    );
    let calls = aws.calls();
    let flips: Vec<_> = flips.into_iter().flatten().collect();
    let after = |action: &str, address: fn(&Flip) -> &'static str| -> Vec<_> {
        flips.iter().map(|flip| seconds_until(&calls, action, &arns[flip.name], address(flip), flip)).collect()
    };
    let count = |is_metrics: bool| calls.iter().filter(|call| (call.action == "PutMetricData") == is_metrics).count();
    let (billed, errors): (_, Vec<_>) = invocations.into_iter().unzip();
    Outcome {
        registered: after("RegisterTargets", |flip| flip.address),
        deregistered: after("DeregisterTargets", |flip| other(flip.address)),
        queries: dns.queries().len(),
        elb_calls: count(false),
        put_metric_data: count(true),
        billed,
        errors: errors.into_iter().flatten().collect(),
    }
}

/// Seconds until that call for that target, if it came in time.
fn seconds_until(calls: &[Call], action: &str, arn: &str, address: &str, flip: &Flip) -> f64 {
    let call = calls.iter().find(|call| {
        call.action == action
            && call.arn.as_deref() == Some(arn)
            && (flip.at..flip.until).contains(&call.at)
            && call.targets.iter().any(|target| target.id == address)
    });
    call.map_or(f64::INFINITY, |call| call.at.duration_since(flip.at).as_secs_f64())
}

/// Changes the answer for a name again and again.
async fn flip(mode: &Mode, dns: &FakeDns, name: usize, started: Instant, mut random: Random) -> Vec<Flip> {
    let end = started + DURATION;
    let mut moments = Vec::new();
    match mode.invoked {
        Invoked::ByEvents | Invoked::OnceAtEvents => {
            let mut event = started + WARM_UP;
            let late = if mode.is_frozen { DNS_IS_SOON } else { DNS_IS_LATE };
            while event + ROUND <= end {
                moments.push((event + random.seconds(late), event + ROUND));
                event += ROUND;
            }
        }
        Invoked::EachMinute | Invoked::AnySecondOfEachMinute => {
            // So far apart that each can be followed before the next.
            let apart = match (mode.invoked, mode.poll_interval) {
                (Invoked::AnySecondOfEachMinute, _) => (122.0, 140.0),
                (_, 0) => (62.0, 90.0),
                _ => (12.0, 30.0),
            };
            let mut at = started + WARM_UP + random.seconds((0.0, apart.0));
            loop {
                let next = at + random.seconds(apart);
                if at + Duration::from_secs_f64(apart.0) > end {
                    break;
                }
                moments.push((at, next));
                at = next;
            }
        }
    }
    let mut flips = Vec::new();
    for (number, (at, until)) in moments.into_iter().enumerate() {
        sleep_until(at).await;
        let address = ADDRESSES[(number + 1) % 2];
        dns.set_a(&hostname(name), &[address]);
        flips.push(Flip { name, at: Instant::now(), address, until });
    }
    flips
}

/// Invokes the function as its mode says. Of each invocation, how long it lasted and what it failed with.
async fn invoke(
    mode: &Mode,
    environments: Arc<Environments>,
    started: Instant,
    mut random: Random,
) -> Vec<(f64, Option<String>)> {
    let (event, limit, period, first) = match mode.invoked {
        Invoked::ByEvents => {
            (json!({"source": "aws.rds", "detail": {"EventID": "RDS-EVENT-0049"}}), 300, ROUND, WARM_UP)
        }
        Invoked::OnceAtEvents => (json!({}), 60, ROUND, WARM_UP),
        Invoked::EachMinute | Invoked::AnySecondOfEachMinute => {
            (json!({}), if mode.poll_interval == 0 { 60 } else { 90 }, MINUTE, Duration::ZERO)
        }
    };
    let mut running = JoinSet::new();
    let mut regular = started + first;
    while regular < started + DURATION {
        let late = match mode.invoked {
            Invoked::AnySecondOfEachMinute => random.seconds((0.0, 60.0)),
            _ => Duration::ZERO,
        };
        let (environments, event) = (environments.clone(), event.clone());
        running.spawn(async move {
            sleep_until(regular + late).await;
            environments.invoke(event, Duration::from_secs(limit)).await
        });
        regular += period;
    }
    sleep_until(started + DURATION).await;
    let mut ended = Vec::new();
    while let Some(invocation) = running.try_join_next() {
        ended.push(invocation.unwrap());
    }
    ended
}

/// Execution environments: as Lambda does, one that is idle is used again, and one more is made where none is.
struct Environments {
    binary: PathBuf,
    /// Where connections vanish while one is frozen; `None`: it is not.
    front: Option<Front>,
    variables: BTreeMap<&'static str, String>,
    idle: Mutex<Vec<(RuntimeApi, Bootstrap)>>,
}

impl Environments {
    /// How many seconds the invocation lasted, and what it failed with.
    async fn invoke(&self, event: Value, limit: Duration) -> (f64, Option<String>) {
        let idle = self.idle.lock().unwrap().pop();
        let (api, bootstrap) = match idle {
            Some(idle) => idle,
            None => {
                let api = RuntimeApi::start().await;
                let bootstrap = Bootstrap::start(self.binary.to_str().unwrap(), &api, &self.variables);
                api.wait_for_poll().await;
                (api, bootstrap)
            }
        };
        let began = Instant::now();
        bootstrap.thaw();
        let reply = api.invoke(event, limit).await;
        let lasted = began.elapsed().as_secs_f64();
        if let Some(front) = &self.front {
            api.wait_for_poll().await;
            bootstrap.freeze();
            front.kill(Death::Silent).await;
        }
        self.idle.lock().unwrap().push((api, bootstrap));
        (lasted, reply.err().map(|error| error.error_message))
    }
}

/// How soon changes were followed.
fn row(mode: &Mode, outcome: &Outcome) -> String {
    let (followed, flips) = outcome.followed();
    let goal = match mode.goal {
        None => String::new(),
        Some((median, worst)) => {
            let median = median.map(|seconds| format!("median under {seconds} s, ")).unwrap_or_default();
            let met = if is_met(mode, outcome) { "met" } else { "**missed**" };
            format!("{median}worst under {worst} s: {met}")
        }
    };
    let (registered, deregistered) = (spread(&outcome.registered), spread(&outcome.deregistered));
    format!("| {} | {followed} of {flips} | {registered} | {deregistered} | {goal} |", mode.title)
}

/// What it took.
fn calls_row(mode: &Mode, outcome: &Outcome) -> String {
    format!(
        "| {} | {}, {} | {} | {} | {} | {} | {} | {} |",
        mode.title,
        mode.functions,
        mode.names,
        outcome.deregistered.len(),
        outcome.queries,
        outcome.elb_calls,
        outcome.put_metric_data,
        outcome.billed.len(),
        spread(&outcome.billed),
    )
}

/// Whether all was followed, and as soon as it should.
fn is_met(mode: &Mode, outcome: &Outcome) -> bool {
    mode.goal.is_none_or(|(median, worst)| {
        [&outcome.registered, &outcome.deregistered].into_iter().all(|seconds| {
            quantile(seconds, 1.0) < worst && median.is_none_or(|median| quantile(seconds, 0.5) < median)
        })
    })
}

/// The median, the 95th percentile and the worst.
fn spread(seconds: &[f64]) -> String {
    let text = |share| match quantile(seconds, share) {
        seconds if seconds.is_finite() => format!("{seconds:.2} s"),
        _ => "–".to_owned(),
    };
    format!("{}, {}, {}", text(0.5), text(0.95), text(1.0))
}

/// Of sorted numbers, the smallest that so large a share does not exceed.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.max(1) - 1]
}

fn hostname(name: usize) -> String {
    format!("db-{name}.test")
}

/// Where a name points, in turn: as a database goes from one host to the other and back.
const ADDRESSES: [&str; 2] = ["10.0.1.10", "10.0.2.20"];

fn other(address: &str) -> &'static str {
    if address == ADDRESSES[0] { ADDRESSES[1] } else { ADDRESSES[0] }
}

/// Numbers that are the same in each run of the benchmark (SplitMix64).
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn new(seed: usize) -> Self {
        Self(seed as u64 * 1000)
    }

    /// Those of one name.
    fn of(&self, name: usize) -> Self {
        Self(self.0 + 1 + name as u64)
    }

    /// So many seconds, evenly distributed.
    fn seconds(&mut self, (from, to): (f64, f64)) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        let share = (bits >> 11) as f64 / (1u64 << 53) as f64;
        Duration::from_secs_f64(from + (to - from) * share)
    }
}
