//! Which addresses may become targets.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;

/// The networks that an answer's addresses may lie in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AllowedNetworks(Vec<IpNet>);

impl AllowedNetworks {
    /// Why `address` must not be registered, or `None` if it may be. Some are refused whatever the list says.
    pub fn refusal(&self, address: IpAddr) -> Option<String> {
        if is_nat64(address) {
            return Some(
                "it is a NAT64 address, which DNS64 made of an IPv4 one; those are never registered".to_owned(),
            );
        }
        if let Some(kind) = never_a_target(address.to_canonical()) {
            return Some(format!("{kind} addresses are never registered"));
        }
        let kind = if is_public(address) { "a public address, " } else { "" };
        // The list is not repeated: an answer may hold thousands of addresses.
        let is_allowed = self.0.iter().any(|network| network.contains(&address));
        (!is_allowed).then(|| format!("it is {kind}outside ALLOWED_CIDRS"))
    }
}

impl fmt::Display for AllowedNetworks {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }
}

impl Default for AllowedNetworks {
    /// What a Network Load Balancer accepts
    /// ([target groups](https://docs.aws.amazon.com/elasticloadbalancing/latest/network/load-balancer-target-groups.html#target-type)),
    /// and for IPv6 the unicast ranges that a VPC can hold: global and unique local addresses.
    fn default() -> Self {
        let networks = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "2000::/3", "fc00::/7"];
        Self(networks.into_iter().filter_map(network).collect())
    }
}

impl FromStr for AllowedNetworks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = |item: &str| network(item).ok_or_else(|| format!("`{item}` is not a network"));
        text.split(',').map(|item| read(item.trim())).collect::<Result<_, _>>().map(Self)
    }
}

/// Read by the standard library's parser, which refuses `010.0.0.0`: that is 10.0.0.0 to some
/// (ipnet's own parser among them) and 8.0.0.0 to others.
fn network(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let plain = length.bytes().all(|byte| byte.is_ascii_digit());
    IpNet::new(address.parse().ok()?, length.parse().ok().filter(|_| plain)?).ok()
}

/// Whether `address` is routed on the public internet, as those are that the name of a publicly accessible database
/// resolves to outside its VPC.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_reserved = first == 0 || first >= 240 || (first == 100 && (64..128).contains(&second));
            !v4.is_private() && !is_reserved && never_a_target(address).is_none()
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
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    Some(match address {
        _ if address.is_loopback() => "loopback",
        _ if is_link_local => "link-local",
        _ if address.is_multicast() => "multicast",
        _ if address.is_unspecified() => "unspecified",
        IpAddr::V4(v4) if v4.is_broadcast() => "broadcast",
        _ => return None,
    })
}
