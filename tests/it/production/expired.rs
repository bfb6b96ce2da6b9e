//! Requests that AWS refuses because their signature or token had expired: a clock moved, or the process was thawed with a
//! signed request at hand.

use futures_util::future::join_all;
use serde_json::json;
use support::{
    World,
    aws::{Fault, FaultKind},
    targets,
};

const CODES: [(&str, &str); 4] = [
    ("SignatureDoesNotMatch", "Signature expired: 20261130T100000Z is now earlier than 20261130T101500Z"),
    ("RequestExpired", "Request has expired."),
    ("ExpiredToken", "The security token included in the request is expired"),
    ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
];

/// Each kind of call that a run makes; those to CloudWatch and to the tagging API write their errors in other formats.
const CALLS: [&str; 8] = [
    "GetResources",
    "DescribeTargetGroups",
    "DescribeTargetHealth",
    "DescribeTags",
    "AddTags",
    "RegisterTargets",
    "DeregisterTargets",
    "PutMetricData",
];

#[tokio::test]
async fn rule_18_what_aws_refuses_as_expired_is_signed_and_sent_once_more() {
    let cases = CODES.into_iter().flat_map(|code| CALLS.map(|call| (code, call)));
    let checks = cases.map(async |((code, message), call)| {
        let (world, arn) = World::with_database(&["10.0.1.9"], &[]).await;
        let is_shared = call.ends_with("Tags");
        world.aws.set_tag(&arn, "nlb-hostname-targets:hostname", "db.test");
        world.aws.set_tag(&arn, "nlb-hostname-targets:ownership", if is_shared { "shared" } else { "exclusive" });
        let world = world.set("BINDINGS", "").set("DISCOVERY", "tags");
        world.sync().await.unwrap();
        world.dns.set_a("db.test", &["10.0.1.10"]);
        world.aws.clear_calls();
        let log_of = |world: &World| world.aws.calls_of(call).iter().map(|call| call.status).collect::<Vec<_>>();
        for status in [400, 403] {
            world.aws.fault(Fault::on(call, FaultKind::error(status, code, message)).times(1));
            let group = world.sync().await.unwrap_or_else(|error| panic!("{code}, {call}: {error}"));
            assert_eq!(group["error"], json!(null), "{code}, {call}");
            assert_eq!(world.aws.registered(&arn), targets(&[10]), "{code}, {call}");
            assert_eq!(log_of(&world)[..2], [status, 200], "{code}, {call}: {:?}", world.actions());
            world.aws.clear_calls();
            world.dns.set_a("db.test", &["10.0.1.9"]);
            world.sync().await.unwrap();
            world.dns.set_a("db.test", &["10.0.1.10"]);
            world.aws.clear_calls();
        }
    });
    join_all(checks).await;
}
