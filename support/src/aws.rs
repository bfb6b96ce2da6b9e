//! A small AWS on a loopback port: the parts of ELBv2, CloudWatch's PutMetricData and the Resource Groups Tagging API's
//! GetResources that the function calls.
//!
//! It speaks the real wire protocols, so the real SDK clients run against it, and it is strict: what AWS refuses it
//! refuses in AWS's words, and what AWS lets pass silently although it is a mistake (deregistering without a port,
//! deregistering a draining target) is listed by [`FakeAws::violations`].

mod cloudwatch;
mod elb;
mod load_balancers;
mod request;
mod tagging;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use ipnet::IpNet;
use tokio::{net::TcpListener, task::AbortHandle, time::Instant};

use crate::tls::{Authority, Handshakes, Tls};
pub use load_balancers::LoadBalancer;

use elb::{Bucket, Group, State, Target, checked_health, key_text, nets};
use request::Asked;
use wire::{lock, serve};

/// A handle on the server, which stops when the last handle is dropped.
#[derive(Clone)]
pub struct FakeAws {
    server: Arc<Server>,
}

struct Server {
    address: SocketAddr,
    url: String,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeAws {
    /// Starts a server with no target groups, on the calling test's runtime.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let address = listener.local_addr().expect("a bound listener");
        let state = Arc::new(Mutex::new(State::default()));
        let task = tokio::spawn(serve(listener, None, state.clone())).abort_handle();
        let url = format!("http://{address}");
        Self { server: Arc::new(Server { address, url, state, task }) }
    }

    /// Lets the same AWS be reached over TLS as well, with a certificate of this authority.
    pub async fn over_tls(&self, authority: &Authority) -> Tls {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        let address = listener.local_addr().expect("a bound listener");
        let handshakes = Arc::<Handshakes>::default();
        let tls = Some((authority.acceptor(), handshakes.clone()));
        let task = tokio::spawn(serve(listener, tls, self.server.state.clone())).abort_handle();
        Tls::new(address, handshakes, task)
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// The endpoint of every service of this AWS.
    pub fn url(&self) -> &str {
        &self.server.url
    }

    /// Creates a target group and returns its ARN.
    pub fn create_target_group(&self, spec: TargetGroup) -> String {
        let mut state = self.state();
        state.created += 1;
        let arn = format!(
            "arn:{}:elasticloadbalancing:{}:123456789012:targetgroup/{}/{:016x}",
            spec.partition,
            spec.region,
            spec.name,
            0x73e2_d6bc_24d8_a067_u64.wrapping_mul(state.created)
        );
        state.groups.insert(arn.clone(), Group::new(spec));
        arn
    }

    /// Changes the settings of an existing group, say its quota.
    pub fn reconfigure(&self, arn: &str, change: impl FnOnce(TargetGroup) -> TargetGroup) {
        self.group(arn, |group| group.spec = change(group.spec.clone()));
    }

    pub fn has_target_group(&self, arn: &str) -> bool {
        self.state().groups.contains_key(arn)
    }

    pub fn delete_target_group(&self, arn: &str) {
        self.state().delete_group(arn);
    }

    /// Puts a target (`10.0.1.9:5432`, `[fd00::9]:5432`, `i-0123:5432`, or without a port) into the group unchecked.
    pub fn add_target(&self, arn: &str, target: &str, health: &str) {
        self.group(arn, |group| {
            let (id, port) = group.key(target);
            let zone = id.parse().ok().map(|ip| {
                let zone = group.spec.zone_of(ip);
                zone.unwrap_or_else(|| "all".to_owned())
            });
            group.change_targets().insert((id, port), Target::new(health, zone));
        });
    }

    /// Takes a target out of the group at once, without draining.
    pub fn remove_target(&self, arn: &str, target: &str) {
        self.group(arn, |group| {
            let key = group.key(target);
            group.change_targets().remove(&key);
        });
    }

    /// Sets the health state of a target of the group.
    pub fn set_state(&self, arn: &str, target: &str, health: &str) {
        self.group(arn, |group| {
            let key = group.key(target);
            let target = group.change_targets().get_mut(&key).expect("a target of the group");
            target.set(health);
        });
    }

    /// Lets the group's draining targets disappear.
    pub fn finish_draining(&self, arn: &str) {
        self.group(arn, |group| {
            group.change_targets().retain(|_, target| !target.draining());
        });
    }

    /// Makes registering this address (or instance) an `InvalidTarget`, whatever its port.
    pub fn refuse_target(&self, arn: &str, id: &str) {
        self.group(arn, |group| group.refused.insert(id.to_owned()));
    }

    /// Makes deregistering this address (or instance) a `ValidationError` that refuses the whole batch, whatever its
    /// port, until the faults are cleared.
    pub fn refuse_deregistration(&self, arn: &str, id: &str) {
        self.fault(Fault::on("DeregisterTargets", FaultKind::RefuseTarget(id.to_owned())).arn(arn));
    }

    /// How many accepted calls registered this target, whether it had been registered before or not.
    pub fn registrations(&self, arn: &str, target: &str) -> usize {
        self.accepted(arn, target).0
    }

    /// How many accepted calls deregistered it.
    pub fn deregistrations(&self, arn: &str, target: &str) -> usize {
        self.accepted(arn, target).1
    }

    fn accepted(&self, arn: &str, target: &str) -> (usize, usize) {
        self.group(arn, |group| group.accepted.get(&group.key(target)).copied().unwrap_or_default())
    }

    /// All targets and their health states, the draining ones too.
    pub fn targets(&self, arn: &str) -> BTreeMap<String, String> {
        self.group(arn, |group| {
            let targets = group.targets().iter();
            targets.map(|(key, target)| (key_text(key), target.health(Duration::ZERO).to_owned())).collect()
        })
    }

    /// The targets that are not draining.
    pub fn registered(&self, arn: &str) -> BTreeSet<String> {
        self.group(arn, |group| group.registered())
    }

    pub fn tags(&self, arn: &str) -> BTreeMap<String, String> {
        self.group(arn, |group| group.tags().clone())
    }

    pub fn set_tag(&self, arn: &str, key: &str, value: &str) {
        self.group(arn, |group| group.change_tags().insert(key.into(), value.into()));
    }

    pub fn remove_tag(&self, arn: &str, key: &str) {
        self.group(arn, |group| group.change_tags().remove(key));
    }

    /// Every request so far, in the order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    pub fn calls_of(&self, action: &str) -> Vec<Call> {
        let mut calls = self.calls();
        calls.retain(|call| call.action == action);
        calls
    }

