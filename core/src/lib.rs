//! What the function decides, without I/O.

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
pub mod policy;
pub mod report;
pub mod run;
pub mod samples;
pub mod tag_bindings;
pub mod tags;
pub mod target;
pub mod text;
pub mod watch;
pub mod world;

pub use check::{finding, set_up};
