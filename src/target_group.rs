//! The ELBv2 edge: describes, registers and deregisters targets. No SDK type leaves it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    error::Error,
    mem,
    net::IpAddr,
    num::NonZeroU16,
    sync::{Arc, Mutex, PoisonError},
};

use aws_config::{Region, SdkConfig};
use aws_sdk_elasticloadbalancingv2::{
    Client,
    config::{
        Builder, ConfigBag, Intercept, RuntimeComponents,
        interceptors::{
            AfterDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextRef,
            BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
        },
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    types::{
        Tag, TargetDescription, TargetGroup, TargetGroupIpAddressTypeEnum, TargetHealthDescription,
        TargetHealthStateEnum, TargetTypeEnum,
    },
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    aws::{ATTEMPT_TIMEOUT, chain},
    limiter::{Limiter, Priority},
    state::Tags,
    target::{IpFamily, RegisteredTarget, Target, TargetGroupArn, TargetState},
};

/// The target groups of an account, as far as ELBv2 lets us see and change them.
#[derive(Debug)]
pub struct TargetGroups {
    sdk: SdkConfig,
    /// By Region: an ARN names the Region that its target group lives in.
    clients: Mutex<HashMap<String, Regional>>,
    /// What is not of type `ip` stays so, too.
    facts: Mutex<HashMap<TargetGroupArn, Result<Facts, ElbError>>>,
    limiter: Arc<Limiter>,
}

/// What calls a Region, and how many more calls it may make meanwhile: one that hangs shall not
/// hold up the others.
#[derive(Clone, Debug)]
struct Regional {
    client: Client,
    open: Arc<Semaphore>,
}

/// What never changes about a target group, and so is read once in an execution environment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Facts {
    /// The port that targets are registered on unless another is asked for.
    pub port: NonZeroU16,
    /// The family of its addresses.
    pub family: IpFamily,
}

/// Why a registration stopped before its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegisterError {
    /// The call failed.
    #[error(transparent)]
    Failed(ElbError),
    /// The target group holds as many targets as its quota allows.
    #[error(transparent)]
    QuotaReached(ElbError),
}

/// An ELBv2 call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation}: {problem}")]
pub struct ElbError {
    operation: &'static str,
    code: Option<String>,
    problem: String,
}

impl TargetGroups {
    /// Calls ELBv2 with `sdk`'s credentials and settings, no faster than `limiter` lets it.
    pub fn new(sdk: &SdkConfig, limiter: Arc<Limiter>) -> Self {
        Self { sdk: sdk.clone(), clients: Mutex::default(), facts: Mutex::default(), limiter }
    }

