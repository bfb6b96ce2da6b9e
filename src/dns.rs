//! The DNS edge: the only place that knows hickory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, iter,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{DNSClass, Name, RData, Record},
    },
    system_conf::read_system_conf,
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use crate::{hostname::Hostname, kind::HostnameKind, limiter::Limiter, target::IpFamily};

/// Asks name servers for the addresses of hostnames. Nothing is cached: each call is a fresh
/// query.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<Server>,
    open: Semaphore,
    limiter: Limiter,
}

/// A name server, and what is known of it.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    silence: Mutex<Silence>,
}

#[derive(Debug, Default)]
struct Silence {
    /// When the server last replied to anything.
    replied_at: Option<Instant>,
    /// How many queries it has left without a reply since.
    queries: u32,
    /// Until when it counts as dead.
    dead_until: Option<Instant>,
}

impl Server {
    /// Whether it is better to ask others first.
    fn is_dead(&self) -> bool {
        let silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        silence.dead_until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes note of what came of a query.
    fn note(&self, asked_at: Instant, reply: &Result<Answer, DnsFailure>) {
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if !reply.as_ref().is_err_and(DnsFailure::is_silence) {
            *silence = Silence { replied_at: Some(now), ..Silence::default() };
        } else if silence.replied_at.is_none_or(|replied_at| replied_at < asked_at) {
            // A server that replies to others meanwhile is not dead.
            silence.queries = silence.queries.saturating_add(1);
            // Those that ask it last all the same shall not keep it dead.
            if silence.queries >= DEAD_AFTER && silence.dead_until.is_none_or(|until| until <= now) {
                silence.dead_until = Some(now + DEAD_FOR);
            }
        }
    }
}

/// An answer that holds at least one address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Answer {
    /// The addresses of the name or of the names on its CNAME chain.
    pub addresses: BTreeSet<IpAddr>,
    /// The name, then the names on its CNAME chain, in lower case.
    pub names: Vec<String>,
    /// How long a resolver in between may repeat it: the shortest time to live of its records.
    pub ttl: Duration,
    /// When it came.
    pub at: Instant,
}

impl Answer {
    /// What the hostname belongs to, as its CNAME chain tells.
    pub fn kind(&self) -> HostnameKind {
        HostnameKind::of(self.names.iter().map(String::as_str))
    }
}

/// Why a hostname has no answer: what each name server said that was asked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct ResolveError {
    failures: Vec<(SocketAddr, DnsFailure)>,
}

impl ResolveError {
    /// Whether the name exists and only lacks a record of the family.
    pub fn is_no_data(&self) -> bool {
        self.failures.iter().any(|(_, failure)| matches!(failure, DnsFailure::NoData(_)))
    }

