//! The extractors for handlers. They work like axum's, but respond to malformed requests with a problem document.

use super::malformed;
use super::refusal::Refusal;
use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::header;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Whole numbers are exact in a float below this one.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A JSON body, of a request or a response.
#[derive(Clone, Debug)]
pub(super) struct Json<T>(pub(super) T);

/// The parameters in a path.
#[derive(Clone, Debug)]
pub(super) struct Path<T>(pub(super) T);

/// The parameters in the query.
#[derive(Clone, Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let (parts, body) = request.into_parts();
        let bytes = Bytes::from_request(Request::from_parts(parts.clone(), body), state).await;
        let bytes = bytes.map_err(|error| Refusal::rejected(error.status(), error.body_text()))?;
        if has_nul(&bytes) {
            return Err(Refusal::invalid(NUL));
        }
        let request = Request::from_parts(parts, bytes.clone().into());
        let rejection = match axum::Json::from_request(request, state).await {
            Ok(axum::Json(body)) => return Ok(Self(body)),
            Err(rejection) => rejection,
        };
        // To JSON `1.0` is a whole number, and some clients write whole numbers that way.
        let whole = matches!(rejection, JsonRejection::JsonDataError(_))
            .then(|| serde_json::from_slice(&bytes).ok().map(with_whole_numbers))
            .flatten()
            .and_then(|value| serde_json::from_value(value).ok());
        let mistake =
            || Refusal::rejected(rejection.status(), malformed::of_body(&rejection.body_text()));
        whole.map(Self).ok_or_else(mistake)
    }
}

/// The sentence about a text that no database could store.
pub(super) const NUL: &str = "a text in the request has a NUL character, which no text may have";

/// Whether a text in a JSON document has a NUL character, or the document itself.
fn has_nul(json: &[u8]) -> bool {
    fn within(value: &Value) -> bool {
        match value {
            Value::String(text) => text.contains('\0'),
            Value::Array(items) => items.iter().any(within),
            Value::Object(fields) => fields.iter().any(|(k, v)| k.contains('\0') || within(v)),
            _ => false,
        }
    }
    // Hardly any document has the word, which may also stand for a backslash with letters behind it.
    let may = json.windows(6).any(|six| six == br"\u0000");
    json.contains(&0) || may && serde_json::from_slice(json).is_ok_and(|value| within(&value))
}

/// Replaces numbers such as `1.0` by `1`.
fn with_whole_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => {
            let whole = number.as_f64().filter(|_| number.is_f64());
            let whole = whole.filter(|float| float.fract() == 0.0 && float.abs() < EXACT);
            // Text is the way to convert between the two without a cast.
            let whole = whole.and_then(|float| format!("{float:.0}").parse::<i64>().ok());
            whole.map_or(Value::Number(number), Value::from)
        }
        Value::Array(items) => items.into_iter().map(with_whole_numbers).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, with_whole_numbers(value))).collect()
        }
        other => other,
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        axum::Json(self.0).into_response()
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let bad = |rejection: PathRejection| {
            Refusal::rejected(rejection.status(), malformed::of_query(&rejection.body_text()))
        };
        let path = axum::extract::Path::from_request_parts(parts, state).await.map_err(bad)?;
        Ok(Self(path.0))
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let bad = |rejection: QueryRejection| {
            Refusal::rejected(rejection.status(), malformed::of_query(&rejection.body_text()))
        };
        let query = axum::extract::Query::from_request_parts(parts, state).await.map_err(bad)?;
        Ok(Self(query.0))
    }
}

/// A JSON body that may be absent or null.
#[derive(Clone, Debug)]
pub(super) struct MaybeJson<T>(pub(super) T);

impl<T: DeserializeOwned + Default, S: Send + Sync> FromRequest<S> for MaybeJson<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_nul_is_found_wherever_it_is() {
        for json in [r#""a\u0000""#, r#"{"a": [{"b": "\u0000"}]}"#, r#"{"\u0000": 1}"#, "\"\0\""] {
            assert!(has_nul(json.as_bytes()), "{json}");
        }
        for json in [r#""\\u0000""#, r#"{"a": "u0000"}"#, r#""\u00001"#, "0"] {
            assert!(!has_nul(json.as_bytes()), "{json}");
        }
    }

    #[test]
    fn whole_numbers_may_be_written_as_fractions() {
        let written = json!({ "a": [1.0, -2.0, 0.5, 1e300], "b": { "c": 3 }, "d": "1.0" });
        let read = json!({ "a": [1, -2, 0.5, 1e300], "b": { "c": 3 }, "d": "1.0" });
        assert_eq!(with_whole_numbers(written), read);
    }
}
