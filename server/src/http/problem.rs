//! Errors of the API: `application/problem+json` with a stable code, whatever went wrong.

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// What went wrong, in one stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The path, the query, a header or the body is not what it should be.
    InvalidRequest,
    /// The job file has mistakes; `errors` lists them.
    InvalidJob,
    /// The job names files that were not uploaded; `errors` lists them.
    MissingAssets,
    /// The schedule cannot be: its times, its zone, its jitter.
    InvalidSchedule,
    /// There is no token, or it is not valid (any more).
    Unauthorized,
    /// The token may not do this.
    Forbidden,
    /// The ticket or link that came with a task is missing, wrong or for another worker's task.
    BadTicket,
    /// There is no such thing, or the token may not see it.
    NotFound,
    /// The path exists, the method does not.
    MethodNotAllowed,
    /// The thing is in a state in which this cannot be done.
    Conflict,
    /// The beginning of an id fits several runs.
    AmbiguousRun,
    /// The run is over.
    RunIsOver,
    /// Another machine is this worker, and was heard of lately.
    NameInUse,
    /// This server has no message broker that workers on other machines could reach.
    NoBroker,
    /// The body is larger than it may be.
    BodyTooLarge,
    /// The body has another media type than it should have.
    UnsupportedMediaType,
    /// The artifact does not have the bytes that were asked for.
    RangeNotSatisfiable,
    /// The idempotency key was used with another body.
    IdempotencyConflict,
    /// The bytes do not have the digest that they should have.
    DigestMismatch,
    /// Too many requests with this token; `Retry-After` says when to go on.
    RateLimited,
    /// A mistake of the server; its log says more.
    Internal,
    /// No server owns the farm right now; try again after `Retry-After`.
    NoOwner,
    /// The database or the storage does not answer; try again after `Retry-After`.
    Unavailable,
}

impl Code {
    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidJob => "invalid_job",
            Self::MissingAssets => "missing_assets",
            Self::InvalidSchedule => "invalid_schedule",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::BadTicket => "bad_ticket",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::AmbiguousRun => "ambiguous_run",
            Self::RunIsOver => "run_is_over",
            Self::NameInUse => "name_in_use",
            Self::NoBroker => "no_broker",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::RangeNotSatisfiable => "range_not_satisfiable",
            Self::IdempotencyConflict => "idempotency_conflict",
            Self::DigestMismatch => "digest_mismatch",
            Self::RateLimited => "rate_limited",
            Self::Internal => "internal",
            Self::NoOwner => "no_owner",
            Self::Unavailable => "unavailable",
        }
    }

    /// The HTTP status that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::InvalidRequest => StatusCode::BAD_REQUEST,
            Self::InvalidJob
            | Self::MissingAssets
            | Self::InvalidSchedule
            | Self::IdempotencyConflict
            | Self::DigestMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::BadTicket => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::Conflict
            | Self::AmbiguousRun
            | Self::RunIsOver
            | Self::NameInUse
            | Self::NoBroker => StatusCode::CONFLICT,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NoOwner | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::InvalidRequest => "The request is not valid",
            Self::InvalidJob => "The job has mistakes",
            Self::MissingAssets => "Files of the job are missing",
            Self::InvalidSchedule => "The schedule has a mistake",
            Self::Unauthorized => "A valid token is needed",
            Self::Forbidden => "The token may not do this",
            Self::BadTicket => "The ticket is not valid",
            Self::NotFound => "There is no such thing",
            Self::MethodNotAllowed => "The method is not allowed here",
            Self::Conflict => "This cannot be done now",
            Self::AmbiguousRun => "Several runs fit",
            Self::RunIsOver => "The run is over",
            Self::NameInUse => "Another machine has this name",
            Self::NoBroker => "This server takes no workers of other machines",
            Self::BodyTooLarge => "The body is too large",
            Self::UnsupportedMediaType => "The media type is not supported",
            Self::RangeNotSatisfiable => "The range is outside the artifact",
            Self::IdempotencyConflict => "The idempotency key was used before",
            Self::DigestMismatch => "The digest is wrong",
            Self::RateLimited => "Too many requests",
            Self::Internal => "A mistake of the server",
            Self::NoOwner => "No server owns the farm right now",
            Self::Unavailable => "The server cannot answer right now",
        }
    }
}

/// One mistake in a job file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Mistake {
    /// The line, from 1; nothing if it does not stand in the file.
    pub line: Option<u32>,
    /// The column, from 1.
    pub column: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line itself.
    pub text: Option<String>,
}

/// An error as it is sent (RFC 9457).
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `urn:pictor:problem:` and the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The code in words; the same for every problem with this code.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What went wrong, in one stable word.
    pub code: Code,
    /// What happened this time, for people.
    pub detail: String,
    /// The mistakes of a job file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Mistake>,
}

/// An error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What went wrong.
    pub code: Code,
    /// What happened this time, for people.
    pub detail: String,
    /// The mistakes of a job file.
    pub errors: Vec<Mistake>,
    /// More headers of the answer.
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem; `detail` says what happened this time.
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

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { code, detail, errors, headers: more } = self;
        let status = code.status();
        let body = ProblemBody {
            kind: format!("urn:pictor:problem:{}", code.name()),
            title: code.title().to_owned(),
            status: status.as_u16(),
            code,
            detail,
            errors,
        };
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

impl From<pictor_storage::Error> for Problem {
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

impl From<crate::Error> for Problem {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_written_as_its_name() {
        for code in [Code::InvalidRequest, Code::NoOwner, Code::IdempotencyConflict] {
            assert_eq!(serde_json::to_value(code).unwrap(), code.name());
        }
    }
}
