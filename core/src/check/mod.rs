//! The check: what a dry run and the settings of the load balancers tell, turned into findings. Here is why a run fails,
//! what DNS gives, and what a run would do.

pub mod finding;
mod front;
pub mod set_up;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::json;

use crate::binding::{Group, Ownership};
use crate::failure::{DnsFailure, ElbError, ElbErrorKind, Failure, RUN_IN_THE_VPC, ResolveError, action, list};
use crate::network::{AllowedNetworks, is_nat64, is_public};
use crate::report::{GroupReport, HostnameSettings};
use crate::{hostname::Hostname, kind::HostnameKind, plan::HoldReason, samples::LARGE_ANSWER, target::Target};
use finding::{Code, Finding};
use set_up::SetUp;

/// What there is to judge of a target group.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// What is bound to it.
    pub group: &'a Group,
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
        let mut findings: Vec<_> = self.report.failures.iter().filter_map(|failure| self.of_failure(failure)).collect();
        findings.extend(self.set_up.failures.iter().map(|(subject, error)| of_call(subject, error)));
        if self.report.is_deferred {
            let message = "the time did not suffice to look at the target group in full";
            findings.push(self.of_group(Code::NotChecked, message, MORE_TIME));
        }
        for (hostname, addresses) in &self.report.answers {
            self.of_answer(hostname, addresses, &mut findings);
        }
        self.of_names(&mut findings);
        self.of_front(&mut findings);
        // Where the targets are not known, what a run would do is but a guess.
        if let Some(counts) = self.report.targets.filter(|_| !self.is_not_ip()) {
            findings.extend(self.of_step());
            self.of_held(&mut findings);
            self.of_targets(counts, &mut findings);
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

    /// What changes the target group: `what` is `target-group` or `target-group-attributes`.
    fn modify(&self, what: &str, options: &str) -> String {
        format!("aws elbv2 modify-{what} --target-group-arn {} {options}", self.arn())
    }

    /// Why a run fails. What DNS gives in vain, the answers tell.
    fn of_failure(&self, failure: &Failure) -> Option<Finding> {
        let (arn, message) = (self.arn(), failure.to_string());
        Some(match failure {
            // Of such a group the targets have no addresses, and so can't be read.
            Failure::Elb(ElbError { kind: ElbErrorKind::Failed | ElbErrorKind::NotIp, .. }) if self.is_not_ip() => {
                return None;
            }
            Failure::NoUsableAddress { .. } => return None,
            Failure::Elb(error) => of_call(arn, error),
            Failure::Unresolved { hostname, error } => {
                Finding::new(Code::Unresolved, hostname, message, advice_on_dns(hostname, error))
            }
            Failure::Deadline(_) => self.of_group(Code::NotChecked, message, MORE_TIME),
            Failure::Tag { tag, .. } => {
                let advice =
                    format!("Correct it: aws elbv2 add-tags --resource-arns {arn} --tags Key={tag},Value=VALUE");
                self.of_group(Code::Failed, message, advice)
            }
            _ => self.of_group(Code::Failed, message, "Mend what the message names, and check again"),
        })
    }

    /// Addresses that can't become targets.
    fn of_answer(&self, hostname: &Hostname, addresses: &BTreeSet<IpAddr>, findings: &mut Vec<Finding>) {
        let refused = addresses.iter().filter_map(|address| Some((*address, self.allowed.refusal(*address)?)));
        let (public, others): (Vec<_>, Vec<_>) = refused.partition(|(address, _)| is_public(*address));
        for (code, refused) in [(Code::PublicAddress, public), (Code::RefusedAddress, others)] {
            let Some((first, reason)) = refused.first() else { continue };
            let addresses = list(refused.iter().map(|(address, _)| address));
            let message = format!("DNS gives {hostname} {addresses}, which may not be a target: {reason}");
            let advice = match code {
                Code::PublicAddress => {
                    format!("{RUN_IN_THE_VPC} (template: parameters VpcId, FunctionSubnetIds and AllowedCidrs)")
                }
                _ if is_nat64(*first) => ADVICE_ON_DNS64.to_owned(),
                _ => format!(
                    "If it is the database's, add its network to ALLOWED_CIDRS, which is {} (template: parameter \
                     AllowedCidrs); if not, correct the DNS record",
                    self.allowed
                ),
            };
            findings.push(Finding::new(code, hostname, message, advice));
        }
    }

    /// Names that are not what their bindings say.
    fn of_names(&self, findings: &mut Vec<Finding>) {
        for hostname in &self.report.rotating {
            let message = format!("the answers of {hostname} rotate: addresses go and come back");
            let advice = "State `deregister_after_seconds` in its binding: 300 where an answer holds some of its \
                          addresses, 0 where it holds all";
            findings.push(Finding::new(Code::RotatingName, hostname, message, advice));
        }
        for HostnameSettings { hostname, kind, .. } in &self.report.kinds {
            // A load balancer's answer of fewer addresses than it can hold does hold all.
            let holds_all = *kind == HostnameKind::LoadBalancer
                && self.report.answers.get(hostname).is_some_and(|addresses| addresses.len() < LARGE_ANSWER);
            let stated = match (self.group.lookups.get(hostname), self.group.deregister_after_seconds) {
                _ if kind.lookups() == 1 || holds_all => continue,
                (Some(1), Some(0)) => "`lookups` 1 and `deregister_after_seconds` 0",
                (Some(1), _) => "`lookups` 1",
                (_, Some(0)) => "`deregister_after_seconds` 0",
                _ => continue,
            };
            let message = format!(
                "an answer of {hostname} holds some of its addresses, and {stated} takes it for all of them: live targets \
                 come and go"
            );
            findings.push(Finding::new(Code::Flapping, hostname, message, "Leave that out of its binding"));
        }
    }

    fn of_step(&self) -> Option<Finding> {
        let lists = [("register", &self.report.registered), ("deregister", &self.report.deregistered)];
        let changes = lists.into_iter().filter(|(_, targets)| !targets.is_empty());
        let changes: Vec<_> = changes.map(|(verb, targets)| format!("{verb} {}", list(targets))).collect();
        let message = format!("a run would {} now", changes.join(" and "));
        (!changes.is_empty()).then(|| self.of_group(Code::OutOfStep, message, self.run_it()))
    }

    /// Targets that stay although DNS no longer gives them. Others' are as they should be, and what DNS fails to give or
    /// gives in vain has a finding of its own.
    fn of_held(&self, findings: &mut Vec<Finding>) {
        let is_told =
            |reason| matches!(reason, HoldReason::Foreign | HoldReason::RefusedAddress | HoldReason::Unresolved);
        for held in self.report.held.iter().filter(|held| !is_told(held.reason)) {
            let (Target { address, port }, arn) = (held.target, self.arn());
            let message = format!("DNS no longer gives {}, and it stays: {}", held.target, held.reason.as_str());
            let advice = format!(
                "If it has to go now: aws elbv2 deregister-targets --target-group-arn {arn} --targets Id={address},Port={port}"
            );
            findings.push(Finding::new(Code::MissingTarget, held.target, message, advice));
        }
    }

    /// A run of this target group alone, by the bindings that were checked.
    fn run_it(&self) -> String {
        let function = if self.function.is_empty() { "FUNCTION" } else { self.function };
        let group = self.group;
        let bindings = group.members.iter().map(|(hostname, port)| {
            let ownership = Some(group.ownership).filter(|ownership| *ownership != Ownership::default());
            let fields = [
                ("hostname", json!(hostname)),
                ("target_group_arn", json!(group.arn)),
                ("port", json!(port)),
                ("deregister_after_seconds", json!(group.deregister_after_seconds)),
                ("ownership", json!(ownership)),
                ("lookups", json!(group.lookups.get(hostname))),
            ];
            fields.into_iter().filter(|(_, value)| !value.is_null()).collect()
        });
        let payload = json!({ "bindings": bindings.collect::<Vec<BTreeMap<_, _>>>() });
        format!(
            "Run the function for this target group: aws lambda invoke --function-name {function} --cli-binary-format \
             raw-in-base64-out --payload '{payload}' /dev/stdout"
        )
    }
}

