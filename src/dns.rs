//! The DNS edge: the only place that knows hickory.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{DNSClass, Name, RData, Record},
    },
};
use leaky_bucket::RateLimiter;
use resolv_conf::ScopedIp;
use tokio::{
    sync::Semaphore,
    time::{timeout, timeout_at},
};

use crate::{
    answer::Answer,
    failure::{DnsFailure, ResolveError},
    hostname::Hostname,
    target::IpFamily,
};

/// Asks name servers for the addresses of hostnames. Nothing is cached: each call is a fresh
/// query.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<Server>,
    open: Semaphore,
    budget: RateLimiter,
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

    /// Takes note of a reply, or of a query that was left without one.
    fn note(&self, asked_at: Instant, replied: bool) {
        let mut silence = self.silence.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if replied {
            *silence = Silence { replied_at: Some(now), ..Silence::default() };
        } else if silence.replied_at.is_none_or(|replied_at| replied_at < asked_at) {
            // A server that replies to others meanwhile is not dead.
            silence.queries = silence.queries.saturating_add(1);
            // A dead server is still asked, last. That must not prolong its time.
            if silence.queries >= DEAD_AFTER && silence.dead_until.is_none_or(|until| until <= now) {
                silence.dead_until = Some(now + DEAD_FOR);
            }
        }
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
            return Err(NoNameServer("names none that can be used".to_owned()));
        }
        Ok(Self {
            servers: servers.into_iter().map(|address| Server { address, silence: Mutex::default() }).collect(),
            open: Semaphore::new(MAX_OPEN_LOOKUPS),
            budget: RateLimiter::builder().max(250).initial(250).refill(5).interval(Duration::from_millis(10)).build(),
        })
    }

    /// Asks for the addresses of `hostname` in one family, until `until` at the latest.
    ///
    /// The servers are asked in their order, one that is known to be dead last. The next one is asked when one has failed,
    /// or was silent for [`SILENCE`]. Whoever answers first is believed, so that a slow server can be used, too. Those
    /// that gave no reply are asked a second time, since a datagram may get lost.
    ///
    /// # Errors
    ///
    /// Where no server answered, or one said that there is no such name or no such record.
    pub async fn resolve(&self, hostname: &Hostname, family: IpFamily, until: Instant) -> Result<Answer, ResolveError> {
        let started = Instant::now();
        let mut failures = vec![None; self.servers.len()];
        let others = u32::try_from(self.servers.len()).unwrap_or(u32::MAX).saturating_sub(1);
        let longest = SILENCE.saturating_mul(others).saturating_add(REPLY_TIMEOUT);
        let asked = async {
            // Never closed; and to ask without a permit would do no harm either.
            let _permit = self.open.acquire().await;
            timeout(longest, self.ask_all(hostname, family, &mut failures)).await
        };
        let asked = timeout_at(until.into(), asked).await;
        if let Ok(Ok(Some(decided))) = asked {
            return decided;
        }
        let silence = |waited| if asked.is_ok() { DnsFailure::TimeOut(waited) } else { DnsFailure::OutOfTime(waited) };
        let failures = self.servers.iter().zip(failures);
        let failures =
            failures.map(|(server, failure)| (server.address, failure.unwrap_or_else(|| silence(started.elapsed()))));
        Err(ResolveError { failures: failures.collect() })
    }

    /// What the first server said that knows the name. `None` where none does; `failures` then says why.
    async fn ask_all(
        &self,
        hostname: &Hostname,
        family: IpFamily,
        failures: &mut [Option<DnsFailure>],
    ) -> Option<Result<Answer, ResolveError>> {
        let mut asking = FuturesUnordered::new();
        for round in 0..=ROUNDS {
            let may_reply = failures.iter().map(|failure| failure.as_ref().is_none_or(DnsFailure::is_silence));
            let servers = self.servers.iter().enumerate().zip(may_reply);
            let mut left: Vec<_> = servers.filter_map(|(server, may_reply)| may_reply.then_some(server)).collect();
            // After the last round, those that were asked may still reply.
            while if round < ROUNDS { !left.is_empty() } else { !asking.is_empty() } {
                // Chosen only now, because others have found out meanwhile who is dead.
                let next = left.iter().position(|(_, server)| !server.is_dead()).unwrap_or_default();
                if round < ROUNDS {
                    let (index, server) = left.remove(next);
                    asking.push(async move { (index, server, self.ask(server, hostname, family).await) });
                }
                let Ok(Some((index, server, reply))) = timeout(SILENCE, asking.next()).await else { continue };
                match reply {
                    Err(failure) if !failure.is_final() => {
                        if let Some(known) = failures.get_mut(index) {
                            *known = Some(failure);
                        }
                    }
                    decided => {
                        return Some(
                            decided.map_err(|failure| ResolveError { failures: vec![(server.address, failure)] }),
                        );
                    }
                }
            }
        }
        None
    }

    /// Asks one server, and notes whether it replies within [`SILENCE`].
    async fn ask(&self, server: &Server, hostname: &Hostname, family: IpFamily) -> Result<Answer, DnsFailure> {
        self.budget.acquire_one().await;
        let asked_at = Instant::now();
        let mut asked = pin!(ask(server.address, hostname, family));
        let reply = match timeout(SILENCE, &mut asked).await {
            Ok(reply) => reply,
            Err(_) => {
                server.note(asked_at, false);
                asked.await
            }
        };
        if !reply.as_ref().is_err_and(DnsFailure::is_silence) {
            server.note(asked_at, true);
        }
        reply
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
    let lookup = timeout(REPLY_TIMEOUT, lookup)
        .await
        .map_err(|_| DnsFailure::TimeOut(REPLY_TIMEOUT))?
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

/// What an answer holds that belongs to the name or to a name on its CNAME chain. Nobody asked for the rest.
fn read(name: &Name, records: &[Record], family: IpFamily) -> Answer {
    // By their owners: a message holds thousands, and a search for each name on the chain would take seconds.
    let mut owned: BTreeMap<&Name, Vec<&Record>> = BTreeMap::new();
    for record in records.iter().filter(|record| record.dns_class == DNSClass::IN) {
        owned.entry(&record.name).or_default().push(record);
    }
    let mut answer = Answer {
        addresses: BTreeSet::new(),
        names: Vec::new(),
        ttl: Duration::MAX,
        longest_ttl: Duration::ZERO,
        at: Instant::now(),
    };
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
            let ttl = Duration::from_secs(record.ttl.into());
            (answer.ttl, answer.longest_ttl) = (answer.ttl.min(ttl), answer.longest_ttl.max(ttl));
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

/// The name servers of the system's configuration that can be asked. An entry that can't, such as a server with a scope
/// or an odd search domain, spoils no other.
fn system_servers() -> Result<Vec<SocketAddr>, NoNameServer> {
    let text = fs::read(RESOLV_CONF).map_err(|error| NoNameServer(format!("can't be read ({error})")))?;
    let (config, _) = resolv_conf::Config::parse_with_errors(&text);
    let mut seen = BTreeSet::new();
    let usable = config.nameservers.into_iter().filter_map(|server| match server {
        ScopedIp::V4(address) => Some(IpAddr::V4(address)),
        ScopedIp::V6(address, None) => Some(IpAddr::V6(address)),
        ScopedIp::V6(_, Some(_)) => None,
    });
    Ok(usable.map(|address| SocketAddr::new(address, DNS_PORT)).filter(|server| seen.insert(*server)).collect())
}

/// There is no name server to ask.
#[derive(Debug, thiserror::Error)]
#[error(
    "no name server: DNS_SERVERS is not set, and {RESOLV_CONF} {0}; set DNS_SERVERS to the IP address of a name server"
)]
pub struct NoNameServer(String);