    /// The static facts, if they were read before.
    pub fn known_facts(&self, arn: &TargetGroupArn) -> Option<Result<Facts, ElbError>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).get(arn).cloned()
    }

    /// Reads the static facts of a target group, and remembers them. The caller has waited for
    /// its turn.
    ///
    /// # Errors
    ///
    /// Where the call fails, or the target group is not of target type `ip`.
    pub async fn read_facts(&self, arn: &TargetGroupArn) -> Result<Facts, ElbError> {
        self.read_facts_of(&[arn]).await?;
        self.known_facts(arn).unwrap_or_else(|| {
            Err(unusable("the reply does not hold the target group, its type and its port".to_owned()))
        })
    }

    /// Reads the static facts of several target groups with as few calls as possible, until
    /// `until` at the latest. Of those that can't be read together nothing is remembered: one that
    /// was deleted spoils the call for the others beside it.
    pub async fn prefetch_facts(&self, arns: &[&TargetGroupArn], until: Instant) {
        let mut regions: HashMap<&str, Vec<&TargetGroupArn>> = HashMap::new();
        for arn in arns {
            regions.entry(arn.region()).or_default().push(arn);
        }
        let calls = regions.values().flat_map(|arns| arns.chunks(FACTS_IN_A_CALL)).map(async |arns| {
            self.limiter.acquire(Priority::Continue).await;
            self.read_facts_of(arns).await
        });
        let mut calls: FuturesUnordered<_> = calls.collect();
        // What is missing is read, and its error reported, when it is the group's turn.
        drop(timeout_at(until, async { while calls.next().await.is_some() {} }).await);
    }

    /// All in one Region.
    async fn read_facts_of(&self, arns: &[&TargetGroupArn]) -> Result<(), ElbError> {
        let Some(first) = arns.first() else { return Ok(()) };
        let regional = self.regional(first);
        let names = arns.iter().map(ToString::to_string).collect();
        let request = regional.client.describe_target_groups().set_target_group_arns(Some(names));
        let reply = regional.call(DESCRIBE_TARGET_GROUPS, request.send()).await?;
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        for arn in arns {
            let described = reply.target_groups().iter().find(|group| group.target_group_arn() == Some(arn.as_str()));
            // What is cut short is not remembered.
            if let Some(facts) = described.and_then(facts) {
                known.insert((*arn).clone(), facts);
            }
        }
        Ok(())
    }

    /// The targets that DescribeTargetHealth lists, draining ones among them. The caller has
    /// waited for its turn.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn describe(&self, arn: &TargetGroupArn) -> Result<Vec<RegisteredTarget>, ElbError> {
        let regional = self.regional(arn);
        let request = regional.client.describe_target_health().target_group_arn(arn.as_str());
        let reply = regional.call("DescribeTargetHealth", request.send()).await?;
        // Strict, because the SDK takes a reply that was cut short for a shorter list whose last
        // member may be half there.
        let read = |description: &TargetHealthDescription| {
            let target = description.target()?;
            let port = target.port().and_then(|port| u16::try_from(port).ok())?;
            Some(RegisteredTarget {
                target: Target { address: target.id()?.parse().ok()?, port: NonZeroU16::new(port)? },
                id: target.id()?.to_owned(),
                availability_zone: target.availability_zone().map(ToOwned::to_owned),
                state: match description.target_health()?.state()? {
                    TargetHealthStateEnum::Draining => TargetState::Draining,
                    TargetHealthStateEnum::Healthy => TargetState::Healthy,
                    _ => TargetState::Other,
                },
            })
        };
        reply
            .target_health_descriptions()
            .iter()
            .map(|description| {
                read(description).ok_or_else(|| ElbError {
                    operation: "DescribeTargetHealth",
                    code: None,
                    problem: "the reply holds a target without an IP address, port or state".to_owned(),
                })
            })
            .collect()
    }

    /// Registers a batch of at most [`BATCH`] targets. `accepted` hears of what AWS accepted as
    /// soon as it did, and what AWS refused for good is added to `refused`. The caller has waited
    /// for the turn of the first call.
    ///
    /// A call that AWS refuses because of one target is repeated without it, so that no target
    /// keeps another out. The Availability Zone is left out first; a target that AWS says is
    /// outside the VPC is sent again with `all`, because only AWS knows which addresses lie in
    /// the VPC's subnets, and asking EC2 would need its permissions.
    ///
    /// # Errors
    ///
    /// Where a call fails for another reason than one of its targets.
    pub async fn register(
        &self,
        arn: &TargetGroupArn,
        batch: &BTreeSet<Target>,
        accepted: &mut impl FnMut(&[Target]),
        refused: &mut BTreeMap<IpAddr, String>,
    ) -> Result<(), RegisterError> {
        let mut parts: Vec<(Vec<Target>, Zone)> = vec![(batch.iter().copied().collect(), Zone::LeftOut)];
        let mut outside: Vec<Target> = Vec::new();
        let mut first = true;
        loop {
            let Some((part, zone)) = parts.pop() else {
                if outside.is_empty() {
                    return Ok(());
                }
                parts.push((mem::take(&mut outside), Zone::All));
                continue;
            };
            if !first {
                self.limiter.acquire(Priority::Continue).await;
            }
            first = false;
            let Err(error) = self.send(arn, &part, zone).await else {
                accepted(&part);
                continue;
            };
            let verdict = error.verdict();
            match verdict {
                Verdict::Failed => return Err(RegisterError::Failed(error)),
                Verdict::QuotaReached if part.len() == 1 => return Err(RegisterError::QuotaReached(error)),
                Verdict::OutsideVpc | Verdict::QuotaReached | Verdict::TargetRefused => {}
            }
            // Of a quota, no target is at fault.
            let named = if verdict == Verdict::QuotaReached { BTreeSet::new() } else { error.named_addresses() };
            let (suspects, rest): (Vec<_>, Vec<_>) =
                part.iter().partition(|target| part.len() == 1 || named.contains(&target.address));
            if suspects.is_empty() {
                let (left, right) = rest.split_at(rest.len() / 2);
                parts.push((right.to_vec(), zone));
                parts.push((left.to_vec(), zone));
                continue;
            }
            if !rest.is_empty() {
                parts.push((rest, zone));
            }
            if verdict == Verdict::OutsideVpc && zone == Zone::LeftOut {
                outside.extend(suspects);
            } else {
                refused.extend(suspects.into_iter().map(|target| (target.address, error.problem.clone())));
            }
        }
    }

    /// The tags of a target group. The caller has waited for its turn.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn describe_tags(&self, arn: &TargetGroupArn) -> Result<Tags, ElbError> {
        let operation = "DescribeTags";
        let regional = self.regional(arn);
        let request = regional.client.describe_tags().resource_arns(arn.as_str());
        let reply = regional.call(operation, request.send()).await?;
        let tags = reply.tag_descriptions().iter().find(|group| group.resource_arn() == Some(arn.as_str()));
        let tags = tags.ok_or_else(|| ElbError {
            operation,
            code: None,
            problem: "the reply does not hold the target group".to_owned(),
        })?;
        let read = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
        Ok(tags.tags().iter().filter_map(read).collect())
    }

    /// Writes tags; others stay as they are. The caller has waited for its turn.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn add_tags(&self, arn: &TargetGroupArn, tags: &Tags) -> Result<(), ElbError> {
        let regional = self.regional(arn);
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let request = regional.client.add_tags().resource_arns(arn.as_str()).set_tags(Some(tags));
        regional.call("AddTags", request.send()).await.map(drop)
    }

    /// Removes the tags of these keys. The caller has waited for its turn.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn remove_tags(&self, arn: &TargetGroupArn, keys: Vec<String>) -> Result<(), ElbError> {
        let regional = self.regional(arn);
        let request = regional.client.remove_tags().resource_arns(arn.as_str()).set_tag_keys(Some(keys));
        regional.call("RemoveTags", request.send()).await.map(drop)
    }

    async fn send(&self, arn: &TargetGroupArn, part: &[Target], zone: Zone) -> Result<(), ElbError> {
        let regional = self.regional(arn);
        let zone = match zone {
            Zone::All => Some("all".to_owned()),
            Zone::LeftOut => None,
        };
        let targets =
            part.iter().map(|target| description(target.address.to_string(), target.port, zone.clone())).collect();
        let request = regional.client.register_targets().target_group_arn(arn.as_str()).set_targets(Some(targets));
        regional.call("RegisterTargets", request.send()).await.map(drop)
    }

    /// Deregisters a batch of at most [`BATCH`] targets as DescribeTargetHealth showed them:
    /// without its port, a target that was registered on a port of its own stays, and AWS reports
    /// success. The caller has waited for its turn.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn deregister(&self, arn: &TargetGroupArn, batch: &BTreeSet<RegisteredTarget>) -> Result<(), ElbError> {
        let regional = self.regional(arn);
        let targets = batch
            .iter()
            .map(|shown| description(shown.id.clone(), shown.target.port, shown.availability_zone.clone()))
            .collect();
        let request = regional.client.deregister_targets().target_group_arn(arn.as_str()).set_targets(Some(targets));
        regional.call("DeregisterTargets", request.send()).await.map(drop)
    }

    fn regional(&self, arn: &TargetGroupArn) -> Regional {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients
            .entry(arn.region().to_owned())
            .or_insert_with(|| {
                let config = Builder::from(&self.sdk)
                    .region(Region::new(arn.region().to_owned()))
                    .interceptor(CountAttempts(Arc::clone(&self.limiter)))
                    .interceptor(ReadToTheEnd);
                Regional {
                    client: Client::from_conf(config.build()),
                    open: Arc::new(Semaphore::new(MAX_OPEN_REQUESTS)),
                }
            })
            .clone()
    }
}

