//! The ELBv2 client: one for each Region, its retries, and what its errors mean. No SDK type of a call leaves
//! `target_group` and `inspection`.

use std::sync::{Arc, Mutex, PoisonError};
use std::{collections::HashMap, error::Error};

use aws_config::{Region, SdkConfig};
use aws_sdk_elasticloadbalancingv2::{
    Client,
    config::{
        Builder, ConfigBag, Intercept, RuntimeComponents,
        interceptors::{AfterDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextRef},
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
};
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use tokio::{sync::Semaphore, time::timeout};

use crate::aws::{ATTEMPT_TIMEOUT, RetryExpired, budget::Budget, chain, retry_partition};
use crate::failure::{ElbError, ElbErrorKind, action};
use crate::target::TargetGroupArn;

/// ELBv2 in all Regions.
#[derive(Debug)]
pub(crate) struct Elb {
    sdk: SdkConfig,
    /// By Region: an ARN names the Region that its target group lives in.
    clients: Mutex<HashMap<String, Regional>>,
    budget: Arc<Budget>,
}

/// What calls a Region, and how many more calls it may make meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Regional {
    pub(crate) client: Client,
    open: Arc<Semaphore>,
}

impl Elb {
    /// Calls ELBv2 with `sdk`'s credentials and settings, and counts the SDK's retries in `budget`.
    pub(crate) fn new(sdk: &SdkConfig, budget: Arc<Budget>) -> Self {
        Self { sdk: sdk.clone(), clients: Mutex::default(), budget }
    }

    /// What calls the Region of this target group.
    pub(crate) fn regional(&self, arn: &TargetGroupArn) -> Regional {
        self.in_region(arn.region())
    }

    /// What calls this Region.
    pub(crate) fn in_region(&self, region: &str) -> Regional {
        let new = |region: &String| {
            let config = Builder::from(&self.sdk)
                .region(Region::new(region.clone()))
                .retry_partition(retry_partition())
                .retry_classifier(RetryExpired)
                .interceptor(CountRetries(Arc::clone(&self.budget)))
                .interceptor(ReadToTheEnd);
            Regional { client: Client::from_conf(config.build()), open: Arc::new(Semaphore::new(MAX_OPEN_REQUESTS)) }
        };
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.entry(region.to_owned()).or_insert_with_key(new).clone()
    }
}

impl Regional {
    /// Calls ELBv2 when fewer requests are open than may be. The caller has waited for the budget.
    ///
    /// The SDK's future takes 5 KB. It is boxed before another one could hold it, which spares a run over a thousand
    /// target groups 18 of 64 MiB.
    pub(crate) fn call<T, E: Error + ProvideErrorMetadata + 'static>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> impl Future<Output = Result<T, ElbError>> {
        let mut request = Box::pin(request);
        async move {
            // Never closed; and to call without a place would do no harm either.
            let place = self.open.acquire().await;
            let reply = match timeout(ATTEMPT_TIMEOUT, &mut request).await {
                Ok(reply) => reply,
                // One that hangs shall not keep others waiting for all its retries.
                Err(_) => {
                    drop(place);
                    request.await
                }
            };
            reply.map_err(|error| elb_error(operation, &error))
        }
    }
}

