use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use hickory_proto::rr::Name;
use nlb_hostname_targets::binding::Group;
use serde_json::Value;

/// Bindings that were accepted are in the groups, each of them, as they were written, and nothing
/// else is.
pub(crate) fn assert_kept(bindings: &Value, groups: &[Group]) {
    let text = |binding: &Value, field| binding[field].as_str().expect("only a text is accepted").to_owned();
    let mut written = BTreeSet::new();
    for binding in bindings.as_array().expect("only an array is accepted") {
        for (field, value) in binding.as_object().expect("only an object is a binding") {
            assert!(FIELDS.contains(&field.as_str()) && !value.is_null(), "`{field}` was accepted in {binding}");
        }
        let port = binding.get("port").map_or(OWN_PORT, |port| port.to_string().parse().expect("only a port"));
        written.insert((text(binding, "target_group_arn"), canonical(&text(binding, "hostname")), port));
    }
    let mut kept = BTreeSet::new();
    for group in groups {
        for (hostname, port) in &group.members {
            kept.insert((group.arn.as_str().to_owned(), hostname.canonical().to_owned(), port.unwrap_or(OWN_PORT)));
            assert_can_be_asked_for(hostname.canonical());
        }
    }
    assert_eq!(kept, written);
    let arns: BTreeSet<_> = groups.iter().map(|group| &group.arn).collect();
    assert_eq!(arns.len(), groups.len(), "a target group is in two groups");
}

/// A hostname that was accepted is a name to DNS too, with the same labels.
pub(crate) fn assert_can_be_asked_for(canonical: &str) {
    let name = Name::from_ascii(format!("{canonical}.")).expect("hickory takes what was accepted");
    assert!(name.iter().eq(canonical.split('.').map(str::as_bytes)), "{name} is not {canonical}");
    assert!(canonical.parse::<IpAddr>().is_err(), "an address was accepted");
}

/// How hostnames are compared.
pub(crate) fn canonical(hostname: &str) -> String {
    hostname.strip_suffix('.').unwrap_or(hostname).to_ascii_lowercase()
}

const FIELDS: [&str; 6] = ["hostname", "target_group_arn", "port", "deregister_after_seconds", "ownership", "lookups"];

/// The target groups' own.
pub(crate) const OWN_PORT: NonZeroU16 = NonZeroU16::MIN;
