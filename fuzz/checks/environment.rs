use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use nlb_hostname_targets::{
    network::AllowedNetworks,
    settings::{
        environment::{BINDINGS, Config, ConfigError},
        event::Request,
    },
};
use serde_json::{Value, json};

use super::{assert_one_line, bindings::assert_kept};

/// The input is an environment as Linux shows it: `NAME=value`, with zero bytes between them.
pub fn environment(input: &[u8]) {
    let variables: BTreeMap<_, _> = input
        .split(|byte| *byte == 0)
        .filter_map(|variable| String::from_utf8_lossy(variable).split_once('=').map(own))
        .collect();
    let whole = parse(&variables);
    // Which hostnames BINDINGS may hold, another variable says, where that is right itself.
    let list = variables.get_key_value("ALLOWED_HOSTNAMES").filter(|list| parse(&[*list].map(own).into()).is_ok());
    let alone: BTreeMap<_, _> = variables
        .iter()
        .map(|variable| (variable.0, parse(&list.into_iter().chain([variable]).map(own).collect())))
        .collect();
    match &whole {
        Ok(config) => {
            assert!(alone.values().all(Result::is_ok), "a wrong value was passed over");
            assert_meant(&variables, config);
        }
        Err(error) => assert_names_all(&error.to_string(), &alone),
    }
    let filled = variables.iter().filter(|(_, value)| !value.trim().is_empty()).map(own).collect();
    assert_eq!(whole, parse(&filled), "an empty variable is not an absent one");
}

/// The error consists of those that each wrong variable gives alone, which name it.
fn assert_names_all(message: &str, alone: &BTreeMap<&String, Result<Config, ConfigError>>) {
    assert_one_line(message);
    let mut rest = message.strip_prefix(BEGIN).expect("all begin so").len();
    for (variable, result) in alone {
        if let Err(error) = result {
            let own = error.to_string();
            let own = own.strip_prefix(BEGIN).expect("all begin so");
            assert!(own.starts_with(&format!("{variable} is `")), "{own} does not name {variable}");
            assert!(message.contains(own), "{message}\nlacks {own}");
            rest -= own.len();
        }
    }
    let separators = alone.values().filter(|result| result.is_err()).count().checked_sub(1);
    assert_eq!(Some(rest), separators.map(|count| count * "; ".len()), "{message} names what is right");
}

fn assert_meant(variables: &BTreeMap<String, String>, config: &Config) {
    let value = |name: &str| variables.get(name).map(|value| value.trim()).filter(|value| !value.is_empty());

    let bindings = value(BINDINGS).map(|value| serde_json::from_str::<Value>(value).expect("only JSON is accepted"));
    let bindings = bindings.unwrap_or_else(|| json!([]));
    assert_kept(&bindings, &config.groups);
    if !config.groups.is_empty() {
        let request = Request::from_event(json!({"bindings": bindings})).expect("an event takes what BINDINGS takes");
        assert_eq!(request.groups.as_ref(), Some(&config.groups));
    }

    let servers = config.dns_servers.as_deref();
    assert_eq!(servers.map(<[_]>::len), value("DNS_SERVERS").map(|value| value.split(',').count()));
    for server in servers.unwrap_or_default() {
        assert!(server.port() != 0 && !server.ip().is_unspecified());
        let again = parse(&BTreeMap::from([("DNS_SERVERS".to_owned(), server.to_string())]));
        assert_eq!(again.expect("a server that was accepted").dns_servers, Some(vec![*server]));
    }

    let networks = value("ALLOWED_CIDRS").unwrap_or(DEFAULT_NETWORKS);
    assert_keeps_out(&config.allowed_networks, networks);

    assert!((1..=255).contains(&config.metrics_namespace.len()) && !config.metrics_namespace.starts_with("AWS/"));
    assert!(config.elb_requests_per_second.is_none_or(|rate| rate.get() <= 1000));
}

/// An address may be registered if it lies in a listed network and is none of those that are never
/// registered; computed here bit by bit.
fn assert_keeps_out(allowed: &AllowedNetworks, networks: &str) {
    let networks: Vec<_> = networks
        .split(',')
        .map(|network| {
            let (address, length) = network.trim().split_once('/').expect("only CIDR notation is accepted");
            let address: IpAddr = address.parse().expect("only an address is accepted");
            (address, length.parse::<u32>().expect("only a number is accepted"))
        })
        .collect();
    // Each network's own address, and the one whose last bit of the prefix is another.
    let beside = networks.iter().filter(|(_, length)| *length > 0).map(|(address, length)| match address {
        IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() ^ (1 << (32 - length)))),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() ^ (1 << (128 - length)))),
    });
    let inside = networks.iter().map(|(address, _)| *address);
    let special = SPECIAL.iter().map(|address| address.parse().expect("an address"));
    for address in special.chain(inside).chain(beside) {
        let listed = networks.iter().any(|network| contains(*network, address));
        let accepted = allowed.refusal(address).is_none();
        assert_eq!(accepted, listed && !is_special(address), "{address} in {networks:?}");
    }
}

fn contains((network, length): (IpAddr, u32), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            length == 0 || (network.to_bits() ^ address.to_bits()) >> (32 - length) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            length == 0 || (network.to_bits() ^ address.to_bits()) >> (128 - length) == 0
        }
        _ => false,
    }
}

/// Unspecified, loopback, link-local, multicast or broadcast, also in the form `::ffff:a.b.c.d`; or by NAT64.
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            first == 127 || (first, second) == (169, 254) || first >> 4 == 0xe || [0, u32::MAX].contains(&v4.to_bits())
        }
        IpAddr::V6(v6) => {
            let bits = v6.to_bits();
            let mapped = bits >> 32 == 0xffff;
            bits <= 1
                || bits >> 118 == 0xfe80 >> 6
                || bits >> 120 == 0xff
                || bits >> 32 == 0x64_ff9b << 64
                || mapped && is_special(IpAddr::V4(Ipv4Addr::from_bits(bits as u32)))
        }
    }
}

fn parse(variables: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    Config::parse(|name| variables.get(name).cloned())
}

fn own((name, value): (impl ToString, impl ToString)) -> (String, String) {
    (name.to_string(), value.to_string())
}

const BEGIN: &str = "wrong configuration: ";

/// As docs/reference.md has them.
const DEFAULT_NETWORKS: &str = "10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10, 2000::/3, fc00::/7";

/// Addresses that are never registered, and their neighbours that may be.
#[rustfmt::skip]
const SPECIAL: [&str; 24] = [
    "0.0.0.0", "0.0.0.1", "126.255.255.255", "127.0.0.1", "127.255.255.255", "128.0.0.0", "169.254.169.254",
    "169.255.0.0", "223.255.255.255", "224.0.0.1", "239.255.255.255", "240.0.0.0", "255.255.255.255",
    "::", "::1", "::2", "::ffff:0.0.0.0", "::ffff:10.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.0.1",
    "fe80::1", "febf::1", "fec0::1", "ff02::1",
];
