//! Load balancers, their listeners, and attributes and health checks of target groups: what a check reads.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    FakeAws,
    elb::State,
    request::{Asked, Refusal, element, invalid, members, refuse},
};

/// A load balancer to create: by default an internal network load balancer in zones `a` and `b` of us-east-1, without
/// security groups.
#[derive(Clone)]
pub struct LoadBalancer {
    name: String,
    region: String,
    kind: String,
    scheme: String,
    state: String,
    security_groups: Vec<String>,
    enforces_inbound_rules: bool,
    zones: Vec<String>,
}

impl LoadBalancer {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            region: "us-east-1".to_owned(),
            kind: "network".to_owned(),
            scheme: "internal".to_owned(),
            state: "active".to_owned(),
            security_groups: Vec::new(),
            enforces_inbound_rules: true,
            zones: ["us-east-1a", "us-east-1b"].map(str::to_owned).to_vec(),
        }
    }

    /// `network`, `application` or `gateway`.
    pub fn kind(mut self, kind: &str) -> Self {
        assert!(["network", "application", "gateway"].contains(&kind));
        self.kind = kind.to_owned();
        self
    }

    /// `active`, `provisioning`, `active_impaired` or `failed`.
    pub fn in_state(mut self, state: &str) -> Self {
        assert!(["active", "provisioning", "active_impaired", "failed"].contains(&state));
        self.state = state.to_owned();
        self
    }

    pub fn internet_facing(mut self) -> Self {
        self.scheme = "internet-facing".to_owned();
        self
    }

    /// Their inbound rules apply to PrivateLink traffic, unless [`Self::lets_private_link_in`].
    pub fn security_groups(mut self, groups: &[&str]) -> Self {
        self.security_groups = groups.iter().map(ToString::to_string).collect();
        self
    }

    pub fn lets_private_link_in(mut self) -> Self {
        self.enforces_inbound_rules = false;
        self
    }

    /// The enabled zones, a subnet in each.
    pub fn zones(mut self, zones: &[&str]) -> Self {
        self.zones = zones.iter().map(ToString::to_string).collect();
        self
    }

    fn described(&self, arn: &str) -> String {
        let zones = self.zones.iter().map(|zone| {
            element("ZoneName", zone) + &element("SubnetId", format!("subnet-{zone}")) + "<LoadBalancerAddresses/>"
        });
        let mut text = element("LoadBalancerArn", arn) + &element("LoadBalancerName", &self.name);
        text += &(element("Type", &self.kind) + &element("Scheme", &self.scheme) + &element("IpAddressType", "ipv4"));
        let reason = if self.state == "active" { String::new() } else { element("Reason", "AWS's reason") };
        text += &format!("<State>{}{reason}</State>", element("Code", &self.state));
        text += &members("AvailabilityZones", zones);
        // One that was created without never gets any, and says nothing of their rules.
        if !self.security_groups.is_empty() {
            text += "<SecurityGroups>";
            text += &self.security_groups.iter().map(|group| element("member", group)).collect::<String>();
            text += "</SecurityGroups>";
            let enforces = if self.enforces_inbound_rules { "on" } else { "off" };
            text += &element("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic", enforces);
        }
        text
    }
}

/// What there is of load balancers.
#[derive(Default)]
pub(super) struct LoadBalancers {
    known: BTreeMap<String, (LoadBalancer, Vec<Listener>)>,
    /// Of target groups and load balancers, where they are not the defaults.
    attributes: BTreeMap<(String, String), String>,
    /// Of target groups, where they are not the defaults.
    settings: BTreeMap<String, Settings>,
    /// Why targets are not healthy: reason and description by target group and target.
    reasons: BTreeMap<(String, String), (String, String)>,
    /// How many listeners a page holds.
    page_size: Option<usize>,
    /// Load balancers that are deleted, and still named by target groups.
    former: BTreeMap<String, String>,
    /// Whether DescribeLoadBalancers leaves out those that there are not.
    leaves_out: bool,
}

/// What can be set of a target group that a check reads.
#[derive(Clone)]
struct Settings {
    protocol: String,
    check_protocol: String,
    check_port: String,
    interval: u32,
    unhealthy_threshold: u32,
}

impl Default for Settings {
    fn default() -> Self {
        let (protocol, check_protocol, check_port) = ("TCP".to_owned(), "TCP".to_owned(), "traffic-port".to_owned());
        Self { protocol, check_protocol, check_port, interval: 30, unhealthy_threshold: 2 }
    }
}

