//! What DescribeTargetHealth says of the targets, and what it means.

use super::{Check, list};
use crate::{
    finding::{Code, Finding},
    report::TargetCounts,
    set_up::Health,
};

impl Check<'_> {
    /// Whether targets are healthy, and why not.
    pub(super) fn of_targets(&self, counts: TargetCounts) -> Vec<Finding> {
        let Some(targets) = &self.set_up.targets else {
            let advice = "Look at its targets: aws elbv2 describe-target-health --target-group-arn";
            return match (counts.registered, counts.healthy) {
                (0, _) => vec![self.of_group(Code::NoHealthyTarget, EMPTY, self.run_it())],
                (all, 0) => {
                    let message = format!("none of the {all} targets is healthy");
                    vec![self.of_group(Code::NoHealthyTarget, message, format!("{advice} {}", self.arn()))]
                }
                _ => Vec::new(),
            };
        };
        let registered = || targets.iter().filter(|health| health.state != "draining");
        let (zoneless, sick): (Vec<_>, Vec<_>) =
            registered().filter(|health| health.state != "healthy").partition(|health| self.is_zoneless(health));
        let all = registered().count();
        let mut findings: Vec<_> = zoneless.iter().map(|health| self.of_target(Code::ZoneNotEnabled, health)).collect();
        // What was registered moments ago will say more soon.
        let mut dead = sick.iter().filter(|health| health.state != "initial");
        if zoneless.len() + sick.len() < all {
            findings
                .extend(dead.by_ref().take(MOST_FINDINGS).map(|health| self.of_target(Code::UnhealthyTarget, health)));
            let more = dead.count();
            if more > 0 {
                let message = format!("{more} more targets are not healthy");
                findings.push(self.of_group(Code::UnhealthyTarget, message, "Begin with those that are named"));
            }
        } else if let Some(health) = dead.next().or_else(|| zoneless.first()).or_else(|| sick.first()) {
            let (message, advice) = self.explain(health);
            let message = format!("none of the {all} targets is healthy. {message}");
            findings.push(self.of_group(Code::NoHealthyTarget, message, advice));
        } else {
            findings.push(self.of_group(Code::NoHealthyTarget, EMPTY, self.run_it()));
        }
        findings
    }

    fn of_target(&self, code: Code, health: &Health) -> Finding {
        let (message, advice) = self.explain(health);
        Finding::new(code, health.target, message, advice)
    }

    /// Whether the target's zone is not enabled at the load balancer. The reason says so, or that nothing forwards to the
    /// group; only the description, which is for people, tells the one from the other.
    fn is_zoneless(&self, health: &Health) -> bool {
        let zone = health.zone.as_ref().filter(|zone| *zone != "all");
        let mut load_balancers = self.set_up.load_balancers.iter().filter(|known| known.is_network());
        health.reason == NOT_IN_USE
            && self.misuse().is_none()
            && (health.description.contains("Availability Zone")
                || zone.is_some_and(|zone| load_balancers.any(|known| !known.zones.contains(zone))))
    }

    /// What AWS's reason means, and what to do
    /// ([reasons](https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html)).
    fn explain(&self, health: &Health) -> (String, String) {
        let Health { target, state, reason, description, check_port, .. } = health;
        let arn = self.arn();
        let change = |option: &str| format!("aws elbv2 modify-target-group --target-group-arn {arn} {option}");
        let (meaning, advice) = match reason.as_str() {
            "Elb.InitialHealthChecking" | "Elb.RegistrationInProgress" => (
                "it was registered moments ago, and the first health checks take some minutes".to_owned(),
                "Check again in three minutes".to_owned(),
            ),
            "Elb.InternalError" => (
                "AWS itself can't tell".to_owned(),
                "Check again in some minutes; if it stays so, open a case with AWS".to_owned(),
            ),
            "Target.FailedHealthChecks" | "Target.Timeout" => (
                format!(
                    "the load balancer gets no connection to port {check_port} of {}. A security group or network ACL \
                     keeps it out, or nothing listens there",
                    target.address
                ),
                self.advice_to_let_in(*check_port),
            ),
            "Target.HealthCheckDisabled" => {
                ("health checks are disabled".to_owned(), change("--health-check-enabled"))
            }
            "Target.IpUnusable" => (
                "the address is reserved for a load balancer".to_owned(),
                "Bind the database's own name (template: parameter Hostname), or another target group than that of this \
                 load balancer"
                    .to_owned(),
            ),
            NOT_IN_USE if self.is_zoneless(health) => self.explain_zone(health),
            NOT_IN_USE => self.misuse().unwrap_or_else(|| {
                ("nothing forwards to it yet".to_owned(), "Check again in three minutes".to_owned())
            }),
            "Target.ResponseCodeMismatch" => (
                "the health check speaks HTTP, which databases don't".to_owned(),
                change("--health-check-protocol TCP"),
            ),
            _ => (
                "it can't be used".to_owned(),
                format!("Look at what AWS says of it: aws elbv2 describe-target-health --target-group-arn {arn}"),
            ),
        };
        let words = [reason.as_str(), description.as_str()].into_iter().filter(|words| !words.is_empty());
        (format!("{target} is `{state}` ({}): {meaning}", words.collect::<Vec<_>>().join(": ")), advice)
    }

    fn explain_zone(&self, health: &Health) -> (String, String) {
        let zone = health.zone.as_deref().unwrap_or("its zone");
        let (arn, subnets) = match self.set_up.load_balancers.first() {
            Some(known) => (known.arn.as_str(), known.subnets.join(" ")),
            None => ("LOAD_BALANCER_ARN", "SUBNET".to_owned()),
        };
        (
            format!("{zone} is not enabled at the load balancer"),
            format!(
                "Add a subnet in {zone} to the load balancer's (template: parameter SubnetIds): aws elbv2 set-subnets \
                 --load-balancer-arn {arn} --subnets {subnets} SUBNET_IN_THE_ZONE"
            ),
        )
    }

    /// Where the load balancer has security groups, connections come from those; where it has none, from its subnets.
    fn advice_to_let_in(&self, port: u16) -> String {
        let allow = format!(
            "aws ec2 authorize-security-group-ingress --group-id SG_OF_THE_DATABASE --protocol tcp --port {port}"
        );
        let load_balancer = self.set_up.load_balancers.first();
        match load_balancer.map(|known| (known.security_groups.first(), &known.subnets)) {
            Some((Some(group), _)) => format!(
                "Let the database's security group admit the load balancer's, {group}, on port {port}: {allow} \
                 --source-group {group}"
            ),
            Some((None, subnets)) if !subnets.is_empty() => format!(
                "Let the database's security group admit the networks of the load balancer's subnets, {}, on port {port}: \
                 {allow} --cidr NETWORK_OF_THE_SUBNET",
                list(subnets)
            ),
            _ => format!(
                "Let the database's security group admit the load balancer on port {port}: {allow} --cidr NETWORK"
            ),
        }
    }
}

/// AWS's reason where no listener forwards to the group, or the target's zone is not enabled.
const NOT_IN_USE: &str = "Target.NotInUse";

const EMPTY: &str = "the target group holds no target";

/// Targets with a finding of their own, of the thousand that a group may have.
const MOST_FINDINGS: usize = 20;
