//! What production does that is less kind than an emulation: it freezes the process between two invocations, refuses
//! requests as expired, lets name servers be slow, and one target group fail beside another.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::{
    World,
    aws::{Fault, FaultKind, TargetGroup},
    binding,
    dns::{FakeDns, Reply},
    failover,
    front::{Death, Front},
    invoke, invoke_within,
    runtime_api::{Bootstrap, RuntimeApi},
    set, targets,
    tls::{Authority, Tls},
};
use tokio::{join, time::sleep};

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
        let world = World::new().await.set("ELB_REQUESTS_PER_SECOND", 0);
        let (world, arns) = groups_in_step(world, (1..=groups).map(|host| (format!("g{host}"), host)));
        let authority = Authority::new();
        let tls = world.aws.over_tls(&authority).await;
        let (protocol, server) = if groups > 1 { ("http", world.aws.address()) } else { ("https", tls.address()) };
        // So long that calls of many groups do open connections of their own.
        world.aws.set_latency(Duration::from_millis(if groups > 1 { 300 } else { 0 }));
        let front = Front::new(server).await;
        let world = world
            .set("AWS_ENDPOINT_URL", format!("{protocol}://{}", front.address()))
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

/// Target groups of these names, each bound to NAME.test, which gives 10.0.1.HOST, and in step with it.
fn groups_in_step(world: World, groups: impl Iterator<Item = (String, u8)>) -> (World, Vec<String>) {
    let made = groups.map(|(name, host)| {
        let (hostname, address) = (format!("{name}.test"), format!("10.0.1.{host}"));
        world.dns.set_a(&hostname, &[&address]);
        let arn = world.aws.create_target_group(TargetGroup::new(&name));
        world.aws.add_target(&arn, &address, "healthy");
        (binding(&hostname, &arn), arn)
    });
    let (bindings, arns): (Vec<_>, Vec<_>) = made.unzip();
    (world.set("BINDINGS", Value::from(bindings)), arns)
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
        assert_eq!(running.world.aws.registered(moved), targets(&[200]));
        assert_eq!(running.front.lost(), 0, "{death:?}, {groups}: requests went into dead connections");
        let unknown = running.world.aws.calls().iter().filter(|call| call.status != 200).count();
        assert_eq!(unknown, 0, "{death:?}, {groups}: calls that were cut off");
        // Less than the time-out of an attempt, so none ran into one. Forty groups take their time on a busy machine.
        assert!(groups > 1 || took < Duration::from_secs(4), "{death:?}, {groups}: {took:?}");
    });
    join_all(checks).await;
}

#[tokio::test]
async fn rule_14_after_a_freeze_tls_is_resumed_and_what_was_used_just_now_is_used_again() {
    let running = Running::start(1).await;
    running.run().await;
    let (full, _) = running.tls.handshakes();
    let opened = running.front.opened();
    assert!(full >= 1);
    running.run().await;
    assert_eq!(running.front.opened(), opened, "what was used just now is used again");
    running.freeze(Death::Silent).await;
    running.run().await;
    let (full_after, resumed) = running.tls.handshakes();
    assert!(resumed >= 1);
    assert_eq!(full_after, full, "those after the freeze were resumed");
    // What was idle for more than 5 s is not used again without a freeze either.
    let opened = running.front.opened();
    sleep(FREEZE).await;
    running.run().await;
    assert!(running.front.opened() > opened);
}

#[tokio::test]
async fn rule_14_a_name_server_over_tcp_is_asked_by_a_new_connection() {
    let checks = Death::ALL.map(async |death| {
        let world = World::new().await;
        // It is reached over TCP alone.
        let front = Front::new(world.dns.address()).await;
        let (world, _) = groups_in_step(world.dns_servers(&[front.address()]), [("db".to_owned(), 1)].into_iter());
        let api = RuntimeApi::start().await;
        let bootstrap = Bootstrap::start(env!("CARGO_BIN_EXE_bootstrap"), &api, world.environment());
        api.invoke(json!({}), LIMIT).await.unwrap();
        api.wait_for_poll().await;
        assert!(front.opened() >= 1);
        bootstrap.freeze();
        front.kill(death).await;
        sleep(FREEZE).await;
        bootstrap.thaw();
        world.dns.set_a("db.test", &["10.0.1.2"]);
        let reply = api.invoke(json!({}), LIMIT).await.unwrap();
        assert_eq!(reply["groups"][0]["resolved"], json!(["10.0.1.2"]), "{death:?}");
        assert_eq!(front.lost(), 0, "{death:?}");
    });
    join_all(checks).await;
}