struct Listener {
    port: u16,
    protocol: String,
    /// With a weight or, as of old, without.
    forwards: Vec<(String, Option<u32>)>,
}

impl Listener {
    fn described(&self, arn: &str, load_balancer: &str) -> String {
        let mut action = element("Type", "forward") + &element("Order", 1);
        // Of one target group alone, AWS tells the ARN in both places.
        if let [(group, _)] = &self.forwards[..] {
            action += &element("TargetGroupArn", group);
        }
        if self.forwards.iter().any(|(_, weight)| weight.is_some()) {
            let groups = self.forwards.iter().map(|(group, weight)| {
                element("TargetGroupArn", group) + &weight.map_or_else(String::new, |weight| element("Weight", weight))
            });
            action += &format!("<ForwardConfig>{}</ForwardConfig>", members("TargetGroups", groups));
        }
        element("ListenerArn", arn)
            + &element("LoadBalancerArn", load_balancer)
            + &element("Port", self.port)
            + &element("Protocol", &self.protocol)
            + &members("DefaultActions", [action].into_iter())
    }
}

impl LoadBalancers {
    /// What DescribeTargetGroups tells of a target group besides.
    pub(super) fn described(&self, group: &str, target_type: &str) -> String {
        let Settings { protocol, check_protocol, check_port, interval, unhealthy_threshold } = self.settings(group);
        let has_it = |listener: &Listener| listener.forwards.iter().any(|(arn, _)| arn == group);
        let users = self.known.iter().filter(|(_, (_, listeners))| listeners.iter().any(has_it));
        let users: BTreeSet<_> = users.map(|(arn, _)| arn).chain(self.former.get(group)).collect();
        let mut text = String::new();
        if target_type != "lambda" {
            text += &(element("Protocol", protocol) + &element("HealthCheckProtocol", check_protocol));
            text += &element("HealthCheckPort", check_port);
        }
        text + &element("HealthCheckEnabled", true)
            + &element("HealthCheckIntervalSeconds", interval)
            + &element("HealthCheckTimeoutSeconds", 10)
            + &element("HealthyThresholdCount", 5)
            + &element("UnhealthyThresholdCount", unhealthy_threshold)
            + "<LoadBalancerArns>"
            + &users.into_iter().map(|arn| element("member", arn)).collect::<String>()
            + "</LoadBalancerArns>"
    }

    fn settings(&self, group: &str) -> Settings {
        self.settings.get(group).cloned().unwrap_or_default()
    }

    /// Whether a listener forwards to the group, of a load balancer that is in the target's zone.
    pub(super) fn in_use(&self, group: &str, zone: Option<&str>) -> bool {
        self.known.values().any(|(load_balancer, listeners)| {
            let forwards = listeners.iter().flat_map(|listener| &listener.forwards).any(|(arn, _)| arn == group);
            forwards
                && zone.is_none_or(|zone| zone == "all" || load_balancer.zones.iter().any(|enabled| enabled == zone))
        })
    }

    /// Reason and description of a target's health, where they are not the usual ones.
    pub(super) fn reason(&self, group: &str, target: &str) -> Option<&(String, String)> {
        self.reasons.get(&(group.to_owned(), target.to_owned()))
    }

    fn attributes(&self, arn: &str, defaults: &[(&str, &str)]) -> String {
        let attributes = defaults.iter().map(|(key, value)| {
            let set = self.attributes.get(&(arn.to_owned(), (*key).to_owned()));
            element("Key", key) + &element("Value", set.map_or(*value, String::as_str))
        });
        members("Attributes", attributes)
    }

    fn get(&self, arn: &str, asked: &Asked) -> Result<&(LoadBalancer, Vec<Listener>), Refusal> {
        if !arn.contains(":loadbalancer/") || arn.split(':').nth(3) != Some(&asked.region) {
            return Err(invalid(format!("'{arn}' is not a valid load balancer ARN")).breach());
        }
        self.known.get(arn).ok_or_else(|| refuse(400, "LoadBalancerNotFound", "One or more load balancers not found"))
    }
}

