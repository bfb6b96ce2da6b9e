//! What the release binary takes of time, processor and memory, as a Markdown table: `make bench`.
//!
//! The whole process is measured from outside. The Lambda Runtime API, the name server and AWS are those of the tests,
//! and live in this process, so that what they use is not counted, though it needs the same processors: in the time that
//! a run of many groups lasts, it is. They speak plain HTTP, and connections are kept, but for the rows of production:
//! there it is TLS, the process trusts the system's certificates, and it is frozen between two runs.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a benchmark that goes wrong shall stop where it does"
)]

use std::{
    env, fs,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ciborium::cbor;
use flate2::{Compression, write::DeflateEncoder};
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use support::{
    World,
    aws::TargetGroup,
    binding,
    dns::Reply,
    front::{Death, Front},
    release_binary,
    runtime_api::{Bootstrap, RuntimeApi},
    tls::{Authority, Tls, TlsConnector},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::sleep,
};

#[tokio::main]
async fn main() {
    // Cargo gives `--bench`; what else is given says which parts to measure.
    let wanted: Vec<_> = env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|name| name == part);
    let binary = release_binary();
    machine();
    if wants("start") {
        size(&binary);
        start(&binary).await;
    }
    if wants("run") {
        runs(&binary).await;
    }
    if wants("production") {
        production(&binary).await;
    }
}

/// Where and when this is measured.
fn machine() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let field = |name: &str| {
        let line = processors.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split(": ").nth(1).unwrap_or("?").to_owned()
    };
    let count = processors.lines().filter(|line| line.starts_with("processor")).count();
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let now = time::OffsetDateTime::from_unix_timestamp(seconds.try_into().unwrap()).unwrap();
    println!(
        "{now}; {count} × {}, {}; Linux {}; load {}",
        field("model name"),
        env::consts::ARCH,
        read("/proc/sys/kernel/osrelease").trim(),
        read("/proc/loadavg").split(' ').next().unwrap_or("?"),
    );
}

fn size(binary: &Path) {
    let content = fs::read(binary).unwrap();
    let mut packed = DeflateEncoder::new(Vec::new(), Compression::best());
    packed.write_all(&content).unwrap();
    let packed = packed.finish().unwrap();
    // What a ZIP file adds for one entry is 120 bytes or so.
    println!("\nbinary {:.2} MB, packed {:.2} MB", megabytes(content.len()), megabytes(packed.len()));
}

async fn start(binary: &Path) {
    let mut took = Vec::new();
    for _ in 0..STARTS {
        let api = RuntimeApi::start().await;
        let environment = [("DNS_SERVERS", "127.0.0.1")];
        let started = Instant::now();
        let _bootstrap = Bootstrap::start(binary.to_str().unwrap(), &api, environment);
        api.wait_for_poll().await;
        took.push(started.elapsed());
    }
    took.sort();
    println!(
        "process start to the first poll: median {} ms, best {} ms, worst {} ms, {STARTS} starts",
        milliseconds(took[STARTS / 2]),
        milliseconds(took[0]),
        milliseconds(took[STARTS - 1]),
    );
}

/// Runs over groups that are in step, where each API call and each DNS reply takes [`LATENCY`] and
/// there is no limit of our own to calls of ELBv2.
async fn runs(binary: &Path) {
    println!("\n| groups | run | lasts, ms | processor, ms | peak memory, MiB | API calls | DNS queries |");
    println!("|---|---|---|---|---|---|---|");
    let mut above_floor = Vec::new();
    for (groups, count) in SIZES {
        let fleet = Fleet::new(groups).await;
        fleet.slow_down();
        let floor = fleet.floor().await;
        let mut function = fleet.start(binary).await;
        let first = function.run(&fleet).await;
        println!("| {groups} | first | {} |", first.cells());
        if groups == 1 {
            let hot = function.steady(&fleet, count, Duration::ZERO).await;
            println!("| {groups} | steady, at once after another, median of {count} | {} |", hot.cells());
            above_floor.push(format!("{} at once after another", hot.above(floor)));
        }
        let steady = function.steady(&fleet, count, PAUSE).await;
        println!("| {groups} | steady, median of {count} | {} |", steady.cells());
        if groups == 1 {
            above_floor.push(format!("{} after a pause", steady.above(floor)));
            above_floor.push(format!("which is {} ms", milliseconds(floor)));
        }
    }
    println!("\na steady run of one group lasts longer than its floor by {}", above_floor.join(", "));
}

