//! A name server for tests: it answers what the test scripted, over UDP and TCP, with the quirks that servers have.

pub mod hostile;
mod reply;
mod server;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use hickory_proto::rr::RecordType;
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

pub use reply::{Quirk, Reply, cname, record};
pub use server::Query;

use reply::fqdn;
use server::{Script, Server};

/// A recursive resolver on loopback, over UDP and TCP. Clones share one script; the last one stops it.
#[derive(Clone)]
pub struct FakeDns {
    address: SocketAddr,
    script: Arc<Mutex<Script>>,
    _tasks: Arc<JoinSet<()>>,
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

    /// The next datagrams get lost, so many of them.
    pub fn lose(&self, datagrams: usize) {
        self.script().lost = datagrams;
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

    pub fn clear_queries(&self) {
        self.script().queries.clear();
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
