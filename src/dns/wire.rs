//! One lookup in one way.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::{answer::Answer, budget::Budget, failure::DnsFailure, hostname::Hostname, target::IpFamily};

/// A way to ask a server.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    UdpWithEdns,
    Udp,
    /// Without EDNS, which would only say how large a datagram may be.
    Tcp,
}

/// A query's id, which nobody can guess.
pub(super) fn id() -> u16 {
    Message::query().metadata.id
}

/// Asks for the name, and then for where its CNAMEs lead until that has an address.
pub(super) async fn look_up(
    server: SocketAddr,
    way: Way,
    id: u16,
    hostname: &Hostname,
    family: IpFamily,
    budget: &Budget,
) -> Result<Answer, DnsFailure> {
    let mut asked = Name::from_ascii(format!("{}.", hostname.canonical())).map_err(malformed)?;
    let (addresses, names, at) = (BTreeSet::new(), Vec::new(), Instant::now());
    let mut answer = Answer { addresses, names, ttl: LONGEST_TTL, longest_ttl: Duration::ZERO, at };
    let mut seen = BTreeSet::new();
    let record_type = if family == IpFamily::V4 { RecordType::A } else { RecordType::AAAA };
    for _ in 0..MOST_REPLIES {
        let mut query = Message::new(id, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(asked.clone(), record_type));
        if way == Way::UdpWithEdns {
            query.edns.insert(Edns::new()).set_max_payload(LARGEST_DATAGRAM);
        }
        let reply = exchange(server, way, &query).await?;
        match reply.metadata.response_code {
            ResponseCode::NoError => {}
            ResponseCode::NXDomain => return Err(DnsFailure::NxDomain),
            ResponseCode::ServFail => return Err(DnsFailure::ServFail),
            ResponseCode::Refused => return Err(DnsFailure::Refused),
            ResponseCode::FormErr => return Err(DnsFailure::NotUnderstood("FORMERR")),
            ResponseCode::NotImp => return Err(DnsFailure::NotUnderstood("NOTIMP")),
            other => return Err(DnsFailure::ResponseCode(other.to_string())),
        }
        let Some(next) = follow(&mut answer, &mut seen, &asked, &reply.answers, family)? else {
            return Ok(Answer { at: Instant::now(), ..answer });
        };
        asked = next;
        let _turn = budget.acquire().await;
    }
    Err(DnsFailure::CnameChain)
}

/// Takes from a reply what belongs to the name or to a name on its CNAME chain; nobody asked for the rest. Tells the name to
/// ask for next, where the chain leads out of the reply.
fn follow(
    answer: &mut Answer,
    seen: &mut BTreeSet<Name>,
    asked: &Name,
    records: &[Record],
    family: IpFamily,
) -> Result<Option<Name>, DnsFailure> {
    // By their owners: a message holds thousands, and a search for each name on the chain would take seconds.
    let mut owned: BTreeMap<&Name, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.dns_class == DNSClass::IN) {
        owned.entry(&record.name).or_default().push(record);
    }
    let (mut is_loop, mut next, mut ends) = (false, None, vec![asked]);
    while let Some(owner) = ends.pop() {
        let Some(records) = owned.get(owner) else {
            next = Some(owner);
            continue;
        };
        if !seen.insert(owner.clone()) {
            is_loop = true;
            continue;
        }
        answer.names.push(owner.to_lowercase().to_ascii().trim_end_matches('.').to_owned());
        for record in records {
            match (&record.data, family) {
                (RData::A(address), IpFamily::V4) => drop(answer.addresses.insert(address.0.into())),
                (RData::AAAA(address), IpFamily::V6) => drop(answer.addresses.insert(address.0.into())),
                (RData::CNAME(alias), _) => ends.push(&alias.0),
                _ => continue,
            }
            let ttl = Duration::from_secs(record.ttl.into()).min(LONGEST_TTL);
            answer.ttl = answer.ttl.min(ttl);
            answer.longest_ttl = answer.longest_ttl.max(ttl);
        }
    }
    match next.filter(|next| *next != asked) {
        _ if !answer.addresses.is_empty() => Ok(None),
        Some(next) => Ok(Some(next.clone())),
        None if is_loop => Err(DnsFailure::CnameChain),
        None => Err(DnsFailure::NoData(family.record_type())),
    }
}

/// Sends a query, and waits for its reply. Messages that are no reply to it are somebody's forgery, and passed over.
async fn exchange(server: SocketAddr, way: Way, query: &Message) -> Result<Message, DnsFailure> {
    let bytes = query.to_vec().map_err(malformed)?;
    if way == Way::Tcp {
        let mut stream = TcpStream::connect(server).await?;
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        stream.write_all(&[&length.to_be_bytes()[..], &bytes].concat()).await?;
        loop {
            let mut reply = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut reply).await?;
            if let Some(reply) = read(&reply, query)? {
                return Ok(reply);
            }
        }
    }
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From now on, it takes nothing from others, and learns of a closed port.
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match read(buffer.get(..length).unwrap_or_default(), query)? {
            Some(reply) if reply.metadata.truncation => return Err(DnsFailure::Truncated),
            Some(reply) => return Ok(reply),
            None => {}
        }
    }
}

/// The reply to the query; `None` where it is to another one.
fn read(bytes: &[u8], query: &Message) -> Result<Option<Message>, DnsFailure> {
    if bytes.get(..2) != Some(&query.metadata.id.to_be_bytes()) {
        return Ok(None);
    }
    let reply = Message::from_vec(bytes).map_err(malformed)?;
    if reply.metadata.message_type != MessageType::Response {
        return Err(DnsFailure::Malformed("it is a query".to_owned()));
    }
    // Who does not understand a query may leave the question out.
    let code = reply.metadata.response_code;
    let is_blank = reply.queries.is_empty() && matches!(code, ResponseCode::FormErr | ResponseCode::NotImp);
    Ok((is_blank || reply.queries == query.queries).then_some(reply))
}

fn malformed(error: impl Display) -> DnsFailure {
    DnsFailure::Malformed(error.to_string())
}

/// How many replies may hold a CNAME alone.
const MOST_REPLIES: usize = 8;

/// What fits into a packet on any way ([DNS flag day 2020](https://www.dnsflagday.net/2020/)).
const LARGEST_DATAGRAM: u16 = 1232;

/// As others bound it: a mistyped one must not count for years.
const LONGEST_TTL: Duration = Duration::from_secs(86_400);