/// What ELBv2 makes of a request.
impl State {
    pub(super) fn describe_group_attributes(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let [arn] = &asked.arns[..] else {
            return Err(invalid("A target group ARN must be specified").breach());
        };
        let mut attributes = GROUP_ATTRIBUTES;
        // Where datagrams come, it is on, and can't be turned off.
        if ["UDP", "TCP_UDP", "QUIC", "TCP_QUIC"].contains(&&*self.load_balancers.settings(arn).protocol) {
            attributes[3].1 = "true";
        }
        Ok(self.load_balancers.attributes(arn, &attributes))
    }

    pub(super) fn describe_load_balancers(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let arns = asked.list("LoadBalancerArns");
        if !(1..=20).contains(&arns.len()) {
            return Err(invalid("LoadBalancerArns must name 1 to 20 load balancers").breach());
        }
        let is_asked = |arn: &&String| !self.load_balancers.leaves_out || self.load_balancers.known.contains_key(*arn);
        let described: Result<Vec<_>, _> = arns
            .iter()
            .filter(is_asked)
            .map(|arn| self.load_balancers.get(arn, asked).map(|(load_balancer, _)| load_balancer.described(arn)))
            .collect();
        Ok(members("LoadBalancers", described?.into_iter()))
    }

    pub(super) fn describe_load_balancer_attributes(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let arn = asked.field("LoadBalancerArn").unwrap_or_default();
        self.load_balancers.get(arn, asked)?;
        Ok(self.load_balancers.attributes(arn, &LOAD_BALANCER_ATTRIBUTES))
    }

    pub(super) fn describe_listeners(&mut self, asked: &Asked) -> Result<String, Refusal> {
        let arn = asked.field("LoadBalancerArn").unwrap_or_default();
        let (_, listeners) = self.load_balancers.get(arn, asked)?;
        let first = match asked.field("Marker") {
            None => 0,
            Some(marker) => marker.parse().map_err(|_| invalid("The marker is not valid").breach())?,
        };
        let size = self.load_balancers.page_size.unwrap_or(400);
        let prefix = arn.replace(":loadbalancer/", ":listener/");
        let page = listeners.iter().enumerate().skip(first).take(size);
        let page = page.map(|(number, listener)| listener.described(&format!("{prefix}/{number:016x}"), arn));
        let page = members("Listeners", page);
        let more = listeners.len() > first + size;
        Ok(page + &if more { element("NextMarker", first + size) } else { String::new() })
    }
}

/// As ELBv2 makes them.
const GROUP_ATTRIBUTES: [(&str, &str); 7] = [
    ("deregistration_delay.connection_termination.enabled", "false"),
    ("deregistration_delay.timeout_seconds", "300"),
    ("load_balancing.cross_zone.enabled", "use_load_balancer_configuration"),
    ("preserve_client_ip.enabled", "false"),
    ("proxy_protocol_v2.enabled", "false"),
    ("stickiness.enabled", "false"),
    ("stickiness.type", "source_ip"),
];

const LOAD_BALANCER_ATTRIBUTES: [(&str, &str); 2] =
    [("deletion_protection.enabled", "false"), ("load_balancing.cross_zone.enabled", "false")];

impl FakeAws {
    /// Creates a load balancer and returns its ARN.
    pub fn create_load_balancer(&self, spec: LoadBalancer) -> String {
        let mut state = self.state();
        state.created += 1;
        let kind = match spec.kind.as_str() {
            "network" => "net",
            "application" => "app",
            _ => "gwy",
        };
        let id = 0x50dc_6c49_5c0c_9188_u64.wrapping_mul(state.created);
        let name = &spec.name;
        let arn =
            format!("arn:aws:elasticloadbalancing:{}:123456789012:loadbalancer/{kind}/{name}/{id:016x}", spec.region);
        state.load_balancers.known.insert(arn.clone(), (spec, Vec::new()));
        arn
    }

    /// Changes the settings of an existing load balancer.
    pub fn reconfigure_load_balancer(&self, arn: &str, change: impl FnOnce(LoadBalancer) -> LoadBalancer) {
        let mut state = self.state();
        let (spec, _) = state.load_balancers.known.get_mut(arn).expect("an existing load balancer");
        *spec = change(spec.clone());
    }

    /// Deletes a load balancer; DescribeTargetGroups no longer names it.
    pub fn delete_load_balancer(&self, arn: &str) {
        self.state().load_balancers.known.remove(arn);
    }

    /// Lets DescribeTargetGroups name a load balancer that is deleted, or forwards to it no more: one read lags behind the
    /// other.
    pub fn set_former_load_balancer(&self, group: &str, load_balancer: &str) {
        self.state().load_balancers.former.insert(group.to_owned(), load_balancer.to_owned());
    }

