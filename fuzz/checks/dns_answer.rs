use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::Message,
    rr::{DNSClass, Name, RData, Record},
};
use nlb_hostname_targets::{
    answer::Answer, dns::Resolver, failure::ResolveError, hostname::Hostname, target::IpFamily,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    runtime,
};

use super::assert_one_line;

/// The input is what an attacker sends: a byte of options, then messages, each with its length in
/// front as DNS has it over TCP. Each query gets the next of them, and right after it the true
/// reply of the name server, both over real sockets.
pub fn dns_answer(input: &[u8]) {
    let Some((options, messages)) = input.split_first() else { return };
    let family = if options & 1 == 0 { IpFamily::V4 } else { IpFamily::V6 };
    let forger = match options >> 1 & 3 {
        0 => Forger::OtherPort,
        1 => Forger::OtherId,
        _ => Forger::KnowsAll,
    };
    let script = Arc::new(Mutex::new(Script { forger, forged: split(messages), ..Script::default() }));
    let hostname = Hostname::try_from(HOSTNAME.to_owned()).expect("a hostname");
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let result = runtime.block_on(async {
        let server = serve(Arc::clone(&script)).await.expect("sockets on loopback");
        let resolver = Resolver::new(Some(&[server])).expect("there is a name server");
        let started = Instant::now();
        let result = resolver.resolve(&hostname, family, started + PATIENCE).await;
        assert!(started.elapsed() < 2 * PATIENCE, "it took {:?}", started.elapsed());
        result
    });
    // What is still open on the runtime may hold the script.
    drop(runtime);
    let script = lock(&script);
    assert!(script.queries > 0);
    assert_harmless(&result, &script, family);
}

fn assert_harmless(result: &Result<Answer, ResolveError>, script: &Script, family: IpFamily) {
    let truth = BTreeSet::from([true_address(family)]);
    let Answer { addresses, names, ttl, .. } = match result {
        Ok(answer) => answer,
        Err(error) => {
            assert_one_line(&error.to_string());
            // A machine that is held up for seconds is nobody's fault.
            let stopped = script.forger == Forger::KnowsAll || error.to_string().contains("time-out");
            assert!(stopped, "who can't forge a reply spoilt one: {error}");
            return;
        }
    };
    assert!(!addresses.is_empty());
    // They decide which kind of name it is.
    assert_eq!(names.first().map(String::as_str), Some(HOSTNAME));
    assert!(!names.concat().contains(char::is_control), "{names:?}");
    assert!(*ttl <= A_DAY, "the next look would be in {ttl:?}");
    assert!(addresses.iter().all(|address| address.is_ipv4() == (family == IpFamily::V4)));
    if script.forger != Forger::KnowsAll {
        assert_eq!(*addresses, truth, "who can't forge a reply changed the answer");
        return;
    }
    let forged: Vec<_> = script.sent.iter().filter_map(|message| Message::from_vec(message).ok()).collect();
    if script.queries == 1 {
        // One reply is taken as a whole or not at all: half of it would deregister the other half.
        let whole = forged
            .first()
            .map(|message| belonging(&message.answers.iter().collect::<Vec<_>>(), family))
            .unwrap_or_default();
        assert!(*addresses == truth || *addresses == whole, "{addresses:?} is neither {truth:?} nor {whole:?}");
    } else {
        let mut possible = belonging(&forged.iter().flat_map(Message::all_sections).collect::<Vec<_>>(), family);
        possible.extend(truth);
        assert!(addresses.is_subset(&possible), "{addresses:?} is not all in {possible:?}");
    }
}

/// The addresses of the family whose owner is the name or can be reached from it by CNAMEs.
fn belonging(records: &[&Record], family: IpFamily) -> BTreeSet<IpAddr> {
    let records = || records.iter().filter(|record| record.dns_class == DNSClass::IN);
    let mut owners = BTreeSet::from([HOSTNAME.split('.').map(|label| label.as_bytes().to_vec()).collect::<Vec<_>>()]);
    loop {
        let before = owners.len();
        for record in records() {
            if let RData::CNAME(alias) = &record.data
                && owners.contains(&labels(&record.name))
            {
                owners.insert(labels(&alias.0));
            }
        }
        if owners.len() == before {
            break;
        }
    }
    let owned = records().filter(|record| owners.contains(&labels(&record.name)));
    let addresses = owned.filter_map(|record| record.data.ip_addr());
    addresses.filter(|address| address.is_ipv4() == (family == IpFamily::V4)).collect()
}

