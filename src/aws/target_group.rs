//! The operations on target groups: describes, registers and deregisters targets, reads and writes tags.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    num::NonZeroU16,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use aws_config::SdkConfig;
use aws_sdk_elasticloadbalancingv2::types::{
    Tag, TargetDescription, TargetGroup, TargetGroupIpAddressTypeEnum, TargetHealthDescription, TargetHealthStateEnum,
    TargetTypeEnum,
};
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout_at;

use crate::{
    elb::Elb,
    failure::{ElbError, ElbErrorKind},
    limiter::{Limiter, Permit, Priority},
    tags::Tags,
    target::{Facts, IpFamily, RegisteredTarget, Target, TargetGroupArn, TargetState},
};

/// The target groups of an account, as far as ELBv2 lets us see and change them.
#[derive(Debug)]
pub struct TargetGroups {
    pub(crate) elb: Elb,
    /// What is not of type `ip` stays so, too.
    facts: Mutex<HashMap<TargetGroupArn, Result<Facts, ElbError>>>,
    pub(crate) limiter: Arc<Limiter>,
}

/// A change of targets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Operation {
    /// DeregisterTargets.
    Deregister,
    /// RegisterTargets.
    Register,
}

impl TargetGroups {
    /// Calls ELBv2 with `sdk`'s credentials and settings, no faster than `limiter` lets it.
    pub fn new(sdk: &SdkConfig, limiter: Arc<Limiter>) -> Self {
        Self { elb: Elb::new(sdk, Arc::clone(&limiter)), facts: Mutex::default(), limiter }
    }

