//! What name servers do, and what becomes of it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hickory_proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{DNSClass, Name, Record, RecordType},
};
use nlb_hostname_targets::{answer::Answer, dns::Resolver, failure::ResolveError, target::IpFamily};
use serde_json::json;
use support::{
    World,
    aws::TargetGroup,
    binding, binding_with,
    dns::{FakeDns, Quirk, Reply, cname, hostile, record},
    invoke_within,
};
use tokio::net::UdpSocket;

use crate::production::servers;

async fn ask(resolver: &Resolver, seconds: u64) -> Result<Answer, ResolveError> {
    let hostname = "db.test".to_owned().try_into().unwrap();
    resolver.resolve(&hostname, IpFamily::V4, Instant::now() + Duration::from_secs(seconds)).await
}

fn resolver(servers: &[SocketAddr]) -> Resolver {
    Resolver::new(Some(servers)).unwrap()
}

/// A server that says this of db.test.
async fn saying(reply: Reply) -> FakeDns {
    let server = FakeDns::start().await;
    server.set_reply("db.test", RecordType::A, reply);
    server
}

#[tokio::test]
async fn a_name_is_asked_as_fully_qualified_and_nothing_else() {
    for written in ["db.test", "db.test.", "db", "DB.Test", "_db.localhost"] {
        let world = World::new().await;
        let arn = world.aws.create_target_group(TargetGroup::new("db"));
        world.failure(json!({"bindings": [binding(written, &arn)]})).await;
        let names: Vec<_> = world.dns.queries().into_iter().map(|query| query.name).collect();
        assert_eq!(names, [written.trim_end_matches('.').to_lowercase()], "{written}");
    }
}

