//! Reads what a check judges: the settings of target groups, and of the load balancers and listeners in front of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::Hash,
    num::NonZeroU16,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use aws_sdk_elasticloadbalancingv2::types::{
    Action, Listener as ListenerDescription, LoadBalancer as LoadBalancerDescription, LoadBalancerSchemeEnum,
    TargetGroup, TargetHealthDescription,
};
use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use tokio::{join, sync::OnceCell, time::timeout_at};

use crate::{
    binding::Group,
    failure::{ElbError, ElbErrorKind},
    limiter::{Limiter, Permit, Priority},
    report::GroupReport,
    set_up::{Attributes, Health, Listener, LoadBalancer, SetUp, Settings},
    target::{Target, TargetGroupArn},
    target_group::{DESCRIBE_TARGET_GROUPS, FACTS_IN_A_CALL, TargetGroups},
};

/// What the target groups of a check have in common: what can be read of many at once, and the load balancers, each of
/// which may have many of the groups.
#[derive(Debug)]
pub struct Inspection<'a> {
    target_groups: &'a TargetGroups,
    settings: HashMap<TargetGroupArn, Result<Settings, ElbError>>,
    load_balancers: HashMap<String, Shared>,
}

/// A load balancer, whose attributes and listeners are read once, when the first of its groups has its turn.
#[derive(Debug)]
struct Shared {
    described: Result<LoadBalancer, ElbError>,
    attributes: OnceCell<Result<Attributes, ElbError>>,
    listeners: OnceCell<Result<Vec<Listener>, ElbError>>,
}

/// The turns of one target group. Those that it does not need go back when this is dropped.
#[derive(Debug)]
pub struct Turns<'a> {
    limiter: &'a Arc<Limiter>,
    reserved: Mutex<Vec<Permit>>,
}

impl<'a> Inspection<'a> {
    /// Describes the target groups and then their load balancers, with as few calls as possible, until `until` at the
    /// latest. The facts of the groups are known to `target_groups` afterwards.
    pub async fn begin(target_groups: &'a TargetGroups, groups: &[Group], until: Instant) -> Self {
        let mut inspection = Self { target_groups, settings: HashMap::new(), load_balancers: HashMap::new() };
        let arns: Vec<_> = groups.iter().map(|group| group.arn.clone()).collect();
        let describe = async |arns: &[TargetGroupArn], turn: Permit| {
            let described = target_groups.read_facts_of(&arns.iter().collect::<Vec<_>>(), turn).await?;
            Ok(described
                .into_iter()
                .filter_map(|group| Some((group.target_group_arn()?.parse().ok()?, settings(&group)))))
        };
        let read = inspection.read_many(DESCRIBE_TARGET_GROUPS, arns, TargetGroupArn::region, describe, until);
        inspection.settings = read.await;
        let described = inspection.settings.values().flatten();
        let arns: BTreeSet<_> = described.flat_map(|settings| settings.load_balancers.iter().cloned()).collect();
        let describe = async |arns: &[String], turn: Permit| inspection.describe_load_balancers(arns, turn).await;
        let described = inspection.read_many("DescribeLoadBalancers", arns, |arn| region(arn), describe, until).await;
        let shared = |described| Shared { described, attributes: OnceCell::new(), listeners: OnceCell::new() };
        inspection.load_balancers = described.into_iter().map(|(arn, described)| (arn, shared(described))).collect();
        inspection
    }

    /// Reads what is said of each key, with as few calls as possible. What the time did not suffice for is missing.
    async fn read_many<K: Clone + Eq + Hash, V, I: IntoIterator<Item = (K, V)>>(
        &self,
        operation: &'static str,
        keys: impl IntoIterator<Item = K>,
        region: impl Fn(&K) -> &str,
        describe: impl AsyncFn(&[K], Permit) -> Result<I, ElbError>,
        until: Instant,
    ) -> HashMap<K, Result<V, ElbError>> {
        let mut regions: BTreeMap<String, Vec<K>> = BTreeMap::new();
        for key in keys {
            regions.entry(region(&key).to_owned()).or_default().push(key);
        }
        let chunks = regions.values().flat_map(|keys| keys.chunks(FACTS_IN_A_CALL));
        let calls = chunks.map(|keys| self.read_chunk(operation, keys, &describe));
        let mut calls: FuturesUnordered<_> = calls.collect();
        let mut all = HashMap::new();
        let reading = async {
            while let Some(read) = calls.next().await {
                all.extend(read);
            }
        };
        // What is missing then is known to be.
        drop(timeout_at(until.into(), reading).await);
        all
    }

