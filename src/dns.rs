//! The DNS edge: which name server is asked, in which way, and for how long. Nothing is cached, and no connection is kept.
//!
//! hickory-proto reads and writes the messages. Its companion hickory-resolver does not serve rules 7 and 15: it hides loops
//! of CNAMEs and the times to live of those that come alone, and asks by TCP only where a reply says that it is truncated.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use std::{fs, iter::zip, net::SocketAddr};

use futures_util::future::ready;
use futures_util::stream::{FuturesUnordered, StreamExt};
use resolv_conf::ScopedIp;
use tokio::sync::Semaphore;
use tokio::time::{timeout, timeout_at};

use self::wire::Way;
use crate::failure::{DnsFailure, ResolveError};
use crate::{answer::Answer, budget::Budget, hostname::Hostname, target::IpFamily};

mod wire;

/// Asks name servers for the addresses of hostnames.
#[derive(Debug)]
pub struct Resolver {
    servers: Vec<Server>,
    open: Semaphore,
    budget: Budget,
}

/// A name server, and what is known of it.
#[derive(Debug)]
struct Server {
    address: SocketAddr,
    /// Whether it answered a query without EDNS where it did not understand one, or was silent to two.
    lacks_edns: AtomicBool,
}

impl Resolver {
    /// A resolver that asks `servers`; where there are none given, those that the system is configured with.
    /// It fails where the system's configuration is asked for and can't be read, or names no server.
    pub fn new(servers: Option<&[SocketAddr]>) -> Result<Self, NoNameServer> {
        let servers = servers.map_or_else(system_servers, |servers| Ok(servers.to_vec()))?;
        if servers.is_empty() {
            return Err(NoNameServer("names none that can be used".to_owned()));
        }
        let known = |address| Server { address, lacks_edns: AtomicBool::default() };
        let servers = servers.into_iter().map(known).collect();
        let budget = Budget::new(Duration::from_secs(1) / QUERIES_PER_SECOND, Duration::from_millis(500), u32::MAX);
        Ok(Self { servers, open: Semaphore::new(MOST_OPEN), budget })
    }

    /// Asks for the addresses of `hostname` in one family, until `until` at the latest: the servers in their order, until one
    /// answers or says that there is no such name or record. Those that were silent or could not find out are then asked
    /// once more, all at once, so that a dead one costs no more time.
    /// It fails where no server answered, or one said that there is no such name or no such record.
    pub async fn resolve(&self, hostname: &Hostname, family: IpFamily, until: Instant) -> Result<Answer, ResolveError> {
        let mut failures = Vec::new();
        let Ok(_permit) = timeout_at(until.into(), self.open.acquire()).await else {
            return Err(ResolveError { failures });
        };
        for (server, left) in zip(&self.servers, (1..=self.servers.len()).rev()) {
            let is_last = left == 1 && !failures.iter().any(|(_, failure): &(_, DnsFailure)| failure.may_pass());
            let patience = if is_last { LAST_SILENCE } else { SILENCE };
            let time = self.turn(until).await / u32::try_from(left).unwrap_or(u32::MAX);
            match self.ask(server, hostname, family, patience, time, patience.min(time) / 7).await {
                Ok(decided) => return decided,
                Err(failure) => failures.push((server.address, failure)),
            }
        }
        let again = zip(&self.servers, &mut failures).filter(|(_, (_, known))| known.may_pass());
        let again = again.map(async |(server, (_, known))| {
            let time = self.turn(until).await;
            // The next way is tried only where one failed, not beside it: each takes a socket.
            let failure = match self.ask(server, hostname, family, LAST_SILENCE, time, Duration::MAX).await {
                Ok(decided) => return Some(decided),
                Err(failure) => failure,
            };
            // The first silence tells more.
            if !failure.is_silence() {
                *known = failure;
            }
            None
        });
        let decided = again.collect::<FuturesUnordered<_>>().filter_map(ready).next().await;
        decided.unwrap_or(Err(ResolveError { failures }))
    }

    /// Waits until a query may go out, and tells how much time is left: none where it runs out meanwhile.
    async fn turn(&self, until: Instant) -> Duration {
        let _ = timeout_at(until.into(), self.budget.acquire()).await;
        until.saturating_duration_since(Instant::now())
    }

