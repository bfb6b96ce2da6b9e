use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::Message,
    rr::{DNSClass, Name, RData, Record, RecordType},
};
use nlb_hostname_targets::{answer::Answer, dns::Resolver, hostname::Hostname, target::IpFamily};
use support::dns::{FakeDns, Reply};
use tokio::runtime;

use super::assert_one_line;

/// The input is what an attacker sends: a byte of options, then messages, each with its length in
/// front as DNS has it over TCP. Each query gets the next of them, and right after it the true
/// reply of the name server, both over real sockets.
pub fn dns_answer(input: &[u8]) {
    let Some((options, messages)) = input.split_first() else { return };
    let family = if options & 1 == 0 { IpFamily::V4 } else { IpFamily::V6 };
    let knows_id = options >> 1 & 3 > 1;
    SCRIPT.set(Script { knows_id, forged: split(messages), ..Script::default() });
    let hostname = Hostname::try_from(HOSTNAME.to_owned()).expect("a hostname");
    let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let result = runtime.block_on(async {
        let server = FakeDns::always(Reply::Raw(forge)).await;
        let resolver = Resolver::new(Some(&[server.address()])).expect("there is a name server");
        let started = Instant::now();
        let result = resolver.resolve(&hostname, family, started + PATIENCE).await;
        assert!(started.elapsed() < 2 * PATIENCE, "it took {:?}", started.elapsed());
        result
    });
    let script = SCRIPT.take();
    assert!(script.queries > 0);
    match result {
        Ok(answer) => assert_harmless(&answer, &script, family),
        Err(error) => {
            assert_one_line(&error.to_string());
            // A machine that is held up for seconds is nobody's fault.
            let stopped = knows_id || error.to_string().contains("time-out");
            assert!(stopped, "who can't forge a reply spoilt one: {error}");
        }
    }
}

fn assert_harmless(answer: &Answer, script: &Script, family: IpFamily) {
    let Answer { addresses, names, ttl, .. } = answer;
    let truth = BTreeSet::from([true_address(family)]);
    assert!(!addresses.is_empty());
    // They decide which kind of name it is.
    assert_eq!(names.first().map(String::as_str), Some(HOSTNAME));
    assert!(!names.concat().contains(char::is_control), "{names:?}");
    assert!(*ttl <= A_DAY, "the next look would be in {ttl:?}");
    if !script.knows_id {
        assert_eq!(*addresses, truth, "who can't forge a reply changed the answer");
        return;
    }
    let forged: Vec<_> = script.sent.iter().filter_map(|message| Message::from_vec(message).ok()).collect();
    if script.queries == 1 {
        // One reply is taken as a whole or not at all: half of it would deregister the other half.
        let whole = forged.first().map(|message| belonging(message.answers.iter(), family)).unwrap_or_default();
        assert!(*addresses == truth || *addresses == whole, "{addresses:?} is neither {truth:?} nor {whole:?}");
    } else {
        let possible = &belonging(forged.iter().flat_map(Message::all_sections), family) | &truth;
        assert!(addresses.is_subset(&possible), "{addresses:?} is not all in {possible:?}");
    }
}

/// The addresses of the family whose owner is the name or can be reached from it by CNAMEs.
fn belonging<'a>(records: impl Iterator<Item = &'a Record>, family: IpFamily) -> BTreeSet<IpAddr> {
    let records: Vec<_> = records.filter(|record| record.dns_class == DNSClass::IN).collect();
    let mut owners = BTreeSet::from([Name::from_ascii(format!("{HOSTNAME}.")).expect("a name")]);
    for _ in 0..records.len() {
        for record in records.iter().filter(|record| owners.contains(&record.name)).collect::<Vec<_>>() {
            owners.extend(if let RData::CNAME(alias) = &record.data { Some(alias.0.clone()) } else { None });
        }
    }
    let owned = records.into_iter().filter(|record| owners.contains(&record.name));
    let addresses = owned.filter_map(|record| record.data.ip_addr());
    addresses.filter(|address| address.is_ipv4() == (family == IpFamily::V4)).collect()
}

#[derive(Default)]
struct Script {
    /// Whether whoever sends the messages knows the query's id.
    knows_id: bool,
    forged: VecDeque<Vec<u8>>,
    queries: usize,
    /// The forged messages that went out.
    sent: Vec<Vec<u8>>,
}

thread_local! {
    static SCRIPT: RefCell<Script> = RefCell::default();
}

/// The next forged message, and then the true reply: one address for the name that is asked for, whatever it is.
fn forge(well_formed: Vec<u8>) -> Vec<Vec<u8>> {
    let asked = Message::from_vec(&well_formed).expect("a message");
    let mut reply = Message::response(asked.metadata.id, asked.metadata.op_code);
    for question in asked.queries {
        let family = if question.query_type() == RecordType::A { IpFamily::V4 } else { IpFamily::V6 };
        reply.add_answer(Record::from_rdata(question.name().clone(), 60, true_address(family).into()));
        reply.add_query(question);
    }
    let forged = SCRIPT.with_borrow_mut(|script| {
        script.queries += 1;
        let mut message = script.forged.pop_front()?;
        for (byte, id) in message.iter_mut().zip(well_formed.iter().take(2)) {
            *byte = if script.knows_id { *id } else { !id };
        }
        script.sent.push(message.clone());
        Some(message)
    });
    forged.into_iter().chain([reply.to_vec().expect("a message")]).collect()
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

fn true_address(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
        IpFamily::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
    }
}

const HOSTNAME: &str = "db.test";

/// What a time to live is cut down to.
const A_DAY: Duration = Duration::from_secs(86_400);

/// How long a lookup may take here. No reply is lost, so it ends much sooner.
const PATIENCE: Duration = Duration::from_secs(5);
