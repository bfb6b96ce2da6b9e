//! Keeps the IP target groups of a Network Load Balancer in step with DNS hostnames.
//!
//! A Network Load Balancer takes addresses, a database has a hostname whose addresses change.
//! A run asks DNS for the hostnames and ELBv2 for the targets, compares the two, registers what
//! is missing, deregisters what is stale, and publishes metrics.
//!
//! In the order of the flow; no two use each other:
//!
//! | module | what it is |
//! |---|---|
//! | [`function`] | an invocation: an event in, a reply out |
//! | [`config`], [`event`], `rds_event` | what the environment and the event ask for |
//! | [`finder`], [`discovery`], [`tagging`] | target groups that say by their tags what they follow: found, judged, and read |
//! | [`fleet`] | all target groups, within the time and the request budget |
//! | [`watch`] | one group again and again |
//! | [`reconcile`] | carries out the steps of a run; decides nothing |
//! | [`run`] | **what a run of one group does next**; pure |
//! | [`memory`] | what an execution environment remembers of a group; pure |
//! | [`resolution`] | what DNS said to a group, judged; pure |
//! | [`plan`] | a difference, then reasons to keep what would go; pure |
//! | [`sampling`] | what answers tell of the addresses that they lack; pure |
//! | [`writes`] | own changes that a list may not show yet; pure |
//! | [`state`], [`tags`] | what is remembered between runs, and how it is written; pure |
//! | [`policy`], [`binding`] | what a group goes by, and what is bound to it; pure |
//! | [`report`], [`metrics`] | what was found and done: the reply, and the numbers |
//! | [`check`], [`finding`], [`inspection`], [`set_up`] | what is wrong with the set-up: judged, told, read, and as it was read |
//! | [`failure`] | what goes wrong, up to the reply |
//! | [`dns`] | the DNS edge, the only place that knows hickory |
//! | [`target_group`], `elb`, [`aws`], [`limiter`] | the ELBv2 edge, its client and its budget |
//! | [`hostname`], [`kind`], [`network`], [`target`] | the nouns |

#![warn(clippy::too_many_lines)]

pub mod aws;
pub mod discovery;
pub mod dns;
pub mod fleet;
pub mod function;
pub mod reconcile;
pub mod settings;
pub mod watch;

pub(crate) use aws::elb;
pub use aws::{inspection, limiter, metrics, tagging, target_group};
pub use discovery::finder;
pub use nlb_hostname_targets_core::{
    answer as resolution, binding, check, failure, finding, hostname, kind, memory, network, plan, policy, report, run,
    sampling, set_up, state, tag_bindings, tags, target, text, writes,
};
pub use settings::{environment as config, event};

/// The version, which replies and the log tell.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
