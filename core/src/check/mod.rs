//! The check: what a dry run and the settings of the load balancers tell, turned into findings. Here is why a run fails,
//! what DNS gives, and what a run would do.

pub mod finding;
mod front;
pub mod set_up;
mod targets;

use std::collections::{BTreeMap, BTreeSet};
use std::{fmt::Display, net::IpAddr};

use serde_json::json;

use crate::binding::{Group, Ownership};
use crate::failure::{DnsFailure, ElbError, ElbErrorKind, Failure, GET_RESOURCES, ResolveError, Undiscovered};
use crate::network::{AllowedNetworks, is_nat64, is_public};
use crate::{hostname::Hostname, kind::HostnameKind, plan::HoldReason, report::GroupReport, target::Target};
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
            findings.extend(self.of_answer(hostname, addresses));
        }
        findings.extend(self.of_names());
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

    /// The first of many findings of a code, and how many more there are.
    fn first(&self, code: Code, mut all: impl Iterator<Item = Finding>, findings: &mut Vec<Finding>) {
        findings.extend(all.by_ref().take(MOST_FINDINGS));
        let more = all.count();
        if more > 0 {
            findings.push(self.of_group(
                code,
                format!("so are {more} more targets"),
                "Begin with those that are named",
            ));
        }
    }

    /// Why a run fails.
    fn of_failure(&self, failure: &Failure) -> Option<Finding> {
        let (arn, message) = (self.arn(), failure.to_string());
        Some(match failure {
            // Of such a group the targets have no addresses, and so can't be read.
            Failure::Elb(ElbError { kind: ElbErrorKind::Failed | ElbErrorKind::NotIp, .. }) if self.is_not_ip() => {
                return None;
            }
            Failure::Elb(error) => of_call(arn, error),
            Failure::Unresolved { hostname, error } => {
                Finding::new(Code::Unresolved, hostname, message, advice_on_dns(hostname, error))
            }
            // The answers tell it, where they are known.
            Failure::NoUsableAddress { hostname, .. } if self.report.answers.contains_key(hostname) => return None,
            Failure::NoUsableAddress { hostname, is_public: true, .. } => {
                Finding::new(Code::PublicAddress, hostname, message, ADVICE_ON_PUBLIC)
            }
            Failure::NoUsableAddress { hostname, .. } => {
                Finding::new(Code::RefusedAddress, hostname, message, self.advice_on_networks())
            }
            Failure::Deadline(_) => self.of_group(Code::NotChecked, message, MORE_TIME),
            Failure::Tag { tag, .. } => {
                let advice = format!(
                    "Correct it: aws elbv2 add-tags --resource-arns {arn} --tags Key={tag},Value=VALUE; or take it away: \
                     aws elbv2 remove-tags --resource-arns {arn} --tag-keys {tag}"
                );
                self.of_group(Code::Failed, message, advice)
            }
            _ => self.of_group(Code::Failed, message, "Mend what the message names, and check again"),
        })
    }

    /// Addresses that can't become targets.
    fn of_answer(&self, hostname: &Hostname, addresses: &BTreeSet<IpAddr>) -> impl Iterator<Item = Finding> {
        let refused = addresses.iter().filter_map(|address| Some((address, self.allowed.refusal(*address)?)));
        let (public, refused): (Vec<_>, Vec<_>) = refused.partition(|(address, _)| is_public(**address));
        let find = |code, refused: Vec<(&IpAddr, String)>, advice| {
            let reason = &refused.first()?.1;
            let addresses = list(refused.iter().map(|(address, _)| address));
            let message = format!("DNS gives {hostname} {addresses}, which may not be a target: {reason}");
            Some(Finding::new(code, hostname, message, advice))
        };
        let is_made = refused.first().is_some_and(|(address, _)| is_nat64(**address));
        let advice = if is_made { ADVICE_ON_DNS64.to_owned() } else { self.advice_on_networks() };
        let public = find(Code::PublicAddress, public, ADVICE_ON_PUBLIC.to_owned());
        public.into_iter().chain(find(Code::RefusedAddress, refused, advice))
    }

    fn advice_on_networks(&self) -> String {
        format!(
            "If it is the database's, add its network to ALLOWED_CIDRS, which is {} (template: parameter Settings); if \
             not, correct the DNS record",
            self.allowed
        )
    }

    /// Names that are not what their bindings say.
    fn of_names(&self) -> Vec<Finding> {
        let rotating = self.report.rotating.iter().map(|hostname| {
            let message = format!("the answers of {hostname} rotate: addresses go and come back");
            let advice = "State `deregister_after_seconds` in its binding: 300 where an answer holds some of its \
                          addresses, 0 where it holds all";
            Finding::new(Code::RotatingName, hostname, message, advice)
        });
        let flapping = self.report.kinds.iter().filter_map(|settings| {
            let (hostname, kind) = (&settings.hostname, settings.kind);
            // A load balancer's answer of fewer addresses than it can hold does hold all.
            let holds_all = kind == HostnameKind::LoadBalancer
                && self.report.answers.get(hostname).is_some_and(|addresses| addresses.len() < LARGEST_ANSWER);
            let stated = match (self.group.lookups.get(hostname), self.group.deregister_after_seconds) {
                _ if kind.lookups() == 1 || holds_all => return None,
                (Some(1), Some(0)) => "`lookups` 1 and `deregister_after_seconds` 0",
                (Some(1), _) => "`lookups` 1",
                (_, Some(0)) => "`deregister_after_seconds` 0",
                _ => return None,
            };
            let message = format!(
                "an answer of {hostname} holds some of its addresses, and {stated} takes it for all of them: live targets \
                 come and go"
            );
            Some(Finding::new(Code::Flapping, hostname, message, "Leave that out of its binding"))
        });
        rotating.chain(flapping).collect()
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
        let missing = self.report.held.iter().filter(|held| !is_told(held.reason)).map(|held| {
            let (Target { address, port }, arn) = (held.target, self.arn());
            let message = format!("DNS no longer gives {}, and it stays: {}", held.target, held.reason.as_str());
            let advice = format!(
                "If it has to go now: aws elbv2 deregister-targets --target-group-arn {arn} --targets Id={address},Port={port}"
            );
            Finding::new(Code::MissingTarget, held.target, message, advice)
        });
        self.first(Code::MissingTarget, missing, findings);
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
            let advice =
                format!("Allow {action} on `*` in the role's policy; `make policies` prints all that it needs");
            return Finding::new(Code::Permission, subject, message, advice);
        }
        ElbErrorKind::Throttled => "Check again in a minute, or fewer target groups at once: name them in `bindings`",
        ElbErrorKind::TimedOut => {
            "Give the function a way to AWS: NAT, or the endpoint (template: parameter CreateInterfaceEndpoints)"
        }
        ElbErrorKind::Unavailable => "Check again in some minutes: it is AWS itself that fails",
        _ if error.operation == GET_RESOURCES => {
            "Mend what AWS names, and check again. What there is, tells aws resourcegroupstaggingapi get-resources"
        }
        _ => "Mend what AWS names, and check again. What there is, tells aws elbv2 describe-target-groups",
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
            "Bind a target group of the other address family (template: parameter IpAddressType), or a name that has such \
             a record: dig {hostname} A; dig {hostname} AAAA"
        ),
        _ => {
            let (address, port) = (server.ip(), server.port());
            let cause = match failure.is_silence() {
                true => format!("Let the function reach {server} on port {port} of UDP and TCP"),
                false => format!("Find out why {server} does not answer (dig @{address} -p {port} {hostname})"),
            };
            format!("{cause}, or name another server in DNS_SERVERS (template: parameter Settings)")
        }
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

const ADVICE_ON_PUBLIC: &str = "If it is a publicly accessible database, run the function in its VPC (template: \
     parameters VpcId and FunctionSubnetIds). If the VPC itself has such a range, state ALLOWED_CIDRS with that range in \
     it (template: parameter Settings)";

const ADVICE_ON_DNS64: &str = "The name has no IPv6 address: bind it to a target group of IPv4 (template: parameter \
     IpAddressType), or give the database an IPv6 address";

const MORE_TIME: &str = "Check again, or fewer target groups at once: name them in `bindings`. If it stays so, give the \
     function more time (template: WATCH_SECONDS in parameter Settings)";

/// Addresses in an answer of a load balancer's name, at most.
const LARGEST_ANSWER: usize = 8;

/// Targets with a finding of their own, of the thousand that a group may have.
const MOST_FINDINGS: usize = 20;

/// Targets, addresses and so on that a message names, of the thousands that there may be.
const MOST_NAMED: usize = 10;
