//! One invocation over as many target groups as a company has, or as many addresses as names can have.
//!
//! In a process of their own, because they are about time and keep the processors busy.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a wrong test shall stop where it is wrong"
)]

mod lists;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use hickory_proto::rr::RecordType;
use nlb_hostname_targets::function::Function;
use serde_json::{Value, json};
use support::{
    World, advance,
    aws::{Fault, FaultKind, TargetGroup},
    binding,
    dns::{FakeDns, Quirk, Reply},
    invoke_within,
};
use tokio::sync::{Mutex, MutexGuard};

/// Waits until no other test is running that keeps the processors busy. Small fleets wait for the budget most of their time.
async fn alone() -> MutexGuard<'static, ()> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    ONE_AT_A_TIME.lock().await
}

/// Groups g0000, g0001 … that are in step, each with a hostname and an address of its own.
struct Fleet {
    _alone: Option<MutexGuard<'static, ()>>,
    world: World,
    arns: Vec<String>,
    /// A direct request that names them all: Lambda's environment has no room for so many.
    event: Value,
}

impl Fleet {
    async fn new(count: usize) -> Self {
        let alone = if count > 100 { Some(alone().await) } else { None };
        let world = World::new().await;
        let mut bindings = Vec::new();
        let mut arns = Vec::new();
        for number in 0..count {
            let arn = world.aws.create_target_group(TargetGroup::new(&format!("g{number:04}")));
            world.aws.add_target(&arn, &format!("{}:5432", address(number)), "healthy");
            world.dns.set_a(&hostname(number), &[&address(number)]);
            bindings.push(binding(&hostname(number), &arn));
            arns.push(arn);
        }
        Self { _alone: alone, world, arns, event: json!({ "bindings": bindings }) }
    }

    /// The same groups, which say by their tags what they follow.
    async fn tagged(count: usize) -> Self {
        let mut fleet = Self::new(count).await.set("DISCOVERY", "tags");
        for (number, arn) in fleet.arns.iter().enumerate() {
            fleet.world.aws.set_tag(arn, "nlb-hostname-targets:hostname", &hostname(number));
        }
        fleet.event = json!({});
        fleet
    }

    fn set(mut self, variable: &str, value: impl ToString) -> Self {
        self.world = self.world.set(variable, value);
        self
    }

    /// One invocation, of which only the calls, metrics and queries are kept.
    async fn run(&self, function: &Function, time: Duration) -> Vec<String> {
        self.world.aws.clear_calls();
        self.world.dns.clear_queries();
        let reply = invoke_within(function, self.event.clone(), time).await.expect("no group fails");
        let groups = reply["groups"].as_array().unwrap();
        let outcomes: Vec<_> = groups.iter().map(|group| group["outcome"].as_str().unwrap().to_owned()).collect();
        assert_eq!(outcomes.len(), self.arns.len());
        assert_eq!(self.names_asked(), self.arns.len(), "all names are asked in every run");
        self.check_metrics(groups);
        outcomes
    }

    fn names_asked(&self) -> usize {
        self.world.dns.queries().into_iter().map(|query| query.name).collect::<BTreeSet<_>>().len()
    }

    /// Of each group that was looked at three metrics and what it changed, of each that was put off that it has not failed,
    /// in as few calls as the API allows.
    fn check_metrics(&self, groups: &[Value]) {
        let of_group = |group: &Value| match group["outcome"].as_str() {
            Some("deferred") => 1,
            _ => 3 + ["registered", "deregistered"].iter().filter(|list| group[**list] != json!([])).count(),
        };
        let metrics = self.world.aws.metrics();
        assert_eq!(metrics.len(), groups.iter().map(of_group).sum::<usize>());
        assert_eq!(self.world.aws.calls_of("PutMetricData").len(), metrics.len().div_ceil(1000));
        assert_eq!(self.world.sum("Failures"), 0.0, "to be put off is no failure");
    }

    /// The groups that were looked at, by their positions, in the order in which they were.
    fn described(&self) -> Vec<usize> {
        let calls = self.world.aws.calls_of("DescribeTargetHealth");
        calls.iter().map(|call| self.arns.iter().position(|arn| call.arn.as_ref() == Some(arn)).unwrap()).collect()
    }

    /// When ELBv2 was called.
    fn requests(&self) -> Vec<Instant> {
        let calls = self.world.aws.calls().into_iter();
        let of_others = ["GetResources", "PutMetricData"];
        calls.filter(|call| !of_others.contains(&call.action.as_str())).map(|call| call.at.into_std()).collect()
    }
}

/// What AWS documents, and as many as the default budget lets go at once.
const BURST: u32 = 40;

fn hostname(number: usize) -> String {
    format!("g{number:04}.test")
}

fn address(number: usize) -> String {
    format!("10.0.{}.{}", 1 + number / 200, 1 + number % 200)
}