/// What went wrong in a call of `operation`.
pub(crate) fn elb_error<E: Error + ProvideErrorMetadata + 'static>(
    operation: &'static str,
    error: &SdkError<E>,
) -> ElbError {
    let SdkError::ServiceError(reply) = error else {
        let is_time = matches!(error, SdkError::TimeoutError(_));
        let kind = if is_time { ElbErrorKind::TimedOut } else { ElbErrorKind::Failed };
        return ElbError { operation, kind, problem: if is_time { NO_REPLY.to_owned() } else { chain(error) } };
    };
    let status = reply.raw().status().as_u16();
    let (mut kind, problem) = match (error.code(), error.message().unwrap_or("(no message)")) {
        (Some(code), message) => (kind(operation, code, message), format!("{code}: {message}")),
        (None, _) => (ElbErrorKind::Failed, format!("an error reply that can't be read, HTTP status {status}")),
    };
    if kind == ElbErrorKind::Failed && status >= 500 {
        kind = ElbErrorKind::Unavailable;
    }
    // What to do, where AWS's own message leaves the user alone.
    let hint = match error.code() {
        Some("TargetGroupNotFound" | "TargetGroupNotFoundException") => {
            " (was the target group deleted, or does its ARN name another account or Region?)".to_owned()
        }
        _ if kind == ElbErrorKind::Denied => format!(" (the function's role must allow {})", action(operation)),
        _ => String::new(),
    };
    ElbError { operation, kind, problem: problem + &hint }
}

/// What an error reply means. ValidationError is not modelled by the API, and only its text tells what is the matter.
fn kind(operation: &str, code: &str, message: &str) -> ElbErrorKind {
    match code {
        "AccessDenied" | "AccessDeniedException" | "UnauthorizedOperation" => ElbErrorKind::Denied,
        "Throttling" | "ThrottlingException" | "ThrottledException" => ElbErrorKind::Throttled,
        "RequestLimitExceeded" | "TooManyRequestsException" => ElbErrorKind::Throttled,
        "LoadBalancerNotFound" | "TargetGroupNotFound" | "TargetGroupNotFoundException" => ElbErrorKind::NotFound,
        "TooManyTargets" => ElbErrorKind::QuotaReached,
        "InvalidTarget" | "ValidationError" if OUTSIDE_VPC.iter().any(|phrase| message.contains(phrase)) => {
            ElbErrorKind::OutsideVpc
        }
        "InvalidTarget" | "TooManyRegistrationsForTargetId" | "ValidationError" if operation.ends_with("Targets") => {
            ElbErrorKind::TargetRefused
        }
        _ => ElbErrorKind::Failed,
    }
}

/// Counts the SDK's own retries.
#[derive(Debug)]
struct CountRetries(Arc<Budget>);

impl Intercept for CountRetries {
    fn name(&self) -> &'static str {
        "CountRetries"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if config.load::<RequestAttempts>().is_some_and(|attempts| attempts.attempts() > 1) {
            self.0.count();
        }
        Ok(())
    }
}

/// Lets no reply pass for a success that is not ELBv2's, or was cut short. The SDK does not read those to writes: a proxy's
/// page with status 200 would be a registration, after which stale targets go.
#[derive(Debug)]
struct ReadToTheEnd;

impl Intercept for ReadToTheEnd {
    fn name(&self) -> &'static str {
        "ReadToTheEnd"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().unwrap_or_default();
        if context.output_or_error().is_ok() && !body.trim_ascii_end().ends_with(END_OF_REPLY) {
            return Err("a reply that can't be read: it does not end as ELBv2's do".into());
        }
        Ok(())
    }
}

const NO_REPLY: &str = "no reply in time; a function in a VPC reaches AWS through a NAT gateway or interface endpoints";

/// What the messages hold by which AWS says that an address needs an Availability Zone: it lies outside the VPC, or in no
/// subnet of it (aws-load-balancer-controller, issues 3084 and 3714, and what its own code looks for).
const OUTSIDE_VPC: [&str; 3] = ["outside the VPC", "not in the VPC", "ou must specify an Availability Zone"];

/// The root element of a reply is `ACTIONResponse`
/// ([AWS Query protocol](https://smithy.io/2.0/aws/protocols/aws-query-protocol.html)).
const END_OF_REPLY: &[u8] = b"Response>";

/// Requests under way in a Region at once, each on a connection of its own, not counting those that hang. More TLS
/// handshakes at once would outlast an attempt where 128 MB of memory give a fourteenth of a processor.
const MAX_OPEN_REQUESTS: usize = 32;
