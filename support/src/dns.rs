//! A name server for tests: it answers what the test scripted, over UDP and TCP, with the quirks that servers have.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, SOA},
    },
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
    server: Server,
    _tasks: Arc<JoinSet<()>>,
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
    /// Messages of the test's choice for the query and whether it came over TCP. None: silence over UDP, the end of the
    /// connection over TCP.
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

/// From a query, and whether it came over TCP, to the messages that go back.
pub type Behaviour = fn(&[u8], bool) -> Vec<Vec<u8>>;

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

/// A query that arrived.
#[derive(Clone, Debug)]
pub struct Query {
    /// One that is sent again keeps it.
    id: u16,
    /// In lower case, without the final dot.
    pub name: String,
    pub record_type: RecordType,
    pub over_tcp: bool,
    /// Whether it has an OPT record.
    pub has_edns: bool,
    pub at: Instant,
}

impl FakeDns {
    pub async fn start() -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into()).await
    }

    /// On another loopback address, such as 127.0.0.2.
    pub async fn start_on(ip: IpAddr) -> Self {
        Self::serve(ip, Arc::new(Mutex::new(Script { ttl: 60, ..Script::default() }))).await
    }

    /// A server that says this, whatever it is asked.
    pub async fn always(reply: Reply) -> Self {
        let server = Self::start().await;
        server.script().always = Some(reply);
        server
    }

    /// A server that says what this one says, but with a cache, queries, quirks and delays of its own: an answer is
    /// repeated until its TTL is over, with what is left of it.
    pub async fn resolver(&self) -> Self {
        let resolver = Self::serve(Ipv4Addr::LOCALHOST.into(), self.server.script.clone()).await;
        resolver.set_caching();
        resolver
    }

    async fn serve(ip: IpAddr, script: Arc<Mutex<Script>>) -> Self {
        let (udp, tcp) = bind(ip).await;
        let (address, udp) = (udp.local_addr().unwrap(), Arc::new(udp));
        let server = Server { script, own: Arc::default() };
        let mut tasks = JoinSet::new();
        let by_udp = server.clone();
        tasks.spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
                let (server, udp, query) = (by_udp.clone(), udp.clone(), buffer[..length].to_vec());
                tokio::spawn(async move {
                    for message in server.replies(&query, false).await.unwrap_or_default() {
                        // The client may have gone.
                        let _ = udp.send_to(&message, client).await;
                    }
                });
            }
        });
        let by_tcp = server.clone();
        tasks.spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                // An error is the client's end of the connection.
                tokio::spawn(by_tcp.clone().serve_stream(stream));
            }
        });
        Self { address, server, _tasks: Arc::new(tasks) }
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.server.script.lock().unwrap()
    }

    fn own(&self) -> std::sync::MutexGuard<'_, Own> {
        self.server.own.lock().unwrap()
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
        let mut script = self.script();
        script.replies.retain(|(name, _), _| *name != alias);
        script.dangling.remove(&alias);
        script.aliases.insert(alias, target);
    }

    /// From now on the reply for this alias holds the CNAME alone.
    pub fn dangling(&self, alias: &str) {
        self.script().dangling.insert(fqdn(alias));
    }

    pub fn set_reply(&self, name: &str, record_type: RecordType, reply: Reply) {
        let name = fqdn(name);
        let mut script = self.script();
        script.aliases.remove(&name);
        script.served.remove(&(name.clone(), record_type));
        script.replies.insert((name, record_type), reply);
    }

    /// The TTL of all records but those of [`Reply::Records`]; 60 s unless set.
    pub fn set_ttl(&self, seconds: u32) {
        self.script().ttl = seconds;
    }

    /// From now on an answer is repeated until its TTL is over, with what is left of it: a caching resolver in
    /// between. What the script says meanwhile, nobody hears.
    pub fn set_caching(&self) {
        self.own().cache = Some(HashMap::new());
    }

    /// The server takes so long for each reply. A TCP query waits for those before it of its connection.
    pub fn set_delay(&self, delay: Duration) {
        self.own().delay = delay;
    }

    /// From now on these, and no others.
    pub fn set_quirks(&self, quirks: &[Quirk]) {
        self.own().quirks = quirks.to_vec();
    }

    /// As if the name had never been set: NXDOMAIN.
    pub fn remove(&self, name: &str) {
        let name = fqdn(name);
        let mut script = self.script();
        script.aliases.remove(&name);
        script.replies.retain(|(owner, _), _| *owner != name);
    }

    pub fn queries(&self) -> Vec<Query> {
        self.own().queries.clone()
    }

    /// How many queries there were, those not counted that were sent again.
    pub fn looks(&self) -> usize {
        self.queries().iter().map(|query| query.id).collect::<HashSet<_>>().len()
    }

    pub fn clear_queries(&self) {
        self.own().queries.clear();
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

#[derive(Default)]
struct Script {
    ttl: u32,
    always: Option<Reply>,
    aliases: HashMap<Name, Name>,
    dangling: HashSet<Name>,
    replies: HashMap<(Name, RecordType), Reply>,
    /// The last reply of several and the id of the query it was for.
    served: HashMap<(Name, RecordType), (u16, Reply)>,
}

/// What is a server's own, where several say the same.
#[derive(Default)]
struct Own {
    queries: Vec<Query>,
    delay: Duration,
    quirks: Vec<Quirk>,
    /// What is repeated, and until when.
    cache: Option<HashMap<(Name, RecordType), Cached>>,
}

type Cached = (Vec<Record>, Instant);

impl Script {
    /// The CNAME records to begin with, their last target, and the reply that this one has.
    fn reply(&mut self, name: &Name, record_type: RecordType, id: u16) -> (Vec<Record>, Name, Reply) {
        let mut chain = Vec::new();
        let mut owner = name.clone();
        if let Some(reply) = &self.always {
            return (chain, owner, reply.clone());
        }
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
        let exists = self.replies.keys().any(|(name, _)| *name == owner);
        let reply = match self.replies.get_mut(&key) {
            Some(scripted @ (Reply::ByTime(..) | Reply::InTurn(_) | Reply::Sequence(_))) => match self.served.get(&key)
            {
                Some((last, reply)) if *last == id => reply.clone(),
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
    fn cached(&self, key: &(Name, RecordType)) -> Option<Vec<Record>> {
        let (records, until) = self.cache.as_ref()?.get(key)?;
        let left = until.checked_duration_since(Instant::now())?;
        let mut records = records.clone();
        records.iter_mut().for_each(|record| record.ttl = u32::try_from(left.as_secs()).unwrap());
        Some(records)
    }

    fn remember(&mut self, key: (Name, RecordType), records: &[Record]) {
        let ttl = records.iter().map(|record| record.ttl).min();
        if self.cached(&key).is_none()
            && let (Some(cache), Some(ttl)) = (&mut self.cache, ttl)
        {
            cache.insert(key, (records.to_vec(), Instant::now() + Duration::from_secs(ttl.into())));
        }
    }
}

#[derive(Clone)]
struct Server {
    script: Arc<Mutex<Script>>,
    own: Arc<Mutex<Own>>,
}

impl Server {
    async fn serve_stream(self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut query = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut query).await?;
            match self.replies(&query, true).await {
                None => {}
                Some(replies) if replies.is_empty() => return Ok(()),
                Some(replies) => {
                    for reply in replies {
                        let length = u16::try_from(reply.len()).unwrap().to_be_bytes();
                        // In one piece: two would wait for each other's acknowledgement.
                        stream.write_all(&[&length[..], &reply].concat()).await?;
                    }
                }
            }
        }
    }

    /// `None` is silence.
    async fn replies(&self, bytes: &[u8], over_tcp: bool) -> Option<Vec<Vec<u8>>> {
        let query = Message::from_vec(bytes).ok()?;
        let asked = query.queries.first()?.clone();
        let has_edns = query.edns.is_some();
        let key = (asked.name().to_lowercase(), asked.query_type());
        let (cached, delay, quirks) = {
            let mut own = self.own.lock().unwrap();
            let name = key.0.to_ascii().trim_end_matches('.').to_owned();
            let (id, at) = (query.metadata.id, Instant::now());
            own.queries.push(Query { id, name, record_type: key.1, over_tcp, has_edns, at });
            (own.cached(&key), own.delay, own.quirks.clone())
        };
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        for quirk in &quirks {
            match quirk {
                Quirk::Silent => return None,
                Quirk::TcpOnly if !over_tcp => return None,
                Quirk::UdpOnly if over_tcp => return None,
                Quirk::EdnsDropped if has_edns => return None,
                Quirk::EdnsFormErr if has_edns => {
                    reply.metadata.response_code = ResponseCode::FormErr;
                    return Some(vec![reply.to_vec().unwrap()]);
                }
                Quirk::EdnsNotImp if has_edns => {
                    reply.metadata.response_code = ResponseCode::NotImp;
                    return Some(vec![reply.add_query(asked).to_vec().unwrap()]);
                }
                _ => {}
            }
        }
        reply.add_query(asked);
        let (chain, owner, scripted, ttl) = {
            let mut script = self.script.lock().unwrap();
            let (chain, owner, scripted) = match cached {
                Some(records) => (Vec::new(), key.0.clone(), Reply::Records(records)),
                None => script.reply(&key.0, key.1, query.metadata.id),
            };
            (chain, owner, scripted, script.ttl)
        };
        reply.add_answers(chain);
        sleep(delay).await;
        if let Some(messages) = fill(&mut reply, scripted, &owner, ttl, bytes, over_tcp).await? {
            return Some(messages);
        }
        if reply.metadata.response_code == ResponseCode::NoError {
            self.own.lock().unwrap().remember(key, &reply.answers);
        }
        if over_tcp {
            return Some(vec![reply.to_vec().unwrap()]);
        }
        reply.edns.clone_from(&query.edns);
        let most = query.edns.as_ref().map_or(512, |edns| edns.max_payload().into());
        let mut message = reply.to_vec().unwrap();
        while message.len() > most {
            reply.metadata.truncation = true;
            reply.answers.truncate(reply.answers.len() * most / message.len());
            message = reply.to_vec().unwrap();
        }
        if quirks.contains(&Quirk::Cut) {
            message.truncate(message.len() * 2 / 3);
        }
        Some(vec![message])
    }
}

/// Writes what is scripted into the reply, or tells the messages to send in its place. `None` is silence.
async fn fill(
    reply: &mut Message,
    mut scripted: Reply,
    owner: &Name,
    ttl: u32,
    query: &[u8],
    over_tcp: bool,
) -> Option<Option<Vec<Vec<u8>>>> {
    loop {
        scripted = match scripted {
            Reply::Delayed(delay, next) => {
                sleep(delay).await;
                *next
            }
            Reply::Truncated(whole) if over_tcp => *whole,
            Reply::Truncated(whole) => {
                reply.metadata.truncation = true;
                match *whole {
                    Reply::Addresses(all) => Reply::Addresses(all[..all.len() / 2].to_vec()),
                    Reply::Records(all) => Reply::Records(all[..all.len() / 2].to_vec()),
                    _ => return Some(None),
                }
            }
            Reply::Raw(behaviour) => return Some(Some(behaviour(query, over_tcp))),
            Reply::Silent | Reply::ByTime(..) | Reply::InTurn(_) | Reply::Sequence(_) => return None,
            Reply::Addresses(addresses) => {
                let records = addresses.into_iter().map(|ip| Record::from_rdata(owner.clone(), ttl, RData::from(ip)));
                reply.add_answers(records);
                return Some(None);
            }
            Reply::Records(records) => {
                reply.add_answers(records);
                return Some(None);
            }
            Reply::Edited(edit) => {
                reply.add_answer(Record::from_rdata(owner.clone(), ttl, Ipv4Addr::new(10, 0, 0, 1).into()));
                edit(reply);
                return Some(None);
            }
            Reply::NoData { negative_ttl } => {
                reply.authorities.extend(negative_ttl.map(soa_record));
                return Some(None);
            }
            Reply::NxDomain { negative_ttl } => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.authorities.extend(negative_ttl.map(soa_record));
                return Some(None);
            }
            Reply::Refused => {
                reply.metadata.response_code = ResponseCode::Refused;
                return Some(None);
            }
            Reply::ServFail => {
                reply.metadata.response_code = ResponseCode::ServFail;
                return Some(None);
            }
        };
    }
}

/// Behaviours for [`Reply::Raw`].
pub mod hostile {
    use std::net::Ipv4Addr;

    use hickory_proto::{
        op::{Message, ResponseCode},
        rr::{RData, Record, rdata::CNAME},
    };

    use super::fqdn;

    /// Silence; over TCP the connection is closed at once.
    pub fn no_reply(_: &[u8], _: bool) -> Vec<Vec<u8>> {
        Vec::new()
    }

    pub fn wrong_id(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let mut reply = well_formed(query, 1);
        reply.metadata.id = !reply.metadata.id;
        vec![reply.to_vec().unwrap()]
    }

    /// A forged reply, then the true one, which has another address, too.
    pub fn wrong_id_first(query: &[u8], over_tcp: bool) -> Vec<Vec<u8>> {
        [wrong_id(query, over_tcp), vec![well_formed(query, 2).to_vec().unwrap()]].concat()
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
        vec![well_formed(query, 1).to_vec().unwrap()[..12].to_vec()]
    }

    /// The record ends in its middle.
    pub fn cut_short(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let mut reply = well_formed(query, 1).to_vec().unwrap();
        reply.truncate(reply.len() - 6);
        vec![reply]
    }

    /// The owner of the record is a compression pointer to itself.
    pub fn pointer_loop(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let mut reply = well_formed(query, 1).to_vec().unwrap();
        let owner = reply.len() - RECORD_LENGTH;
        reply[owner..owner + 2].copy_from_slice(&(0xc000 | u16::try_from(owner).unwrap()).to_be_bytes());
        vec![reply]
    }

    /// An A record of 3 bytes.
    pub fn wrong_rdlength(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let mut reply = well_formed(query, 1).to_vec().unwrap();
        let length = reply.len() - 5;
        reply[length] = 3;
        reply.pop();
        vec![reply]
    }

    pub fn not_implemented(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let mut reply = well_formed(query, 0);
        reply.metadata.response_code = ResponseCode::NotImp;
        vec![reply.to_vec().unwrap()]
    }

    /// 1,000 addresses, 10.0.0.1 to 10.0.3.232, which do not fit into a datagram of 4 KB.
    pub fn thousand_records(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        vec![well_formed(query, 1000).to_vec().unwrap()]
    }

    /// x → xx.test, whatever is asked: one hop in each reply, for ever.
    pub fn cname_for_ever(query: &[u8], _: bool) -> Vec<Vec<u8>> {
        let hop = format!("{}.test", "x".repeat(usize::from(query[12]) % 60 + 1));
        let mut reply = well_formed(query, 0);
        let owner = reply.queries[0].name().clone();
        reply.add_answer(Record::from_rdata(owner, 60, RData::CNAME(CNAME(fqdn(&hop)))));
        vec![reply.to_vec().unwrap()]
    }

    /// So many addresses, from 10.0.0.1 on.
    fn well_formed(query: &[u8], count: u16) -> Message {
        let query = Message::from_vec(query).unwrap();
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        let owner = query.queries[0].name().clone();
        reply.add_query(query.queries[0].clone());
        reply.add_answers((0..count).map(|number| {
            let [high, low] = (number + 1).to_be_bytes();
            Record::from_rdata(owner.clone(), 60, Ipv4Addr::new(10, 0, high, low).into())
        }));
        reply
    }

    /// A pointer to the owner, type, class, TTL, length, address.
    const RECORD_LENGTH: usize = 16;
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