/// Runs of one group as they are in production: over TLS, with an endpoint of its own for each service, and frozen in
/// between. Each row has its floor: what a client takes for the same calls that does nothing else.
async fn production(binary: &Path) {
    let fleet = Fleet::new(1).await;
    fleet.slow_down();
    let cloud = Cloud::new(&fleet).await;
    let floors = cloud.floors(&fleet).await;

    let mut starts = Vec::new();
    let mut firsts = Vec::new();
    for _ in 0..COLD_STARTS {
        let began = Instant::now();
        let mut function = cloud.start(&fleet, binary).await;
        starts.push(began.elapsed());
        let run = function.run(&fleet).await;
        firsts.push(Run { lasted: began.elapsed(), processor: function.processor(), ..run });
    }
    let first = Run::median(&firsts);

    let mut function = cloud.start(&fleet, binary).await;
    function.run(&fleet).await;
    let steady = function.steady(&fleet, STEADY_RUNS, PAUSE).await;
    let mut thawed = Vec::new();
    let (full, resumed) = cloud.handshakes();
    for _ in 0..FREEZES {
        function.bootstrap.freeze();
        for front in &cloud.fronts {
            front.kill(Death::Silent).await;
        }
        sleep(FREEZE).await;
        function.bootstrap.thaw();
        thawed.push(function.run(&fleet).await);
    }
    let handshakes = cloud.handshakes();
    let thawed = Run::median(&thawed);

    println!(
        "\n| production, one group | lasts, ms | floor, ms | above it | processor, ms | peak memory, MiB | API calls |"
    );
    println!("|---|---|---|---|---|---|---|");
    let rows = [
        (format!("cold start and first run, median of {COLD_STARTS}"), &first, floors.first),
        (format!("steady, median of {STEADY_RUNS}"), &steady, floors.steady),
        (format!("after a freeze in which the connections vanished, median of {FREEZES}"), &thawed, floors.thawed),
    ];
    for (name, run, floor) in rows {
        println!(
            "| {name} | {} | {} | {} | {} | {:.1} | {} |",
            milliseconds(run.lasted),
            milliseconds(floor),
            run.above(floor),
            milliseconds(run.processor),
            run.peak_mebibytes,
            run.calls,
        );
    }
    starts.sort();
    println!(
        "\nof the cold start, {} ms come before the first poll; a handshake takes {} ms, a resumed one {} ms; after the \
         freezes {} were resumed and {} not; {} requests went into dead connections",
        milliseconds(starts[COLD_STARTS / 2]),
        milliseconds(floors.handshake),
        milliseconds(floors.resumed_handshake),
        handshakes.1 - resumed,
        handshakes.0 - full,
        cloud.fronts.iter().map(Front::lost).sum::<usize>(),
    );
    println!(
        "goals: cold start and first run within 30 ms ({}), a run after a freeze within 15 % of its floor ({}), its \
         processor time under 2 ms ({})",
        verdict(first.lasted <= Duration::from_millis(30)),
        verdict(thawed.lasted <= floors.thawed.mul_f64(1.15)),
        verdict(thawed.processor < Duration::from_millis(2)),
    );
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**missed**" }
}

/// AWS over TLS: ELBv2 and CloudWatch, each behind a relay in which connections die.
struct Cloud {
    authority: Authority,
    services: [Tls; 2],
    fronts: [Front; 2],
}

/// What runs take at least.
struct Floors {
    first: Duration,
    steady: Duration,
    thawed: Duration,
    handshake: Duration,
    resumed_handshake: Duration,
}

impl Cloud {
    async fn new(fleet: &Fleet) -> Self {
        let authority = Authority::beside_the_systems();
        let services = [fleet.world.aws.over_tls(&authority).await, fleet.world.aws.over_tls(&authority).await];
        // Two names, as they have in production: sessions are resumed by names.
        let other = Ipv4Addr::new(127, 0, 0, 2).into();
        let fronts = [Front::new(services[0].address()).await, Front::new_on(other, services[1].address()).await];
        Self { authority, services, fronts }
    }