const RESOLV_CONF: &str = "/etc/resolv.conf";

const DNS_PORT: u16 = 53;

/// How long a name server may be silent before the next one is asked beside it. The VPC resolver answers from its cache
/// within milliseconds, and asks on for at most a second or two.
const SILENCE: Duration = Duration::from_secs(2);

/// How long to wait for a reply from one server.
const REPLY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often each server that does not reply is asked.
const ROUNDS: usize = 2;

/// How many queries in a row a server must leave without a reply to count as dead. Fewer names than that do not wait for
/// each other. And a few silent queries must not change the order of the servers: perhaps only the first one knows all
/// names.
const DEAD_AFTER: u32 = 128;

/// How long a dead server then comes last. If a thousand names waited for it in turn, a run would learn too late which
/// of them has another address.
const DEAD_FOR: Duration = Duration::from_secs(30);

/// Queries in a second. The VPC resolver takes 1,024 packets a second from a network interface
/// ([quotas](https://docs.aws.amazon.com/vpc/latest/userguide/AmazonDNS-concepts.html)), which
/// other functions may share, and a query with TCP takes several.
pub const QUERIES_PER_SECOND: u32 = 500;

/// Lookups under way at once, each with up to four sockets: a Lambda execution environment has 1,024 file descriptors.
const MAX_OPEN_LOOKUPS: usize = 200;
