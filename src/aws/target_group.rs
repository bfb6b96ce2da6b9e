//! The operations on target groups: describes, registers and deregisters targets, reads and writes tags.
//!
//! Each operation is one call that the caller has waited for the budget for. Where it takes more of them, it waits itself.

use std::{
    cell::Cell,
    collections::{BTreeSet, HashMap, VecDeque},
    mem,
    num::NonZeroU16,
    slice,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use aws_config::SdkConfig;
use aws_sdk_elasticloadbalancingv2::{
    operation::describe_target_health::DescribeTargetHealthOutput,
    types::{
        Tag, TargetDescription, TargetGroup, TargetGroupIpAddressTypeEnum, TargetHealthDescription,
        TargetHealthStateEnum, TargetTypeEnum,
    },
};
use nlb_hostname_targets_core::world::Changed;

use crate::{
    aws::{budget::Budget, elb::Elb, many::read_many},
    failure::{ElbError, ElbErrorKind},
    tags::Tags,
    target::{Facts, IpFamily, RegisteredTarget, Target, TargetGroupArn, TargetState},
};

/// The target groups of an account, as far as ELBv2 lets us see and change them.
#[derive(Debug)]
pub struct TargetGroups {
    pub(crate) elb: Elb,
    /// What is not of type `ip` stays so, too.
    facts: Mutex<HashMap<TargetGroupArn, Result<Facts, ElbError>>>,
    /// The budget of requests.
    pub budget: Arc<Budget>,
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
    /// Calls ELBv2 with `sdk`'s credentials and settings.
    pub fn new(sdk: &SdkConfig, budget: Budget) -> Self {
        let budget = Arc::new(budget);
        Self { elb: Elb::new(sdk, Arc::clone(&budget)), facts: Mutex::default(), budget }
    }

    /// The static facts, if they were read before.
    pub fn known_facts(&self, arn: &TargetGroupArn) -> Option<Result<Facts, ElbError>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).get(arn).cloned()
    }

    /// Reads the static facts of target groups, many in a call, until `until` at the latest, and remembers them. Returned
    /// is why those of others can't be read; of the rest there was no time to tell.
    pub async fn read_facts(&self, arns: Vec<TargetGroupArn>, until: Instant) -> HashMap<TargetGroupArn, ElbError> {
        let describe = async |arns: &[TargetGroupArn]| {
            self.describe(arns).await?;
            let cut_short = || {
                let problem = "the reply does not hold the target group, its type and its port".to_owned();
                Err(unusable(ElbErrorKind::Failed, problem))
            };
            Ok(arns.iter().map(|arn| (arn.clone(), self.known_facts(arn).unwrap_or_else(cut_short))).collect())
        };
        let read = read_many(DESCRIBE_TARGET_GROUPS, arns, TargetGroupArn::region, describe, until).await;
        read.into_iter().filter_map(|(arn, read)| Some((arn, read.flatten().err()?))).collect()
    }

    /// Describes target groups of one Region, and remembers their facts.
    pub(crate) async fn describe(&self, arns: &[TargetGroupArn]) -> Result<Vec<TargetGroup>, ElbError> {
        let Some(first) = arns.first() else { return Ok(Vec::new()) };
        let regional = self.elb.regional(first);
        let names: Vec<_> = arns.iter().map(ToString::to_string).collect();
        let described = self
            .all_pages(async |marker| {
                let request = regional.client.describe_target_groups();
                let request = request.set_target_group_arns(Some(names.clone())).set_marker(marker);
                let reply = regional.call(DESCRIBE_TARGET_GROUPS, request.send()).await?;
                Ok((reply.target_groups.unwrap_or_default(), reply.next_marker))
            })
            .await?;
        let mut known = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        for arn in arns {
            let group = described.iter().find(|group| group.target_group_arn() == Some(arn.as_str()));
            // What is cut short is not remembered.
            if let Some(facts) = group.and_then(facts) {
                known.insert(arn.clone(), facts);
            }
        }
        drop(known);
        Ok(described)
    }

    /// All that a call lists, when the budget allows each page: `page` gets the marker where it begins.
    pub(crate) async fn all_pages<T>(
        &self,
        page: impl AsyncFn(Option<String>) -> Result<(Vec<T>, Option<String>), ElbError>,
    ) -> Result<Vec<T>, ElbError> {
        let mut all = Vec::new();
        let mut next = None;
        loop {
            self.budget.acquire().await;
            let (more, marker) = page(next).await?;
            all.extend(more);
            next = marker.filter(|marker| !marker.is_empty());
            if next.is_none() {
                return Ok(all);
            }
        }
    }

    /// The targets that DescribeTargetHealth lists, draining ones among them.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn list(&self, arn: &TargetGroupArn) -> (Instant, Result<Vec<RegisteredTarget>, ElbError>) {
        let regional = self.elb.regional(arn);
        let request = regional.client.describe_target_health().target_group_arn(arn.as_str());
        let went_out = Cell::new(Instant::now());
        let request = async {
            went_out.set(Instant::now());
            request.send().await
        };
        let read = |description: &TargetHealthDescription| {
            registered_target(description).ok_or_else(|| ElbError {
                operation: "DescribeTargetHealth",
                kind: ElbErrorKind::Failed,
                problem: "the reply holds a target without an IP address, port or state".to_owned(),
            })
        };
        let reply = regional.call("DescribeTargetHealth", request).await;
        let read_all =
            |reply: DescribeTargetHealthOutput| reply.target_health_descriptions().iter().map(read).collect();
        (went_out.get(), reply.and_then(read_all))
    }

    /// Registers or deregisters some hundred targets at most, as they are shown. `accepted` hears of what AWS accepted as
    /// soon as it did.
    ///
    /// What AWS refuses because of a target is sent again target by target, so that none keeps another out, or in. The
    /// Availability Zone of a new target is left out first; one that AWS says is outside the VPC is sent again with
    /// `all`, because only AWS knows which addresses lie in the VPC's subnets, and asking EC2 would need its permissions.
    /// Without its port, a target that was registered on a port of its own stays, and AWS reports success.
    pub async fn change(
        &self,
        operation: Operation,
        arn: &TargetGroupArn,
        batch: Vec<RegisteredTarget>,
        mut accepted: impl FnMut(&[Target]),
    ) -> Changed {
        let mut changed = Changed::default();
        let mut parts = VecDeque::from([batch]);
        let mut outside = Vec::new();
        let mut unnamed = 0;
        let mut is_first = true;
        loop {
            let part = match parts.pop_front() {
                Some(part) => part,
                None if outside.is_empty() => return changed,
                None => mem::take(&mut outside),
            };
            if !mem::take(&mut is_first) {
                self.budget.acquire().await;
            }
            let Err(error) = self.send(operation, arn, &part).await else {
                unnamed = 0;
                let targets: Vec<_> = part.iter().map(|shown| shown.target).collect();
                accepted(&targets);
                changed.accepted.extend(targets);
                continue;
            };
            let is_of_a_target = matches!(error.kind, ElbErrorKind::OutsideVpc | ElbErrorKind::TargetRefused);
            // Of several targets, a quota may have room for some.
            let is_full = error.kind == ElbErrorKind::QuotaReached;
            if part.len() > 1 && (is_of_a_target || is_full) {
                parts.extend(part.into_iter().map(|shown| vec![shown]));
                continue;
            }
            // Where AWS names the target in no refusal of many, the request itself may be what it refuses.
            unnamed += usize::from(error.named_addresses().is_empty());
            let Some(mut shown) = part.into_iter().next().filter(|_| is_of_a_target && unnamed <= MOST_UNNAMED) else {
                return Changed { failed: Some(error), ..changed };
            };
            let may_be_outside = operation == Operation::Register && shown.availability_zone.is_none();
            if error.kind == ElbErrorKind::OutsideVpc && may_be_outside {
                shown.availability_zone = Some("all".to_owned());
                outside.push(shown);
            } else {
                changed.refused.insert(shown.target, error.problem.chars().take(LONGEST_REASON).collect());
            }
        }
    }

    async fn send(
        &self,
        operation: Operation,
        arn: &TargetGroupArn,
        part: &[RegisteredTarget],
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
                regional.call("RegisterTargets", request.send()).await.map(drop)
            }
            Operation::Deregister => {
                let request = client.deregister_targets().target_group_arn(arn.as_str()).set_targets(targets);
                regional.call("DeregisterTargets", request.send()).await.map(drop)
            }
        }
    }

    /// The tags of a target group.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn tags(&self, arn: &TargetGroupArn) -> Result<Tags, ElbError> {
        let mut tags = self.describe_tags(slice::from_ref(arn)).await?;
        tags.remove(arn).ok_or_else(|| ElbError {
            operation: DESCRIBE_TAGS,
            kind: ElbErrorKind::Failed,
            problem: "the reply does not hold the target group".to_owned(),
        })
    }

    /// The tags of many target groups, until `until` at the latest. What there was no time for is missing.
    pub async fn tags_of(
        &self,
        arns: Vec<TargetGroupArn>,
        until: Instant,
    ) -> HashMap<TargetGroupArn, Result<Tags, ElbError>> {
        let describe = async |arns: &[TargetGroupArn]| {
            self.budget.acquire().await;
            self.describe_tags(arns).await
        };
        read_many(DESCRIBE_TAGS, arns, TargetGroupArn::region, describe, until).await
    }

    async fn describe_tags(&self, arns: &[TargetGroupArn]) -> Result<HashMap<TargetGroupArn, Tags>, ElbError> {
        let Some(first) = arns.first() else { return Ok(HashMap::new()) };
        let regional = self.elb.regional(first);
        let names = arns.iter().map(ToString::to_string).collect();
        let request = regional.client.describe_tags().set_resource_arns(Some(names));
        let reply = regional.call(DESCRIBE_TAGS, request.send()).await?;
        let read = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
        let described = reply.tag_descriptions().iter();
        Ok(described
            .filter_map(|group| {
                Some((group.resource_arn()?.parse().ok()?, group.tags().iter().filter_map(read).collect()))
            })
            .collect())
    }

    /// Adds tags, or overwrites them; others stay as they are.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn add_tags(&self, arn: &TargetGroupArn, tags: &Tags) -> Result<(), ElbError> {
        let regional = self.elb.regional(arn);
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let request = regional.client.add_tags().resource_arns(arn.as_str()).set_tags(Some(tags));
        regional.call("AddTags", request.send()).await.map(drop)
    }

    /// Removes the tags of these keys.
    ///
    /// # Errors
    ///
    /// Where the call fails.
    pub async fn remove_tags(&self, arn: &TargetGroupArn, keys: &BTreeSet<String>) -> Result<(), ElbError> {
        let regional = self.elb.regional(arn);
        let keys = keys.iter().cloned().collect();
        let request = regional.client.remove_tags().resource_arns(arn.as_str()).set_tag_keys(Some(keys));
        regional.call("RemoveTags", request.send()).await.map(drop)
    }
}

