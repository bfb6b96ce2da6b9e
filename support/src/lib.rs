//! A world to run the function in: a name server, a small AWS, a Lambda, and an environment.
//!
//! The tests and the benchmarks use it. It is no part of the product.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    reason = "what goes wrong here shall stop the test where it does; and where a name says it all, nothing is added"
)]

pub mod aws;
pub mod dns;
mod files;
pub mod front;
pub mod runtime_api;
pub mod tls;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, LazyLock, Mutex},
    thread,
    time::{Duration, SystemTime},
};

use aws_config::Region;
use aws_sdk_elasticloadbalancingv2::config::Credentials;
use nlb_hostname_targets::{
    aws::sdk_config,
    function::{Function, RunError},
    settings::environment::{Config, ConfigError},
};
use serde_json::{Value, json};
use tracing::{
    Dispatch, Level,
    subscriber::{DefaultGuard, NoSubscriber},
};

pub use files::release_binary;

use aws::{FakeAws, TargetGroup};
use dns::FakeDns;

/// What a test runs the function against. When it goes, nothing may have been sent to its AWS that a well-behaved caller
/// never sends: see [`FakeAws::violations`] and [`FakeAws::tolerate`].
pub struct World {
    pub dns: FakeDns,
    pub aws: FakeAws,
    environment: BTreeMap<String, String>,
}

impl World {
    pub async fn new() -> Self {
        let dns = FakeDns::start().await;
        let environment = BTreeMap::from([("DNS_SERVERS".to_owned(), dns.address().to_string())]);
        Self { dns, aws: FakeAws::start().await, environment }
    }

    pub fn set(mut self, variable: &str, value: impl ToString) -> Self {
        self.environment.insert(variable.to_owned(), value.to_string());
        self
    }

    pub fn dns_servers(self, servers: &[SocketAddr]) -> Self {
        let list: Vec<_> = servers.iter().map(ToString::to_string).collect();
        self.set("DNS_SERVERS", list.join(","))
    }

    /// A target group on port 5432 that is bound to `db.test`, and the world that knows so.
    pub async fn with_database(addresses: &[&str], registered: &[&str]) -> (Self, String) {
        let world = Self::new().await;
        world.dns.set_a("db.test", addresses);
        let arn = world.aws.create_target_group(TargetGroup::new("db"));
        for address in registered {
            world.aws.add_target(&arn, &format!("{address}:5432"), "healthy");
        }
        let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
        (world, arn)
    }

    /// The environment, for a process of its own.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let mut environment = self.environment.clone();
        environment.entry("AWS_ENDPOINT_URL".to_owned()).or_insert_with(|| self.aws.url().to_owned());
        environment
    }

    pub async fn function(&self) -> Function {
        self.function_with(&[]).await
    }

    /// The same where it sees other name servers.
    pub async fn function_with(&self, servers: &[SocketAddr]) -> Function {
        let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
        let environment = self.environment();
        let variable = |name: &str| match name {
            "DNS_SERVERS" if !servers.is_empty() => Some(servers.join(",")),
            _ => environment.get(name).cloned(),
        };
        let config = Config::parse(variable).expect("the test's environment is right");
        let sdk = sdk_config(&config)
            .endpoint_url(&environment["AWS_ENDPOINT_URL"])
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("AKIDEXAMPLE", "secret", None, None, "test"));
        Function::new(config, &sdk.load().await, now).expect("there is a name server")
    }

    /// One invocation of a new execution environment, with 30 s to go.
    pub async fn run(&self, event: Value) -> Result<Value, RunError> {
        invoke(&self.function().await, event).await
    }

    /// The first group of the reply to a plain run.
    pub async fn sync(&self) -> Result<Value, RunError> {
        self.run(json!({})).await.map(|mut reply| reply["groups"][0].take())
    }

    /// The message of a run that has to fail.
    pub async fn failure(&self, event: Value) -> String {
        self.run(event).await.expect_err("the run has to fail").to_string()
    }

    /// The actions that were called, in their order.
    pub fn actions(&self) -> Vec<String> {
        self.aws.calls().into_iter().map(|call| call.action).collect()
    }

    /// How often this action was called.
    pub fn count(&self, action: &str) -> usize {
        self.aws.calls_of(action).len()
    }

    /// What was called that changes anything, metrics aside.
    pub fn writes(&self) -> Vec<String> {
        let reads = |action: &str| ["Describe", "Get", "PutMetricData"].iter().any(|read| action.starts_with(read));
        self.actions().into_iter().filter(|action| !reads(action)).collect()
    }

    /// The value of a metric, where it was published exactly once.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.aws.metrics();
        let mut values = metrics.iter().filter(|metric| metric.name == name).map(|metric| metric.value);
        let value = values.next();
        assert_eq!(values.next(), None, "{name} was published more than once");
        value
    }

    /// The sum of what was published of a metric, over all groups and runs.
    pub fn sum(&self, name: &str) -> f64 {
        self.aws.metrics().iter().filter(|metric| metric.name == name).map(|metric| metric.value).sum()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // Of two panics the first one tells more.
        if !thread::panicking() {
            assert_eq!(self.aws.violations(), Vec::<String>::new(), "sent to AWS");
        }
    }
}

