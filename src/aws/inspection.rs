//! Reads what a check judges: the settings of target groups, and of the load balancers and listeners in front of them.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use aws_sdk_elasticloadbalancingv2::Client;
use aws_sdk_elasticloadbalancingv2::types::{self, Action, LoadBalancerSchemeEnum, TargetGroup};
use futures_util::future::{OptionFuture, join_all};
use tokio::{join, sync::OnceCell, time::timeout_at};

use crate::aws::elb::call;
use crate::aws::target_group::TargetGroups;
use crate::{
    binding::Group,
    budget::Turn,
    failure::{ElbError, ElbErrorKind},
    report::GroupReport,
    set_up::{Attributes, Listener, LoadBalancer, SetUp, Settings},
    target::TargetGroupArn,
};

/// What the target groups of a check have in common: what can be read of many at once, and the load balancers, each of
/// which may have many of the groups.
#[derive(Debug)]
pub(crate) struct Inspection<'a> {
    target_groups: &'a TargetGroups,
    settings: HashMap<TargetGroupArn, Result<Settings, ElbError>>,
    /// The details of each are read once, when the first of its groups has its turn.
    load_balancers: HashMap<String, (Result<LoadBalancer, ElbError>, OnceCell<Details>)>,
}

type Details = (Result<Attributes, ElbError>, Result<Vec<Listener>, ElbError>);

impl<'a> Inspection<'a> {
    /// Describes the target groups and then their load balancers, with as few calls as possible, until `until` at the
    /// latest. The facts of the groups are known to `target_groups` afterwards.
    pub(crate) async fn begin(target_groups: &'a TargetGroups, groups: &[Group], until: Instant) -> Self {
        let described = target_groups.describe(groups.iter().map(|group| group.arn.clone()), until).await;
        let settings: HashMap<_, _> =
            described.into_iter().map(|(arn, group)| (arn, group.map(|group| settings(&group)))).collect();
        let arns: BTreeSet<_> =
            settings.values().flatten().flat_map(|settings| settings.load_balancer_arns.iter().cloned()).collect();
        let described = target_groups.elb.read_many(DESCRIBE_LOAD_BALANCERS, arns, describe, until).await;
        let begun = described.into_iter().map(|(arn, described)| (arn, (described, OnceCell::new())));
        Self { target_groups, settings, load_balancers: begun.collect() }
    }

    /// Reads the set-up of a target group on which `report` is the report of a dry run, until `until` at the latest.
    pub(crate) async fn look(&self, report: &GroupReport, until: Instant) -> SetUp {
        let read = timeout_at(until.into(), self.read(report)).await;
        read.ok().flatten().unwrap_or_else(|| SetUp { is_cut_off: true, ..SetUp::default() })
    }

    /// `None`: there was no time to describe the target group or its load balancers.
    async fn read(&self, report: &GroupReport) -> Option<SetUp> {
        let arn = &report.target_group_arn;
        let settings = self.settings.get(arn)?;
        let mut known = Vec::new();
        for arn in settings.iter().flat_map(|settings| &settings.load_balancer_arns) {
            let (described, details) = self.load_balancers.get(arn)?;
            // One that was deleted may still be named.
            if !matches!(described, Err(error) if error.kind == ElbErrorKind::NotFound) {
                known.push((arn, described, details));
            }
        }
        let is_gone = |error: &ElbError| matches!(error.kind, ElbErrorKind::Failed | ElbErrorKind::NotFound);
        let is_there = !settings.as_ref().is_err_and(is_gone);
        let details = known.iter().map(async |(arn, described, details)| {
            let read = async || join!(self.attributes_of_load_balancer(arn), self.listeners(arn));
            let is_network = described.as_ref().is_ok_and(LoadBalancer::is_network);
            OptionFuture::from(is_network.then(|| details.get_or_init(read))).await
        });
        let attributes = OptionFuture::from(is_there.then(|| self.attributes_of_group(arn)));
        let (attributes, details) = join!(attributes, join_all(details));
        let mut set_up = SetUp::default();
        set_up.attributes = attributes.and_then(|read| set_up.take(arn.as_str(), read));
        let load_balancer_arns = known.iter().map(|(arn, ..)| (*arn).clone()).collect();
        let settings = settings.clone().map(|settings| Settings { load_balancer_arns, ..settings });
        set_up.settings = set_up.take(arn.as_str(), settings);
        for ((arn, described, _), details) in known.into_iter().zip(details) {
            let Some(mut load_balancer) = set_up.take(arn, described.clone()) else { continue };
            if let Some((attributes, listeners)) = details {
                load_balancer.attributes = set_up.take(arn, attributes.clone());
                load_balancer.listeners = set_up.take(arn, listeners.clone());
            }
            set_up.load_balancers.push(load_balancer);
        }
        Some(set_up)
    }

