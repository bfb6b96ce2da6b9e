//! The environment, read once at the start.

use std::{
    fmt::{self, Display},
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use super::from_json;
use crate::{
    binding::{Binding, Group, integer_of},
    hostname::AllowedHostnames,
    network::AllowedNetworks,
    text::one_line,
};

/// A JSON array of bindings.
pub const BINDINGS: &str = "BINDINGS";
/// Whether target groups are bound by their tags, too.
pub const DISCOVERY: &str = "DISCOVERY";

/// Everything that the environment decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The target groups of `BINDINGS`; empty where the variable is absent.
    pub groups: Vec<Group>,
    /// `DNS_SERVERS`: the name servers to ask, in their order; `None`: the system's.
    pub dns_servers: Option<Vec<SocketAddr>>,
    /// `ALLOWED_CIDRS`: the networks that an answer's addresses may lie in.
    pub allowed_networks: AllowedNetworks,
    /// `DISCOVERY`: whether target groups are bound by their tags, too.
    pub discovers: bool,
    /// `ALLOWED_HOSTNAMES`: the hostnames that may be bound.
    pub allowed_hostnames: AllowedHostnames,
    /// `METRICS`: where they go.
    pub metrics: MetricsDestination,
    /// `METRICS_NAMESPACE`.
    pub metrics_namespace: String,
    /// `POLL_INTERVAL_SECONDS`: how often DNS is asked within an invocation; `None`: once.
    pub poll_interval: Option<Duration>,
    /// `ELB_REQUESTS_PER_SECOND`; `None`: no limit of our own.
    pub elb_requests_per_second: Option<NonZeroU32>,
    /// Lambda's own `AWS_LAMBDA_FUNCTION_NAME`, by which the function owns targets of `shared` groups; empty where
    /// nobody set it.
    pub function_name: String,
    /// The AWS SDK's own `AWS_MAX_ATTEMPTS`, read here because its reader panics.
    pub max_attempts: NonZeroU32,
    /// The AWS SDK's own `AWS_RETRY_MODE`, for the same reason: whether it is `adaptive`, not `standard`.
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
    /// Reads the environment through `variable`. One that is set to the empty string counts as
    /// absent: an infrastructure template can often not leave a variable out.
    ///
    /// # Errors
    ///
    /// Names every variable that holds a wrong value, with the value and what is accepted.
    pub fn parse(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut reader = Reader { variable, problems: Vec::new() };
        let allowed: AllowedHostnames = reader
            .parsed("ALLOWED_HOSTNAMES", "a comma-separated list of hostnames and of suffixes such as *.example.com")
            .unwrap_or_default();
        let destinations = [
            ("cloudwatch", MetricsDestination::CloudWatch),
            ("emf", MetricsDestination::Emf),
            ("off", MetricsDestination::Off),
        ];
        let config = Self {
            groups: reader
                .read(BINDINGS, "a JSON array of bindings", |text| bindings(text, &allowed))
                .unwrap_or_default(),
            dns_servers: reader.read(
                "DNS_SERVERS",
                "a comma-separated list of `IP`, `IP:port` or `[v6]:port`",
                |text| text.split(',').map(|item| dns_server(item.trim())).collect(),
            ),
            allowed_networks: reader
                .parsed("ALLOWED_CIDRS", "a comma-separated list of networks such as 10.0.0.0/8")
                .unwrap_or_default(),
            discovers: reader.one_of(DISCOVERY, [("off", false), ("tags", true)]),
            metrics: reader.one_of("METRICS", destinations),
            metrics_namespace: reader
                .read("METRICS_NAMESPACE", NAMESPACES, namespace)
                .unwrap_or_else(|| "NlbHostnameTargets".to_owned()),
            poll_interval: reader
                .integer("POLL_INTERVAL_SECONDS", 0..=60)
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            elb_requests_per_second: NonZeroU32::new(
                reader.integer("ELB_REQUESTS_PER_SECOND", 0..=1000).unwrap_or(ELB_REQUESTS_PER_SECOND),
            ),
            function_name: reader
                .read("AWS_LAMBDA_FUNCTION_NAME", "a name", |text| Ok(text.to_owned()))
                .unwrap_or_default(),
            max_attempts: reader.integer("AWS_MAX_ATTEMPTS", NonZeroU32::MIN..=NonZeroU32::MAX).unwrap_or(MAX_ATTEMPTS),
            adaptive_retries: reader.one_of("AWS_RETRY_MODE", [("standard", false), ("adaptive", true)]),
            allowed_hostnames: allowed,
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigError(reader.problems)) }
    }
}

/// Every variable that holds a wrong value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct ConfigError(Vec<String>);

impl Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "wrong configuration: {}", one_line(&self.0.join("; ")))
    }
}

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

    fn parsed<T: FromStr<Err: Display>>(&mut self, name: &str, accepted: &str) -> Option<T> {
        self.read(name, accepted, |text| text.parse().map_err(|error: T::Err| error.to_string()))
    }

    fn integer<N: Display + FromStr + PartialOrd>(&mut self, name: &str, bounds: RangeInclusive<N>) -> Option<N> {
        let accepted = format!("an integer from {} to {}", bounds.start(), bounds.end());
        self.read(name, &accepted, |text| integer_of(text, &bounds).map_err(|_| String::new()))
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
    let groups = Group::from_bindings(BINDINGS, &bindings)
        .and_then(|groups| Group::check_hostnames(BINDINGS, &groups, allowed).map(|()| groups));
    groups.map_err(|error| error.to_string())
}

fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let address = IpAddr::from_str(text).map(|address| SocketAddr::new(address, DNS_PORT));
    let address = address.or_else(|_| SocketAddr::from_str(text)).ok();
    address
        .filter(|address| address.port() != 0 && !address.ip().is_unspecified())
        .ok_or_else(|| format!("`{text}` is not a name server"))
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
