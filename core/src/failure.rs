//! What goes wrong, as far as it decides anything or reaches the user. Each failure keeps its type up to the reply.

use std::{fmt, io, net::SocketAddr, time::Duration};

use crate::{hostname::Hostname, target::Target};

/// Why a target group is not in step.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum Failure {
    #[error(transparent)]
    Elb(#[from] ElbError),
    #[error(
        "{waiting} targets wait for room: the quota of targets is used up (in Service Quotas: Targets per Target Group, and \
         Targets per Network Load Balancer), and {draining} targets are draining, which count until they are gone. {error}"
    )]
    Full { error: ElbError, waiting: usize, draining: usize },
    #[error(
        "no room in the target group's tags, of which it can have {most}, to remember {left_out} targets, which stay for \
         now: remove tags, or bind the hostnames to several target groups"
    )]
    NoRoomInTags { left_out: usize, most: usize },
    #[error("{hostname}: no address of the answer can be registered ({refusals}). {advice}")]
    NoUsableAddress { hostname: Hostname, refusals: String, advice: &'static str },
    #[error("{operation} refused {target}: {reason}")]
    Refused { operation: &'static str, target: Target, reason: String },
    #[error("{}", one_line(&format!("the tag {tag} is `{value}`: {problem}")))]
    Tag { tag: String, value: String, problem: String },
    #[error("given up shortly before the deadline, still waiting for {0}")]
    Deadline(String),
    #[error("{hostname}: {error}")]
    Unresolved { hostname: Hostname, error: ResolveError },
}

impl Failure {
    /// A stable word for it: the `kind` of the reply and of the log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Elb(error) | Self::Full { error, .. } => match error.kind {
                ElbErrorKind::Denied => "elb_denied",
                ElbErrorKind::Failed => "elb_failed",
                ElbErrorKind::NotFound => "elb_not_found",
                ElbErrorKind::NotIp => "not_ip",
                ElbErrorKind::OutsideVpc | ElbErrorKind::TargetRefused => "refused",
                ElbErrorKind::QuotaReached => "quota",
                ElbErrorKind::Throttled => "elb_throttled",
                ElbErrorKind::TimedOut => "elb_timeout",
                ElbErrorKind::Unavailable => "elb_unavailable",
            },
            Self::NoRoomInTags { .. } => "state",
            Self::NoUsableAddress { .. } | Self::Refused { .. } => "refused",
            Self::Tag { .. } => "tag",
            Self::Unresolved { error, .. } => {
                error.failures.last().map_or("dns_timeout", |(_, failure)| failure.kind())
            }
        }
    }

    /// Whether AWS says that there is no such target group.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Elb(error) if error.kind == ElbErrorKind::NotFound)
    }

    /// Whether it is DNS that gives nothing to register.
    pub fn is_of_dns(&self) -> bool {
        matches!(self, Self::Unresolved { .. } | Self::NoUsableAddress { .. })
    }

    /// Whether it was we who had no time left, so that nothing is known of the others.
    pub fn is_out_of_time(&self) -> bool {
        match self {
            Self::Deadline(_) => true,
            Self::Unresolved { error, .. } => error.is_out_of_time(),
            _ => false,
        }
    }
}

/// A call of ELBv2, or of the Resource Groups Tagging API, that failed: with AWS's words, and what to do.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{operation}: {problem}")]
#[allow(missing_docs, reason = "the names say it")]
pub struct ElbError {
    pub operation: &'static str,
    pub kind: ElbErrorKind,
    pub problem: String,
}

/// What a failed call means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ElbErrorKind {
    Denied,
    /// Anything else.
    Failed,
    NotFound,
    /// The target group is not of type `ip`.
    NotIp,
    /// A target lies outside the VPC, and needs an Availability Zone.
    OutsideVpc,
    QuotaReached,
    TargetRefused,
    Throttled,
    TimedOut,
    /// AWS itself can't tell: `HealthUnavailable`, or another HTTP status of 500 or more.
    Unavailable,
}

/// Why a hostname has no answer: what each name server said that was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct ResolveError {
    /// Each server with what it did instead of answering.
    pub failures: Vec<(SocketAddr, DnsFailure)>,
}