    async fn read_chunk<K: Clone + Eq + Hash, V, I: IntoIterator<Item = (K, V)>>(
        &self,
        operation: &'static str,
        keys: &[K],
        describe: &impl AsyncFn(&[K], Permit) -> Result<I, ElbError>,
    ) -> HashMap<K, Result<V, ElbError>> {
        let all = |error: ElbError| keys.iter().map(move |key| (key.clone(), Err(error.clone())));
        match describe(keys, self.turn().await).await {
            Ok(found) => {
                let problem = "the reply does not hold it".to_owned();
                let missing = all(ElbError { operation, kind: ElbErrorKind::NotFound, problem });
                missing.chain(found.into_iter().map(|(key, value)| (key, Ok(value)))).collect()
            }
            // One that was deleted spoils the call for the others beside it.
            Err(error) if is_of_one(&error) && keys.len() > 1 => {
                let mut read = HashMap::new();
                for key in keys.chunks(1) {
                    read.extend(Box::pin(self.read_chunk(operation, key, describe)).await);
                }
                read
            }
            Err(error) => all(error).collect(),
        }
    }

    /// Waits for the turns that the set-up of a target group takes, until `until` at the latest: what is begun shall end
    /// before another is begun, so that as many as possible are looked at where the time does not suffice for all.
    pub async fn turns(&self, until: Instant) -> Turns<'_> {
        let turns = Turns { limiter: &self.target_groups.limiter, reserved: Mutex::default() };
        for _ in 0..REQUESTS_FOR_ONE {
            let Ok(turn) = timeout_at(until.into(), turns.limiter.acquire(Priority::Continue)).await else { break };
            turns.reserved.lock().unwrap_or_else(PoisonError::into_inner).push(turn);
        }
        turns
    }

    /// Reads the set-up of a target group on which `report` is the report of a dry run, until `until` at the latest.
    pub async fn look(&self, report: &GroupReport, turns: &Turns<'_>, until: Instant) -> SetUp {
        let arn = &report.target_group_arn;
        let mut set_up = SetUp::default();
        let settings = self.settings.get(arn).cloned();
        let is_there = !matches!(&settings, Some(Err(error)) if is_of_one(error));
        set_up.settings = set_up.take(arn.as_str(), settings);
        if let Some(settings) = &mut set_up.settings {
            settings.load_balancers.retain(|arn| !self.is_gone(arn));
        }
        let is_sick = report.targets.is_some_and(|counts| counts.healthy < counts.registered);
        let arns = set_up.settings.iter().flat_map(|settings| settings.load_balancers.clone());
        let load_balancers: FuturesOrdered<_> = arns.map(|arn| self.look_at_load_balancer(arn, turns, until)).collect();
        let (attributes, targets, load_balancers) = join!(
            timeout_at(until.into(), async {
                if is_there { Some(self.attributes_of_group(arn, turns).await) } else { None }
            }),
            timeout_at(until.into(), async { if is_sick { Some(self.health(arn, turns).await) } else { None } }),
            load_balancers.collect::<Vec<_>>(),
        );
        if is_there {
            set_up.attributes = set_up.take(arn.as_str(), attributes.ok().flatten());
        }
        if let Some(targets) = targets.unwrap_or_default() {
            set_up.targets = set_up.take(arn.as_str(), Some(targets));
        } else if is_sick {
            set_up.is_cut_off = true;
        }
        for part in load_balancers {
            set_up.load_balancers.extend(part.load_balancers);
            set_up.failures.extend(part.failures);
            set_up.is_cut_off |= part.is_cut_off;
        }
        set_up
    }

    /// Whether a load balancer was deleted that a target group still names.
    fn is_gone(&self, arn: &str) -> bool {
        let described = self.load_balancers.get(arn).map(|shared| &shared.described);
        matches!(described, Some(Err(error)) if error.kind == ElbErrorKind::NotFound)
    }

    async fn look_at_load_balancer(&self, arn: String, turns: &Turns<'_>, until: Instant) -> SetUp {
        let mut set_up = SetUp::default();
        let Some(shared) = self.load_balancers.get(&arn) else {
            set_up.is_cut_off = true;
            return set_up;
        };
        let Some(mut load_balancer) = set_up.take(&arn, Some(shared.described.clone())) else { return set_up };
        if load_balancer.is_network() {
            let (attributes, listeners) = join!(
                timeout_at(
                    until.into(),
                    shared.attributes.get_or_init(|| self.attributes_of_load_balancer(&arn, turns))
                ),
                timeout_at(until.into(), shared.listeners.get_or_init(|| self.listeners(&arn, turns))),
            );
            load_balancer.attributes = set_up.take(&arn, attributes.ok().cloned());
            load_balancer.listeners = set_up.take(&arn, listeners.ok().cloned());
        }
        set_up.load_balancers.push(load_balancer);
        set_up
    }

    async fn attributes_of_group(&self, arn: &TargetGroupArn, turns: &Turns<'_>) -> Result<Attributes, ElbError> {
        let turn = turns.next().await;
        let regional = self.target_groups.elb.regional(arn);
        let request = regional.client.describe_target_group_attributes().target_group_arn(arn.as_str());
        let reply = regional.call("DescribeTargetGroupAttributes", Some(turn), request.send()).await?;
        let attributes = reply.attributes().iter();
        Ok(Attributes(attributes.filter_map(|one| Some((one.key()?.to_owned(), one.value()?.to_owned()))).collect()))
    }

    async fn attributes_of_load_balancer(&self, arn: &str, turns: &Turns<'_>) -> Result<Attributes, ElbError> {
        let turn = turns.next().await;
        let regional = self.target_groups.elb.in_region(region(arn));
        let request = regional.client.describe_load_balancer_attributes().load_balancer_arn(arn);
        let reply = regional.call("DescribeLoadBalancerAttributes", Some(turn), request.send()).await?;
        let attributes = reply.attributes().iter();
        Ok(Attributes(attributes.filter_map(|one| Some((one.key()?.to_owned(), one.value()?.to_owned()))).collect()))
    }

    async fn listeners(&self, arn: &str, turns: &Turns<'_>) -> Result<Vec<Listener>, ElbError> {
        let turn = turns.next().await;
        let regional = self.target_groups.elb.in_region(region(arn));
        let page = async |marker, turn| {
            let request = regional.client.describe_listeners().load_balancer_arn(arn).set_marker(marker);
            let reply = regional.call("DescribeListeners", Some(turn), request.send()).await?;
            Ok((reply.listeners.unwrap_or_default(), reply.next_marker))
        };
        Ok(self.target_groups.all_pages(turn, page).await?.iter().map(listener).collect())
    }

    async fn health(&self, arn: &TargetGroupArn, turns: &Turns<'_>) -> Result<Vec<Health>, ElbError> {
        let turn = turns.next().await;
        let regional = self.target_groups.elb.regional(arn);
        let request = regional.client.describe_target_health().target_group_arn(arn.as_str());
        let reply = regional.call("DescribeTargetHealth", Some(turn), request.send()).await?;
        Ok(reply.target_health_descriptions().iter().filter_map(health).collect())
    }

    async fn describe_load_balancers(
        &self,
        arns: &[String],
        turn: Permit,
    ) -> Result<impl Iterator<Item = (String, LoadBalancer)> + use<>, ElbError> {
        let regional = self.target_groups.elb.in_region(arns.first().map_or("", |arn| region(arn)));
        let page = async |marker, turn| {
            let request = regional.client.describe_load_balancers();
            let request = request.set_load_balancer_arns(Some(arns.to_vec())).set_marker(marker);
            let reply = regional.call("DescribeLoadBalancers", Some(turn), request.send()).await?;
            Ok((reply.load_balancers.unwrap_or_default(), reply.next_marker))
        };
        let described = self.target_groups.all_pages(turn, page).await?;
        Ok(described.into_iter().filter_map(|described| {
            let load_balancer = load_balancer(&described)?;
            Some((load_balancer.arn.clone(), load_balancer))
        }))
    }

    async fn turn(&self) -> Permit {
        self.target_groups.limiter.acquire(Priority::Continue).await
    }
}

