//! The environment, read once at the start.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    str::FromStr,
    time::Duration,
};

use crate::{
    binding::{Binding, Group, from_json},
    hostname::AllowedHostnames,
    network::AllowedNetworks,
    text::one_line,
};

/// A JSON array of bindings.
pub const BINDINGS: &str = "BINDINGS";
/// The name servers to ask, comma-separated, in their order.
pub const DNS_SERVERS: &str = "DNS_SERVERS";
/// The networks that an answer's addresses may lie in, comma-separated.
pub const ALLOWED_CIDRS: &str = "ALLOWED_CIDRS";
/// Whether target groups are bound by their tags, too.
pub const DISCOVERY: &str = "DISCOVERY";
/// The hostnames that may be bound, comma-separated.
pub const ALLOWED_HOSTNAMES: &str = "ALLOWED_HOSTNAMES";
/// Where metrics go.
pub const METRICS: &str = "METRICS";
/// The CloudWatch namespace of the metrics.
pub const METRICS_NAMESPACE: &str = "METRICS_NAMESPACE";
/// Seconds between two looks at DNS within an invocation.
pub const POLL_INTERVAL_SECONDS: &str = "POLL_INTERVAL_SECONDS";
/// How fast one execution environment may call ELBv2.
pub const ELB_REQUESTS_PER_SECOND: &str = "ELB_REQUESTS_PER_SECOND";
/// Lambda's own: the name of the function, by which it owns targets of `shared` groups.
pub const AWS_LAMBDA_FUNCTION_NAME: &str = "AWS_LAMBDA_FUNCTION_NAME";
/// The AWS SDK's own: how often it tries a request. Read here because its reader panics.
pub const AWS_MAX_ATTEMPTS: &str = "AWS_MAX_ATTEMPTS";
/// The AWS SDK's own: how it spaces its attempts. Read here because its reader panics.
pub const AWS_RETRY_MODE: &str = "AWS_RETRY_MODE";

/// Everything that the environment decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The target groups of `BINDINGS`; empty where the variable is absent.
    pub groups: Vec<Group>,
    /// The name servers of `DNS_SERVERS`; `None`: the system's.
    pub dns_servers: Option<Vec<SocketAddr>>,
    /// The networks of `ALLOWED_CIDRS`.
    pub allowed_networks: AllowedNetworks,
    /// Whether target groups are bound by their tags, too.
    pub discovers: bool,
    /// The hostnames of `ALLOWED_HOSTNAMES`.
    pub allowed_hostnames: AllowedHostnames,
    /// Where metrics go.
    pub metrics: MetricsDestination,
    /// Their namespace.
    pub metrics_namespace: String,
    /// How often DNS is asked within an invocation; `None`: once.
    pub poll_interval: Option<Duration>,
    /// ELBv2 requests a second; `None`: no limit of our own.
    pub elb_requests_per_second: Option<NonZeroU32>,
    /// The name of the function; empty where nobody set it.
    pub function_name: String,
    /// How often the AWS SDK tries a request.
    pub max_attempts: NonZeroU32,
    /// Whether the AWS SDK adapts its rate to throttling (`adaptive`) or not (`standard`).
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
        let allowed_hostnames = reader
            .read(
                ALLOWED_HOSTNAMES,
                "a comma-separated list of hostnames and of suffixes such as *.example.com",
                |text| text.parse().map_err(to_string),
            )
            .unwrap_or_default();
        let config = Self {
            groups: reader
                .read(BINDINGS, "a JSON array of bindings", |text| bindings(text, &allowed_hostnames))
                .unwrap_or_default(),
            discovers: reader
                .read(DISCOVERY, "`off` or `tags`", |text| match text {
                    "off" => Ok(false),
                    "tags" => Ok(true),
                    _ => Err(String::new()),
                })
                .unwrap_or_default(),
            allowed_hostnames,
            dns_servers: reader.read(DNS_SERVERS, "a comma-separated list of `IP`, `IP:port` or `[v6]:port`", |text| {
                text.split(',').map(|item| dns_server(item.trim())).collect()
            }),
            allowed_networks: reader
                .read(ALLOWED_CIDRS, "a comma-separated list of networks such as 10.0.0.0/8", |text| {
                    text.parse().map_err(to_string)
                })
                .unwrap_or_default(),
            metrics: reader
                .read(METRICS, "`cloudwatch`, `emf` or `off`", |text| match text {
                    "cloudwatch" => Ok(MetricsDestination::CloudWatch),
                    "emf" => Ok(MetricsDestination::Emf),
                    "off" => Ok(MetricsDestination::Off),
                    _ => Err(String::new()),
                })
                .unwrap_or_default(),
            metrics_namespace: reader
                .read(
                    METRICS_NAMESPACE,
                    "1 to 255 letters, digits, blanks and `. - _ / # :`, not beginning with `AWS/` or `:`",
                    namespace,
                )
                .unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned()),
            poll_interval: reader
                .read(POLL_INTERVAL_SECONDS, "an integer from 0 to 60", |text| {
                    number::<u64>(text).filter(|seconds| *seconds <= 60).ok_or_else(String::new)
                })
                .filter(|seconds| *seconds > 0)
                .map(Duration::from_secs),
            elb_requests_per_second: reader
                .read(ELB_REQUESTS_PER_SECOND, "an integer from 0 (no limit) to 1000", |text| {
                    number::<u32>(text).filter(|rate| *rate <= 1000).ok_or_else(String::new)
                })
                .map_or(NonZeroU32::new(DEFAULT_ELB_REQUESTS_PER_SECOND), NonZeroU32::new),
            function_name: reader
                .read(AWS_LAMBDA_FUNCTION_NAME, "the name of a function", |text| Ok(text.to_owned()))
                .unwrap_or_default(),
            max_attempts: reader
                .read(AWS_MAX_ATTEMPTS, "an integer of 1 or more", |text| number(text).ok_or_else(String::new))
                .unwrap_or(DEFAULT_MAX_ATTEMPTS),
            adaptive_retries: reader
                .read(AWS_RETRY_MODE, "`standard` or `adaptive`", |text| match text {
                    "standard" => Ok(false),
                    "adaptive" => Ok(true),
                    _ => Err(String::new()),
                })
                .unwrap_or_default(),
        };
        if reader.problems.is_empty() { Ok(config) } else { Err(ConfigError(reader.problems)) }
    }
}

