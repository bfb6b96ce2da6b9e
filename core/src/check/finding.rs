//! What a check finds: a code, what is so, and one thing to do.

use serde::Serialize;

/// Something that a check found: what is so about an ARN, a hostname or a target, and one thing to do. The worst comes first.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[allow(missing_docs, reason = "docs/reference.md has the fields")]
pub struct Finding {
    pub severity: Severity,
    pub code: Code,
    pub subject: String,
    pub message: String,
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
    ($($severity:ident: $($code:ident),*;)*) => {
        /// What there is to find, in the order of the reply; docs/reference.md says where each is found.
        #[allow(missing_docs, reason = "docs/reference.md has them")]
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Code { $($($code,)*)* }

        impl Code {
            /// How much it matters, unless the finding says otherwise.
            pub fn severity(self) -> Severity {
                match self { $($(Self::$code)|* => Severity::$severity,)* }
            }
        }
    };
}

codes! {
    Error: Permission, Failed, NotChecked, Unresolved, RefusedAddress, PublicAddress, TargetType, Unused,
        LoadBalancerType, LoadBalancerState, Scheme, Protocol, ProxyProtocol, ClientIp, SecurityGroupRules,
        NoHealthyTarget;
    Warning: OutOfStep, MissingTarget, Flapping, RotatingName, UnhealthyTarget, ZoneNotEnabled, HealthCheck, CrossZone,
        Stickiness;
    Info: SlowDrain, SlowHealthCheck;
}
