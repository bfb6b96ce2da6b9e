//! What AWS makes of a request: ELBv2 itself, and which of the other services is asked.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    cloudwatch,
    group::{Group, key_text},
    request::{Asked, Refusal, element, invalid, members, refuse},
    state::State,
    tagging,
};

type Operation = fn(&mut State, &Asked) -> Result<String, Refusal>;

/// Carries a request out: the content of the result element, or the refusal.
pub(super) fn handle(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let outcome = perform(state, asked);
    if let Err(refusal) = &outcome
        && refusal.breach
    {
        state.violations.push(format!("{}: {}", asked.action, refusal.message));
    }
    outcome
}

fn perform(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    if let Some(refusal) = &asked.refusal {
        return Err(refusal.clone());
    }
    let action = asked.action.as_str();
    if state.throttles(action) {
        let code = if action == "GetResources" { "ThrottledException" } else { "ThrottlingException" };
        return Err(refuse(400, code, "Rate exceeded"));
    }
    let (known, perform): (&[&str], Operation) = match action {
        "AddTags" => (&["ResourceArns", "Tags"], add_tags),
        "DeregisterTargets" => (&["TargetGroupArn", "Targets"], deregister),
        "DescribeListeners" => (&["LoadBalancerArn", "Marker"], describe_listeners),
        "DescribeLoadBalancerAttributes" => (&["LoadBalancerArn"], describe_load_balancer_attributes),
        "DescribeLoadBalancers" => (&["LoadBalancerArns"], describe_load_balancers),
        "DescribeTags" => (&["ResourceArns"], describe_tags),
        "DescribeTargetGroupAttributes" => (&["TargetGroupArn"], describe_group_attributes),
        "DescribeTargetGroups" => (&["TargetGroupArns", "Marker"], describe_groups),
        "DescribeTargetHealth" => (&["TargetGroupArn"], describe_health),
        "GetResources" => (&[], get_resources),
        "PutMetricData" => (&[], put_metric_data),
        "RegisterTargets" => (&["TargetGroupArn", "Targets"], register),
        "RemoveTags" => (&["ResourceArns", "TagKeys"], remove_tags),
        _ => {
            let message = format!("Could not find operation {action} for version 2015-12-01");
            return Err(refuse(400, "InvalidAction", message));
        }
    };
    for name in asked.fields.keys() {
        let name = name.split('.').next().unwrap_or(name);
        if !["Action", "Version"].contains(&name) && !known.contains(&name) {
            return Err(invalid(format!("{action} does not know {name} here")));
        }
    }
    asked.arns.iter().try_for_each(|arn| check_arn(state, arn, &asked.region))?;
    perform(state, asked)
}

fn check_arn(state: &State, arn: &str, region: &str) -> Result<(), Refusal> {
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    match parts[..] {
        // An endpoint knows the groups of its own region only.
        ["arn", _, "elasticloadbalancing", own, _, name] if own == region && name.starts_with("targetgroup/") => {}
        _ => return Err(invalid(format!("'{arn}' is not a valid target group ARN")).breach()),
    }
    if state.groups.contains_key(arn) {
        return Ok(());
    }
    Err(refuse(400, "TargetGroupNotFound", format!("Target groups '{arn}' not found")))
}

fn describe_groups(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let first = asked.field("Marker").unwrap_or_default();
    let mut chosen = state.groups.iter().filter(|(arn, group)| {
        let is_asked_for = asked.arns.is_empty() || asked.arns.contains(arn);
        group.spec.region == asked.region && is_asked_for && arn.as_str() >= first
    });
    let page = chosen.by_ref().take(400);
    let page = page.map(|(arn, group)| group.described(arn, state.load_balancers.of(arn).map(|(own, _)| own)));
    let groups = members("TargetGroups", page);
    let marker = chosen.next().map_or_else(String::new, |(arn, _)| element("NextMarker", arn));
    Ok(groups + &marker)
}

fn describe_health(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let arn = only_arn(asked)?;
    let health = state.groups[arn].health(|zone| state.load_balancers.are_in_zone(arn, zone));
    Ok(members("TargetHealthDescriptions", health.into_iter()))
}

