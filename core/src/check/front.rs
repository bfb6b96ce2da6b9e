//! What stands in front of the targets: the target group's settings, its load balancers and their listeners.

use super::Check;
use super::finding::{Code, Finding, Severity};
use super::set_up::{Attributes, LoadBalancer, Settings};
use crate::failure::{ElbErrorKind, Failure, list};

impl Check<'_> {
    pub(super) fn of_front(&self, findings: &mut Vec<Finding>) {
        if self.is_not_ip() {
            let kind = self.set_up.settings.as_ref().map_or("another", |settings| settings.target_type.as_str());
            let message = format!("the target group is of type `{kind}`, not `ip`, so it can't follow a hostname");
            findings.push(self.of_group(Code::TargetType, message, CREATE_GROUP));
        }
        findings.extend(self.unused());
        self.set_up.load_balancers.iter().for_each(|known| self.of_load_balancer(known, findings));
        self.set_up.attributes.iter().for_each(|attributes| self.of_attributes(attributes, findings));
        if let Some(settings) = &self.set_up.settings {
            findings.extend(self.of_protocol(settings));
            self.of_health_check(settings, findings);
        }
    }

    pub(super) fn is_not_ip(&self) -> bool {
        let is_told = |failure: &Failure| matches!(failure, Failure::Elb(error) if error.kind == ElbErrorKind::NotIp);
        self.set_up.settings.as_ref().is_some_and(|settings| settings.target_type != "ip")
            || self.report.failures.iter().any(is_told)
    }

    /// Why nothing comes to the group; `None` where something may come.
    pub(super) fn unused(&self) -> Option<Finding> {
        let settings = self.set_up.settings.as_ref()?;
        let mut idle = Vec::new();
        for arn in &settings.load_balancer_arns {
            // What is not known, or has rules as an application load balancer has, may forward to it.
            let known = self.set_up.load_balancers.iter().find(|known| known.arn == *arn && known.is_network())?;
            for listener in known.listeners.as_ref()? {
                match listener.forwards.get(self.arn()) {
                    Some(0) => idle.push(listener),
                    Some(_) => return None,
                    None => {}
                }
            }
        }
        if let Some(listener) = idle.first() {
            // Beside a group that gets all, somebody wanted it so.
            let is_wanted = idle.iter().flat_map(|listener| listener.forwards.values()).any(|weight| *weight > 0);
            let severity = if is_wanted { Severity::Warning } else { Severity::Error };
            let message = format!("the listener on port {} gives the target group the weight 0", listener.port);
            let advice = format!("Give it another weight: {MODIFY_LISTENER} {} --default-actions ACTION", listener.arn);
            return Some(Finding { severity, ..self.of_group(Code::Unused, message, advice) });
        }
        let (message, arn) = match settings.load_balancer_arns.first() {
            None => ("no load balancer has the target group".to_owned(), "LOAD_BALANCER_ARN"),
            Some(arn) => (format!("no listener of {arn} forwards to the target group"), arn.as_str()),
        };
        let advice = format!(
            "Create a listener: aws elbv2 create-listener --load-balancer-arn {arn} --protocol TCP --port {} \
             --default-actions Type=forward,TargetGroupArn={}",
            settings.port.map_or_else(|| "PORT".to_owned(), |port| port.to_string()),
            self.arn()
        );
        Some(self.of_group(Code::Unused, message, advice))
    }

    /// The load balancers that forward to the group; where no one is known to, all that have it.
    pub(super) fn in_front(&self) -> Vec<&LoadBalancer> {
        let forwards = |known: &LoadBalancer| {
            let mut listeners = known.listeners.iter().flatten();
            listeners.any(|listener| listener.forwards.get(self.arn()).is_some_and(|weight| *weight > 0))
        };
        let all = &self.set_up.load_balancers;
        let is_known = all.iter().any(forwards);
        all.iter().filter(|known| !is_known || forwards(known)).collect()
    }

    fn of_load_balancer(&self, load_balancer: &LoadBalancer, findings: &mut Vec<Finding>) {
        let LoadBalancer { arn, kind, state: (state, reason), security_groups, .. } = load_balancer;
        let mut found = |code, message, advice| findings.push(Finding::new(code, arn, message, advice));
        if !load_balancer.is_network() {
            let message = format!("the load balancer is of type `{kind}`, and databases need a network load balancer");
            let advice = format!("Put the target group behind one (template: parameter SubnetIds): {CREATE_BALANCER}");
            found(Code::LoadBalancerType, message, advice);
        }
        if !state.is_empty() && state != "active" {
            let advice = "Check again in some minutes. If it stays so, free eight addresses in each of its subnets, or \
                          create another one";
            let message = format!("the load balancer is `{state}`, not `active`. {reason}");
            found(Code::LoadBalancerState, message, format!("{advice}: {CREATE_BALANCER}"));
        }
        if load_balancer.is_internet_facing {
            let message = "the load balancer is internet-facing: it offers the database to the internet".to_owned();
            found(Code::Scheme, message, format!("Create an internal one in its place: {CREATE_BALANCER}"));
        }
        // By default they apply to it
        // ([API](https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_SetSecurityGroups.html)).
        if load_balancer.is_network() && load_balancer.enforces_inbound_rules && !security_groups.is_empty() {
            let message =
                format!("the inbound rules of {} apply to traffic of PrivateLink, too", list(security_groups));
            let advice = format!(
                "aws elbv2 set-security-groups --load-balancer-arn {arn} --security-groups {} \
                 --enforce-security-group-inbound-rules-on-private-link-traffic off",
                security_groups.join(" ")
            );
            found(Code::SecurityGroupRules, message, advice);
        }
        // The group's own setting goes before the load balancer's, which is off by default.
        let is_inherited = |group| value(group, CROSS_ZONE, INHERITED) == INHERITED;
        let is_off = |own| value(own, CROSS_ZONE, OFF) == OFF;
        if self.set_up.attributes.as_ref().is_some_and(is_inherited)
            && load_balancer.attributes.as_ref().is_some_and(is_off)
        {
            let message = format!("cross-zone load balancing is off at the load balancer: {ONE_ZONE}");
            let advice = format!(
                "aws elbv2 modify-load-balancer-attributes --load-balancer-arn {arn} --attributes Key={CROSS_ZONE},Value=true"
            );
            found(Code::CrossZone, message, advice);
        }
    }

    /// What the group and the listeners that forward to it speak; the worst counts.
    fn of_protocol(&self, settings: &Settings) -> Option<Finding> {
        let listeners = self.set_up.load_balancers.iter().flat_map(|known| known.listeners.iter().flatten());
        let listeners = listeners.filter(|listener| listener.forwards.contains_key(self.arn()));
        let listeners = listeners.map(|listener| (listener.arn.as_str(), listener.protocol.as_str()));
        let all: Vec<_> = [(self.arn(), settings.protocol.as_str())].into_iter().chain(listeners).collect();
        let datagrams = all.iter().find(|(_, protocol)| DATAGRAMS.contains(protocol));
        let (subject, protocol) = *datagrams.or_else(|| all.iter().find(|(_, protocol)| *protocol == "TLS"))?;
        let (who, advice) = if subject == self.arn() {
            ("target group", CREATE_GROUP.to_owned())
        } else {
            ("listener", format!("{MODIFY_LISTENER} {subject} --protocol TCP"))
        };
        let (severity, meaning) = match datagrams {
            Some(_) => (Severity::Error, "and databases speak TCP"),
            None => (Severity::Warning, "so the load balancer ends TLS, which most databases negotiate themselves"),
        };
        let message = format!("the {who} speaks {protocol}, {meaning}");
        Some(Finding { severity, ..Finding::new(Code::Protocol, subject, message, advice) })
    }

    fn of_attributes(&self, attributes: &Attributes, findings: &mut Vec<Finding>) {
        let is = |key: &str, wanted: &str| attributes.get(key).is_some_and(|value| value == wanted);
        let protocol = self.set_up.settings.as_ref().map_or("", |settings| settings.protocol.as_str());
        let mut found = |code, message, values: &str| {
            let advice = self.modify("target-group-attributes", &format!("--attributes {values}"));
            findings.push(self.of_group(code, message, advice));
        };
        for (code, key, bad, meaning) in ATTRIBUTES {
            // With datagrams, client IP preservation can't be turned off.
            if is(key, bad) && !(code == Code::ClientIp && DATAGRAMS.contains(&protocol)) {
                let good = if bad == ON { OFF } else { ON };
                found(code, format!("`{key}` is `{bad}`: {meaning}"), &format!("Key={key},Value={good}"));
            }
        }
        let delay = value(attributes, DELAY, "300");
        let ends = is(TERMINATION, ON);
        if !ends || delay.parse().is_ok_and(|seconds: i32| seconds > LONGEST_SECONDS) {
            let fate = if ends { "are cut then" } else { "are not cut then" };
            let message = format!("after a failover, connections to the old target live on for {delay} s, and {fate}");
            found(Code::SlowDrain, message, &format!("Key={DELAY},Value=0 Key={TERMINATION},Value=true"));
        }
    }

    fn of_health_check(&self, settings: &Settings, findings: &mut Vec<Finding>) {
        let mut found = |code, message, options| {
            findings.push(self.of_group(code, message, self.modify("target-group", options)));
        };
        let (interval, threshold) = (settings.health_check_interval_seconds, settings.unhealthy_threshold_count);
        let seconds = interval.saturating_mul(threshold);
        if seconds > LONGEST_SECONDS {
            let message =
                format!("a dead target is found after {seconds} s: {threshold} health checks, {interval} s apart");
            found(Code::SlowHealthCheck, message, "--health-check-interval-seconds 10 --unhealthy-threshold-count 2");
        }
        let (protocol, port) = (settings.health_check_protocol.as_str(), settings.health_check_port.as_str());
        let is_own = matches!(port, "" | "traffic-port") || port.parse().ok() == settings.port;
        if !(matches!(protocol, "" | "TCP") && is_own || self.is_not_ip()) {
            let message =
                format!("the health check is by {protocol} on port `{port}`, not by TCP on the database's own");
            found(Code::HealthCheck, message, "--health-check-protocol TCP --health-check-port traffic-port");
        }
    }
}

