//! The state of the small AWS, and what ELBv2 makes of a request.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use tokio::{sync::watch, time::Instant};

use super::{
    Call, Fault, FaultKind, Found, Metric, SentTarget, TWICE, TargetGroup,
    load_balancers::LoadBalancers,
    request::{Asked, Refusal, element, invalid, members, refuse},
    tagging::Tagging,
};

/// What a request is in for.
pub(super) struct Fate {
    pub(super) before: Duration,
    pub(super) after: Duration,
    pub(super) end: Option<FaultKind>,
}

pub(super) struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    pub(super) fn new(burst: u32, per_second: f64) -> Self {
        Self { burst: burst.into(), per_second, tokens: burst.into(), filled: Instant::now() }
    }

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

pub(super) struct Group {
    pub(super) spec: TargetGroup,
    targets: Lagging<Targets>,
    tags: Lagging<Tags>,
    /// Addresses that RegisterTargets refuses.
    pub(super) refused: BTreeSet<String>,
    /// How often each target was registered and deregistered.
    pub(super) accepted: BTreeMap<(String, u16), (usize, usize)>,
}

type Targets = BTreeMap<(String, u16), Target>;
type Tags = BTreeMap<String, String>;

#[derive(Clone)]
pub(super) struct Target {
    health: String,
    /// Until then it is `initial`, whatever comes after.
    initial_until: Option<Instant>,
    zone: Option<String>,
}

impl Target {
    pub(super) fn new(health: &str, zone: Option<String>) -> Self {
        Self { health: checked_health(health), initial_until: None, zone }
    }

    pub(super) fn set(&mut self, health: &str) {
        *self = Self::new(health, self.zone.take());
    }

    pub(super) fn draining(&self) -> bool {
        self.health == "draining"
    }

    /// What it is to a reader who sees what was so long ago.
    pub(super) fn health(&self, lag: Duration) -> &str {
        let is_initial = self.initial_until.is_some_and(|until| until + lag > Instant::now());
        if is_initial { "initial" } else { &self.health }
    }
}

/// What readers may see late.
#[derive(Default)]
struct Lagging<T> {
    now: T,
    /// What it was, and until when, the oldest first.
    before: VecDeque<(Instant, T)>,
}

impl<T: Clone> Lagging<T> {
    /// To change it, while readers see for some time what it was.
    fn change(&mut self, lag: Duration) -> &mut T {
        let now = Instant::now();
        self.before.retain(|(until, _)| *until + lag > now);
        if !lag.is_zero() {
            self.before.push_back((now, self.now.clone()));
        }
        &mut self.now
    }

    fn seen(&self, lag: Duration) -> &T {
        let now = Instant::now();
        let before = self.before.iter().find(|(until, _)| *until + lag > now);
        before.map_or(&self.now, |(_, before)| before)
    }
}

impl Group {
    pub(super) fn new(spec: TargetGroup) -> Self {
        Self {
            spec,
            targets: Lagging::default(),
            tags: Lagging::default(),
            refused: BTreeSet::new(),
            accepted: BTreeMap::new(),
        }
    }

    pub(super) fn targets(&self) -> &Targets {
        &self.targets.now
    }

    pub(super) fn change_targets(&mut self) -> &mut Targets {
        self.targets.change(self.spec.target_lag)
    }

    pub(super) fn tags(&self) -> &Tags {
        &self.tags.now
    }

    pub(super) fn change_tags(&mut self) -> &mut Tags {
        self.tags.change(self.longest_tag_lag())
    }

    /// What a reader sees of them who sees what was so long ago.
    pub(super) fn tags_seen(&self, lag: Duration) -> &Tags {
        self.tags.seen(lag)
    }