fn count(outcomes: &[String], outcome: &str) -> usize {
    outcomes.iter().filter(|found| *found == outcome).count()
}

/// The most events that lie in any window of this length.
fn most_within(times: &[Instant], window: Duration) -> usize {
    let from = |first: &Instant| times.iter().filter(|at| (*first..*first + window).contains(*at)).count();
    times.iter().map(from).max().unwrap_or_default()
}

/// By how many events any window holds more than the rate accounts for: the size of the burst.
fn burst(times: &[Instant], per_second: f64) -> f64 {
    let mut fewest = f64::MAX;
    let mut burst: f64 = 0.0;
    for (number, at) in times.iter().enumerate() {
        let ahead = number as f64 - per_second * at.duration_since(times[0]).as_secs_f64();
        fewest = fewest.min(ahead);
        burst = burst.max(ahead + 1.0 - fewest);
    }
    burst
}

#[tokio::test]
async fn a_thousand_groups_are_looked_at_in_one_run_within_all_limits() {
    let fleet = Fleet::new(1000).await.set("ELB_REQUESTS_PER_SECOND", 200);
    let pause = Duration::from_millis(200);
    fleet.world.aws.set_latency(pause);
    for number in 0..1000 {
        let reply = Reply::addresses(&[&address(number)]).delayed(pause);
        fleet.world.dns.set_reply(&hostname(number), RecordType::A, reply);
    }
    let function = fleet.world.function().await;
    let outcomes = fleet.run(&function, Duration::from_secs(60)).await;
    assert_eq!(count(&outcomes, "in_sync"), 1000);
    assert_eq!(fleet.world.count("DescribeTargetGroups"), 50);
    assert_eq!(fleet.world.count("DescribeTargetHealth"), 1000);
    assert_eq!(fleet.world.count("DescribeTags"), 50);
    assert_eq!(fleet.world.count("PutMetricData"), 3);

    // What arrives within the time that one reply takes is under way at once.
    let requests = fleet.requests();
    assert!(most_within(&requests, pause) <= 32, "{}", most_within(&requests, pause));
    let queries: Vec<_> = fleet.world.dns.queries().iter().map(|query| query.at).collect();
    assert!(most_within(&queries, pause) <= 256, "{}", most_within(&queries, pause));
    // What arrives is noted late where the processors are busy, and what comes next then seems to
    // come too soon: hence some more.
    assert!(burst(&requests, 200.0) <= 920.0, "{}", burst(&requests, 200.0));
    // Of the 1,024 packets that the VPC resolver takes in a second, others need some.
    let in_a_second = most_within(&queries, Duration::from_secs(1));
    assert!(in_a_second <= 850, "{in_a_second}");
}

#[tokio::test]
async fn a_thousand_tagged_groups_are_looked_at_in_one_run_within_all_limits() {
    let fleet = Fleet::tagged(1000).await.set("ELB_REQUESTS_PER_SECOND", 200);
    let pause = Duration::from_millis(50);
    fleet.world.aws.set_latency(pause);
    // What an account has.
    fleet.world.aws.set_listing_quota(15, 15.0);
    let function = fleet.world.function().await;
    let outcomes = fleet.run(&function, Duration::from_secs(60)).await;
    assert_eq!(count(&outcomes, "in_sync"), 1000);
    assert_eq!(fleet.world.count("GetResources"), 10, "a hundred in a page");
    assert_eq!(fleet.world.aws.throttled(), 0);
    assert_eq!(fleet.world.count("DescribeTargetHealth"), 1000);
    let requests = fleet.requests();
    assert!(most_within(&requests, pause) <= 32, "{}", most_within(&requests, pause));
    assert!(burst(&requests, 200.0) <= 920.0, "{}", burst(&requests, 200.0));
}

#[tokio::test]
async fn tagged_groups_that_the_budget_has_no_place_for_take_turns_and_changed_ones_go_first() {
    let fleet = Fleet::tagged(30).await.set("ELB_REQUESTS_PER_SECOND", 6);
    let function = fleet.world.function().await;
    invoke_within(&function, json!({}), Duration::from_secs(60)).await.unwrap();
    let changed = *fleet.described().last().unwrap();
    fleet.world.dns.set_a(&hostname(changed), &["10.0.9.9"]);
    let mut verified = BTreeSet::new();
    // The change takes some requests more.
    for run in 0..most_runs(30 + 3, 6, Duration::from_secs(5)) {
        advance(60);
        let outcomes = fleet.run(&function, Duration::from_secs(5)).await;
        assert!(count(&outcomes, "deferred") > 0, "the budget does not let all be looked at");
        if run == 0 {
            assert_eq!(count(&outcomes, "changed"), 1);
        }
        verified.extend(fleet.described());
    }
    assert_eq!(verified.len(), 30);
}