    /// The static facts, if they were read before.
    pub fn known_facts(&self, arn: &TargetGroupArn) -> Option<Result<Facts, ElbError>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).get(arn).cloned()
    }

    /// A turn with a place, so that a call on this target group goes out at once.
    pub async fn with_place(&self, arn: &TargetGroupArn, mut turn: Permit) -> Permit {
        turn.place = self.elb.regional(arn).place().await;
        turn
    }

    /// Reads the static facts of a target group, and remembers them.
    ///
    /// # Errors
    ///
    /// Where the call fails, or the target group is not of target type `ip`.
    pub async fn read_facts(&self, arn: &TargetGroupArn, turn: Permit) -> Result<Facts, ElbError> {
        self.read_facts_of(&[arn], turn).await?;
        self.known_facts(arn).unwrap_or_else(|| {
            Err(unusable(
                ElbErrorKind::Failed,
                "the reply does not hold the target group, its type and its port".to_owned(),
            ))
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
            let turn = self.limiter.acquire(Priority::Continue).await;
            self.read_facts_of(arns, turn).await
        });
        let mut calls: FuturesUnordered<_> = calls.collect();
        // What is missing is read, and its error reported, when it is the group's turn.
        drop(timeout_at(until.into(), async { while calls.next().await.is_some() {} }).await);
    }

    /// All in one Region. Remembers their facts.
    pub(crate) async fn read_facts_of(
        &self,
        arns: &[&TargetGroupArn],
        turn: Permit,
    ) -> Result<Vec<TargetGroup>, ElbError> {
        let Some(first) = arns.first() else { return Ok(Vec::new()) };
        let regional = self.elb.regional(first);
        let names: Vec<_> = arns.iter().map(ToString::to_string).collect();
        let described = self
            .all_pages(turn, async |marker, turn| {
                let request = regional.client.describe_target_groups();
                let request = request.set_target_group_arns(Some(names.clone())).set_marker(marker);
                let reply = regional.call(DESCRIBE_TARGET_GROUPS, Some(turn), request.send()).await?;
                Ok((reply.target_groups.unwrap_or_default(), reply.next_marker))
            })
            .await?;
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        for arn in arns {
            let group = described.iter().find(|group| group.target_group_arn() == Some(arn.as_str()));
            // What is cut short is not remembered.
            if let Some(facts) = group.and_then(facts) {
                known.insert((*arn).clone(), facts);
            }
        }
        drop(known);
        Ok(described)
    }

    /// All that a call lists: `page` gets the marker where its page begins, and its turn.
    pub(crate) async fn all_pages<T>(
        &self,
        turn: Permit,
        page: impl AsyncFn(Option<String>, Permit) -> Result<(Vec<T>, Option<String>), ElbError>,
    ) -> Result<Vec<T>, ElbError> {
        let (mut all, mut next) = page(None, turn).await?;
        while let Some(marker) = next.filter(|marker| !marker.is_empty()) {
            let (more, marker) = page(Some(marker), self.limiter.acquire(Priority::Continue).await).await?;
            all.extend(more);
            next = marker;
        }
        Ok(all)
    }

    /// The targets that DescribeTargetHealth lists, draining ones among them.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn describe(
        &self,
        arn: &TargetGroupArn,
        turn: Option<Permit>,
    ) -> Result<Vec<RegisteredTarget>, ElbError> {
        let regional = self.elb.regional(arn);
        let request = regional.client.describe_target_health().target_group_arn(arn.as_str());
        let reply = regional.call("DescribeTargetHealth", turn, request.send()).await?;
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
                    TargetHealthStateEnum::Initial => TargetState::Initial,
                    TargetHealthStateEnum::Unhealthy => TargetState::Unhealthy,
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
                    kind: ElbErrorKind::Failed,
                    problem: "the reply holds a target without an IP address, port or state".to_owned(),
                })
            })
            .collect()
    }

    /// Registers or deregisters some hundred targets at most, as they are shown. `accepted` hears of what AWS accepted as
    /// soon as it did. Returned is what AWS refused for good, and what else went wrong.
    ///
    /// A call that AWS refuses because of one target is repeated without it, so that no target
    /// keeps another out, or in. The Availability Zone of a new target is left out first; one that AWS says is
    /// outside the VPC is sent again with `all`, because only AWS knows which addresses lie in
    /// the VPC's subnets, and asking EC2 would need its permissions. Without its port, a target that was registered on a
    /// port of its own stays, and AWS reports success.
    pub async fn change(
        &self,
        operation: Operation,
        arn: &TargetGroupArn,
        batch: impl IntoIterator<Item = RegisteredTarget>,
        turn: Option<Permit>,
        mut accepted: impl FnMut(&[Target]),
    ) -> (BTreeMap<Target, String>, Option<ElbError>) {
        let mut first = Some(turn);
        let mut refused = BTreeMap::new();
        let mut parts: Vec<Vec<RegisteredTarget>> = vec![batch.into_iter().collect()];
        let mut outside: Vec<RegisteredTarget> = Vec::new();
        let mut unnamed = 0;
        loop {
            let Some(part) = parts.pop() else {
                if outside.is_empty() {
                    return (refused, None);
                }
                parts.push(mem::take(&mut outside));
                continue;
            };
            let turn = match first.take() {
                Some(turn) => turn,
                None => Some(self.limiter.acquire(Priority::Continue).await),
            };
            let Err(error) = self.send(operation, arn, &part, turn).await else {
                unnamed = 0;
                accepted(&part.iter().map(|shown| shown.target).collect::<Vec<_>>());
                continue;
            };
            let is_alone = part.len() == 1;
            // Of a quota, no target is at fault.
            let named = match error.kind {
                ElbErrorKind::QuotaReached if !is_alone => BTreeSet::new(),
                ElbErrorKind::OutsideVpc | ElbErrorKind::TargetRefused => error.named_addresses(),
                _ => return (refused, Some(error)),
            };
            // Where AWS names no target of several, the request itself may be what it refuses.
            unnamed += usize::from(is_alone && named.is_empty());
            if unnamed > MOST_UNNAMED {
                return (refused, Some(error));
            }
            let (suspects, mut rest): (Vec<_>, Vec<_>) =
                part.into_iter().partition(|shown| is_alone || named.contains(&shown.target.address));
            if suspects.is_empty() {
                let left = rest.split_off(rest.len() / 2);
                parts.extend([left, rest]);
                continue;
            }
            parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
            for mut shown in suspects {
                let may_be_outside = operation == Operation::Register && shown.availability_zone.is_none();
                if error.kind == ElbErrorKind::OutsideVpc && may_be_outside {
                    shown.availability_zone = Some("all".to_owned());
                    outside.push(shown);
                } else {
                    refused.insert(shown.target, error.problem.chars().take(LONGEST_REASON).collect());
                }
            }
        }
    }

    async fn send(
        &self,
        operation: Operation,
        arn: &TargetGroupArn,
        part: &[RegisteredTarget],
        turn: Option<Permit>,
    ) -> Result<(), ElbError> {
        let regional = self.elb.regional(arn);
        let targets = part.iter().map(|shown| {
            TargetDescription::builder()
                .id(&shown.id)
                .port(shown.target.port.get().into())
                .set_availability_zone(shown.availability_zone.clone())
                .build()
        });
        let targets = Some(targets.collect());
        let client = &regional.client;
        match operation {
            Operation::Register => {
                let request = client.register_targets().target_group_arn(arn.as_str()).set_targets(targets);
                regional.call("RegisterTargets", turn, request.send()).await.map(drop)
            }
            Operation::Deregister => {
                let request = client.deregister_targets().target_group_arn(arn.as_str()).set_targets(targets);
                regional.call("DeregisterTargets", turn, request.send()).await.map(drop)
            }
        }
    }

    /// The tags of a target group.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn describe_tags(&self, arn: &TargetGroupArn, turn: Option<Permit>) -> Result<Tags, ElbError> {
        let operation = "DescribeTags";
        let regional = self.elb.regional(arn);
        let request = regional.client.describe_tags().resource_arns(arn.as_str());
        let reply = regional.call(operation, turn, request.send()).await?;
        let tags = reply.tag_descriptions().iter().find(|group| group.resource_arn() == Some(arn.as_str()));
        let tags = tags.ok_or_else(|| ElbError {
            operation,
            kind: ElbErrorKind::Failed,
            problem: "the reply does not hold the target group".to_owned(),
        })?;
        let read = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
        Ok(tags.tags().iter().filter_map(read).collect())
    }

    /// Writes tags; others stay as they are.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn add_tags(&self, arn: &TargetGroupArn, tags: &Tags, turn: Option<Permit>) -> Result<(), ElbError> {
        let regional = self.elb.regional(arn);
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let request = regional.client.add_tags().resource_arns(arn.as_str()).set_tags(Some(tags));
        regional.call("AddTags", turn, request.send()).await.map(drop)
    }

    /// Removes the tags of these keys.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn remove_tags(
        &self,
        arn: &TargetGroupArn,
        keys: &[String],
        turn: Option<Permit>,
    ) -> Result<(), ElbError> {
        let regional = self.elb.regional(arn);
        let request = regional.client.remove_tags().resource_arns(arn.as_str()).set_tag_keys(Some(keys.to_vec()));
        regional.call("RemoveTags", turn, request.send()).await.map(drop)
    }
}

