//! Error responses: `application/problem+json` with a stable code, whatever went wrong.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pictor_api::{Code, Mistake, Problem};

/// Media type of every error response.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request is rejected: a [`Problem`] that is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of the error.
    pub code: Code,
    /// What happened in this case, for people to read.
    pub detail: String,
    /// The errors in a job file; empty for other problems.
    pub errors: Vec<Mistake>,
    /// Additional headers of the response.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A rejection with this code; `detail` says what happened in this case.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    /// A rejection because `what` does not exist.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {what}"))
    }

    /// A rejection because the request is malformed.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// Adds the errors in a job file.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<Mistake>) -> Self {
        self.errors = errors;
        self
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds the time after which a retry makes sense.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, seconds.into())
    }

    /// The rejection while no server owns the farm.
    pub fn no_owner() -> Self {
        let detail = "no server owns the farm right now; another one is about to take over";
        Self::new(Code::NoOwner, detail).retry_after(1)
    }

    /// The rejection of a request that axum could not parse, from axum's own message.
    pub(super) fn rejected(status: StatusCode, text: impl Into<String>) -> Self {
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => Code::BodyTooLarge,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => Code::UnsupportedMediaType,
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => Code::MethodNotAllowed,
            status if status.is_client_error() => Code::InvalidRequest,
            _ => Code::Internal,
        };
        Self::new(code, text)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { code, detail, errors, headers: more } = self;
        let status = StatusCode::from_u16(code.status()).expect("a status of HTTP");
        let body = Problem::new(code, detail, errors);
        let body = serde_json::to_vec(&body).expect("a problem is plain data");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        headers.extend(more);
        let mut response = (status, headers, body).into_response();
        // The audit log records why a request was rejected.
        response.extensions_mut().insert(code);
        response
    }
}

impl From<pictor_storage::Error> for Refusal {
    fn from(error: pictor_storage::Error) -> Self {
        use pictor_storage::Error;
        match &error {
            Error::NotFound(_) => Self::new(Code::NotFound, error.to_string()),
            Error::Invalid(_) => Self::new(Code::Conflict, error.to_string()),
            error if error.is_retryable() => {
                Self::new(Code::Unavailable, error.to_string()).retry_after(2)
            }
            _ => {
                tracing::error!(%error, "a request failed");
                Self::new(Code::Internal, "the server's log says more")
            }
        }
    }
}

impl From<crate::Error> for Refusal {
    fn from(error: crate::Error) -> Self {
        use crate::Error;
        match error {
            Error::Store(error) => error.into(),
            Error::Refused(Code::Unavailable, why) => {
                Self::new(Code::Unavailable, why).retry_after(1)
            }
            Error::Refused(code, why) => Self::new(code, why),
            Error::NoRun(name) => Self::not_found(format!("run `{name}`")),
            Error::Stopped => Self::no_owner(),
            Error::Stalled(_) => Self::new(Code::Unavailable, error.to_string()).retry_after(5),
            Error::Plan { .. } => Self::new(Code::Conflict, error.to_string()),
            Error::Fold(..) => {
                tracing::error!(%error, "a request failed");
                Self::new(Code::Internal, "the server's log says more")
            }
        }
    }
}
