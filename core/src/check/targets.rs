//! The health of the targets: what AWS says of it, and what it means.

use super::Check;
use super::finding::{Code, Finding, Severity};
use crate::failure::list;
use crate::report::TargetCounts;
use crate::target::{RegisteredTarget, TargetState};

impl Check<'_> {
    pub(super) fn of_targets(&self, counts: TargetCounts, findings: &mut Vec<Finding>) {
        if counts.registered == 0 {
            let message = "the target group holds no target";
            return findings.push(self.of_group(Code::NoHealthyTarget, message, self.run_it()));
        }
        let (zoneless, sick): (Vec<_>, Vec<_>) = self.report.sick.iter().partition(|shown| self.is_zoneless(shown));
        // What was registered moments ago will say more soon.
        let mut dead = sick.iter().copied().filter(|shown| shown.state != TargetState::Initial);
        let find = |code, shown: &RegisteredTarget| {
            let (message, advice) = self.explain(shown);
            Finding::new(code, shown.target, message, advice)
        };
        findings.extend(zoneless.iter().map(|shown| find(Code::ZoneNotEnabled, shown)));
        if counts.healthy > 0 {
            findings.extend(dead.map(|shown| find(Code::UnhealthyTarget, shown)));
        } else if let Some(shown) = dead.next().or_else(|| zoneless.iter().chain(&sick).next().copied()) {
            let (message, advice) = self.explain(shown);
            let message = format!("none of the {} targets is healthy. {message}", counts.registered);
            let mut finding = self.of_group(Code::NoHealthyTarget, message, advice);
            match self.unused() {
                _ if shown.state == TargetState::Initial => finding.severity = Severity::Info,
                Some(unused) if shown.reason == NOT_IN_USE => finding.severity = unused.severity,
                _ => {}
            }
            findings.push(finding);
        }
    }

    /// Whether the target's zone is not enabled at the load balancer. The reason says so, or that nothing forwards to the
    /// group; only the description, which is for people, tells the one from the other.
    fn is_zoneless(&self, shown: &RegisteredTarget) -> bool {
        let zone = shown.availability_zone.as_ref().filter(|zone| *zone != "all");
        shown.reason == NOT_IN_USE
            && self.unused().is_none()
            && (shown.description.contains("Availability Zone")
                || zone.is_some_and(|zone| self.in_front().iter().any(|known| !known.zones.contains(zone))))
    }

    /// What AWS's reason means, and what to do
    /// ([reasons](https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html)).
    fn explain(&self, shown: &RegisteredTarget) -> (String, String) {
        let RegisteredTarget { target, reason, description, check_port, .. } = shown;
        let (meaning, advice): (String, String) = match reason.as_str() {
            "Elb.InitialHealthChecking" | "Elb.RegistrationInProgress" => {
                ("it was registered moments ago".into(), "Check again in three minutes".into())
            }
            "Elb.InternalError" => {
                let advice = "Check again in some minutes; if it stays so, open a case with AWS";
                ("AWS itself can't tell".into(), advice.into())
            }
            "Target.FailedHealthChecks" | "Target.Timeout" => {
                let meaning = format!(
                    "the load balancer gets no connection to port {check_port} of {}. A security group or network ACL \
                     keeps it out, or nothing listens there",
                    target.address
                );
                (meaning, self.advice_to_let_in(check_port.get()))
            }
            "Target.HealthCheckDisabled" => {
                ("health checks are disabled".into(), self.modify("target-group", "--health-check-enabled"))
            }
            "Target.IpUnusable" => {
                let advice = "Bind the database's own name (template: parameter Hostname)";
                ("the address is reserved for a load balancer".into(), advice.into())
            }
            NOT_IN_USE if self.is_zoneless(shown) => self.explain_zone(shown),
            NOT_IN_USE => match self.unused() {
                Some(unused) => (unused.message, unused.advice),
                None => ("nothing forwards to it yet".into(), "Check again in three minutes".into()),
            },
            "Target.ResponseCodeMismatch" => {
                let advice = self.modify("target-group", "--health-check-protocol TCP");
                ("the health check speaks HTTP, which databases don't".into(), advice)
            }
            _ => {
                let advice = format!("aws elbv2 describe-target-health --target-group-arn {}", self.arn());
                ("it can't be used".into(), advice)
            }
        };
        let words = [reason.as_str(), description.as_str()].into_iter().filter(|words| !words.is_empty());
        (format!("{target} is not healthy ({}): {meaning}", words.collect::<Vec<_>>().join(": ")), advice)
    }

    fn explain_zone(&self, shown: &RegisteredTarget) -> (String, String) {
        let zone = shown.availability_zone.as_deref().unwrap_or("its zone");
        let in_front = self.in_front();
        let lacking = in_front.iter().find(|known| !known.zones.contains(zone)).or_else(|| in_front.first());
        let (arn, subnets) =
            lacking.map_or(("LOAD_BALANCER_ARN", String::new()), |known| (&known.arn, known.subnets.join(" ")));
        let advice = format!(
            "Add a subnet in {zone} (template: parameter SubnetIds): aws elbv2 set-subnets --load-balancer-arn {arn} \
             --subnets {subnets} SUBNET_IN_THE_ZONE"
        );
        (format!("{zone} is not enabled at the load balancer"), advice)
    }

    /// Where the load balancer has security groups, connections come from those; where it has none, from its subnets.
    fn advice_to_let_in(&self, port: u16) -> String {
        let (who, source) = match self.in_front().first().map(|known| (known.security_groups.first(), &known.subnets)) {
            Some((Some(group), _)) => (group.clone(), format!("--source-group {group}")),
            Some((None, subnets)) if !subnets.is_empty() => {
                (format!("the networks of {}", list(subnets)), "--cidr NETWORK_OF_THE_SUBNET".to_owned())
            }
            _ => ("the load balancer".to_owned(), "--cidr NETWORK".to_owned()),
        };
        format!(
            "Let the database's security group admit {who} on port {port}: aws ec2 authorize-security-group-ingress \
             --group-id SG_OF_THE_DATABASE --protocol tcp --port {port} {source}"
        )
    }
}

/// AWS's reason where no listener forwards to the group, or the target's zone is not enabled.
const NOT_IN_USE: &str = "Target.NotInUse";
