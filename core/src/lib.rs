//! What the function decides, without I/O and without a clock: the outside is a trait, [`world::World`].
//!
//! | the contract's rule | where it is decided |
//! |---|---|
//! | 1 register first, room | [`plan`] (`change_of_targets`) |
//! | 2 names that do not resolve | [`answer`] (`is_complete`), `plan/judge.rs` (`reason_to_keep`) |
//! | 3 draining | [`target`] (`is_registered`) |
//! | 4 address and port | [`target`] (`RegisteredTarget`) |
//! | 5 refused targets | `plan/judge.rs` (`reason_to_keep`); the Availability Zone: `aws::target_group` of the function |
//! | 6 addresses that may be targets | [`network`] |
//! | 7 DNS | `dns` of the function; address family: [`target`] |
//! | 8 state in tags, grace | `plan/judge.rs` (`remembered`); as written: [`tags`]; since when: [`memory`] (`since`) |
//! | 9 nothing old | [`run`] (`refresh`) |
//! | 10, 12 all groups in time and budget | `fleet` of the function; who goes first: [`memory`] (`is_urgent`) |
//! | 11 metrics | `aws::metrics` of the function |
//! | 13 facts once | `fleet` of the function |
//! | 14 connections | `aws` of the function |
//! | 15 samples | [`samples`] (`verdict`), [`memory`] (`judges`) |
//! | 16 flapping | `plan/judge.rs` (`reason_to_keep`) |
//! | 17 reads that lag | [`memory`] (`overlay`) |
//! | 18 what AWS can't tell | `run/known.rs` (`may_go_on`); expired signatures: `aws` of the function |
//! | watches | [`watch`] |
//! | the check | [`check`] |
//! | bindings, kinds, discovery's tags | [`binding`], [`kind`], [`tag_bindings`] |

#![warn(clippy::too_many_lines)]

pub mod answer;
pub mod binding;
pub mod check;
pub mod clock;
pub mod failure;
pub mod hostname;
pub mod kind;
pub mod memory;
pub mod network;
pub mod plan;
pub mod report;
pub mod run;
pub mod samples;
pub mod tag_bindings;
pub mod tags;
pub mod target;
pub mod watch;
pub mod world;

pub use check::{finding, set_up};