    /// Forgets calls and metrics; violations stay.
    pub fn clear_calls(&self) {
        let mut state = self.state();
        state.calls.clear();
        state.metrics.clear();
    }

    /// Every metric that PutMetricData accepted.
    pub fn metrics(&self) -> Vec<Metric> {
        self.state().metrics.clone()
    }

    /// What a well-behaved caller never does, whether AWS would refuse it or not, without what is tolerated.
    pub fn violations(&self) -> Vec<String> {
        let state = self.state();
        let is_tolerated = |violation: &&String| state.tolerated.iter().any(|text| violation.contains(text));
        state.violations.iter().filter(|violation| !is_tolerated(violation)).cloned().collect()
    }

    /// Violations that hold this text are what the test provokes, or what comes of what it does: say [`TWICE`].
    pub fn tolerate(&self, text: &str) {
        self.state().tolerated.push(text.to_owned());
    }

    /// All violations, for a test that judges them itself: [`super::World`] then does not.
    pub fn take_violations(&self) -> Vec<String> {
        mem::take(&mut self.state().violations)
    }

    /// Adds a rule. Rules are consulted in the order they were added: delays add up, anything else ends the search.
    pub fn fault(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Until a request is left without a reply for good, by a fault that is struck from now on.
    pub async fn left_hanging(&self) {
        let mut hanging = self.state().hanging.subscribe();
        hanging.changed().await.expect("the sender lives as long as the server");
    }

    /// Until nothing arrives any more: what was under way when its caller was killed still does.
    pub async fn settled(&self) {
        let mut known = 0;
        let mut quiet = 0;
        // On its way it may have relays to pass, each of which needs a turn of this thread.
        while quiet < 5 {
            tokio::time::sleep(Duration::from_millis(4)).await;
            let arrived = self.state().calls.len();
            quiet = if arrived == known { quiet + 1 } else { 0 };
            known = arrived;
        }
    }

    /// From now on it is not the function that asks: its actions are not taken for the function's.
    pub fn asked_by_others(&self) {
        self.state().asked_by_others = true;
    }

    /// Delays the handling of every request.
    pub fn set_latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// Throttles the ELBv2 reads of all groups together, with a token bucket as AWS does.
    pub fn set_read_quota(&self, burst: u32, per_second: f64) {
        self.state().read_quota = Some(Bucket::new(burst, per_second));
    }

    /// The same for what changes anything. Of other accounts nothing is emulated: all groups are of one.
    pub fn set_write_quota(&self, burst: u32, per_second: f64) {
        self.state().write_quota = Some(Bucket::new(burst, per_second));
    }

    /// How many of the calls were throttled, be it by a quota or a fault.
    pub fn throttled(&self) -> usize {
        let is_throttled = |call: &&Call| call.error.as_ref().is_some_and(|code| code.starts_with("Throttl"));
        self.state().calls.iter().filter(is_throttled).count()
    }

    fn group<T>(&self, arn: &str, act: impl FnOnce(&mut Group) -> T) -> T {
        let mut state = self.state();
        act(state.groups.get_mut(arn).expect("an existing target group"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.server.state)
    }
}

/// Of all violations, for a test that judges them itself, by [`FakeAws::take_violations`].
pub const EVERYTHING: &str = "";

/// Of the violation that a draining target is deregistered. It is none where a request is repeated whose reply was lost,
/// and where two runs at once find the same stale target.
pub const TWICE: &str = "is draining already";

/// A target group to create: by default `ip`, IPv4, port 5432, in a VPC 10.0.0.0/16 of us-east-1. What is registered is
/// healthy at once, and readers see all changes at once.
#[derive(Clone)]
pub struct TargetGroup {
    name: String,
    partition: String,
    region: String,
    target_type: String,
    ipv6: bool,
    port: u16,
    vpc_cidrs: Vec<IpNet>,
    vpc_subnets: Vec<IpNet>,
    quota: usize,
    draining_counts: bool,
    needs_listener: bool,
    new_state: String,
    initial_for: Duration,
    target_lag: Duration,
    tag_lag: Duration,
    listing_lag: Duration,
}

impl TargetGroup {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            partition: "aws".to_owned(),
            region: "us-east-1".to_owned(),
            target_type: "ip".to_owned(),
            ipv6: false,
            port: 5432,
            vpc_cidrs: nets(&["10.0.0.0/16", "2600:1f18:1:100::/56", "fd00::/56"]),
            vpc_subnets: nets(&["10.0.0.0/17", "10.0.128.0/17", "2600:1f18:1:100::/56", "fd00::/56"]),
            quota: 1000,
            draining_counts: false,
            needs_listener: false,
            new_state: "healthy".to_owned(),
            initial_for: Duration::ZERO,
            target_lag: Duration::ZERO,
            tag_lag: Duration::ZERO,
            listing_lag: Duration::ZERO,
        }
    }

