//! When a target goes: grace periods, ownership, and the state that is kept for them.

use serde_json::{Value, json};

use crate::support::{World, advance};

fn tagged(world: &World, arn: &str) -> Vec<(String, String)> {
    world.aws.tags(arn).into_iter().collect()
}

/// A binding of `db.test` with more fields.
fn bound(world: World, arn: &str, fields: Value) -> World {
    let mut binding = json!({"hostname": "db.test", "target_group_arn": arn});
    for (name, value) in fields.as_object().unwrap() {
        binding[name] = value.clone();
    }
    world.set("BINDINGS", json!([binding]))
}

#[tokio::test]
async fn rule_08_a_target_goes_when_its_grace_is_over() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9", "10.0.1.10"]).await;
    let world = bound(world, &arn, json!({"deregister_after_seconds": 60}));
    let group = world.sync().await.unwrap();
    assert_eq!(group["outcome"], "in_sync");
    assert_eq!(group["waiting"][0]["target"], "10.0.1.9:5432");
    assert_eq!(tagged(&world, &arn).len(), 1);
    assert_eq!(world.aws.registered(&arn).len(), 2);
    advance(59);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!([]));
    advance(1);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.9:5432"]));
    assert_eq!(tagged(&world, &arn), []);
    assert_eq!(world.aws.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn rule_08_in_a_shared_group_only_our_own_targets_go() {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    let world = bound(world, &arn, json!({"ownership": "shared"}));
    let group = world.sync().await.unwrap();
    assert_eq!(group["registered"], json!(["10.0.1.10:5432"]));
    let writes: Vec<_> = world.actions().into_iter().filter(|action| !action.starts_with("Describe")).collect();
    assert_eq!(writes, ["AddTags", "RegisterTargets", "PutMetricData"]);
    world.dns.set_a("db.test", &["10.0.1.11"]);
    let group = world.sync().await.unwrap();
    assert_eq!(group["deregistered"], json!(["10.0.1.10:5432"]));
    assert!(tagged(&world, &arn)[0].1.contains("10.0.1.10_5432"));
    world.aws.finish_draining(&arn);
    world.sync().await.unwrap();
    assert_eq!(tagged(&world, &arn)[0].1, "10.0.1.11_5432");
    assert!(world.aws.registered(&arn).contains("10.0.1.9:5432"));
    assert_eq!(world.aws.violations(), Vec::<String>::new());
}
