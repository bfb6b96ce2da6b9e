//! What another setting left in the tags, and what another function owns.

use serde_json::{Value, json};
use support::{
    World, advance,
    aws::{Fault, FaultKind},
    set, targets, waiting,
};

const GRACE: i64 = 300;

/// What the tags of the group say of ours: none, where there is no need of any.
fn state(world: &World, arn: &str) -> Vec<String> {
    world.aws.tags(arn).into_keys().filter(|key| key.starts_with("nlb-hostname-targets:")).collect()
}

/// `db.test` and its group. Each run is the first one of an execution environment.
struct Settings {
    world: World,
    arn: String,
}

impl Settings {
    async fn new(addresses: &[&str], registered: &[&str]) -> Self {
        let (world, arn) = World::with_database(addresses, registered).await;
        Self { world, arn }
    }

    /// A run with these fields in the binding.
    async fn run(&self, fields: Value) -> Value {
        let mut binding = json!({"hostname": "db.test", "target_group_arn": self.arn});
        binding.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        self.world.run(json!({"bindings": [binding]})).await.unwrap()["groups"][0].take()
    }

    fn resolve(&self, hosts: &[u8]) {
        let addresses: Vec<_> = hosts.iter().map(|host| format!("10.0.1.{host}")).collect();
        self.world.dns.set_a("db.test", &addresses.iter().map(String::as_str).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn rule_08_ownership_a_target_that_waits_in_an_exclusive_group_stays_ours_when_it_becomes_shared() {
    let settings = Settings::new(&["10.0.1.9"], &[]).await;
    settings.run(json!({"deregister_after_seconds": GRACE})).await;
    settings.resolve(&[10]);
    let group = settings.run(json!({"deregister_after_seconds": GRACE})).await;
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);

    let shared = json!({"deregister_after_seconds": GRACE, "ownership": "shared"});
    advance(GRACE - 60);
    let group = settings.run(shared.clone()).await;
    assert_eq!(waiting(&group), ["10.0.1.9:5432"]);
    advance(61);
    let group = settings.run(shared).await;
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(settings.world.aws.registered(&settings.arn), targets(&[10]));
}

#[tokio::test]
async fn rule_08_ownership_an_old_tag_takes_nothing_away_that_somebody_else_has_registered_since() {
    let settings = Settings::new(&["10.0.1.9"], &[]).await;
    settings.run(json!({"ownership": "shared"})).await;
    assert!(!state(&settings.world, &settings.arn).is_empty());
    settings.resolve(&[10]);
    settings.run(json!({"ownership": "exclusive"})).await;
    assert_eq!(settings.world.aws.registered(&settings.arn), targets(&[10]));
    assert_eq!(state(&settings.world, &settings.arn), [""; 0], "a group that needs no state carries no tag");

    settings.world.aws.finish_draining(&settings.arn);
    settings.world.aws.add_target(&settings.arn, "10.0.1.9", "healthy");
    settings.run(json!({"ownership": "shared"})).await;
    assert_eq!(settings.world.aws.registered(&settings.arn), targets(&[9, 10]));
}

#[tokio::test]
async fn rule_08_grace_of_0_forgets_since_when_a_target_was_missing() {
    let settings = Settings::new(&["10.0.1.9", "10.0.1.10"], &[]).await;
    let graceful = || json!({"deregister_after_seconds": GRACE});
    settings.run(graceful()).await;
    settings.resolve(&[10]);
    assert_eq!(waiting(&settings.run(graceful()).await), ["10.0.1.9:5432"]);
    // Without a grace it goes at once, and comes back.
    settings.run(json!({})).await;
    assert_eq!(settings.world.aws.registered(&settings.arn), targets(&[10]));
    assert_eq!(state(&settings.world, &settings.arn), [""; 0], "a group that needs no state carries no tag");
    settings.resolve(&[9, 10]);
    settings.run(json!({})).await;

    advance(GRACE + 1);
    settings.resolve(&[10]);
    let group = settings.run(graceful()).await;
    assert_eq!((&group["deregistered"], waiting(&group)), (&json!([]), vec!["10.0.1.9:5432"]));
    assert_eq!(settings.world.aws.registered(&settings.arn), targets(&[9, 10]));
}

#[tokio::test]
async fn rule_08_grace_that_a_group_had_before_is_no_longer_read_after_the_first_run() {
    let settings = Settings::new(&["10.0.1.10"], &["10.0.1.10"]).await;
    let world = &settings.world;
    world.aws.set_tag(&settings.arn, "nlb-hostname-targets:missing-1", "10.0.1.9_5432@1700000000.000");
    world.aws.set_tag(&settings.arn, "team", "data");
    let function = world.function().await;
    support::invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.aws.tags(&settings.arn).into_keys().collect::<Vec<_>>(), ["team"]);
    world.aws.clear_calls();
    support::invoke(&function, json!({})).await.unwrap();
    assert_eq!(world.actions(), ["DescribeTargetHealth", "PutMetricData"]);
}

#[tokio::test]
async fn rule_08_grace_of_0_writes_no_state_where_aws_cannot_tell_the_targets() {
    let settings = Settings::new(&["10.0.1.10"], &["10.0.1.10"]).await;
    let world = &settings.world;
    world.aws.set_tag(&settings.arn, "nlb-hostname-targets:owned-1763802000.250-7", "10.0.1.9_5432@1763802000.250");
    world.aws.fault(Fault::on("DescribeTargetHealth", FaultKind::health_unavailable()));
    world.failure(json!({})).await;
    assert!(!world.actions().contains(&"AddTags".to_owned()), "{:?}", world.actions());
    assert_eq!(state(world, &settings.arn), [""; 0], "a group that needs no state carries no tag");
}

/// A shared group, and two functions, each with a hostname of its own: `one.test` and `other.test`.
struct TwoFunctions {
    world: World,
    arn: String,
    functions: [nlb_hostname_targets::function::Function; 2],
}

impl TwoFunctions {
    /// What each of the two hostnames gives, and what somebody else has registered.
    async fn new(one: &str, other: &str, foreign: &[&str]) -> Self {
        let (mut world, arn) = World::with_database(&[], foreign).await;
        world.dns.set_a("one.test", &[one]);
        world.dns.set_a("other.test", &[other]);
        let mut functions = Vec::new();
        for name in ["one", "other"] {
            let hostname = format!("{name}.test");
            let binding = json!({"hostname": hostname, "target_group_arn": arn, "ownership": "shared"});
            world = world.set("BINDINGS", json!([binding])).set("AWS_LAMBDA_FUNCTION_NAME", name);
            functions.push(world.function().await);
        }
        Self { world, arn, functions: functions.try_into().unwrap() }
    }

