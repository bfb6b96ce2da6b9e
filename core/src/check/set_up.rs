//! What ELBv2 says of a target group and of the load balancers in front of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::{failure::ElbError, target::Target};

/// The set-up of a target group, as far as it was read.
#[derive(Clone, Debug, Default)]
pub struct SetUp {
    /// What DescribeTargetGroups says.
    pub settings: Option<Settings>,
    /// Its attributes.
    pub attributes: Option<Attributes>,
    /// Its targets; read only where not all are healthy.
    pub targets: Option<Vec<Health>>,
    /// The load balancers that have it.
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
    /// `ip`, `instance`, `lambda` or `alb`.
    pub target_type: String,
    /// `TCP`, `TLS`, `UDP` and so on; empty where it has none.
    pub protocol: String,
    /// The port of the group; that of a Lambda function has none.
    pub port: Option<i32>,
    /// `TCP`, `HTTP` or `HTTPS`; empty where there is none.
    pub health_check_protocol: String,
    /// `traffic-port`, or a port; empty where there is none.
    pub health_check_port: String,
    /// Seconds between two health checks of a target.
    pub health_check_interval: i32,
    /// How many that fail in a row make a target unhealthy.
    pub unhealthy_threshold: i32,
    /// The ARNs of the load balancers that have it.
    pub load_balancers: Vec<String>,
}

/// The attributes of a target group
/// ([API](https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetGroupAttribute.html)) or of a
/// load balancer
/// ([API](https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_LoadBalancerAttribute.html)).
pub type Attributes = BTreeMap<String, String>;

/// A load balancer that has the target group.
#[derive(Clone, Debug, Default)]
pub struct LoadBalancer {
    /// Its ARN.
    pub arn: String,
    /// `network`, `application` or `gateway`.
    pub kind: String,
    /// `active`, `provisioning` and so on, and AWS's reason; empty where AWS says nothing.
    pub state: (String, String),
    /// Whether it is `internet-facing`, and not `internal`.
    pub is_internet_facing: bool,
    /// Its security groups.
    pub security_groups: Vec<String>,
    /// Whether their inbound rules apply to PrivateLink traffic, too.
    pub enforces_inbound_rules: bool,
    /// The zones that it is enabled in.
    pub zones: BTreeSet<String>,
    /// Its subnets.
    pub subnets: Vec<String>,
    /// Its attributes, where they were read.
    pub attributes: Option<Attributes>,
    /// Its listeners, where they were read.
    pub listeners: Option<Vec<Listener>>,
}

impl LoadBalancer {
    /// Whether it is a network load balancer.
    pub fn is_network(&self) -> bool {
        self.kind == "network"
    }
}

/// A listener.
#[derive(Clone, Debug, Default)]
pub struct Listener {
    /// Its ARN.
    pub arn: String,
    /// `TCP`, `TLS`, `UDP` and so on.
    pub protocol: String,
    /// Its port.
    pub port: i32,
    /// The ARNs of the target groups that it forwards to, each with its weight: one of weight 0 gets nothing
    /// ([TargetGroupTuple](https://docs.aws.amazon.com/elasticloadbalancing/latest/APIReference/API_TargetGroupTuple.html)).
    pub forwards: BTreeMap<String, i32>,
}

/// What DescribeTargetHealth says of a target.
#[derive(Clone, Debug)]
pub struct Health {
    /// The target.
    pub target: Target,
    /// Its zone, or `all`.
    pub zone: Option<String>,
    /// The port that health checks go to.
    pub check_port: u16,
    /// `healthy`, `initial`, `unhealthy` and so on.
    pub state: String,
    /// Why, by a code; a healthy target has none.
    pub reason: String,
    /// Why, in AWS's words.
    pub description: String,
}