impl Regional {
    /// Calls ELBv2 when there is room for one request more.
    ///
    /// What the SDK needs for a call takes 5 KB of the future that makes it, and of each around that once or twice
    /// more. So it is boxed, before there is a future that could hold it, which spares a run over a thousand target
    /// groups 18 of 64 MiB.
    fn call<T, E: Error + ProvideErrorMetadata + 'static>(
        &self,
        operation: &'static str,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> impl Future<Output = Result<T, ElbError>> {
        let mut request = Box::pin(request);
        async move {
            // Never closed; and to call without a permit would do no harm either.
            let permit = self.open.acquire().await;
            let reply = match timeout(ATTEMPT_TIMEOUT, &mut request).await {
                Ok(reply) => reply,
                // One that hangs shall not keep others waiting for all its retries.
                Err(_) => {
                    drop(permit);
                    request.await
                }
            };
            reply.map_err(|error| ElbError::new(operation, &error))
        }
    }
}

impl ElbError {
    fn new<E: Error + ProvideErrorMetadata + 'static>(operation: &'static str, error: &SdkError<E>) -> Self {
        let code = error.code().map(ToOwned::to_owned);
        let problem = match (error, &code) {
            (SdkError::ServiceError(_), Some(code)) => {
                let message = error.message().unwrap_or("(no message)");
                format!("{code}: {message}{}", hint(operation, code))
            }
            (SdkError::ServiceError(service), None) => {
                format!("an error reply that can't be read, HTTP status {}", service.raw().status())
            }
            (SdkError::TimeoutError(_), _) => {
                "no reply in time; a function in a VPC reaches AWS through a NAT gateway or interface endpoints"
                    .to_owned()
            }
            _ => chain(error),
        };
        Self { operation, code, problem }
    }

    /// What a failed RegisterTargets says of its targets. ValidationError is not modelled by the
    /// API, and only its text tells what is the matter.
    fn verdict(&self) -> Verdict {
        match self.code.as_deref() {
            Some("TooManyTargets") => Verdict::QuotaReached,
            Some("InvalidTarget" | "ValidationError")
                if OUTSIDE_VPC.iter().any(|phrase| self.problem.contains(phrase)) =>
            {
                Verdict::OutsideVpc
            }
            Some("InvalidTarget" | "TooManyRegistrationsForTargetId" | "ValidationError") => Verdict::TargetRefused,
            _ => Verdict::Failed,
        }
    }

    /// The addresses that the message mentions.
    fn named_addresses(&self) -> BTreeSet<IpAddr> {
        self.problem
            .split(|c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':'))
            .filter_map(|word| word.trim_end_matches(['.', ':']).parse().ok())
            .collect()
    }
}

