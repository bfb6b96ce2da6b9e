use std::collections::{BTreeMap, BTreeSet};

use nlb_hostname_targets::{
    hostname::AllowedHostnames,
    tag_bindings::Found,
    tags::{Key, Tags},
    target::TargetGroupArn,
};

use super::{
    assert_one_line,
    bindings::{OWN_PORT, assert_can_be_asked_for, canonical},
};

/// The input is a list of allowed hostnames, then the tags of a target group: `key=value`, with zero bytes between them.
pub fn binding_tags(input: &[u8]) {
    let mut parts = input.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let list = parts.next().unwrap_or_default();
    let allowed: AllowedHostnames = list.parse().unwrap_or_default();
    let tags: Tags =
        parts.filter_map(|tag| tag.split_once('=').map(|(key, value)| (key.into(), value.into()))).collect();
    let arn: TargetGroupArn = ARN.parse().expect("an ARN");
    let read = |tags: &Tags, given: &BTreeSet<TargetGroupArn>| {
        Found::read(&BTreeMap::from([(arn.clone(), tags.clone())]), given, &allowed)
    };
    let found = read(&tags, &BTreeSet::new());
    assert_eq!(found.groups.len() + found.invalid.len(), 1, "a target group that is neither bound nor refused");

    let is_state = |key: &Key<'_>| matches!(key, Key::Missing(_) | Key::Owned(..) | Key::Rotates(_));
    let is_of_binding = |key: &str| Key::parse(key).filter(|key| !is_state(key)).is_some();
    let ours: Tags = tags.into_iter().filter(|(key, _)| is_of_binding(key)).collect();
    assert_eq!(read(&ours, &BTreeSet::new()), found, "a tag of the state, or of others, was read");
    let given = read(&ours, &BTreeSet::from([arn.clone()]));
    assert!(given.groups.is_empty() && given.invalid.is_empty(), "BINDINGS did not go before");

    for failure in found.invalid.values().flatten() {
        let message = failure.to_string();
        assert_one_line(&message);
        let written = |key: &String| key.chars().take_while(|it| !it.is_control()).collect::<String>();
        assert!(ours.keys().any(|key| message.contains(&written(key))), "{message} names no tag");
    }
    let written: BTreeSet<String> = ours
        .iter()
        .filter(|(key, _)| key.starts_with(HOSTNAME))
        .flat_map(|(_, value)| value.split_whitespace())
        .map(canonical)
        .collect();
    // Without a hostname there is nothing to name.
    assert!(
        found.invalid.values().all(|failures| !failures.is_empty() || written.is_empty()),
        "refused without a word"
    );
    for group in found.groups.values() {
        let kept: BTreeSet<_> = group.hostnames().into_iter().map(|hostname| hostname.canonical().to_owned()).collect();
        assert_eq!(kept, written);
        for hostname in group.hostnames() {
            assert_can_be_asked_for(hostname.canonical());
        }
        let port = ours.get(PORT).map_or(OWN_PORT.get(), |port| port.trim().parse().expect("only a port is accepted"));
        assert!(group.members.iter().all(|(_, bound)| bound.unwrap_or(OWN_PORT).get() == port));
    }
}

const ARN: &str = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/db/0123456789abcdef";
const HOSTNAME: &str = "nlb-hostname-targets:hostname";
const PORT: &str = "nlb-hostname-targets:port";
