//! The nouns of Elastic Load Balancing that the plan speaks of: target groups, targets and their states.

use std::net::{IpAddr, SocketAddr};
use std::{fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

/// A target: the pair (address, port), written `10.0.1.10:5432` or `[fd00::10]:5432`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Target {
    pub address: IpAddr,
    pub port: NonZeroU16,
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port.get()).fmt(formatter)
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A target that DescribeTargetHealth lists, with what it says of it: a reason, with its description, where it is not
/// healthy. Id and zone are kept as they are shown, and sent back when it is deregistered.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[allow(missing_docs, reason = "AWS has the words")]
pub struct RegisteredTarget {
    pub target: Target,
    pub id: String,
    pub availability_zone: Option<String>,
    pub state: TargetState,
    pub reason: String,
    pub description: String,
    /// The port that health checks go to.
    pub check_port: NonZeroU16,
}

impl RegisteredTarget {
    /// A target that was registered just now.
    pub fn new(target: Target) -> Self {
        let (id, state) = (target.address.to_string(), TargetState::Initial);
        let (reason, description) = Default::default();
        Self { target, id, availability_zone: None, state, reason, description, check_port: target.port }
    }
}

/// What never changes about a target group, and so is read once in an execution environment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Facts {
    pub port: NonZeroU16,
    pub family: IpFamily,
}

/// What the plan needs to know of a target's health
/// ([TargetHealth](https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetHealth.html)).
#[allow(missing_docs, reason = "AWS has the words")]
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum TargetState {
    /// It was deregistered, and stays listed until the deregistration delay is over.
    Draining,
    Healthy,
    /// It was registered moments ago.
    Initial,
    /// Any other state. All of them are registered, `unhealthy.draining` too.
    Other,
    Unhealthy,
}

impl TargetState {
    /// Whether it is that of a registered target. Should DNS return to a draining one, it is registered again.
    pub fn is_registered(self) -> bool {
        self != Self::Draining
    }
}

/// The address family of a target group; a group never mixes the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IpFamily {
    /// `ipv4`: A records.
    V4,
    /// `ipv6`: AAAA records.
    V6,
}

impl IpFamily {
    /// The type of the DNS records that hold addresses of this family.
    pub fn record_type(self) -> &'static str {
        match self {
            Self::V4 => "A",
            Self::V6 => "AAAA",
        }
    }
}

/// The ARN of a target group, in any partition.
#[derive(Clone, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String")]
pub struct TargetGroupArn(String);

impl TargetGroupArn {
    /// The whole ARN.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The Region that the target group lives in.
    pub fn region(&self) -> &str {
        self.0.split(':').nth(3).unwrap_or_default()
    }

    /// `targetgroup/NAME/ID`: the value of CloudWatch's `TargetGroup` dimension.
    pub fn dimension(&self) -> &str {
        self.0.splitn(6, ':').nth(5).unwrap_or_default()
    }
}

impl fmt::Display for TargetGroupArn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl TryFrom<String> for TargetGroupArn {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if is_of_target_group(&text).unwrap_or_default() {
            return Ok(Self(text));
        }
        Err(format!(
            "`{text}` is not the ARN of a target group: expected \
             arn:PARTITION:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID"
        ))
    }
}

impl FromStr for TargetGroupArn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

fn is_of_target_group(text: &str) -> Option<bool> {
    let mut parts = text.splitn(6, ':');
    let mut part = || parts.next();
    let (arn, partition, service, region, account) = (part()?, part()?, part()?, part()?, part()?);
    let (name, id) = part()?.strip_prefix("targetgroup/")?.split_once('/')?;
    let made_of = |part: &str, allowed: fn(char) -> bool| !part.is_empty() && part.chars().all(allowed);
    let lower_case = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    Some(
        (arn, service) == ("arn", "elasticloadbalancing")
            && (partition == "aws" || partition.starts_with("aws-"))
            && made_of(partition, lower_case)
            && made_of(region, lower_case)
            && account.len() == 12
            && made_of(account, |c| c.is_ascii_digit())
            && name.len() <= 32
            && made_of(name, |c| c.is_ascii_alphanumeric() || c == '-')
            && made_of(id, |c| c.is_ascii_alphanumeric()),
    )
}
