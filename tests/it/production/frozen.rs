//! Lambda freezes the process between two invocations. Its connections die meanwhile, with or without word.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use support::{
    World,
    aws::TargetGroup,
    binding,
    dns::Reply,
    front::{Death, Front},
    runtime_api::{Bootstrap, RuntimeApi},
    tls::{Authority, Tls},
};
use tokio::time::sleep;

/// Longer than a connection may be idle to be used again.
const FREEZE: Duration = Duration::from_secs(6);

const LIMIT: Duration = Duration::from_secs(30);

/// The real binary, which reaches AWS through a relay that lets connections die: over TLS where it has one target group.
/// Of many, the handshakes alone would keep the processors busy.
struct Running {
    world: World,
    arns: Vec<String>,
    tls: Tls,
    front: Front,
    api: RuntimeApi,
    bootstrap: Bootstrap,
    _authority: Authority,
}

impl Running {
    /// With so many target groups, all in step. Of their calls as many as can be are under way at once.
    async fn start(groups: u8) -> Self {
        let mut world = World::new().await;
        let mut bindings = Vec::new();
        let mut arns = Vec::new();
        for host in 1..=groups {
            let arn = world.aws.create_target_group(TargetGroup::new(&format!("g{host}")));
            world.dns.set_a(&format!("g{host}.test"), &[&format!("10.0.1.{host}")]);
            world.aws.add_target(&arn, &format!("10.0.1.{host}"), "healthy");
            bindings.push(binding(&format!("g{host}.test"), &arn));
            arns.push(arn);
        }
        let authority = Authority::new();
        let tls = world.aws.over_tls(&authority).await;
        let (protocol, server) = if groups > 1 { ("http", world.aws.address()) } else { ("https", tls.address()) };
        // So long that calls of many groups do open connections of their own.
        world.aws.set_latency(Duration::from_millis(if groups > 1 { 300 } else { 0 }));
        let front = Front::new(server).await;
        world = world
            .set("AWS_ENDPOINT_URL", format!("{protocol}://{}", front.address()))
            .set("BINDINGS", Value::from(bindings))
            .set("ELB_REQUESTS_PER_SECOND", 0)
            .set("SSL_CERT_FILE", authority.file().display());
        let api = RuntimeApi::start().await;
        let bootstrap = Bootstrap::start(env!("CARGO_BIN_EXE_bootstrap"), &api, world.environment());
        Self { world, arns, tls, front, api, bootstrap, _authority: authority }
    }

    async fn run(&self) -> Value {
        let reply = self.api.invoke(json!({}), LIMIT).await;
        self.api.wait_for_poll().await;
        reply.unwrap()
    }

    /// A freeze in which all connections die.
    async fn freeze(&self, death: Death) -> usize {
        self.bootstrap.freeze();
        let died = self.front.kill(death).await;
        sleep(FREEZE).await;
        self.bootstrap.thaw();
        died
    }
}

/// Of one group, whose connection is the only one, and of so many that there are 32.
#[tokio::test]
async fn rule_14_no_call_waits_for_a_connection_that_died_in_a_freeze() {
    let cases = Death::ALL.map(|death| (death, 1, 1));
    let checks = cases.into_iter().chain([(Death::Silent, 40, 32)]).map(async |(death, groups, connections)| {
        let running = Running::start(groups).await;
        let first = running.run().await;
        assert_eq!(first["groups"][0]["outcome"], "in_sync", "{first}");
        let died = running.freeze(death).await;
        assert!(died >= connections, "{death:?}: {died} connections were open");

        let moved = running.arns.last().unwrap();
        running.world.dns.set_a(&format!("g{groups}.test"), &["10.0.1.200"]);
        running.world.aws.clear_calls();
        let began = Instant::now();
        let reply = running.run().await;
        let took = began.elapsed();
        assert_eq!(reply["groups"][usize::from(groups) - 1]["outcome"], "changed");
        assert!(running.world.aws.registered(moved).contains("10.0.1.200:5432"));
        assert_eq!(running.front.lost(), 0, "{death:?}, {groups}: requests went into dead connections");
        let unknown = running.world.aws.calls().iter().filter(|call| call.status != 200).count();
        assert_eq!(unknown, 0, "{death:?}, {groups}: calls that were cut off");
        // Less than the time-out of an attempt, so none ran into one.
        assert!(took < Duration::from_secs(4), "{death:?}, {groups}: {took:?}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_14_after_a_freeze_tls_is_resumed() {
    let running = Running::start(1).await;
    running.run().await;
    let full = running.tls.full_handshakes();
    assert!(full >= 1);
    running.freeze(Death::Silent).await;
    running.run().await;
    assert!(running.tls.resumed_handshakes() >= 1);
    assert_eq!(running.tls.full_handshakes(), full, "those after the freeze were resumed");
}

#[tokio::test]
async fn rule_14_what_was_idle_for_more_than_5_s_is_not_used_again_without_a_freeze_either() {
    let running = Running::start(1).await;
    running.run().await;
    let opened = running.front.opened();
    running.run().await;
    assert_eq!(running.front.opened(), opened, "what was used just now is used again");
    sleep(FREEZE).await;
    running.run().await;
    assert!(running.front.opened() > opened);
}

#[tokio::test]
async fn rule_14_a_name_server_over_tcp_is_asked_by_a_new_connection() {
    let running = async |death: Death| {
        let world = World::new().await;
        let front = Front::of_dns(world.dns.address()).await;
        let arn = world.aws.create_target_group(TargetGroup::new("db"));
        let replies = |host: u8| Reply::addresses(&[&format!("10.0.1.{host}"), &format!("10.0.2.{host}")]).truncated();
        world.dns.set_reply("db.test", RecordType::A, replies(1));
        let world = world.dns_servers(&[front.address()]).set("BINDINGS", json!([binding("db.test", &arn)]));
        let api = RuntimeApi::start().await;
        let bootstrap = Bootstrap::start(env!("CARGO_BIN_EXE_bootstrap"), &api, world.environment());
        api.invoke(json!({}), LIMIT).await.unwrap();
        api.wait_for_poll().await;
        assert!(front.opened() >= 1);

        bootstrap.freeze();
        front.kill(death).await;
        sleep(FREEZE).await;
        bootstrap.thaw();
        world.dns.set_reply("db.test", RecordType::A, replies(2));
        let reply = api.invoke(json!({}), LIMIT).await.unwrap();
        assert_eq!(reply["groups"][0]["resolved"], json!(["10.0.1.2", "10.0.2.2"]), "{death:?}");
        assert_eq!(front.lost(), 0, "{death:?}");
    };
    join_all(Death::ALL.map(running)).await;
}