    pub fn partition(mut self, partition: &str) -> Self {
        self.partition = partition.to_owned();
        self
    }

    pub fn region(mut self, region: &str) -> Self {
        self.region = region.to_owned();
        self
    }

    /// `ip`, `instance`, `lambda` or `alb`.
    pub fn target_type(mut self, target_type: &str) -> Self {
        assert!(["ip", "instance", "lambda", "alb"].contains(&target_type));
        self.target_type = target_type.to_owned();
        self
    }

    pub fn ipv6(mut self) -> Self {
        self.ipv6 = true;
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// The CIDRs of the VPC; an address in one of them but in no subnet still needs a zone.
    pub fn vpc_cidrs(mut self, cidrs: &[&str]) -> Self {
        self.vpc_cidrs = nets(cidrs);
        self
    }

    /// The subnets of the VPC: the first is in zone `a`, the second in `b` and so on.
    pub fn vpc_subnets(mut self, subnets: &[&str]) -> Self {
        self.vpc_subnets = nets(subnets);
        self
    }

    /// How many targets the group may hold.
    pub fn quota(mut self, targets: usize) -> Self {
        self.quota = targets;
        self
    }

    /// Whether draining targets count against the quota; they do not by default.
    pub fn draining_counts(mut self, counts: bool) -> Self {
        self.draining_counts = counts;
        self
    }

    /// A target is `unused` unless a listener forwards to the group and the load balancer is in the target's zone, as at
    /// AWS. By default a group needs neither, so that a test that is not about them need not make them.
    pub fn needs_listener(mut self) -> Self {
        self.needs_listener = true;
        self
    }

    /// The health state of a newly registered target, once it is no longer `initial`.
    pub fn new_state(mut self, health: &str) -> Self {
        self.new_state = checked_health(health);
        self
    }

    /// How long a newly registered target is `initial`: [`Duration::MAX`] means for ever.
    pub fn initial_for(mut self, time: Duration) -> Self {
        self.initial_for = time;
        self
    }

    /// DescribeTargetHealth shows what was so long ago. What is written is carried out at once all the same.
    pub fn target_lag(mut self, lag: Duration) -> Self {
        self.target_lag = lag;
        self
    }

    /// DescribeTags shows what was so long ago.
    pub fn tag_lag(mut self, lag: Duration) -> Self {
        self.tag_lag = lag;
        self
    }

    /// GetResources shows what was so long ago.
    pub fn listing_lag(mut self, lag: Duration) -> Self {
        self.listing_lag = lag;
        self
    }

    /// The zone of the subnet that holds the address.
    fn zone_of(&self, ip: IpAddr) -> Option<String> {
        let subnet = self.vpc_subnets.iter().position(|net| net.contains(&ip))?;
        let letter = char::from(b'a' + u8::try_from(subnet % 6).expect("under 6"));
        Some(format!("{}{letter}", self.region))
    }
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub action: String,
    /// The group concerned; the first one where a call names several.
    pub arn: Option<String>,
    pub arns: Vec<String>,
    pub targets: Vec<SentTarget>,
    /// What AddTags writes.
    pub tags: Vec<(String, String)>,
    /// What RemoveTags removes.
    pub tag_keys: Vec<String>,
    /// The region that the request was signed for.
    pub region: String,
    pub at: Instant,
    /// The HTTP status of the reply; 0 while there is none, for good after a hang or a reset.
    pub status: u16,
    /// The code of the error that was the reply.
    pub error: Option<String>,
    /// Whether the body came gzipped.
    pub gzip: bool,
    /// The group as it was when RegisterTargets or DeregisterTargets arrived.
    pub found: Option<Found>,
    number: u64,
}

#[derive(Clone, Debug)]
pub struct Found {
    /// The targets that were not draining.
    pub registered: BTreeSet<String>,
    /// Those of them that were `initial`.
    pub initial: BTreeSet<String>,
    pub draining: BTreeSet<String>,
    pub tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SentTarget {
    pub id: String,
    pub port: Option<u16>,
    pub az: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Metric {
    pub namespace: String,
    pub name: String,
    pub dimensions: BTreeMap<String, String>,
    pub value: f64,
    pub unit: String,
    /// Seconds since the epoch.
    pub timestamp: Option<f64>,
    /// Which of `calls_of("PutMetricData")` brought it.
    pub call: usize,
}

/// A rule that makes some requests go wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    action: Option<String>,
    arn: Option<String>,
    after: u32,
    times: Option<u32>,
    kind: FaultKind,
}

#[derive(Clone, Debug)]
pub enum FaultKind {
    /// Replies with this HTTP status and body, as text/xml, without handling the request.
    Body { status: u16, body: String },
    /// Deletes the target group that the request names, then handles the request.
    DeleteGroup,
    /// Refuses the request in the form of its protocol.
    Error { status: u16, code: String, message: String },
    /// Never replies, and does not handle the request.
    Hang,
    /// Handles the request this much later. It is handled even if the caller gives up meanwhile.
    Latency(Duration),
    /// Handles the request, and never replies.
    LoseReply,
    /// Handles the request, then resets the connection.
    ResetAfter,
    /// Refuses the requests that name a target with this address (or instance), as a whole.
    RefuseTarget(String),
    /// Resets the connection without handling the request.
    ResetBefore,
    /// Handles the request at once but replies this much later: the answer is stale by then.
    SlowReply(Duration),
}

impl Fault {
    /// Strikes one action, for example `RegisterTargets`, every time.
    pub fn on(action: &str, kind: FaultKind) -> Self {
        Self { action: Some(action.to_owned()), ..Self::any(kind) }
    }