impl Turns<'_> {
    async fn next(&self) -> Permit {
        let reserved = self.reserved.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match reserved {
            Some(turn) => turn,
            None => self.limiter.acquire(Priority::Continue).await,
        }
    }
}

/// Whether a call may fail for one alone of those that it names.
fn is_of_one(error: &ElbError) -> bool {
    matches!(error.kind, ElbErrorKind::Failed | ElbErrorKind::NotFound)
}

fn region(arn: &str) -> &str {
    arn.split(':').nth(3).unwrap_or_default()
}

fn settings(group: &TargetGroup) -> Settings {
    Settings {
        target_type: group.target_type().map_or_else(String::new, |kind| kind.as_str().to_owned()),
        port: group.port(),
        health_check_interval: group.health_check_interval_seconds().unwrap_or_default(),
        unhealthy_threshold: group.unhealthy_threshold_count().unwrap_or_default(),
        load_balancers: group.load_balancer_arns().to_vec(),
    }
}

fn load_balancer(described: &LoadBalancerDescription) -> Option<LoadBalancer> {
    let zones = described.availability_zones();
    Some(LoadBalancer {
        arn: described.load_balancer_arn()?.to_owned(),
        kind: described.r#type().map_or_else(String::new, |kind| kind.as_str().to_owned()),
        is_internet_facing: described.scheme() == Some(&LoadBalancerSchemeEnum::InternetFacing),
        security_groups: described.security_groups().to_vec(),
        enforces_inbound_rules: described.enforce_security_group_inbound_rules_on_private_link_traffic() != Some("off"),
        zones: zones.iter().filter_map(|zone| zone.zone_name().map(ToOwned::to_owned)).collect(),
        subnets: zones.iter().filter_map(|zone| zone.subnet_id().map(ToOwned::to_owned)).collect(),
        attributes: None,
        listeners: None,
    })
}

