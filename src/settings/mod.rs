//! What the environment and the event ask for.

pub mod environment;
pub mod event;
mod rds_event;
