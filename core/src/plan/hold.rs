//! Why a registered target stays that DNS does not give.

use serde::Serialize;

use crate::clock::Timestamp;

/// Why a registered target stays that DNS does not give.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// AWS refused to deregister it.
    DeregistrationRefused,
    /// Answers are samples, and too few of them lacked it.
    Evidence,
    /// It is somebody else's.
    Foreign,
    /// Its grace period is not over.
    Grace,
    /// It was registered moments ago, and DNS may flap.
    Initial,
    /// Another function owns it as well.
    OwnedElsewhere,
    /// DNS gives its address, which may not become a target.
    RefusedAddress,
    /// What should be there instead can't be registered.
    RegistrationFailed,
    /// The tags that say whose it is, and since when it is missing, can't be read or written.
    StateUnknown,
    /// A hostname of the group did not resolve.
    Unresolved,
}

impl HoldReason {
    /// The words of the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeregistrationRefused => "AWS refused to deregister it",
            Self::Evidence => "too few answers lacked it",
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
