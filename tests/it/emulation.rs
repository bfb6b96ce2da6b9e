//! The emulations themselves, where the tests rely on more than that they refuse what AWS refuses.

use std::time::Duration;

use aws_sdk_elasticloadbalancingv2::{
    Client,
    error::ProvideErrorMetadata,
    types::{Tag, TargetDescription},
};
use hickory_proto::rr::RecordType;
use nlb_hostname_targets::{dns::Resolver, hostname::Hostname, target::IpFamily};
use support::{
    World,
    aws::TargetGroup,
    dns::{FakeDns, Reply},
};
use tokio::time::sleep;

fn target(host: u8) -> TargetDescription {
    TargetDescription::builder().id(format!("10.0.1.{host}")).port(5432).build()
}

/// What DescribeTargetHealth shows: each target's address and state.
async fn shown(client: &Client, arn: &str) -> Vec<(String, String)> {
    let shown = client.describe_target_health().target_group_arn(arn).send().await.unwrap();
    let descriptions = shown.target_health_descriptions().iter();
    let pairs = descriptions.map(|description| {
        let health = description.target_health().unwrap();
        (description.target().unwrap().id().unwrap().to_owned(), health.state().unwrap().as_str().to_owned())
    });
    pairs.collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(address, state)| ((*address).to_owned(), (*state).to_owned())).collect()
}

#[tokio::test]
async fn targets_are_initial_for_a_while_and_reads_show_what_was() {
    let world = World::new().await;
    let client = Client::new(&world.sdk().await);
    let lag = Duration::from_secs(2);
    let spec = TargetGroup::new("db").initial_for(Duration::from_millis(1500)).target_lag(lag).tag_lag(lag);
    let arn = world.aws.create_target_group(spec);
    let tag = Tag::builder().key("team").value("data").build();
    client.add_tags().resource_arns(&arn).tags(tag).send().await.unwrap();
    client.register_targets().target_group_arn(&arn).targets(target(1)).send().await.unwrap();
    assert_eq!(shown(&client, &arn).await, []);
    assert_eq!(world.aws.targets(&arn)["10.0.1.1:5432"], "initial");
    let tags = client.describe_tags().resource_arns(&arn).send().await.unwrap();
    assert!(tags.tag_descriptions()[0].tags().is_empty());

    sleep(Duration::from_millis(2300)).await;
    assert_eq!(world.aws.targets(&arn)["10.0.1.1:5432"], "healthy");
    assert_eq!(shown(&client, &arn).await, pairs(&[("10.0.1.1", "initial")]));
    let tags = client.describe_tags().resource_arns(&arn).send().await.unwrap();
    assert_eq!(tags.tag_descriptions()[0].tags().len(), 1);

    client.deregister_targets().target_group_arn(&arn).targets(target(1)).send().await.unwrap();
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(shown(&client, &arn).await, pairs(&[("10.0.1.1", "healthy")]));
    sleep(Duration::from_millis(800)).await;
    assert_eq!(shown(&client, &arn).await, pairs(&[("10.0.1.1", "draining")]));
    let counts = (world.aws.registrations(&arn, "10.0.1.1:5432"), world.aws.deregistrations(&arn, "10.0.1.1:5432"));
    assert_eq!(counts, (1, 1));
}

#[tokio::test]
async fn a_target_that_may_not_go_keeps_its_batch() {
    let world = World::new().await;
    let client = Client::new(&world.sdk().await);
    let arn = world.aws.create_target_group(TargetGroup::new("db"));
    ["10.0.1.1", "10.0.1.2"].iter().for_each(|address| world.aws.add_target(&arn, address, "healthy"));
    world.aws.refuse_deregistration(&arn, "10.0.1.2");
    let deregister = |hosts: &[u8]| {
        let targets = hosts.iter().map(|host| target(*host)).collect();
        client.deregister_targets().target_group_arn(&arn).set_targets(Some(targets)).send()
    };
    let error = deregister(&[1, 2]).await.unwrap_err();
    assert_eq!(error.code(), Some("ValidationError"));
    assert!(error.message().unwrap().contains("10.0.1.2"));
    assert_eq!(world.aws.registered(&arn).len(), 2);
    deregister(&[1]).await.unwrap();
    assert_eq!(world.aws.registered(&arn).len(), 1);
}

