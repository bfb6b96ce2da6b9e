use std::{collections::BTreeSet, net::IpAddr, num::NonZeroU16};

use hickory_proto::rr::Name;
use nlb_hostname_targets::binding::Group;
use serde_json::Value;

/// Bindings that were accepted are in the groups, each of them, as they were written, and nothing
/// else is.
pub(crate) fn assert_kept(bindings: &Value, groups: &[Group]) {
    let bindings = bindings.as_array().expect("only an array is accepted");
    for binding in bindings {
        let fields = binding.as_object().expect("only an object is a binding");
        let unknown = fields.keys().find(|field| !FIELDS.contains(&field.as_str()));
        assert_eq!(unknown, None, "an unknown field was accepted");
        assert!(!fields.values().any(Value::is_null), "null was accepted in {binding}");
    }
    let written: BTreeSet<_> =
        bindings.iter().map(|binding| (text(binding, "target_group_arn"), canonical(binding), port(binding))).collect();
    let mut kept = BTreeSet::new();
    for group in groups {
        for (hostname, port) in &group.members {
            kept.insert((group.arn.as_str(), hostname.canonical().to_owned(), port.unwrap_or(OWN_PORT)));
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
    assert_ne!(canonical.parse::<IpAddr>().ok().map(|_| canonical), Some(canonical), "an address was accepted");
}

fn text<'a>(binding: &'a Value, field: &str) -> &'a str {
    binding.get(field).and_then(Value::as_str).expect("only a text is accepted")
}

fn canonical(binding: &Value) -> String {
    let hostname = text(binding, "hostname").to_ascii_lowercase();
    hostname.strip_suffix('.').unwrap_or(&hostname).to_owned()
}

fn port(binding: &Value) -> NonZeroU16 {
    binding.get("port").map_or(OWN_PORT, |port| {
        let port = port.as_u64().and_then(|port| u16::try_from(port).ok());
        port.and_then(NonZeroU16::new).expect("only a port is accepted")
    })
}

const FIELDS: [&str; 6] = ["hostname", "target_group_arn", "port", "deregister_after_seconds", "ownership", "lookups"];

/// The target groups' own.
pub(crate) const OWN_PORT: NonZeroU16 = NonZeroU16::MIN;
