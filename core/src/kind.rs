//! The kinds of hostnames, and what "gone" means for each.

use serde::Serialize;

/// What a hostname belongs to, as far as its name tells. Names answer differently: some with all
/// their addresses, some with a sample of them. docs/removal.md lists what answers how, with sources.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostnameKind {
    /// The reader or a custom endpoint of an Aurora, Multi-AZ DB, DocumentDB or Neptune cluster: an answer holds one
    /// of its instances
    /// ([endpoints](https://docs.aws.amazon.com/AmazonRDS/latest/AuroraUserGuide/Aurora.Overview.Endpoints.html)).
    /// And what answers alike: the shard groups of Aurora Limitless, Aurora DSQL, the reader and configuration endpoints
    /// of ElastiCache and MemoryDB, and OpenSearch domains.
    AuroraReader,
    /// An RDS, DocumentDB or Neptune instance, or the writer of a cluster: one address, which a failover moves. It shows
    /// as "other", whose defaults it has; but whatever it answers, it is never taken for a sample.
    #[serde(rename = "other")]
    Instance,
    /// An Elastic Load Balancing load balancer: an answer holds at most eight of its addresses.
    LoadBalancer,
    /// An RDS Proxy, which gets more addresses as it scales.
    RdsProxy,
    /// Anything else: Redshift, MSK brokers, names of one's own.
    #[default]
    Other,
}

impl HostnameKind {
    /// The kind of a name: the first that any of `names` has, the hostname and then the names on its CNAME chain. A reader
    /// endpoint leads to an instance's name, and so may the cluster endpoint of a shard group to that of the group: an
    /// instance is only what leads to nothing else.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found = Self::Other;
        for name in names {
            match Self::of_name(name) {
                Self::Other => {}
                Self::Instance => found = Self::Instance,
                kind => return kind,
            }
        }
        found
    }

    fn of_name(name: &str) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        if let Some(name) = name.strip_suffix(".on.aws") {
            let service = name.rsplit('.').nth(1);
            return if matches!(service, Some("aos" | "dsql")) { Self::AuroraReader } else { Self::Other };
        }
        let Some(name) = name.strip_suffix(".cn").unwrap_or(&name).strip_suffix(".amazonaws.com") else {
            return Self::Other;
        };
        // The Region stands before or behind the service: ALB and NLB differ, and so do RDS in China
        // and elsewhere.
        let labels: Vec<_> = name.split('.').collect();
        let is_of = |service| labels.iter().rev().take(2).any(|label| *label == service);
        let holds = |prefix| labels.iter().skip(1).any(|label| label.starts_with(prefix));
        let is_cluster = holds("cluster-ro-") || holds("cluster-custom-");
        if is_of("rds") && holds("proxy-") {
            Self::RdsProxy
        } else if is_of("rds") || is_of("docdb") || is_of("neptune") {
            if is_cluster || holds("shardgrp-") { Self::AuroraReader } else { Self::Instance }
        } else if is_of("cache") {
            let is_reader = labels.iter().any(|label| matches!(*label, "cfg" | "clustercfg" | "replica"))
                || labels.first().is_some_and(|label| label.ends_with("-ro"));
            if is_reader { Self::AuroraReader } else { Self::Other }
        } else if is_of("es") || (is_of("memorydb") && labels.contains(&"clustercfg")) {
            Self::AuroraReader
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