/// `None` where the description lacks what it has to hold.
fn facts(group: &TargetGroup) -> Option<Result<Facts, ElbError>> {
    let kind = group.target_type()?;
    if *kind != TargetTypeEnum::Ip {
        return Some(Err(unusable(
            ElbErrorKind::NotIp,
            format!(
                "the target group is of target type `{}`, and only one of type `ip` can follow a hostname: create a target \
             group of type `ip` and bind that",
                kind.as_str()
            ),
        )));
    }
    let port = NonZeroU16::new(u16::try_from(group.port()?).ok()?)?;
    let family = match group.ip_address_type() {
        Some(TargetGroupIpAddressTypeEnum::Ipv6) => IpFamily::V6,
        _ => IpFamily::V4,
    };
    Some(Ok(Facts { port, family }))
}

fn unusable(kind: ElbErrorKind, problem: String) -> ElbError {
    ElbError { operation: DESCRIBE_TARGET_GROUPS, kind, problem }
}

pub(crate) const DESCRIBE_TARGET_GROUPS: &str = "DescribeTargetGroups";

/// How many targets in a row may be refused in words that name none of them.
const MOST_UNNAMED: usize = 10;

/// Characters of AWS's words that are kept of each refused target: they may name all targets of a call.
const LONGEST_REASON: usize = 500;

/// Target groups in a call. AWS documents no limit; of load balancers, 20 may be described at
/// once.
pub(crate) const FACTS_IN_A_CALL: usize = 20;
