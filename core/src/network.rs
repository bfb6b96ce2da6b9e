//! Which addresses may become targets.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The networks that an answer's addresses may lie in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AllowedNetworks(Vec<IpNet>);

impl AllowedNetworks {
    /// Why `address` must not be registered, or `None` if it may be.
    ///
    /// Loopback, link-local, multicast, unspecified, broadcast and NAT64 addresses are refused whatever the list says: no
    /// database answers there.
    pub fn refusal(&self, address: IpAddr) -> Option<String> {
        if is_nat64(address) {
            return Some(
                "it is a NAT64 address, which DNS64 made of an IPv4 one; those are never registered".to_owned(),
            );
        }
        if let Some(kind) = never_a_target(address.to_canonical()) {
            return Some(format!("{kind} addresses are never registered"));
        }
        // The list is not repeated: an answer may hold thousands of addresses.
        match self.0.iter().any(|network| network.contains(&address)) {
            true => None,
            false if is_public(address) => Some("it is a public address, outside ALLOWED_CIDRS".to_owned()),
            false => Some("it is outside ALLOWED_CIDRS".to_owned()),
        }
    }
}

impl fmt::Display for AllowedNetworks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, network) in self.0.iter().enumerate() {
            write!(formatter, "{}{network}", if position == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Default for AllowedNetworks {
    /// What a Network Load Balancer accepts
    /// ([target groups](https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-target-groups.html#target-type)),
    /// and for IPv6 the unicast ranges that a VPC can hold: global and unique local addresses.
    fn default() -> Self {
        let v4 = [([10, 0, 0, 0], 8), ([172, 16, 0, 0], 12), ([192, 168, 0, 0], 16), ([100, 64, 0, 0], 10)];
        let v6 = [(0x2000, 3), (0xfc00, 7)];
        let v4 = v4.into_iter().map(|(ip, length)| IpNet::V4(Ipv4Net::new_assert(ip.into(), length)));
        let v6 = v6
            .into_iter()
            .map(|(first, length)| IpNet::V6(Ipv6Net::new_assert([first, 0, 0, 0, 0, 0, 0, 0].into(), length)));
        Self(v4.chain(v6).collect())
    }
}

impl FromStr for AllowedNetworks {
    type Err = InvalidNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(str::trim)
            .map(|item| network(item).ok_or_else(|| InvalidNetwork(item.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// Read by the standard library's parser, which refuses `010.0.0.0`: that is 10.0.0.0 to some
/// (ipnet's own parser among them) and 8.0.0.0 to others.
fn network(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let plain = length.bytes().all(|byte| byte.is_ascii_digit());
    IpNet::new(address.parse().ok()?, length.parse().ok().filter(|_| plain)?).ok()
}

/// A text that is not a network in CIDR notation.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` is not a network")]
pub struct InvalidNetwork(String);

/// Whether `address` is routed on the public internet, as those are that the name of a publicly
/// accessible database resolves to outside its VPC.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let shared = first == 100 && (64..128).contains(&second);
            let reserved = first == 0 || first >= 240;
            !v4.is_private() && !shared && !reserved && never_a_target(address).is_none()
        }
        IpAddr::V6(v6) => v6.segments().first().is_some_and(|first| first & 0xe000 == 0x2000),
    }
}

/// Whether a name server's DNS64 made `address` of an IPv4 address, for a name that has no IPv6 address
/// ([RFC 6052](https://datatracker.ietf.org/doc/html/rfc6052#section-2.1)).
pub fn is_nat64(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.segments().starts_with(&[0x64, 0xff9b, 0, 0, 0, 0]))
}

fn never_a_target(address: IpAddr) -> Option<&'static str> {
    let (link_local, broadcast) = match address {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_broadcast()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), false),
    };
    [
        (address.is_loopback(), "loopback"),
        (link_local, "link-local"),
        (address.is_multicast(), "multicast"),
        (address.is_unspecified(), "unspecified"),
        (broadcast, "broadcast"),
    ]
    .into_iter()
    .find_map(|(found, kind)| found.then_some(kind))
}
