//! Errors as answers: `application/problem+json` with a stable code, whatever went wrong.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pictor_api::{Code, Mistake, Problem};

/// The media type of every error.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// Why a request is refused: a [`Problem`] that is about to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What went wrong.
    pub code: Code,
    /// What happened this time, for people.
    pub detail: String,
    /// The mistakes of a job file.
    pub errors: Vec<Mistake>,
    /// More headers of the answer.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    /// A refusal; `detail` says what happened this time.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), headers: Vec::new() }
    }

    /// There is no such thing.
    pub fn not_found(what: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {what}"))
    }

    /// Something about the request is wrong.
    pub fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Code::InvalidRequest, detail)
    }

    /// The same with the mistakes of a job file.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<Mistake>) -> Self {
        self.errors = errors;
        self
    }

    /// The same with a header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The same with the time after which another try makes sense.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, seconds.into())
    }

    /// No server owns the farm right now.
    pub fn no_owner() -> Self {
        let detail = "no server owns the farm right now; another one is about to take over";
        Self::new(Code::NoOwner, detail).retry_after(1)
    }

    /// What axum says about a request that it could not take apart.
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
        // The audit log tells why something was refused.
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