#[tokio::test]
async fn what_changes_anything_has_a_quota_of_its_own() {
    let world = World::new().await.set("AWS_MAX_ATTEMPTS", 1);
    let client = Client::new(&world.sdk().await);
    let arn = world.aws.create_target_group(TargetGroup::new("db"));
    world.aws.set_write_quota(2, 0.001);
    for host in 1..=3 {
        let result = client.register_targets().target_group_arn(&arn).targets(target(host)).send().await;
        assert_eq!(result.is_ok(), host <= 2);
    }
    assert_eq!(shown(&client, &arn).await.len(), 2);
    assert_eq!(world.aws.throttled(), 1);
}

/// What the server answers for `db.test`: the only address and its TTL.
async fn answer(server: &FakeDns) -> (String, u64) {
    let resolver = Resolver::new(Some(&[server.address()])).unwrap();
    let hostname = Hostname::try_from("db.test".to_owned()).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(5);
    let answer = resolver.resolve(&hostname, IpFamily::V4, until).await.unwrap();
    (answer.addresses.first().unwrap().to_string(), answer.ttl.as_secs())
}

#[tokio::test]
async fn resolvers_have_caches_of_their_own() {
    let source = FakeDns::start().await;
    source.set_ttl(3);
    source.set_a("db.test", &["10.0.1.1"]);
    let (first, second) = (source.resolver().await, source.resolver().await);
    assert_eq!(answer(&first).await, ("10.0.1.1".to_owned(), 3));
    source.set_a("db.test", &["10.0.1.2"]);
    assert_eq!(answer(&second).await, ("10.0.1.2".to_owned(), 3));
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(answer(&first).await, ("10.0.1.1".to_owned(), 1), "less than two seconds are left");
    sleep(Duration::from_millis(2000)).await;
    assert_eq!(answer(&first).await, ("10.0.1.2".to_owned(), 3));
    assert_eq!((first.looks(), second.looks(), source.looks()), (3, 1, 0));
}

#[tokio::test]
async fn answers_alternate_by_time() {
    let server = FakeDns::start().await;
    let period = Duration::from_secs(1);
    server.set_reply("db.test", RecordType::A, Reply::flapping(period, &[&["10.0.1.1"], &["10.0.1.2"]]));
    sleep(period / 2).await;
    for expected in ["10.0.1.1", "10.0.1.2", "10.0.1.1"] {
        assert_eq!(answer(&server).await.0, expected);
        sleep(period).await;
    }
}

#[tokio::test]
async fn it_is_as_strict_about_tags_as_elbv2_is() {
    let world = World::new().await;
    let (aws, client) = (&world.aws, Client::new(&world.sdk().await));
    let arns = ["one", "two"].map(|name| aws.create_target_group(TargetGroup::new(name)));
    let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
    let (long_key, long_value) = ("k".repeat(128), "v".repeat(256));
    let rows = [
        (true, vec![tag("k", ""), tag("a/b:c=d+e-f@g.h_i j", "ä 1")]),
        (true, vec![tag(&long_key[1..], &long_value[1..])]),
        (false, vec![]),
        (false, vec![tag("k", "a,b")]),
        (false, vec![tag("k", "[fd00::9]")]),
        (false, vec![tag("k", " a")]),
        (false, vec![tag("", "a")]),
        (false, vec![tag("k", &long_value)]),
        (false, vec![tag(&long_key, "v")]),
        (false, vec![tag("AWS:k", "v")]),
        (false, vec![tag("k", "1"), tag("k", "2")]),
        (false, (0..51).map(|number| tag(&format!("n{number}"), "v")).collect()),
    ];
    for (is_right, tags) in rows {
        let reply = client.add_tags().resource_arns(&arns[0]).set_tags(Some(tags.clone())).send().await;
        assert_eq!((reply.is_ok(), aws.take_violations().is_empty()), (is_right, is_right), "{tags:?}");
    }
    for (is_right, arns, key) in
        [(false, &arns[..], "k"), (false, &arns[..1], "aws:k"), (true, &arns[..1], "not there")]
    {
        let reply = client.remove_tags().set_resource_arns(Some(arns.to_vec())).tag_keys(key).send().await;
        assert_eq!(reply.is_ok(), is_right, "{key}");
    }
    aws.take_violations();
    assert_eq!(aws.tags(&arns[0]).len(), 3);
}
