//! What a client is told when its request is refused or fails: OpenAI's error object.
//!
//! Invariant: every answer that is not a success has this shape, and one that is the client's
//! mistake names the field, its value and what is accepted.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use backends::{Failure, FailureCause};
use serde_json::{Value, json};

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: StatusCode,
    /// The field at fault.
    pub(super) param: Option<String>,
    /// For programs.
    pub(super) code: Option<&'static str>,
    /// For people.
    pub(super) message: String,
}

/// When to try again after a refusal for want of room.
const RETRY_AFTER_S: u16 = 1;

impl ApiError {
    /// A mistake in one field.
    pub(super) fn field(name: &str, message: impl Into<String>) -> Self {
        Self {
            param: Some(name.into()),
            ..Self::new(StatusCode::BAD_REQUEST, message)
        }
    }

    /// Any other refusal or failure.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            param: None,
            code: None,
            message: message.into(),
        }
    }

    #[must_use]
    pub(super) fn with_code(self, code: &'static str) -> Self {
        Self {
            code: Some(code),
            ..self
        }
    }

    /// OpenAI's error object.
    pub(super) fn body(&self) -> Value {
        let kind = match self.status {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({ "error": {
            "message": self.message,
            "type": kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl From<&Failure> for ApiError {
    fn from(failure: &Failure) -> Self {
        let status = match failure.cause {
            FailureCause::Rejected => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, failure.message.clone())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let again = [
            StatusCode::TOO_MANY_REQUESTS,
            StatusCode::SERVICE_UNAVAILABLE,
        ];
        if again.contains(&self.status) {
            let seconds = HeaderValue::from(RETRY_AFTER_S);
            response.headers_mut().insert(header::RETRY_AFTER, seconds);
        }
        response
    }
}
