//! What a check finds: a code, what is so, and one thing to do.

use serde::{Serialize, Serializer};

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

    /// The same where it matters less, or more, than its code says.
    #[must_use]
    pub fn with(self, severity: Severity) -> Self {
        Self { severity, ..self }
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

/// Makes [`Code`] of the table below.
macro_rules! codes {
    ($($(#[$doc:meta])* $code:ident = $name:literal, $severity:ident;)*) => {
        /// What there is to find, in the order of the reply.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum Code { $($(#[$doc])* $code),* }

        impl Code {
            /// The name that the reply and the log give it.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code => $name),* }
            }

            /// How much it matters.
            pub fn severity(self) -> Severity {
                match self { $(Self::$code => Severity::$severity),* }
            }
        }
    };
}

codes! {
    /// The function's role lacks an action.
    Permission = "permission", Error;
    /// A run fails for another reason, or a call failed that the check needs.
    Failed = "failed", Error;
    /// The time did not suffice to look at the target group in full.
    NotChecked = "not-checked", Error;
    /// DNS gives nothing.
    Unresolved = "unresolved", Error;
    /// DNS gives an address outside `ALLOWED_CIDRS`.
    RefusedAddress = "refused-address", Error;
    /// DNS gives a public address outside `ALLOWED_CIDRS`.
    PublicAddress = "public-address", Error;
    /// The target group is not of type `ip`.
    TargetType = "target-type", Error;
    /// No load balancer has the group, or no listener forwards to it.
    Unused = "unused", Error;
    /// A load balancer that is no network load balancer.
    LoadBalancerType = "load-balancer-type", Error;
    /// A load balancer that is not active.
    LoadBalancerState = "load-balancer-state", Error;
    /// An internet-facing load balancer.
    Scheme = "scheme", Error;
    /// Not TCP: datagrams, or TLS that the load balancer ends.
    Protocol = "protocol", Error;
    /// Proxy protocol v2 is on.
    ProxyProtocol = "proxy-protocol", Error;
    /// Client IP preservation is on.
    ClientIp = "client-ip", Error;
    /// Inbound rules of security groups apply to PrivateLink traffic.
    SecurityGroupRules = "security-group-rules", Error;
    /// No target is healthy.
    NoHealthyTarget = "no-healthy-target", Error;
    /// A run would register or deregister something now.
    OutOfStep = "out-of-step", Warning;
    /// A target stays that DNS no longer gives.
    MissingTarget = "missing-target", Warning;
    /// A name of samples is bound as if each answer held all.
    Flapping = "flapping", Warning;
    /// A name was seen to rotate.
    RotatingName = "rotating-name", Warning;
    /// A target is not healthy, another is.
    UnhealthyTarget = "unhealthy-target", Warning;
    /// A target's zone is not enabled at the load balancer.
    ZoneNotEnabled = "zone-not-enabled", Warning;
    /// The health check is not by TCP on the traffic port.
    HealthCheck = "health-check", Warning;
    /// Cross-zone load balancing is off.
    CrossZone = "cross-zone", Warning;
    /// Stickiness is on.
    Stickiness = "stickiness", Warning;
    /// Connections to a target that goes live on for long.
    SlowDrain = "slow-drain", Info;
    /// A dead target is found late.
    SlowHealthCheck = "slow-health-check", Info;
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
