//! What name servers do, and what becomes of it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use hickory_server::{net::xfer::Protocol, proto::rr::RecordType};
use serde_json::{Value, json};
use support::{
    World,
    aws::TargetGroup,
    binding,
    dns::{FakeDns, HostileDns, Reply, hostile},
    invoke, invoke_within,
};
use tokio::net::UdpSocket;

#[tokio::test]
async fn a_name_is_asked_as_fully_qualified_and_nothing_else() {
    for written in ["db.test", "db.test.", "db", "DB.Test"] {
        let world = World::new().await;
        let arn = world.aws.create_target_group(TargetGroup::new("db"));
        world.failure(json!({"bindings": [binding(written, &arn)]})).await;
        let names: Vec<_> = world.dns.queries().into_iter().map(|query| query.name).collect();
        assert_eq!(names, [written.trim_end_matches('.').to_lowercase()], "{written}");
    }
}

#[tokio::test]
async fn a_name_of_several_bindings_of_a_group_is_asked_once() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &[]).await;
    let world = world.set(
        "BINDINGS",
        json!([
            {"hostname": "db.test", "target_group_arn": arn, "port": 5432},
            {"hostname": "DB.test.", "target_group_arn": arn, "port": 6432},
        ]),
    );
    let group = world.sync().await.unwrap();
    assert_eq!(group["registered"], json!(["10.0.1.10:5432", "10.0.1.10:6432"]));
    assert_eq!(group["hostnames"].as_array().unwrap().len(), 1);
    assert_eq!(world.dns.queries().len(), 1);
}

#[tokio::test]
async fn every_run_asks_anew() {
    let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
    world.dns.set_ttl(3600);
    let function = world.function().await;
    for last in 11..14 {
        let address = format!("10.0.1.{last}");
        world.dns.set_a("db.test", &[&address]);
        let reply = invoke(&function, json!({})).await.unwrap();
        assert_eq!(reply["groups"][0]["resolved"], json!([address]));
    }
}

#[tokio::test]
async fn the_next_server_is_asked_until_one_answers() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let closed = {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.local_addr().unwrap()
    };
    let failing = FakeDns::start_on(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))).await;
    for reply in [Reply::ServFail, Reply::Refused] {
        failing.set_reply("db.test", RecordType::A, reply);
        let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
        let servers = [failing.address(), world.dns.address()];
        assert_eq!(world.dns_servers(&servers).sync().await.unwrap()["outcome"], "changed");
    }
    let garbage = HostileDns::start(hostile::garbage_with_id).await;
    for dead in [silent.local_addr().unwrap(), closed, garbage.address()] {
        let (world, _) = World::with_database(&["10.0.1.10"], &[]).await;
        let servers = [dead, world.dns.address()];
        assert_eq!(world.dns_servers(&servers).sync().await.unwrap()["outcome"], "changed");
    }
}

/// Groups with a hostname each, db0.test and so on.
async fn databases(count: usize) -> World {
    let world = World::new().await;
    let mut bindings = Vec::new();
    for number in 0..count {
        let arn = world.aws.create_target_group(TargetGroup::new(&format!("db{number}")));
        world.dns.set_a(&format!("db{number}.test"), &["10.0.1.10"]);
        bindings.push(binding(&format!("db{number}.test"), &arn));
    }
    world.set("BINDINGS", Value::from(bindings)).set("ELB_REQUESTS_PER_SECOND", 0)
}

#[tokio::test]
async fn a_dead_server_is_asked_last() {
    let dead = HostileDns::start(hostile::no_reply).await;
    // Some more than the 128 that it takes: a query whose name the next server has answered meanwhile does not count.
    let world = databases(160).await;
    let servers = [dead.address(), world.dns.address()];
    let world = world.dns_servers(&servers);
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    let asked = dead.queries().len();
    assert!(asked >= 128);
    invoke(&function, json!({})).await.unwrap();
    assert_eq!(dead.queries().len(), asked);
}

