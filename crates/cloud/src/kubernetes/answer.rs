//! What a cluster says when it says no: `Status` objects, by Kubernetes' API conventions.

use serde_json::{Value, json};

/// A refusal: HTTP status, reason and message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub(crate) struct Refusal {
    /// HTTP status code.
    pub(crate) code: u16,
    /// One of Kubernetes' machine-readable reasons.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
    /// Whole seconds after which to try again.
    pub(crate) retry_after_s: Option<u64>,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), retry_after_s: None }
    }

    /// There is no such object or path.
    pub(crate) fn not_found(what: &str, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{what} \"{name}\" not found"))
    }

    /// The request makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// The object may not look like this.
    pub(crate) fn invalid(what: &str, name: &str, message: impl std::fmt::Display) -> Self {
        Self::new(422, "Invalid", format!("{what} \"{name}\" is invalid: {message}"))
    }

    /// It is there already.
    pub(crate) fn already_exists(what: &str, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{what} \"{name}\" already exists"))
    }

    /// Somebody else owns it, or has changed it since.
    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(409, "Conflict", message)
    }

    /// No such thing can be done with it.
    pub(crate) fn not_allowed(message: impl Into<String>) -> Self {
        Self::new(405, "MethodNotAllowed", message)
    }

    /// This form of body is not understood.
    pub(crate) fn unsupported(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// What was watched from is forgotten.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// Too many requests.
    pub(crate) fn throttled(retry_after_s: u64) -> Self {
        let message = "the server has received too many requests and has asked us to try again later";
        Self { retry_after_s: Some(retry_after_s), ..Self::new(429, "TooManyRequests", message) }
    }

    /// A fault on demand.
    pub(crate) fn fault(code: u16) -> Self {
        let reason = if code == 503 { "ServiceUnavailable" } else { "InternalError" };
        Self::new(code, reason, "a fault that was asked for")
    }

    /// As an object.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if let Some(seconds) = self.retry_after_s {
            status["details"] = json!({ "retryAfterSeconds": seconds });
        }
        status
    }
}
