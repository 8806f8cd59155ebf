//! Errors: `application/problem+json` with a stable code.

use serde::{Deserialize, Serialize};

/// The kind of an error, as one stable word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The path, the query, a header or the body is malformed.
    InvalidRequest,
    /// The job file has errors; `errors` lists them.
    InvalidJob,
    /// The job names files that were not uploaded; `errors` lists them.
    MissingAssets,
    /// The schedule has invalid times, an unknown time zone or too long a jitter.
    InvalidSchedule,
    /// There is no token, or it is not valid.
    Unauthorized,
    /// The role of the token does not permit this.
    Forbidden,
    /// The ticket or link that came with a task is missing, wrong or for another worker's task.
    BadTicket,
    /// The object does not exist, or the token may not see it.
    NotFound,
    /// The path exists, but does not support the method.
    MethodNotAllowed,
    /// The state of the object does not permit this.
    Conflict,
    /// The beginning of an id is ambiguous.
    AmbiguousRun,
    /// The run has ended and cannot be changed like this.
    RunIsOver,
    /// Another machine is using the name of this worker, and was heard from recently.
    NameInUse,
    /// This server has no message broker that workers on other machines could reach.
    NoBroker,
    /// The body exceeds the limit.
    BodyTooLarge,
    /// The media type of the body is not supported.
    UnsupportedMediaType,
    /// The artifact does not have the requested bytes.
    RangeNotSatisfiable,
    /// The idempotency key was used with another body.
    IdempotencyConflict,
    /// The bytes do not have the digest that was announced.
    DigestMismatch,
    /// Too many requests with this token; retry after `Retry-After`.
    RateLimited,
    /// The account, or the enrolment token, has as much as the farm's operator allows it.
    QuotaExceeded,
    /// The server's disk has no room for more files.
    InsufficientStorage,
    /// An error of the server; its log says more.
    Internal,
    /// No server owns the farm at the moment; retry after `Retry-After`.
    NoOwner,
    /// The database or the storage does not respond; retry after `Retry-After`.
    Unavailable,
}

impl Code {
    /// The code as it is sent, such as `invalid_job`.
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
            Self::QuotaExceeded => "quota_exceeded",
            Self::InsufficientStorage => "insufficient_storage",
            Self::Internal => "internal",
            Self::NoOwner => "no_owner",
            Self::Unavailable => "unavailable",
        }
    }

    /// The HTTP status of responses with this code.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::InvalidJob
            | Self::MissingAssets
            | Self::InvalidSchedule
            | Self::IdempotencyConflict
            | Self::DigestMismatch => 422,
            Self::Unauthorized => 401,
            Self::Forbidden | Self::BadTicket => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict
            | Self::AmbiguousRun
            | Self::RunIsOver
            | Self::NameInUse
            | Self::QuotaExceeded
            | Self::NoBroker => 409,
            Self::BodyTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::RangeNotSatisfiable => 416,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::NoOwner | Self::Unavailable => 503,
            Self::InsufficientStorage => 507,
        }
    }

    /// A short description of the code.
    pub fn title(self) -> &'static str {
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
            Self::QuotaExceeded => "A quota is used up",
            Self::InsufficientStorage => "The server's disk is almost full",
            Self::Internal => "A mistake of the server",
            Self::NoOwner => "No server owns the farm right now",
            Self::Unavailable => "The server cannot answer right now",
        }
    }
}

/// One error in a job file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Mistake {
    /// Line in the job file, from 1; null if the error is not at a place in it.
    pub line: Option<u32>,
    /// Column in the line, from 1; null if there is no line.
    pub column: Option<u32>,
    /// What is wrong, for people to read.
    pub message: String,
    /// How to correct it; null if that is not known.
    pub hint: Option<String>,
    /// Text of that line; null if there is no line.
    pub text: Option<String>,
}

/// An error response (RFC 9457).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:pictor:problem:` followed by the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// Short description of the code, the same for every error with this code.
    pub title: String,
    /// HTTP status of the response.
    pub status: u16,
    /// The kind of the error, as one stable word.
    #[cfg_attr(feature = "openapi", schema(value_type = Code))]
    pub code: String,
    /// What happened in this case, for people to read.
    pub detail: String,
    /// The errors in a job file; empty for other problems.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Mistake>,
}

impl Problem {
    /// A problem with this code; `detail` says what happened in this case.
    pub fn new(code: Code, detail: String, errors: Vec<Mistake>) -> Self {
        Self {
            kind: format!("urn:pictor:problem:{}", code.name()),
            title: code.title().to_owned(),
            status: code.status(),
            code: code.name().to_owned(),
            detail,
            errors,
        }
    }

    /// Whether the problem has this code. Newer servers may send codes that are not known here.
    pub fn is(&self, code: Code) -> bool {
        self.code == code.name()
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
