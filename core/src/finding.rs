//! What a check finds: a code, what is so, and one thing to do.

use serde::Serialize;

/// Something that a check found. The worst comes first.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A stable word for it.
    pub code: Code,
    /// What it is about: an ARN, a hostname or a target.
    pub subject: String,
    /// What is so.
    pub message: String,
    /// One thing to do about it.
    pub advice: String,
}

impl Finding {
    /// A finding of the severity that its code has.
    pub fn new(code: Code, subject: impl ToString, message: impl Into<String>, advice: impl Into<String>) -> Self {
        let (message, advice) = (message.into(), advice.into());
        Self { severity: code.severity(), code, subject: subject.to_string(), message, advice }
    }
}

/// How much a finding matters, the worst first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Consumers can't connect, or not to what they should.
    Error,
    /// It works, but not always or not well.
    Warning,
    /// It works.
    Info,
}

/// What there is to find, in the order of the reply.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Code {
    /// The function's role lacks an action.
    Permission,
    /// A run fails for another reason, or a call failed that the check needs.
    Failed,
    /// DNS gives nothing.
    Unresolved,
    /// DNS gives an address outside `ALLOWED_CIDRS`.
    RefusedAddress,
    /// DNS gives a public address.
    PublicAddress,
    /// The target group is not of type `ip`.
    TargetType,
    /// No load balancer has the group, or no listener forwards to it.
    Unused,
    /// A load balancer that is no network load balancer.
    LoadBalancerType,
    /// An internet-facing load balancer.
    Scheme,
    /// Proxy protocol v2 is on.
    ProxyProtocol,
    /// Client IP preservation is on.
    ClientIp,
    /// Inbound rules of security groups apply to PrivateLink traffic.
    SecurityGroupRules,
    /// No target is healthy.
    NoHealthyTarget,
    /// A run would register or deregister something now.
    OutOfStep,
    /// A target is not healthy, another is.
    UnhealthyTarget,
    /// A target's zone is not enabled at the load balancer.
    ZoneNotEnabled,
    /// Cross-zone load balancing is off.
    CrossZone,
    /// Stickiness is on.
    Stickiness,
    /// Connections to a target that goes live on for long.
    SlowDrain,
    /// A dead target is found late.
    SlowHealthCheck,
}

impl Code {
    /// How much it matters.
    pub fn severity(self) -> Severity {
        match self {
            Self::SlowDrain | Self::SlowHealthCheck => Severity::Info,
            Self::CrossZone | Self::OutOfStep | Self::Stickiness | Self::UnhealthyTarget | Self::ZoneNotEnabled => {
                Severity::Warning
            }
            _ => Severity::Error,
        }
    }

    /// The name that the reply and the log give it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientIp => "client-ip",
            Self::CrossZone => "cross-zone",
            Self::Failed => "failed",
            Self::LoadBalancerType => "load-balancer-type",
            Self::NoHealthyTarget => "no-healthy-target",
            Self::OutOfStep => "out-of-step",
            Self::Permission => "permission",
            Self::ProxyProtocol => "proxy-protocol",
            Self::PublicAddress => "public-address",
            Self::RefusedAddress => "refused-address",
            Self::Scheme => "scheme",
            Self::SecurityGroupRules => "security-group-rules",
            Self::SlowDrain => "slow-drain",
            Self::SlowHealthCheck => "slow-health-check",
            Self::Stickiness => "stickiness",
            Self::TargetType => "target-type",
            Self::UnhealthyTarget => "unhealthy-target",
            Self::Unresolved => "unresolved",
            Self::Unused => "unused",
            Self::ZoneNotEnabled => "zone-not-enabled",
        }
    }
}

impl Serialize for Code {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