/// The value of an attribute, or AWS's default of it where it is not listed.
fn value<'a>(attributes: &'a Attributes, key: &str, default: &'a str) -> &'a str {
    attributes.get(key).map_or(default, String::as_str)
}

/// What follows where an attribute of the group has this value, which is not its default.
const ATTRIBUTES: [(Code, &str, &str, &str); 4] = [
    (Code::ProxyProtocol, "proxy_protocol_v2.enabled", ON, "databases take its header for a broken handshake"),
    (Code::ClientIp, "preserve_client_ip.enabled", ON, "targets outside the VPC get no traffic"),
    (Code::Stickiness, "stickiness.enabled", ON, "consumers share the load balancer's addresses, and so one target"),
    (Code::CrossZone, CROSS_ZONE, OFF, ONE_ZONE),
];

const ONE_ZONE: &str = "PrivateLink connections stay in their zone, and where that has no target, they reach none";

const CREATE_GROUP: &str = "Create another target group and bind that (template: parameter TargetGroupArn): aws elbv2 \
     create-target-group --name NAME --target-type ip --protocol TCP --port PORT --vpc-id VPC";

const CREATE_BALANCER: &str =
    "aws elbv2 create-load-balancer --type network --scheme internal --name NAME --subnets SUBNET SUBNET";

const MODIFY_LISTENER: &str = "aws elbv2 modify-listener --listener-arn";

/// Protocols that carry datagrams, alone or beside TCP.
const DATAGRAMS: [&str; 4] = ["UDP", "TCP_UDP", "QUIC", "TCP_QUIC"];

const CROSS_ZONE: &str = "load_balancing.cross_zone.enabled";
const DELAY: &str = "deregistration_delay.timeout_seconds";
const TERMINATION: &str = "deregistration_delay.connection_termination.enabled";

const INHERITED: &str = "use_load_balancer_configuration";
const OFF: &str = "false";
const ON: &str = "true";

/// The contract: what takes longer is slow.
const LONGEST_SECONDS: i32 = 60;
