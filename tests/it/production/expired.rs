//! Requests that AWS refuses because their signature or token had expired: a clock moved, or the process was thawed with a
//! signed request at hand.

use support::{
    World,
    aws::{Fault, FaultKind},
    targets,
};

const REFUSALS: [(u16, &str, &str); 4] = [
    (403, "SignatureDoesNotMatch", "Signature expired: 20261130T100000Z is now earlier than 20261130T101500Z"),
    (400, "RequestExpired", "Request has expired."),
    (403, "ExpiredToken", "The security token included in the request is expired"),
    (403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
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
    for call in CALLS {
        let (world, arn) = World::with_database(&["10.0.1.9"], &[]).await;
        let ownership = if call.ends_with("Tags") { "shared" } else { "exclusive" };
        for (tag, value) in [("hostname", "db.test"), ("ownership", ownership)] {
            world.aws.set_tag(&arn, &format!("nlb-hostname-targets:{tag}"), value);
        }
        let world = world.set("BINDINGS", "").set("DISCOVERY", "tags");
        world.sync().await.unwrap();
        for (host, (status, code, message)) in (10..).zip(REFUSALS) {
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