fn register(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let (arn, group) = batch(&mut state.groups, asked)?;
    if group.spec.target_type != "ip" {
        state.violations.push(format!("RegisterTargets: {arn} is not of type ip"));
    }
    // One bad target refuses all; the first one is named, breaches of the others are noted none the less.
    let mut admitted = Vec::new();
    let mut refusals = Vec::new();
    for sent in &asked.targets {
        match group.admit(sent) {
            Ok(target) => admitted.push(target),
            Err(refusal) => refusals.push(refusal),
        }
    }
    let mut refusals = refusals.into_iter();
    if let Some(first) = refusals.next() {
        let breaches = refusals.filter(|refusal| refusal.breach);
        state.violations.extend(breaches.map(|refusal| format!("RegisterTargets: {}", refusal.message)));
        return Err(first);
    }
    let before = group.counted();
    let after = &before | &admitted.iter().map(|(key, _)| key.clone()).collect();
    if after.len() > before.len() && after.len() > group.spec.quota {
        let quota = group.spec.quota;
        let message = format!("You've reached the limit of {quota} targets for target group '{arn}'");
        return Err(refuse(400, "TooManyTargets", message));
    }
    admitted.retain(|(key, _)| group.targets().get(key).is_none_or(|target| target.is_draining()));
    group.change_targets().extend(admitted);
    Ok(String::new())
}

fn deregister(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let (_, group) = batch(&mut state.groups, asked)?;
    let mut leaving = BTreeSet::new();
    for sent in &asked.targets {
        let key = group.identify(sent)?;
        if sent.port.is_none() {
            state.violations.push(format!("DeregisterTargets: {} without a port", sent.id));
        }
        if group.targets().contains_key(&key) {
            if sent.az.is_some() && sent.az.as_deref() != group.zone(&key) {
                let message = format!("The Availability Zone of '{}' is not the registered one", sent.id);
                return Err(invalid(message).breach());
            }
            leaving.insert(key);
        }
    }
    for key in &leaving {
        if group.targets()[key].is_draining() {
            state.violations.push(format!("DeregisterTargets: {} {TWICE}", key_text(key)));
        }
    }
    let targets = group.change_targets().iter_mut().filter(|(key, _)| leaving.contains(key));
    targets.for_each(|(_, target)| target.set("draining", None));
    Ok(String::new())
}

/// Of the violation that a draining target is deregistered. It is none where a request is repeated whose reply was lost,
/// and where two runs at once find the same stale target.
pub const TWICE: &str = "is draining already";

fn describe_tags(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    if !(1..=20).contains(&asked.arns.len()) {
        return Err(invalid("ResourceArns must name 1 to 20 resources").breach());
    }
    let resources = asked.arns.iter().map(|arn| {
        let group = &state.groups[arn];
        let tags = group.tags_seen(group.spec.tag_lag).iter();
        let tags = tags.map(|(key, value)| element("Key", key) + &element("Value", value));
        element("ResourceArn", arn) + &members("Tags", tags)
    });
    Ok(members("TagDescriptions", resources))
}

fn add_tags(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let arn = only_arn(asked)?;
    let mut sent = BTreeMap::new();
    for (key, value) in &asked.tags {
        check_tag(key, value)?;
        if sent.insert(key.to_owned(), value.to_owned()).is_some() {
            let message = format!("The tag key '{key}' was specified more than once");
            return Err(refuse(400, "DuplicateTagKeys", message).breach());
        }
    }
    if sent.is_empty() {
        return Err(invalid("At least one tag must be specified").breach());
    }
    let group = state.groups.get_mut(arn).expect("checked by check_arn");
    let mut tags = group.tags().clone();
    tags.extend(sent);
    // The tags of AWS itself are not counted.
    if tags.keys().filter(|key| !key.starts_with("aws:")).count() > 50 {
        let message = "You've reached the limit on the number of tags per resource";
        return Err(refuse(400, "TooManyTags", message).breach());
    }
    *group.change_tags() = tags;
    Ok(String::new())
}

fn remove_tags(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let arn = only_arn(asked)?;
    let keys = asked.list("TagKeys");
    if keys.is_empty() {
        return Err(invalid("At least one tag key must be specified").breach());
    }
    keys.iter().try_for_each(|key| check_tag(key, ""))?;
    let group = state.groups.get_mut(arn).expect("checked by check_arn");
    group.change_tags().retain(|key, _| !keys.contains(key));
    Ok(String::new())
}

fn describe_group_attributes(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let arn = only_arn(asked)?;
    let mut defaults = GROUP_ATTRIBUTES;
    // Where datagrams come, it is on, and can't be turned off.
    if ["UDP", "TCP_UDP", "QUIC", "TCP_QUIC"].contains(&state.groups[arn].spec.protocol) {
        defaults[3].1 = "true";
    }
    Ok(attributes(state, arn, &defaults))
}