    async fn start(&self, fleet: &Fleet, binary: &Path) -> Function {
        let [elb, cloudwatch] = [&self.fronts[0], &self.fronts[1]].map(|front| format!("https://{}", front.address()));
        let environment = [
            ("AWS_ENDPOINT_URL_CLOUDWATCH", cloudwatch),
            ("AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2", elb),
            ("DNS_SERVERS", fleet.world.dns.address().to_string()),
            ("SSL_CERT_FILE", self.authority.file().display().to_string()),
        ];
        Function::start(binary, environment).await
    }

    /// How many full handshakes there were, and how many resumed ones.
    fn handshakes(&self) -> (usize, usize) {
        let counts = self.services.iter().map(Tls::handshakes);
        counts.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1))
    }

    async fn floors(&self, fleet: &Fleet) -> Floors {
        let [elb, cloudwatch] = [&self.fronts[0], &self.fronts[1]].map(|front| front.address());
        let resolve = fleet.resolve().await;
        let (describe, publish) = (fleet.describe(&elb.to_string()), fleet.publish(&cloudwatch.to_string()));

        let mut kept = connect(&self.authority.connector(), elb).await;
        let kept_describe = median(async || exchange(&mut kept, &describe).await).await;
        let mut kept = connect(&self.authority.connector(), cloudwatch).await;
        let kept_publish = median(async || exchange(&mut kept, &publish).await).await;

        // A client that has met neither service before.
        let mut strangers: Vec<_> = (0..2 * EXCHANGES).map(|_| self.authority.connector()).collect();
        let mut full = async |address: SocketAddr, request: &[u8]| {
            median(async || {
                let stranger = strangers.pop().unwrap();
                exchange(&mut connect(&stranger, address).await, request).await;
            })
            .await
        };
        let full_describe = full(elb, &describe).await;
        let full_publish = full(cloudwatch, &publish).await;

        let resumed = async |address: SocketAddr, request: &[u8]| {
            let connector = self.authority.connector();
            exchange(&mut connect(&connector, address).await, request).await;
            median(async || exchange(&mut connect(&connector, address).await, request).await).await
        };
        let resumed_describe = resumed(elb, &describe).await;
        let resumed_publish = resumed(cloudwatch, &publish).await;
        Floors {
            // The group's facts say which record to ask for.
            first: full_describe + resolve + full_publish,
            steady: resolve.max(kept_describe) + kept_publish,
            thawed: resolve.max(resumed_describe) + resumed_publish,
            handshake: full_describe.saturating_sub(kept_describe),
            resumed_handshake: resumed_describe.saturating_sub(kept_describe),
        }
    }
}

async fn connect(connector: &TlsConnector, address: SocketAddr) -> impl AsyncRead + AsyncWrite + Unpin + use<> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    connector.connect(Authority::server_name(address), stream).await.unwrap()
}

/// Groups that are in step, each with a hostname of its own.
struct Fleet {
    world: World,
    event: Value,
    hostnames: Vec<String>,
    arns: Vec<String>,
}

impl Fleet {
    async fn new(groups: usize) -> Self {
        let world = World::new().await;
        let mut bindings = Vec::new();
        let (mut hostnames, mut arns) = (Vec::new(), Vec::new());
        for number in 0..groups {
            let hostname = format!("db-{number}.c9akciq32abc.eu-central-1.rds.example.test");
            world.dns.set_a(&hostname, &[ADDRESS]);
            let group = TargetGroup { region: "eu-central-1", ..TargetGroup::new(&format!("db-{number}")) };
            let arn = world.aws.create_target_group(group);
            world.aws.add_target(&arn, &format!("{ADDRESS}:5432"), "healthy");
            bindings.push(binding(&hostname, &arn));
            hostnames.push(hostname);
            arns.push(arn);
        }
        Self { world, event: json!({ "bindings": bindings }), hostnames, arns }
    }

    fn slow_down(&self) {
        self.world.aws.set_latency(LATENCY);
        for hostname in &self.hostnames {
            self.world.dns.set_reply(hostname, RecordType::A, Reply::addresses(&[ADDRESS]).delayed(LATENCY));
        }
    }

