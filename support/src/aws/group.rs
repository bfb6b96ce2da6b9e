//! A target group: what it admits, what it holds, and what readers see of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use tokio::time::Instant;

use super::request::{Refusal, SentTarget, element, invalid, refuse, texts};

/// A target group to create: by default `ip`, IPv4, port 5432, in a VPC 10.0.0.0/16 of us-east-1. What is registered is
/// healthy at once, and readers see all changes at once.
#[derive(Clone)]
pub struct TargetGroup {
    pub name: String,
    pub partition: &'static str,
    pub region: &'static str,
    /// `ip`, `instance`, `lambda` or `alb`.
    pub target_type: &'static str,
    pub ipv6: bool,
    pub port: u16,
    pub protocol: &'static str,
    /// What health checks speak, and the port that they go to.
    pub check_protocol: &'static str,
    pub check_port: &'static str,
    /// Seconds.
    pub check_interval: u32,
    pub unhealthy_threshold: u32,
    /// The CIDRs of the VPC; an address in one of them but in no subnet still needs a zone.
    pub vpc_cidrs: &'static [&'static str],
    /// The subnets of the VPC: the first is in zone `a`, the second in `b` and so on.
    pub vpc_subnets: &'static [&'static str],
    /// How many targets the group may hold, and whether draining ones count.
    pub quota: usize,
    pub draining_counts: bool,
    /// A target is `unused` unless a listener forwards to the group and the load balancer is in the target's zone, as at
    /// AWS. By default a group needs neither, so that a test that is not about them need not make them.
    pub needs_listener: bool,
    /// A load balancer that is deleted, or forwards to the group no more, and is still said to have it: one read lags behind
    /// the other.
    pub former_load_balancer: Option<String>,
    /// How long a newly registered target is `initial`.
    pub initial_for: Duration,
    /// DescribeTargetHealth shows what was so long ago. What is written is carried out at once all the same.
    pub target_lag: Duration,
    /// The same of DescribeTags.
    pub tag_lag: Duration,
    /// The same of GetResources.
    pub listing_lag: Duration,
}

impl TargetGroup {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            partition: "aws",
            region: "us-east-1",
            target_type: "ip",
            ipv6: false,
            port: 5432,
            protocol: "TCP",
            check_protocol: "TCP",
            check_port: "traffic-port",
            check_interval: 30,
            unhealthy_threshold: 2,
            vpc_cidrs: &["10.0.0.0/16", "2600:1f18:1:100::/56", "fd00::/56"],
            vpc_subnets: &["10.0.0.0/17", "10.0.128.0/17", "2600:1f18:1:100::/56", "fd00::/56"],
            quota: 1000,
            draining_counts: false,
            needs_listener: false,
            former_load_balancer: None,
            initial_for: Duration::ZERO,
            target_lag: Duration::ZERO,
            tag_lag: Duration::ZERO,
            listing_lag: Duration::ZERO,
        }
    }

    /// The zone of the subnet that holds the address.
    fn zone_of(&self, ip: IpAddr) -> Option<String> {
        let subnet = self.vpc_subnets.iter().position(|subnet| net(subnet).contains(&ip))?;
        let letter = char::from(b'a' + u8::try_from(subnet % 6).expect("under 6"));
        Some(format!("{}{letter}", self.region))
    }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a CIDR")
}

pub(super) type Key = (String, u16);
pub(super) type Tags = BTreeMap<String, String>;

#[derive(Clone)]
pub(super) struct Target {
    health: &'static str,
    /// AWS's reason and words, where they are not the usual ones.
    reason: Option<(String, String)>,
    /// Until then it is `initial`, whatever comes after.
    initial_until: Option<Instant>,
    zone: Option<String>,
}

impl Target {
    fn new(health: &str, zone: Option<String>) -> Self {
        let known = ["initial", "healthy", "unhealthy", "unhealthy.draining", "unused", "draining", "unavailable"];
        let health = known.into_iter().find(|state| *state == health).expect("a health state of ELBv2");
        Self { health, reason: None, initial_until: None, zone }
    }

    pub(super) fn set(&mut self, health: &str, reason: Option<(&str, &str)>) {
        let reason = reason.map(|(code, words)| (code.to_owned(), words.to_owned()));
        *self = Self { reason, ..Self::new(health, self.zone.take()) };
    }

    pub(super) fn is_draining(&self) -> bool {
        self.health == "draining"
    }