/// What a failed RegisterTargets says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// Nothing about a target.
    Failed,
    /// A target lies outside the VPC, and needs an Availability Zone.
    OutsideVpc,
    /// The target group is full.
    QuotaReached,
    /// A target is not accepted.
    TargetRefused,
}

/// What to send as a target's Availability Zone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Zone {
    All,
    LeftOut,
}

/// Has the limiter count attempts instead of calls: the token that a call waited for is given
/// back, and each attempt, the SDK's retries among them, takes its own.
#[derive(Debug)]
struct CountAttempts(Arc<Limiter>);

impl Intercept for CountAttempts {
    fn name(&self) -> &'static str {
        "CountAttempts"
    }

    fn read_before_execution(
        &self,
        _: &BeforeSerializationInterceptorContextRef<'_>,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.give_back();
        Ok(())
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.take_unasked();
        Ok(())
    }

    fn read_after_attempt(
        &self,
        _: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.note_answer();
        Ok(())
    }
}

/// Lets no reply pass for a success that is not ELBv2's, or was cut short. Where a reply says no
/// more than that, as those to all writes do, the SDK does not read it: a proxy's page with status
/// 200 would be a registration, after which stale targets go.
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

/// `None` where the description lacks what it has to hold.
fn facts(group: &TargetGroup) -> Option<Result<Facts, ElbError>> {
    let kind = group.target_type()?;
    if *kind != TargetTypeEnum::Ip {
        return Some(Err(unusable(format!(
            "the target group is of target type `{}`, and only one of type `ip` can follow a hostname: create a target \
             group of type `ip` and bind that",
            kind.as_str()
        ))));
    }
    let port = NonZeroU16::new(u16::try_from(group.port()?).ok()?)?;
    let family = match group.ip_address_type() {
        Some(TargetGroupIpAddressTypeEnum::Ipv6) => IpFamily::V6,
        _ => IpFamily::V4,
    };
    Some(Ok(Facts { port, family }))
}

fn unusable(problem: String) -> ElbError {
    ElbError { operation: DESCRIBE_TARGET_GROUPS, code: None, problem }
}

fn description(id: String, port: NonZeroU16, zone: Option<String>) -> TargetDescription {
    TargetDescription::builder().id(id).port(port.get().into()).set_availability_zone(zone).build()
}

/// What to do about an error, where AWS's own message leaves the user alone.
fn hint(operation: &str, code: &str) -> String {
    match code {
        "AccessDenied" | "AccessDeniedException" => {
            format!(" (the function's role must allow elasticloadbalancing:{operation})")
        }
        "TargetGroupNotFound" | "TargetGroupNotFoundException" => {
            " (was the target group deleted, or does its ARN name another account or Region?)".to_owned()
        }
        _ => String::new(),
    }
}

/// What the messages hold by which AWS says that an address needs an Availability Zone: one is
/// for addresses outside the VPC, one for those that are in one of its networks but in no subnet
/// (aws-load-balancer-controller, issues 3084 and 3714, and what its own code looks for).
const OUTSIDE_VPC: [&str; 3] = ["outside the VPC", "not in the VPC", "ou must specify an Availability Zone"];

/// The root element of a reply is `ACTIONResponse`
/// ([AWS Query protocol](https://smithy.io/2.0/aws/protocols/aws-query-protocol.html)).
const END_OF_REPLY: &[u8] = b"Response>";

const DESCRIBE_TARGET_GROUPS: &str = "DescribeTargetGroups";

/// Target groups in a call. AWS documents no limit; of load balancers, 20 may be described at
/// once.
const FACTS_IN_A_CALL: usize = 20;

/// Targets in a call. AWS documents no limit; aws-load-balancer-controller sends 200.
pub const BATCH: usize = 200;

/// Requests under way in a Region at once, each on a connection of its own, not counting those that
/// hang. With 128 MB of memory a function has a fourteenth of a processor: more TLS handshakes at
/// once would outlast the time that an attempt has.
const MAX_OPEN_REQUESTS: usize = 32;
