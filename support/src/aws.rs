//! A small AWS on a loopback port: the parts of ELBv2 and of CloudWatch's PutMetricData that the function calls.
//!
//! It speaks the real wire protocols, so the real SDK clients run against it, and it is strict: what AWS refuses it
//! refuses in AWS's words, and what AWS lets pass silently although it is a mistake (deregistering without a port,
//! deregistering a draining target) is listed by [`FakeAws::violations`].

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt,
    fs::OpenOptions,
    io::{self, Read, Write},
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ciborium::{cbor, tag};
use flate2::read::GzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    http::{HeaderValue, request::Parts},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use crate::temporary;

/// A handle on the server, which stops when the last handle is dropped.
#[derive(Clone)]
pub struct FakeAws {
    server: Arc<Server>,
}

struct Server {
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
        let task = tokio::spawn(serve(listener, state.clone())).abort_handle();
        let url = format!("http://{address}");
        Self { server: Arc::new(Server { url, state, task }) }
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
        self.state().groups.remove(arn);
    }

    /// Puts a target (`10.0.1.9:5432`, `[fd00::9]:5432`, `i-0123:5432`, or without a port) into the group unchecked.
    pub fn add_target(&self, arn: &str, target: &str, health: &str) {
        self.group(arn, |group| {
            let (id, port) = group.key(target);
            let zone = id.parse().ok().map(|ip| {
                let zone = group.spec.zone_of(ip);
                zone.unwrap_or_else(|| "all".to_owned())
            });
            let health = checked_health(health);
            group.targets.insert((id, port), Target { health, zone });
        });
    }

    /// Takes a target out of the group at once, without draining.
    pub fn remove_target(&self, arn: &str, target: &str) {
        self.group(arn, |group| group.targets.remove(&group.key(target)));
    }

    /// Sets the health state of a target of the group.
    pub fn set_state(&self, arn: &str, target: &str, health: &str) {
        self.group(arn, |group| {
            let key = group.key(target);
            let target = group.targets.get_mut(&key).expect("a target of the group");
            target.health = checked_health(health);
        });
    }

    /// Lets the group's draining targets disappear.
    pub fn finish_draining(&self, arn: &str) {
        self.group(arn, |group| {
            group.targets.retain(|_, target| !target.draining());
        });
    }

    /// Makes registering this address (or instance) an `InvalidTarget`, whatever its port.
    pub fn refuse_target(&self, arn: &str, id: &str) {
        self.group(arn, |group| group.refused.insert(id.to_owned()));
    }

    /// All targets and their health states, the draining ones too.
    pub fn targets(&self, arn: &str) -> BTreeMap<String, String> {
        self.group(arn, |group| {
            let targets = group.targets.iter();
            targets.map(|(key, target)| (key_text(key), target.health.clone())).collect()
        })
    }

    /// The targets that are not draining.
    pub fn registered(&self, arn: &str) -> BTreeSet<String> {
        self.group(arn, |group| group.registered())
    }

    pub fn tags(&self, arn: &str) -> BTreeMap<String, String> {
        self.group(arn, |group| group.tags.clone())
    }

    pub fn set_tag(&self, arn: &str, key: &str, value: &str) {
        self.group(arn, |group| group.tags.insert(key.into(), value.into()));
    }

    pub fn remove_tag(&self, arn: &str, key: &str) {
        self.group(arn, |group| group.tags.remove(key));
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
        let arrived = || self.state().calls.len();
        let mut known = None;
        while known != Some(arrived()) {
            known = Some(arrived());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Delays the handling of every request.
    pub fn set_latency(&self, latency: Duration) {
        self.state().latency = latency;
    }

    /// Throttles the ELBv2 reads of all groups together, with a token bucket as AWS does.
    pub fn set_read_quota(&self, burst: u32, per_second: f64) {
        self.state().read_quota =
            Some(Bucket { burst: burst.into(), per_second, tokens: burst.into(), filled: Instant::now() });
    }

    /// Caps a page of DescribeTargetGroups, 400 groups unless set.
    pub fn set_page_size(&self, groups: usize) {
        self.state().page_size = Some(groups);
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

/// A target group to create: by default `ip`, IPv4, port 5432, in a VPC 10.0.0.0/16 of us-east-1.
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
    new_state: String,
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
            new_state: "initial".to_owned(),
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

    /// The health state of a newly registered target.
    pub fn new_state(mut self, health: &str) -> Self {
        self.new_state = checked_health(health);
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

    pub fn throttling() -> Self {
        Self::error(400, "Throttling", "Rate exceeded")
    }

    pub fn body(status: u16, body: &str) -> Self {
        Self::Body { status, body: body.to_owned() }
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) -> Infallible {
    // Aborting this task drops the set, and that ends the connections.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a live listener");
        // Closing such a socket sends a RST: a reset shall be one.
        stream.set_zero_linger().expect("an open socket");
        let state = state.clone();
        let service = service_fn(move |request| answer(state.clone(), request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        connections.spawn(async move {
            // An error is a caller that left or a reset of our own making.
            let _ = connection.await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| reset())?.to_bytes();
    let mut asked = Asked::read(&head, body);
    let fate = lock(&state).arrive(&mut asked);

    match fate.end {
        Some(FaultKind::Hang) => {
            hang(&state);
            std::future::pending().await
        }
        Some(FaultKind::ResetBefore) => return Err(reset()),
        _ => {}
    }
    // As at AWS, what has arrived is carried out even if the caller goes away: hence a task of its own.
    let handling = tokio::spawn(async move {
        pause(fate.before).await;
        if let (Some(FaultKind::DeleteGroup), Some(arn)) = (&fate.end, asked.arns.first()) {
            lock(&state).groups.remove(arn);
        }
        let outcome = match &fate.end {
            Some(FaultKind::Error { status, code, message }) => Err(refuse(*status, code, message.clone())),
            Some(FaultKind::Body { .. }) => Ok(String::new()),
            _ => lock(&state).handle(&asked),
        };
        let reply = match &fate.end {
            Some(FaultKind::Body { status, body }) => raw(*status, "text/xml", body.clone()),
            _ => reply(&asked, outcome),
        };
        pause(fate.after).await;
        match fate.end {
            Some(FaultKind::LoseReply) => {
                hang(&state);
                std::future::pending().await
            }
            Some(FaultKind::ResetAfter) => return Err(reset()),
            _ => {}
        }
        let mut state = lock(&state);
        let mut calls = state.calls.iter_mut();
        if let Some(call) = calls.find(|call| call.number == asked.number) {
            call.status = reply.status().as_u16();
        }
        Ok(reply)
    });
    handling.await.map_err(|_| reset())?
}

async fn pause(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

fn hang(state: &Mutex<State>) {
    lock(state).hanging.send_modify(|hanging| *hanging += 1);
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("nothing panics while it holds the lock")
}

fn reply(asked: &Asked, outcome: Result<String, Refusal>) -> Response<Full<Bytes>> {
    let status = outcome.as_ref().map_or_else(|refusal| refusal.status, |_| 200);
    let fault = if status < 500 { "Sender" } else { "Receiver" };
    if asked.cbor {
        let value = match &outcome {
            Ok(_) => cbor!({}),
            Err(refusal) => cbor!({ "__type" => refusal.code, "message" => refusal.message }),
        };
        let mut body = Vec::new();
        ciborium::into_writer(&value.expect("plain strings"), &mut body).expect("a Vec grows");
        let mut reply = raw(status, "application/cbor", body);
        let headers = reply.headers_mut();
        headers.insert("smithy-protocol", HeaderValue::from_static("rpc-v2-cbor"));
        if let Err(Refusal { code, .. }) = outcome {
            let error = format!("{code};{fault}").parse().expect("a plain code");
            headers.insert("x-amzn-query-error", error);
        }
        return reply;
    }
    let id = format!("00000000-0000-4000-8000-{:012}", asked.number);
    let namespace = "http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/";
    let body = match outcome {
        Ok(result) => {
            let action = &asked.action;
            format!(
                "<{action}Response xmlns=\"{namespace}\"><{action}Result>{result}</{action}Result>\
                 <ResponseMetadata><RequestId>{id}</RequestId></ResponseMetadata></{action}Response>"
            )
        }
        Err(Refusal { code, message, .. }) => format!(
            "<ErrorResponse xmlns=\"{namespace}\"><Error><Type>{fault}</Type>{}{}</Error>\
             <RequestId>{id}</RequestId></ErrorResponse>",
            element("Code", code),
            element("Message", message)
        ),
    };
    raw(status, "text/xml", body)
}

fn raw(status: u16, content_type: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(Full::new(body.into()))
        .expect("a valid status")
}

/// As the error of a service it makes hyper drop the connection.
fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// A request, read but not yet judged.
#[derive(Default)]
struct Asked {
    number: u64,
    cbor: bool,
    action: String,
    arns: Vec<String>,
    targets: Vec<SentTarget>,
    tags: Vec<(String, String)>,
    region: String,
    gzip: bool,
    /// The decoded fields of the Query protocol.
    fields: BTreeMap<String, String>,
    /// The body of the CBOR protocol, still packed.
    body: Bytes,
    /// What is wrong with the request as a whole.
    refusal: Option<Refusal>,
}

impl Asked {
    fn read(head: &Parts, body: Bytes) -> Self {
        let mut asked = Self {
            cbor: head.uri.path().starts_with("/service/"),
            gzip: head.headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip"),
            ..Self::default()
        };
        let service = if asked.cbor {
            let prefix = "/service/GraniteServiceVersion20100801/operation/";
            let operation = head.uri.path().strip_prefix(prefix);
            asked.action = operation.unwrap_or_default().to_owned();
            asked.body = body;
            "monitoring"
        } else {
            asked.fields = form_urlencoded::parse(&body).into_owned().collect();
            asked.action = asked.field("Action").unwrap_or_default().to_owned();
            let arn = asked.field("TargetGroupArn").map(str::to_owned);
            let lists = ["TargetGroupArns", "ResourceArns"].map(|name| asked.list(name));
            asked.arns = arn.into_iter().chain(lists.concat()).collect();
            asked.targets = asked.sent_targets();
            asked.tags = asked.sent_tags();
            "elasticloadbalancing"
        };
        note_action(service, &asked.action);
        match signed_scope(head) {
            Some((region, scope)) if scope == service => asked.region = region,
            _ => {
                let message = format!("Request is missing Authentication Token for {service}");
                asked.refusal = Some(refuse(403, "MissingAuthenticationToken", message).breach());
            }
        }
        asked
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    fn list(&self, name: &str) -> Vec<String> {
        let member = |n| self.fields.get(&format!("{name}.member.{n}")).cloned();
        (1..).map_while(member).collect()
    }

    fn sent_tags(&self) -> Vec<(String, String)> {
        let member = |n: usize| {
            let value = self.field(&format!("Tags.member.{n}.Value")).unwrap_or_default();
            Some((self.field(&format!("Tags.member.{n}.Key"))?.to_owned(), value.to_owned()))
        };
        (1..).map_while(member).collect()
    }

    fn sent_targets(&self) -> Vec<SentTarget> {
        let member = |n: usize| {
            let field = |name| self.field(&format!("Targets.member.{n}.{name}"));
            Some(SentTarget {
                id: field("Id")?.to_owned(),
                // A port that is no port is recorded as 0, which is none either.
                port: field("Port").map(|port| port.parse().unwrap_or(0)),
                az: field("AvailabilityZone").map(str::to_owned),
            })
        };
        (1..).map_while(member).collect()
    }
}

/// Adds the action to the list of all that the function asked for in any test, which `tests/e2e` holds against the
/// template's policy: `target/tmp/aws-actions`, a line for each action and test process.
fn note_action(service: &str, action: &str) {
    static SEEN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let prefix = if service == "monitoring" { "cloudwatch" } else { service };
    let line = format!("{prefix}:{action}\n");
    if SEEN.lock().expect("no test panics while it holds this").insert(line.clone()) {
        let file = OpenOptions::new().create(true).append(true).open(temporary("aws-actions"));
        file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the target folder can be written to");
    }
}

/// Region and service of the SigV4 credential scope. The signature itself is not checked: any credentials do.
fn signed_scope(head: &Parts) -> Option<(String, String)> {
    let authorization = head.headers.get("authorization")?.to_str().ok()?;
    let parts = authorization.strip_prefix("AWS4-HMAC-SHA256 ")?;
    let part = |name| parts.split([',', ' ']).find_map(|p| p.strip_prefix(name));
    part("Signature=")?;
    let scope: Vec<&str> = part("Credential=")?.rsplit('/').collect();
    let ["aws4_request", service, region, _date, _key, ..] = scope[..] else {
        return None;
    };
    Some((region.to_owned(), service.to_owned()))
}

/// What a request is in for.
struct Fate {
    before: Duration,
    after: Duration,
    end: Option<FaultKind>,
}

#[derive(Clone)]
struct Refusal {
    status: u16,
    code: String,
    message: String,
    /// Whether a well-behaved caller cannot run into it.
    breach: bool,
}

impl Refusal {
    fn breach(mut self) -> Self {
        self.breach = true;
        self
    }
}

fn refuse(status: u16, code: &str, message: impl Into<String>) -> Refusal {
    Refusal { status, code: code.to_owned(), message: message.into(), breach: false }
}

fn invalid(message: impl Into<String>) -> Refusal {
    refuse(400, "ValidationError", message)
}

struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn take(&mut self) -> bool {
        let elapsed = self.filled.elapsed().as_secs_f64();
        self.filled = Instant::now();
        self.tokens = (self.tokens + elapsed * self.per_second).min(self.burst);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

struct Group {
    spec: TargetGroup,
    targets: BTreeMap<(String, u16), Target>,
    tags: BTreeMap<String, String>,
    refused: BTreeSet<String>,
}

struct Target {
    health: String,
    zone: Option<String>,
}

impl Target {
    fn draining(&self) -> bool {
        self.health == "draining"
    }
}

impl Group {
    fn new(spec: TargetGroup) -> Self {
        Self { spec, targets: BTreeMap::new(), tags: BTreeMap::new(), refused: BTreeSet::new() }
    }

    fn key(&self, text: &str) -> (String, u16) {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.ip().to_string(), address.port());
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return (ip.to_string(), self.spec.port);
        }
        text.rsplit_once(':')
            .and_then(|(id, port)| Some((id.to_owned(), port.parse().ok()?)))
            .unwrap_or_else(|| (text.to_owned(), self.spec.port))
    }

    /// The target that is meant, if one could be registered under that name in this kind of group.
    fn identify(&self, sent: &SentTarget) -> Result<(String, u16), Refusal> {
        let SentTarget { id, port, .. } = sent;
        if *port == Some(0) {
            return Err(invalid(format!("The port of target '{id}' must be from 1 to 65535")).breach());
        }
        let port = port.unwrap_or(self.spec.port);
        if self.spec.target_type != "ip" {
            if self.spec.target_type == "instance" && !id.starts_with("i-") {
                return Err(invalid(format!("Instance ID '{id}' is not valid")));
            }
            return Ok((id.clone(), port));
        }
        match id.parse::<IpAddr>() {
            Ok(ip) if ip.is_ipv6() == self.spec.ipv6 => Ok((ip.to_string(), port)),
            _ => {
                let family = if self.spec.ipv6 { "IPv6" } else { "IPv4" };
                Err(invalid(format!("The IP address '{id}' is not a valid {family} address")).breach())
            }
        }
    }

    /// Whether the target may be registered, and in which zone it then is.
    fn admit(&self, sent: &SentTarget) -> Result<((String, u16), Option<String>), Refusal> {
        let key = self.identify(sent)?;
        let zone = match key.0.parse() {
            Ok(ip) if self.spec.target_type == "ip" => Some(self.admit_address(ip, sent.az.as_deref())?),
            _ => None,
        };
        if self.refused.contains(&key.0) {
            let message = format!("The target '{}' is not a valid target", key.0);
            return Err(refuse(400, "InvalidTarget", message));
        }
        Ok((key, zone))
    }

    fn admit_address(&self, ip: IpAddr, az: Option<&str>) -> Result<String, Refusal> {
        let routable = match ip {
            IpAddr::V4(_) => {
                let allowed = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];
                nets(&allowed).iter().any(|net| net.contains(&ip))
            }
            IpAddr::V6(v6) => {
                !(v6.is_loopback()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || v6.is_unicast_link_local()
                    || v6.to_ipv4_mapped().is_some())
            }
        };
        if !routable {
            let message = format!("You can't specify publicly routable IP addresses: '{ip}'");
            return Err(invalid(message).breach());
        }
        if let Some(own) = self.spec.zone_of(ip) {
            return match az {
                Some(other) if other != own => Err(invalid(format!(
                    "The IP address '{ip}' is within the VPC, and cannot have its Availability Zone \
                     overridden to '{other}' from '{own}'"
                ))
                .breach()),
                _ => Ok(own),
            };
        }
        match az {
            Some("all") => Ok("all".to_owned()),
            Some(zone) if zone.starts_with(&self.spec.region) => Ok(zone.to_owned()),
            Some(zone) => Err(invalid(format!("The Availability Zone '{zone}' is not valid")).breach()),
            None if self.spec.vpc_cidrs.iter().any(|net| net.contains(&ip)) => Err(invalid(format!(
                "The Availability Zone is required for IP address '{ip}' because it is not in the VPC"
            ))),
            None => Err(invalid(format!(
                "You must specify a valid Availability Zone or select 'all' for all enabled Availability \
                 zones, since the IP address '{ip}' is outside the VPC"
            ))),
        }
    }

    fn registered(&self) -> BTreeSet<String> {
        let targets = self.targets.iter().filter(|(_, target)| !target.draining());
        targets.map(|(key, _)| key_text(key)).collect()
    }

    fn counted(&self) -> BTreeSet<(String, u16)> {
        let targets = self.targets.iter();
        targets
            .filter(|(_, target)| self.spec.draining_counts || !target.draining())
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn described(&self, arn: &str) -> String {
        let spec = &self.spec;
        let mut text = element("TargetGroupArn", arn) + &element("TargetGroupName", &spec.name);
        text += &element("TargetType", &spec.target_type);
        if spec.target_type != "lambda" {
            text += &(element("Protocol", "TCP") + &element("Port", spec.port));
            text += &element("VpcId", "vpc-0a1b2c3d4e5f60718");
            text += &element("IpAddressType", if spec.ipv6 { "ipv6" } else { "ipv4" });
            text += &element("HealthCheckProtocol", "TCP");
            text += &element("HealthCheckPort", "traffic-port");
        }
        text + "<LoadBalancerArns/>"
    }

    fn health(&self, (id, port): &(String, u16), target: &Target) -> String {
        let health = &target.health;
        let reason = match health.as_str() {
            "healthy" => None,
            "initial" => Some("Elb.RegistrationInProgress"),
            "draining" => Some("Target.DeregistrationInProgress"),
            "unused" => Some("Target.NotInUse"),
            "unavailable" => Some("Elb.InternalError"),
            _ => Some("Target.FailedHealthChecks"),
        };
        let mut shown = element("Id", id);
        let mut check_port = String::new();
        if self.spec.target_type != "lambda" {
            shown += &element("Port", port);
            check_port = element("HealthCheckPort", port);
        }
        if let Some(zone) = &target.zone {
            shown += &element("AvailabilityZone", zone);
        }
        let mut state = element("State", health);
        if let Some(reason) = reason {
            state += &element("Reason", reason);
            state += &element("Description", format!("The target is {health}"));
        }
        format!("<Target>{shown}</Target>{check_port}<TargetHealth>{state}</TargetHealth>")
    }
}

type Operation = fn(&mut State, &Asked) -> Result<String, Refusal>;

#[derive(Default)]
struct State {
    created: u64,
    arrived: u64,
    groups: BTreeMap<String, Group>,
    calls: Vec<Call>,
    metrics: Vec<Metric>,
    violations: Vec<String>,
    /// Texts of violations that are none in this test.
    tolerated: Vec<String>,
    faults: Vec<Fault>,
    latency: Duration,
    read_quota: Option<Bucket>,
    page_size: Option<usize>,
    /// How many requests were left without a reply for good.
    hanging: watch::Sender<u64>,
}

impl State {
    fn arrive(&mut self, asked: &mut Asked) -> Fate {
        self.arrived += 1;
        asked.number = self.arrived;
        let changes_targets = ["DeregisterTargets", "RegisterTargets"].contains(&&*asked.action);
        let group = asked.arns.first().filter(|_| changes_targets).and_then(|arn| self.groups.get(arn));
        self.calls.push(Call {
            action: asked.action.clone(),
            arn: asked.arns.first().cloned(),
            arns: asked.arns.clone(),
            targets: asked.targets.clone(),
            tags: asked.tags.clone(),
            tag_keys: asked.list("TagKeys"),
            region: asked.region.clone(),
            at: Instant::now(),
            status: 0,
            gzip: asked.gzip,
            found: group.map(|group| Found { registered: group.registered(), tags: group.tags.clone() }),
            number: self.arrived,
        });
        let mut fate = Fate { before: self.latency, after: Duration::ZERO, end: None };
        for fault in &mut self.faults {
            if fault.strikes(asked) {
                match &fault.kind {
                    FaultKind::Latency(latency) => fate.before += *latency,
                    FaultKind::SlowReply(delay) => fate.after += *delay,
                    end => {
                        fate.end = Some(end.clone());
                        break;
                    }
                }
            }
        }
        fate
    }

    /// Carries a request out: the content of the result element, or the refusal.
    fn handle(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let outcome = self.perform(asked);
        if let Err(refusal) = &outcome
            && refusal.breach
        {
            self.violations.push(format!("{}: {}", asked.action, refusal.message));
        }
        outcome
    }

    fn perform(&mut self, asked: &Asked) -> Result<String, Refusal> {
        if let Some(refusal) = &asked.refusal {
            return Err(refusal.clone());
        }
        let action = asked.action.as_str();
        let reads = action.starts_with("Describe");
        if reads && self.read_quota.as_mut().is_some_and(|quota| !quota.take()) {
            return Err(refuse(400, "ThrottlingException", "Rate exceeded"));
        }
        let (known, perform): (&[&str], Operation) = match action {
            "AddTags" => (&["ResourceArns", "Tags"], Self::add_tags),
            "DeregisterTargets" => (&["TargetGroupArn", "Targets"], Self::deregister),
            "DescribeTags" => (&["ResourceArns"], Self::describe_tags),
            "DescribeTargetGroups" => (&["TargetGroupArns", "Marker", "PageSize"], Self::describe_groups),
            "DescribeTargetHealth" => (&["TargetGroupArn"], Self::describe_health),
            "PutMetricData" => (&[], Self::put_metric_data),
            "RegisterTargets" => (&["TargetGroupArn", "Targets"], Self::register),
            "RemoveTags" => (&["ResourceArns", "TagKeys"], Self::remove_tags),
            _ => {
                let message = format!("Could not find operation {action} for version 2015-12-01");
                return Err(refuse(400, "InvalidAction", message));
            }
        };
        for name in asked.fields.keys() {
            let name = name.split('.').next().unwrap_or(name);
            if !["Action", "Version"].contains(&name) && !known.contains(&name) {
                return Err(invalid(format!("{action} does not know {name} here")));
            }
        }
        for arn in &asked.arns {
            self.check_arn(arn, &asked.region)?;
        }
        perform(self, asked)
    }

    fn check_arn(&self, arn: &str, region: &str) -> Result<(), Refusal> {
        let parts: Vec<&str> = arn.splitn(6, ':').collect();
        match parts[..] {
            // An endpoint knows the groups of its own region only.
            ["arn", _, "elasticloadbalancing", r, _, name] if r == region && name.starts_with("targetgroup/") => {}
            _ => return Err(invalid(format!("'{arn}' is not a valid target group ARN")).breach()),
        }
        if self.groups.contains_key(arn) {
            return Ok(());
        }
        let message = format!("Target groups '{arn}' not found");
        Err(refuse(400, "TargetGroupNotFound", message))
    }

    fn describe_groups(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let page: usize = match asked.field("PageSize").map(str::parse) {
            None => 400,
            Some(Ok(size @ 1..=400)) => size,
            Some(_) => return Err(invalid("PageSize must be from 1 to 400").breach()),
        };
        let size = page.min(self.page_size.unwrap_or(400));
        let first = asked.field("Marker").unwrap_or_default();
        let mut chosen = self.groups.iter().filter(|(arn, _)| {
            let in_region = arn.split(':').nth(3) == Some(&asked.region);
            let asked_for = asked.arns.is_empty() || asked.arns.contains(arn);
            in_region && asked_for && arn.as_str() >= first
        });
        let page = chosen.by_ref().take(size).map(|(arn, group)| group.described(arn));
        let groups = members("TargetGroups", page);
        let marker = chosen.next().map_or_else(String::new, |(arn, _)| element("NextMarker", arn));
        Ok(groups + &marker)
    }

    fn describe_health(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let group = &self.groups[only_arn(asked)?];
        let targets = group.targets.iter().map(|(key, target)| group.health(key, target));
        Ok(members("TargetHealthDescriptions", targets))
    }

    fn register(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let arn = only_arn(asked)?;
        check_batch(asked)?;
        let group = self.groups.get_mut(arn).expect("checked by check_arn");
        if group.spec.target_type != "ip" {
            self.violations.push(format!("RegisterTargets: {arn} is not of type ip"));
        }
        // One bad target refuses all; the first one is named, breaches of the others are noted none the less.
        let mut admitted = Vec::new();
        let mut refusals = Vec::new();
        for sent in &asked.targets {
            match group.admit(sent) {
                Ok(target) => admitted.push(target),
                Err(refusal) => refusals.push(refusal),
            }
        }
        let mut refusals = refusals.into_iter();
        if let Some(first) = refusals.next() {
            let breaches = refusals.filter(|refusal| refusal.breach);
            self.violations.extend(breaches.map(|refusal| format!("RegisterTargets: {}", refusal.message)));
            return Err(first);
        }
        let before = group.counted();
        let mut after = before.clone();
        after.extend(admitted.iter().map(|(key, _)| key.clone()));
        if after.len() > before.len() && after.len() > group.spec.quota {
            let quota = group.spec.quota;
            let message = format!("You've reached the limit of {quota} targets for target group '{arn}'");
            return Err(refuse(400, "TooManyTargets", message));
        }
        for (key, zone) in admitted {
            if group.targets.get(&key).is_none_or(Target::draining) {
                let health = group.spec.new_state.clone();
                group.targets.insert(key, Target { health, zone });
            }
        }
        Ok(String::new())
    }

    fn deregister(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let arn = only_arn(asked)?;
        check_batch(asked)?;
        let group = self.groups.get_mut(arn).expect("checked by check_arn");
        let mut leaving = BTreeSet::new();
        for sent in &asked.targets {
            // Without a port this is the group's own port: a target on any other port is not meant.
            let key = group.identify(sent)?;
            if sent.port.is_none() {
                self.violations.push(format!("DeregisterTargets: {} without a port", sent.id));
            }
            if let Some(target) = group.targets.get(&key) {
                if sent.az.is_some() && sent.az != target.zone {
                    let message = format!("The Availability Zone of '{}' is not the registered one", sent.id);
                    return Err(invalid(message).breach());
                }
                leaving.insert(key);
            }
        }
        for key in leaving {
            let target = group.targets.get_mut(&key).expect("just looked up");
            if target.draining() {
                let target = key_text(&key);
                self.violations.push(format!("DeregisterTargets: {target} {TWICE}"));
            }
            "draining".clone_into(&mut target.health);
        }
        Ok(String::new())
    }

    fn describe_tags(&mut self, asked: &Asked) -> Result<String, Refusal> {
        if !(1..=20).contains(&asked.arns.len()) {
            return Err(invalid("ResourceArns must name 1 to 20 resources").breach());
        }
        let resources = asked.arns.iter().map(|arn| {
            let tags = self.groups[arn].tags.iter();
            let tags = tags.map(|(key, value)| element("Key", key) + &element("Value", value));
            element("ResourceArn", arn) + &members("Tags", tags)
        });
        Ok(members("TagDescriptions", resources))
    }

    fn add_tags(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let arn = only_arn(asked)?;
        let mut sent = BTreeMap::new();
        for (key, value) in &asked.tags {
            check_tag(key, value)?;
            if sent.insert(key.to_owned(), value.to_owned()).is_some() {
                let message = format!("The tag key '{key}' was specified more than once");
                return Err(refuse(400, "DuplicateTagKeys", message).breach());
            }
        }
        if sent.is_empty() {
            return Err(invalid("At least one tag must be specified").breach());
        }
        let group = self.groups.get_mut(arn).expect("checked by check_arn");
        let mut tags = group.tags.clone();
        tags.extend(sent);
        // The tags of AWS itself are not counted.
        if tags.keys().filter(|key| !key.starts_with("aws:")).count() > 50 {
            let message = "You've reached the limit on the number of tags per resource";
            return Err(refuse(400, "TooManyTags", message).breach());
        }
        group.tags = tags;
        Ok(String::new())
    }

    fn remove_tags(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let arn = only_arn(asked)?;
        let keys = asked.list("TagKeys");
        if keys.is_empty() {
            return Err(invalid("At least one tag key must be specified").breach());
        }
        for key in &keys {
            check_tag(key, "")?;
        }
        let group = self.groups.get_mut(arn).expect("checked by check_arn");
        group.tags.retain(|key, _| !keys.contains(key));
        Ok(String::new())
    }

    fn put_metric_data(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let wrong = |what: String| refuse(400, "InvalidParameterValue", what).breach();
        let mut body = asked.body.to_vec();
        if asked.gzip {
            body.clear();
            let unpacked = GzDecoder::new(&asked.body[..]).read_to_end(&mut body);
            unpacked.map_err(|error| wrong(format!("not gzip: {error}")))?;
        }
        let request: PutMetricData =
            ciborium::from_reader(&body[..]).map_err(|error| wrong(format!("not understood: {error}")))?;
        let PutMetricData { namespace, metric_data } = request;
        if body.len() > 1_000_000 || !(1..=1000).contains(&metric_data.len()) {
            let (metrics, bytes) = (metric_data.len(), body.len());
            return Err(wrong(format!("{metrics} metrics in {bytes} bytes, 1000 in 1 MB allowed")));
        }
        if !fits(&namespace, 255) || namespace.starts_with(':') || namespace.starts_with("AWS/") {
            return Err(wrong(format!("The value {namespace} for parameter Namespace is invalid.")));
        }
        let mut calls = self.calls.iter().filter(|call| call.action == asked.action);
        let call = calls.position(|call| call.number == asked.number).unwrap_or(0);
        let metrics = metric_data.into_iter().map(|datum| {
            let name = datum.metric_name.clone();
            let metric = datum.check(&namespace, call);
            metric.map_err(|what| wrong(format!("{what} of metric {name} is invalid")))
        });
        let metrics = metrics.collect::<Result<Vec<_>, _>>()?;
        self.metrics.extend(metrics);
        Ok(String::new())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct PutMetricData {
    namespace: String,
    metric_data: Vec<Datum>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Datum {
    metric_name: String,
    #[serde(default)]
    dimensions: Vec<Dimension>,
    timestamp: Option<tag::Required<f64, 1>>,
    value: f64,
    unit: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Dimension {
    name: String,
    value: String,
}

impl Datum {
    /// The metric, or the name of the field that is wrong.
    fn check(self, namespace: &str, call: usize) -> Result<Metric, &'static str> {
        let count = self.dimensions.len();
        let dimensions = self.dimensions.into_iter().map(|d| (d.name, d.value));
        let dimensions: BTreeMap<_, _> = dimensions.collect();
        let plain = |(name, value): (&String, &String)| {
            fits(name, 255) && fits(value, 1024) && name.is_ascii() && value.is_ascii()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        // Two weeks back and two hours ahead: a time in milliseconds does not pass.
        let accepted = now.as_secs_f64() - 1_209_600.0..now.as_secs_f64() + 7200.0;
        let timestamp = self.timestamp.map(|time| time.0);
        let unit = self.unit.unwrap_or_else(|| "None".to_owned());
        if !fits(&self.metric_name, 255) {
            return Err("MetricName");
        }
        // A name that comes twice is gone from the map.
        if count > 30 || dimensions.len() < count || !dimensions.iter().all(plain) {
            return Err("Dimensions");
        }
        if timestamp.is_some_and(|seconds| !accepted.contains(&seconds)) {
            return Err("Timestamp");
        }
        if !self.value.is_finite() || self.value.abs() > 2_f64.powi(360) {
            return Err("Value");
        }
        if !["Seconds", "Milliseconds", "Count", "Percent", "Bytes", "None"].contains(&&*unit) {
            return Err("Unit");
        }
        Ok(Metric {
            namespace: namespace.to_owned(),
            name: self.metric_name,
            dimensions,
            value: self.value,
            unit,
            timestamp,
            call,
        })
    }
}

/// The one resource that this kind of call takes.
fn only_arn(asked: &Asked) -> Result<&str, Refusal> {
    match &asked.arns[..] {
        [arn] => Ok(arn),
        _ if asked.action.ends_with("Tags") => Err(invalid("Only one resource can be tagged at a time").breach()),
        _ => Err(invalid("A target group ARN must be specified").breach()),
    }
}

/// AWS does not document how many targets a call may carry; 200 is what the load balancer controller sends at most.
fn check_batch(asked: &Asked) -> Result<(), Refusal> {
    if (1..=200).contains(&asked.targets.len()) {
        return Ok(());
    }
    Err(invalid(format!("{} targets in one call, 1 to 200 allowed", asked.targets.len())).breach())
}

fn check_tag(key: &str, value: &str) -> Result<(), Refusal> {
    // [\p{L}\p{Z}\p{N}_.:/=+\-@]*, as near as the standard library gets to it.
    let allowed = |c: char| c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "_.:/=+-@".contains(c);
    // The user guide wants no blanks around, and allows 127 and 255 characters, the API reference 128 and 256.
    let fits = (1..=127).contains(&key.chars().count()) && value.chars().count() <= 255;
    let blanks = [key, value].into_iter().any(|text| text.trim() != text);
    if !fits || blanks || !key.chars().chain(value.chars()).all(allowed) {
        return Err(invalid(format!("The tag '{key}' = '{value}' is not valid")).breach());
    }
    if key.to_ascii_lowercase().starts_with("aws:") {
        return Err(invalid(format!("The tag key '{key}' is reserved: it starts with aws:")).breach());
    }
    Ok(())
}

fn checked_health(health: &str) -> String {
    let known = ["initial", "healthy", "unhealthy", "unhealthy.draining", "unused", "draining", "unavailable"];
    assert!(known.contains(&health), "no health state: {health}");
    health.to_owned()
}

fn key_text((id, port): &(String, u16)) -> String {
    id.parse().map_or_else(|_| format!("{id}:{port}"), |ip| SocketAddr::new(ip, *port).to_string())
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a CIDR")).collect()
}

fn element(name: &str, content: impl fmt::Display) -> String {
    let content = content.to_string().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    format!("<{name}>{content}</{name}>")
}

fn members(name: &str, members: impl Iterator<Item = String>) -> String {
    let members: String = members.map(|member| format!("<member>{member}</member>")).collect();
    format!("<{name}>{members}</{name}>")
}

fn fits(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.len())
}