#[tokio::test]
async fn a_server_that_has_replied_to_others_is_not_dead() {
    let first = FakeDns::start_on(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))).await;
    let world = databases(129).await;
    for number in 0..128 {
        first.set_reply(&format!("db{number}.test"), RecordType::A, Reply::Silent);
    }
    let late = Reply::addresses(&["10.0.1.10"]).delayed(Duration::from_secs(1));
    first.set_reply("db128.test", RecordType::A, late);
    let servers = [first.address(), world.dns.address()];
    let world = world.dns_servers(&servers);
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    first.clear_queries();
    invoke(&function, json!({})).await.unwrap();
    let asked: BTreeSet<_> = first.queries().into_iter().map(|query| query.name).collect();
    assert_eq!(asked.len(), 129);
}

#[tokio::test]
async fn an_answer_that_there_is_no_such_name_is_final() {
    let (world, _) = World::with_database(&[], &[]).await;
    world.dns.set_reply("db.test", RecordType::A, Reply::NxDomain { negative_ttl: Some(5) });
    let second = FakeDns::start_on(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))).await;
    second.set_a("db.test", &["10.0.1.10"]);
    let servers = [world.dns.address(), second.address()];
    let message = world.dns_servers(&servers).failure(json!({})).await;
    assert!(message.contains("NXDOMAIN"), "{message}");
    assert!(second.queries().is_empty());
}

#[tokio::test]
async fn what_each_server_said_is_in_the_error() {
    let (world, _) = World::with_database(&[], &[]).await;
    world.dns.set_reply("db.test", RecordType::A, Reply::ServFail);
    let second = FakeDns::start_on(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))).await;
    second.set_reply("db.test", RecordType::A, Reply::Refused);
    let servers = [world.dns.address(), second.address()];
    let message = world.dns_servers(&servers).failure(json!({})).await;
    for word in ["SERVFAIL", &servers[0].to_string(), "REFUSED", &servers[1].to_string()] {
        assert!(message.contains(word), "{message}\nlacks {word}");
    }
}

#[tokio::test]
async fn a_lost_datagram_is_asked_for_again() {
    let (world, _) = World::with_database(&[], &[]).await;
    let late = Reply::addresses(&["10.0.1.10"]).delayed(Duration::from_secs(3));
    world.dns.set_reply("db.test", RecordType::A, Reply::sequence([late, Reply::addresses(&["10.0.1.10"])]));
    assert_eq!(world.sync().await.unwrap()["outcome"], "changed");
}

#[tokio::test]
async fn a_truncated_answer_is_asked_for_over_tcp() {
    let (world, arn) = World::with_database(&[], &[]).await;
    world.dns.set_reply("db.test", RecordType::A, Reply::addresses(&["10.0.1.10", "10.0.1.11"]).truncated());
    world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn).len(), 2);
    assert!(world.dns.queries().iter().any(|query| query.protocol == Protocol::Tcp));
}

