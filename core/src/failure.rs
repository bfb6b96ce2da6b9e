//! What goes wrong, as far as it decides anything or reaches the user. Each failure keeps its type up to the reply.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::{hostname::Hostname, target::Target};

/// Why a target group is not in step.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Failure {
    /// An ELBv2 call failed.
    #[error(transparent)]
    Elb(#[from] ElbError),
    /// The quota of targets is used up.
    #[error(
        "{waiting} targets wait for room: the quota of targets is used up (in Service Quotas: Targets per Target Group, and \
         Targets per Network Load Balancer), and {draining} targets are draining, which count until they are gone. {error}"
    )]
    Full {
        /// AWS's words.
        error: ElbError,
        /// How many targets wait.
        waiting: usize,
        /// How many targets are draining.
        draining: usize,
    },
    /// There is no room in the tags to remember targets.
    #[error(
        "no room in the target group's tags, of which it can have {most}, to remember {left_out} targets, which stay for \
         now: remove tags, or bind the hostnames to several target groups"
    )]
    NoRoomInTags {
        /// How many targets.
        left_out: usize,
        /// How many tags a target group can have.
        most: usize,
    },
    /// A name whose addresses can't be registered.
    #[error("{hostname}: no address of the answer can be registered ({refusals}){}", if *.is_public { RUN_IN_THE_VPC } else { "" })]
    NoUsableAddress {
        /// The name.
        hostname: Hostname,
        /// Some of the addresses, each with the reason.
        refusals: String,
        /// Whether a public address is among them.
        is_public: bool,
    },
    /// AWS refused one target.
    #[error("{operation} refused {target}: {reason}")]
    Refused {
        /// `RegisterTargets` or `DeregisterTargets`.
        operation: &'static str,
        /// The target.
        target: Target,
        /// AWS's words.
        reason: String,
    },
    /// A tag of the target group says nothing that can be bound.
    #[error("{}", one_line(&format!("the tag {tag} is `{value}`: {problem}")))]
    Tag {
        /// Its key.
        tag: String,
        /// Its value.
        value: String,
        /// What is wrong with it, and what is accepted.
        problem: String,
    },
    /// Our time ran out.
    #[error("given up shortly before the deadline, still waiting for {0}")]
    Deadline(String),
    /// A name did not resolve.
    #[error("{hostname}: {error}")]
    Unresolved {
        /// The name.
        hostname: Hostname,
        /// Why.
        error: ResolveError,
    },
}

impl Failure {
    /// A stable word for it: the `kind` of the reply and of the log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Deadline(_) => "deadline",
            Self::Elb(error) => error.kind.as_str(),
            Self::Full { error, .. } => error.kind.as_str(),
            Self::NoRoomInTags { .. } => "state",
            Self::NoUsableAddress { .. } | Self::Refused { .. } => "refused",
            Self::Tag { .. } => "tag",
            Self::Unresolved { error, .. } => error.kind(),
        }
    }

    /// Whether AWS says that there is no such target group.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Elb(error) if error.kind == ElbErrorKind::NotFound)
    }

    /// Whether another attempt would fail like this one.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Elb(error) if error.kind == ElbErrorKind::NotIp)
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

/// Target groups could not be found by their tags. No one group fails by it, but the run.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("target groups could not be found by their tags: {0}")]
pub struct Undiscovered(pub ElbError);

impl Undiscovered {
    /// A stable word for it.
    pub const KIND: &str = "discovery";
}

/// A call of ELBv2, or of the Resource Groups Tagging API, that failed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{operation}: {problem}")]
pub struct ElbError {
    /// The action.
    pub operation: &'static str,
    /// What it means.
    pub kind: ElbErrorKind,
    /// AWS's words, and what to do.
    pub problem: String,
}

/// What a failed call means.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ElbErrorKind {
    /// The function's role may not do that.
    Denied,
    /// Anything else.
    Failed,
    /// There is no such target group or load balancer.
    NotFound,
    /// The target group is not of type `ip`.
    NotIp,
    /// A target lies outside the VPC, and needs an Availability Zone.
    OutsideVpc,
    /// The target group is full.
    QuotaReached,
    /// One target is not accepted.
    TargetRefused,
    /// The request quota of the account is used up.
    Throttled,
    /// No reply came in time.
    TimedOut,
    /// AWS itself can't tell: `HealthUnavailable`, or another HTTP status of 500 or more.
    Unavailable,
}