    /// Lets DescribeLoadBalancers leave out those that there are not, rather than refuse to describe any.
    pub fn leave_out_load_balancers(&self, leaves_out: bool) {
        self.state().load_balancers.leaves_out = leaves_out;
    }

    /// Makes a listener that forwards to target groups, each with a weight or without.
    pub fn create_listener(&self, load_balancer: &str, port: u16, forwards: &[(&str, Option<u32>)]) {
        let mut state = self.state();
        let forwards = forwards.iter().map(|(arn, weight)| ((*arn).to_owned(), *weight)).collect();
        let (_, listeners) = state.load_balancers.known.get_mut(load_balancer).expect("an existing load balancer");
        listeners.push(Listener { port, protocol: "TCP".to_owned(), forwards });
    }

    /// Sets what the listener on this port speaks.
    pub fn set_listener_protocol(&self, load_balancer: &str, port: u16, protocol: &str) {
        let mut state = self.state();
        let (_, listeners) = state.load_balancers.known.get_mut(load_balancer).expect("an existing load balancer");
        let listener = listeners.iter_mut().find(|listener| listener.port == port).expect("an existing listener");
        listener.protocol = protocol.to_owned();
    }

    /// Deletes the listener on this port.
    pub fn delete_listener(&self, load_balancer: &str, port: u16) {
        let mut state = self.state();
        let (_, listeners) = state.load_balancers.known.get_mut(load_balancer).expect("an existing load balancer");
        listeners.retain(|listener| listener.port != port);
    }

    /// Caps a page of DescribeListeners.
    pub fn set_listener_page_size(&self, listeners: usize) {
        self.state().load_balancers.page_size = Some(listeners);
    }

    /// Sets an attribute of a target group or of a load balancer.
    pub fn set_attribute(&self, arn: &str, key: &str, value: &str) {
        let known = if arn.contains(":targetgroup/") { &GROUP_ATTRIBUTES[..] } else { &LOAD_BALANCER_ATTRIBUTES };
        assert!(known.iter().any(|(name, _)| *name == key), "no attribute of {arn}: {key}");
        self.state().load_balancers.attributes.insert((arn.to_owned(), key.to_owned()), value.to_owned());
    }

    /// Sets what a target group speaks.
    pub fn set_protocol(&self, arn: &str, protocol: &str) {
        self.change_settings(arn, |settings| settings.protocol = protocol.to_owned());
    }

    /// Sets the seconds between two health checks, and how many that fail make a target unhealthy.
    pub fn set_health_check(&self, arn: &str, interval: u32, unhealthy_threshold: u32) {
        self.change_settings(arn, |settings| {
            (settings.interval, settings.unhealthy_threshold) = (interval, unhealthy_threshold);
        });
    }

    /// Sets what health checks speak, and the port that they go to.
    pub fn set_health_check_by(&self, arn: &str, protocol: &str, port: &str) {
        self.change_settings(arn, |settings| {
            (settings.check_protocol, settings.check_port) = (protocol.to_owned(), port.to_owned());
        });
    }

    fn change_settings(&self, arn: &str, change: impl FnOnce(&mut Settings)) {
        change(self.state().load_balancers.settings.entry(arn.to_owned()).or_default());
    }

    /// Sets the health of a target of the group, with AWS's reason and words for it.
    pub fn set_health(&self, arn: &str, target: &str, health: &str, reason: &str, description: &str) {
        self.set_state(arn, target, health);
        let reason = (reason.to_owned(), description.to_owned());
        self.state().load_balancers.reasons.insert((arn.to_owned(), target.to_owned()), reason);
    }

    /// Puts a target group behind a network load balancer of its own, as the template does, and returns that one's ARN.
    pub fn offer(&self, arn: &str) -> String {
        let load_balancer = self.create_load_balancer(LoadBalancer::new("db"));
        self.set_attribute(&load_balancer, "load_balancing.cross_zone.enabled", "true");
        self.create_listener(&load_balancer, 5432, &[(arn, None)]);
        self.set_attribute(arn, "deregistration_delay.timeout_seconds", "0");
        self.set_attribute(arn, "deregistration_delay.connection_termination.enabled", "true");
        self.set_health_check(arn, 10, 2);
        load_balancer
    }
}