/// A clock moved, or the process was thawed with a signed request at hand. Each kind of call that a run makes: those to
/// CloudWatch and to the tagging API write their errors in other formats.
#[tokio::test]
async fn rule_18_what_aws_refuses_as_expired_is_signed_and_sent_once_more() {
    let refusals = [
        (403, "SignatureDoesNotMatch", "Signature expired: 20261130T100000Z is now earlier than 20261130T101500Z"),
        (400, "RequestExpired", "Request has expired."),
        (403, "ExpiredToken", "The security token included in the request is expired"),
        (403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
    ];
    let calls = "GetResources DescribeTargetGroups DescribeTargetHealth DescribeTags AddTags RegisterTargets \
                 DeregisterTargets PutMetricData";
    for call in calls.split(' ') {
        let (world, arn) = World::with_database(&["10.0.1.9"], &[]).await;
        let ownership = if call.ends_with("Tags") { "shared" } else { "exclusive" };
        for (tag, value) in [("hostname", "db.test"), ("ownership", ownership)] {
            world.aws.set_tag(&arn, &format!("nlb-hostname-targets:{tag}"), value);
        }
        let world = world.set("BINDINGS", "").set("DISCOVERY", "tags");
        world.sync().await.unwrap();
        for (host, (status, code, message)) in (10..).zip(refusals) {
            world.dns.set_a("db.test", &[&format!("10.0.1.{host}")]);
            world.aws.clear_calls();
            world.aws.fault(Fault::on(call, FaultKind::error(status, code, message)).times(1));
            world.sync().await.unwrap_or_else(|error| panic!("{code}, {call}: {error}"));
            assert_eq!(world.aws.registered(&arn), targets(&[host]), "{code}, {call}");
            let replies: Vec<_> = world.aws.calls_of(call).iter().map(|call| call.status).collect();
            assert_eq!(replies[..2], [status, 200], "{code}, {call}");
        }
    }
}

/// Groups `bad0` and so on, which shall always fail, and `good`, the last one.
async fn good_and_bad(bad: usize) -> (World, Vec<String>) {
    let names = (0..bad).map(|number| format!("bad{number}")).chain(["good".to_owned()]);
    let world = World::new().await.set("ELB_REQUESTS_PER_SECOND", 0);
    groups_in_step(world, names.map(|name| (name, 10)))
}

fn unwell(arn: &str) -> Fault {
    Fault::on("DescribeTargetHealth", FaultKind::error(500, "InternalFailure", "not now")).arn(arn)
}

fn throttled_once(arn: &str) -> Fault {
    Fault::on("DescribeTargetHealth", FaultKind::throttling()).arn(arn).times(1)
}

#[tokio::test]
async fn rule_18_neighbours_that_always_fail_take_no_retries_away() {
    let (world, arns) = good_and_bad(8).await;
    let function = world.function().await;
    let [bad @ .., good] = &arns[..] else { panic!("there are nine") };
    for run in 1..=10 {
        world.aws.clear_faults();
        bad.iter().for_each(|arn| world.aws.fault(unwell(arn)));
        world.aws.fault(throttled_once(good));
        let message = invoke(&function, json!({})).await.unwrap_err().to_string();
        assert!(message.starts_with("8 of 9") && !message.contains(good), "run {run}: {message}");
    }
}

#[tokio::test]
async fn rule_18_after_a_long_outage_calls_are_repeated_again() {
    let (world, arns) = good_and_bad(0).await;
    let function = world.function().await;
    invoke(&function, json!({})).await.unwrap();
    world.aws.fault(unwell(&arns[0]));
    // Longer than 500 tokens last, of which each repetition takes 5.
    for _ in 0..55 {
        invoke(&function, json!({})).await.unwrap_err();
    }
    world.aws.clear_faults();
    for run in 1..=3 {
        world.aws.fault(throttled_once(&arns[0]));
        let result = invoke(&function, json!({})).await;
        assert!(result.is_ok(), "run {run} after the outage: {result:?}");
    }
}

#[tokio::test]
async fn rule_18_one_target_that_aws_refuses_to_deregister_keeps_no_other_in() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.7", "10.0.1.8", "10.0.1.9"]).await;
    world.aws.fault(Fault::on("DeregisterTargets", FaultKind::RefuseTarget("10.0.1.8".to_owned())));
    let message = world.failure(json!({})).await;
    let words = ["DeregisterTargets", "10.0.1.8", "ValidationError", "db.test"];
    assert!(words.iter().all(|word| message.contains(word)), "{message}");
    assert!(!message.contains("10.0.1.7") && !message.contains("10.0.1.9"), "{message}");
    assert_eq!(world.aws.registered(&arn), targets(&[8, 10]));
    assert_eq!((world.metric("Failures"), world.metric("Deregistrations")), (Some(1.0), Some(2.0)));
}

#[tokio::test]
async fn rule_18_where_aws_cannot_tell_the_targets_addresses_are_registered_and_nothing_goes() {
    // What comes of the call, what is said of it, and whether AWS can't tell.
    let rows = [
        (FaultKind::health_unavailable(), "HealthUnavailable", true),
        (FaultKind::error(500, "InternalFailure", "not now"), "InternalFailure", true),
        (FaultKind::body(503, "<html>Service Unavailable</html>"), "503", true),
        (FaultKind::denied(), "AccessDenied", false),
        (FaultKind::Hang, "waiting for DescribeTargetHealth", false),
    ];
    let checks = rows.map(async |(kind, word, cannot_tell)| {
        let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
        world.aws.fault(Fault::on("DescribeTargetHealth", kind));
        let result = invoke_within(&world.function().await, json!({}), Duration::from_secs(12)).await;
        let message = result.unwrap_err().to_string();
        assert!(message.contains("DescribeTargetHealth") && message.contains(word), "{word}: {message}");
        let expected = if cannot_tell { targets(&[9, 10]) } else { targets(&[9]) };
        assert_eq!((world.aws.registered(&arn), world.count("DeregisterTargets")), (expected, 0), "{word}");
        assert_eq!(world.metric("Failures"), Some(1.0), "{word}");
        // And when it can tell again, all is as it should be.
        world.aws.clear_faults();
        world.sync().await.unwrap();
        assert_eq!(world.aws.registered(&arn), targets(&[10]), "{word}");
    });
    join_all(checks).await;
}

