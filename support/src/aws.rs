//! A small AWS on a loopback port: the parts of ELBv2, CloudWatch's PutMetricData and the Resource Groups Tagging API's
//! GetResources that the function calls.
//!
//! It speaks the real wire protocols, so the real SDK clients run against it, and it is strict: what AWS refuses it
//! refuses in AWS's words, and what AWS lets pass silently although it is a mistake (deregistering without a port,
//! deregistering a draining target) is listed by [`FakeAws::violations`].

mod cloudwatch;
mod elb;
mod fault;
mod group;
mod load_balancers;
mod request;
mod state;
mod tagging;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{net::TcpListener, task::AbortHandle};

use crate::tls::{Authority, Handshakes, Tls};
pub use cloudwatch::Metric;
pub use elb::TWICE;
pub use fault::{Fault, FaultKind};
pub use group::{Found, TargetGroup};
pub use load_balancers::{Listener, LoadBalancer};
pub use request::SentTarget;
pub use state::Call;

use group::{Group, key_text};
use state::{Bucket, State};
use wire::{lock, serve};

/// Of all violations, for a test that judges them itself, by [`FakeAws::take_violations`].
pub const EVERYTHING: &str = "";

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
        let state = Arc::<Mutex<State>>::default();
        let (address, task) = listen(None, &state).await;
        Self { server: Arc::new(Server { address, url: format!("http://{address}"), state, task }) }
    }

    /// Lets the same AWS be reached over TLS as well, with a certificate of this authority.
    pub async fn over_tls(&self, authority: &Authority) -> Tls {
        let handshakes = Arc::new(Handshakes::new(authority));
        let (address, task) = listen(Some(handshakes.clone()), &self.server.state).await;
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
        let TargetGroup { partition, region, name, .. } = &spec;
        let id = 0x73e2_d6bc_24d8_a067_u64.wrapping_mul(state.created);
        let arn = format!("arn:{partition}:elasticloadbalancing:{region}:123456789012:targetgroup/{name}/{id:016x}");
        state.groups.insert(arn.clone(), Group::new(spec));
        arn
    }

    /// Changes the settings of an existing group, say its quota.
    pub fn reconfigure(&self, arn: &str, change: impl FnOnce(&mut TargetGroup)) {
        self.group(arn, |group| change(&mut group.spec));
    }

    pub fn has_target_group(&self, arn: &str) -> bool {
        self.state().groups.contains_key(arn)
    }

    pub fn delete_target_group(&self, arn: &str) {
        self.state().delete_group(arn);
    }

    /// Puts a target (`10.0.1.9:5432`, `[fd00::9]:5432`, `i-0123:5432`, or without a port) into the group unchecked.
    pub fn add_target(&self, arn: &str, target: &str, health: &str) {
        self.group(arn, |group| group.add(target, health));
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
        self.change_health(arn, target, health, None);
    }

    /// The same, with AWS's reason and words for it.
    pub fn set_health(&self, arn: &str, target: &str, health: &str, reason: &str, words: &str) {
        self.change_health(arn, target, health, Some((reason, words)));
    }

    fn change_health(&self, arn: &str, target: &str, health: &str, reason: Option<(&str, &str)>) {
        self.group(arn, |group| {
            let key = group.key(target);
            group.change_targets().get_mut(&key).expect("a target of the group").set(health, reason);
        });
    }

    /// Lets the group's draining targets disappear.
    pub fn finish_draining(&self, arn: &str) {
        self.group(arn, |group| group.change_targets().retain(|_, target| !target.is_draining()));
    }

    /// Makes registering this address (or instance) an `InvalidTarget`, whatever its port.
    pub fn refuse_target(&self, arn: &str, id: &str) {
        self.group(arn, |group| group.refused.insert(id.to_owned()));
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

    /// Creates a load balancer and returns its ARN.
    pub fn create_load_balancer(&self, spec: LoadBalancer) -> String {
        let mut state = self.state();
        state.created += 1;
        let kind = match spec.kind {
            "network" => "net",
            "application" => "app",
            _ => "gwy",
        };
        let id = 0x50dc_6c49_5c0c_9188_u64.wrapping_mul(state.created);
        let LoadBalancer { region, name, .. } = &spec;
        let arn = format!("arn:aws:elasticloadbalancing:{region}:123456789012:loadbalancer/{kind}/{name}/{id:016x}");
        state.load_balancers.known.insert(arn.clone(), spec);
        arn
    }

    /// Changes the settings of an existing load balancer.
    pub fn reconfigure_load_balancer(&self, arn: &str, change: impl FnOnce(&mut LoadBalancer)) {
        change(self.state().load_balancers.known.get_mut(arn).expect("an existing load balancer"));
    }

    /// Deletes a load balancer; DescribeTargetGroups no longer names it.
    pub fn delete_load_balancer(&self, arn: &str) {
        self.state().load_balancers.known.remove(arn);
    }

    /// Lets DescribeLoadBalancers leave out those that there are not, rather than refuse to describe any.
    pub fn leave_out_load_balancers(&self, leaves_out: bool) {
        self.state().load_balancers.leaves_out = leaves_out;
    }

    /// Makes a listener that forwards to target groups, each with a weight or without.
    pub fn create_listener(&self, load_balancer: &str, port: u16, forwards: &[(&str, Option<u32>)]) {
        let forwards = forwards.iter().map(|(arn, weight)| ((*arn).to_owned(), *weight)).collect();
        let listener = Listener { port, protocol: "TCP", forwards };
        self.reconfigure_load_balancer(load_balancer, |own| own.listeners.push(listener));
    }

    /// Sets an attribute of a target group or of a load balancer.
    pub fn set_attribute(&self, arn: &str, key: &str, value: &str) {
        let is_group = arn.contains(":targetgroup/");
        let known = if is_group { &elb::GROUP_ATTRIBUTES[..] } else { &elb::LOAD_BALANCER_ATTRIBUTES };
        assert!(known.iter().any(|(name, _)| *name == key), "no attribute of {arn}: {key}");
        self.state().attributes.insert((arn.to_owned(), key.to_owned()), value.to_owned());
    }

    /// Puts a target group behind a network load balancer of its own, as the template does, and returns that one's ARN.
    pub fn offer(&self, arn: &str) -> String {
        let load_balancer = self.create_load_balancer(LoadBalancer::new("db"));
        self.set_attribute(&load_balancer, "load_balancing.cross_zone.enabled", "true");
        self.create_listener(&load_balancer, 5432, &[(arn, None)]);
        self.set_attribute(arn, "deregistration_delay.timeout_seconds", "0");
        self.set_attribute(arn, "deregistration_delay.connection_termination.enabled", "true");
        self.reconfigure(arn, |group| group.check_interval = 10);
        load_balancer
    }

    /// Every request so far, in the order of arrival.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    pub fn calls_of(&self, action: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.action == action).collect()
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

    /// Delays the handling of every request, until the faults are cleared.
    pub fn set_latency(&self, latency: Duration) {
        self.fault(Fault::any(FaultKind::Latency(latency)));
    }

    /// Throttles the ELBv2 reads of all groups together, with a token bucket as AWS does.
    pub fn set_read_quota(&self, burst: u32, per_second: f64) {
        self.state().read_quota = Some(Bucket::new(burst, per_second));
    }

    /// The same for GetResources.
    pub fn set_listing_quota(&self, burst: u32, per_second: f64) {
        self.state().listing_quota = Some(Bucket::new(burst, per_second));
    }

    /// Caps a page of GetResources, 100 target groups unless set.
    pub fn set_listing_page_size(&self, groups: usize) {
        self.state().listing_page_size = Some(groups);
    }

    /// How many of the calls were throttled, be it by a quota or a fault.
    pub fn throttled(&self) -> usize {
        let is_throttled = |call: &&Call| call.error.as_ref().is_some_and(|code| code.starts_with("Throttl"));
        self.state().calls.iter().filter(is_throttled).count()
    }

    /// From now on it is not the function that asks: its actions are not taken for the function's.
    pub fn asked_by_others(&self) {
        self.state().asked_by_others = true;
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

    fn group<T>(&self, arn: &str, act: impl FnOnce(&mut Group) -> T) -> T {
        act(self.state().groups.get_mut(arn).expect("an existing target group"))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.server.state)
    }
}

/// Serves this AWS on a port of its own.
async fn listen(tls: Option<Arc<Handshakes>>, state: &Arc<Mutex<State>>) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
    let address = listener.local_addr().expect("a bound listener");
    (address, tokio::spawn(serve(listener, tls, state.clone())).abort_handle())
}
