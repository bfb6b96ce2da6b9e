//! What a check finds: a code, what is so, and one thing to do.

use serde::{Serialize, Serializer};

/// Something that a check found. The worst comes first.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A stable word for it.
    pub code: Code,
    /// An ARN, a hostname or a target.
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

/// Makes [`Code`] of the table below.
macro_rules! codes {
    ($($severity:ident: $($code:ident = $name:literal),*;)*) => {
        /// What there is to find, in the order of the reply; docs/reference.md says where each is found.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
        pub enum Code { $($(#[doc = $name] $code,)*)* }

        impl Code {
            /// The name that the reply and the log give it.
            pub fn as_str(self) -> &'static str {
                match self { $($(Self::$code => $name,)*)* }
            }

            /// How much it matters, unless the finding says otherwise.
            pub fn severity(self) -> Severity {
                match self { $($(Self::$code)|* => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    Error: Permission = "permission", Failed = "failed", NotChecked = "not-checked", Unresolved = "unresolved",
        RefusedAddress = "refused-address", PublicAddress = "public-address", TargetType = "target-type",
        Unused = "unused", LoadBalancerType = "load-balancer-type", LoadBalancerState = "load-balancer-state",
        Scheme = "scheme", Protocol = "protocol", ProxyProtocol = "proxy-protocol", ClientIp = "client-ip",
        SecurityGroupRules = "security-group-rules", NoHealthyTarget = "no-healthy-target";
    Warning: OutOfStep = "out-of-step", MissingTarget = "missing-target", Flapping = "flapping",
        RotatingName = "rotating-name", UnhealthyTarget = "unhealthy-target", ZoneNotEnabled = "zone-not-enabled",
        HealthCheck = "health-check", CrossZone = "cross-zone", Stickiness = "stickiness";
    Info: SlowDrain = "slow-drain", SlowHealthCheck = "slow-health-check";
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