#[tokio::test]
async fn a_few_changed_answers_among_a_thousand_go_first() {
    let fleet = Fleet::new(1000).await.set("ELB_REQUESTS_PER_SECOND", 100);
    let function = fleet.world.function().await;
    let first = fleet.run(&function, Duration::from_secs(60)).await;
    assert_eq!(count(&first, "in_sync"), 1000);

    let flipped = [7, 300, 301, 650, 999];
    for number in flipped {
        fleet.world.dns.set_a(&hostname(number), &["10.0.9.9"]);
    }
    let began = Instant::now();
    let second = fleet.run(&function, Duration::from_secs(10)).await;
    for number in flipped {
        assert_eq!(second[number], "changed");
        assert_eq!(fleet.world.aws.registered(&fleet.arns[number]), BTreeSet::from(["10.0.9.9:5432".to_owned()]));
    }
    // Those that are under way at once arrive in any order.
    let first: BTreeSet<_> = fleet.described().into_iter().take(32).collect();
    assert!(flipped.iter().all(|number| first.contains(number)), "{first:?}");
    let changes = fleet.world.aws.calls().into_iter().filter(|call| call.action.ends_with("sterTargets"));
    let took: Vec<_> = changes.map(|call| call.at.into_std() - began).collect();
    assert_eq!(took.len(), 2 * flipped.len());
    assert!(took.iter().all(|took| *took < Duration::from_secs(10)), "{took:?}");
    // The time of this run does not suffice for all others.
    assert!(count(&second, "deferred") > 0 && count(&second, "in_sync") > 0);
}

#[tokio::test]
async fn a_changed_answer_goes_first_when_the_first_name_server_dies() {
    let fleet = Fleet::new(500).await.set("ELB_REQUESTS_PER_SECOND", 60);
    let first = FakeDns::start().await;
    (0..500).for_each(|number| first.set_a(&hostname(number), &[&address(number)]));
    let servers = format!("{},{}", first.address(), fleet.world.dns.address());
    let fleet = fleet.set("DNS_SERVERS", servers);
    let function = fleet.world.function().await;
    invoke_within(&function, fleet.event.clone(), Duration::from_secs(60)).await.unwrap();
    let last = *fleet.described().last().unwrap();

    first.set_quirks(&[Quirk::Silent]);
    fleet.world.dns.set_a(&hostname(last), &["10.0.9.9"]);
    let reply = invoke_within(&function, fleet.event.clone(), Duration::from_secs(16)).await.unwrap();
    assert_eq!(reply["groups"][last]["outcome"], "changed");
    assert!(reply["groups"].as_array().unwrap().iter().any(|group| group["outcome"] == "deferred"));
}

/// How many runs it takes at most until every group was looked at: a run begins groups until half of its time is over, of
/// which 2 s are left for the reply; facts and tags of 20 are read with a call each.
fn most_runs(groups: usize, per_second: usize, time: Duration) -> usize {
    let seconds = (time.as_secs_f64() - 2.0) / 2.0;
    let requests = groups + 2 * groups.div_ceil(20);
    (requests as f64 / (per_second as f64 * seconds)).ceil() as usize
}

#[tokio::test]
async fn every_group_is_verified_and_every_drift_repaired_within_a_bounded_number_of_runs() {
    let (groups, rate, time) = (30, 6, Duration::from_secs(5));
    let fleet = Fleet::new(groups).await.set("ELB_REQUESTS_PER_SECOND", rate);
    let function = fleet.world.function().await;
    fleet.run(&function, time).await;
    let described = fleet.described();

    // By hand: of one a target is taken away, to another one is added, of a third it drains.
    let drifted = [described[0], described[1], described[2]];
    let [taken, added, draining] = drifted.map(|number| &fleet.arns[number]);
    let [first, second, third] = drifted.map(|number| format!("{}:5432", address(number)));
    fleet.world.aws.remove_target(taken, &first);
    fleet.world.aws.add_target(added, "10.0.8.8:5432", "healthy");
    fleet.world.aws.set_state(draining, &third, "draining");
    let most = most_runs(groups, rate, time);
    let mut verified = BTreeSet::new();
    for _ in 0..most {
        fleet.run(&function, time).await;
        let described = fleet.described();
        assert!(described.len() < groups, "the budget does not let all be looked at");
        verified.extend(described);
    }
    assert_eq!(verified.len(), groups, "after {most} runs");
    for (arn, target) in [(taken, first), (added, second), (draining, third)] {
        assert_eq!(fleet.world.aws.registered(arn), BTreeSet::from([target]));
    }
}

