//! What becomes of a group that waits for our own request budget when the time is over.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use support::{World, invoke_within};

const TIME: Duration = Duration::from_secs(3);

/// A failover and a budget of four requests at once, and of one more each second: facts, the tag that tells which names
/// rotate, targets and a registration take the four.
async fn failover() -> (World, String) {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    (world.set("ELB_REQUESTS_PER_SECOND", 1), arn)
}

#[tokio::test]
async fn rule_12_what_waits_for_its_turn_at_the_end_is_deferred() {
    let (world, arn) = failover().await;
    let function = world.function().await;
    let reply = invoke_within(&function, json!({}), TIME).await.unwrap();
    let group = &reply["groups"][0];
    assert_eq!((&group["outcome"], &group["error"]), (&json!("deferred"), &json!(null)), "{group}");
    assert_eq!(group["registered"], json!(["10.0.1.10:5432"]));
    assert_eq!(world.sum("Failures"), 0.0);
    // The next run ends what this one began.
    invoke_within(&function, json!({}), Duration::from_secs(20)).await.unwrap();
    assert_eq!(world.aws.registered(&arn), BTreeSet::from(["10.0.1.10:5432".to_owned()]));
}

#[tokio::test]
async fn rule_10_it_fails_where_an_address_that_dns_gives_is_not_registered_yet() {
    // Beside those four, its owner is to be written before a target is registered.
    let (world, arn) = failover().await;
    let bindings = json!([{"hostname": "db.test", "target_group_arn": arn, "ownership": "shared"}]);
    let world = world.set("BINDINGS", bindings);
    let error = invoke_within(&world.function().await, json!({}), TIME).await.unwrap_err().to_string();
    assert!(error.contains("still waiting for its turn by ELB_REQUESTS_PER_SECOND"), "{error}");
}
