//! The kinds of hostnames, and what "gone" means for each.

use serde::Serialize;

/// What a hostname belongs to, as far as its name tells. Names answer differently: some with all
/// their addresses, some with a sample of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostnameKind {
    /// The reader or a custom endpoint of an Aurora or Multi-AZ DB cluster: an answer holds one
    /// of its instances
    /// ([endpoints](https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/Aurora.Overview.Endpoints.html)).
    AuroraReader,
    /// An RDS Proxy, which gets more addresses as it scales.
    RdsProxy,
    /// An Elastic Load Balancing load balancer: an answer holds at most eight of its addresses.
    LoadBalancer,
    /// Anything else: RDS instances, Aurora writers, names of one's own.
    #[default]
    Other,
}

impl HostnameKind {
    /// The kind that the first of `names` has that is of any: a hostname, then the names on its
    /// CNAME chain.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        names.into_iter().map(Self::of_name).find(|kind| *kind != Self::Other).unwrap_or_default()
    }

    fn of_name(name: &str) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let Some(name) = name.strip_suffix(".cn").unwrap_or(&name).strip_suffix(".amazonaws.com") else {
            return Self::Other;
        };
        // The Region stands before or behind the service: ALB and NLB differ, and so do RDS in China
        // and elsewhere.
        let labels: Vec<_> = name.split('.').collect();
        let is_of = |service| labels.iter().rev().take(2).any(|label| *label == service);
        let holds = |prefix| labels.iter().skip(1).any(|label| label.starts_with(prefix));
        if is_of("rds") && (holds("cluster-ro-") || holds("cluster-custom-")) {
            Self::AuroraReader
        } else if is_of("rds") && holds("proxy-") {
            Self::RdsProxy
        } else if is_of("elb") {
            Self::LoadBalancer
        } else {
            Self::Other
        }
    }

    /// How long, in seconds, an address must be missing before its target goes, where no binding
    /// says so.
    pub fn deregister_after_seconds(self) -> u32 {
        match self {
            Self::AuroraReader | Self::LoadBalancer => 300,
            Self::RdsProxy => 120,
            Self::Other => 0,
        }
    }

    /// How many answers a run collects, where no binding says so.
    pub fn lookups(self) -> u32 {
        match self {
            Self::AuroraReader | Self::LoadBalancer => 5,
            Self::RdsProxy => 3,
            Self::Other => 1,
        }
    }
}