/// How an invocation goes on, and how often it polls.
fn modes() -> [(Value, u8); 2] {
    [(failover(), 0), (json!({}), 1)]
}

#[tokio::test]
async fn rule_18_a_dead_or_slow_name_server_fails_no_watch_and_no_polling() {
    // How many milliseconds the servers take; `None`: for ever.
    let cases: [&[Option<u64>]; 3] = [&[None, Some(0)], &[Some(1500)], &[Some(2500)]];
    let cases = cases.into_iter().flat_map(|delays| modes().map(|mode| (delays, mode)));
    let checks = cases.map(async |(delays, (event, interval))| {
        let (world, arn) = World::with_database(&[], &["10.0.1.9"]).await;
        let servers = servers(delays, "10.0.1.9").await;
        let world = world.dns_servers(&servers.iter().map(FakeDns::address).collect::<Vec<_>>());
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        let function = world.function().await;
        let moving = async {
            sleep(Duration::from_secs(7)).await;
            servers.iter().for_each(|server| server.set_a("db.test", &["10.0.1.10"]));
        };
        let (reply, ()) = join!(invoke_within(&function, event, Duration::from_secs(22)), moving);
        let reply = reply.unwrap_or_else(|error| panic!("{delays:?}, interval {interval}: {error}"));
        assert_eq!(reply["groups"][0]["outcome"], "changed", "{delays:?}, interval {interval}");
        assert_eq!(world.aws.registered(&arn), targets(&[10]), "{delays:?}, interval {interval}");
        assert_eq!(world.sum("Failures"), 0.0, "{delays:?}, interval {interval}");
    });
    join_all(checks).await;
}

/// Servers that give this address after so many milliseconds, or are silent.
pub(crate) async fn servers(delays: &[Option<u64>], address: &str) -> Vec<FakeDns> {
    let servers = delays.iter().map(async |delay| match delay {
        None => FakeDns::always(Reply::Silent).await,
        Some(delay) => {
            let server = FakeDns::start().await;
            server.set_a("db.test", &[address]);
            server.set_delay(Duration::from_millis(*delay));
            server
        }
    });
    join_all(servers).await
}

#[tokio::test]
async fn rule_18_a_last_look_that_could_not_end_leaves_what_was_last_known() {
    let checks = modes().map(async |(event, interval)| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &["10.0.1.9"]).await;
        let world = world.set("POLL_INTERVAL_SECONDS", interval);
        let function = world.function().await;
        let limit = Duration::from_secs(12);
        let turning_slow = async {
            // Of the 12 s two are for the reply.
            sleep(limit - Duration::from_millis(4200)).await;
            world.dns.set_delay(Duration::from_secs(5));
        };
        let (reply, ()) = join!(invoke_within(&function, event, limit), turning_slow);
        let reply = reply.unwrap_or_else(|error| panic!("interval {interval}: {error}"));
        assert_eq!(reply["groups"][0]["outcome"], "in_sync", "interval {interval}");
        assert_eq!(reply["groups"][0]["resolved"], json!(["10.0.1.9"]), "interval {interval}");
        assert_eq!(world.aws.registered(&arn), targets(&[9]));
        assert_eq!(world.sum("Failures"), 0.0, "interval {interval}");
    });
    join_all(checks).await;
}

#[tokio::test]
#[ignore = "it takes most of a minute: `make test-all` runs it"]
async fn a_watch_of_a_group_goes_on_when_another_has_settled() {
    let world = World::new().await;
    let (world, arns) = groups_in_step(world, ["x", "y"].into_iter().map(|name| (name.to_owned(), 9)));
    let function = world.function().await;
    let started = Instant::now();
    let moving = async {
        for (pause, name) in [(2, "y.test"), (38, "x.test")] {
            sleep(Duration::from_secs(pause)).await;
            world.dns.set_a(name, &["10.0.1.10"]);
        }
    };
    let (reply, ()) = join!(invoke_within(&function, failover(), Duration::from_secs(48)), moving);
    let reply = reply.unwrap();
    for (group, arn) in reply["groups"].as_array().unwrap().iter().zip(&arns) {
        assert_eq!((&group["outcome"], world.aws.registered(arn)), (&json!("changed"), set(&["10.0.1.10:5432"])));
    }
    // And the group that has settled is left alone.
    let queries = world.dns.queries();
    let last = queries.iter().rfind(|query| query.name == "y.test").unwrap().at.duration_since(started);
    assert!(last < Duration::from_secs(38), "{last:?}");
}
