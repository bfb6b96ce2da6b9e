//! The Lambda `bootstrap`: reads the environment, builds the clients once, and serves invocations.

use std::{env, error::Error, io, process::ExitCode};

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use lambda_runtime_api_client::{Client, body::Body};
use nlb_hostname_targets::{
    config::Config,
    function::{Function, RunError, sdk_config},
    report::Reply,
};
use serde_json::Value;
use tracing::{error, warn};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    start_logging();
    let function = match start().await {
        Ok(function) => function,
        Err(error) => {
            error!(%error, "the function can't start");
            report_init_error(error.as_ref()).await;
            return ExitCode::FAILURE;
        }
    };
    let serve = async |event: LambdaEvent<Value>| -> Result<Reply, RunError> {
        function.handle(event.payload, event.context.deadline()).await
    };
    match lambda_runtime::run(service_fn(serve)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(%error, "the runtime ended");
            ExitCode::FAILURE
        }
    }
}

/// Logs to stdout as Lambda's logging configuration says, in the format of lambda_runtime's own
/// subscriber: without time and target, which CloudWatch Logs and the reader know.
fn start_logging() {
    let variable = |name| env::var(name).unwrap_or_default();
    let level = variable("AWS_LAMBDA_LOG_LEVEL").parse().unwrap_or(LevelFilter::INFO);
    let filter = match variable("RUST_LOG").parse::<Targets>() {
        Ok(directives) if env::var_os("RUST_LOG").is_some() => directives,
        _ => Targets::new().with_default(level),
    };
    let format = tracing_subscriber::fmt::layer().with_target(false).without_time().with_writer(io::stdout);
    let subscriber = tracing_subscriber::registry().with(filter);
    if variable("AWS_LAMBDA_LOG_FORMAT").eq_ignore_ascii_case("json") {
        subscriber.with(format.json()).init();
    } else {
        subscriber.with(format).init();
    }
}

async fn start() -> Result<Function, Box<dyn Error + Send + Sync>> {
    let config = Config::parse(|name| env::var_os(name).map(|value| value.to_string_lossy().into_owned()))?;
    let sdk = sdk_config(&config).load().await;
    Ok(Function::new(config, &sdk)?)
}

/// Tells Lambda why the function does not start, so that whoever invokes it reads more than
/// `exit status 1`.
async fn report_init_error(error: &(dyn Error + Send + Sync)) {
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
    if let Err(error) = report.await {
        warn!(%error, "the Lambda Runtime API did not take the error");
    }
}
