//! Every row of the contract's tables, given wrongly: the error names the field or variable, the
//! value and what is accepted, and nothing is asked or changed anywhere.

use std::time::Duration;

use serde_json::{Value, json};
use support::{
    ARN, World,
    aws::TargetGroup,
    binding, parse,
    runtime_api::{Bootstrap, RuntimeApi},
};

/// A binding with one field set to `value`, or without it.
fn with(field: &str, value: Option<Value>) -> Value {
    let mut binding = binding("db.test", ARN);
    match value {
        Some(value) => binding[field] = value,
        None => drop(binding.as_object_mut().unwrap().remove(field)),
    }
    binding
}

/// Wrong bindings, each with the words that its error has to hold.
fn wrong_bindings() -> Vec<(Value, Vec<&'static str>)> {
    let mut wrong = vec![
        (with("hostname", None), vec!["missing field `hostname`"]),
        (with("target_group_arn", None), vec!["missing field `target_group_arn`"]),
        (with("prot", Some(json!(5432))), vec!["unknown field `prot`", "`port`"]),
        (json!("db.test"), vec!["\"db.test\"", "an object"]),
        (json!(["db.test", ARN]), vec!["sequence", "an object"]),
        (json!(null), vec!["null", "an object"]),
    ];
    let mut row = |field: &'static str, values: &str, accepted: &'static str| {
        for value in serde_json::from_str::<Vec<Value>>(&format!("[{values}]")).unwrap() {
            wrong.push((with(field, Some(value)), vec![field, accepted]));
        }
    };
    row("hostname", r#"5, null, ["db.test"], {}"#, "a string");
    row("hostname", r#""", ".""#, "empty");
    row("hostname", r#""10.0.1.10", "10.0.1.10.", "::1", "[fd00::1]""#, "IP address");
    row("hostname", r#""db..test", ".db.test", "db.test..""#, "empty label");
    row("hostname", r#""-db.test", "db.-a.test""#, "begins with `-`");
    row("hostname", &format!("\"{}test\"", "a.".repeat(125)), "253");
    row("hostname", &format!("\"{}.test\"", "a".repeat(64)), "63");
    let names = r#""db test", "https://db.test", "db.test:5432", "dätabase.test", "*.test""#;
    row("hostname", names, "only letters");
    row("target_group_arn", "7, null, []", "a string");
    let form = "arn:PARTITION:elasticloadbalancing:REGION:ACCOUNT:targetgroup/NAME/ID";
    row("target_group_arn", r#""", "db""#, form);
    for (from, to) in [
        ("targetgroup/", "loadbalancer/net/"),
        ("elasticloadbalancing", "ec2"),
        ("us-east-1", ""),
        ("123456789012", "12345"),
        ("arn:aws", "arn:gcp"),
        ("/0123456789abcdef", ""),
        ("/0123456789abcdef", "/0123/5"),
        ("cdef", "cdef\\n"),
    ] {
        row("target_group_arn", &format!("\"{}\"", ARN.replace(from, to)), form);
    }
    row("port", r#"0, 65536, -1, 5432.5, "5432", null, true"#, "an integer from 1 to 65535");
    row("deregister_after_seconds", r#"-1, 1.5, "60", null, 4294967296"#, "an integer from 0 to 4294967295");
    row("ownership", r#""owned", "Exclusive""#, "`exclusive` or `shared`");
    row("ownership", r#"1, null, {"shared": null}"#, "a string");
    row("lookups", r#"0, 51, "5", null, 2.5"#, "an integer from 1 to 50");
    wrong
}

#[tokio::test]
async fn wrong_bindings_in_the_environment_and_in_the_event() {
    let world = World::new().await;
    for (binding, words) in wrong_bindings() {
        let bindings = json!([with("port", Some(json!(1))), binding]);
        let of_environment = parse(&[("BINDINGS", &bindings.to_string())]).unwrap_err().to_string();
        let of_event = world.failure(json!({"bindings": bindings})).await;
        for (message, at) in [(of_environment, "BINDINGS[1]"), (of_event, "bindings[1]")] {
            for word in words.iter().chain(&[at]) {
                assert!(message.contains(word), "{bindings}\n{message}\nlacks {word}");
            }
        }
    }
    assert!(world.aws.calls().is_empty() && world.dns.queries().is_empty());
}

#[test]
fn the_values_that_a_row_accepts() {
    let long = format!("{}a", "a.".repeat(126));
    let partition = |name: &str| ARN.replace("arn:aws:", &format!("arn:{name}:"));
    let names = ["db.test.", "DB.Test", "_pg._tcp.x-y.test", "localhost", &long, "xn--dtabase-5wa.test"];
    let rows: [(&str, Vec<Value>); 6] = [
        ("hostname", names.map(Value::from).into()),
        ("target_group_arn", ["aws", "aws-cn", "aws-us-gov", "aws-iso-b"].map(|name| partition(name).into()).into()),
        ("port", vec![json!(1), json!(65535)]),
        ("deregister_after_seconds", vec![json!(0), json!(u32::MAX)]),
        ("ownership", vec![json!("exclusive"), json!("shared")]),
        ("lookups", vec![json!(1), json!(50)]),
    ];
    for (field, values) in rows {
        for value in values {
            let text = json!([with(field, Some(value))]).to_string();
            parse(&[("BINDINGS", &text)]).unwrap_or_else(|error| panic!("{text}: {error}"));
        }
    }
}

#[test]
fn bindings_of_one_group_that_state_different_values() {
    for (field, one, other) in
        [("ownership", json!("exclusive"), json!("shared")), ("deregister_after_seconds", json!(0), json!(60))]
    {
        let mut second = with(field, Some(other));
        second["hostname"] = json!("other.test");
        let text = json!([with(field, Some(one)), second]).to_string();
        let message = parse(&[("BINDINGS", &text)]).unwrap_err().to_string();
        for word in ["target_group_arn", "different values", field, ARN] {
            assert!(message.contains(word), "{message}\nlacks {word}");
        }
    }
}

#[test]
fn wrong_variables() {
    let servers = "dns.test|10.0.0.2,|10.0.0.2:0|10.0.0.2:65536|[fd00::1|10.0.0.256|10.0.0.2;10.0.0.3|0.0.0.0";
    let networks = "10.0.0.0/33|10.0.0.0|private|10.0.0.0/8,|fd00::/129|10.0.0.0/+8|010.0.0.0/8|::ffff:010.0.0.0/104";
    let long = "n".repeat(256);
    for (variable, values, accepted) in [
        ("DNS_SERVERS", servers, "`IP`, `IP:port` or `[v6]:port`"),
        ("ALLOWED_CIDRS", networks, "networks such as"),
        (
            "ALLOWED_HOSTNAMES",
            "*|*.|a.*.test|*test|db.test,|db..test|10.0.0.1|a.test;b.test|https://db.test",
            "*.example.com",
        ),
        ("BINDINGS", "db.test|{}|5|[|[{}|[] []|\"[]\"|null", "a JSON array of bindings"),
        ("BINDINGS", r#"[{"hostname":"a.test","hostname":"b.test"}]"#, "duplicate field `hostname`"),
        ("DISCOVERY", "on|Tags|true|tag", "`off` or `tags`"),
        ("METRICS", "statsd|CloudWatch|on", "`cloudwatch` or `emf` or `off`"),
        ("METRICS_NAMESPACE", "AWS/NetworkELB|:x|größe|a\nb", "letters"),
        ("METRICS_NAMESPACE", &long, "1 to 255"),
        ("POLL_INTERVAL_SECONDS", "-1|1.5|fast|61|+5", "an integer from 0 to 60"),
        ("ELB_REQUESTS_PER_SECOND", "-1|1.5|many|1001|99999999999999999999", "an integer from 0 to 1000"),
        ("AWS_MAX_ATTEMPTS", "0|-1|three", "an integer from 1"),
        ("AWS_RETRY_MODE", "legacy|Standard", "`standard` or `adaptive`"),
    ] {
        for value in values.split('|') {
            let message = parse(&[(variable, value)]).unwrap_err().to_string();
            let shown: String = value.chars().take(80).collect();
            for word in [variable, &shown.replace('\n', "\\n"), accepted] {
                assert!(message.contains(word), "{message}\nlacks {word}");
            }
        }
    }
    let message = parse(&[("METRICS", "x"), ("DNS_SERVERS", "y"), ("BINDINGS", "z")]).unwrap_err().to_string();
    for variable in ["METRICS", "DNS_SERVERS", "BINDINGS"] {
        assert!(message.contains(variable), "all at once: {message}");
    }
}

#[tokio::test]
async fn what_a_message_repeats_begins_no_line_of_the_log() {
    let world = World::new().await;
    let forged = "\nERROR forged\u{1b}[2J";
    let bindings = json!([with("hostname", Some(json!(forged)))]);
    for message in [
        parse(&[("BINDINGS", &bindings.to_string())]).unwrap_err().to_string(),
        parse(&[("METRICS", &format!("x{forged}"))]).unwrap_err().to_string(),
        world.failure(json!({"bindings": bindings})).await,
        world.failure(json!({forged: true})).await,
    ] {
        assert!(message.contains("\\nERROR forged"), "{message}");
        assert!(!message.contains(char::is_control), "{message:?}");
    }
}

#[test]
fn the_values_that_a_variable_accepts() {
    for (variable, values) in [
        ("DNS_SERVERS", "10.0.0.2|10.0.0.2:5353, fd00::1|[fd00::1]:53,10.0.0.2|"),
        ("ALLOWED_CIDRS", "10.0.0.0/8|10.0.0.0/8, fd00::/8|0.0.0.0/0| "),
        ("METRICS", "cloudwatch|emf|off"),
        ("METRICS_NAMESPACE", "NlbHostnameTargets|team/data #1.x-y_z:a"),
        ("POLL_INTERVAL_SECONDS", "0|60"),
        ("ELB_REQUESTS_PER_SECOND", "0|10|1000"),
        ("BINDINGS", "[]|"),
        ("DISCOVERY", "off|tags|"),
        ("AWS_MAX_ATTEMPTS", "1|10"),
    ] {
        for value in values.split('|') {
            parse(&[(variable, value)]).unwrap_or_else(|error| panic!("{variable}={value}: {error}"));
        }
    }
}

#[test]
fn which_hostnames_the_list_lets_through() {
    for (list, hostname, is_allowed) in [
        ("db.test", "db.test", true),
        ("db.test", "DB.Test.", true),
        ("DB.Test.", "db.test", true),
        ("db.test", "a.db.test", false),
        ("db.test", "b.test", false),
        ("*.test", "db.test", true),
        ("*.test", "a.db.test", true),
        ("*.test", "test", false),
        ("*.test", "db.best", false),
        ("*.db.test", "xdb.test", false),
        ("*.Db.Test.", "x.db.test.", true),
        (" a.test ,*.db.test ", "x.db.test", true),
        (" ", "db.test", true),
    ] {
        let bindings = json!([binding(hostname, ARN)]).to_string();
        let parsed = parse(&[("BINDINGS", &bindings), ("ALLOWED_HOSTNAMES", list)]);
        assert_eq!(parsed.is_ok(), is_allowed, "{list} {hostname}: {parsed:?}");
    }
}

#[tokio::test]
async fn a_run_without_bindings_names_the_variable() {
    let world = World::new().await;
    for event in [json!({}), json!(null), json!({"dry_run": true}), json!({"source": "aws.rds"})] {
        let message = world.failure(event).await;
        assert!(message.contains("BINDINGS") && message.contains("hostname"), "{message}");
    }
}

#[tokio::test]
async fn wrong_events_change_nothing() {
    let world = World::new().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let arn = world.aws.create_target_group(TargetGroup::new("db"));
    let world = world.set("BINDINGS", json!([binding("db.test", &arn)]));
    let sns =
        |message: Value| json!({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": message.to_string()}}]});
    let of = |source: &str, id: &str| sns(json!({"Event Source": source, "Event ID": id, "Event Message": "…"}));
    let link = "http://docs.aws.amazon.com/dms/latest/userguide/CHAP_Events.html#DMS-EVENT-0079";
    let sqs = json!({"eventSource": "aws:sqs", "body": json!({"source": "aws.rds"}).to_string()});
    for (event, words) in [
        (json!("go"), vec!["\"go\"", "a direct request"]),
        (json!(5), vec!["5", "a direct request"]),
        (json!(true), vec!["true", "a direct request"]),
        (json!([]), vec!["an array", "EventBridge rule"]),
        (json!([sqs]), vec!["an array", "Pipes", "EventBridge rule"]),
        (json!({"Records": [sqs]}), vec!["Records", "aws:sqs", "EventBridge rule"]),
        (json!({"Records": [{"eventSource": "aws:s3"}]}), vec!["Records", "aws:s3", "RDS notification"]),
        (json!({"dryrun": true}), vec!["dryrun", "`dry_run`"]),
        (json!({"dry_run": true, "extra": 1}), vec!["extra"]),
        (json!({"dry_run": "true"}), vec!["dry_run", "\"true\"", "a boolean"]),
        (json!({"dry_run": null}), vec!["dry_run", "null", "a boolean"]),
        (json!({"dry_run": 1}), vec!["dry_run", "`1`", "a boolean"]),
        (json!({"check": "yes"}), vec!["check", "a boolean"]),
        (json!({"check": null}), vec!["check", "a boolean"]),
        (json!({"chekc": true}), vec!["chekc", "`check`"]),
        (json!({"check": true, "watch_seconds": 0}), vec!["watch_seconds", "check"]),
        (json!({"source": "aws.events", "check": true}), vec!["source", "check"]),
        (json!({"watch_seconds": -1}), vec!["watch_seconds", "-1", "an integer from 0 to 900"]),
        (json!({"watch_seconds": 1.5}), vec!["watch_seconds", "1.5", "an integer from 0 to 900"]),
        (json!({"watch_seconds": "60"}), vec!["watch_seconds", "\"60\"", "an integer from 0 to 900"]),
        (json!({"watch_seconds": null}), vec!["watch_seconds", "null", "an integer from 0 to 900"]),
        (json!({"watch_seconds": 901}), vec!["watch_seconds", "901", "an integer from 0 to 900"]),
        (json!({"bindings": {}}), vec!["bindings", "a sequence"]),
        (json!({"bindings": null}), vec!["bindings", "null"]),
        (json!({"bindings": "db.test"}), vec!["bindings", "db.test"]),
        (json!({"bindings": []}), vec!["bindings", "at least one"]),
        (json!({"source": 5}), vec!["source"]),
        (json!({"source": "aws.events", "dry_run": true}), vec!["source", "dry_run"]),
        (json!({"Records": [], "dry_run": true}), vec!["Records", "dry_run"]),
        (json!({"Records": []}), vec!["Records", "RDS notification"]),
        (sns(json!("hello")), vec!["Records", "RDS notification"]),
        (sns(json!({"AlarmName": "x"})), vec!["Records", "RDS notification"]),
        (of("replication-task", link), vec!["Records", "\"replication-task\"", "DMS-EVENT-0079"]),
        (of("replication-task", "x#RDS-EVENT-0049"), vec!["Records", "\"replication-task\""]),
        (of("cluster", "x#REDSHIFT-EVENT-2000"), vec!["Records", "\"cluster\"", "REDSHIFT-EVENT-2000"]),
        (of("db-instance", "x#DMS-EVENT-0079"), vec!["Records", "\"db-instance\"", "DMS-EVENT-0079"]),
        (sns(json!({"source": "aws.dms", "detail": {}})), vec!["Records", "RDS notification"]),
    ] {
        let message = world.failure(event.clone()).await;
        for word in words {
            assert!(message.contains(word), "{event}\n{message}\nlacks {word}");
        }
    }
    assert!(world.aws.calls().is_empty() && world.dns.queries().is_empty());
}

#[tokio::test]
async fn a_group_that_does_not_exist_is_named() {
    let world = World::new().await;
    world.dns.set_a("db.test", &["10.0.1.10"]);
    let message = world.failure(json!({"bindings": [binding("db.test", ARN)]})).await;
    for word in [ARN, "db.test", "TargetGroupNotFound", "another account or Region"] {
        assert!(message.contains(word), "{message}\nlacks {word}");
    }
}

#[tokio::test]
async fn a_wrong_environment_ends_the_real_binary_with_a_readable_init_error() {
    let api = RuntimeApi::start().await;
    let environment = [("METRICS", "statsd"), ("AWS_MAX_ATTEMPTS", "0")];
    let mut bootstrap = Bootstrap::start(env!("CARGO_BIN_EXE_bootstrap"), &api, environment);
    let error = api.invoke(json!({}), Duration::from_secs(20)).await.unwrap_err();
    assert_eq!(error.error_type, "InvalidConfiguration");
    for word in ["METRICS is `statsd`", "`cloudwatch` or `emf` or `off`", "AWS_MAX_ATTEMPTS is `0`"] {
        assert!(error.error_message.contains(word), "{}\nlacks {word}", error.error_message);
    }
    assert!(!bootstrap.wait_for_exit().await.success());
    let log = bootstrap.lines().join("\n");
    assert!(log.contains("METRICS is `statsd`") && !log.contains("panicked"), "{log}");
}

#[test]
fn the_binary_started_by_hand_says_what_it_is() {
    for environment in [vec![], vec![("METRICS", "statsd")]] {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_bootstrap"))
            .env_clear()
            .envs(environment)
            .output()
            .expect("it starts");
        let log = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.contains("AWS_LAMBDA_RUNTIME_API is not set") && !log.contains("panicked"), "{log}");
    }
}