    /// What it is to a reader who sees what was so long ago.
    pub(super) fn health(&self, lag: Duration) -> &'static str {
        let is_initial = self.initial_until.is_some_and(|until| until + lag > Instant::now());
        if is_initial { "initial" } else { self.health }
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

pub(super) struct Group {
    pub(super) spec: TargetGroup,
    targets: Lagging<BTreeMap<Key, Target>>,
    tags: Lagging<Tags>,
    /// Addresses that RegisterTargets refuses.
    pub(super) refused: BTreeSet<String>,
}

/// What there was when RegisterTargets or DeregisterTargets arrived.
#[derive(Clone, Debug)]
pub struct Found {
    /// The targets that were not draining.
    pub registered: BTreeSet<String>,
    pub draining: BTreeSet<String>,
    pub tags: BTreeMap<String, String>,
}

impl Group {
    pub(super) fn new(spec: TargetGroup) -> Self {
        let (targets, tags) = (Lagging::default(), Lagging::default());
        Self { spec, targets, tags, refused: BTreeSet::new() }
    }

    pub(super) fn targets(&self) -> &BTreeMap<Key, Target> {
        &self.targets.now
    }

    pub(super) fn change_targets(&mut self) -> &mut BTreeMap<Key, Target> {
        self.targets.change(self.spec.target_lag)
    }

    pub(super) fn tags(&self) -> &Tags {
        &self.tags.now
    }

    pub(super) fn change_tags(&mut self) -> &mut Tags {
        self.tags.change(self.spec.tag_lag.max(self.spec.listing_lag))
    }

    /// What a reader sees of them who sees what was so long ago.
    pub(super) fn tags_seen(&self, lag: Duration) -> &Tags {
        self.tags.seen(lag)
    }

