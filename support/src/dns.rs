//! A name server for tests: it answers what the test scripted, over UDP and TCP, with the quirks that servers have.

pub mod hostile;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard},
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
    script: Arc<Mutex<Script>>,
    _tasks: Arc<JoinSet<()>>,
}

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

pub type Behaviour = fn(Vec<u8>) -> Vec<Vec<u8>>;

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
        let (udp, tcp) = bind().await;
        let (address, udp) = (udp.local_addr().unwrap(), Arc::new(udp));
        let script = Arc::new(Mutex::new(Script { ttl: 60, ..Script::default() }));
        let mut tasks = JoinSet::new();
        let by_udp = Server(script.clone());
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
        let by_tcp = Server(script.clone());
        tasks.spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                // An error is the client's end of the connection.
                tokio::spawn(by_tcp.clone().serve_stream(stream));
            }
        });
        Self { address, script, _tasks: Arc::new(tasks) }
    }

    /// A server that says this, whatever it is asked.
    pub async fn always(reply: Reply) -> Self {
        let server = Self::start().await;
        server.script().always = Some(reply);
        server
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
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
        self.remove(alias);
        self.script().aliases.insert(fqdn(alias), fqdn(target));
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

    /// From now on an answer is repeated until its TTL is over, with what is left of it: a caching resolver in between.
    /// What the script says meanwhile, nobody hears.
    pub fn set_caching(&self) {
        self.script().cache = Some(HashMap::new());
    }

    /// The server takes so long for each reply. A TCP query waits for those before it of its connection.
    pub fn set_delay(&self, delay: Duration) {
        self.script().delay = delay;
    }

    /// From now on these, and no others.
    pub fn set_quirks(&self, quirks: &[Quirk]) {
        self.script().quirks = quirks.to_vec();
    }

    /// As if the name had never been set: NXDOMAIN.
    pub fn remove(&self, name: &str) {
        let name = fqdn(name);
        let mut script = self.script();
        script.aliases.remove(&name);
        script.replies.retain(|(owner, _), _| *owner != name);
    }

    pub fn queries(&self) -> Vec<Query> {
        self.script().queries.clone()
    }

    /// How many queries there were, those not counted that were sent again.
    pub fn looks(&self) -> usize {
        self.queries().iter().map(|query| query.id).collect::<HashSet<_>>().len()
    }

    pub fn clear_queries(&self) {
        self.script().queries.clear();
    }
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

    fn next(&mut self) -> Self {
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

type Key = (Name, RecordType);

#[derive(Default)]
struct Script {
    ttl: u32,
    always: Option<Reply>,
    aliases: HashMap<Name, Name>,
    replies: HashMap<Key, Reply>,
    /// The last reply of several and the id of the query it was for.
    served: HashMap<Key, (u16, Reply)>,
    queries: Vec<Query>,
    delay: Duration,
    quirks: Vec<Quirk>,
    /// What is repeated, and until when.
    cache: Option<HashMap<Key, (Vec<Record>, Instant)>>,
}

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
            chain.push(Record::from_rdata(owner, self.ttl, data));
            owner = target.clone();
        }
        let key = (owner.clone(), record_type);
        let exists = self.replies.keys().any(|(name, _)| *name == owner);
        let served = self.served.get(&key).filter(|(last, _)| *last == id).map(|(_, reply)| reply.clone());
        let reply = match (served, self.replies.get_mut(&key)) {
            (Some(reply), _) => reply,
            (None, Some(scripted)) => scripted.next(),
            (None, None) if exists => Reply::NoData { negative_ttl: Some(self.ttl) },
            (None, None) => Reply::NxDomain { negative_ttl: Some(self.ttl) },
        };
        self.served.insert(key, (id, reply.clone()));
        (chain, owner, reply)
    }

    /// What the cache holds of it. Resolvers count in whole seconds, so less than one shows as none.
    fn cached(&self, key: &Key) -> Option<Vec<Record>> {
        let (records, until) = self.cache.as_ref()?.get(key)?;
        let left = until.checked_duration_since(Instant::now())?;
        let mut records = records.clone();
        records.iter_mut().for_each(|record| record.ttl = u32::try_from(left.as_secs()).unwrap());
        Some(records)
    }

    fn remember(&mut self, key: Key, records: &[Record]) {
        let ttl = records.iter().map(|record| record.ttl).min();
        if self.cached(&key).is_none()
            && let (Some(cache), Some(ttl)) = (&mut self.cache, ttl)
        {
            cache.insert(key, (records.to_vec(), Instant::now() + Duration::from_secs(ttl.into())));
        }
    }
}

#[derive(Clone)]
struct Server(Arc<Mutex<Script>>);

