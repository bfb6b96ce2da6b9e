//! Load balancers and their listeners.

use std::collections::BTreeMap;

use super::request::{Asked, Refusal, element, invalid, members, refuse, texts};

/// A load balancer to create: by default an internal network load balancer in zones `a` and `b` of us-east-1, without
/// security groups.
#[derive(Clone)]
pub struct LoadBalancer {
    pub name: String,
    pub region: &'static str,
    /// `network`, `application` or `gateway`.
    pub kind: &'static str,
    pub scheme: &'static str,
    /// `active`, `provisioning`, `active_impaired` or `failed`.
    pub state: &'static str,
    pub security_groups: Vec<&'static str>,
    /// Whether their inbound rules apply to PrivateLink traffic.
    pub enforces_inbound_rules: bool,
    /// The enabled zones, a subnet in each.
    pub zones: Vec<&'static str>,
    pub listeners: Vec<Listener>,
    /// How many listeners a page of DescribeListeners holds.
    pub page_size: usize,
}

#[derive(Clone)]
pub struct Listener {
    pub port: u16,
    pub protocol: &'static str,
    /// Target groups with a weight or, as of old, without.
    pub forwards: Vec<(String, Option<u32>)>,
}

impl LoadBalancer {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            region: "us-east-1",
            kind: "network",
            scheme: "internal",
            state: "active",
            security_groups: Vec::new(),
            enforces_inbound_rules: true,
            zones: vec!["us-east-1a", "us-east-1b"],
            listeners: Vec::new(),
            page_size: 400,
        }
    }

    pub(super) fn described(&self, arn: &str) -> String {
        let zones = self.zones.iter().map(|zone| {
            element("ZoneName", zone) + &element("SubnetId", format!("subnet-{zone}")) + "<LoadBalancerAddresses/>"
        });
        let mut text = element("LoadBalancerArn", arn) + &element("LoadBalancerName", &self.name);
        text += &(element("Type", self.kind) + &element("Scheme", self.scheme) + &element("IpAddressType", "ipv4"));
        let reason = if self.state == "active" { String::new() } else { element("Reason", "AWS's reason") };
        text += &format!("<State>{}{reason}</State>", element("Code", self.state));
        text += &members("AvailabilityZones", zones);
        // One that was created without never gets any, and says nothing of their rules.
        if !self.security_groups.is_empty() {
            text += &texts("SecurityGroups", self.security_groups.iter());
            let enforces = if self.enforces_inbound_rules { "on" } else { "off" };
            text += &element("EnforceSecurityGroupInboundRulesOnPrivateLinkTraffic", enforces);
        }
        text
    }

    fn forwards_to(&self, group: &str) -> bool {
        self.listeners.iter().flat_map(|listener| &listener.forwards).any(|(arn, _)| arn == group)
    }

    /// A page of the listeners.
    pub(super) fn page(&self, arn: &str, marker: Option<&str>) -> Result<String, Refusal> {
        let first = marker.map_or(Ok(0), str::parse).map_err(|_| invalid("The marker is not valid").breach())?;
        let prefix = arn.replace(":loadbalancer/", ":listener/");
        let page = self.listeners.iter().enumerate().skip(first).take(self.page_size);
        let page = page.map(|(number, listener)| listener.described(&format!("{prefix}/{number:016x}"), arn));
        let page = members("Listeners", page);
        let next = first + self.page_size;
        Ok(if next < self.listeners.len() { page + &element("NextMarker", next) } else { page })
    }
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
            + &element("Protocol", self.protocol)
            + &members("DefaultActions", [action].into_iter())
    }
}

/// What there is of load balancers.
#[derive(Default)]
pub(super) struct LoadBalancers {
    pub(super) known: BTreeMap<String, LoadBalancer>,
    /// Whether DescribeLoadBalancers leaves out those that there are not.
    pub(super) leaves_out: bool,
}

impl LoadBalancers {
    /// The load balancers with a listener that forwards to the group.
    pub(super) fn of(&self, group: &str) -> impl Iterator<Item = (&String, &LoadBalancer)> {
        self.known.iter().filter(move |(_, load_balancer)| load_balancer.forwards_to(group))
    }

    /// Whether one of them is in the target's zone.
    pub(super) fn are_in_zone(&self, group: &str, zone: Option<&str>) -> bool {
        let mut zones = self.of(group).map(|(_, load_balancer)| &load_balancer.zones);
        zones.any(|zones| zone.is_none_or(|zone| zone == "all" || zones.contains(&zone)))
    }

    pub(super) fn get(&self, arn: &str, asked: &Asked) -> Result<&LoadBalancer, Refusal> {
        if !arn.contains(":loadbalancer/") || arn.split(':').nth(3) != Some(&asked.region) {
            return Err(invalid(format!("'{arn}' is not a valid load balancer ARN")).breach());
        }
        self.known.get(arn).ok_or_else(|| refuse(400, "LoadBalancerNotFound", "One or more load balancers not found"))
    }
}