    /// Whether it was we who had no time left, so that nothing is known of the name.
    pub fn is_out_of_time(&self) -> bool {
        self.failures.iter().any(|(_, failure)| matches!(failure, DnsFailure::OutOfTime(_)))
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    /// A reply that can't be read, or that answers another question.
    #[error("malformed reply: {0}")]
    Malformed(String),
    /// The name exists, but has no address of the family.
    #[error("no data: the name has no {0} record")]
    NoData(&'static str),
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
}

impl DnsFailure {
    /// Whether another server, asked the same, would say the same.
    fn is_final(&self) -> bool {
        matches!(self, Self::NoData(_) | Self::NxDomain)
    }

    /// Whether there was no reply. Asking the same server again may help: a datagram was lost, perhaps.
    fn is_silence(&self) -> bool {
        matches!(self, Self::TimeOut(_) | Self::Transport(_))
    }
}

impl Resolver {
    /// A resolver that asks `servers` in their order until one answers; where there are none
    /// given, those that the system is configured with.
    ///
    /// # Errors
    ///
    /// Where the system's configuration is asked for and can't be read, or names no server.
    pub fn new(servers: Option<&[SocketAddr]>) -> Result<Self, NoNameServer> {
        let servers = match servers {
            Some(servers) => servers.to_vec(),
            None => system_servers()?,
        };
        if servers.is_empty() {
            return Err(NoNameServer("it names none".to_owned()));
        }
        Ok(Self {
            servers: servers.into_iter().map(|address| Server { address, silence: Mutex::default() }).collect(),
            open: Semaphore::new(MAX_OPEN_QUERIES),
            limiter: Limiter::new(NonZeroU32::new(QUERIES_PER_SECOND), QUERY_BURST_SECONDS),
        })
    }

    /// Asks for the addresses of `hostname` in one family, until `until` at the latest.
    ///
    /// The servers are asked one after another; those that did not reply, once again. One that is
    /// known to be dead comes last.
    ///
    /// # Errors
    ///
    /// Where no server answered, or one said that there is no such name or no such record.
    pub async fn resolve(&self, hostname: &Hostname, family: IpFamily, until: Instant) -> Result<Answer, ResolveError> {
        let started = Instant::now();
        let mut failures: Vec<Option<DnsFailure>> = vec![None; self.servers.len()];
        'rounds: for _ in 0..ROUNDS {
            let servers = self.servers.iter().zip(&mut failures);
            let mut left: Vec<_> =
                servers.filter(|(_, failure)| failure.as_ref().is_none_or(DnsFailure::is_silence)).collect();
            while !left.is_empty() {
                let permit = timeout_at(until, async {
                    // Never closed; and to ask without a permit would do no harm either.
                    let permit = self.open.acquire().await;
                    self.limiter.queue().await;
                    permit
                })
                .await;
                // Chosen only now, because others have found out meanwhile who is dead.
                let next = left.iter().position(|(server, _)| !server.is_dead()).unwrap_or_default();
                let (server, failure) = left.remove(next);
                let asked_at = Instant::now();
                let asked = match permit {
                    Ok(_permit) => timeout_at(until, ask(server.address, hostname, family)).await,
                    Err(elapsed) => Err(elapsed),
                };
                let Ok(reply) = asked else {
                    *failure = Some(DnsFailure::OutOfTime(started.elapsed()));
                    break 'rounds;
                };
                server.note(asked_at, &reply);
                match reply {
                    Ok(answer) => return Ok(answer),
                    Err(last) if last.is_final() => {
                        return Err(ResolveError { failures: vec![(server.address, last)] });
                    }
                    Err(last) => *failure = Some(last),
                }
            }
        }
        let failures = self.servers.iter().zip(failures);
        let failures = failures.filter_map(|(server, failure)| Some((server.address, failure?)));
        Err(ResolveError { failures: failures.collect() })
    }
}

/// Asks one server, through a hickory resolver of its own: within one resolver, SERVFAIL and
/// REFUSED end the failover and a silent server eats the whole time-out; and a resolver that is
/// kept would keep TCP connections, which are dead after Lambda has frozen the process. To build
/// one takes microseconds.
async fn ask(server: SocketAddr, hostname: &Hostname, family: IpFamily) -> Result<Answer, DnsFailure> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()]
        .into_iter()
        .map(|mut connection| {
            connection.port = server.port();
            connection
        })
        .collect();
    let servers = vec![NameServerConfig::new(server.ip(), true, connections)];
    let mut builder = TokioResolver::builder_with_config(
        ResolverConfig::from_parts(None, Vec::new(), servers),
        TokioRuntimeProvider::default(),
    );
    let options = builder.options_mut();
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = REPLY_TIMEOUT;
    // Rounds over the servers are ours.
    options.attempts = 0;
    let resolver = builder.build().map_err(|error| failure(&error, family))?;
    // Parsed as hickory's own type: from a text, it would refuse names that hold an underscore.
    let name = Name::from_ascii(format!("{}.", hostname.canonical()))
        .map_err(|error| DnsFailure::Malformed(error.to_string()))?;
    // hickory's time-out is for one exchange; this one is for all that a lookup may take: UDP,
    // then TCP, and more of both where a CNAME comes alone.
    let lookup = async {
        match family {
            IpFamily::V4 => resolver.ipv4_lookup(name.clone()).await,
            IpFamily::V6 => resolver.ipv6_lookup(name.clone()).await,
        }
    };
    let lookup = timeout(LOOKUP_TIMEOUT, lookup)
        .await
        .map_err(|_| DnsFailure::TimeOut(LOOKUP_TIMEOUT))?
        .map_err(|error| failure(&error, family))?;
    // hickory lets records through that come with NXDOMAIN.
    if lookup.message().metadata.response_code == ResponseCode::NXDomain {
        return Err(DnsFailure::NxDomain);
    }
    let answer = read(&name, lookup.answers(), family);
    if answer.addresses.is_empty() {
        return Err(DnsFailure::NoData(family.record_type()));
    }
    Ok(answer)
}

