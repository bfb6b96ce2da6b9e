//! Several answers in one run, for names whose answers are samples.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use tokio::{join, time::sleep};

use super::{READER, advance, bound_to};
use support::{
    Log, World,
    aws::{Fault, FaultKind},
    binding,
    dns::Reply,
    invoke, invoke_within, waiting,
};

/// What an invocation may take: answers are collected in three quarters of ten seconds.
const TIME: Duration = Duration::from_secs(12);

const READERS: [&str; 5] = ["10.0.1.11", "10.0.1.12", "10.0.1.13", "10.0.1.14", "10.0.1.15"];

/// A reader endpoint that gives one of `readers` in turn, each for `ttl` seconds.
async fn reader_endpoint(readers: &[&str], ttl: u32, fields: Value) -> (World, String) {
    let (world, arn) = bound_to(READER, &[], &[], fields).await;
    world.dns.set_ttl(ttl);
    world.dns.set_reply(READER, RecordType::A, Reply::in_turn(readers));
    (world, arn)
}

async fn sync_within(world: &World, time: Duration) -> Value {
    invoke_within(&world.function().await, json!({}), time).await.unwrap()["groups"][0].take()
}

#[tokio::test]
async fn rule_08_all_of_a_reader_endpoint_that_gives_one_in_turn_are_registered_in_one_run() {
    let (world, arn) = reader_endpoint(&READERS, 1, json!({})).await;
    let group = sync_within(&world, TIME).await;
    assert_eq!(group["registered"].as_array().unwrap().len(), 5);
    assert_eq!(world.aws.registered(&arn).len(), 5);
    assert_eq!(world.dns.looks(), 5, "each look is a query");
    assert_eq!(group["kinds"][0]["lookups"], 5);
}

/// A run through a caching resolver: how many of the readers it saw, by how many queries.
async fn through_a_cache(ttl: u32, lookups: u32, warm: bool) -> (usize, usize) {
    let (world, arn) = reader_endpoint(&READERS, ttl, json!({"lookups": lookups})).await;
    world.dns.set_caching();
    let function = world.function().await;
    if warm {
        let once = json!({"dry_run": true, "bindings": [{"hostname": READER, "target_group_arn": arn, "lookups": 1}]});
        invoke(&function, once).await.unwrap();
        world.dns.clear_queries();
        sleep(Duration::from_millis(400)).await;
    }
    invoke(&function, json!({})).await.unwrap();
    (world.aws.registered(&arn).len(), world.dns.looks())
}

#[tokio::test]
async fn rule_08_a_caching_resolver_in_between_does_not_make_all_answers_the_same() {
    // A reader that is alone: after a while without anything new, enough is enough.
    let alone = async {
        let (world, arn) = reader_endpoint(&READERS[..1], 1, json!({"lookups": 10})).await;
        world.sync().await.unwrap();
        (world.aws.registered(&arn).len(), world.dns.looks())
    };
    let (one, two, five, half_over, alone) = join!(
        through_a_cache(1, 4, false),
        through_a_cache(2, 3, false),
        through_a_cache(5, 2, false),
        through_a_cache(2, 3, true),
        alone,
    );
    assert_eq!(one, (4, 4));
    assert_eq!(two, (3, 3));
    assert_eq!(five, (2, 2));
    // The first answer came out of the cache, so that one look came too soon.
    assert_eq!(half_over.1, 3);
    assert!(half_over.0 >= 2, "{half_over:?}");
    assert_eq!(alone.0, 1);
    assert!((3..=6).contains(&alone.1), "{alone:?}");
}

#[tokio::test]
async fn rule_08_stated_lookups_are_a_maximum() {
    for lookups in [1, 2, 4] {
        let (world, arn) = reader_endpoint(&READERS, 1, json!({"lookups": lookups})).await;
        // A target that no answer holds is no reason to look on.
        world.aws.add_target(&arn, "10.0.1.99:5432", "healthy");
        let group = sync_within(&world, TIME).await;
        assert_eq!(group["kinds"][0]["lookups"], lookups);
        assert_eq!(world.dns.looks(), lookups);
        assert_eq!(world.aws.registered(&arn).len(), lookups + 1);
    }
}

#[tokio::test]
async fn rule_08_the_deadline_ends_the_collection() {
    let readers: Vec<_> = (0..60).map(|host| format!("10.0.1.{host}")).collect();
    let readers: Vec<_> = readers.iter().map(String::as_str).collect();
    let (world, arn) = reader_endpoint(&readers, 60, json!({"lookups": 50})).await;
    let function = world.function().await;
    let began = Instant::now();
    invoke_within(&function, json!({}), TIME).await.unwrap();
    // Two seconds are kept for the metrics and the reply.
    assert!(began.elapsed() < TIME - Duration::from_secs(2), "{:?}", began.elapsed());
    let registered = world.aws.registered(&arn).len();
    assert!((10..=50).contains(&registered), "{registered}");
    assert_eq!(world.metric("Failures"), Some(0.0));
}