    /// The target of this text, which may lack the port: `10.0.1.9:5432`, `fd00::9`, `i-0123:5432`.
    pub(super) fn key(&self, text: &str) -> Key {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.ip().to_string(), address.port());
        }
        let has_port = text.rsplit_once(':').filter(|_| text.parse::<IpAddr>().is_err());
        let given = has_port.and_then(|(id, port)| Some((id.to_owned(), port.parse().ok()?)));
        given.unwrap_or_else(|| (text.to_owned(), self.spec.port))
    }

    /// The target that is meant, if one could be registered under that name in this kind of group. Without a port this is
    /// the group's own port.
    pub(super) fn identify(&self, sent: &SentTarget) -> Result<Key, Refusal> {
        let SentTarget { id, port, .. } = sent;
        if *port == Some(0) {
            return Err(invalid(format!("The port of target '{id}' must be from 1 to 65535")).breach());
        }
        let key = (id.clone(), port.unwrap_or(self.spec.port));
        match self.spec.target_type {
            "ip" => match id.parse::<IpAddr>() {
                Ok(ip) if ip.is_ipv6() == self.spec.ipv6 => Ok((ip.to_string(), key.1)),
                _ => {
                    let family = if self.spec.ipv6 { "IPv6" } else { "IPv4" };
                    Err(invalid(format!("The IP address '{id}' is not a valid {family} address")).breach())
                }
            },
            "instance" if !id.starts_with("i-") => Err(invalid(format!("Instance ID '{id}' is not valid"))),
            _ => Ok(key),
        }
    }

    /// The target, as it will be registered.
    pub(super) fn admit(&self, sent: &SentTarget) -> Result<(Key, Target), Refusal> {
        let key = self.identify(sent)?;
        let zone = match key.0.parse() {
            Ok(ip) if self.spec.target_type == "ip" => Some(self.admit_address(ip, sent.az.as_deref())?),
            _ => None,
        };
        if self.refused.contains(&key.0) {
            return Err(refuse(400, "InvalidTarget", format!("The target '{}' is not a valid target", key.0)));
        }
        let initial_until = Some(Instant::now() + self.spec.initial_for);
        Ok((key, Target { initial_until, ..Target::new("healthy", zone) }))
    }

    /// The zone in which it will be.
    fn admit_address(&self, ip: IpAddr, az: Option<&str>) -> Result<String, Refusal> {
        let own = self.spec.zone_of(ip);
        let is_routable = match ip {
            IpAddr::V4(_) => {
                let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];
                own.is_some() || private.into_iter().any(|private| net(private).contains(&ip))
            }
            IpAddr::V6(v6) => {
                let is_special = v6.is_loopback() || v6.is_unspecified() || v6.is_multicast();
                !(is_special || v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some())
            }
        };
        if !is_routable {
            let message = format!("You can't specify publicly routable IP addresses: '{ip}'");
            return Err(invalid(message).breach());
        }
        match (own, az) {
            (Some(own), Some(other)) if other != own => Err(invalid(format!(
                "The IP address '{ip}' is within the VPC, and cannot have its Availability Zone overridden to '{other}' \
                 from '{own}'"
            ))
            .breach()),
            (Some(own), _) => Ok(own),
            (None, Some(zone)) if zone == "all" || zone.starts_with(self.spec.region) => Ok(zone.to_owned()),
            (None, Some(zone)) => Err(invalid(format!("The Availability Zone '{zone}' is not valid")).breach()),
            (None, None) if self.spec.vpc_cidrs.iter().any(|own| net(own).contains(&ip)) => Err(invalid(format!(
                "The Availability Zone is required for IP address '{ip}' because it is not in the VPC"
            ))),
            (None, None) => Err(invalid(format!(
                "You must specify a valid Availability Zone or select 'all' for all enabled Availability zones, since the \
                 IP address '{ip}' is outside the VPC"
            ))),
        }
    }

    /// Puts a target into the group unchecked.
    pub(super) fn add(&mut self, target: &str, health: &str) {
        let key = self.key(target);
        let ip = key.0.parse().ok();
        let zone = ip.map(|ip| self.spec.zone_of(ip).unwrap_or_else(|| "all".to_owned()));
        self.change_targets().insert(key, Target::new(health, zone));
    }

    /// The zone of a target, where it is registered.
    pub(super) fn zone(&self, key: &Key) -> Option<&str> {
        self.targets()[key].zone.as_deref()
    }

    pub(super) fn found(&self) -> Found {
        Found { registered: self.registered(), draining: self.that_drain(true), tags: self.tags().clone() }
    }

    pub(super) fn registered(&self) -> BTreeSet<String> {
        self.that_drain(false)
    }

    fn that_drain(&self, draining: bool) -> BTreeSet<String> {
        let targets = self.targets().iter().filter(|(_, target)| target.is_draining() == draining);
        targets.map(|(key, _)| key_text(key)).collect()
    }

    /// The targets that count against the quota.
    pub(super) fn counted(&self) -> BTreeSet<Key> {
        let targets = self.targets().iter();
        let counted = targets.filter(|(_, target)| self.spec.draining_counts || !target.is_draining());
        counted.map(|(key, _)| key.clone()).collect()
    }

    /// What DescribeTargetGroups tells of it, given the load balancers that forward to it.
    pub(super) fn described<'a>(&'a self, arn: &str, load_balancers: impl Iterator<Item = &'a String>) -> String {
        let spec = &self.spec;
        let mut text = element("TargetGroupArn", arn) + &element("TargetGroupName", &spec.name);
        text += &element("TargetType", spec.target_type);
        if spec.target_type != "lambda" {
            text += &element("Port", spec.port);
            text += &element("VpcId", "vpc-0a1b2c3d4e5f60718");
            text += &element("IpAddressType", if spec.ipv6 { "ipv6" } else { "ipv4" });
            text += &(element("Protocol", spec.protocol) + &element("HealthCheckProtocol", spec.check_protocol));
            text += &element("HealthCheckPort", spec.check_port);
        }
        let users: BTreeSet<_> = load_balancers.chain(&spec.former_load_balancer).collect();
        text + &element("HealthCheckEnabled", true)
            + &element("HealthCheckIntervalSeconds", spec.check_interval)
            + &element("HealthCheckTimeoutSeconds", 10)
            + &element("HealthyThresholdCount", 5)
            + &element("UnhealthyThresholdCount", spec.unhealthy_threshold)
            + &texts("LoadBalancerArns", users.into_iter())
    }

    /// What DescribeTargetHealth tells of each target, given whether something forwards to targets of a zone.
    pub(super) fn health(&self, is_in_use: impl Fn(Option<&str>) -> bool) -> Vec<String> {
        let targets = self.targets.seen(self.spec.target_lag).iter();
        targets.map(|(key, target)| self.health_of(key, target, is_in_use(target.zone.as_deref()))).collect()
    }

    fn health_of(&self, (id, port): &Key, target: &Target, is_in_use: bool) -> String {
        let mut health = target.health(self.spec.target_lag);
        if self.spec.needs_listener && health != "draining" && !is_in_use {
            health = "unused";
        }
        let usual = match health {
            "healthy" => None,
            "initial" => Some("Elb.InitialHealthChecking"),
            "draining" => Some("Target.DeregistrationInProgress"),
            "unused" => Some("Target.NotInUse"),
            "unavailable" => Some("Elb.InternalError"),
            _ => Some("Target.FailedHealthChecks"),
        };
        let usual = usual.map(|reason| (reason.to_owned(), format!("The target is {health}")));
        let mut shown = element("Id", id);
        let mut check_port = String::new();
        if self.spec.target_type != "lambda" {
            shown += &element("Port", port);
            check_port = element("HealthCheckPort", port);
        }
        shown += &target.zone.as_ref().map_or_else(String::new, |zone| element("AvailabilityZone", zone));
        let mut state = element("State", health);
        if let Some((reason, words)) = target.reason.clone().or(usual) {
            state += &(element("Reason", reason) + &element("Description", words));
        }
        format!("<Target>{shown}</Target>{check_port}<TargetHealth>{state}</TargetHealth>")
    }
}

pub(super) fn key_text((id, port): &Key) -> String {
    id.parse().map_or_else(|_| format!("{id}:{port}"), |ip| SocketAddr::new(ip, *port).to_string())
}