/// What an answer holds that belongs to the name or to a name on its CNAME chain. What else it
/// holds, nobody asked for.
fn read(name: &Name, records: &[Record], family: IpFamily) -> Answer {
    // By their owners: a message holds thousands, and a search for each name on the chain would take seconds.
    let mut owned: BTreeMap<&Name, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.dns_class == DNSClass::IN) {
        owned.entry(&record.name).or_default().push(record);
    }
    let mut answer = Answer { addresses: BTreeSet::new(), names: Vec::new(), ttl: Duration::MAX, at: Instant::now() };
    let mut chain = BTreeSet::from([name]);
    let mut ends = vec![name];
    while let Some(owner) = ends.pop() {
        answer.names.push(owner.to_lowercase().to_ascii().trim_end_matches('.').to_owned());
        for record in owned.get(owner).into_iter().flatten() {
            match (&record.data, family) {
                (RData::A(address), IpFamily::V4) => drop(answer.addresses.insert(IpAddr::V4(address.0))),
                (RData::AAAA(address), IpFamily::V6) => drop(answer.addresses.insert(IpAddr::V6(address.0))),
                (RData::CNAME(alias), _) => ends.extend(chain.insert(&alias.0).then_some(&alias.0)),
                _ => continue,
            }
            answer.ttl = answer.ttl.min(Duration::from_secs(record.ttl.into()));
        }
    }
    answer
}

fn failure(error: &NetError, family: IpFamily) -> DnsFailure {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NXDomain => {
            DnsFailure::NxDomain
        }
        NetError::Dns(DnsError::NoRecordsFound(none)) if none.response_code == ResponseCode::NoError => {
            DnsFailure::NoData(family.record_type())
        }
        NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => DnsFailure::ServFail,
        NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => DnsFailure::Refused,
        NetError::Dns(DnsError::ResponseCode(code)) => DnsFailure::ResponseCode(code.to_string()),
        NetError::Timeout => DnsFailure::TimeOut(REPLY_TIMEOUT),
        NetError::ForeignClassRecord { .. } | NetError::Proto(_) => DnsFailure::Malformed(error.to_string()),
        NetError::Truncated => {
            DnsFailure::Transport("the reply was cut short, and TCP did not bring the whole".to_owned())
        }
        // What else there is comes from sockets and channels: a connection closed under a query.
        other => DnsFailure::Transport(other.to_string()),
    }
}

fn system_servers() -> Result<Vec<SocketAddr>, NoNameServer> {
    let (config, _) = read_system_conf().map_err(|error| NoNameServer(error.to_string()))?;
    let mut seen = BTreeSet::new();
    let servers = config
        .name_servers()
        .iter()
        .flat_map(|server| iter::repeat(server.ip).zip(server.connections.iter().map(|connection| connection.port)));
    Ok(servers.map(SocketAddr::from).filter(|server| seen.insert(*server)).collect())
}

/// There is no name server to ask.
#[derive(Debug, thiserror::Error)]
#[error("no name server: DNS_SERVERS is not set, and the system's configuration (/etc/resolv.conf) can't be used: {0}")]
pub struct NoNameServer(String);

/// How long to wait for one server's reply. The VPC resolver answers from its cache within
/// milliseconds, and asks on for at most a second or two.
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to wait for one server in all.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(4);

/// How often each server that does not reply is asked.
const ROUNDS: usize = 2;

/// How many queries in a row a server has to leave without a reply to count as dead: half of those that are under way at
/// once. Of fewer names, none waits for others. And the servers may be in that order because not all of them know all
/// names, so that the second one is not asked before the first because of a few.
const DEAD_AFTER: u32 = 128;

/// How long it then comes last: of a thousand names that all waited for it in turn, a run would hear too late which has
/// another address.
const DEAD_FOR: Duration = Duration::from_secs(30);

/// Queries in a second. The VPC resolver takes 1,024 packets a second from a network interface
/// ([quotas](https://docs.aws.amazon.com/vpc/latest/userguide/AmazonDNS-concepts.html)), which
/// other functions may share, and a query with TCP takes several.
pub const QUERIES_PER_SECOND: u32 = 500;

/// Seconds' worth of queries that may go out at once.
const QUERY_BURST_SECONDS: f64 = 0.5;

/// Queries under way at once: a Lambda execution environment has 1,024 file descriptors.
const MAX_OPEN_QUERIES: usize = 256;
