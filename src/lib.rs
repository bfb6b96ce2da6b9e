//! Keeps the IP target groups of a Network Load Balancer in step with DNS hostnames.
//!
//! A Network Load Balancer takes addresses, a database has a hostname whose addresses change.
//! A run asks DNS for the hostnames and ELBv2 for the targets, compares the two, registers what
//! is missing, deregisters what is stale, and publishes metrics.
//!
//! What is decided is in the crate `nlb-hostname-targets-core`, whose modules are those here that have no file. This crate
//! carries it out, in the order of the flow:
//!
//! | module | what it is |
//! |---|---|
//! | [`function`] | an invocation: an event in, a reply out |
//! | [`settings`] | what the environment and the event ask for |
//! | [`discovery`] | target groups that say by their tags what they follow |
//! | [`fleet`] | all target groups, within the time and the request budget |
//! | [`world`] | what a run of one group reaches of the world outside |
//! | [`dns`] | the DNS edge |
//! | [`aws`] | the AWS edge: ELBv2, the tags of resources, CloudWatch, what a check reads |
//! | `budget` | how fast requests go out at both |

#![warn(clippy::too_many_lines)]

pub mod aws;
pub(crate) mod budget;
pub(crate) mod discovery;
pub mod dns;
pub(crate) mod fleet;
pub mod function;
pub mod settings;
pub(crate) mod world;

pub use nlb_hostname_targets_core::{
    answer, binding, check, clock, failure, finding, hostname, kind, memory, network, plan, report, set_up,
    tag_bindings, tags, target,
};

/// The version, which replies and the log tell.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
