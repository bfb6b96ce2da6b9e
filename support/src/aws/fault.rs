//! What makes some requests go wrong.

use std::time::Duration;

use super::request::Asked;

/// A rule that makes some requests go wrong.
#[derive(Clone, Debug)]
pub struct Fault {
    action: Option<String>,
    arn: Option<String>,
    after: u32,
    times: Option<u32>,
    pub(super) kind: FaultKind,
}

#[derive(Clone, Debug)]
pub enum FaultKind {
    /// Replies with this HTTP status and body, as text/xml, without handling the request.
    Body { status: u16, body: String },
    /// Deletes the target group that the request names, then handles the request.
    DeleteGroup,
    /// Refuses the request in the form of its protocol.
    Error { status: u16, code: String, message: String },
    /// Never replies, and does not handle the request.
    Hang,
    /// Handles the request this much later. It is handled even if the caller gives up meanwhile.
    Latency(Duration),
    /// Handles the request, and never replies.
    LoseReply,
    /// Refuses the requests that name a target with this address (or instance), as a whole.
    RefuseTarget(String),
    /// Handles the request, then resets the connection.
    ResetAfter,
    /// Resets the connection without handling the request.
    ResetBefore,
    /// Handles the request at once but replies this much later: the answer is stale by then.
    SlowReply(Duration),
}

impl Fault {
    /// Strikes one action, for example `RegisterTargets`, every time.
    pub fn on(action: &str, kind: FaultKind) -> Self {
        Self { action: Some(action.to_owned()), ..Self::any(kind) }
    }

    /// Strikes every request.
    pub fn any(kind: FaultKind) -> Self {
        Self { action: None, arn: None, after: 0, times: None, kind }
    }

    /// Only requests that name this target group.
    pub fn arn(mut self, arn: &str) -> Self {
        self.arn = Some(arn.to_owned());
        self
    }

    /// Lets this many matching requests pass first.
    pub fn after(mut self, requests: u32) -> Self {
        self.after = requests;
        self
    }

    /// Strikes this often, then never again.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    pub(super) fn strikes(&mut self, asked: &Asked) -> bool {
        if self.action.as_ref().is_some_and(|action| *action != asked.action)
            || self.arn.as_ref().is_some_and(|arn| !asked.arns.contains(arn))
            || self.times == Some(0)
            || matches!(&self.kind, FaultKind::RefuseTarget(id) if asked.targets.iter().all(|sent| sent.id != *id))
        {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        self.times = self.times.map(|times| times - 1);
        true
    }
}

impl FaultKind {
    pub fn error(status: u16, code: &str, message: &str) -> Self {
        Self::Error { status, code: code.to_owned(), message: message.to_owned() }
    }

    /// The role may not call it.
    pub fn denied() -> Self {
        Self::error(403, "AccessDenied", "not authorized")
    }

    /// AWS can't tell the health of the targets, nor then which there are.
    pub fn health_unavailable() -> Self {
        let message = "The health of the specified targets could not be retrieved due to an internal error";
        Self::error(500, "HealthUnavailable", message)
    }

    pub fn throttling() -> Self {
        Self::error(400, "Throttling", "Rate exceeded")
    }

    pub fn body(status: u16, body: &str) -> Self {
        Self::Body { status, body: body.to_owned() }
    }
}
