//! How the AWS SDK is set up, and how its errors read.

pub(crate) mod elb;
pub(crate) mod inspection;
pub(crate) mod metrics;
pub(crate) mod tagging;
pub(crate) mod target_group;

use std::{error::Error, iter::successors, time::Duration};

use aws_config::retry::{RetryConfig, RetryMode};
use aws_config::{BehaviorVersion, ConfigLoader, timeout::TimeoutConfig};
use aws_smithy_http_client::Builder as HttpClientBuilder;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime::client::retries::{RetryPartition, TokenBucket};
use aws_smithy_runtime_api::client::{
    interceptors::context::InterceptorContext,
    retries::classifiers::{ClassifyRetry, RetryAction},
};

use crate::settings::environment::Config;

/// The AWS SDK's settings: credentials, Region and endpoints as its environment says, time-outs and retries set here.
pub fn sdk_config(config: &Config) -> ConfigLoader {
    let mode = if config.adaptive_retries { RetryMode::Adaptive } else { RetryMode::Standard };
    let retries = RetryConfig::standard()
        .with_retry_mode(mode)
        .with_max_attempts(config.max_attempts.get())
        .with_initial_backoff(INITIAL_BACKOFF);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .operation_attempt_timeout(ATTEMPT_TIMEOUT)
        .operation_timeout(OPERATION_TIMEOUT);
    let http = HttpClientBuilder::new()
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .build_https();
    aws_config::defaults(BehaviorVersion::v2026_01_12())
        .http_client(http)
        .retry_config(retries)
        .timeout_config(timeouts.build())
}

/// Gives each call its own retries. The SDK lets all calls share a bucket of them, which one target group whose calls
/// always fail would empty for all others.
pub(crate) fn retry_partition() -> RetryPartition {
    RetryPartition::custom("a call's own").token_bucket(TokenBucket::unlimited()).build()
}

/// Has what AWS refuses as expired signed and sent again: a clock moved, or the process was thawed with a signed request at
/// hand.
#[derive(Debug)]
pub(crate) struct RetryExpired;

impl ClassifyRetry for RetryExpired {
    fn name(&self) -> &'static str {
        "RetryExpired"
    }

    /// Each service writes its errors in another format, and all of them name the code and the message in plain text.
    fn classify_retry(&self, context: &InterceptorContext) -> RetryAction {
        let reply = context.response().filter(|reply| reply.status().is_client_error());
        let body = reply.and_then(|reply| reply.body().bytes()).unwrap_or_default();
        let body = String::from_utf8_lossy(body);
        if EXPIRED.iter().any(|word| body.contains(word)) {
            RetryAction::transient_error()
        } else {
            RetryAction::NoActionIndicated
        }
    }
}

/// An error with its causes: the SDK's own text stops at `dispatch failure`.
pub(crate) fn chain(error: &dyn Error) -> String {
    let causes = successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may be idle and be used again. Between two invocations Lambda freezes the process, and its
/// connections may die without a word; a call that finds out waits for seconds, a new connection takes milliseconds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long one attempt of a call may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(4);

/// How long a call may take: a dead endpoint is named before a function with a time-out of 15 s is ended.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(12);

/// The SDK's own is a second; ELBv2 regains ten requests in that time.
const INITIAL_BACKOFF: Duration = Duration::from_millis(250);

/// What an error reply holds where the signature or the token had expired. The messages are those of
/// `SignatureDoesNotMatch` and of `InvalidSignatureException`, which have other causes, too.
const EXPIRED: [&str; 5] =
    ["ExpiredToken", "RequestExpired", "RequestTimeTooSkewed", "Signature expired", "Signature not yet current"];
