//! A world to run the function in: a name server, a small AWS, and an environment.

pub(crate) mod aws;
pub(crate) mod dns;
pub(crate) mod runtime_api;

use std::{
    cell::Cell,
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use aws_config::{Region, SdkConfig};
use aws_sdk_elasticloadbalancingv2::config::Credentials;
use nlb_hostname_targets::{
    aws::sdk_config,
    config::{Config, ConfigError},
    function::{Function, RunError},
};
use serde_json::{Value, json};
use tracing::{Dispatch, Level, subscriber::DefaultGuard};

use aws::{FakeAws, TargetGroup};
use dns::FakeDns;

/// What a test runs the function against.
pub(crate) struct World {
    pub(crate) dns: FakeDns,
    pub(crate) aws: FakeAws,
    environment: BTreeMap<String, String>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let dns = FakeDns::start().await;
        let environment = BTreeMap::from([("DNS_SERVERS".to_owned(), dns.address().to_string())]);
        Self { dns, aws: FakeAws::start().await, environment }
    }

    pub(crate) fn set(mut self, variable: &str, value: impl ToString) -> Self {
        self.environment.insert(variable.to_owned(), value.to_string());
        self
    }

    pub(crate) fn dns_servers(self, servers: &[SocketAddr]) -> Self {
        let list: Vec<_> = servers.iter().map(ToString::to_string).collect();
        self.set("DNS_SERVERS", list.join(","))
    }

    /// A target group on port 5432 that is bound to `db.test`, and the world that knows so.
    pub(crate) async fn with_database(addresses: &[&str], registered: &[&str]) -> (Self, String) {
        let world = Self::new().await;
        world.dns.set_a("db.test", addresses);
        let arn = world.aws.create_target_group(TargetGroup::new("db"));
        for address in registered {
            world.aws.add_target(&arn, &format!("{address}:5432"), "healthy");
        }
        let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
        (world, arn)
    }

    pub(crate) async fn function(&self) -> Function {
        Function::new(self.config(), &self.sdk().await, now).expect("there is a name server")
    }

    fn config(&self) -> Config {
        Config::parse(|name| self.environment.get(name).cloned()).expect("the test's environment is right")
    }

    /// The settings of an AWS client that talks to this world's AWS.
    pub(crate) async fn sdk(&self) -> SdkConfig {
        sdk_config(&self.config())
            .endpoint_url(self.aws.url())
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("AKIDEXAMPLE", "secret", None, None, "test"))
            .load()
            .await
    }

    /// One invocation of a new execution environment, with 30 s to go.
    pub(crate) async fn run(&self, event: Value) -> Result<Value, RunError> {
        invoke(&self.function().await, event).await
    }

    /// The first group of the reply to a plain run.
    pub(crate) async fn sync(&self) -> Result<Value, RunError> {
        self.run(json!({})).await.map(|mut reply| reply["groups"][0].take())
    }

    /// The message of a run that has to fail.
    pub(crate) async fn failure(&self, event: Value) -> String {
        self.run(event).await.expect_err("the run has to fail").to_string()
    }

    /// The actions that were called, in their order.
    pub(crate) fn actions(&self) -> Vec<String> {
        self.aws.calls().into_iter().map(|call| call.action).collect()
    }

    /// The value of a metric, where it was published exactly once.
    pub(crate) fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.aws.metrics();
        let mut values = metrics.iter().filter(|metric| metric.name == name).map(|metric| metric.value);
        let value = values.next();
        assert_eq!(values.next(), None, "{name} was published more than once");
        value
    }

    /// The sum of what was published of a metric, over all groups and runs.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        self.aws.metrics().iter().filter(|metric| metric.name == name).map(|metric| metric.value).sum()
    }
}

thread_local! {
    /// How far the clock of the functions of this test is ahead. Each test has a thread of its own.
    static AHEAD: Cell<i64> = const { Cell::new(0) };
}

tokio::task_local! {
    /// The same where a test has several worlds at once, of the one that this future is about.
    pub(crate) static OWN_CLOCK: Cell<i64>;
}

/// The clock that grace periods are measured by.
pub(crate) fn now() -> SystemTime {
    let ahead = OWN_CLOCK.try_with(Cell::get).unwrap_or_else(|_| AHEAD.get());
    let distance = Duration::from_secs(ahead.unsigned_abs());
    if ahead < 0 { SystemTime::now() - distance } else { SystemTime::now() + distance }
}

/// Sets that clock forward, or back.
pub(crate) fn advance(seconds: i64) {
    let set = |ahead: &Cell<i64>| ahead.set(ahead.get() + seconds);
    OWN_CLOCK.try_with(set).unwrap_or_else(|_| AHEAD.with(set));
}

/// What the functions of a test log from the moment that [`Log::start`] is called.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Logs for as long as the guard lives. Each test has a thread of its own, and so has its log.
    pub(crate) fn start() -> (Self, DefaultGuard) {
        let (log, dispatch) = Self::dispatch();
        (log, tracing::dispatcher::set_default(&dispatch))
    }

    /// A log of the future that this is the subscriber of, where others run beside it.
    pub(crate) fn dispatch() -> (Self, Dispatch) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_max_level(Level::INFO).with_writer(move || writer.clone()).finish();
        (log, subscriber.into())
    }

    pub(crate) fn text(&self) -> String {
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

pub(crate) async fn invoke(function: &Function, event: Value) -> Result<Value, RunError> {
    invoke_within(function, event, Duration::from_secs(30)).await
}

pub(crate) async fn invoke_within(function: &Function, event: Value, time: Duration) -> Result<Value, RunError> {
    let reply = function.handle(event, SystemTime::now() + time).await?;
    Ok(serde_json::to_value(reply).expect("a reply is JSON"))
}

pub(crate) fn binding(hostname: &str, arn: &str) -> Value {
    json!({"hostname": hostname, "target_group_arn": arn})
}

/// Parses an environment of these variables and nothing else.
pub(crate) fn parse(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    Config::parse(|name| variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned()))
}

/// A well-formed ARN, of a target group that exists nowhere.
pub(crate) const ARN: &str = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/db/0123456789abcdef";