/// A call that failed; `subject` is what it was about.
pub fn of_call(subject: &str, error: &ElbError) -> Finding {
    let advice = match error.kind {
        ElbErrorKind::Denied => {
            let action = action(error.operation);
            let message = format!("the function's role may not call {action}. {}", error.problem);
            let advice = format!("Allow {action} on `*` in the role's policy");
            return Finding::new(Code::Permission, subject, message, advice);
        }
        ElbErrorKind::Throttled => "Check again in a minute, or fewer target groups at once: name them in `bindings`",
        ElbErrorKind::TimedOut => "Give the function a way to AWS: NAT, or an interface endpoint for the service",
        ElbErrorKind::Unavailable => "Check again in some minutes: it is AWS itself that fails",
        _ => "Mend what AWS names, and check again",
    };
    Finding::new(Code::Failed, subject, error.to_string(), advice)
}

fn advice_on_dns(hostname: &Hostname, error: &ResolveError) -> String {
    let Some((server, failure)) = error.failures.last() else {
        return "Check again: there was no time to ask a name server".to_owned();
    };
    match failure {
        DnsFailure::NxDomain => format!(
            "If `dig {hostname}` finds it in the database's VPC, run the function there (template: parameters VpcId and \
             FunctionSubnetIds); if not, correct the hostname (parameter Hostname)"
        ),
        DnsFailure::NoData(_) => format!(
            "Bind a target group of the other address family (template: parameter TargetGroupArn), or a name that has such \
             a record: dig {hostname} A; dig {hostname} AAAA"
        ),
        _ => {
            let (address, port) = (server.ip(), server.port());
            format!(
                "Let the function reach {server} by UDP and TCP, find out what it answers (dig @{address} -p {port} \
                 {hostname}), or name another one in DNS_SERVERS (template: parameter DnsServers)"
            )
        }
    }
}

const ADVICE_ON_DNS64: &str = "The name has no IPv6 address: bind it to a target group of IPv4 (template: parameter \
     TargetGroupArn), or give the database an IPv6 address";

const MORE_TIME: &str = "Check again, or fewer target groups at once: name them in `bindings`. If it stays so, give the \
     function a longer time-out";