fn labels(name: &Name) -> Vec<Vec<u8>> {
    name.iter().map(<[u8]>::to_ascii_lowercase).collect()
}

/// What whoever sends the messages knows of the query.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Forger {
    /// The client's port, and the query's id.
    #[default]
    KnowsAll,
    /// The client's port; it does not guess the id.
    OtherId,
    /// Both, but it can't send in the name server's name.
    OtherPort,
}

#[derive(Default)]
struct Script {
    forger: Forger,
    forged: VecDeque<Vec<u8>>,
    queries: usize,
    /// The forged messages that went out.
    sent: Vec<Vec<u8>>,
}

impl Script {
    /// The forged message that comes before the true reply.
    fn next(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        self.queries += 1;
        let mut message = self.forged.pop_front()?;
        for (byte, id) in message.iter_mut().zip(query.iter().take(2)) {
            *byte = if self.forger == Forger::OtherId { !id } else { *id };
        }
        self.sent.push(message.clone());
        Some(message)
    }
}

async fn serve(script: Arc<Mutex<Script>>) -> io::Result<SocketAddr> {
    let stranger = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (udp, tcp) = loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        // Somebody else's TCP port may have the number.
        if let Ok(tcp) = TcpListener::bind(udp.local_addr()?).await {
            break (udp, tcp);
        }
    };
    let address = udp.local_addr()?;
    let connections = Arc::clone(&script);
    tokio::spawn(async move {
        while let Ok((stream, _)) = tcp.accept().await {
            // An error is the client's end of the connection.
            tokio::spawn(serve_stream(stream, Arc::clone(&connections)));
        }
    });
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, client)) = udp.recv_from(&mut buffer).await {
            let query = buffer.get(..length).unwrap_or_default();
            let forged = lock(&script).next(query);
            if let Some(message) = forged {
                let socket = if lock(&script).forger == Forger::OtherPort { &stranger } else { &udp };
                // The client may have gone.
                let _ = socket.send_to(&message, client).await;
            }
            let _ = udp.send_to(&true_reply(query), client).await;
        }
    });
    Ok(address)
}

async fn serve_stream(mut stream: TcpStream, script: Arc<Mutex<Script>>) -> io::Result<()> {
    loop {
        let mut query = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut query).await?;
        let forged = lock(&script).next(&query);
        let replies = forged.into_iter().chain([true_reply(&query)]);
        let framed = replies.flat_map(|reply| {
            let length = u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes();
            [length.to_vec(), reply].concat()
        });
        stream.write_all(&framed.collect::<Vec<_>>()).await?;
    }
}

/// Messages, each with its length in front; the last one ends where the input does.
fn split(mut rest: &[u8]) -> VecDeque<Vec<u8>> {
    let mut messages = VecDeque::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len());
        let (message, behind) = behind.split_at(length);
        messages.push_back(message.to_vec());
        rest = behind;
    }
    messages
}

/// One address for the name that is asked for, whatever it is.
fn true_reply(query: &[u8]) -> Vec<u8> {
    let (header, behind) = query.split_at_checked(12).expect("the resolver sends a header");
    let name = behind.iter().position(|byte| *byte == 0).expect("the resolver sends a name") + 1;
    let question = behind.get(..name + 4).expect("the resolver sends a type and a class");
    let asks_for_v4 = question.get(name..name + 2) == Some(&[0, 1]);
    let (id, _) = header.split_at(2);
    let family = if asks_for_v4 { IpFamily::V4 } else { IpFamily::V6 };
    let (kind, data) = match true_address(family) {
        IpAddr::V4(v4) => (1, v4.octets().to_vec()),
        IpAddr::V6(v6) => (28, v6.octets().to_vec()),
    };
    let length = u8::try_from(data.len()).expect("4 or 16");
    // Owner (the name in the question), type, class, TTL, length.
    let record = [0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, length];
    [id, &[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0], question, &record, &data].concat()
}

fn true_address(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    }
}

fn lock(script: &Mutex<Script>) -> MutexGuard<'_, Script> {
    script.lock().unwrap_or_else(PoisonError::into_inner)
}

const HOSTNAME: &str = "db.test";

/// What a time to live is cut down to.
const A_DAY: Duration = Duration::from_secs(86_400);

/// How long a lookup may take here. No reply is lost, so it ends much sooner.
const PATIENCE: Duration = Duration::from_secs(5);
