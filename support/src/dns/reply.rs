//! What a name server may be told to say.

use std::{
    collections::VecDeque,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use hickory_proto::{
    op::Message,
    rr::{Name, RData, Record, rdata::CNAME},
};

/// What the server does with one kind of query.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Records of the name that was asked (or its CNAME's target), with the TTL of [`FakeDns::set_ttl`].
    Addresses(Vec<IpAddr>),
    /// The reply comes late. TCP queries of one connection wait for each other.
    Delayed(Duration, Box<Self>),
    /// The name's address is 10.0.0.1, but for what the test makes of the message.
    Edited(fn(&mut Message)),
    /// One reply after the other, and then from the first one again. Not to be put into another reply.
    InTurn(VecDeque<Self>),
    /// The name exists, but not with this type; a negative TTL brings a SOA record.
    NoData {
        negative_ttl: Option<u32>,
    },
    /// The name does not exist; a negative TTL brings a SOA record.
    NxDomain {
        negative_ttl: Option<u32>,
    },
    /// Messages of the test's choice, made of the well-formed one with addresses 10.0.0.1 and 10.0.0.2. None: silence over
    /// UDP, the end of the connection over TCP.
    Raw(Behaviour),
    /// These records, whoever owns them.
    Records(Vec<Record>),
    Refused,
    /// One reply after the other; the last one repeats. Not to be put into another reply.
    ///
    /// A query that is sent again with the same id, by TCP for example, does not count.
    Sequence(VecDeque<Self>),
    ServFail,
    /// No reply at all.
    Silent,
    /// Over UDP half of the records and the TC bit, over TCP the whole reply.
    Truncated(Box<Self>),
}

/// From a well-formed reply to what is sent.
pub(super) type Behaviour = fn(Vec<u8>) -> Vec<Vec<u8>>;

/// What a server does whatever its script says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quirk {
    /// Replies by UDP end in their middle, without TC.
    Cut,
    /// Queries with OPT get no reply.
    EdnsDropped,
    /// Queries with OPT get FORMERR and nothing else, not even their question.
    EdnsFormErr,
    /// Queries with OPT get NOTIMP.
    EdnsNotImp,
    /// No query gets a reply.
    Silent,
    /// Queries by UDP get no reply.
    TcpOnly,
    /// Queries by TCP get no reply.
    UdpOnly,
}

impl Reply {
    pub fn addresses(addresses: &[&str]) -> Self {
        Self::Addresses(addresses.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    /// So many addresses, from 10.0.0.1 on.
    pub fn many(count: u16) -> Self {
        let address = |number| Ipv4Addr::from_bits(0x0a00_0000 + u32::from(number)).into();
        Self::Addresses((1..=count).map(address).collect())
    }

    /// Each of these addresses alone, in turn: as an Aurora reader endpoint answers.
    pub fn in_turn(addresses: &[&str]) -> Self {
        Self::InTurn(addresses.iter().map(|address| Self::addresses(&[*address])).collect())
    }

    pub(super) fn next(&mut self) -> Self {
        match self {
            Self::InTurn(replies) => {
                replies.rotate_left(1);
                replies.back().cloned()
            }
            Self::Sequence(replies) if replies.len() > 1 => replies.pop_front(),
            Self::Sequence(replies) => replies.front().cloned(),
            reply => Some(reply.clone()),
        }
        .expect("a sequence is never empty")
    }

    pub fn delayed(self, delay: Duration) -> Self {
        Self::Delayed(delay, Box::new(self))
    }

    pub fn sequence(replies: impl IntoIterator<Item = Self>) -> Self {
        Self::Sequence(replies.into_iter().collect())
    }

    pub fn truncated(self) -> Self {
        Self::Truncated(Box::new(self))
    }
}

/// A record for [`Reply::Records`]; its data may be an IP address.
pub fn record(owner: &str, ttl: u32, data: impl Into<RData>) -> Record {
    Record::from_rdata(fqdn(owner), ttl, data.into())
}

/// That one name leads to another.
pub fn cname(owner: &str, ttl: u32, target: &str) -> Record {
    record(owner, ttl, RData::CNAME(CNAME(fqdn(target))))
}

pub(super) fn fqdn(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap().to_lowercase();
    name.set_fqdn(true);
    name
}
