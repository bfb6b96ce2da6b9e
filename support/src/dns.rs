//! Name servers for tests: [`FakeDns`] answers what the test scripted, [`HostileDns`] breaks the protocol.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use hickory_server::{
    Server,
    net::{runtime::Time, xfer::Protocol},
    proto::{
        op::{Header, HeaderCounts, Metadata, ResponseCode},
        rr::{
            Name, RData, Record, RecordType,
            rdata::{CNAME, SOA},
        },
    },
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::sleep,
};

/// A recursive resolver on loopback, over UDP and TCP. Clones share one script; the last one stops it.
#[derive(Clone)]
pub struct FakeDns {
    address: SocketAddr,
    /// What it says; or what the server says that it asks, where it is a [`FakeDns::resolver`].
    script: Arc<Mutex<Script>>,
    own: Arc<Mutex<Own>>,
    _server: Arc<Server<Handler>>,
}

/// What the server does with one kind of query.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Records of the name that was asked (or its CNAME's target), with the TTL of [`FakeDns::set_ttl`].
    Addresses(Vec<IpAddr>),
    /// One reply for so long from that moment on, then the next for as long, and then the first again: see
    /// [`Reply::flapping`]. Not to be put into another reply.
    ByTime(Instant, Duration, Vec<Self>),
    /// The reply comes late. TCP queries of one connection wait for each other.
    Delayed(Duration, Box<Self>),
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
    /// Datagrams of the test's choice for the query and whether it came over TCP, which gets no reply.
    Raw(fn(&[u8], bool) -> Vec<Vec<u8>>),
    /// These records, whoever owns them.
    Records(Vec<Record>),
    Refused,
    /// One reply after the other; the last one repeats. Not to be put into another reply.
    ///
    /// A datagram that is sent again and the TCP query after a truncated reply do not count.
    Sequence(VecDeque<Self>),
    ServFail,
    /// No reply at all.
    Silent,
    /// Over UDP half of the records and the TC bit, over TCP the whole reply.
    Truncated(Box<Self>),
}

/// A query that arrived.
#[derive(Clone, Debug)]
pub struct Query {
    /// One that is sent again keeps it.
    id: u16,
    /// In lower case, without the final dot.
    pub name: String,
    pub record_type: RecordType,
    pub protocol: Protocol,
    pub at: Instant,
}