impl Server {
    async fn serve_stream(self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let mut query = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut query).await?;
            let Some(replies) = self.replies(&query, true).await else { continue };
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

    /// `None` is silence.
    async fn replies(&self, bytes: &[u8], over_tcp: bool) -> Option<Vec<Vec<u8>>> {
        let query = Message::from_vec(bytes).ok()?;
        let asked = query.queries.first()?.clone();
        let (id, has_edns) = (query.metadata.id, query.edns.is_some());
        let key = (asked.name().to_lowercase(), asked.query_type());
        let mut reply = Message::response(id, query.metadata.op_code);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        let (chain, owner, scripted, ttl, delay, is_cut) = {
            let mut script = self.0.lock().unwrap();
            let name = key.0.to_ascii().trim_end_matches('.').to_owned();
            script.queries.push(Query { id, name, record_type: key.1, over_tcp, has_edns, at: Instant::now() });
            let has = |quirk| script.quirks.contains(&quirk);
            let is_unheard = if over_tcp { has(Quirk::UdpOnly) } else { has(Quirk::TcpOnly) };
            if has(Quirk::Silent) || is_unheard || (has_edns && has(Quirk::EdnsDropped)) {
                return None;
            }
            if has_edns && has(Quirk::EdnsFormErr) {
                reply.metadata.response_code = ResponseCode::FormErr;
                return Some(vec![reply.to_vec().unwrap()]);
            }
            reply.add_query(asked);
            if has_edns && has(Quirk::EdnsNotImp) {
                reply.metadata.response_code = ResponseCode::NotImp;
                return Some(vec![reply.to_vec().unwrap()]);
            }
            let is_cut = has(Quirk::Cut) && !over_tcp;
            let (chain, owner, scripted) = match script.cached(&key) {
                Some(records) => (Vec::new(), key.0.clone(), Reply::Records(records)),
                None => script.reply(&key.0, key.1, id),
            };
            (chain, owner, scripted, script.ttl, script.delay, is_cut)
        };
        reply.add_answers(chain);
        sleep(delay).await;
        if let Some(behaviour) = fill(&mut reply, scripted, &owner, ttl, over_tcp).await? {
            return Some(behaviour(reply.to_vec().unwrap()));
        }
        if reply.metadata.response_code == ResponseCode::NoError {
            self.0.lock().unwrap().remember(key, &reply.answers);
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
        if is_cut {
            message.truncate(message.len() * 2 / 3);
        }
        Some(vec![message])
    }
}

/// Writes what is scripted into the reply, or tells what makes the messages of it. `None` is silence.
async fn fill(
    reply: &mut Message,
    mut scripted: Reply,
    owner: &Name,
    ttl: u32,
    over_tcp: bool,
) -> Option<Option<Behaviour>> {
    let address = |ip: IpAddr| Record::from_rdata(owner.clone(), ttl, RData::from(ip));
    loop {
        match scripted {
            Reply::Delayed(delay, next) => {
                sleep(delay).await;
                scripted = *next;
                continue;
            }
            Reply::Truncated(whole) => {
                scripted = *whole;
                if !over_tcp {
                    reply.metadata.truncation = true;
                    match &mut scripted {
                        Reply::Addresses(all) => all.truncate(all.len() / 2),
                        Reply::Records(all) => all.truncate(all.len() / 2),
                        _ => return Some(None),
                    }
                }
                continue;
            }
            Reply::Raw(behaviour) => {
                let Reply::Addresses(two) = Reply::many(2) else { return None };
                reply.add_answers(two.into_iter().map(address));
                return Some(Some(behaviour));
            }
            Reply::Silent | Reply::InTurn(_) | Reply::Sequence(_) => return None,
            Reply::Addresses(addresses) => _ = reply.add_answers(addresses.into_iter().map(address)),
            Reply::Records(records) => _ = reply.add_answers(records),
            Reply::Edited(edit) => {
                reply.add_answer(address(Ipv4Addr::new(10, 0, 0, 1).into()));
                edit(reply);
            }
            Reply::NoData { negative_ttl } => reply.authorities.extend(negative_ttl.map(soa_record)),
            Reply::NxDomain { negative_ttl } => {
                reply.metadata.response_code = ResponseCode::NXDomain;
                reply.authorities.extend(negative_ttl.map(soa_record));
            }
            Reply::Refused => reply.metadata.response_code = ResponseCode::Refused,
            Reply::ServFail => reply.metadata.response_code = ResponseCode::ServFail,
        }
        return Some(None);
    }
}

/// One free port for both protocols.
async fn bind() -> (UdpSocket, TcpListener) {
    for _ in 0..100 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        // Somebody else's TCP port may have the number that UDP was given.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for UDP and TCP");
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
