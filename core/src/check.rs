//! The check: what a dry run and the settings of the load balancers tell, turned into findings. Pure: no I/O, no SDK
//! type.

use std::{fmt::Display, net::IpAddr};

use crate::{
    failure::{DnsFailure, ElbError, ElbErrorKind, Failure, GET_RESOURCES, ResolveError, Undiscovered},
    finding::{Code, Finding},
    hostname::Hostname,
    network::{AllowedNetworks, is_public},
    report::GroupReport,
    set_up::{Attributes, LoadBalancer, SetUp},
};

mod targets;

/// What there is to judge of a target group.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// What a dry run found.
    pub report: &'a GroupReport,
    /// What was read besides.
    pub set_up: &'a SetUp,
    /// Which addresses may become targets.
    pub allowed: &'a AllowedNetworks,
    /// The name of the function; empty where it is not known.
    pub function: &'a str,
}

impl Check<'_> {
    /// What is wrong, errors first.
    pub fn findings(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        findings.extend(self.of_failures());
        findings.extend(self.of_addresses());
        findings.extend(self.of_target_type());
        findings.extend(self.of_use());
        for load_balancer in &self.set_up.load_balancers {
            findings.extend(self.of_load_balancer(load_balancer));
        }
        findings.extend(self.set_up.attributes.iter().flat_map(|attributes| self.of_attributes(attributes)));
        findings.extend(self.of_health_check());
        // Where the targets are not known, what a run would do is but a guess.
        if let Some(counts) = self.report.targets.filter(|_| !self.is_not_ip()) {
            findings.extend(self.of_step());
            findings.extend(self.of_targets(counts));
        }
        findings.sort();
        findings.dedup();
        findings
    }

    fn arn(&self) -> &str {
        self.report.target_group_arn.as_str()
    }

    fn of_group(&self, code: Code, message: impl Into<String>, advice: impl Into<String>) -> Finding {
        Finding::new(code, self.arn(), message, advice)
    }

    /// Why a run fails, and what could not be read.
    fn of_failures(&self) -> impl Iterator<Item = Finding> {
        let is_not_ip = self.is_not_ip();
        let of_run = self.report.failures.iter().filter_map(move |failure| match failure {
            // Of such a group the targets have no addresses, and so can't be read.
            Failure::Elb(error) if is_not_ip && matches!(error.kind, ElbErrorKind::Failed | ElbErrorKind::NotIp) => {
                None
            }
            Failure::Elb(error) => Some(of_call(self.arn(), error)),
            Failure::Unresolved { hostname, error } => Some(Finding::new(
                Code::Unresolved,
                hostname,
                format!("DNS gives {hostname} no address: {error}"),
                advice_on_dns(hostname, error),
            )),
            // Told by the answers, where those are known.
            Failure::NoUsableAddress { hostname, .. } if self.report.answers.contains_key(hostname) => None,
            Failure::NoUsableAddress { hostname, is_public, .. } => {
                let (code, advice) = if *is_public {
                    (Code::PublicAddress, RUN_IN_THE_VPC.to_owned())
                } else {
                    (Code::RefusedAddress, self.advice_on_networks())
                };
                Some(Finding::new(code, hostname, failure.to_string(), advice))
            }
            Failure::Deadline(_) => Some(self.of_group(
                Code::Failed,
                failure.to_string(),
                "Check again; if it stays so, give the function more time (template: WATCH_SECONDS in parameter Settings)",
            )),
            Failure::Tag { tag, .. } => {
                let arn = self.arn();
                let advice = format!(
                    "Correct it: aws elbv2 add-tags --resource-arns {arn} --tags Key={tag},Value=VALUE; or take it away: \
                     aws elbv2 remove-tags --resource-arns {arn} --tag-keys {tag}"
                );
                Some(self.of_group(Code::Failed, failure.to_string(), advice))
            }
            Failure::Full { .. } | Failure::NoRoomInTags { .. } | Failure::Refused { .. } => {
                Some(self.of_group(Code::Failed, failure.to_string(), "Mend what the message names, and check again"))
            }
        });
        of_run.chain(self.set_up.failures.iter().map(|(subject, error)| of_call(subject, error)))
    }

    /// Addresses that can't become targets.
    fn of_addresses(&self) -> impl Iterator<Item = Finding> {
        self.report.answers.iter().flat_map(|(hostname, addresses)| {
            // In a VPC, IPv6 addresses are public ones. An IPv4 address that is one can't be a target, whatever is allowed
            // ([targets](https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-target-groups.html)).
            let is_bad = |address: &&IpAddr| {
                self.allowed.refusal(**address).is_some() || (address.is_ipv4() && is_public(**address))
            };
            let (public, refused): (Vec<&IpAddr>, Vec<&IpAddr>) =
                addresses.iter().filter(is_bad).partition(|address| is_public(**address));
            let public = (!public.is_empty()).then(|| {
                let message =
                    format!("DNS gives {hostname} the public address {}, which can't be a target", list(&public));
                Finding::new(Code::PublicAddress, hostname, message, RUN_IN_THE_VPC)
            });
            let refused = refused.first().map(|first| {
                let reason = self.allowed.refusal(**first).unwrap_or_default();
                let message =
                    format!("DNS gives {hostname} the address {}, which may not be a target: {reason}", list(&refused));
                Finding::new(Code::RefusedAddress, hostname, message, self.advice_on_networks())
            });
            public.into_iter().chain(refused)
        })
    }

    fn advice_on_networks(&self) -> String {
        format!(
            "If it is the database's, add its network to ALLOWED_CIDRS, which is {} (template: parameter Settings); if \
             not, correct the DNS record",
            self.allowed
        )
    }

    fn of_step(&self) -> Option<Finding> {
        let lists = [("register", &self.report.registered), ("deregister", &self.report.deregistered)];
        let changes = lists.into_iter().filter(|(_, targets)| !targets.is_empty());
        let changes: Vec<_> = changes.map(|(verb, targets)| format!("{verb} {}", list(targets))).collect();
        (!changes.is_empty()).then(|| {
            self.of_group(Code::OutOfStep, format!("a run would {} now", changes.join(" and ")), self.run_it())
        })
    }

    fn is_not_ip(&self) -> bool {
        let is_told = |failure: &Failure| matches!(failure, Failure::Elb(error) if error.kind == ElbErrorKind::NotIp);
        self.set_up.settings.as_ref().is_some_and(|settings| settings.target_type != "ip")
            || self.report.failures.iter().any(is_told)
    }

    fn of_target_type(&self) -> Option<Finding> {
        let kind = self.set_up.settings.as_ref().map_or("another", |settings| settings.target_type.as_str());
        self.is_not_ip().then(|| {
            self.of_group(
                Code::TargetType,
                format!("the target group is of type `{kind}`, and only one of type `ip` can follow a hostname"),
                "Create one of type `ip` and bind that (template: parameter TargetGroupArn): aws elbv2 \
                 create-target-group --name NAME --target-type ip --protocol TCP --port PORT --vpc-id VPC",
            )
        })
    }

    fn of_use(&self) -> Option<Finding> {
        let (message, advice) = self.misuse()?;
        Some(self.of_group(Code::Unused, message, advice))
    }

    /// Why nothing comes to the group, and what to do; `None` where something may come.
    fn misuse(&self) -> Option<(String, String)> {
        let settings = self.set_up.settings.as_ref()?;
        let mut weights = Vec::new();
        for arn in &settings.load_balancers {
            // What is not known, or has rules as an application load balancer has, may forward to it.
            let mut known = self.set_up.load_balancers.iter().filter(|known| known.arn == *arn && known.is_network());
            let listeners = known.next()?.listeners.as_ref()?;
            weights
                .extend(listeners.iter().filter_map(|listener| Some((listener, *listener.forwards.get(self.arn())?))));
        }
        if weights.iter().any(|(_, weight)| *weight > 0) {
            return None;
        }
        if let Some((listener, _)) = weights.first() {
            return Some((
                format!("the listener on port {} gives the target group the weight 0", listener.port),
                format!(
                    "Give it another weight in the default action of that listener: aws elbv2 modify-listener \
                     --listener-arn {} --default-actions ACTION",
                    listener.arn
                ),
            ));
        }
        let message = match settings.load_balancers.first() {
            None => "no load balancer has the target group".to_owned(),
            Some(arn) => format!("no listener of {arn} forwards to the target group"),
        };
        let advice = format!(
            "Create a listener that forwards to it: aws elbv2 create-listener --load-balancer-arn {} --protocol TCP --port \
             {} --default-actions Type=forward,TargetGroupArn={}",
            settings.load_balancers.first().map_or("LOAD_BALANCER_ARN", String::as_str),
            settings.port.map_or_else(|| "PORT".to_owned(), |port| port.to_string()),
            self.arn()
        );
        Some((message, advice))
    }

    fn of_load_balancer(&self, load_balancer: &LoadBalancer) -> Vec<Finding> {
        let arn = &load_balancer.arn;
        let mut findings = Vec::new();
        let mut found = |code, message: String, advice: String| findings.push(Finding::new(code, arn, message, advice));
        if !load_balancer.is_network() {
            found(
                Code::LoadBalancerType,
                format!(
                    "the load balancer is of type `{}`, and databases need a network load balancer",
                    load_balancer.kind
                ),
                format!(
                    "Put the target group behind one (template: parameters VpcId and SubnetIds): {CREATE_INTERNAL}"
                ),
            );
        }
        if load_balancer.is_internet_facing {
            found(
                Code::Scheme,
                "the load balancer is internet-facing: it offers the database to the internet".to_owned(),
                format!("Its scheme can't be changed. Create an internal one in its place: {CREATE_INTERNAL}"),
            );
        }
        // By default they apply to it
        // ([API](https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_SetSecurityGroups.html)).
        if load_balancer.is_network()
            && load_balancer.enforces_inbound_rules
            && !load_balancer.security_groups.is_empty()
        {
            let groups = &load_balancer.security_groups;
            found(
                Code::SecurityGroupRules,
                format!(
                    "the inbound rules of {} apply to traffic of PrivateLink, too. It comes from addresses of the \
                     consumers' networks, which they don't know",
                    list(groups)
                ),
                format!(
                    "aws elbv2 set-security-groups --load-balancer-arn {arn} --security-groups {} \
                     --enforce-security-group-inbound-rules-on-private-link-traffic off",
                    groups.join(" ")
                ),
            );
        }
        // The group's own setting goes before the load balancer's, which is off by default.
        let of_group = self.set_up.attributes.as_ref().map(|group| group.get(CROSS_ZONE, INHERITED));
        let attributes = load_balancer.attributes.as_ref();
        if of_group == Some(INHERITED)
            && load_balancer.is_network()
            && attributes.is_some_and(|own| own.get(CROSS_ZONE, OFF) == OFF)
        {
            found(
                Code::CrossZone,
                format!("cross-zone load balancing is off at the load balancer, {ONE_ZONE}"),
                format!(
                    "aws elbv2 modify-load-balancer-attributes --load-balancer-arn {arn} --attributes \
                     Key={CROSS_ZONE},Value=true"
                ),
            );
        }
        findings
    }

    /// The defaults are AWS's, of a TCP target group of type `ip`.
    fn of_attributes(&self, attributes: &Attributes) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut found = |code, message: String, values: &[(&str, &str)]| {
            let values: Vec<_> = values.iter().map(|(key, value)| format!("Key={key},Value={value}")).collect();
            let advice = format!(
                "aws elbv2 modify-target-group-attributes --target-group-arn {} --attributes {}",
                self.arn(),
                values.join(" ")
            );
            findings.push(self.of_group(code, message, advice));
        };
        if attributes.get(PROXY_PROTOCOL, OFF) == ON {
            let message = "proxy protocol v2 is on: a header goes before the first byte of each connection, which \
                           databases take for a broken handshake";
            found(Code::ProxyProtocol, message.to_owned(), &[(PROXY_PROTOCOL, OFF)]);
        }
        if attributes.get(CLIENT_IP, OFF) == ON {
            let message = "client IP preservation is on: it has no effect on traffic of PrivateLink, and targets outside \
                           the VPC, load balancers and endpoints get no traffic with it";
            found(Code::ClientIp, message.to_owned(), &[(CLIENT_IP, OFF)]);
        }
        if attributes.get(STICKINESS, OFF) == ON {
            let message = "stickiness is on: all consumers come from a few addresses of the load balancer, and so stay on \
                           one target";
            found(Code::Stickiness, message.to_owned(), &[(STICKINESS, OFF)]);
        }
        if attributes.get(CROSS_ZONE, INHERITED) == OFF {
            let message = format!("cross-zone load balancing is off at the target group, {ONE_ZONE}");
            found(Code::CrossZone, message, &[(CROSS_ZONE, ON)]);
        }
        let delay = attributes.get(DELAY, "300");
        let is_long = delay.parse().is_ok_and(|seconds: u32| seconds > LONGEST_SECONDS);
        let ends = attributes.get(TERMINATION, OFF) == ON;
        if is_long || !ends {
            let fate = if ends { "and are cut then" } else { "and are not cut then" };
            let message = format!("after a failover, connections to the old target live on for {delay} s, {fate}");
            found(Code::SlowDrain, message, &[(DELAY, "0"), (TERMINATION, ON)]);
        }
        findings
    }

    fn of_health_check(&self) -> Option<Finding> {
        let settings = self.set_up.settings.as_ref()?;
        let (interval, threshold) = (settings.health_check_interval, settings.unhealthy_threshold);
        let seconds = interval.saturating_mul(threshold);
        (i64::from(seconds) > LONGEST_SECONDS.into()).then(|| {
            self.of_group(
                Code::SlowHealthCheck,
                format!(
                    "a dead target is found after {seconds} s: {threshold} health checks must fail, with {interval} s \
                     between two"
                ),
                format!(
                    "aws elbv2 modify-target-group --target-group-arn {} --health-check-interval-seconds 10 \
                     --unhealthy-threshold-count 2",
                    self.arn()
                ),
            )
        })
    }

    fn run_it(&self) -> String {
        let function = if self.function.is_empty() { "FUNCTION" } else { self.function };
        format!(
            "Run the function without `check`, as its schedule does: aws lambda invoke --function-name {function} \
             --cli-binary-format raw-in-base64-out --payload '{{}}' /dev/stdout"
        )
    }
}