/// Strict, because the SDK takes a reply that was cut short for a shorter list whose last member may be half there.
fn registered_target(description: &TargetHealthDescription) -> Option<RegisteredTarget> {
    let target = description.target()?;
    let port = target.port().and_then(|port| u16::try_from(port).ok()).and_then(NonZeroU16::new)?;
    let health = description.target_health()?;
    Some(RegisteredTarget {
        target: Target { address: target.id()?.parse().ok()?, port },
        check_port: description.health_check_port().and_then(|port| port.parse().ok()).unwrap_or(port),
        reason: health.reason().map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
        description: health.description().unwrap_or_default().to_owned(),
        id: target.id()?.to_owned(),
        availability_zone: target.availability_zone().map(ToOwned::to_owned),
        state: match health.state()? {
            TargetHealthStateEnum::Draining => TargetState::Draining,
            TargetHealthStateEnum::Healthy => TargetState::Healthy,
            TargetHealthStateEnum::Initial => TargetState::Initial,
            TargetHealthStateEnum::Unhealthy => TargetState::Unhealthy,
            _ => TargetState::Other,
        },
    })
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

const DESCRIBE_TAGS: &str = "DescribeTags";

/// How many targets in a row may be refused in words that name none of them.
const MOST_UNNAMED: usize = 10;

/// Characters of AWS's words that are kept of each refused target: they may name all targets of a call.
const LONGEST_REASON: usize = 500;
