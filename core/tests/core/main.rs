//! What the core decides, held by the contract's rules.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    missing_docs,
    unreachable_pub,
    reason = "a wrong test shall stop where it is wrong"
)]

mod corpus;
mod histories;
mod kinds;
mod rule_01;
mod rule_02_05;
mod rule_08;
mod rule_15;
mod rule_16_18;
mod tags;
mod universe;
mod watch;