#[tokio::test]
async fn rule_08_an_answer_of_8_addresses_asks_again_on_its_own() {
    let addresses: Vec<_> = (0..16).map(|host| format!("10.0.1.{host}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let cases = [(8, json!({}), 3..=5, 16), (7, json!({}), 1..=1, 7), (8, json!({"lookups": 1}), 1..=1, 8)];
    for (size, fields, queries, registered) in cases {
        let (world, arn) = bound_to("db.test", &[], &[], fields).await;
        let answers = [&addresses[..size], &addresses[4..4 + size], &addresses[8..8 + size]];
        let replies = answers.into_iter().map(Reply::addresses).collect();
        world.dns.set_reply("db.test", RecordType::A, Reply::InTurn(replies));
        let group = sync_within(&world, TIME).await;
        assert!(queries.contains(&world.dns.looks()), "{size} addresses: {}", world.dns.looks());
        assert_eq!(world.aws.registered(&arn).len(), registered, "{size} addresses");
        // Its kind and its grace stay those of its name.
        assert_eq!(group["kinds"][0]["kind"], "other");
        assert_eq!(group["deregister_after_seconds"], 0);
    }
}

#[tokio::test]
async fn rule_15_what_one_sample_lacks_is_not_missing() {
    let (world, arn) = reader_endpoint(&READERS, 1, json!({"lookups": 2})).await;
    for address in READERS {
        world.aws.add_target(&arn, &format!("{address}:5432"), "healthy");
    }
    let function = world.function().await;
    for _ in 0..2 {
        let group = invoke_within(&function, json!({}), TIME).await.unwrap()["groups"][0].take();
        assert_eq!(group["outcome"], "in_sync");
        assert_eq!(group["waiting"], json!([]));
        // However much time passes: it is answers that tell.
        advance(3600);
    }
    assert_eq!(world.aws.registered(&arn).len(), 5);
    assert_eq!(world.writes(), [""; 0], "not even tags");
}

#[tokio::test]
async fn rule_15_what_is_stated_to_answer_in_full_does() {
    for stated in [json!({"deregister_after_seconds": 0}), json!({"deregister_after_seconds": 0, "lookups": 5})] {
        let (world, arn) = reader_endpoint(&READERS, 1, stated).await;
        world.aws.add_target(&arn, "10.0.1.99:5432", "healthy");
        let group = sync_within(&world, TIME).await;
        assert_eq!(group["deregistered"], json!(["10.0.1.99:5432"]));
        assert_eq!(world.dns.looks(), 1);
    }
    // And with a grace of its own.
    let (world, arn) = reader_endpoint(&READERS[..1], 1, json!({"lookups": 1, "deregister_after_seconds": 600})).await;
    world.aws.add_target(&arn, "10.0.1.99:5432", "healthy");
    let group = world.sync().await.unwrap();
    assert_eq!(group["waiting"][0]["target"], "10.0.1.99:5432");
    advance(601);
    assert_eq!(world.sync().await.unwrap()["deregistered"], json!(["10.0.1.99:5432"]));
}

#[tokio::test]
async fn rule_15_a_dead_target_needs_its_grace_alone() {
    let (world, arn) = reader_endpoint(&READERS[..2], 1, json!({})).await;
    world.aws.add_target(&arn, "10.0.1.99:5432", "unhealthy");
    world.aws.add_target(&arn, "10.0.1.98:5432", "healthy");
    let function = world.function().await;
    let run = async || invoke_within(&function, json!({}), TIME).await.unwrap()["groups"][0].take();
    let group = run().await;
    assert_eq!(waiting(&group), ["10.0.1.99:5432"]);
    advance(250);
    assert_eq!(run().await["deregistered"], json!([]));
    advance(60);
    assert_eq!(run().await["deregistered"], json!(["10.0.1.99:5432"]));
    assert_eq!(world.aws.registered(&arn).len(), 3);
}

#[tokio::test]
async fn rule_15_a_gone_but_healthy_target_goes_by_the_answers_of_many_runs() {
    // No time to live: each look is an answer.
    let (world, arn) = reader_endpoint(&READERS[..2], 0, json!({"lookups": 20})).await;
    let function = world.function().await;
    let run = async || invoke_within(&function, json!({}), Duration::from_secs(3)).await.unwrap()["groups"][0].take();
    for _ in 0..4 {
        run().await;
    }
    world.dns.set_reply(READER, RecordType::A, Reply::in_turn(&READERS[1..2]));
    advance(300);
    let mut runs = 0;
    loop {
        let group = run().await;
        runs += 1;
        if group["deregistered"] == json!(["10.0.1.11:5432"]) {
            break;
        }
        assert_eq!(group["deregistered"], json!([]));
        assert!(runs < 30);
    }
    assert!(runs > 1, "the answers of one run are too few, though the grace is over");
    assert_eq!(world.aws.registered(&arn).len(), 1);

    // A new environment knows nothing of those answers.
    world.aws.add_target(&arn, "10.0.1.11:5432", "healthy");
    let group = invoke_within(&world.function().await, json!({}), TIME).await.unwrap()["groups"][0].take();
    assert_eq!(group["deregistered"], json!([]));
}

#[tokio::test]
async fn rule_08_a_look_that_the_deadline_cuts_off_fails_nothing() {
    let (world, arn) = bound_to(READER, &[], &[], json!({"lookups": 50})).await;
    let slow = |address: &&str| Reply::addresses(&[*address]).delayed(Duration::from_millis(400));
    world.dns.set_reply(READER, RecordType::A, Reply::InTurn(READERS.iter().map(slow).collect()));
    let group = sync_within(&world, Duration::from_secs(5)).await;
    assert_eq!(group["outcome"], "changed");
    assert_eq!(group["error"], Value::Null);
    assert!(world.aws.registered(&arn).len() > 1);
}

#[tokio::test]
async fn rule_08_a_sample_that_fails_does_not_fail_the_name() {
    let failures = [Reply::ServFail, Reply::Refused, Reply::NxDomain { negative_ttl: Some(1) }];
    let runs = failures.into_iter().map(|failure| async move {
        let (world, arn) = bound_to(READER, &[], &["10.0.1.11", "10.0.1.99"], json!({"lookups": 3})).await;
        world.dns.set_ttl(1);
        let [first, second] = ["10.0.1.11", "10.0.1.12"].map(|address| Reply::addresses(&[address]));
        world.dns.set_reply(READER, RecordType::A, Reply::InTurn([first, failure, second].into()));
        let group = world.sync().await.unwrap();
        assert_eq!(group["registered"], json!(["10.0.1.12:5432"]));
        assert_eq!(group["deregistered"], json!([]));
        assert_eq!(group["error"], Value::Null);
        assert_eq!(world.aws.registered(&arn).len(), 3);
    });
    join_all(runs).await;
}

#[tokio::test]
async fn rule_08_a_sample_that_fails_when_it_is_asked_for_once_more_does_not_fail_the_name() {
    let (world, arn) = reader_endpoint(&READERS, 1, json!({"lookups": 2})).await;
    let [first, second] = ["10.0.1.11", "10.0.1.12"].map(|address| Reply::addresses(&[address]));
    let replies = Reply::sequence([first, second.clone(), Reply::ServFail, second]);
    world.dns.set_reply(READER, RecordType::A, replies);
    // Until the second one is registered, the answers are old.
    let slow = FaultKind::SlowReply(Duration::from_millis(2500));
    world.aws.fault(Fault::on("RegisterTargets", slow).after(1).times(1));
    let group = world.sync().await.unwrap();
    assert_eq!(group["error"], Value::Null);
    assert_eq!(world.dns.looks(), 4);
    assert_eq!(world.aws.registered(&arn).len(), 2);
}

#[tokio::test]
async fn rule_08_a_name_whose_first_look_fails_did_not_resolve() {
    let (world, arn) = bound_to(READER, &[], &["10.0.1.11", "10.0.1.99"], json!({})).await;
    let replies = [Reply::Refused, Reply::addresses(&["10.0.1.11"])];
    world.dns.set_reply(READER, RecordType::A, Reply::InTurn(replies.into()));
    let message = world.failure(json!({})).await;
    assert!(message.contains("REFUSED") && message.contains(READER), "{message}");
    assert_eq!(world.aws.registered(&arn).len(), 2);
    assert_eq!(world.aws.tags(&arn).len(), 0);
}

#[tokio::test]
async fn rule_08_where_a_cache_outlasts_the_run_what_an_answer_lacks_is_kept_and_that_is_said() {
    let addresses: Vec<_> = (11..19).map(|host| format!("10.0.1.{host}")).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let (world, arn) = bound_to("db.test", &addresses, &["10.0.1.99"], json!({})).await;
    world.dns.set_caching();
    let (log, _guard) = Log::start();
    let group = world.sync().await.unwrap();
    assert_eq!(world.aws.registered(&arn).len(), 9);
    let error = group["error"].as_str().unwrap();
    assert!(error.contains("db.test") && error.contains("`lookups`: 1"), "{error}");
    assert!(log.text().contains("`lookups`: 1"));
    // Who follows the advice is heard.
    let mut binding = binding("db.test", &arn);
    binding["lookups"] = json!(1);
    let group = world.run(json!({"bindings": [binding]})).await.unwrap()["groups"][0].take();
    assert_eq!(group["deregistered"], json!(["10.0.1.99:5432"]));
    assert_eq!(group["error"], Value::Null);
}
