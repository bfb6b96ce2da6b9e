//! The operations on target groups: describes, registers and deregisters targets, reads and writes tags.
//!
//! Each operation is one call that the caller has waited for the budget for. Where it takes more of them, it waits itself.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::{cell::Cell, mem, num::NonZeroU16, slice, time::Instant};

use aws_config::SdkConfig;
use aws_sdk_elasticloadbalancingv2::types::{
    Tag, TagDescription, TargetDescription, TargetGroup, TargetGroupIpAddressTypeEnum, TargetHealthDescription,
    TargetHealthStateEnum, TargetTypeEnum,
};
use nlb_hostname_targets_core::world::Changed;

use crate::aws::{budget::Budget, elb::Elb, many::read_many};
use crate::failure::{ElbError, ElbErrorKind};
use crate::tags::Tags;
use crate::target::{Facts, IpFamily, RegisteredTarget, Target, TargetGroupArn, TargetState};

/// The target groups of an account, as far as ELBv2 lets us see and change them.
#[derive(Debug)]
pub(crate) struct TargetGroups {
    pub(crate) elb: Elb,
    /// What is not of type `ip` stays so, too.
    facts: Mutex<HashMap<TargetGroupArn, Result<Facts, ElbError>>>,
    pub(crate) budget: Arc<Budget>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Operation {
    Deregister,
    Register,
}

impl TargetGroups {
    /// Calls ELBv2 with `sdk`'s credentials and settings.
    pub(crate) fn new(sdk: &SdkConfig, budget: Budget) -> Self {
        let budget = Arc::new(budget);
        Self { elb: Elb::new(sdk, Arc::clone(&budget)), facts: Mutex::default(), budget }
    }

