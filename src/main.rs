//! The Lambda `bootstrap`: reads the environment, builds the clients once, and serves invocations.

use std::time::{Duration, SystemTime};
use std::{env, error::Error, io, process::ExitCode};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use lambda_runtime_api_client::{Client, body::Body};
use nlb_hostname_targets::{VERSION, aws::sdk_config, function::Function, settings::environment::Config};
use serde_json::Value;
use tokio::time::timeout;
use tracing::{error, info};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    start_logging();
    info!(version = VERSION, commit = env!("SOURCE_COMMIT"), "starting");
    let function = match start().await {
        Ok(function) => function,
        Err(error) => {
            error!(%error, "the function can't start");
            report_init_error(error.as_ref()).await;
            return ExitCode::FAILURE;
        }
    };
    let serve = async |event: LambdaEvent<Value>| function.handle(event.payload, event.context.deadline()).await;
    if let Err(error) = lambda_runtime::run(service_fn(serve)).await {
        error!(%error, "the runtime ended");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Logs to stdout as Lambda's logging configuration says. A line of text has no time, which CloudWatch Logs adds; one of
/// JSON has, because without it Lambda takes every line for INFO
/// ([log levels](https://docs.aws.amazon.com/lambda/latest/dg/monitoring-cloudwatchlogs-log-level.html)).
fn start_logging() {
    // An unset or wrong variable must not silence the log, and an empty one parses as a level.
    let variable = |name| env::var(name).ok().filter(|value| !value.is_empty());
    let level = variable("AWS_LAMBDA_LOG_LEVEL").and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let filter = variable("RUST_LOG").and_then(|directives| directives.parse().ok());
    let filter = filter.unwrap_or_else(|| Targets::new().with_default(level));
    let format = tracing_subscriber::fmt::layer().with_target(false).with_writer(io::stdout);
    let subscriber = tracing_subscriber::registry().with(filter);
    if variable("AWS_LAMBDA_LOG_FORMAT").is_some_and(|format| format.eq_ignore_ascii_case("json")) {
        subscriber.with(format.json()).init();
    } else {
        subscriber.with(format.without_time()).init();
    }
}

async fn start() -> Result<Function, Box<dyn Error + Send + Sync>> {
    if let Some(missing) = LAMBDA_VARIABLES.iter().find(|name| env::var_os(name).is_none()) {
        return Err(format!(
            "{missing} is not set: this is the bootstrap of an AWS Lambda function, which Lambda starts, or on one's own \
             machine `cargo lambda watch` (`make run`, `make watch`)"
        )
        .into());
    }
    let config = Config::parse(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))?;
    let sdk = sdk_config(&config).load().await;
    Ok(Function::new(config, &sdk, SystemTime::now)?)
}

/// Tells Lambda why the function does not start, so that whoever invokes it reads more than `exit status 1`.
async fn report_init_error(error: &(dyn Error + Send + Sync)) {
    if env::var_os(RUNTIME_API).is_none() {
        return;
    }
    let diagnostic = Diagnostic { error_type: "InvalidConfiguration".to_owned(), error_message: error.to_string() };
    let report = async {
        let client = Client::builder().build()?;
        let request = lambda_runtime_api_client::build_request()
            .method("POST")
            .uri("/2018-06-01/runtime/init/error")
            .header("lambda-runtime-function-error-type", &diagnostic.error_type)
            .body(Body::from(serde_json::to_vec(&diagnostic)?))?;
        client.call(request).await
    };
    // It may hang; the log has the error anyway.
    drop(timeout(Duration::from_secs(1), report).await);
}

const RUNTIME_API: &str = "AWS_LAMBDA_RUNTIME_API";

/// What Lambda sets, and lambda_runtime panics without.
const LAMBDA_VARIABLES: [&str; 4] =
    [RUNTIME_API, "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION"];