thread_local! {
    /// How far the clock of the functions of this test is ahead. Each test has a thread of its own.
    static AHEAD: Cell<i64> = const { Cell::new(0) };
}

tokio::task_local! {
    /// The same where a test has several worlds at once, of the one that this future is about.
    pub static OWN_CLOCK: Cell<i64>;
}

/// The clock that grace periods are measured by.
pub fn now() -> SystemTime {
    let ahead = OWN_CLOCK.try_with(Cell::get).unwrap_or_else(|_| AHEAD.get());
    let distance = Duration::from_secs(ahead.unsigned_abs());
    if ahead < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
}

/// Sets that clock forward, or back.
pub fn advance(seconds: i64) {
    let set = |ahead: &Cell<i64>| ahead.set(ahead.get() + seconds);
    OWN_CLOCK.try_with(set).unwrap_or_else(|_| AHEAD.with(set));
}

/// What the functions of a test log from the moment that [`Log::start`] is called.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Logs for as long as the guard lives. Each test has a thread of its own, and so has its log.
    pub fn start() -> (Self, DefaultGuard) {
        let (log, dispatch) = Self::dispatch();
        (log, tracing::dispatcher::set_default(&dispatch))
    }

    /// A log of the future that this is the subscriber of, where others run beside it.
    pub fn dispatch() -> (Self, Dispatch) {
        // While there is one alone, tracing takes what other threads lack for something that nobody wants to have logged.
        static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
        LazyLock::force(&ANOTHER);
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_max_level(Level::INFO).with_writer(move || writer.clone()).finish();
        (log, subscriber.into())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub async fn invoke(function: &Function, event: Value) -> Result<Value, RunError> {
    invoke_within(function, event, Duration::from_secs(30)).await
}

pub async fn invoke_within(function: &Function, event: Value, time: Duration) -> Result<Value, RunError> {
    let reply = function.handle(event, SystemTime::now() + time).await?;
    Ok(serde_json::to_value(reply).expect("a reply is JSON"))
}

pub fn binding(hostname: &str, arn: &str) -> Value {
    json!({"hostname": hostname, "target_group_arn": arn})
}

/// A binding with these fields besides.
pub fn binding_with(hostname: &str, arn: &str, fields: &Value) -> Value {
    let mut binding = binding(hostname, arn);
    binding.as_object_mut().expect("an object").extend(fields.as_object().expect("fields").clone());
    binding
}

/// These, as sets are compared.
pub fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(ToString::to_string).collect()
}

/// The targets 10.0.1.HOST:5432.
pub fn targets(hosts: &[u8]) -> BTreeSet<String> {
    hosts.iter().map(|host| format!("10.0.1.{host}:5432")).collect()
}

/// The targets that wait, as the report of a group lists them.
pub fn waiting(group: &Value) -> Vec<&str> {
    let list = group["waiting"].as_array().expect("a list");
    list.iter().map(|waiting| waiting["target"].as_str().expect("a target")).collect()
}

/// An event of RDS that a watch follows.
pub fn failover() -> Value {
    json!({"source": "aws.rds", "detail": {"EventID": "RDS-EVENT-0049"}})
}

/// Parses an environment of these variables and nothing else.
pub fn parse(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::parse(|name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned()))
}

/// A well-formed ARN, of a target group that exists nowhere.
pub const ARN: &str = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/db/0123456789abcdef";
