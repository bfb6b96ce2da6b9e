//! What ELBv2 says of target groups: their static facts, their targets and their tags.

use std::{cell::RefCell, collections::HashMap, num::NonZeroU16, time::Instant};

use aws_config::SdkConfig;
use aws_sdk_elasticloadbalancingv2::Client;
use aws_sdk_elasticloadbalancingv2::operation::describe_target_health::DescribeTargetHealthOutput;
use aws_sdk_elasticloadbalancingv2::types::{
    Tag, TagDescription, TargetGroup, TargetGroupIpAddressTypeEnum, TargetHealthDescription, TargetHealthStateEnum,
    TargetTypeEnum,
};

use crate::aws::elb::{Elb, call};
use crate::budget::{Budget, Turn};
use crate::failure::{ElbError, ElbErrorKind};
use crate::tags::Tags;
use crate::target::{Facts, IpFamily, RegisteredTarget, Target, TargetGroupArn, TargetState};

/// The target groups of an account, as far as ELBv2 lets us see and change them.
#[derive(Debug)]
pub(crate) struct TargetGroups {
    pub(crate) elb: Elb,
    /// What is not of type `ip` stays so, too.
    facts: RefCell<HashMap<TargetGroupArn, Result<Facts, ElbError>>>,
}

impl TargetGroups {
    pub(crate) fn new(sdk: &SdkConfig, budget: Budget) -> Self {
        Self { elb: Elb::new(sdk, budget), facts: RefCell::default() }
    }

    pub(crate) fn known_facts(&self, arn: &TargetGroupArn) -> Option<Result<Facts, ElbError>> {
        self.facts.borrow().get(arn).cloned()
    }

    /// The static facts of target groups. Those that are not known are read, until `until` at the latest; what there was no
    /// time for is missing.
    pub(crate) async fn facts_of(
        &self,
        arns: Vec<TargetGroupArn>,
        until: Instant,
    ) -> HashMap<TargetGroupArn, Result<Facts, ElbError>> {
        let unknown: Vec<_> = arns.iter().filter(|arn| self.known_facts(arn).is_none()).cloned().collect();
        let mut read = self.describe(unknown, until).await;
        let facts = |arn| {
            let cut_short =
                || failed(DESCRIBE_TARGET_GROUPS, "the reply does not hold the group, its type and its port");
            let read = self
                .known_facts(&arn)
                .or_else(|| read.remove(&arn).map(|read| Err(read.err().unwrap_or_else(cut_short))));
            Some((arn, read?))
        };
        arns.into_iter().filter_map(facts).collect()
    }

    /// Describes target groups in the same way, and remembers their facts.
    pub(crate) async fn describe(
        &self,
        arns: impl IntoIterator<Item = TargetGroupArn>,
        until: Instant,
    ) -> HashMap<TargetGroupArn, Result<TargetGroup, ElbError>> {
        let describe = async |client: Client, turn: Turn<'_>, names| {
            let pages = client.describe_target_groups().set_target_group_arns(Some(names)).into_paginator();
            let pages = Box::pin(pages.items().send().collect());
            let described: Vec<TargetGroup> = call(DESCRIBE_TARGET_GROUPS, turn, pages).await?;
            let named = |group: TargetGroup| Some((group.target_group_arn()?.parse().ok()?, group));
            Ok(described.into_iter().filter_map(named).collect())
        };
        let described = self.elb.read_many(DESCRIBE_TARGET_GROUPS, arns, describe, until).await;
        // What is cut short is not remembered.
        let read = described.iter().filter_map(|(arn, group)| Some((arn.clone(), facts(group.as_ref().ok()?)?)));
        self.facts.borrow_mut().extend(read);
        described
    }

    /// The tags of many target groups, until `until` at the latest. What there was no time for is missing.
    pub(crate) async fn tags_of(
        &self,
        arns: Vec<TargetGroupArn>,
        until: Instant,
    ) -> HashMap<TargetGroupArn, Result<Tags, ElbError>> {
        self.elb.read_many(DESCRIBE_TAGS, arns, describe_tags, until).await
    }
}

/// The tags of target groups of one Region.
pub(crate) async fn describe_tags(
    client: Client,
    turn: Turn<'_>,
    names: Vec<String>,
) -> Result<HashMap<TargetGroupArn, Tags>, ElbError> {
    let request = client.describe_tags().set_resource_arns(Some(names));
    let reply = call(DESCRIBE_TAGS, turn, Box::pin(request.send())).await?;
    let read = |tag: &Tag| Some((tag.key()?.to_owned(), tag.value().unwrap_or_default().to_owned()));
    let of_group = |group: &TagDescription| {
        Some((group.resource_arn()?.parse().ok()?, group.tags().iter().filter_map(read).collect()))
    };
    Ok(reply.tag_descriptions().iter().filter_map(of_group).collect())
}

/// The targets of a group, draining ones among them.
pub(crate) fn registered_targets(reply: &DescribeTargetHealthOutput) -> Result<Vec<RegisteredTarget>, ElbError> {
    let incomplete = || failed(DESCRIBE_TARGET_HEALTH, "the reply holds a target without an IP address, port or state");
    let described = reply.target_health_descriptions().iter();
    described.map(|described| registered_target(described).ok_or_else(incomplete)).collect()
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

pub(crate) fn failed(operation: &'static str, problem: &str) -> ElbError {
    ElbError { operation, kind: ElbErrorKind::Failed, problem: problem.to_owned() }
}

pub(crate) const DESCRIBE_TAGS: &str = "DescribeTags";
const DESCRIBE_TARGET_GROUPS: &str = "DescribeTargetGroups";
pub(crate) const DESCRIBE_TARGET_HEALTH: &str = "DescribeTargetHealth";