/// What kept the function from finding target groups by their tags.
pub fn of_discovery(Undiscovered(error): &Undiscovered) -> Finding {
    of_call("DISCOVERY", error)
}

/// A call that failed.
fn of_call(subject: &str, error: &ElbError) -> Finding {
    let advice = match error.kind {
        ElbErrorKind::Denied => {
            let action = error.action();
            let message = format!("the function's role may not call {action}. {}", error.problem);
            let advice = format!(
                "Allow {action} on `*` in the policy of the function's role; `make policies` prints \
                 all that it needs"
            );
            return Finding::new(Code::Permission, subject, message, advice);
        }
        ElbErrorKind::Throttled => "Check again in a minute, or fewer target groups at once: name them in `bindings`",
        ElbErrorKind::TimedOut => {
            "Give the function a way to AWS: NAT, or the interface endpoint (template: parameter \
             CreateInterfaceEndpoints)"
        }
        ElbErrorKind::Unavailable => "Check again in some minutes: it is AWS itself that fails",
        _ if error.operation == GET_RESOURCES => {
            "Mend what AWS names, and check again. What there is, tells aws resourcegroupstaggingapi get-resources \
             --resource-type-filters elasticloadbalancing:targetgroup"
        }
        _ => "Mend what AWS names, and check again. What there is, tells aws elbv2 describe-target-groups",
    };
    Finding::new(Code::Failed, subject, error.to_string(), advice)
}