fn describe_load_balancers(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let arns = asked.list("LoadBalancerArns");
    if !(1..=20).contains(&arns.len()) {
        return Err(invalid("LoadBalancerArns must name 1 to 20 load balancers").breach());
    }
    let all = &state.load_balancers;
    let told = arns.iter().filter(|arn| !all.leaves_out || all.known.contains_key(*arn));
    let described: Result<Vec<_>, _> = told.map(|arn| Ok(all.get(arn, asked)?.described(arn))).collect();
    Ok(members("LoadBalancers", described?.into_iter()))
}

fn describe_load_balancer_attributes(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let arn = asked.field("LoadBalancerArn").unwrap_or_default();
    state.load_balancers.get(arn, asked)?;
    Ok(attributes(state, arn, &LOAD_BALANCER_ATTRIBUTES))
}

fn describe_listeners(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let arn = asked.field("LoadBalancerArn").unwrap_or_default();
    state.load_balancers.get(arn, asked)?.page(arn, asked.field("Marker"))
}

fn get_resources(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let page_size = state.listing_page_size;
    tagging::get_resources(&asked.body, &state.listed(&asked.region), page_size)
}

fn put_metric_data(state: &mut State, asked: &Asked) -> Result<String, Refusal> {
    let mut calls = state.calls.iter().filter(|call| call.action == asked.action);
    let call = calls.position(|call| call.number == asked.number).unwrap_or(0);
    state.metrics.extend(cloudwatch::read(asked, call)?);
    // CBOR's empty reply is made elsewhere.
    Ok("{}".to_owned())
}

/// The one resource that this kind of call takes.
fn only_arn(asked: &Asked) -> Result<&String, Refusal> {
    match &asked.arns[..] {
        [arn] => Ok(arn),
        _ if asked.action.ends_with("Tags") => Err(invalid("Only one resource can be tagged at a time").breach()),
        _ => Err(invalid("A target group ARN must be specified").breach()),
    }
}

/// The group that targets are sent for. AWS does not document how many a call may carry; 200 is what the load balancer
/// controller sends at most.
fn batch<'a>(groups: &'a mut BTreeMap<String, Group>, asked: &'a Asked) -> Result<(&'a str, &'a mut Group), Refusal> {
    let arn = only_arn(asked)?;
    let count = asked.targets.len();
    if !(1..=200).contains(&count) {
        return Err(invalid(format!("{count} targets in one call, 1 to 200 allowed")).breach());
    }
    Ok((arn, groups.get_mut(arn).expect("checked by check_arn")))
}

fn check_tag(key: &str, value: &str) -> Result<(), Refusal> {
    // [\p{L}\p{Z}\p{N}_.:/=+\-@]*, as near as the standard library gets to it.
    let is_allowed = |c: char| c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "_.:/=+-@".contains(c);
    // The user guide wants no blanks around, and allows 127 and 255 characters, the API reference 128 and 256.
    let fits = (1..=127).contains(&key.chars().count()) && value.chars().count() <= 255;
    let has_blanks = [key, value].into_iter().any(|text| text.trim() != text);
    if !fits || has_blanks || !key.chars().chain(value.chars()).all(is_allowed) {
        return Err(invalid(format!("The tag '{key}' = '{value}' is not valid")).breach());
    }
    if key.to_ascii_lowercase().starts_with("aws:") {
        return Err(invalid(format!("The tag key '{key}' is reserved: it starts with aws:")).breach());
    }
    Ok(())
}

fn attributes(state: &State, arn: &str, defaults: &[(&str, &str)]) -> String {
    let attributes = defaults.iter().map(|(key, value)| {
        let set = state.attributes.get(&(arn.to_owned(), (*key).to_owned()));
        element("Key", key) + &element("Value", set.map_or(*value, String::as_str))
    });
    members("Attributes", attributes)
}

/// As ELBv2 makes them.
pub(super) const GROUP_ATTRIBUTES: [(&str, &str); 7] = [
    ("deregistration_delay.connection_termination.enabled", "false"),
    ("deregistration_delay.timeout_seconds", "300"),
    ("load_balancing.cross_zone.enabled", "use_load_balancer_configuration"),
    ("preserve_client_ip.enabled", "false"),
    ("proxy_protocol_v2.enabled", "false"),
    ("stickiness.enabled", "false"),
    ("stickiness.type", "source_ip"),
];

pub(super) const LOAD_BALANCER_ATTRIBUTES: [(&str, &str); 2] =
    [("deletion_protection.enabled", "false"), ("load_balancing.cross_zone.enabled", "false")];