impl ElbErrorKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "elb_denied",
            Self::Failed => "elb_failed",
            Self::NotFound => "elb_not_found",
            Self::NotIp => "not_ip",
            Self::OutsideVpc | Self::TargetRefused => "refused",
            Self::QuotaReached => "quota",
            Self::Throttled => "elb_throttled",
            Self::TimedOut => "elb_timeout",
            Self::Unavailable => "elb_unavailable",
        }
    }
}

impl ElbError {
    /// The action as IAM names it.
    pub fn action(&self) -> String {
        action(self.operation)
    }

    /// The addresses that AWS's words name.
    pub fn named_addresses(&self) -> BTreeSet<IpAddr> {
        self.problem
            .split(|c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':'))
            .filter_map(|word| word.trim_end_matches(['.', ':']).parse().ok())
            .collect()
    }
}

/// Why a hostname has no answer: what each name server said that was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct ResolveError {
    /// Each server with what it did instead of answering.
    pub failures: Vec<(SocketAddr, DnsFailure)>,
}

impl ResolveError {
    /// Whether the name exists and only lacks a record of the family.
    pub fn is_no_data(&self) -> bool {
        self.failures.iter().any(|(_, failure)| matches!(failure, DnsFailure::NoData(_)))
    }

    /// Whether it was we who had no time left, so that nothing is known of the name.
    pub fn is_out_of_time(&self) -> bool {
        self.failures.is_empty() || self.failures.iter().any(|(_, failure)| matches!(failure, DnsFailure::OutOfTime(_)))
    }

    fn kind(&self) -> &'static str {
        self.failures.last().map_or("dns_timeout", |(_, failure)| failure.kind())
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.failures.is_empty() {
            return formatter.write_str("time-out: no time left to ask a name server");
        }
        for (position, (server, failure)) in self.failures.iter().enumerate() {
            let separator = if position == 0 { "" } else { ", " };
            write!(formatter, "{separator}{failure} (name server {server})")?;
        }
        Ok(())
    }
}

/// What a name server did instead of answering.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DnsFailure {
    /// The name's CNAMEs lead in a circle, or on and on.
    #[error("no address: the CNAMEs of the name form a loop or too long a chain")]
    CnameChain,
    /// A reply that can't be read, or that answers another question.
    #[error("malformed reply: {0}")]
    Malformed(String),
    /// The name exists, but has no address of the family.
    #[error("no data: the name has no {0} record")]
    NoData(&'static str),
    /// It does not know this kind of query.
    #[error("response code {0}: the server does not understand the query")]
    NotUnderstood(&'static str),
    /// There is no such name.
    #[error("NXDOMAIN: there is no such name")]
    NxDomain,
    /// No reply came yet, and we could not wait any longer.
    #[error("time-out: no reply after {:.1} s, and no time left to wait on", .0.as_secs_f32())]
    OutOfTime(Duration),
    /// It is not willing to answer.
    #[error("REFUSED: the server does not answer this client")]
    Refused,
    /// Another response code.
    #[error("response code {0}")]
    ResponseCode(String),
    /// It could not find out.
    #[error("SERVFAIL: the server could not find out")]
    ServFail,
    /// No reply came.
    #[error("time-out: no reply within {:.1} s", .0.as_secs_f32())]
    TimeOut(Duration),
    /// It could not be reached.
    #[error("transport: {0}")]
    Transport(String),
    /// A datagram has no room for the reply, and TCP did not bring it.
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

/// An operation as IAM names it.
pub fn action(operation: &str) -> String {
    let service = if operation == GET_RESOURCES { "tag" } else { "elasticloadbalancing" };
    format!("{service}:{operation}")
}

/// The one operation that is not of ELBv2, but of the Resource Groups Tagging API.
pub const GET_RESOURCES: &str = "GetResources";

const RUN_IN_THE_VPC: &str = ". If this is a publicly accessible database: its name resolves to its private address \
     only inside its VPC, so the function must run in that VPC. If the VPC itself has such a range: state ALLOWED_CIDRS \
     with that range in it";
