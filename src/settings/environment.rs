//! The environment, read once at the start.

use std::net::{IpAddr, SocketAddr};
use std::{fmt::Display, num::NonZeroU32, ops::RangeInclusive, str::FromStr, time::Duration};

use super::from_json;
use crate::binding::{Binding, Group, accepted, integer_of};
use crate::{failure::one_line, hostname::AllowedHostnames, network::AllowedNetworks};

/// A JSON array of bindings.
pub const BINDINGS: &str = "BINDINGS";
/// Whether target groups are bound by their tags, too.
pub const DISCOVERY: &str = "DISCOVERY";

/// Everything that the environment decides.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "docs/reference.md has the variables")]
pub struct Config {
    pub groups: Vec<Group>,
    /// `None`: the system's.
    pub dns_servers: Option<Vec<SocketAddr>>,
    pub allowed_networks: AllowedNetworks,
    pub discovers: bool,
    pub allowed_hostnames: AllowedHostnames,
    pub metrics: MetricsDestination,
    pub metrics_namespace: String,
    /// `None`: DNS is asked once in an invocation.
    pub poll_interval: Option<Duration>,
    /// `None`: no limit of our own.
    pub elb_requests_per_second: Option<NonZeroU32>,
    /// By which the function owns targets of `shared` groups; empty where nobody set it.
    pub function_name: String,
    /// This and the next are the AWS SDK's own, read here because its reader panics.
    pub max_attempts: NonZeroU32,
    pub adaptive_retries: bool,
}

/// Where metrics go.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MetricsDestination {
    /// PutMetricData.
    #[default]
    CloudWatch,
    /// Embedded metric format on stdout.
    Emf,
    /// Nowhere.
    Off,
}

impl Config {
    /// Reads the environment through `variable`. One that is set to the empty string counts as absent: an infrastructure
    /// template can often not leave a variable out.
    /// An error names every variable that holds a wrong value, with the value and what is accepted.
    pub fn parse(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut reader = Reader { variable, problems: Vec::new() };
        let hostnames = "a comma-separated list of hostnames and of suffixes such as *.example.com";
        let allowed = reader.read("ALLOWED_HOSTNAMES", hostnames, str::parse).unwrap_or_default();
        let servers = "a comma-separated list of `IP`, `IP:port` or `[v6]:port`";
        let networks = "a comma-separated list of networks such as 10.0.0.0/8";
        let destinations = [
            ("cloudwatch", MetricsDestination::CloudWatch),
            ("emf", MetricsDestination::Emf),
            ("off", MetricsDestination::Off),
        ];
        let namespace = reader.read("METRICS_NAMESPACE", NAMESPACES, namespace);
        let rate = reader.integer("ELB_REQUESTS_PER_SECOND", 0..=1000).unwrap_or(ELB_REQUESTS_PER_SECOND);
        let interval = reader.integer("POLL_INTERVAL_SECONDS", 0..=60).filter(|seconds| *seconds > 0);
        let function = reader.read("AWS_LAMBDA_FUNCTION_NAME", "a name", |text| Ok(text.to_owned()));
        let config = Self {
            groups: reader
                .read(BINDINGS, "a JSON array of bindings", |text| bindings(text, &allowed))
                .unwrap_or_default(),
            dns_servers: reader.read("DNS_SERVERS", servers, |text| text.split(',').map(dns_server).collect()),
            allowed_networks: reader.read("ALLOWED_CIDRS", networks, str::parse).unwrap_or_default(),
            discovers: reader.one_of(DISCOVERY, [("off", false), ("tags", true)]),
            metrics: reader.one_of("METRICS", destinations),
            metrics_namespace: namespace.unwrap_or_else(|| "NlbHostnameTargets".to_owned()),
            poll_interval: interval.map(Duration::from_secs),
            elb_requests_per_second: NonZeroU32::new(rate),
            function_name: function.unwrap_or_default(),
            max_attempts: reader.integer("AWS_MAX_ATTEMPTS", NonZeroU32::MIN..=NonZeroU32::MAX).unwrap_or(MAX_ATTEMPTS),
            adaptive_retries: reader.one_of("AWS_RETRY_MODE", [("standard", false), ("adaptive", true)]),
            allowed_hostnames: allowed,
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigError(reader.problems)) }
    }
}

/// Every variable that holds a wrong value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("wrong configuration: {}", one_line(&self.0.join("; ")))]
pub struct ConfigError(Vec<String>);

struct Reader<F> {
    variable: F,
    problems: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    /// Reads a variable. An error of `parse` says more than `accepted` does, or nothing.
    fn read<T>(&mut self, name: &str, accepted: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = (self.variable)(name)?;
        let text = value.trim();
        if text.is_empty() {
            return None;
        }
        let problem = match parse(text) {
            Ok(parsed) => return Some(parsed),
            Err(problem) if problem.is_empty() => problem,
            Err(problem) => format!(": {problem}"),
        };
        let shown: String = text.chars().take(LONGEST_SHOWN).collect();
        let cut = if shown.len() < text.len() { "…" } else { "" };
        self.problems.push(format!("{name} is `{shown}{cut}`{problem}; accepted is {accepted}"));
        None
    }

    fn integer<N: Display + FromStr + PartialOrd>(&mut self, name: &str, bounds: RangeInclusive<N>) -> Option<N> {
        self.read(name, &accepted(&bounds), |text| integer_of(text, &bounds).ok_or_else(String::new))
    }

    /// The value that is stated by one of these words.
    fn one_of<T: Copy + Default, const COUNT: usize>(&mut self, name: &str, words: [(&str, T); COUNT]) -> T {
        let accepted = words.map(|(word, _)| format!("`{word}`")).join(" or ");
        let find = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        self.read(name, &accepted, |text| find(text).ok_or_else(String::new)).unwrap_or_default()
    }
}

fn bindings(text: &str, allowed: &AllowedHostnames) -> Result<Vec<Group>, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let bindings: Vec<Binding> = from_json(BINDINGS, &mut deserializer).map_err(|error| error.to_string())?;
    deserializer.end().map_err(|error| error.to_string())?;
    let groups = Group::from_bindings(BINDINGS, &bindings).map_err(|error| error.to_string())?;
    Group::check_hostnames(BINDINGS, &groups, allowed).map_err(|error| error.to_string())?;
    Ok(groups)
}

fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let address = IpAddr::from_str(text).map(|address| SocketAddr::new(address, DNS_PORT)).or_else(|_| text.parse());
    let usable = address.ok().filter(|address| address.port() != 0 && !address.ip().is_unspecified());
    usable.ok_or_else(|| format!("`{text}` is not a name server"))
}

fn namespace(text: &str) -> Result<String, String> {
    let accepted = text.len() <= 255
        && !text.starts_with(':')
        && !text.starts_with("AWS/")
        && text.chars().all(|c| c.is_ascii_alphanumeric() || " .-_/#:".contains(c));
    if accepted { Ok(text.to_owned()) } else { Err(String::new()) }
}

const NAMESPACES: &str = "1 to 255 letters, digits, blanks and `. - _ / # :`, not beginning with `AWS/` or `:`";

/// The rate at which the account-wide read quota of ELBv2 refills
/// ([throttling](https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-throttling.html)).
const ELB_REQUESTS_PER_SECOND: u32 = 10;

/// The AWS SDK's own default.
const MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

const DNS_PORT: u16 = 53;

/// Characters of a wrong value that a message repeats: `BINDINGS` may hold 4 KB.
const LONGEST_SHOWN: usize = 80;