    async fn start(&self, binary: &Path) -> Function {
        let environment = [
            ("AWS_ENDPOINT_URL", self.world.aws.url().to_owned()),
            ("DNS_SERVERS", self.world.dns.address().to_string()),
            ("ELB_REQUESTS_PER_SECOND", "0".to_owned()),
        ];
        Function::start(binary, environment).await
    }

    /// The slower of a DNS exchange and a DescribeTargetHealth, and one PutMetricData: what a
    /// client takes for them that does nothing else.
    async fn floor(&self) -> Duration {
        let address = self.world.aws.address().to_string();
        let (describe, publish) = (self.describe(&address), self.publish(&address));
        let mut connection = TcpStream::connect(&address).await.unwrap();
        connection.set_nodelay(true).unwrap();
        let describe = median(async || exchange(&mut connection, &describe).await).await;
        let publish = median(async || exchange(&mut connection, &publish).await).await;
        self.resolve().await.max(describe) + publish
    }

    /// What a DNS exchange takes.
    async fn resolve(&self) -> Duration {
        let dns = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        dns.connect(self.world.dns.address()).await.unwrap();
        let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in self.hostnames[0].split('.') {
            query.push(label.len().try_into().unwrap());
            query.extend(label.bytes());
        }
        query.extend(b"\x00\x00\x01\x00\x01");
        median(async || {
            dns.send(&query).await.unwrap();
            let length = dns.recv(&mut [0; 512]).await.unwrap();
            assert!(length > query.len(), "a reply with an answer");
        })
        .await
    }

    /// A DescribeTargetHealth for this host.
    fn describe(&self, host: &str) -> Vec<u8> {
        let describe = format!(
            "Action=DescribeTargetHealth&Version=2015-12-01&TargetGroupArn={}",
            self.arns[0].replace(':', "%3A").replace('/', "%2F")
        );
        request(host, "/", "elasticloadbalancing", describe.as_bytes())
    }

    /// A PutMetricData for this host, with as many metrics as one group has.
    fn publish(&self, host: &str) -> Vec<u8> {
        let mut metrics = Vec::new();
        let datum = |name: &str| {
            cbor!({
                "MetricName" => name, "Value" => 1.0, "Unit" => "Count",
                "Dimensions" => [{ "Name" => "TargetGroup", "Value" => "targetgroup/db-0/0123456789abcdef" }],
            })
            .unwrap()
        };
        let data: Vec<_> = ["A", "B", "C"].map(datum).into();
        let body = cbor!({ "Namespace" => "bench", "MetricData" => data }).unwrap();
        ciborium::into_writer(&body, &mut metrics).unwrap();
        let path = "/service/GraniteServiceVersion20100801/operation/PutMetricData";
        request(host, path, "monitoring", &metrics)
    }
}

