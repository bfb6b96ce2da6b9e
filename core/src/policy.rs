//! What a target group goes by.

use serde::Serialize;

/// Whose targets may be deregistered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ownership {
    /// The group holds what DNS says and nothing else.
    #[default]
    Exclusive,
    /// Only targets that this function registered, or whose address DNS gave it, are ever deregistered.
    Shared,
}

/// What a target group goes by.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Whose targets may be deregistered.
    pub ownership: Ownership,
    /// How long, in seconds, an address must be missing from DNS before its target goes.
    pub deregister_after_seconds: u32,
}

impl Policy {
    /// Whether anything has to be remembered between runs.
    pub fn needs_state(self) -> bool {
        self.is_shared() || self.deregister_after_seconds > 0
    }

    /// Whether others may have targets in the group.
    pub fn is_shared(self) -> bool {
        self.ownership == Ownership::Shared
    }
}