    /// Strikes every request.
    pub fn any(kind: FaultKind) -> Self {
        Self { action: None, arn: None, after: 0, times: None, kind }
    }

    /// Only requests that name this target group.
    pub fn arn(mut self, arn: &str) -> Self {
        self.arn = Some(arn.to_owned());
        self
    }

    /// Lets this many matching requests pass first.
    pub fn after(mut self, requests: u32) -> Self {
        self.after = requests;
        self
    }

    /// Strikes this often, then never again.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    fn strikes(&mut self, asked: &Asked) -> bool {
        if self.action.as_ref().is_some_and(|a| *a != asked.action)
            || self.arn.as_ref().is_some_and(|a| !asked.arns.contains(a))
            || self.times == Some(0)
            || matches!(&self.kind, FaultKind::RefuseTarget(id) if asked.targets.iter().all(|sent| sent.id != *id))
        {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.times = self.times.map(|times| times - 1);
        true
    }
}

impl FaultKind {
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Error { status, code: code.to_owned(), message: message.to_owned() }
    }

    /// AWS can't tell the health of the targets, nor then which there are.
    pub fn health_unavailable() -> Self {
        Self::error(
            500,
            "HealthUnavailable",
            "The health of the specified targets could not be retrieved due to an internal error",
        )
    }

    pub fn throttling() -> Self {
        Self::error(400, "Throttling", "Rate exceeded")
    }

    pub fn body(status: u16, body: &str) -> Self {
        Self::Body { status, body: body.to_owned() }
    }
}