impl FakeDns {
    pub async fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into()).await
    }

    /// On another loopback address, such as 127.0.0.2.
    pub async fn start_on(ip: IpAddr) -> Self {
        Self::serve(ip, Arc::new(Mutex::new(Script::new()))).await
    }

    /// A server that says what this one says, but with a cache, queries and delays of its own: an answer is repeated
    /// until its TTL is over, with what is left of it.
    pub async fn resolver(&self) -> Self {
        let resolver = Self::serve(Ipv4Addr::LOCALHOST.into(), self.script.clone()).await;
        resolver.set_caching();
        resolver
    }

    async fn serve(ip: IpAddr, script: Arc<Mutex<Script>>) -> Self {
        let (udp, tcp) = bind(ip).await;
        let address = udp.local_addr().unwrap();
        let own = Arc::<Mutex<Own>>::default();
        let udp = udp.into_std().unwrap();
        let raw = UdpSocket::from_std(udp.try_clone().unwrap()).unwrap();
        let mut server = Server::new(Handler { script: script.clone(), own: own.clone(), udp: raw });
        server.register_socket(UdpSocket::from_std(udp).unwrap());
        server.register_listener(tcp, Duration::from_secs(60), 1024);
        Self { address, script, own, _server: Arc::new(server) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The last word on a name counts: addresses replace a CNAME, a CNAME replaces addresses.
    pub fn set_a(&self, name: &str, addresses: &[&str]) {
        self.set_reply(name, RecordType::A, Reply::addresses(addresses));
    }

    pub fn set_aaaa(&self, name: &str, addresses: &[&str]) {
        self.set_reply(name, RecordType::AAAA, Reply::addresses(addresses));
    }

    /// The reply holds the CNAME and whatever the target has.
    pub fn set_cname(&self, alias: &str, target: &str) {
        let (alias, target) = (fqdn(alias), fqdn(target));
        let mut script = self.script.lock().unwrap();
        script.replies.retain(|(name, _), _| *name != alias);
        script.dangling.remove(&alias);
        script.aliases.insert(alias, target);
    }

    /// From now on the reply for this alias holds the CNAME alone.
    pub fn dangling(&self, alias: &str) {
        self.script.lock().unwrap().dangling.insert(fqdn(alias));
    }

    pub fn set_reply(&self, name: &str, record_type: RecordType, reply: Reply) {
        let name = fqdn(name);
        let mut script = self.script.lock().unwrap();
        script.aliases.remove(&name);
        script.served.remove(&(name.clone(), record_type));
        script.replies.insert((name, record_type), reply);
    }

    /// The TTL of all records but those of [`Reply::Records`]; 60 s unless set.
    pub fn set_ttl(&self, seconds: u32) {
        self.script.lock().unwrap().ttl = seconds;
    }

    /// From now on an answer is repeated until its TTL is over, with what is left of it: a caching resolver in
    /// between. What the script says meanwhile, nobody hears.
    pub fn set_caching(&self) {
        self.own.lock().unwrap().cache = Some(HashMap::new());
    }

    /// The server takes so long for each reply. A TCP query waits for those before it of its connection.
    pub fn set_delay(&self, delay: Duration) {
        self.own.lock().unwrap().delay = delay;
    }

    /// Whether the server leaves all queries without a reply.
    pub fn set_silent(&self, is_silent: bool) {
        self.own.lock().unwrap().is_silent = is_silent;
    }

    /// As if the name had never been set: NXDOMAIN.
    pub fn remove(&self, name: &str) {
        let name = fqdn(name);
        let mut script = self.script.lock().unwrap();
        script.aliases.remove(&name);
        script.replies.retain(|(owner, _), _| *owner != name);
    }

    pub fn queries(&self) -> Vec<Query> {
        self.own.lock().unwrap().queries.clone()
    }

    /// How many queries there were, those not counted that were sent again on a slow machine.
    pub fn looks(&self) -> usize {
        self.queries().iter().map(|query| query.id).collect::<HashSet<_>>().len()
    }

    pub fn clear_queries(&self) {
        self.own.lock().unwrap().queries.clear();
    }
}

impl Reply {
    pub fn addresses(addresses: &[&str]) -> Self {
        Self::Addresses(addresses.iter().map(|ip| ip.parse().unwrap()).collect())
    }

    /// Each of these addresses alone, in turn: as an Aurora reader endpoint answers.
    pub fn in_turn(addresses: &[&str]) -> Self {
        Self::InTurn(addresses.iter().map(|address| Self::addresses(&[*address])).collect())
    }

    /// Each of these answers for so long, in turn, from now on: as a resolver with several caches behind it answers in
    /// a failover.
    pub fn flapping(period: Duration, answers: &[&[&str]]) -> Self {
        let replies = answers.iter().map(|addresses| Self::addresses(addresses)).collect();
        Self::ByTime(Instant::now(), period, replies)
    }

    fn next(&mut self) -> Option<Self> {
        match self {
            Self::InTurn(replies) => {
                replies.rotate_left(1);
                replies.back().cloned()
            }
            Self::Sequence(replies) if replies.len() > 1 => replies.pop_front(),
            Self::Sequence(replies) => replies.front().cloned(),
            Self::ByTime(from, period, replies) => {
                let turn = from.elapsed().as_nanos() / period.as_nanos();
                replies.get(usize::try_from(turn % replies.len() as u128).ok()?).cloned()
            }
            _ => None,
        }
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

struct Script {
    ttl: u32,
    aliases: HashMap<Name, Name>,
    dangling: HashSet<Name>,
    replies: HashMap<(Name, RecordType), Reply>,
    /// The last reply of a [`Reply::Sequence`] and the id of the query it was for.
    served: HashMap<(Name, RecordType), (u16, Reply)>,
}

/// What is a server's own, where several say the same.
#[derive(Default)]
struct Own {
    queries: Vec<Query>,
    delay: Duration,
    is_silent: bool,
    /// What is repeated, and until when.
    cache: Option<HashMap<(Name, RecordType), Cached>>,
}

struct Cached {
    records: Vec<Record>,
    until: Instant,
}

impl Script {
    fn new() -> Self {
        Self {
            ttl: 60,
            aliases: HashMap::new(),
            dangling: HashSet::new(),
            replies: HashMap::new(),
            served: HashMap::new(),
        }
    }

    /// The CNAME records to begin with, their last target, and the reply that this one has.
    fn reply(
        &mut self,
        name: &Name,
        record_type: RecordType,
        id: u16,
        protocol: Protocol,
    ) -> (Vec<Record>, Name, Reply) {
        let mut chain = Vec::new();
        let mut owner = name.clone();
        while let Some(target) = self.aliases.get(&owner)
            && chain.len() <= self.aliases.len()
        {
            let data = RData::CNAME(CNAME(target.clone()));
            chain.push(Record::from_rdata(owner.clone(), self.ttl, data));
            if self.dangling.contains(&owner) {
                return (chain, owner, Reply::NoData { negative_ttl: None });
            }
            owner = target.clone();
        }

        let key = (owner.clone(), record_type);
        let exists = self.replies.contains_key(&key) || self.replies.keys().any(|(name, _)| *name == owner);
        let reply = match self.replies.get_mut(&key) {
            Some(scripted @ (Reply::ByTime(..) | Reply::InTurn(_) | Reply::Sequence(_))) => match self.served.get(&key)
            {
                Some((last, reply)) if *last == id => reply.clone(),
                Some((_, reply @ Reply::Truncated(_))) if protocol == Protocol::Tcp => reply.clone(),
                _ => {
                    let next = scripted.next().expect("a sequence is never empty");
                    self.served.insert(key, (id, next.clone()));
                    next
                }
            },
            Some(reply) => reply.clone(),
            None if exists => Reply::NoData { negative_ttl: Some(self.ttl) },
            None => Reply::NxDomain { negative_ttl: Some(self.ttl) },
        };
        (chain, owner, reply)
    }
}

impl Own {
    /// What the cache holds of it. Resolvers count in whole seconds, so less than one shows as none.
    fn cached(&self, name: &Name, record_type: RecordType) -> Option<Vec<Record>> {
        let cached = self.cache.as_ref()?.get(&(name.clone(), record_type))?;
        let left = cached.until.checked_duration_since(Instant::now())?;
        let mut records = cached.records.clone();
        for record in &mut records {
            record.ttl = u32::try_from(left.as_secs()).unwrap();
        }
        Some(records)
    }

    fn remember(&mut self, name: Name, record_type: RecordType, records: &[Record]) {
        let ttl = records.iter().map(|record| record.ttl).min();
        if self.cached(&name, record_type).is_none()
            && let (Some(cache), Some(ttl)) = (&mut self.cache, ttl)
        {
            let until = Instant::now() + Duration::from_secs(ttl.into());
            cache.insert((name, record_type), Cached { records: records.to_vec(), until });
        }
    }
}

struct Handler {
    script: Arc<Mutex<Script>>,
    own: Arc<Mutex<Own>>,
    /// The server's socket, for [`Reply::Raw`].
    udp: UdpSocket,
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut responses: R) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let silence = ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() });
        let Ok(info) = request.request_info() else {
            return silence;
        };

        let name = Name::from(info.query.name());
        let record_type = info.query.query_type();
        let (cached, delay, is_silent) = {
            let mut own = self.own.lock().unwrap();
            own.queries.push(Query {
                id: metadata.id,
                name: name.to_ascii().trim_end_matches('.').to_owned(),
                record_type,
                protocol: info.protocol,
                at: Instant::now(),
            });
            (own.cached(&name, record_type), own.delay, own.is_silent)
        };
        if is_silent {
            return silence;
        }
        let (mut answers, owner, mut reply, ttl) = {
            let mut script = self.script.lock().unwrap();
            let (chain, owner, reply) = match cached {
                Some(records) => (Vec::new(), name.clone(), Reply::Records(records)),
                None => script.reply(&name, record_type, metadata.id, info.protocol),
            };
            (chain, owner, reply, script.ttl)
        };
        if !delay.is_zero() {
            sleep(delay).await;
        }

        let mut soa = None;
        loop {
            reply = match reply {
                Reply::Delayed(delay, next) => {
                    sleep(delay).await;
                    *next
                }
                Reply::Truncated(whole) if info.protocol == Protocol::Udp => {
                    metadata.truncation = true;
                    match *whole {
                        Reply::Addresses(all) => Reply::Addresses(all[..all.len() / 2].to_vec()),
                        Reply::Records(all) => Reply::Records(all[..all.len() / 2].to_vec()),
                        _ => Reply::Records(Vec::new()),
                    }
                }
                Reply::Truncated(whole) => *whole,
                Reply::Addresses(addresses) => {
                    answers.extend(
                        addresses.into_iter().map(|ip| Record::from_rdata(owner.clone(), ttl, RData::from(ip))),
                    );
                    break;
                }
                Reply::Records(records) => {
                    answers.extend(records);
                    break;
                }
                Reply::NoData { negative_ttl } => {
                    soa = negative_ttl.map(soa_record);
                    break;
                }
                Reply::NxDomain { negative_ttl } => {
                    metadata.response_code = ResponseCode::NXDomain;
                    soa = negative_ttl.map(soa_record);
                    break;
                }
                Reply::Refused => {
                    metadata.response_code = ResponseCode::Refused;
                    break;
                }
                Reply::ServFail => {
                    metadata.response_code = ResponseCode::ServFail;
                    break;
                }
                Reply::Raw(behaviour) => {
                    if info.protocol == Protocol::Udp {
                        for datagram in behaviour(request.as_slice(), false) {
                            // The client may have gone.
                            let _ = self.udp.send_to(&datagram, request.src()).await;
                        }
                    }
                    return silence;
                }
                Reply::ByTime(..) | Reply::InTurn(_) | Reply::Sequence(_) | Reply::Silent => return silence,
            };
        }

        if metadata.response_code == ResponseCode::NoError {
            self.own.lock().unwrap().remember(name, record_type, &answers);
        }
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &request.edns {
            // Without it a datagram would be cut at 512 bytes.
            builder.edns(edns);
        }
        let response = builder.build(metadata, &answers, [], &soa, []);
        // The client may have gone.
        responses.send_response(response).await.unwrap_or(silence)
    }
}