/// Every variable that holds a wrong value.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub struct ConfigError(Vec<String>);

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "wrong configuration: {}", one_line(&self.0.join("; ")))
    }
}

struct Reader<F> {
    variable: F,
    problems: Vec<String>,
}

impl<F: Fn(&str) -> Option<String>> Reader<F> {
    fn read<T>(&mut self, name: &str, accepted: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = (self.variable)(name)?;
        let text = value.trim();
        if text.is_empty() {
            return None;
        }
        match parse(text) {
            Ok(parsed) => Some(parsed),
            Err(problem) => {
                let shown: String = text.chars().take(LONGEST_SHOWN).collect();
                let cut = if shown.len() < text.len() { "…" } else { "" };
                let separator = if problem.is_empty() { "" } else { ": " };
                self.problems.push(format!("{name} is `{shown}{cut}`{separator}{problem}; accepted is {accepted}"));
                None
            }
        }
    }
}

fn bindings(text: &str, allowed: &AllowedHostnames) -> Result<Vec<Group>, String> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let bindings: Vec<Binding> = from_json(BINDINGS, &mut deserializer).map_err(to_string)?;
    deserializer.end().map_err(to_string)?;
    let groups = Group::from_bindings(BINDINGS, &bindings).map_err(to_string)?;
    Group::check_hostnames(BINDINGS, &groups, allowed).map_err(to_string)?;
    Ok(groups)
}

fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let address = match IpAddr::from_str(text) {
        Ok(address) => Some(SocketAddr::new(address, DNS_PORT)),
        Err(_) => SocketAddr::from_str(text).ok(),
    };
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

/// Plain digits only: `+5` and `5.0` are more likely mistakes than meant.
fn number<N: FromStr>(text: &str) -> Option<N> {
    text.chars().all(|c| c.is_ascii_digit()).then(|| text.parse().ok())?
}

fn to_string(error: impl ToString) -> String {
    error.to_string()
}

const DEFAULT_NAMESPACE: &str = "NlbHostnameTargets";

/// A second: the rate at which the account-wide read quota of ELBv2 refills
/// ([throttling](https://docs.aws.amazon.com/elasticloadbalancing/latest/userguide/elb-api-throttling.html)).
const DEFAULT_ELB_REQUESTS_PER_SECOND: u32 = 10;

/// The AWS SDK's own default.
const DEFAULT_MAX_ATTEMPTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(2);

const DNS_PORT: u16 = 53;

/// Characters of a wrong value that a message repeats: `BINDINGS` may hold 4 KB.
const LONGEST_SHOWN: usize = 80;