    async fn attributes_of_group(&self, arn: &TargetGroupArn) -> Result<Attributes, ElbError> {
        let turn = self.target_groups.elb.budget.acquire().await;
        let client = self.target_groups.elb.client(arn.as_str());
        let request = client.describe_target_group_attributes().target_group_arn(arn.as_str());
        let reply = call("DescribeTargetGroupAttributes", turn, Box::pin(request.send())).await?;
        Ok(attributes(reply.attributes().iter().map(|one| (one.key(), one.value()))))
    }

    async fn attributes_of_load_balancer(&self, arn: &str) -> Result<Attributes, ElbError> {
        let turn = self.target_groups.elb.budget.acquire().await;
        let client = self.target_groups.elb.client(arn);
        let request = client.describe_load_balancer_attributes().load_balancer_arn(arn);
        let reply = call("DescribeLoadBalancerAttributes", turn, Box::pin(request.send())).await?;
        Ok(attributes(reply.attributes().iter().map(|one| (one.key(), one.value()))))
    }

    async fn listeners(&self, arn: &str) -> Result<Vec<Listener>, ElbError> {
        let turn = self.target_groups.elb.budget.acquire().await;
        let client = self.target_groups.elb.client(arn);
        let pages = client.describe_listeners().load_balancer_arn(arn).into_paginator().items().send();
        let listeners: Vec<_> = call("DescribeListeners", turn, Box::pin(pages.collect())).await?;
        Ok(listeners.iter().map(listener).collect())
    }
}

async fn describe(
    client: Client,
    turn: Turn<'_>,
    arns: Vec<String>,
) -> Result<HashMap<String, LoadBalancer>, ElbError> {
    let request = client.describe_load_balancers().set_load_balancer_arns(Some(arns));
    let reply = call(DESCRIBE_LOAD_BALANCERS, turn, Box::pin(request.send())).await?;
    let read = |described| load_balancer(described).map(|known| (known.arn.clone(), known));
    Ok(reply.load_balancers().iter().filter_map(read).collect())
}

/// Empty where there is none.
fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn attributes<'a>(pairs: impl Iterator<Item = (Option<&'a str>, Option<&'a str>)>) -> Attributes {
    pairs.filter_map(|(key, value)| Some((key?.to_owned(), value?.to_owned()))).collect()
}

fn settings(group: &TargetGroup) -> Settings {
    Settings {
        target_type: text(group.target_type().map(types::TargetTypeEnum::as_str)),
        protocol: text(group.protocol().map(types::ProtocolEnum::as_str)),
        port: group.port(),
        health_check_protocol: text(group.health_check_protocol().map(types::ProtocolEnum::as_str)),
        health_check_port: text(group.health_check_port()),
        health_check_interval_seconds: group.health_check_interval_seconds().unwrap_or_default(),
        unhealthy_threshold_count: group.unhealthy_threshold_count().unwrap_or_default(),
        load_balancer_arns: group.load_balancer_arns().to_vec(),
    }
}

fn load_balancer(described: &types::LoadBalancer) -> Option<LoadBalancer> {
    let zones = described.availability_zones();
    let state = described.state();
    let code = state.and_then(|state| state.code()).map(types::LoadBalancerStateEnum::as_str);
    Some(LoadBalancer {
        arn: described.load_balancer_arn()?.to_owned(),
        kind: text(described.r#type().map(types::LoadBalancerTypeEnum::as_str)),
        state: (text(code), text(state.and_then(|state| state.reason()))),
        is_internet_facing: described.scheme() == Some(&LoadBalancerSchemeEnum::InternetFacing),
        security_groups: described.security_groups().to_vec(),
        enforces_inbound_rules: described.enforce_security_group_inbound_rules_on_private_link_traffic() != Some("off"),
        zones: zones.iter().filter_map(|zone| zone.zone_name.clone()).collect(),
        subnets: zones.iter().filter_map(|zone| zone.subnet_id.clone()).collect(),
        ..LoadBalancer::default()
    })
}

/// A network load balancer's listener has default actions only, of which one forwards.
fn listener(described: &types::Listener) -> Listener {
    let forwards = described.default_actions().iter().flat_map(|action: &Action| {
        let several = action.forward_config().map(|forward| forward.target_groups()).unwrap_or_default();
        let weighted = several.iter().map(|group| (group.target_group_arn(), group.weight().unwrap_or(1)));
        let single = several.is_empty().then(|| (action.target_group_arn(), 1));
        weighted.chain(single).filter_map(|(arn, weight)| Some((arn?.to_owned(), weight)))
    });
    Listener {
        arn: text(described.listener_arn()),
        protocol: text(described.protocol().map(types::ProtocolEnum::as_str)),
        port: described.port().unwrap_or_default(),
        forwards: forwards.collect(),
    }
}

const DESCRIBE_LOAD_BALANCERS: &str = "DescribeLoadBalancers";
