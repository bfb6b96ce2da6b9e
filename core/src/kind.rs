//! The kinds of hostnames, and what "gone" means for each.

use serde::Serialize;

/// What a hostname belongs to, as far as names tell: some answer with all their addresses, some with a sample of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostnameKind {
    /// The reader or a custom endpoint of an Aurora, Multi-AZ DB, DocumentDB or Neptune cluster: an answer holds one
    /// of its instances
    /// ([endpoints](https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/Aurora.Overview.Endpoints.html)).
    AuroraReader,
    /// A hostname that is itself the endpoint of an instance or of a cluster's writer: one address, which a failover
    /// moves. It shows as "other", whose defaults it has; but whatever it answers, it is never taken for a sample.
    #[serde(rename = "other")]
    Instance,
    /// An Elastic Load Balancing load balancer: an answer holds at most eight of its addresses.
    LoadBalancer,
    /// An RDS Proxy, which gets more addresses as it scales.
    RdsProxy,
    /// Anything else, names of one's own included.
    #[default]
    Other,
}

impl HostnameKind {
    /// The kind of a name. `names` are the hostname and then the names on its CNAME chain: the first that gives samples
    /// decides. A reader endpoint leads to an instance's name, so only the hostname itself makes it an instance.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut kinds = names.into_iter().map(Self::of_name).peekable();
        let own = kinds.peek().copied().unwrap_or_default();
        kinds.find(|kind| !matches!(kind, Self::Instance | Self::Other)).unwrap_or(own)
    }

    fn of_name(name: &str) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let Some(name) = DNS_SUFFIXES.iter().find_map(|suffix| name.strip_suffix(suffix)) else {
            return Self::Other;
        };
        // The Region stands before or behind the service: ALB and NLB differ, and so do RDS in China and elsewhere.
        let labels: Vec<_> = name.split('.').skip(1).collect();
        let is_of = |service| labels.iter().rev().take(2).any(|label| *label == service);
        let holds = |prefix| labels.iter().any(|label| label.starts_with(prefix));
        if is_of("elb") {
            Self::LoadBalancer
        } else if is_of("rds") && holds("proxy-") {
            Self::RdsProxy
        } else if !(is_of("rds") || is_of("docdb") || is_of("neptune")) {
            Self::Other
        } else if holds("cluster-ro-") || holds("cluster-custom-") {
            Self::AuroraReader
        } else if holds("cluster-") || holds("global-") || labels.first().is_some_and(|hash| !hash.contains('-')) {
            Self::Instance
        } else {
            Self::Other
        }
    }

    /// How long, in seconds, an address must be missing before its target goes, where no binding says so.
    pub fn deregister_after_seconds(self) -> u32 {
        match self {
            Self::AuroraReader | Self::LoadBalancer => 300,
            Self::RdsProxy => 120,
            Self::Instance | Self::Other => 0,
        }
    }

    /// How many answers a run collects, where no binding says so.
    pub fn lookups(self) -> u32 {
        match self {
            Self::AuroraReader | Self::LoadBalancer => 5,
            Self::RdsProxy => 3,
            Self::Instance | Self::Other => 1,
        }
    }
}

/// The DNS suffixes of the partitions aws and aws-us-gov, aws-cn, aws-eusc and aws-iso*, as botocore's `partitions.json`
/// has them.
const DNS_SUFFIXES: [&str; 7] = [
    ".amazonaws.com",
    ".amazonaws.com.cn",
    ".amazonaws.eu",
    ".c2s.ic.gov",
    ".sc2s.sgov.gov",
    ".cloud.adc-e.uk",
    ".csp.hci.ic.gov",
];
