//! The rows of the table of kinds in docs/rules.md: what "gone" means for each kind of hostname that nothing is configured of.

use aws_sdk_elasticloadbalancingv2::primitives::{DateTime, DateTimeFormat};
use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use nlb_hostname_targets::{
    function::{Function, RunError},
    kind::HostnameKind,
};
use serde_json::{Value, json};
use support::{World, advance, aws::TargetGroup, binding, dns::Reply, invoke, now};

/// What follows from the kind of a hostname.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    grace: u32,
    lookups: u32,
}

const OTHER: Kind = Kind { name: "other", grace: 0, lookups: 1 };
const AURORA_READER: Kind = Kind { name: "aurora_reader", grace: 300, lookups: 5 };
const RDS_PROXY: Kind = Kind { name: "rds_proxy", grace: 120, lookups: 3 };
const LOAD_BALANCER: Kind = Kind { name: "load_balancer", grace: 300, lookups: 5 };

/// A hostname and the names on its CNAME chain, of which the last one has the addresses.
type Chain<'a> = &'a [&'a str];

const ADDRESSES: [&str; 3] = ["10.0.1.10", "10.0.1.11", "10.0.1.12"];

/// A group that holds three targets and is bound to a hostname.
struct Case {
    kind: Kind,
    world: World,
    arn: String,
    function: Function,
    hostname: String,
    /// The name that has the addresses.
    last: String,
}

impl Case {
    async fn new(chain: Chain<'_>, kind: Kind) -> Self {
        let world = World::new().await;
        world.dns.set_ttl(1);
        for pair in chain.windows(2) {
            world.dns.set_cname(pair[0], pair[1]);
        }
        let arn = world.aws.create_target_group(TargetGroup::new("db"));
        for address in ADDRESSES {
            world.aws.add_target(&arn, &format!("{address}:5432"), "healthy");
        }
        let world = world.set("BINDINGS", json!([binding(chain[0], &arn)]));
        let function = world.function().await;
        Self { kind, world, arn, function, hostname: chain[0].to_owned(), last: chain[chain.len() - 1].to_owned() }
    }

    fn answer(&self, addresses: &[&str]) {
        self.world.dns.set_a(&self.last, addresses);
    }

    /// A run with nothing configured but the hostname and the target group.
    async fn run(&self) -> Value {
        self.checked(invoke(&self.function, json!({})).await.map(|mut reply| reply["groups"][0].take()), self.kind)
    }

    /// A run that looks at DNS once, so that it does not take seconds.
    async fn look_once(&self) -> Value {
        let mut binding = binding(&self.hostname, &self.arn);
        binding["lookups"] = json!(1);
        let reply = invoke(&self.function, json!({"bindings": [binding]})).await;
        self.checked(reply.map(|mut reply| reply["groups"][0].take()), Kind { lookups: 1, ..self.kind })
    }

    /// The reply has to say of the kind what is right, and waiting targets have to wait for as long as it says.
    fn checked(&self, group: Result<Value, RunError>, kind: Kind) -> Value {
        let hostname = &self.hostname;
        let group = group.unwrap_or_else(|error| panic!("{hostname}: {error}"));
        let kinds = json!([{"hostname": hostname, "kind": kind.name, "lookups": kind.lookups}]);
        assert_eq!(group["kinds"], kinds);
        assert_eq!(group["deregister_after_seconds"], kind.grace, "{hostname}");
        assert_eq!(group["registered"], json!([]), "{hostname}");
        for waiting in group["waiting"].as_array().unwrap() {
            let apart = seconds(&waiting["deregister_at"]) - seconds(&waiting["missing_since"]);
            assert_eq!(apart, i64::from(kind.grace), "{hostname}");
        }
        group
    }
}

/// A time of the reply, in seconds since the epoch.
fn seconds(time: &Value) -> i64 {
    let text = time.as_str().unwrap();
    assert!(text.ends_with('Z') && text.len() == "2026-11-22T09:00:00Z".len(), "{text}");
    DateTime::from_str(text, DateTimeFormat::DateTime).unwrap().secs()
}

fn waiting(group: &Value) -> Vec<(&str, &Value)> {
    let waiting = group["waiting"].as_array().unwrap().iter();
    waiting.map(|waiting| (waiting["target"].as_str().unwrap(), &waiting["missing_since"])).collect()
}

/// Each of these hostnames answers in full: what it does not give goes in the same run.
async fn answers_in_full(chains: &[Chain<'_>]) {
    for chain in chains {
        let case = Case::new(chain, OTHER).await;
        case.answer(&ADDRESSES[..1]);
        let group = case.run().await;
        assert_eq!(group["deregistered"], json!(["10.0.1.11:5432", "10.0.1.12:5432"]), "{}", case.hostname);
        assert_eq!(group["waiting"], json!([]));
        assert_eq!(case.world.dns.looks(), 1, "{}", case.hostname);
        assert_eq!(case.world.writes(), ["DeregisterTargets"], "{}", case.hostname);
    }
}

/// Each of these hostnames answers with samples: what it does not give waits. The kinds have the same grace, because
/// the hostnames have the same clock.
async fn answers_with_samples(chains: &[(Chain<'_>, Kind)]) {
    let grace = i64::from(chains[0].1.grace);
    let cases = join_all(chains.iter().map(|(chain, kind)| Case::new(chain, *kind))).await;
    let looked = join_all(cases.iter().map(|case| async move {
        case.world.dns.set_reply(&case.last, RecordType::A, Reply::in_turn(&ADDRESSES));
        case.run().await
    }));
    for (case, group) in cases.iter().zip(looked.await) {
        assert_eq!(group["outcome"], "in_sync", "{}", case.hostname);
        assert_eq!(group["waiting"], json!([]), "{}", case.hostname);
        assert_eq!(case.world.dns.looks(), case.kind.lookups as usize, "{}", case.hostname);
        case.world.aws.clear_calls();
    }
    let look_once = async || {
        let mut groups = Vec::new();
        for case in &cases {
            groups.push(case.look_once().await);
        }
        groups
    };

    // Two are missing.
    cases.iter().for_each(|case| case.answer(&ADDRESSES[..1]));
    let began = DateTime::from(now()).secs();
    let first = look_once().await;
    for (case, group) in cases.iter().zip(&first) {
        assert_eq!(waiting(group).len(), 2, "{}", case.hostname);
        assert_eq!(group["deregistered"], json!([]), "{}", case.hostname);
        let noticed = seconds(waiting(group)[0].1);
        assert!((began..=began + 30).contains(&noticed), "{}: {noticed}", case.hostname);
        assert_eq!(case.world.metric("WaitingTargets"), Some(2.0));
    }

    // One of them returns within its grace.
    advance(grace - 60);
    cases.iter().for_each(|case| case.answer(&ADDRESSES[..2]));
    let second = look_once().await;
    for ((case, before), after) in cases.iter().zip(&first).zip(&second) {
        assert_eq!(after["deregistered"], json!([]), "{}", case.hostname);
        assert_eq!(waiting(after), waiting(before)[1..], "{}", case.hostname);
        assert!(case.world.aws.tags(&case.arn).values().all(|value| !value.contains("10.0.1.11")));
    }

    // It is missing again, which starts anew; the grace of the one that stayed away is over.
    advance(60);
    cases.iter().for_each(|case| case.answer(&ADDRESSES[..1]));
    let third = look_once().await;
    for ((case, before), after) in cases.iter().zip(&first).zip(&third) {
        assert_eq!(after["deregistered"], json!(["10.0.1.12:5432"]), "{}", case.hostname);
        assert_eq!(waiting(after).len(), 1, "{}", case.hostname);
        assert_eq!(waiting(after)[0].0, "10.0.1.11:5432");
        let later = seconds(waiting(after)[0].1) - seconds(waiting(before)[0].1);
        assert!(later >= grace, "{}: {later} s later", case.hostname);
        assert_eq!(case.world.aws.targets(&case.arn)["10.0.1.12:5432"], "draining");
    }
}

#[tokio::test]
async fn row_rds_multi_az_instance() {
    let names: [Chain<'_>; 4] = [
        &["orders.c9akciq32abc.eu-west-1.rds.amazonaws.com"],
        &["orders.c9akciq32abc.rds.cn-north-1.amazonaws.com.cn"],
        &["ORDERS.C9AKCIQ32ABC.EU-WEST-1.RDS.AMAZONAWS.COM."],
        // A publicly accessible one, inside its VPC.
        &["orders.c9akciq32abc.us-east-1.rds.amazonaws.com", "ec2-52-1-2-3.compute-1.amazonaws.com"],
    ];
    answers_in_full(&names).await;
}

#[tokio::test]
async fn row_aurora_and_multi_az_cluster_writer() {
    let names: [Chain<'_>; 4] = [
        &["orders.cluster-c9akciq32abc.eu-west-1.rds.amazonaws.com"],
        &["orders.cluster-c9akciq32abc.rds.cn-north-1.amazonaws.com.cn"],
        // As it is: an alias of the instance that is the writer.
        &[
            "orders.cluster-c9akciq32abc.us-east-1.rds.amazonaws.com",
            "orders-instance-1.c9akciq32abc.us-east-1.rds.amazonaws.com",
        ],
        // The writer endpoint of a global database.
        &[
            "orders.global-c9akciq32abc.global.rds.amazonaws.com",
            "orders.cluster-c9akciq32abc.us-east-1.rds.amazonaws.com",
        ],
    ];
    answers_in_full(&names).await;
}

#[tokio::test]
async fn row_aurora_and_multi_az_cluster_reader() {
    let names: [Chain<'_>; 4] = [
        &["orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com"],
        &["orders.cluster-ro-c9akciq32abc.rds.cn-northwest-1.amazonaws.com.cn"],
        &["Orders.Cluster-RO-C9akciq32abc.US-East-1.RDS.AmazonAWS.com."],
        &[
            "orders.cluster-ro-c9akciq32abc.us-east-1.rds.amazonaws.com",
            "orders-instance-2.c9akciq32abc.us-east-1.rds.amazonaws.com",
        ],
    ];
    answers_with_samples(&names.map(|name| (name, AURORA_READER))).await;
}

#[tokio::test]
async fn row_aurora_custom_endpoint() {
    let names: [Chain<'_>; 2] = [
        &["analytics.cluster-custom-c9akciq32abc.eu-west-1.rds.amazonaws.com"],
        &["analytics.cluster-custom-c9akciq32abc.rds.cn-north-1.amazonaws.com.cn"],
    ];
    answers_with_samples(&names.map(|name| (name, AURORA_READER))).await;
}

#[tokio::test]
async fn row_documentdb_and_neptune() {
    let readers: [Chain<'_>; 6] = [
        &["orders.cluster-ro-c9akciq32abc.eu-west-1.docdb.amazonaws.com"],
        &["orders.cluster-ro-c9akciq32abc.docdb.cn-northwest-1.amazonaws.com.cn"],
        &["orders.cluster-ro-c9akciq32abc.eu-west-1.neptune.amazonaws.com"],
        &["analytics.cluster-custom-c9akciq32abc.eu-west-1.neptune.amazonaws.com"],
        &["orders.cluster-ro-c9akciq32abc.neptune.cn-north-1.amazonaws.com.cn"],
        &[
            "orders.cluster-ro-c9akciq32abc.eu-west-1.docdb.amazonaws.com",
            "orders2.c9akciq32abc.eu-west-1.docdb.amazonaws.com",
        ],
    ];
    answers_with_samples(&readers.map(|name| (name, AURORA_READER))).await;
    let writers: [Chain<'_>; 4] = [
        &["orders.cluster-c9akciq32abc.eu-west-1.docdb.amazonaws.com"],
        &["orders2.c9akciq32abc.eu-west-1.docdb.amazonaws.com"],
        &["orders.cluster-c9akciq32abc.eu-west-1.neptune.amazonaws.com"],
        &["db.example.com", "orders.c9akciq32abc.neptune.cn-north-1.amazonaws.com.cn"],
    ];
    answers_in_full(&writers).await;
}

#[test]
fn every_partition_has_its_suffix() {
    for suffix in [
        "amazonaws.com",
        "amazonaws.com.cn",
        "amazonaws.eu",
        "c2s.ic.gov",
        "sc2s.sgov.gov",
        "cloud.adc-e.uk",
        "csp.hci.ic.gov",
    ] {
        for (name, kind) in [
            ("orders.cluster-ro-c9akciq32abc.us-iso-east-1.rds.", HostnameKind::AuroraReader),
            ("orders.cluster-custom-c9akciq32abc.us-iso-east-1.neptune.", HostnameKind::AuroraReader),
            ("orders.proxy-c9akciq32abc.us-iso-east-1.rds.", HostnameKind::RdsProxy),
            ("web-0123456789abcdef.elb.us-iso-east-1.", HostnameKind::LoadBalancer),
            ("internal-web-1234567890.us-iso-east-1.elb.", HostnameKind::LoadBalancer),
            ("orders.c9akciq32abc.us-iso-east-1.rds.", HostnameKind::Instance),
            ("orders.cluster-c9akciq32abc.us-iso-east-1.docdb.", HostnameKind::Instance),
            ("orders.global-c9akciq32abc.global.rds.", HostnameKind::Instance),
            ("orders.shardgrp-c9akciq32abc.us-iso-east-1.rds.", HostnameKind::Other),
            ("replica.sessions.c9akci.euw1.cache.", HostnameKind::Other),
        ] {
            assert_eq!(HostnameKind::of([format!("{name}{suffix}").as_str()]), kind, "{name}{suffix}");
        }
    }
}

#[tokio::test]
async fn row_rds_proxy_and_its_endpoints() {
    let names: [Chain<'_>; 4] = [
        &["orders.proxy-c9akciq32abc.eu-west-1.rds.amazonaws.com"],
        &["readonly.endpoint.proxy-c9akciq32abc.eu-west-1.rds.amazonaws.com"],
        &["orders.proxy-c9akciq32abc.rds.cn-north-1.amazonaws.com.cn"],
        &["ORDERS.PROXY-C9AKCIQ32ABC.EU-WEST-1.RDS.AMAZONAWS.COM."],
    ];
    answers_with_samples(&names.map(|name| (name, RDS_PROXY))).await;
}

#[tokio::test]
async fn row_redshift_elasticache_memorydb_and_msk() {
    let names: [Chain<'_>; 9] = [
        &["dwh.c9akciq32abc.eu-west-1.redshift.amazonaws.com"],
        &["dwh.123456789012.eu-west-1.redshift-serverless.amazonaws.com"],
        &["dwh.c9akciq32abc.cn-north-1.redshift.amazonaws.com.cn"],
        &["master.sessions.c9akci.euw1.cache.amazonaws.com"],
        &["sessions.c9akci.ng.0001.euw1.cache.amazonaws.com"],
        &["sessions.c9akci.0001.cnn1.cache.amazonaws.com.cn"],
        &["sessions-0001-001.sessions.c9akci.memorydb.eu-west-1.amazonaws.com"],
        &["b-1.events.c9akci.c2.kafka.eu-west-1.amazonaws.com"],
        &["db.us-east-1.on.aws"],
    ];
    answers_in_full(&names).await;
}

#[tokio::test]
async fn row_load_balancers() {
    let names: [Chain<'_>; 6] = [
        // An Application Load Balancer, and what the console shows of one.
        &["internal-web-1234567890.eu-west-1.elb.amazonaws.com"],
        &["dualstack.internal-web-1234567890.eu-west-1.elb.amazonaws.com"],
        &["internal-web-1234567890.cn-north-1.elb.amazonaws.com.cn"],
        // A Network Load Balancer.
        &["web-0123456789abcdef.elb.eu-west-1.amazonaws.com"],
        &["web-0123456789abcdef.elb.cn-north-1.amazonaws.com.cn"],
        &["WEB-0123456789ABCDEF.ELB.EU-WEST-1.AMAZONAWS.COM."],
    ];
    answers_with_samples(&names.map(|name| (name, LOAD_BALANCER))).await;
}

#[tokio::test]
async fn row_a_name_of_ones_own() {
    answers_in_full(&[&["db.example.com"], &["db.example.com", "db.internal.example.com"], &["db-1.corp"]]).await;
}

/// Names in one's own zone that lead to `last` by one hop and by two.
fn led_to(last: &str) -> [Vec<&str>; 2] {
    [vec!["db.example.com", last], vec!["DB.Example.COM.", "alias.example.com", last]]
}

#[tokio::test]
async fn row_a_name_of_ones_own_that_leads_to_what_answers_in_full() {
    let lasts = [
        "orders.c9akciq32abc.eu-west-1.rds.amazonaws.com",
        "orders.cluster-c9akciq32abc.eu-west-1.rds.amazonaws.com",
        "dwh.c9akciq32abc.eu-west-1.redshift.amazonaws.com",
        "sessions.c9akci.ng.0001.euw1.cache.amazonaws.com",
    ];
    let chains: Vec<_> = lasts.into_iter().flat_map(led_to).collect();
    answers_in_full(&chains.iter().map(Vec::as_slice).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn row_a_name_of_ones_own_that_leads_to_a_reader_or_a_load_balancer() {
    let readers = [
        "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com",
        "analytics.cluster-custom-c9akciq32abc.rds.cn-north-1.amazonaws.com.cn",
    ];
    let load_balancers =
        ["internal-web-1234567890.eu-west-1.elb.amazonaws.com", "web-0123456789abcdef.elb.cn-north-1.amazonaws.com.cn"];
    let readers = readers.map(|last| (last, AURORA_READER));
    let load_balancers = load_balancers.map(|last| (last, LOAD_BALANCER));
    let chains: Vec<_> = readers
        .into_iter()
        .chain(load_balancers)
        .flat_map(|(last, kind)| led_to(last).map(|chain| (chain, kind)))
        .collect();
    answers_with_samples(&chains.iter().map(|(chain, kind)| (chain.as_slice(), *kind)).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn row_a_name_of_ones_own_that_leads_to_an_rds_proxy() {
    let chains = led_to("orders.proxy-c9akciq32abc.eu-west-1.rds.amazonaws.com");
    answers_with_samples(&chains.each_ref().map(|chain| (chain.as_slice(), RDS_PROXY))).await;
}

#[tokio::test]
async fn a_cname_that_comes_alone_still_tells_the_kind() {
    let chain = ["db.example.com", "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com"];
    let case = Case::new(&chain, AURORA_READER).await;
    case.answer(&ADDRESSES[..1]);
    case.world.dns.dangling("db.example.com");
    assert_eq!(waiting(&case.look_once().await).len(), 2);
}

#[tokio::test]
async fn an_ipv6_group_is_of_the_kind_of_its_hostname_too() {
    let world = World::new().await;
    let reader = "orders.cluster-ro-c9akciq32abc.eu-west-1.rds.amazonaws.com";
    world.dns.set_cname("db.example.com", reader);
    world.dns.set_aaaa(reader, &["fd00::10"]);
    let arn = world.aws.create_target_group(TargetGroup::new("db6").ipv6());
    world.aws.add_target(&arn, "[fd00::11]:5432", "healthy");
    let mut binding = binding("db.example.com", &arn);
    binding["lookups"] = json!(1);
    let group = world.set("BINDINGS", json!([binding])).sync().await.unwrap();
    assert_eq!(group["kinds"][0]["kind"], "aurora_reader");
    assert_eq!(waiting(&group)[0].0, "[fd00::11]:5432");
}

#[test]
fn a_look_alike_is_of_no_kind() {
    let names = [
        "proxy-x.example.com",
        "x.proxy-abc.example.com",
        "x.cluster-ro-abc.eu-west-1.rds.example.com",
        "cluster-ro-x.rds.amazonaws.com",
        "cluster-ro-x.c9akciq32abc.eu-west-1.rds.amazonaws.com",
        "cluster-custom-x.c9akciq32abc.eu-west-1.rds.amazonaws.com",
        "proxy-x.c9akciq32abc.eu-west-1.rds.amazonaws.com",
        "x.cluster-ro-abc.eu-west-1.rds.evil-amazonaws.com",
        "x.cluster-ro-abc.eu-west-1.rdsamazonaws.com",
        "x.cluster-ro-abc.eu-west-1.rds.amazonaws.com.evil.com",
        "x.cluster-ro-abc.eu-west-1.rds.amazonaws.com.au",
        "x.cluster-ro-abc.eu-west-1.redshift.amazonaws.com",
        "x.cluster-rot-abc.eu-west-1.rds.amazonaws.com",
        "x.mycluster-ro-abc.eu-west-1.rds.amazonaws.com",
        "x.eu-west-1.elb.evil-amazonaws.com",
        "x.elb.example.com",
        "x.notelb.amazonaws.com",
        "elb.example.com",
        "elasticloadbalancing.eu-west-1.amazonaws.com",
        "ec2-52-1-2-3.compute-1.amazonaws.com",
        "vpce-0123-abc.elasticloadbalancing.eu-west-1.vpce.amazonaws.com",
        "amazonaws.com",
        "com",
    ];
    for name in names {
        let kind = HostnameKind::of([name]);
        assert!(matches!(kind, HostnameKind::Instance | HostnameKind::Other), "{name}: {kind:?}");
    }
}

#[test]
fn the_first_kind_on_the_chain_counts() {
    let reader = "x.cluster-ro-abc.eu-west-1.rds.amazonaws.com";
    let load_balancer = "web-0123.elb.eu-west-1.amazonaws.com";
    assert_eq!(HostnameKind::of(["db.example.com", reader, load_balancer]), HostnameKind::AuroraReader);
    assert_eq!(HostnameKind::of(["db.example.com", load_balancer, reader]), HostnameKind::LoadBalancer);
    let writer = "x.cluster-abc.eu-west-1.rds.amazonaws.com";
    let instance = "x.abc.eu-west-1.rds.amazonaws.com";
    assert_eq!(HostnameKind::of([writer, instance]), HostnameKind::Instance);
    assert_eq!(HostnameKind::of(["db.example.com", instance]), HostnameKind::Other, "it is none itself");
    assert_eq!(HostnameKind::of([]), HostnameKind::Other);
}
