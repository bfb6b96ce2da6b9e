//! A hostname: what DNS is asked for.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::kind::HostnameKind;

/// A name to resolve, always fully qualified: without the trailing dot and in lower case, as DNS compares names (RFC 4343).
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(try_from = "String")]
pub struct Hostname(String);

impl Hostname {
    /// The name.
    pub fn canonical(&self) -> &str {
        &self.0
    }

    /// What it belongs to, as far as the name itself tells.
    pub fn kind(&self) -> HostnameKind {
        HostnameKind::of([self.canonical()])
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl TryFrom<String> for Hostname {
    type Error = String;

    fn try_from(written: String) -> Result<Self, String> {
        let name = written.strip_suffix('.').unwrap_or(&written);
        match problem(name) {
            Some(reason) => Err(format!("`{written}` is not a DNS name: {reason}")),
            None => Ok(Self(name.to_ascii_lowercase())),
        }
    }
}

/// Why a name without its trailing dot can't be asked for. RFC 1035, section 2.3.4, has the lengths.
fn problem(name: &str) -> Option<&'static str> {
    let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    let has_label = |is_wrong: fn(&str) -> bool| name.split('.').any(is_wrong);
    Some(if name.is_empty() {
        "it is empty"
    } else if IpAddr::from_str(literal).is_ok() {
        "it is an IP address, which needs no resolving: register it as a target yourself"
    } else if name.len() > 253 {
        "it is longer than 253 characters"
    } else if has_label(str::is_empty) {
        "it holds an empty label"
    } else if has_label(|label| label.len() > 63) {
        "it holds a label of more than 63 characters"
    } else if has_label(|label| label.starts_with('-')) {
        "it holds a label that begins with `-`, which our DNS library can't ask for"
    } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        "only letters, digits, `-`, `_` and dots are accepted (no scheme, port or blank; an international name in its \
         xn-- form)"
    } else {
        return None;
    })
}

/// The hostnames that may be bound, or `None` for any: names, and whether each stands for all names under it, however many
/// labels they have before it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AllowedHostnames(Option<Vec<(Hostname, bool)>>);

impl AllowedHostnames {
    /// Why `hostname` must not be bound, or `None` if it may be.
    pub fn refusal(&self, hostname: &Hostname) -> Option<String> {
        let allows = |(name, is_suffix): &(Hostname, bool)| {
            let before = hostname.canonical().strip_suffix(name.canonical());
            before.is_some_and(|before| if *is_suffix { before.ends_with('.') } else { before.is_empty() })
        };
        // The list is not repeated: a thousand groups may be refused.
        (!self.0.as_ref()?.iter().any(allows)).then(|| format!("`{hostname}` is outside ALLOWED_HOSTNAMES"))
    }
}

impl FromStr for AllowedHostnames {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = |item: &str| {
            let suffix = item.strip_prefix("*.");
            Ok((suffix.unwrap_or(item).to_owned().try_into()?, suffix.is_some()))
        };
        text.split(',').map(|item| read(item.trim())).collect::<Result<_, _>>().map(|names| Self(Some(names)))
    }
}
