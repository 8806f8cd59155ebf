//! What handlers take out of requests. As in axum, but what cannot be read is answered with a problem.

use super::problem::Problem;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A JSON body, in requests and answers.
#[derive(Clone, Debug)]
pub(super) struct Json<T>(pub(super) T);

/// The parts of a path.
#[derive(Clone, Debug)]
pub(super) struct Path<T>(pub(super) T);

/// The query.
#[derive(Clone, Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Json::from_request(request, state).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(rejection) => Err(bad_json(&rejection)),
        }
    }
}

fn bad_json(rejection: &JsonRejection) -> Problem {
    Problem::rejected(rejection.status(), rejection.body_text())
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let bad =
            |rejection: PathRejection| Problem::rejected(rejection.status(), rejection.body_text());
        let path = axum::extract::Path::from_request_parts(parts, state).await.map_err(bad)?;
        Ok(Self(path.0))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let bad = |rejection: QueryRejection| {
            Problem::rejected(rejection.status(), rejection.body_text())
        };
        let query = axum::extract::Query::from_request_parts(parts, state).await.map_err(bad)?;
        Ok(Self(query.0))
    }
}

/// A JSON body that may be left out, or null.
#[derive(Clone, Debug)]
pub(super) struct MaybeJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for MaybeJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let headers = request.headers();
        let length = headers.get(header::CONTENT_LENGTH).is_none_or(|length| length == "0");
        let streamed = headers.contains_key(header::TRANSFER_ENCODING);
        if length && !streamed && !headers.contains_key(header::CONTENT_TYPE) {
            return Ok(Self(T::default()));
        }
        let body: Option<T> = Json::from_request(request, state).await?.0;
        Ok(Self(body.unwrap_or_default()))
    }
}
