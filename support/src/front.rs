//! A relay in front of a server, whose connections die on command: what firewalls, NAT gateways and load balancers in
//! between do to connections that a frozen process has left alone.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
    select,
    sync::oneshot,
    task::JoinSet,
};

/// The relay. It ends with its connections when this goes.
pub struct Front {
    address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

/// How a connection dies.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Death {
    /// It is closed.
    Fin,
    /// It is reset.
    Rst,
    /// Without a word: what is sent is swallowed, and nothing ever comes.
    Silent,
}

impl Death {
    pub const ALL: [Self; 3] = [Self::Fin, Self::Rst, Self::Silent];
}

/// How to die, and whom to tell when it is over.
type Kill = (Death, oneshot::Sender<()>);

#[derive(Default)]
struct State {
    number: AtomicUsize,
    /// What kills each connection.
    open: Mutex<HashMap<usize, oneshot::Sender<Kill>>>,
    lost: AtomicUsize,
}

impl Front {
    /// In front of a server that is reached over TCP.
    pub async fn new(server: SocketAddr) -> Self {
        Self::new_on(Ipv4Addr::LOCALHOST.into(), server).await
    }

    /// On another loopback address, such as 127.0.0.2.
    pub async fn new_on(ip: IpAddr, server: SocketAddr) -> Self {
        let tcp = TcpListener::bind((ip, 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let state = Arc::<State>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let state = state.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((client, _)) = tcp.accept().await {
                    let (state, number) = (state.clone(), state.number.fetch_add(1, Ordering::Relaxed));
                    // Before it does anything, so that whoever kills the open ones does not miss it.
                    let (kill, killed) = oneshot::channel();
                    state.open.lock().unwrap().insert(number, kill);
                    connections.spawn(async move {
                        // An error is the end of either side.
                        let _ = state.serve(client, server, killed).await;
                        state.open.lock().unwrap().remove(&number);
                    });
                    while connections.try_join_next().is_some() {}
                }
            }
        });
        Self { address, state, _tasks: tasks }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections there were so far.
    pub fn opened(&self) -> usize {
        self.state.number.load(Ordering::Relaxed)
    }

    /// Lets all open connections die, and returns how many they were. New ones are served as before.
    pub async fn kill(&self, death: Death) -> usize {
        let open: Vec<_> = self.state.open.lock().unwrap().drain().collect();
        let mut killed = 0;
        for (_, kill) in open {
            let (done, wait) = oneshot::channel();
            if kill.send((death, done)).is_ok() && wait.await.is_ok() {
                killed += 1;
            }
        }
        killed
    }

    /// How many connections that had died silently were sent a request, which nobody will ever answer.
    pub fn lost(&self) -> usize {
        self.state.lost.load(Ordering::Relaxed)
    }
}

impl State {
    async fn serve(
        &self,
        mut client: TcpStream,
        server: SocketAddr,
        killed: oneshot::Receiver<Kill>,
    ) -> io::Result<()> {
        let mut server = TcpStream::connect(server).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (death, done) = select! {
            copied = copy_bidirectional(&mut client, &mut server) => return copied.map(drop),
            Ok(death) = killed => death,
        };
        drop(server);
        match death {
            Death::Fin => client.shutdown().await?,
            // Then a socket that is closed sends a RST.
            Death::Rst => client.set_zero_linger()?,
            Death::Silent => {
                let _ = done.send(());
                let mut swallowed = 0;
                let mut buffer = [0; 4096];
                while let count @ 1.. = client.read(&mut buffer).await? {
                    // A client that closes the connection says goodbye, which is no request.
                    if (swallowed..swallowed + count).contains(&LONGEST_GOODBYE) {
                        self.lost.fetch_add(1, Ordering::Relaxed);
                    }
                    swallowed += count;
                }
                return Ok(());
            }
        }
        drop(client);
        let _ = done.send(());
        Ok(())
    }
}

/// Bytes: what TLS sends when it closes a connection is 24 or 31.
const LONGEST_GOODBYE: usize = 64;
