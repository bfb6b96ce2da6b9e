//! Why a registered target stays that DNS does not give.

use serde::Serialize;

use crate::clock::Timestamp;

/// Why a registered target stays that DNS does not give. [`HoldReason::as_str`] tells each.
#[allow(missing_docs, reason = "the words of the log say it")]
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    DeregistrationRefused,
    Evidence,
    Foreign,
    Grace,
    Initial,
    OwnedElsewhere,
    RefusedAddress,
    RegistrationFailed,
    StateUnknown,
    Unresolved,
}

impl HoldReason {
    /// The words of the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeregistrationRefused => "AWS refused to deregister it",
            Self::Evidence => "answers are samples, and too few of them lacked it",
            Self::Foreign => "it is somebody else's",
            Self::Grace => "its grace period is not over",
            Self::Initial => "it was registered moments ago, and DNS may flap",
            Self::OwnedElsewhere => "another function owns it, too",
            Self::RefusedAddress => "DNS gives its address, which may not become a target",
            Self::RegistrationFailed => "what should be there instead can't be registered",
            Self::StateUnknown => "the tags that say since when it is missing can't be read or written",
            Self::Unresolved => "a hostname did not resolve",
        }
    }
}

/// A registered target that stays although DNS does not give it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// Since when its address has been missing, where that is more than usual.
    pub missing_since: Option<Timestamp>,
    /// When it goes, if nothing but time keeps it.
    pub until: Option<Timestamp>,
}
