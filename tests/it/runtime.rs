//! The real binary against the Lambda Runtime API.

use std::time::Duration;

use nlb_hostname_targets::VERSION;
use serde_json::{Value, json};
use support::{
    World,
    aws::{Fault, FaultKind, TargetGroup},
    binding,
    runtime_api::{Bootstrap, RuntimeApi},
};

use crate::metrics::check_emf;

const TIME: Duration = Duration::from_secs(30);

struct Running {
    world: World,
    arn: String,
    api: RuntimeApi,
    bootstrap: Bootstrap,
}

async fn start(more: &[(&str, &str)]) -> Running {
    let (world, arn) = World::with_database(&["10.0.1.10"], &["10.0.1.9"]).await;
    let api = RuntimeApi::start().await;
    let bindings = json!([binding("db.test", &arn)]).to_string();
    let servers = world.dns.address().to_string();
    let mut environment =
        vec![("BINDINGS", bindings.as_str()), ("DNS_SERVERS", &servers), ("AWS_ENDPOINT_URL", world.aws.url())];
    environment.extend(more);
    let bootstrap = Bootstrap::start(env!("CARGO_BIN_EXE_bootstrap"), &api, environment);
    Running { world, arn, api, bootstrap }
}

#[tokio::test]
async fn it_handles_invocation_after_invocation() {
    let running = start(&[]).await;
    running.api.wait_for_poll().await;
    let first = running.api.invoke(json!({}), TIME).await.unwrap();
    assert_eq!(first["groups"][0]["outcome"], "changed");
    assert_eq!(first["groups"][0]["target_group_arn"], running.arn.as_str());
    let second = running.api.invoke(Value::Null, TIME).await.unwrap();
    assert_eq!(second["groups"][0]["outcome"], "in_sync");
    assert_eq!(running.world.aws.registered(&running.arn).len(), 1);
}

#[tokio::test]
async fn it_reports_a_failed_run_as_a_function_error_and_lives_on() {
    let running = start(&[]).await;
    running.world.dns.remove("db.test");
    let error = running.api.invoke(json!({}), TIME).await.unwrap_err();
    assert_eq!(error.error_type, "SyncFailed");
    for word in ["db.test", running.arn.as_str(), "NXDOMAIN"] {
        assert!(error.error_message.contains(word), "{}", error.error_message);
    }
    running.bootstrap.wait_for_line("1 of 1 target groups failed: db.test of arn:").await;
    let error = running.api.invoke(json!({"dryrun": true}), TIME).await.unwrap_err();
    assert_eq!(error.error_type, "InvalidEvent");
    assert!(error.error_message.contains("dryrun"), "{}", error.error_message);
    running.world.dns.set_a("db.test", &["10.0.1.10"]);
    assert_eq!(running.api.invoke(json!({}), TIME).await.unwrap()["groups"][0]["outcome"], "changed");
}

#[tokio::test]
async fn it_logs_a_line_per_change_and_a_summary_as_json_where_lambda_asks_for_it() {
    let running = start(&[("AWS_LAMBDA_LOG_FORMAT", "JSON")]).await;
    running.api.invoke(json!({}), TIME).await.unwrap();
    running.bootstrap.wait_for_line("run finished").await;
    let lines: Vec<Value> =
        running.bootstrap.lines().iter().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let fields = |message: &str| {
        let line = lines.iter().find(|line| line["fields"]["message"] == message);
        line.unwrap_or_else(|| panic!("no line says {message}: {lines:?}"))["fields"].clone()
    };
    for line in &lines {
        let time = line["timestamp"].as_str().expect("each line has a time, or Lambda takes it for INFO");
        assert!(time.starts_with("20") && time.contains('T') && time.ends_with('Z'), "{time}");
        assert!(line["level"].is_string());
    }
    let registered = fields("registered");
    assert_eq!(registered["target"], "10.0.1.10:5432");
    assert_eq!(registered["hostname"], "db.test");
    assert_eq!(registered["target_group"], running.arn.as_str());
    assert!(registered["reason"].is_string());
    assert_eq!(fields("deregistered")["target"], "10.0.1.9:5432");
    let summary = fields("run finished");
    assert_eq!((summary["changed"].as_u64(), summary["failed"].as_u64()), (Some(1), Some(0)));
    assert_eq!(summary["trigger"], "schedule");
    assert_eq!(summary["version"], VERSION);
    let start = fields("starting");
    assert_eq!(start["version"], VERSION);
    assert!(start["commit"].is_string());
    assert!(lines.iter().all(|line| !line.to_string().contains("SecretAccessKey")));
}

#[tokio::test]
async fn it_prints_metrics_in_the_embedded_metric_format() {
    let running = start(&[("METRICS", "emf")]).await;
    running.api.invoke(json!({}), TIME).await.unwrap();
    let line = running.bootstrap.wait_for_line("CloudWatchMetrics").await;
    check_emf(&line, running.arn.split(':').next_back().unwrap(), true);
    assert_eq!(running.world.count("PutMetricData"), 0);
}

#[tokio::test]
async fn it_replies_before_the_deadline_where_everything_hangs() {
    let running = start(&[]).await;
    running.world.aws.fault(Fault::any(FaultKind::Hang));
    let error = running.api.invoke(json!({}), Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(error.error_type, "SyncFailed", "{}", error.error_message);
    assert!(error.error_message.contains("given up shortly before the deadline"), "{}", error.error_message);
}

#[tokio::test]
async fn it_finds_the_target_groups_of_its_own_region_by_their_tags() {
    let running = start(&[("BINDINGS", ""), ("DISCOVERY", "tags"), ("METRICS", "emf")]).await;
    let aws = &running.world.aws;
    let arn = aws.create_target_group(TargetGroup { region: "eu-central-1", ..TargetGroup::new("tagged") });
    aws.set_tag(&running.arn, "nlb-hostname-targets:hostname", "db.test");
    aws.set_tag(&arn, "nlb-hostname-targets:hostname", "db.test");
    let reply = running.api.invoke(json!({}), TIME).await.unwrap();
    assert_eq!(reply["groups"].as_array().unwrap().len(), 1);
    assert_eq!(reply["groups"][0]["target_group_arn"], arn.as_str());
    let line = running.bootstrap.wait_for_line("RegisteredTargets").await;
    check_emf(&line, arn.split(':').next_back().unwrap(), false);

    aws.fault(Fault::on("GetResources", FaultKind::error(400, "AccessDeniedException", "not authorized")));
    let fresh = start(&[("BINDINGS", ""), ("DISCOVERY", "tags"), ("AWS_ENDPOINT_URL", aws.url())]).await;
    let error = fresh.api.invoke(json!({}), TIME).await.unwrap_err();
    assert_eq!(error.error_type, "DiscoveryFailed");
    assert!(error.error_message.contains("tag:GetResources"), "{}", error.error_message);
}
