//! Keeps the IP target groups of a Network Load Balancer in step with DNS hostnames.
//!
//! A Network Load Balancer takes addresses, a database has a hostname whose addresses change.
//! A run asks DNS for the hostnames and ELBv2 for the targets, compares the two, registers what
//! is missing, deregisters what is stale, and publishes metrics.
//!
//! The decision is [`plan`], which is pure; [`state`] is what it remembers from run to run, [`sampling`] decides how many
//! answers it is based on. [`dns`], [`target_group`] and [`metrics`] are the
//! edges, each the only place that knows its library. [`reconcile`] connects them for one target
//! group, [`fleet`] for all of them, [`watch`] does it again and again, and [`function`] for an invocation.

pub mod aws;
pub mod binding;
pub mod config;
pub mod discovery;
pub mod dns;
mod elb;
pub mod event;
pub mod failure;
pub mod finder;
pub mod fleet;
pub mod function;
pub mod hostname;
pub mod kind;
pub mod limiter;
pub mod memory;
pub mod metrics;
pub mod network;
pub mod plan;
pub mod policy;
mod rds_event;
pub mod reconcile;
pub mod report;
pub mod resolution;
pub mod run;
pub mod sampling;
pub mod state;
pub mod tagging;
pub mod tags;
pub mod target;
pub mod target_group;
mod text;
pub mod watch;
pub mod writes;