impl ResolveError {
    /// Whether it was we who had no time left, so that nothing is known of the name.
    pub fn is_out_of_time(&self) -> bool {
        self.failures.is_empty() || self.failures.iter().any(|(_, failure)| matches!(failure, DnsFailure::OutOfTime(_)))
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.failures.is_empty() {
            return formatter.write_str("time-out: no time left to ask a name server");
        }
        let failures = self.failures.iter().map(|(server, failure)| format!("{failure} (name server {server})"));
        formatter.write_str(&list(failures))
    }
}

/// What a name server did instead of answering.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each says what it is")]
pub enum DnsFailure {
    #[error("no address: the CNAMEs of the name form a loop or too long a chain")]
    CnameChain,
    #[error("malformed reply: {0}")]
    Malformed(String),
    #[error("no data: the name has no {0} record")]
    NoData(&'static str),
    #[error("response code {0}: the server does not understand the query")]
    NotUnderstood(&'static str),
    #[error("NXDOMAIN: there is no such name")]
    NxDomain,
    #[error("time-out: no reply after {:.1} s, and no time left to wait on", .0.as_secs_f32())]
    OutOfTime(Duration),
    #[error("REFUSED: the server does not answer this client")]
    Refused,
    #[error("response code {0}")]
    ResponseCode(String),
    #[error("SERVFAIL: the server could not find out")]
    ServFail,
    #[error("time-out: no reply within {:.1} s", .0.as_secs_f32())]
    TimeOut(Duration),
    #[error("transport: {0}")]
    Transport(String),
    #[error("truncated: the reply needs TCP, and none came over TCP")]
    Truncated,
}

impl From<io::Error> for DnsFailure {
    fn from(error: io::Error) -> Self {
        Self::Transport(error.to_string())
    }
}

impl DnsFailure {
    /// Whether another server, asked the same, would say the same.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::CnameChain | Self::NoData(_) | Self::NxDomain)
    }

    /// Whether there was no reply that can be used.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::OutOfTime(_) | Self::TimeOut(_) | Self::Transport(_) | Self::Truncated)
    }

    /// Whether the same server may answer when it is asked again: a datagram was lost, perhaps.
    pub fn may_pass(&self) -> bool {
        self.is_silence() || *self == Self::ServFail
    }

    /// Whether the server may answer when it is asked in another way: without EDNS, or by TCP.
    pub fn is_of_the_way(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::NotUnderstood(_) | Self::Transport(_) | Self::Truncated)
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "dns_malformed",
            Self::CnameChain | Self::NoData(_) => "dns_no_data",
            Self::NxDomain => "dns_nxdomain",
            Self::Refused => "dns_refused",
            Self::NotUnderstood(_) | Self::ResponseCode(_) => "dns_response_code",
            Self::ServFail => "dns_servfail",
            Self::OutOfTime(_) | Self::TimeOut(_) => "dns_timeout",
            Self::Transport(_) | Self::Truncated => "dns_transport",
        }
    }
}

/// `text` with its control characters escaped: a message that repeats what an event or a variable holds must not let it
/// begin a line of its own in the log.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() }).collect()
}

/// The first of many, for a message.
pub(crate) fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut items = items.into_iter();
    let mut names: Vec<_> = items.by_ref().take(MOST_NAMED).map(|item| item.to_string()).collect();
    let more = items.count();
    names.extend((more > 0).then(|| format!("and {more} more")));
    names.join(", ")
}

/// An operation as IAM names it.
pub fn action(operation: &str) -> String {
    let service = if operation == GET_RESOURCES { "tag" } else { "elasticloadbalancing" };
    format!("{service}:{operation}")
}

/// The one operation that is not of ELBv2, but of the Resource Groups Tagging API.
pub const GET_RESOURCES: &str = "GetResources";

pub(crate) const RUN_IN_THE_VPC: &str = "If this is a publicly accessible database: its name resolves to its private \
     address only inside its VPC, so the function must run in that VPC. If the VPC itself has such a range: state \
     ALLOWED_CIDRS with that range in it";

/// Addresses, targets and so on that a message names, of the thousands that there may be.
const MOST_NAMED: usize = 10;