    /// Asks one server, which has so much of our patience, and of the time that we have. A way that fails is followed by the
    /// next one; one that is silent for `step` has the next one beside it. An error is one that another server may not have.
    async fn ask(
        &self,
        server: &Server,
        hostname: &Hostname,
        family: IpFamily,
        patience: Duration,
        time: Duration,
        step: Duration,
    ) -> Result<Result<Answer, ResolveError>, DnsFailure> {
        let mut told = None;
        let asking = async {
            // A query that is sent again keeps its id.
            let id = wire::id();
            let look_up = |way| wire::look_up(server.address, way, id, hostname, family, &self.budget);
            let start = |way| async move { (way, look_up(way).await) };
            // Twice with EDNS, because a datagram may be lost.
            let mut ways = VecDeque::from([Way::UdpWithEdns, Way::UdpWithEdns, Way::Udp, Way::Tcp]);
            if server.lacks_edns.load(Relaxed) {
                ways.drain(..2);
            }
            let mut open: FuturesUnordered<_> = ways.pop_front().map(start).into_iter().collect();
            loop {
                if let Ok(next) = timeout(step, open.next()).await {
                    let (way, reply) = next?;
                    let is_understood = !matches!(reply, Err(DnsFailure::NotUnderstood(_)));
                    server.lacks_edns.fetch_or(way == Way::Udp && is_understood, Relaxed);
                    match reply {
                        Err(failure) if failure.is_of_the_way() => {
                            ways.retain(|way| *way == Way::Tcp || (*way == Way::Udp && !is_understood));
                            // Many servers are closed to TCP, which tells nothing of them.
                            if way != Way::Tcp || !matches!(failure, DnsFailure::Transport(_)) {
                                told = Some(failure);
                            }
                        }
                        reply => return Some(reply),
                    }
                }
                if let Some(way) = ways.pop_front() {
                    let _turn = self.budget.acquire().await;
                    open.push(start(way));
                }
            }
        };
        match timeout(patience.min(time), asking).await {
            Ok(Some(Err(failure))) if !failure.is_final() => Err(failure),
            Ok(Some(reply)) => Ok(reply.map_err(|failure| ResolveError { failures: vec![(server.address, failure)] })),
            _ if time < patience => Err(told.unwrap_or(DnsFailure::OutOfTime(time))),
            _ => Err(told.unwrap_or(DnsFailure::TimeOut(patience))),
        }
    }
}

/// The name servers of the system's configuration that can be asked. An entry that can't, such as a server with a scope
/// or an odd search domain, spoils no other.
fn system_servers() -> Result<Vec<SocketAddr>, NoNameServer> {
    let text = fs::read(RESOLV_CONF).map_err(|error| NoNameServer(format!("can't be read ({error})")))?;
    let (config, _) = resolv_conf::Config::parse_with_errors(&text);
    let usable = config.nameservers.into_iter().filter(|server| !matches!(server, ScopedIp::V6(_, Some(_))));
    let mut seen = BTreeSet::new();
    Ok(usable.map(|server| SocketAddr::new(server.into(), DNS_PORT)).filter(|server| seen.insert(*server)).collect())
}

/// There is no name server to ask.
#[derive(Debug, thiserror::Error)]
#[error("no name server: {RESOLV_CONF} {0}; set DNS_SERVERS to the IP address of a name server")]
pub struct NoNameServer(String);

const RESOLV_CONF: &str = "/etc/resolv.conf";

const DNS_PORT: u16 = 53;

/// How long a name server may be silent, in all ways, before the next one is asked. The VPC resolver asks on for at most a
/// second or two.
const SILENCE: Duration = Duration::from_secs(2);

/// How long the last one may be, for which no other waits.
const LAST_SILENCE: Duration = Duration::from_secs(3);

/// Queries in a second. The VPC resolver takes 1,024 packets a second from a network interface
/// ([quotas](https://docs.aws.amazon.com/vpc/latest/userguide/AmazonDNS-concepts.html)), which
/// other functions may share, and a query with TCP takes several. Half as many may go out at once.
pub const QUERIES_PER_SECOND: u32 = 500;

/// Lookups under way at once, each with up to four sockets: a Lambda execution environment has 1,024 file descriptors.
const MOST_OPEN: usize = 200;