/// A name server that answers with bytes of the test's choice, over UDP and TCP.
pub struct HostileDns {
    address: SocketAddr,
    log: Arc<Mutex<HostileLog>>,
    connections: Arc<Mutex<JoinSet<()>>>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct HostileLog {
    /// The bytes of each query and whether they came over TCP.
    queries: Vec<(Vec<u8>, bool)>,
    connections: usize,
}

impl HostileDns {
    /// `behaviour` gets a query and whether it came over TCP; what it returns is sent, over TCP each
    /// with its length in front. Nothing to send: silence over UDP, the end of the connection over TCP.
    pub async fn start(behaviour: impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync + 'static) -> Self {
        let (udp, tcp) = bind(Ipv4Addr::LOCALHOST.into()).await;
        let address = udp.local_addr().unwrap();
        let behaviour = Arc::new(behaviour);
        let log = Arc::<Mutex<HostileLog>>::default();
        let connections = Arc::<Mutex<JoinSet<()>>>::default();

        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (behaviour, log) = (behaviour.clone(), log.clone());
            async move {
                let mut buffer = [0; 4096];
                while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
                    let query = &buffer[..length];
                    log.lock().unwrap().queries.push((query.to_vec(), false));
                    for datagram in behaviour(query, false) {
                        // The client may have gone.
                        let _ = udp.send_to(&datagram, client).await;
                    }
                }
            }
        });
        tasks.spawn({
            let (log, connections) = (log.clone(), connections.clone());
            async move {
                while let Ok((stream, _)) = tcp.accept().await {
                    log.lock().unwrap().connections += 1;
                    let (behaviour, log) = (behaviour.clone(), log.clone());
                    connections.lock().unwrap().spawn(async move {
                        // An error is the client's end of the connection.
                        let _ = serve(stream, &*behaviour, &log).await;
                    });
                }
            }
        });
        Self { address, log, connections, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bytes of each query and whether they came over TCP.
    pub fn queries(&self) -> Vec<(Vec<u8>, bool)> {
        self.log.lock().unwrap().queries.clone()
    }

    /// Hangs up on every client, as a server does with idle connections.
    pub fn close_connections(&self) {
        self.connections.lock().unwrap().abort_all();
    }
}