/// A network load balancer's listener has default actions only, of which one forwards.
fn listener(described: &ListenerDescription) -> Listener {
    let forwards = described.default_actions().iter().flat_map(|action: &Action| {
        let several = action.forward_config().map(|forward| forward.target_groups()).unwrap_or_default();
        let weighted =
            several.iter().filter_map(|group| Some((group.target_group_arn()?, group.weight().unwrap_or(1))));
        let single = action.target_group_arn().filter(|_| several.is_empty()).map(|arn| (arn, 1));
        weighted.chain(single).map(|(arn, weight)| (arn.to_owned(), weight))
    });
    let arn = described.listener_arn().unwrap_or_default().to_owned();
    Listener { arn, port: described.port().unwrap_or_default(), forwards: forwards.collect() }
}

fn health(described: &TargetHealthDescription) -> Option<Health> {
    let target = described.target()?;
    let port = NonZeroU16::new(u16::try_from(target.port()?).ok()?)?;
    let health = described.target_health()?;
    Some(Health {
        target: Target { address: target.id()?.parse().ok()?, port },
        zone: target.availability_zone().map(ToOwned::to_owned),
        check_port: described.health_check_port().and_then(|port| port.parse().ok()).unwrap_or_else(|| port.get()),
        state: health.state()?.as_str().to_owned(),
        reason: health.reason().map_or_else(String::new, |reason| reason.as_str().to_owned()),
        description: health.description().unwrap_or_default().to_owned(),
    })
}

/// What the set-up of a target group takes: its attributes, and the attributes and listeners of a load balancer.
const REQUESTS_FOR_ONE: u32 = 3;