    pub(super) fn key(&self, text: &str) -> (String, u16) {
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
                nets(&allowed).iter().any(|net| net.contains(&ip)) || self.spec.zone_of(ip).is_some()
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

    fn found(&self) -> Found {
        let of = |health| {
            let targets = self.targets().iter().filter(move |(_, target)| target.health(Duration::ZERO) == health);
            targets.map(|(key, _)| key_text(key)).collect()
        };
        let (initial, draining) = (of("initial"), of("draining"));
        Found { registered: self.registered(), initial, draining, tags: self.tags().clone() }
    }

    pub(super) fn registered(&self) -> BTreeSet<String> {
        let targets = self.targets().iter().filter(|(_, target)| !target.draining());
        targets.map(|(key, _)| key_text(key)).collect()
    }

    fn counted(&self) -> BTreeSet<(String, u16)> {
        let targets = self.targets().iter();
        targets
            .filter(|(_, target)| self.spec.draining_counts || !target.draining())
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn described(&self, arn: &str, load_balancers: &LoadBalancers) -> String {
        let spec = &self.spec;
        let mut text = element("TargetGroupArn", arn) + &element("TargetGroupName", &spec.name);
        text += &element("TargetType", &spec.target_type);
        if spec.target_type != "lambda" {
            text += &element("Port", spec.port);
            text += &element("VpcId", "vpc-0a1b2c3d4e5f60718");
            text += &element("IpAddressType", if spec.ipv6 { "ipv6" } else { "ipv4" });
        }
        text + &load_balancers.described(arn, &spec.target_type)
    }

    fn health(&self, arn: &str, key: &(String, u16), target: &Target, load_balancers: &LoadBalancers) -> String {
        let (id, port) = key;
        let mut health = target.health(self.spec.target_lag);
        let in_use = || load_balancers.in_use(arn, target.zone.as_deref());
        if self.spec.needs_listener && health != "draining" && !in_use() {
            health = "unused";
        }
        let reason = match health {
            "healthy" => None,
            "initial" => Some("Elb.InitialHealthChecking"),
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
            let usual = || (reason.to_owned(), format!("The target is {health}"));
            let (reason, description) = load_balancers.reason(arn, &key_text(key)).cloned().unwrap_or_else(usual);
            state += &(element("Reason", reason) + &element("Description", description));
        }
        format!("<Target>{shown}</Target>{check_port}<TargetHealth>{state}</TargetHealth>")
    }
}

type Operation = fn(&mut State, &Asked) -> Result<String, Refusal>;

#[derive(Default)]
pub(super) struct State {
    pub(super) created: u64,
    pub(super) arrived: u64,
    pub(super) groups: BTreeMap<String, Group>,
    pub(super) load_balancers: LoadBalancers,
    pub(super) tagging: Tagging,
    pub(super) calls: Vec<Call>,
    pub(super) metrics: Vec<Metric>,
    pub(super) violations: Vec<String>,
    /// Texts of violations that are none in this test.
    pub(super) tolerated: Vec<String>,
    pub(super) faults: Vec<Fault>,
    pub(super) latency: Duration,
    /// Whether it is not the function that asks.
    pub(super) asked_by_others: bool,
    pub(super) read_quota: Option<Bucket>,
    pub(super) write_quota: Option<Bucket>,
    /// How many requests were left without a reply for good.
    pub(super) hanging: watch::Sender<u64>,
}

impl State {
    pub(super) fn arrive(&mut self, asked: &mut Asked) -> Fate {
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
            error: None,
            gzip: asked.gzip,
            found: group.map(Group::found),
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
    pub(super) fn handle(&mut self, asked: &Asked) -> Result<String, Refusal> {
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
        let quota = match action {
            "PutMetricData" => None,
            "GetResources" => self.tagging.quota.as_mut(),
            _ if action.starts_with("Describe") => self.read_quota.as_mut(),
            _ => self.write_quota.as_mut(),
        };
        if quota.is_some_and(|quota| !quota.take()) {
            let code = if action == "GetResources" { "ThrottledException" } else { "ThrottlingException" };
            return Err(refuse(400, code, "Rate exceeded"));
        }
        let (known, perform): (&[&str], Operation) = match action {
            "AddTags" => (&["ResourceArns", "Tags"], Self::add_tags),
            "DeregisterTargets" => (&["TargetGroupArn", "Targets"], Self::deregister),
            "DescribeListeners" => (&["LoadBalancerArn", "Marker"], Self::describe_listeners),
            "DescribeLoadBalancerAttributes" => (&["LoadBalancerArn"], Self::describe_load_balancer_attributes),
            "DescribeLoadBalancers" => (&["LoadBalancerArns"], Self::describe_load_balancers),
            "DescribeTags" => (&["ResourceArns"], Self::describe_tags),
            "DescribeTargetGroupAttributes" => (&["TargetGroupArn"], Self::describe_group_attributes),
            "DescribeTargetGroups" => (&["TargetGroupArns", "Marker", "PageSize"], Self::describe_groups),
            "DescribeTargetHealth" => (&["TargetGroupArn"], Self::describe_health),
            "GetResources" => (&[], Self::get_resources),
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
        let size: usize = match asked.field("PageSize").map(str::parse) {
            None => 400,
            Some(Ok(size @ 1..=400)) => size,
            Some(_) => return Err(invalid("PageSize must be from 1 to 400").breach()),
        };
        let first = asked.field("Marker").unwrap_or_default();
        let mut chosen = self.groups.iter().filter(|(arn, _)| {
            let in_region = arn.split(':').nth(3) == Some(&asked.region);
            let asked_for = asked.arns.is_empty() || asked.arns.contains(arn);
            in_region && asked_for && arn.as_str() >= first
        });
        let page = chosen.by_ref().take(size).map(|(arn, group)| group.described(arn, &self.load_balancers));
        let groups = members("TargetGroups", page);
        let marker = chosen.next().map_or_else(String::new, |(arn, _)| element("NextMarker", arn));
        Ok(groups + &marker)
    }

    fn describe_health(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let arn = only_arn(asked)?;
        let group = &self.groups[arn];
        let targets = group.targets.seen(group.spec.target_lag).iter();
        let targets = targets.map(|(key, target)| group.health(arn, key, target, &self.load_balancers));
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
        admitted.iter().for_each(|(key, _)| group.accepted.entry(key.clone()).or_default().0 += 1);
        admitted.retain(|(key, _)| group.targets().get(key).is_none_or(Target::draining));
        let health = group.spec.new_state.clone();
        let initial_until = Instant::now().checked_add(group.spec.initial_for);
        let registered = admitted.into_iter().map(|(key, zone)| {
            let health = if initial_until.is_some() { health.as_str() } else { "initial" };
            (key, Target { initial_until, ..Target::new(health, zone) })
        });
        group.change_targets().extend(registered);
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
            if let Some(target) = group.targets().get(&key) {
                if sent.az.is_some() && sent.az != target.zone {
                    let message = format!("The Availability Zone of '{}' is not the registered one", sent.id);
                    return Err(invalid(message).breach());
                }
                leaving.insert(key);
            }
        }
        for key in &leaving {
            group.accepted.entry(key.clone()).or_default().1 += 1;
            if group.targets()[key].draining() {
                self.violations.push(format!("DeregisterTargets: {} {TWICE}", key_text(key)));
            }
        }
        let targets = group.change_targets().iter_mut().filter(|(key, _)| leaving.contains(key));
        targets.for_each(|(_, target)| target.set("draining"));
        Ok(String::new())
    }

    fn describe_tags(&mut self, asked: &Asked) -> Result<String, Refusal> {
        if !(1..=20).contains(&asked.arns.len()) {
            return Err(invalid("ResourceArns must name 1 to 20 resources").breach());
        }
        let resources = asked.arns.iter().map(|arn| {
            let group = &self.groups[arn];
            let tags = group.tags_seen(group.spec.tag_lag).iter();
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
        let mut tags = group.tags().clone();
        tags.extend(sent);
        // The tags of AWS itself are not counted.
        if tags.keys().filter(|key| !key.starts_with("aws:")).count() > 50 {
            let message = "You've reached the limit on the number of tags per resource";
            return Err(refuse(400, "TooManyTags", message).breach());
        }
        *group.change_tags() = tags;
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
        group.change_tags().retain(|key, _| !keys.contains(key));
        Ok(String::new())
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

pub(super) fn checked_health(health: &str) -> String {
    let known = ["initial", "healthy", "unhealthy", "unhealthy.draining", "unused", "draining", "unavailable"];
    assert!(known.contains(&health), "no health state: {health}");
    health.to_owned()
}

pub(super) fn key_text((id, port): &(String, u16)) -> String {
    id.parse().map_or_else(|_| format!("{id}:{port}"), |ip| SocketAddr::new(ip, *port).to_string())
}

pub(super) fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().expect("a CIDR")).collect()
}