impl Drop for HostileDns {
    fn drop(&mut self) {
        self.close_connections();
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: &(impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync),
    log: &Mutex<HostileLog>,
) -> std::io::Result<()> {
    loop {
        let mut query = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut query).await?;
        log.lock().unwrap().queries.push((query.clone(), true));
        let replies = behaviour(&query, true);
        if replies.is_empty() {
            return Ok(());
        }
        for reply in replies {
            let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
            // In one piece: two would wait for each other's acknowledgement.
            stream.write_all(&[&length[..], &reply].concat()).await?;
        }
    }
}

/// Behaviours for [`HostileDns::start`]. Unless they say otherwise, they would answer 10.0.0.1.
pub mod hostile {
    /// Truncated over UDP (with one record), so that the client comes back over TCP for `behaviour`.
    pub fn over_tcp(
        behaviour: impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> impl Fn(&[u8], bool) -> Vec<Vec<u8>> + Send + Sync + 'static {
        move |query, is_tcp| {
            if is_tcp { behaviour(query, true) } else { vec![message(query, OK | TRUNCATED, &[address(ASKED, 1)])] }
        }
    }

    /// Silence; over TCP the connection is closed at once.
    pub fn no_reply(_: &[u8], _: bool) -> Vec<Vec<u8>> {
        Vec::new()
    }

