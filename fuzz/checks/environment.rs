use std::{collections::BTreeMap, net::IpAddr};

use nlb_hostname_targets::settings::{
    environment::{BINDINGS, Config, ConfigError},
    event::Request,
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

    // Whatever the list says.
    for address in NEVER_TARGETS.map(|address| address.parse().expect("an address")) {
        assert!(config.allowed_networks.refusal(address).is_some(), "{address} may be registered");
    }
    let networks = value("ALLOWED_CIDRS").unwrap_or("10.0.0.0/8");
    for network in networks.split(',') {
        let address: IpAddr = network.trim().split_once('/').expect("a length").0.parse().expect("an address");
        let refusal = config.allowed_networks.refusal(address);
        assert!(!refusal.is_some_and(|refusal| refusal.contains("outside")), "{address} of {networks} is outside");
    }

    assert!((1..=255).contains(&config.metrics_namespace.len()) && !config.metrics_namespace.starts_with("AWS/"));
    assert!(config.elb_requests_per_second.is_none_or(|rate| rate.get() <= 1000));
}

fn parse(variables: &BTreeMap<String, String>) -> Result<Config, ConfigError> {
    Config::parse(|name| variables.get(name).cloned())
}

fn own((name, value): (impl ToString, impl ToString)) -> (String, String) {
    (name.to_string(), value.to_string())
}

const BEGIN: &str = "wrong configuration: ";

/// Loopback, link-local, multicast, unspecified, broadcast, in the form of IPv6 too, and by NAT64.
#[rustfmt::skip]
const NEVER_TARGETS: [&str; 14] = [
    "0.0.0.0", "127.0.0.1", "127.255.255.255", "169.254.169.254", "224.0.0.1", "239.255.255.255", "255.255.255.255",
    "::", "::1", "::ffff:127.0.0.1", "64:ff9b::10.0.0.1", "fe80::1", "febf::1", "ff02::1",
];
