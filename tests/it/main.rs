//! The tests, in one binary: everything drives the public interface over real sockets.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a wrong test shall stop where it is wrong"
)]

mod bad_input; // every row of the contract's tables, given wrongly
mod budget; // what our own request budget puts off
mod check; // what is wrong with the set-up
mod codes; // each code of that
mod corpus; // what the fuzz targets found
mod discovery; // target groups that say by their tags what they follow
mod dns; // what name servers do, and what becomes of it
mod events; // what invokes the function
mod metrics; // what is published
mod production; // what production does that is less kind than an emulation
mod removal; // when a target goes
mod rules; // the contract's rules, by their numbers
mod runtime; // the real binary against the Lambda Runtime API
mod watch; // DNS asked again and again within one invocation