    /// The static facts, if they were read before.
    pub(crate) fn known_facts(&self, arn: &TargetGroupArn) -> Option<Result<Facts, ElbError>> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).get(arn).cloned()
    }

    /// The static facts of target groups. Those that are not known are read, many in a call, until `until` at the latest;
    /// what there was no time for is missing.
    pub(crate) async fn facts_of(
        &self,
        arns: Vec<TargetGroupArn>,
        until: Instant,
    ) -> HashMap<TargetGroupArn, Result<Facts, ElbError>> {
        let cut_short =
            || Err(failed(DESCRIBE_TARGET_GROUPS, "the reply does not hold the group, its type and its port"));
        let describe = async |arns: &[TargetGroupArn]| {
            self.describe(arns).await?;
            Ok(arns.iter().map(|arn| (arn.clone(), self.known_facts(arn).unwrap_or_else(cut_short))).collect())
        };
        let (known, unknown): (Vec<_>, Vec<_>) = arns.into_iter().partition(|arn| self.known_facts(arn).is_some());
        let read = read_many(DESCRIBE_TARGET_GROUPS, unknown, TargetGroupArn::region, describe, until).await;
        let known = known.into_iter().filter_map(|arn| self.known_facts(&arn).map(|facts| (arn, facts)));
        known.chain(read.into_iter().map(|(arn, read)| (arn, read.flatten()))).collect()
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
        // What is cut short is not remembered.
        known.extend(
            described.iter().filter_map(|group| Some((group.target_group_arn()?.parse().ok()?, facts(group)?))),
        );
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

    /// The targets that DescribeTargetHealth lists, draining ones among them, and when the request went out.
    pub(crate) async fn list(&self, arn: &TargetGroupArn) -> (Instant, Result<Vec<RegisteredTarget>, ElbError>) {
        let operation = "DescribeTargetHealth";
        let regional = self.elb.regional(arn);
        let went_out = Cell::new(Instant::now());
        let request = regional.client.describe_target_health().target_group_arn(arn.as_str());
        let request = async {
            went_out.set(Instant::now());
            request.send().await
        };
        let reply = regional.call(operation, request).await;
        let incomplete = || failed(operation, "the reply holds a target without an IP address, port or state");
        let listed = reply.and_then(|reply| {
            let targets = reply.target_health_descriptions().iter();
            targets.map(|described| registered_target(described).ok_or_else(incomplete)).collect()
        });
        (went_out.get(), listed)
    }

    /// Registers or deregisters some hundred targets at most, as they are shown. `accepted` hears of what AWS accepted as
    /// soon as it did.
    ///
    /// What AWS refuses because of a target is sent again target by target, so that none keeps another out, or in. The
    /// Availability Zone of a new target is left out first; one that AWS says is outside the VPC is sent again with
    /// `all`, because only AWS knows which addresses lie in the VPC's subnets, and asking EC2 would need its permissions.
    pub(crate) async fn change(
        &self,
        operation: Operation,
        arn: &TargetGroupArn,
        batch: Vec<RegisteredTarget>,
        accepted: impl Fn(&[Target]),
    ) -> Changed {
        let mut changed = Changed::default();
        let mut parts = VecDeque::from([batch]);
        let mut outside = Vec::new();
        let mut is_first = true;
        loop {
            let Some(mut part) =
                parts.pop_front().or_else(|| Some(mem::take(&mut outside)).filter(|all| !all.is_empty()))
            else {
                return changed;
            };
            if !mem::take(&mut is_first) {
                self.budget.acquire().await;
            }
            let Err(error) = self.send(operation, arn, &part).await else {
                let targets: Vec<_> = part.iter().map(|shown| shown.target).collect();
                accepted(&targets);
                changed.accepted.extend(targets);
                continue;
            };
            let is_of_a_target = matches!(error.kind, ElbErrorKind::OutsideVpc | ElbErrorKind::TargetRefused);
            // Of several targets, a quota may have room for some.
            if part.len() > 1 && (is_of_a_target || error.kind == ElbErrorKind::QuotaReached) {
                parts.extend(part.into_iter().map(|shown| vec![shown]));
                continue;
            }
            let Some(mut shown) = part.pop().filter(|_| is_of_a_target) else {
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

    /// Sends each target with its port: without it, one that was registered on a port of its own stays, and AWS reports
    /// success.
    async fn send(
        &self,
        operation: Operation,
        arn: &TargetGroupArn,
        part: &[RegisteredTarget],
    ) -> Result<(), ElbError> {
        let regional = self.elb.regional(arn);
        let targets = part.iter().map(|shown| {
            let target = TargetDescription::builder().id(&shown.id).port(shown.target.port.get().into());
            target.set_availability_zone(shown.availability_zone.clone()).build()
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
    pub(crate) async fn tags(&self, arn: &TargetGroupArn) -> Result<Tags, ElbError> {
        let mut tags = self.describe_tags(slice::from_ref(arn)).await?;
        tags.remove(arn).ok_or_else(|| failed(DESCRIBE_TAGS, "the reply does not hold the target group"))
    }

    /// The tags of many target groups, until `until` at the latest. What there was no time for is missing.
    pub(crate) async fn tags_of(
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
        let of_group = |group: &TagDescription| {
            Some((group.resource_arn()?.parse().ok()?, group.tags().iter().filter_map(read).collect()))
        };
        Ok(reply.tag_descriptions().iter().filter_map(of_group).collect())
    }

    /// Adds tags, or overwrites them; others stay as they are.
    pub(crate) async fn add_tags(&self, arn: &TargetGroupArn, tags: &Tags) -> Result<(), ElbError> {
        let regional = self.elb.regional(arn);
        let tags = tags.iter().map(|(key, value)| Tag::builder().key(key).value(value).build()).collect();
        let request = regional.client.add_tags().resource_arns(arn.as_str()).set_tags(Some(tags));
        regional.call("AddTags", request.send()).await.map(drop)
    }

    pub(crate) async fn remove_tags(&self, arn: &TargetGroupArn, keys: &BTreeSet<String>) -> Result<(), ElbError> {
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
    let target_type = group.target_type()?;
    if *target_type != TargetTypeEnum::Ip {
        let problem = format!(
            "the target group is of target type `{}`, and only one of type `ip` can follow a hostname: create a target \
             group of type `ip` and bind that",
            target_type.as_str()
        );
        return Some(Err(ElbError { operation: DESCRIBE_TARGET_GROUPS, kind: ElbErrorKind::NotIp, problem }));
    }
    let port = NonZeroU16::new(u16::try_from(group.port()?).ok()?)?;
    let is_ipv6 = group.ip_address_type() == Some(&TargetGroupIpAddressTypeEnum::Ipv6);
    Some(Ok(Facts { port, family: if is_ipv6 { IpFamily::V6 } else { IpFamily::V4 } }))
}

fn failed(operation: &'static str, problem: &str) -> ElbError {
    ElbError { operation, kind: ElbErrorKind::Failed, problem: problem.to_owned() }
}

pub(crate) const DESCRIBE_TARGET_GROUPS: &str = "DescribeTargetGroups";

const DESCRIBE_TAGS: &str = "DescribeTags";

/// Characters of AWS's words that are kept of each refused target: they may name all targets of a call.
const LONGEST_REASON: usize = 500;
