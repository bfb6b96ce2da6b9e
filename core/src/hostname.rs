//! A hostname: what DNS is asked for.

use std::{cmp::Ordering, fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::kind::HostnameKind;

/// A name to resolve. It is always fully qualified: no search list is ever applied to it.
///
/// It is shown as it was written; compared, it is without the trailing dot and in lower case, as
/// DNS compares names (RFC 4343).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname {
    written: String,
    canonical: String,
}

impl Hostname {
    /// The name without a trailing dot, in lower case.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// What it belongs to, as far as the name itself tells.
    pub fn kind(&self) -> HostnameKind {
        HostnameKind::of([self.canonical()])
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written.fmt(formatter)
    }
}

impl PartialEq for Hostname {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Hostname {}

impl PartialOrd for Hostname {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Hostname {
    fn cmp(&self, other: &Self) -> Ordering {
        self.canonical.cmp(&other.canonical)
    }
}

impl From<Hostname> for String {
    fn from(hostname: Hostname) -> Self {
        hostname.written
    }
}

impl TryFrom<String> for Hostname {
    type Error = InvalidHostname;

    fn try_from(written: String) -> Result<Self, Self::Error> {
        let invalid = |reason| InvalidHostname { written: written.clone(), reason };
        let name = written.strip_suffix('.').unwrap_or(&written);
        let literal = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
        if name.is_empty() {
            return Err(invalid("it is empty"));
        }
        if IpAddr::from_str(literal).is_ok() {
            return Err(invalid("it is an IP address, which needs no resolving: register it as a target yourself"));
        }
        if name.len() > MAX_NAME {
            return Err(invalid("it is longer than 253 characters"));
        }
        for label in name.split('.') {
            if label.is_empty() {
                return Err(invalid("it holds an empty label"));
            }
            if label.len() > MAX_LABEL {
                return Err(invalid("it holds a label of more than 63 characters"));
            }
            if label.starts_with('-') {
                return Err(invalid("it holds a label that begins with `-`, which our DNS library can't ask for"));
            }
            if !label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
                return Err(invalid(
                    "only letters, digits, `-`, `_` and dots are accepted (no scheme, port or blank; \
                     an international name in its xn-- form)",
                ));
            }
        }
        Ok(Self { canonical: name.to_ascii_lowercase(), written })
    }
}

/// A text that is not a hostname.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{written}` is not a DNS name: {reason}")]
pub struct InvalidHostname {
    written: String,
    reason: &'static str,
}

/// The hostnames that may be bound: those of `ALLOWED_HOSTNAMES`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AllowedHostnames(
    /// `None`: any.
    Option<Vec<Allowed>>,
);

/// What an entry of the list lets through.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Allowed {
    /// This name.
    Name(Hostname),
    /// All names under this one, however many labels they have before it.
    Under(Hostname),
}

impl AllowedHostnames {
    /// Why `hostname` must not be bound, or `None` if it may be.
    pub fn refusal(&self, hostname: &Hostname) -> Option<String> {
        let allowed = self.0.as_ref()?;
        let lets = |allowed: &Allowed| match allowed {
            Allowed::Name(name) => name == hostname,
            Allowed::Under(suffix) => {
                hostname.canonical().strip_suffix(suffix.canonical()).is_some_and(|before| before.ends_with('.'))
            }
        };
        // The list is not repeated: a thousand groups may be refused.
        (!allowed.iter().any(lets)).then(|| format!("`{hostname}` is outside ALLOWED_HOSTNAMES"))
    }
}

impl FromStr for AllowedHostnames {
    type Err = InvalidHostname;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let read = |item: &str| match item.strip_prefix("*.") {
            Some(suffix) => suffix.to_owned().try_into().map(Allowed::Under),
            None => item.to_owned().try_into().map(Allowed::Name),
        };
        let allowed: Result<_, InvalidHostname> = text.split(',').map(str::trim).map(read).collect();
        allowed.map(|allowed| Self(Some(allowed)))
    }
}

/// The longest name, without the trailing dot, that fits RFC 1035's 255 octets on the wire.
const MAX_NAME: usize = 253;

/// The longest label (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;