#[tokio::test]
async fn rule_7_a_server_is_asked_in_the_way_that_it_understands() {
    use Quirk::*;
    let cases: [(&[Quirk], u16); 9] = [
        (&[EdnsFormErr], 74),
        (&[EdnsNotImp], 74),
        (&[EdnsDropped], 74),
        (&[EdnsDropped, UdpOnly], 8),
        (&[TcpOnly], 74),
        (&[TcpOnly, EdnsFormErr], 74),
        (&[Cut], 1),
        (&[Cut], 74),
        (&[Cut, EdnsNotImp], 8),
    ];
    let checks = cases.map(async |(quirks, count)| {
        let server = saying(Reply::many(count)).await;
        server.set_quirks(quirks);
        let resolver = resolver(&[server.address()]);
        for time in 1..=2 {
            server.clear_queries();
            let started = Instant::now();
            let answer = ask(&resolver, 10).await.unwrap_or_else(|error| panic!("{quirks:?}, {count}: {error}"));
            assert_eq!(answer.addresses.len(), usize::from(count), "{quirks:?}");
            assert!(started.elapsed() < Duration::from_secs(2), "{quirks:?}: {:?}", started.elapsed());
            let lacks_edns = quirks.iter().any(|quirk| matches!(quirk, EdnsDropped | EdnsFormErr | EdnsNotImp));
            if time == 2 && lacks_edns && !quirks.contains(&TcpOnly) && !quirks.contains(&Cut) {
                assert!(server.queries().iter().all(|query| !query.has_edns), "{quirks:?} is remembered");
            }
        }
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_7_a_server_that_understands_all_is_asked_once_and_by_udp() {
    let server = saying(Reply::many(74)).await;
    ask(&resolver(&[server.address()]), 10).await.unwrap();
    let queries: Vec<_> = server.queries().iter().map(|query| (query.has_edns, query.over_tcp)).collect();
    assert_eq!(queries, [(true, false)]);
}

#[tokio::test]
async fn rule_7_a_lost_datagram_says_nothing_of_a_server() {
    let server = saying(Reply::many(74)).await;
    let resolver = resolver(&[server.address()]);
    server.lose(1);
    ask(&resolver, 10).await.unwrap();
    server.clear_queries();
    ask(&resolver, 10).await.unwrap();
    let queries: Vec<_> = server.queries().iter().map(|query| (query.has_edns, query.over_tcp)).collect();
    assert_eq!(queries, [(true, false)]);
}

#[tokio::test]
async fn rule_7_the_next_server_is_asked_until_one_answers() {
    let good = saying(Reply::many(2)).await;
    let silent = saying(Reply::Silent).await;
    let unread = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let (failing, refusing) = (saying(Reply::ServFail).await, saying(Reply::Refused).await);
    let garbage = FakeDns::always(Reply::Raw(hostile::garbage_with_id)).await;
    // How long each may take, in milliseconds: the dead ones 2 s.
    let cases = [
        (silent.address(), 2500),
        (unread.local_addr().unwrap(), 2500),
        (closed, 2500),
        (failing.address(), 500),
        (refusing.address(), 500),
        (garbage.address(), 500),
    ];
    let checks = cases.map(async |(first, most)| {
        let started = Instant::now();
        ask(&resolver(&[first, good.address()]), 10).await.unwrap();
        assert!(started.elapsed() < Duration::from_millis(most), "{first}: {:?}", started.elapsed());
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_7_what_may_pass_is_tried_again() {
    for failure in [Reply::ServFail, Reply::many(1).delayed(Duration::from_secs(6))] {
        let server = saying(Reply::sequence([failure.clone(), Reply::many(1)])).await;
        ask(&resolver(&[server.address()]), 10).await.unwrap_or_else(|error| panic!("{failure:?}: {error}"));
        let (other, silent) =
            (saying(Reply::sequence([failure.clone(), Reply::many(1)])).await, saying(Reply::Silent).await);
        let servers = [silent.address(), other.address()];
        ask(&resolver(&servers), 10).await.unwrap_or_else(|error| panic!("{failure:?}: {error}"));
    }
}

#[tokio::test]
async fn that_there_is_no_such_name_or_record_is_final() {
    let good = saying(Reply::many(1)).await;
    for (reply, word) in [
        (Reply::NxDomain { negative_ttl: Some(5) }, "NXDOMAIN"),
        (Reply::NxDomain { negative_ttl: None }, "NXDOMAIN"),
        (Reply::NoData { negative_ttl: Some(5) }, "no data"),
    ] {
        let first = saying(reply).await;
        let error = ask(&resolver(&[first.address(), good.address()]), 10).await.unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(first.queries().len(), 1);
        assert!(good.queries().is_empty());
    }
}

#[tokio::test]
async fn an_error_tells_what_each_server_did_that_was_asked() {
    type Server = (Reply, &'static [Quirk]);
    // What the servers do, the seconds that there are, and what is said of each that was asked.
    let cases: [(&[Server], u64, &[&str]); 7] = [
        (&[(Reply::ServFail, &[]), (Reply::Refused, &[])], 10, &["SERVFAIL", "REFUSED"]),
        (&[(Reply::Silent, &[])], 10, &["time-out: no reply within"]),
        (&[(Reply::Silent, &[]), (Reply::Refused, &[])], 3, &["time-out", "REFUSED"]),
        (&[(Reply::Silent, &[]), (Reply::NxDomain { negative_ttl: None }, &[])], 1, &["", "NXDOMAIN"]),
        (&[(Reply::Silent, &[]), (Reply::Silent, &[])], 1, &["no time left", "no time left"]),
        (&[(Reply::many(2).truncated(), &[Quirk::UdpOnly])], 10, &["TCP"]),
        (&[(Reply::many(2).truncated(), &[Quirk::UdpOnly]), (Reply::Refused, &[])], 10, &["TCP", "REFUSED"]),
    ];
    let checks = cases.map(async |(servers, seconds, words)| {
        let servers = join_all(servers.iter().map(async |(reply, quirks)| {
            let server = saying(reply.clone()).await;
            server.set_quirks(quirks);
            server
        }));
        let servers = servers.await;
        let addresses: Vec<_> = servers.iter().map(FakeDns::address).collect();
        let error = ask(&resolver(&addresses), seconds).await.unwrap_err();
        let said: Vec<_> = error.failures.iter().map(|(server, failure)| (*server, failure.to_string())).collect();
        // What is final is said alone.
        let expected: Vec<_> = addresses.into_iter().zip(words).filter(|(_, word)| !word.is_empty()).collect();
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for ((server, said), (asked, word)) in said.iter().zip(expected) {
            assert!(*server == asked && said.contains(word), "{said} ({server}) lacks {word} ({asked})");
        }
    });
    join_all(checks).await;
}

#[tokio::test]
async fn a_dead_server_is_survived_and_blamed_where_the_function_has_3_seconds() {
    let silent = saying(Reply::Silent).await;
    let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
    let servers = [silent.address(), world.dns.address()];
    let world = world.dns_servers(&servers);
    let function = world.function().await;
    invoke_within(&function, json!({}), Duration::from_secs(3)).await.unwrap();
    assert_eq!(world.aws.registered(&arn).len(), 1);

    world.dns.set_reply("db.test", RecordType::A, Reply::Refused);
    let message = invoke_within(&function, json!({}), Duration::from_secs(3)).await.unwrap_err().to_string();
    let silence = message.find(&format!("(name server {})", servers[0])).expect("the first is named");
    let refusal =
        message.find(&format!("REFUSED: the server does not answer this client (name server {})", servers[1]));
    assert!(message.find("time-out").is_some_and(|at| at < silence) && refusal.is_some(), "{message}");
}

#[tokio::test]
async fn dns_that_is_slow_is_given_up_before_the_deadline() {
    let silent = saying(Reply::Silent).await;
    let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
    let world = world.dns_servers(&[silent.address(); 3]);
    let function = world.function().await;
    let time = Duration::from_secs(5);
    let result = tokio::time::timeout(time, invoke_within(&function, json!({}), time)).await;
    let message = result.expect("in time").unwrap_err().to_string();
    assert!(message.contains("time-out") && message.contains(&arn), "{message}");
}

#[tokio::test]
async fn both_ends_of_the_times_to_live_are_known() {
    // In one reply, and where each alias comes alone.
    for comes_alone in [false, true] {
        let server = FakeDns::start().await;
        server.set_ttl(300);
        server.set_cname("db.test", "two.test");
        if comes_alone {
            server.set_reply("db.test", RecordType::A, Reply::Records(vec![cname("db.test", 300, "two.test")]));
        }
        server.set_reply(
            "two.test",
            RecordType::A,
            Reply::Records(vec![
                record("two.test", 20, Ipv4Addr::new(10, 0, 0, 1)),
                record("two.test", 30, Ipv4Addr::new(10, 0, 0, 2)),
                record("other.test", 900, Ipv4Addr::new(10, 0, 0, 3)),
            ]),
        );
        let answer = ask(&resolver(&[server.address()]), 5).await.unwrap();
        assert_eq!(answer.names, ["db.test", "two.test"]);
        assert_eq!(answer.addresses.len(), 2);
        assert_eq!((answer.ttl.as_secs(), answer.longest_ttl.as_secs()), (20, 300), "{comes_alone}");
    }
}

#[tokio::test]
async fn many_addresses_are_registered_in_chunks_of_200() {
    let addresses: Vec<_> = (0..450).map(|number| format!("10.0.{}.{}", number / 200, number % 200)).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let (world, arn) = World::with_database(&addresses, &[]).await;
    let world = world.set("BINDINGS", json!([binding_with("db.test", &arn, &json!({"lookups": 1}))]));
    let group = world.sync().await.unwrap();
    assert_eq!(group["registered"].as_array().unwrap().len(), 450);
    assert_eq!(world.aws.registered(&arn).len(), 450);
    let sizes = |action: &str| -> Vec<_> { world.aws.calls_of(action).iter().map(|call| call.targets.len()).collect() };
    assert_eq!(sizes("RegisterTargets"), [200, 200, 50]);

    world.dns.set_a("db.test", &addresses[..1]);
    world.sync().await.unwrap();
    assert_eq!(sizes("DeregisterTargets"), [200, 200, 49]);
    assert_eq!(world.aws.registered(&arn).len(), 1);
}

/// The one record of [`Reply::Edited`].
fn only(message: &mut Message) -> &mut Record {
    &mut message.answers[0]
}

#[tokio::test]
async fn hostile_replies_are_no_answer() {
    let cases = [
        ("wrong id", Reply::Raw(hostile::wrong_id), "time-out"),
        ("garbage", Reply::Raw(hostile::garbage), "time-out"),
        ("garbage with id", Reply::Raw(hostile::garbage_with_id), "malformed"),
        ("empty", Reply::Raw(hostile::empty), "time-out"),
        ("no reply, and TCP closed", Reply::Raw(hostile::no_reply), "time-out"),
        ("header only", Reply::Raw(hostile::header_only), "malformed"),
        ("cut short", Reply::Raw(hostile::cut_short), "malformed"),
        ("pointer loop", Reply::Raw(hostile::pointer_loop), "malformed"),
        ("wrong length", Reply::Raw(hostile::wrong_rdlength), "malformed"),
        ("a CNAME in each reply, for ever", Reply::Edited(leads_on), "CNAME"),
        ("another question", Reply::Edited(|reply| _ = reply.queries[0].set_name(root())), "time-out"),
        ("no question", Reply::Edited(|reply| reply.queries.clear()), "time-out"),
        ("FORMERR", Reply::Edited(|reply| says(reply, ResponseCode::FormErr)), "response code"),
        ("NOTIMP", Reply::Edited(|reply| says(reply, ResponseCode::NotImp)), "response code"),
        ("a query", Reply::Edited(|reply| reply.metadata.message_type = MessageType::Query), "malformed"),
        ("NXDOMAIN", Reply::Edited(|reply| says(reply, ResponseCode::NXDomain)), "NXDOMAIN"),
        ("SERVFAIL", Reply::Edited(|reply| says(reply, ResponseCode::ServFail)), "SERVFAIL"),
        ("another owner", Reply::Edited(|reply| only(reply).name = root()), "no data"),
        ("another class", Reply::Edited(|reply| only(reply).dns_class = DNSClass::CH), "no data"),
        ("additional", Reply::Edited(|reply| reply.additionals.append(&mut reply.answers)), "no data"),
        ("a loop", Reply::Records(vec![cname("db.test", 60, "a.test"), cname("a.test", 60, "db.test")]), "CNAME"),
        ("a loop of one", Reply::Records(vec![cname("db.test", 60, "db.test")]), "CNAME"),
    ];
    let checks = cases.into_iter().flat_map(|(name, reply, word)| {
        // By TCP, too, where what a datagram can't say is not heard.
        [(name, reply.clone(), word, false), (name, reply.truncated(), word, true)]
    });
    join_all(checks.map(async |(name, reply, word, truncated)| {
        let server = FakeDns::always(reply).await;
        let error = ask(&resolver(&[server.address()]), 10).await.unwrap_err().to_string();
        let is_silent = word == "time-out" && truncated;
        assert!(error.contains(if is_silent { "TCP" } else { word }), "{name}, truncated: {truncated}: {error}");
    }))
    .await;
}

/// x → xx.test, whatever is asked: one hop in each reply.
fn leads_on(reply: &mut Message) {
    let owner = reply.queries[0].name().to_ascii();
    let length = owner.find('.').unwrap_or_default() % 60 + 1;
    *only(reply) = cname(&owner, 60, &format!("{}.test", "x".repeat(length)));
}

fn root() -> Name {
    Name::root()
}

fn says(reply: &mut Message, code: ResponseCode) {
    reply.metadata.response_code = code;
}

#[tokio::test]
async fn odd_but_right_replies_are_taken() {
    let ip = |last| Ipv4Addr::new(10, 0, 0, last);
    let chain = |length: u16| {
        let mut records: Vec<_> =
            (1..length).map(|n| cname(&format!("{:03x}", n - 1), 60, &format!("{n:03x}"))).collect();
        records.insert(0, cname("db.test", 60, "000"));
        records.push(record(&format!("{:03x}", length - 1), 60, ip(1)));
        Reply::Records(records)
    };
    let cases = [
        ("well formed", Reply::many(1), 1),
        ("truncated", Reply::many(9).truncated(), 9),
        ("a thousand", Reply::many(1000).truncated(), 1000),
        ("a forged one first", Reply::Raw(hostile::wrong_id_first), 2),
        ("another name beside", Reply::Records(vec![record("db.test", 5, ip(1)), record("a.test", 5, ip(2))]), 1),
        ("a chain of 30", chain(30), 1),
        ("a chain of 3,000", chain(3000).truncated(), 1),
        ("the CNAME last", Reply::Records(vec![record("a.test", 5, ip(1)), cname("db.test", 60, "a.test")]), 1),
        ("in capitals", Reply::Edited(|reply| only(reply).name = Name::from_ascii("DB.TEST.").unwrap()), 1),
    ];
    for (name, reply, count) in cases {
        let server = FakeDns::always(reply).await;
        let answer = ask(&resolver(&[server.address()]), 10).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.addresses.len(), count, "{name}");
    }
}

#[tokio::test]
async fn servers_that_are_slow_or_silent_are_all_listened_to() {
    // What each server does: its delay in milliseconds, or silence.
    let cases: [&[Option<u64>]; 5] =
        [&[Some(2500)], &[Some(2500), Some(2500)], &[Some(2500), None], &[None, Some(2500)], &[None, None, Some(1800)]];
    let checks = cases.map(async |delays| {
        let servers = servers(delays, "10.0.1.10").await;
        let resolver = resolver(&servers.iter().map(FakeDns::address).collect::<Vec<_>>());
        ask(&resolver, 9).await.unwrap_or_else(|error| panic!("{delays:?}: {error}"));
        // One that says that there is no such name is believed, too.
        servers.iter().for_each(|server| server.remove("db.test"));
        let error = ask(&resolver, 9).await.unwrap_err().to_string();
        assert!(error.contains("NXDOMAIN"), "{delays:?}: {error}");
    });
    join_all(checks).await;
}
