//! Whose targets may be deregistered.

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