fn request(host: &str, path: &str, service: &str, body: &[u8]) -> Vec<u8> {
    let scope = format!("AKIDEXAMPLE/20260101/eu-central-1/{service}/aws4_request");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={scope}, Signature=0\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

async fn exchange(connection: &mut (impl AsyncRead + AsyncWrite + Unpin), request: &[u8]) {
    connection.write_all(request).await.unwrap();
    let mut reply = Vec::new();
    loop {
        assert_ne!(connection.read_buf(&mut reply).await.unwrap(), 0, "the connection goes on");
        let text = String::from_utf8_lossy(&reply).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        assert!(head.starts_with("http/1.1 200 "), "{text}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if body.len() >= length.parse().unwrap() {
            return;
        }
    }
}

async fn median(mut act: impl AsyncFnMut()) -> Duration {
    let mut took = Vec::new();
    for _ in 0..EXCHANGES {
        let began = Instant::now();
        act().await;
        took.push(began.elapsed());
    }
    took.sort();
    took[EXCHANGES / 2]
}

/// The function's process.
struct Function {
    api: RuntimeApi,
    bootstrap: Bootstrap,
}

/// What one invocation took.
#[derive(Clone, Default)]
struct Run {
    lasted: Duration,
    processor: Duration,
    peak_mebibytes: f64,
    calls: usize,
    queries: usize,
}

impl Function {
    async fn start(binary: &Path, environment: impl IntoIterator<Item = (&str, String)>) -> Self {
        let api = RuntimeApi::start().await;
        let bootstrap = Bootstrap::start(binary.to_str().unwrap(), &api, environment);
        api.wait_for_poll().await;
        Self { api, bootstrap }
    }

    async fn run(&mut self, fleet: &Fleet) -> Run {
        fleet.world.aws.clear_calls();
        fleet.world.dns.clear_queries();
        let before = self.processor();
        let began = Instant::now();
        self.api.invoke(fleet.event.clone(), RUN).await.expect("the run succeeds");
        let lasted = began.elapsed();
        self.api.wait_for_poll().await;
        let mut run = Run { lasted, processor: self.processor() - before, ..Run::default() };
        run.peak_mebibytes = self.peak_mebibytes();
        run.calls = fleet.world.aws.calls().len();
        run.queries = fleet.world.dns.queries().len();
        run
    }

    /// The median of `count` runs with a pause before each.
    async fn steady(&mut self, fleet: &Fleet, count: usize, pause: Duration) -> Run {
        let mut runs = Vec::new();
        for _ in 0..count {
            sleep(pause).await;
            let run = self.run(fleet).await;
            // The contract, rule 13: each name and each group once, and all metrics together.
            let groups = fleet.arns.len();
            assert_eq!(run.queries, groups);
            assert_eq!(run.calls, groups + (3 * groups).div_ceil(1000));
            runs.push(run);
        }
        Run::median(&runs)
    }

    /// What all threads of the process have used so far.
    fn processor(&self) -> Duration {
        let threads = fs::read_dir(format!("/proc/{}/task", self.bootstrap.id())).unwrap();
        let nanoseconds = threads.map(|thread| {
            let schedstat = fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap();
            schedstat.split(' ').next().unwrap().parse::<u64>().unwrap()
        });
        Duration::from_nanos(nanoseconds.sum())
    }

    fn peak_mebibytes(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.bootstrap.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
    }
}

impl Run {
    /// Of each figure its median, and the highest peak.
    fn median(runs: &[Self]) -> Self {
        let mut sorted = runs.to_vec();
        sorted.sort_by_key(|run| run.processor);
        let processor = sorted[sorted.len() / 2].processor;
        sorted.sort_by_key(|run| run.lasted);
        let peak_mebibytes = sorted.iter().map(|run| run.peak_mebibytes).fold(0.0, f64::max);
        Self { processor, peak_mebibytes, ..sorted[sorted.len() / 2].clone() }
    }

    /// How much longer than its floor it lasted.
    fn above(&self, floor: Duration) -> String {
        format!("{:.0} %", (self.lasted.as_secs_f64() / floor.as_secs_f64() - 1.0) * 100.0)
    }

    fn cells(&self) -> String {
        format!(
            "{} | {} | {:.1} | {} | {}",
            milliseconds(self.lasted),
            milliseconds(self.processor),
            self.peak_mebibytes,
            self.calls,
            self.queries,
        )
    }
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}

fn megabytes(bytes: usize) -> f64 {
    bytes as f64 / 1e6
}

const ADDRESS: &str = "10.0.1.10";
const STARTS: usize = 50;
const EXCHANGES: usize = 101;

/// Of the rows of production.
const COLD_STARTS: usize = 30;
const STEADY_RUNS: usize = 100;
const FREEZES: usize = 20;

/// Longer than a connection may be idle to be used again.
const FREEZE: Duration = Duration::from_secs(6);

/// Added to each API call and each DNS reply.
const LATENCY: Duration = Duration::from_millis(5);

/// Target groups of a fleet, and how many steady runs to measure.
const SIZES: [(usize, usize); 4] = [(1, 200), (10, 50), (100, 20), (1000, 10)];

/// The function's time-out: longer than a run may take.
const RUN: Duration = Duration::from_secs(120);

/// Between runs, which really are a minute apart: the processor has done other things meanwhile, and the 250 queries
/// that may go out at once are there again.
const PAUSE: Duration = Duration::from_millis(600);
