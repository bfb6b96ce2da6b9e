//! What ELBv2 says of a target group and of the load balancers in front of it. A field without a comment is that of
//! [its API](https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_Types.html), and empty where AWS
//! says nothing.
#![allow(missing_docs, reason = "the API has the words")]

use std::collections::{BTreeMap, BTreeSet};

use crate::failure::ElbError;

/// The set-up of a target group, as far as it was read.
#[derive(Clone, Debug, Default)]
pub struct SetUp {
    pub settings: Option<Settings>,
    /// Those of the target group.
    pub attributes: Option<Attributes>,
    pub load_balancers: Vec<LoadBalancer>,
    /// What could not be read, each with the ARN that was asked for.
    pub failures: Vec<(String, ElbError)>,
    /// Whether the time was over before all was read.
    pub is_cut_off: bool,
}

impl SetUp {
    /// What was read; what stood in the way is noted.
    pub fn take<T>(&mut self, subject: &str, read: Result<T, ElbError>) -> Option<T> {
        read.map_err(|error| self.failures.push((subject.to_owned(), error))).ok()
    }
}

/// What DescribeTargetGroups says of a target group.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    pub target_type: String,
    pub protocol: String,
    pub port: Option<i32>,
    pub health_check_protocol: String,
    pub health_check_port: String,
    pub health_check_interval_seconds: i32,
    pub unhealthy_threshold_count: i32,
    pub load_balancer_arns: Vec<String>,
}

/// The attributes of a target group or of a load balancer.
pub type Attributes = BTreeMap<String, String>;

/// A load balancer that has the target group.
#[derive(Clone, Debug, Default)]
pub struct LoadBalancer {
    pub arn: String,
    /// Its type.
    pub kind: String,
    /// With AWS's reason.
    pub state: (String, String),
    pub is_internet_facing: bool,
    pub security_groups: Vec<String>,
    /// Whether their inbound rules apply to PrivateLink traffic, too.
    pub enforces_inbound_rules: bool,
    pub zones: BTreeSet<String>,
    pub subnets: Vec<String>,
    pub attributes: Option<Attributes>,
    pub listeners: Option<Vec<Listener>>,
}

impl LoadBalancer {
    /// Whether it is a network load balancer.
    pub fn is_network(&self) -> bool {
        self.kind == "network"
    }
}

#[derive(Clone, Debug, Default)]
pub struct Listener {
    pub arn: String,
    pub protocol: String,
    pub port: i32,
    /// The ARNs of the target groups that it forwards to, each with its weight: one of weight 0 gets nothing.
    pub forwards: BTreeMap<String, i32>,
}