#[tokio::test]
async fn many_addresses_are_registered_in_chunks_of_200() {
    let addresses: Vec<_> = (0..450).map(|number| format!("10.0.{}.{}", number / 200, number % 200)).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let (world, arn) = World::with_database(&addresses, &[]).await;
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

#[tokio::test]
async fn hostile_replies_change_nothing() {
    type Behaviour = fn(&[u8], bool) -> Vec<Vec<u8>>;
    let behaviours: [(&str, Behaviour, &str); 20] = [
        ("wrong_id", hostile::wrong_id, "time-out"),
        ("garbage", hostile::garbage, "time-out"),
        ("garbage_with_id", hostile::garbage_with_id, "malformed"),
        ("empty", hostile::empty, "time-out"),
        ("header_only", hostile::header_only, "malformed"),
        ("cut_short", hostile::cut_short, "malformed"),
        ("pointer_loop", hostile::pointer_loop, "malformed"),
        ("wrong_question", hostile::wrong_question, "time-out"),
        ("no_question", hostile::no_question, "time-out"),
        ("format_error", hostile::format_error, "response code"),
        ("not_implemented", hostile::not_implemented, "response code"),
        ("query_bit", hostile::query_bit, "malformed"),
        ("nxdomain_with_record", hostile::nxdomain_with_record, "NXDOMAIN"),
        ("servfail_with_record", hostile::servfail_with_record, "SERVFAIL"),
        ("unrelated_owner", hostile::unrelated_owner, "no data"),
        ("in_additional", hostile::in_additional, "no data"),
        ("cname_loop", hostile::cname_loop, "no data"),
        ("cname_for_ever", hostile::cname_for_ever, "no data"),
        ("wrong_rdlength", hostile::wrong_rdlength, "malformed"),
        ("chaos_class", hostile::chaos_class, "malformed"),
    ];
    let checks = behaviours.map(|(name, behaviour, word)| {
        Box::pin(async move {
            let server = HostileDns::start(behaviour).await;
            let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
            let world = world.dns_servers(&[server.address()]);
            let message = world.failure(json!({})).await;
            assert!(message.contains(word), "{name}: {message}");
            assert_eq!(world.aws.registered(&arn).len(), 1, "{name}");
            assert!(world.aws.calls_of("RegisterTargets").is_empty(), "{name}");
            assert!(!server.queries().is_empty(), "{name}");
        })
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn hostile_tcp_changes_nothing() {
    type Behaviour = fn(&[u8], bool) -> Vec<Vec<u8>>;
    let behaviours: [(&str, Behaviour); 7] = [
        ("no_reply", hostile::no_reply),
        ("garbage", hostile::garbage),
        ("cut_short", hostile::cut_short),
        ("pointer_loop", hostile::pointer_loop),
        ("wrong_id", hostile::wrong_id),
        ("wrong_question", hostile::wrong_question),
        ("unrelated_owner", hostile::unrelated_owner),
    ];
    let checks = behaviours.map(|(name, behaviour)| {
        Box::pin(async move {
            let server = HostileDns::start(hostile::over_tcp(behaviour)).await;
            let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
            let world = world.dns_servers(&[server.address()]);
            let message = world.failure(json!({})).await;
            assert!(message.contains("db.test"), "{name}: {message}");
            assert_eq!(world.aws.registered(&arn).len(), 1, "{name}");
            assert!(world.aws.calls_of("RegisterTargets").is_empty(), "{name}");
        })
    });
    futures_util::future::join_all(checks).await;
}

#[tokio::test]
async fn odd_but_right_replies_are_taken() {
    type Behaviour = fn(&[u8], bool) -> Vec<Vec<u8>>;
    let behaviours: [(&str, Behaviour); 5] = [
        ("well_formed", hostile::well_formed),
        ("wrong_id_first", hostile::wrong_id_first),
        ("unrelated_beside", hostile::unrelated_beside),
        ("cname_chain", hostile::cname_chain),
        ("cname_last", hostile::cname_last),
    ];
    for (name, behaviour) in behaviours {
        let server = HostileDns::start(behaviour).await;
        let (world, arn) = World::with_database(&[], &[]).await;
        let world = world.dns_servers(&[server.address()]);
        let group = world.sync().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(group["resolved"].as_array().unwrap().len(), 1, "{name}: {group}");
        assert_eq!(world.aws.registered(&arn).len(), 1, "{name}");
    }
}

#[tokio::test]
async fn a_thousand_addresses_over_tcp_are_all_seen() {
    let server = HostileDns::start(hostile::over_tcp(hostile::thousand_records)).await;
    let (world, _) = World::with_database(&[], &[]).await;
    let world = world.dns_servers(&[server.address()]).set("ALLOWED_CIDRS", "10.0.0.0/8");
    let reply = world.run(json!({"dry_run": true})).await.unwrap();
    assert_eq!(reply["groups"][0]["registered"].as_array().unwrap().len(), 1000);
}

#[tokio::test]
async fn a_message_full_of_cnames_is_read_to_its_end() {
    let server = HostileDns::start(hostile::over_tcp(hostile::long_cname_chain)).await;
    let (world, _) = World::with_database(&[], &[]).await;
    let world = world.dns_servers(&[server.address()]);
    assert_eq!(world.sync().await.unwrap()["resolved"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn dns_that_is_slow_is_given_up_before_the_deadline() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
    let world = world.dns_servers(&[address, address, address]);
    let function = world.function().await;
    let time = Duration::from_secs(5);
    let result = tokio::time::timeout(time, invoke_within(&function, json!({}), time)).await;
    let message = result.expect("in time").unwrap_err().to_string();
    assert!(message.contains("time-out") && message.contains(&arn), "{message}");
}