    pub fn well_formed(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK, &[address(ASKED, 1)])]
    }

    pub fn wrong_id(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let mut reply = message(query, OK, &[address(ASKED, 1)]);
        reply[0] ^= 0xff;
        vec![reply]
    }

    /// A forged reply, then the true one (10.0.0.2).
    pub fn wrong_id_first(query: &[u8], is_tcp: bool) -> Vec<Vec<u8>> {
        let mut replies = wrong_id(query, is_tcp);
        replies.push(message(query, OK, &[address(ASKED, 2)]));
        replies
    }

    pub fn garbage(_: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![vec![0xa5; 64]]
    }

    /// Garbage after the right id.
    pub fn garbage_with_id(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![[&query[..2], &[0xa5; 62]].concat()]
    }

    pub fn empty(_: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![Vec::new()]
    }

    /// The header promises a question and an answer, and that is all.
    pub fn header_only(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK, &[address(ASKED, 1)])[..12].to_vec()]
    }

    /// The second of two records ends in its middle.
    pub fn cut_short(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let mut reply = message(query, OK, &[address(ASKED, 1), address(ASKED, 2)]);
        reply.truncate(reply.len() - 6);
        vec![reply]
    }

    /// The owner of the record is a compression pointer to itself.
    pub fn pointer_loop(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let here = u16::try_from(12 + question(query).len()).unwrap();
        let owner = (0xc000 | here).to_be_bytes();
        vec![message(query, OK, &[address(&owner, 1)])]
    }

    /// Question and record are about another name.
    pub fn wrong_question(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let other = [&wire("other.test")[..], &question(query)[question(query).len() - 4..]].concat();
        vec![message_about(query, &other, OK, &[address(ASKED, 1)])]
    }

    /// Neither a question nor its count.
    pub fn no_question(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let name = &question(query)[..question(query).len() - 4];
        vec![message_about(query, &[], OK, &[address(name, 1)])]
    }

    pub fn format_error(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK | 1, &[])]
    }

    pub fn not_implemented(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK | 4, &[])]
    }

    /// An answer that claims to be a query.
    pub fn query_bit(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK & !RESPONSE, &[address(ASKED, 1)])]
    }

    /// NXDOMAIN and a record all the same.
    pub fn nxdomain_with_record(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK | 3, &[address(ASKED, 1)])]
    }

    /// SERVFAIL and a record all the same.
    pub fn servfail_with_record(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK | 2, &[address(ASKED, 1)])]
    }

    /// 1,000 addresses, 10.0.0.0 to 10.0.3.231: over UDP only if that fits, so see [`over_tcp`].
    pub fn thousand_records(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let records: Vec<_> = (0..1000).map(|n| address(ASKED, n)).collect();
        vec![message(query, OK, &records)]
    }

    /// The one record belongs to a name that nobody asked for.
    pub fn unrelated_owner(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK, &[address(&wire("other.test"), 1)])]
    }

    /// 10.0.0.1 for the name, 10.0.0.2 for one that nobody asked for.
    pub fn unrelated_beside(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let records = [address(ASKED, 1), address(&wire("other.test"), 2)];
        vec![message(query, OK, &records)]
    }

    /// The record is in the additional section, the answer section is empty.
    pub fn in_additional(query: &[u8], is_tcp: bool) -> Vec<Vec<u8>> {
        let mut replies = well_formed(query, is_tcp);
        replies[0].swap(7, 11);
        replies
    }

    /// db.test → loop.test → db.test, in one reply.
    pub fn cname_loop(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let (db, other) = (wire("db.test"), wire("loop.test"));
        let records = [cname(&db, &other), cname(&other, &db)];
        vec![message(query, OK, &records)]
    }

    /// x → xx.test, whatever is asked: one hop in each reply, for ever.
    pub fn cname_for_ever(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let hop = format!("{}.test", "x".repeat(usize::from(query[12]) % 60 + 1));
        vec![message(query, OK, &[cname(ASKED, &wire(&hop))])]
    }

    /// 30 CNAMEs and the address in one reply.
    pub fn cname_chain(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let hop = |n| wire(&format!("hop{n}.test"));
        let mut records = vec![cname(ASKED, &hop(1))];
        records.extend((1..30).map(|n| cname(&hop(n), &hop(n + 1))));
        records.push(address(&hop(30), 1));
        vec![message(query, OK, &records)]
    }

    /// 3,200 CNAMEs and the address in one reply, about as many as a message holds: see [`over_tcp`].
    pub fn long_cname_chain(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let hop = |n| wire(&format!("{n:03x}"));
        let mut records = vec![cname(ASKED, &hop(0))];
        records.extend((1..3200).map(|n| cname(&hop(n - 1), &hop(n))));
        records.push(address(&hop(3199), 1));
        vec![message(query, OK, &records)]
    }

    /// The CNAME comes after the address of its target.
    pub fn cname_last(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let target = wire("target.test");
        let records = [address(&target, 1), cname(ASKED, &target)];
        vec![message(query, OK, &records)]
    }

    /// An A record of 3 bytes.
    pub fn wrong_rdlength(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK, &[record(ASKED, 1, IN, &[10, 0, 0])])]
    }

    pub fn chaos_class(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![message(query, OK, &[record(ASKED, 1, 3, &[10, 0, 0, 1])])]
    }

    const RESPONSE: u16 = 0x8000;
    const TRUNCATED: u16 = 0x0200;
    /// A response without error; recursion desired and available.
    const OK: u16 = RESPONSE | 0x0180;
    const IN: u16 = 1;
    /// A compression pointer to the name in the question.
    const ASKED: &[u8] = &[0xc0, 12];

    fn message(query: &[u8], flags: u16, answers: &[Vec<u8>]) -> Vec<u8> {
        message_about(query, question(query), flags, answers)
    }

    fn message_about(query: &[u8], question: &[u8], flags: u16, answers: &[Vec<u8>]) -> Vec<u8> {
        let questions = u16::from(!question.is_empty());
        let answer_count = u16::try_from(answers.len()).unwrap();
        let mut message = query[..2].to_vec();
        for field in [flags, questions, answer_count, 0, 0] {
            message.extend(field.to_be_bytes());
        }
        message.extend(question);
        message.extend(answers.concat());
        message
    }

    /// Name, type and class as they were asked: a query's only question begins after the header.
    fn question(query: &[u8]) -> &[u8] {
        let name = query[12..].iter().position(|byte| *byte == 0).unwrap();
        &query[12..12 + name + 1 + 4]
    }

    /// 10.0.x.y for x × 256 + y.
    fn address(owner: &[u8], number: u16) -> Vec<u8> {
        let [high, low] = number.to_be_bytes();
        record(owner, 1, IN, &[10, 0, high, low])
    }

    fn cname(owner: &[u8], target: &[u8]) -> Vec<u8> {
        record(owner, 5, IN, target)
    }

    fn record(owner: &[u8], kind: u16, class: u16, data: &[u8]) -> Vec<u8> {
        let mut record = owner.to_vec();
        record.extend(kind.to_be_bytes());
        record.extend(class.to_be_bytes());
        record.extend(60_u32.to_be_bytes());
        record.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        record.extend(data);
        record
    }

    fn wire(name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in name.split('.') {
            bytes.push(label.len().try_into().unwrap());
            bytes.extend(label.bytes());
        }
        bytes.push(0);
        bytes
    }
}

/// One free port for both protocols.
pub(crate) async fn bind(ip: IpAddr) -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind((ip, 0)).await.unwrap();
        // Somebody else's TCP port may have the number that UDP was given.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port on {ip} is free for UDP and TCP");
}

fn fqdn(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap().to_lowercase();
    name.set_fqdn(true);
    name
}

fn soa_record(negative_ttl: u32) -> Record {
    let (server, mailbox) = (fqdn("ns.test"), fqdn("hostmaster.test"));
    let data = SOA::new(server, mailbox, 1, 3600, 600, 86_400, negative_ttl);
    Record::from_rdata(fqdn("test"), negative_ttl, RData::SOA(data))
}