#[tokio::test]
async fn a_fleet_within_the_budget_is_verified_in_every_run_and_never_throttled() {
    let fleet = Fleet::new(50).await;
    fleet.world.aws.set_read_quota(BURST, 10.0);
    // Connections take their time to open, so that the first requests arrive together with later ones.
    let opening = FaultKind::Latency(Duration::from_millis(700));
    fleet.world.aws.fault(Fault::on("DescribeTargetHealth", opening).times(32));
    let function = fleet.world.function().await;
    for _ in 0..2 {
        let outcomes = fleet.run(&function, Duration::from_secs(40)).await;
        assert_eq!(count(&outcomes, "in_sync"), 50);
        let calls = fleet.world.aws.calls();
        assert!(calls.iter().all(|call| call.status == 200), "throttled");
        assert_eq!(fleet.world.count("DescribeTargetHealth"), 50);
    }
}

#[tokio::test]
async fn cold_starts_reach_every_group_too() {
    // Four requests at once, of which two are for the facts and the tags, and one more each second: some of 8 groups a run.
    let fleet = Fleet::new(8).await.set("ELB_REQUESTS_PER_SECOND", 1);
    let mut verified = BTreeSet::new();
    for run in 1.. {
        assert!(run <= 60, "{verified:?}");
        let function = fleet.world.function().await;
        fleet.run(&function, Duration::from_millis(2500)).await;
        verified.extend(fleet.described());
        if verified.len() == fleet.arns.len() {
            break;
        }
    }
}

/// So many groups, each with a load balancer of its own, under the quota that AWS has.
async fn offered(count: usize) -> Fleet {
    let mut fleet = Fleet::new(count).await;
    fleet.arns.iter().for_each(|arn| drop(fleet.world.aws.offer(arn)));
    fleet.world.aws.set_read_quota(BURST, 10.0);
    fleet.event["check"] = json!(true);
    fleet
}

/// Checks them all; the outcomes.
async fn check(fleet: &Fleet, time: Duration) -> Vec<String> {
    let function = fleet.world.function().await;
    let started = Instant::now();
    let reply = invoke_within(&function, fleet.event.clone(), time).await.unwrap();
    assert!(started.elapsed() < time);
    assert_eq!(fleet.world.aws.throttled(), 0);
    let groups = reply["groups"].as_array().unwrap();
    // What could not be looked at has a finding that says so.
    assert!(groups.iter().all(|group| (group["findings"] == json!([])) == (group["outcome"] == "in_sync")), "{reply}");
    assert_eq!(reply["ok"], groups.iter().all(|group| group["outcome"] == "in_sync"), "{reply}");
    groups.iter().map(|group| group["outcome"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn forty_groups_are_checked_within_the_budget() {
    let fleet = offered(40).await;
    let outcomes = check(&fleet, Duration::from_secs(300)).await;
    assert_eq!(count(&outcomes, "in_sync"), 40);
    // Of each group its health and its attributes, of its load balancer the attributes and the listeners; and groups, their
    // tags and load balancers, twenty in a call.
    assert_eq!(fleet.world.aws.calls().len(), 4 * 40 + 3 * 2);
}

#[tokio::test]
async fn what_the_deadline_keeps_a_check_from_is_deferred() {
    let fleet = offered(100).await;
    let outcomes = check(&fleet, Duration::from_secs(10)).await;
    let (checked, deferred) = (count(&outcomes, "in_sync"), count(&outcomes, "deferred"));
    assert_eq!(checked + deferred, 100, "{outcomes:?}");
    // The budget of these 8 s is 120 requests, of which 15 are for all and 4 for each.
    assert!((10..=28).contains(&checked), "{checked}");
}

#[tokio::test]
async fn one_refused_target_of_two_hundred_new_ones_keeps_no_other_out_for_long() {
    let _alone = alone().await;
    let addresses: Vec<_> = (0..200).map(address).collect();
    let addresses: Vec<_> = addresses.iter().map(String::as_str).collect();
    let (world, arn) = World::with_database(&addresses, &[]).await;
    let binding = json!({"hostname": "db.test", "target_group_arn": arn, "lookups": 1});
    let world = world.set("BINDINGS", json!([binding])).set("ELB_REQUESTS_PER_SECOND", 10);
    world.aws.refuse_target(&arn, addresses[7]);
    let function = world.function().await;
    // Each run goes on where the time of the one before was over.
    let mut counts = Vec::new();
    for _ in 0..4 {
        let error = invoke_within(&function, json!({}), Duration::from_secs(8)).await.unwrap_err().to_string();
        counts.push(world.aws.registered(&arn).len());
        if error.contains("RegisterTargets refused") {
            break;
        }
        assert!(error.contains("given up shortly before the deadline"), "{error}");
    }
    assert!(counts.len() > 1 && counts.is_sorted_by(|one, other| one < other), "{counts:?}");
    assert_eq!(counts.last(), Some(&199), "{counts:?}");
}
