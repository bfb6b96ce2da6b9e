//! The health of the targets: what AWS says of it, and what it means.

use super::{
    Check,
    finding::{Code, Finding, Severity},
    list,
    set_up::Health,
};
use crate::report::TargetCounts;

impl Check<'_> {
    /// Whether targets are healthy, and why not.
    pub(super) fn of_targets(&self, counts: TargetCounts) -> Vec<Finding> {
        let none = |message: String, advice| vec![self.of_group(Code::NoHealthyTarget, message, advice)];
        if counts.registered == 0 {
            return none("the target group holds no target".to_owned(), self.run_it());
        }
        let Some(targets) = &self.set_up.targets else {
            let message = format!("none of the {} targets is healthy", counts.registered);
            return if counts.healthy == 0 { none(message, self.look_at_it()) } else { Vec::new() };
        };
        let registered = || targets.iter().filter(|health| health.state != "draining");
        let (zoneless, sick): (Vec<_>, Vec<_>) =
            registered().filter(|health| health.state != "healthy").partition(|health| self.is_zoneless(health));
        // What was registered moments ago will say more soon.
        let mut dead = sick.iter().copied().filter(|health| health.state != "initial");
        let all = registered().count();
        let mut findings = self
            .first(Code::ZoneNotEnabled, zoneless.iter().map(|health| self.of_target(Code::ZoneNotEnabled, health)));
        if zoneless.len() + sick.len() < all {
            let unhealthy = dead.map(|health| self.of_target(Code::UnhealthyTarget, health));
            findings.extend(self.first(Code::UnhealthyTarget, unhealthy));
        } else if let Some(health) = dead.next().or_else(|| zoneless.iter().chain(&sick).next().copied()) {
            let (message, advice) = self.explain(health);
            let severity = match self.misuse() {
                _ if health.state == "initial" => Severity::Info,
                Some((severity, ..)) if health.reason == NOT_IN_USE => severity,
                _ => Severity::Error,
            };
            let message = format!("none of the {all} targets is healthy. {message}");
            findings.push(Finding { severity, ..self.of_group(Code::NoHealthyTarget, message, advice) });
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
        health.reason == NOT_IN_USE
            && self.misuse().is_none()
            && (health.description.contains("Availability Zone")
                || zone.is_some_and(|zone| self.in_front().iter().any(|known| !known.zones.contains(zone))))
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
            NOT_IN_USE => match self.misuse() {
                Some((_, meaning, advice)) => (meaning, advice),
                None => ("nothing forwards to it yet".to_owned(), "Check again in three minutes".to_owned()),
            },
            "Target.ResponseCodeMismatch" => (
                "the health check speaks HTTP, which databases don't".to_owned(),
                change("--health-check-protocol TCP"),
            ),
            _ => ("it can't be used".to_owned(), self.look_at_it()),
        };
        let words = [reason.as_str(), description.as_str()].into_iter().filter(|words| !words.is_empty());
        (format!("{target} is `{state}` ({}): {meaning}", words.collect::<Vec<_>>().join(": ")), advice)
    }

    fn look_at_it(&self) -> String {
        format!("Look at what AWS says of it: aws elbv2 describe-target-health --target-group-arn {}", self.arn())
    }

    fn explain_zone(&self, health: &Health) -> (String, String) {
        let zone = health.zone.as_deref().unwrap_or("its zone");
        let in_front = self.in_front();
        let lacking = in_front.iter().find(|known| !known.zones.contains(zone)).or_else(|| in_front.first());
        let (arn, subnets) = match lacking {
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
        match self.in_front().first().map(|known| (known.security_groups.first(), &known.subnets)) {
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