    /// A run of each, one after the other.
    async fn run(&self) {
        for function in &self.functions {
            support::invoke(function, json!({})).await.unwrap();
        }
    }
}

#[tokio::test]
async fn rule_08_ownership_two_functions_share_a_group() {
    let two = TwoFunctions::new("10.0.1.10", "10.0.1.20", &["10.0.1.9"]).await;
    for _ in 0..3 {
        two.run().await;
        assert_eq!(two.world.aws.registered(&two.arn), targets(&[9, 10, 20]));
    }
    for target in ["10.0.1.10:5432", "10.0.1.20:5432"] {
        assert_eq!(two.world.aws.registrations(&two.arn, target), 1, "{target}");
        assert_eq!(two.world.aws.deregistrations(&two.arn, target), 0, "{target}");
    }
    // Each takes away what is its own.
    two.world.dns.set_a("one.test", &["10.0.1.11"]);
    two.run().await;
    assert_eq!(two.world.aws.registered(&two.arn), targets(&[9, 11, 20]));
    two.world.dns.set_a("other.test", &["10.0.1.21"]);
    two.run().await;
    assert_eq!(two.world.aws.registered(&two.arn), targets(&[9, 11, 21]));
}

#[tokio::test]
async fn rule_08_ownership_what_two_functions_own_stays_until_both_let_go() {
    let two = TwoFunctions::new("10.0.1.10", "10.0.1.10", &[]).await;
    two.run().await;
    two.run().await;
    two.world.dns.set_a("one.test", &["10.0.1.11"]);
    two.run().await;
    two.run().await;
    assert_eq!(two.world.aws.registered(&two.arn), targets(&[10, 11]));
    assert_eq!(two.world.aws.deregistrations(&two.arn, "10.0.1.10:5432"), 0);
    two.world.dns.set_a("other.test", &["10.0.1.11"]);
    two.run().await;
    two.run().await;
    assert_eq!(two.world.aws.registered(&two.arn), targets(&[11]));
}

#[tokio::test]
async fn rule_08_ownership_of_a_function_is_known_to_its_next_execution_environment() {
    let two = TwoFunctions::new("10.0.1.10", "10.0.1.20", &[]).await;
    two.run().await;
    // Of the second one, whose environment the world still has.
    two.world.dns.set_a("other.test", &["10.0.1.21"]);
    two.world.sync().await.unwrap();
    assert_eq!(two.world.aws.registered(&two.arn), set(&["10.0.1.10:5432", "10.0.1.21:5432"]));
}