fn advice_on_dns(hostname: &Hostname, error: &ResolveError) -> String {
    match error.failures.last() {
        Some((server, DnsFailure::NxDomain)) => format!(
            "If `dig {hostname}` finds it in the database's VPC, run the function there (template: parameters VpcId and \
             FunctionSubnetIds), because {server} does not know it; if not, correct the hostname (parameter Hostname)"
        ),
        Some((_, DnsFailure::NoData(_))) => format!(
            "Bind a name that has such a record, or a target group of the other address family (template: parameter \
             IpAddressType): dig {hostname} A; dig {hostname} AAAA"
        ),
        Some((server, failure)) if failure.is_silence() => format!(
            "Let the function reach {server} on port {} of UDP and TCP, or name a server that it can reach in DNS_SERVERS \
             (template: parameter Settings)",
            server.port()
        ),
        Some((server, _)) => format!(
            "Find out why {server} does not answer, or name another server in DNS_SERVERS (template: parameter Settings): \
             dig @{} -p {} {hostname}",
            server.ip(),
            server.port()
        ),
        None => "Check again: there was no time to ask a name server".to_owned(),
    }
}

/// The first of many, for a message.
fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut items = items.into_iter();
    let mut names: Vec<_> = items.by_ref().take(MOST_NAMED).map(|item| item.to_string()).collect();
    let more = items.count();
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    names.join(", ")
}

const CREATE_INTERNAL: &str =
    "aws elbv2 create-load-balancer --type network --scheme internal --name NAME --subnets SUBNET SUBNET";

const ONE_ZONE: &str = "so that a consumer in a zone without a target reaches none: PrivateLink connections stay in \
     their zone";

const RUN_IN_THE_VPC: &str = "If it is a database of RDS, run the function in its VPC, where its name gives the private \
     address (template: parameters VpcId and FunctionSubnetIds)";

const CLIENT_IP: &str = "preserve_client_ip.enabled";
const CROSS_ZONE: &str = "load_balancing.cross_zone.enabled";
const DELAY: &str = "deregistration_delay.timeout_seconds";
const PROXY_PROTOCOL: &str = "proxy_protocol_v2.enabled";
const STICKINESS: &str = "stickiness.enabled";
const TERMINATION: &str = "deregistration_delay.connection_termination.enabled";

const INHERITED: &str = "use_load_balancer_configuration";
const OFF: &str = "false";
const ON: &str = "true";

/// The contract: what takes longer is slow.
const LONGEST_SECONDS: u32 = 60;

/// Targets, addresses and so on that a message names, of the thousands that there may be.
const MOST_NAMED: usize = 10;
