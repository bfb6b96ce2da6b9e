//! The ELBv2 client: one for each Region, its retries, and what its errors mean.

use std::collections::{BTreeMap, HashMap};
use std::{cell::RefCell, error::Error, hash::Hash, pin::Pin, sync::Arc, time::Instant};

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
use futures_util::future::join_all;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::{timeout, timeout_at};

use crate::aws::{ATTEMPT_TIMEOUT, RetryExpired, chain, retry_partition};
use crate::budget::{Budget, Turn};
use crate::failure::{ElbError, ElbErrorKind, action};

/// ELBv2, in all Regions.
#[derive(Debug)]
pub(crate) struct Elb {
    sdk: SdkConfig,
    /// By Region: an ARN names the Region that its target group lives in.
    clients: RefCell<HashMap<String, Client>>,
    pub(crate) budget: Arc<Budget>,
}

impl Elb {
    pub(crate) fn new(sdk: &SdkConfig, budget: Budget) -> Self {
        Self { sdk: sdk.clone(), clients: RefCell::default(), budget: Arc::new(budget) }
    }

    /// What calls the Region of this ARN.
    pub(crate) fn client(&self, arn: &str) -> Client {
        let new = |region: &String| {
            let config = Builder::from(&self.sdk)
                .region(Region::new(region.clone()))
                .retry_partition(retry_partition())
                .retry_classifier(RetryExpired)
                .interceptor(Guard(Arc::clone(&self.budget)));
            Client::from_conf(config.build())
        };
        self.clients.borrow_mut().entry(region(arn).to_owned()).or_insert_with_key(new).clone()
    }

    /// Reads what is said of each of these ARNs, as many in a call as possible, when the budget lets it. What the time did
    /// not suffice for is missing.
    pub(crate) async fn read_many<K: Clone + Eq + Hash + ToString, V>(
        &self,
        operation: &'static str,
        arns: impl IntoIterator<Item = K>,
        describe: impl AsyncFn(Client, Turn<'_>, Vec<String>) -> Result<HashMap<K, V>, ElbError>,
        until: Instant,
    ) -> HashMap<K, Result<V, ElbError>> {
        let mut regions: BTreeMap<String, Vec<K>> = BTreeMap::new();
        for arn in arns {
            regions.entry(region(&arn.to_string()).to_owned()).or_default().push(arn);
        }
        let describe = async |arns: Vec<K>| {
            let turn = self.budget.acquire().await;
            let names: Vec<_> = arns.iter().map(ToString::to_string).collect();
            let client = self.client(names.first().map_or("", String::as_str));
            (describe(client, turn, names).await, arns)
        };
        let read = async |arns| match describe(arns).await {
            // One that was deleted spoils the call for the others beside it.
            (Err(_), arns) if arns.len() > 1 => join_all(arns.into_iter().map(|arn| describe(vec![arn]))).await,
            read => vec![read],
        };
        let chunks = regions.values().flat_map(|arns| arns.chunks(MOST));
        let mut calls: FuturesUnordered<_> = chunks.map(|arns| read(arns.to_vec())).collect();
        let missing =
            || ElbError { operation, kind: ElbErrorKind::NotFound, problem: "the reply does not hold it".to_owned() };
        let mut all = HashMap::new();
        while let Ok(Some(parts)) = timeout_at(until.into(), calls.next()).await {
            for (mut read, arns) in parts {
                all.extend(arns.into_iter().map(|arn| {
                    let value = read.as_mut().map(|found| found.remove(&arn).ok_or_else(missing));
                    (arn, value.unwrap_or_else(|error| Err(error.clone())))
                }));
            }
        }
        all
    }
}

fn region(arn: &str) -> &str {
    arn.split(':').nth(3).unwrap_or_default()
}

/// Calls ELBv2, which `turn` allows. One that hangs keeps nobody waiting for all its retries.
///
/// The SDK's future takes 5 KB. In a box before another one could hold it, it spares a run over a thousand target groups 18 of
/// 64 MiB.
pub(crate) async fn call<T, E: Error + ProvideErrorMetadata + 'static>(
    operation: &'static str,
    turn: Turn<'_>,
    mut request: Pin<Box<impl Future<Output = Result<T, SdkError<E>>>>>,
) -> Result<T, ElbError> {
    let reply = match timeout(ATTEMPT_TIMEOUT, &mut request).await {
        Ok(reply) => reply,
        Err(_) => {
            drop(turn);
            request.await
        }
    };
    reply.map_err(|error| elb_error(operation, &error))
}

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

/// Counts the SDK's own retries. And lets no reply pass for a success that is not ELBv2's, or was cut short: the SDK does
/// not read those to writes. A proxy's page with status 200 would be a registration, after which stale targets go.
#[derive(Debug)]
struct Guard(Arc<Budget>);

impl Intercept for Guard {
    fn name(&self) -> &'static str {
        "Guard"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if config.load::<RequestAttempts>().is_some_and(|attempts| attempts.attempts() > 1) {
            drop(self.0.take());
        }
        Ok(())
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

/// Target groups, load balancers or resources in a call. AWS documents the number for the last two.
const MOST: usize = 20;

/// What the messages hold by which AWS says that an address needs an Availability Zone: it lies outside the VPC, or in no
/// subnet of it (aws-load-balancer-controller, issues 3084 and 3714, and what its own code looks for).
const OUTSIDE_VPC: [&str; 3] = ["outside the VPC", "not in the VPC", "ou must specify an Availability Zone"];

/// The root element of a reply is `ACTIONResponse`
/// ([AWS Query protocol](https://smithy.io/2.0/aws/protocols/aws-query-protocol.html)).
const END_OF_REPLY: &[u8] = b"Response>";
