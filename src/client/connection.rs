//! Requests to a pictor server: addresses, tokens, errors as sentences, and retries where they are safe.

use crate::client::settings::Target;
use crate::terminal::{explain, plain};
use pictor_api::{Code, Page, Problem};
use pictor_net::Backoff;
use reqwest::header::{AGE, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use serde_json::Value as Json;
use std::collections::VecDeque;
use std::sync::Once;
use std::time::Duration;
use tokio::time::Instant;

/// Time limit for making a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Time limit for an ordinary response.
const ANSWER: Duration = Duration::from_mins(1);
/// Header that says why a response comes from memory: the database cannot be used.
const STALE: &str = "pictor-stale";
/// Attempts at a request; below, the first and the longest pause between them, up to twice as long.
const TRIES: u32 = 7;
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a server is retried that itself asks to be retried later: another one takes over meanwhile.
const LATER: Duration = Duration::from_mins(1);
/// Number of the failed attempt after which the user is informed.
const PATIENT: u32 = 3;
/// Most items of a page.
pub(crate) const PAGE: usize = 1000;
/// Longest ordinary response, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The server does not respond, or the connection was lost.
    #[error("reach {server}: {}", cause(error))]
    Unreachable {
        /// Address of the server.
        server: String,
        /// The underlying error.
        error: reqwest::Error,
    },
    /// The server rejected the request, for a reason.
    #[error("{0}")]
    Refused(Box<Refused>),
    /// The response cannot be understood: not a pictor server, or another version of it.
    #[error("{server} answered what this pictor does not understand: {why}")]
    Garbled {
        /// Address of the server.
        server: String,
        /// What is wrong with the response.
        why: String,
    },
}

/// A rejection by the server, and after how long it may be retried.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The error as the server sent it.
    pub(crate) problem: Problem,
    retry_after: Option<Duration>,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Problem { title, code, detail, errors, .. } = &self.problem;
        let sentence = if detail.is_empty() { title } else { detail };
        let code = if code.is_empty() { "no code" } else { code };
        write!(f, "{} ({code})", sentence.trim_end())?;
        // The sentence contains the errors of a job already, each with its line.
        let more = errors.iter().map(|mistake| &mistake.message);
        let mut more = more.filter(|message| !sentence.contains(message.as_str()));
        more.try_for_each(|message| write!(f, "\n  {message}"))
    }
}

impl RequestError {
    /// Whether the same request may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { error, .. } => !error.is_builder(),
            Self::Refused(refused) => {
                matches!(refused.problem.status, 408 | 425 | 429 | 500 | 502..=504)
            }
            Self::Garbled { .. } => false,
        }
    }

    /// Whether the request certainly had no effect.
    fn is_harmless(&self) -> bool {
        match self {
            Self::Unreachable { error, .. } => error.is_connect(),
            Self::Refused(refused) => {
                refused.problem.status == 429 || refused.problem.is(Code::NoOwner)
            }
            Self::Garbled { .. } => false,
        }
    }
}

/// The innermost cause: the outer ones only say that a request was sent.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "it does not answer in time".into();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// Serializes a request body.
pub(crate) fn as_json<T: serde::Serialize>(value: &T) -> Json {
    serde_json::to_value(value).expect("what is sent is plain data")
}

/// A request to the API.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// HTTP method of the request.
    pub(crate) method: Method,
    /// Segments of the path after `/v1`, which must need no escaping.
    pub(crate) path: &'a [&'a str],
    /// Parameters of the query, by name.
    pub(crate) query: &'a [(&'a str, String)],
    /// The body as JSON, if the request has one.
    pub(crate) body: Option<&'a Json>,
    /// Additional headers of the request.
    pub(crate) headers: &'a [(HeaderName, String)],
    /// Whether repeating the request has no further effect.
    pub(crate) repeatable: bool,
}

impl<'a> Call<'a> {
    /// A GET request without parameters.
    pub(crate) fn get(path: &'a [&'a str]) -> Self {
        let method = Method::GET;
        Self { method, path, query: &[], body: None, headers: &[], repeatable: true }
    }
}

/// A server, with what is needed to send it requests.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    http: Client,
    base: Url,
}

impl Connection {
    /// Prepares requests to a server. Nothing is sent yet.
    pub(crate) fn new(target: &Target) -> anyhow::Result<Self> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &target.token {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| anyhow::anyhow!("the token has characters that no token has"))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let http = pictor_net::client(CONNECT).default_headers(headers).build()?;
        Ok(Self { http, base: target.url.clone() })
    }

    /// Address of the server, for messages.
    pub(crate) fn server(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    /// Builds a request to a path after `/v1`.
    pub(crate) fn request(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
    ) -> reqwest::RequestBuilder {
        let mut url = self.base.clone();
        url.path_segments_mut()
            .expect("checked: http or https")
            .pop_if_empty()
            .push("v1")
            .extend(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        self.http.request(method, url)
    }

    /// Sends a request once, without retries.
    pub(crate) async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<Response, RequestError> {
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        if !response.status().is_success() {
            return Err(self.refused(response).await);
        }
        if let Some(why) = response.headers().get(STALE) {
            static TOLD: Once = Once::new();
            let age =
                response.headers().get(AGE).and_then(|age| age.to_str().ok()).unwrap_or("some");
            let why = plain(&String::from_utf8_lossy(why.as_bytes()));
            TOLD.call_once(|| explain(&format!("note: this is {age} s old: {why}")));
        }
        Ok(response)
    }

    /// The error of a lost connection.
    pub(crate) fn unreachable(&self, error: reqwest::Error) -> RequestError {
        RequestError::Unreachable { server: self.server().into(), error: error.without_url() }
    }

    async fn refused(&self, response: Response) -> RequestError {
        let status = response.status();
        let seconds =
            response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        let bytes = response.bytes().await.unwrap_or_default();
        let mut problem: Problem = serde_json::from_slice(&bytes).unwrap_or_else(|_| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).trim().to_owned();
            Problem {
                detail: format!("{} answered {status} {text}", self.server()),
                ..Problem::default()
            }
        });
        problem.status = status.as_u16();
        if status == StatusCode::UNAUTHORIZED {
            problem.detail +=
                "; give a token with --token-file FILE, PICTOR_TOKEN or the configuration";
        }
        let retry_after = seconds.map(Duration::from_secs);
        RequestError::Refused(Box::new(Refused { problem, retry_after }))
    }

    /// Sends a request; retries if that may help and is safe. When this returns, the response has begun.
    pub(crate) async fn start(&self, call: &Call<'_>) -> Result<Response, RequestError> {
        self.start_within(call, None).await
    }

    async fn start_within(
        &self,
        call: &Call<'_>,
        limit: Option<Duration>,
    ) -> Result<Response, RequestError> {
        let mut patience = Patience::default();
        loop {
            let mut request = self.request(call.method.clone(), call.path, call.query);
            for (name, value) in call.headers {
                request = request.header(name, value);
            }
            request = call.body.into_iter().fold(request, reqwest::RequestBuilder::json);
            request = limit.into_iter().fold(request, reqwest::RequestBuilder::timeout);
            let error = match self.send(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            let may = error.is_retryable() && (call.repeatable || error.is_harmless());
            if !may || !patience.wait(&error).await {
                return Err(error);
            }
        }
    }

    /// Sends a request and parses the JSON of its response.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        call: &Call<'_>,
    ) -> Result<T, RequestError> {
        let mut patience = Patience::default();
        loop {
            let response = self.start_within(call, Some(ANSWER)).await?;
            match self.read(response).await {
                Ok(bytes) => return self.parse(&bytes),
                Err(error) if call.repeatable && error.is_retryable() => {
                    if !patience.wait(&error).await {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the whole body of a response, within limits.
    async fn read(&self, mut response: Response) -> Result<Vec<u8>, RequestError> {
        let mut bytes = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(self.garbled(format!("more than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        Ok(bytes)
    }

    fn parse<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, RequestError> {
        let bytes = if bytes.is_empty() { b"null" } else { bytes };
        serde_json::from_slice(bytes).map_err(|error| self.garbled(error.to_string()))
    }

    pub(crate) fn garbled(&self, why: String) -> RequestError {
        RequestError::Garbled { server: self.server().into(), why }
    }

    /// Sends a GET request and parses the response.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
    ) -> Result<T, RequestError> {
        self.ask(&Call { query, ..Call::get(path) }).await
    }

    /// Sends a request that changes something, and whose repetition has no further effect.
    pub(crate) async fn order<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        body: Option<&Json>,
    ) -> Result<T, RequestError> {
        self.ask(&Call { method, body, ..Call::get(path) }).await
    }

    /// Sends a request that changes something, at most once: it is not retried if the server may have received it.
    pub(crate) async fn order_once<T: DeserializeOwned>(
        &self,
        path: &[&str],
        body: Option<&Json>,
    ) -> Result<T, RequestError> {
        let method = Method::POST;
        self.ask(&Call { method, body, repeatable: false, ..Call::get(path) }).await
    }

    /// The items of a list, fetched page by page, at most `limit`.
    pub(crate) async fn list<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        limit: usize,
    ) -> Result<Vec<T>, RequestError> {
        let (mut items, mut after) = (VecDeque::new(), None::<String>);
        loop {
            let mut query = query.to_vec();
            query.push(("limit", PAGE.min(limit - items.len()).to_string()));
            query.extend(after.take().map(|cursor| ("after", cursor)));
            let page: Page<T> = self.get(path, &query).await?;
            items.extend(page.items);
            after = page.next;
            if after.is_none() || items.len() >= limit {
                return Ok(items.into());
            }
        }
    }
}

/// Counts attempts and decides about pauses between them.
#[derive(Debug)]
pub(crate) struct Patience {
    tries: u32,
    since: Instant,
    pauses: Backoff,
}

impl Default for Patience {
    fn default() -> Self {
        Self { tries: 0, since: Instant::now(), pauses: Backoff::new(PAUSE, PAUSE_MAX) }
    }
}

impl Patience {
    /// Waits before the next attempt. Returns `false` if there were enough.
    pub(crate) async fn wait(&mut self, error: &RequestError) -> bool {
        self.tries += 1;
        let asked = match error {
            RequestError::Refused(refused) => refused.retry_after,
            _ => None,
        };
        if self.tries >= TRIES && (asked.is_none() || self.since.elapsed() >= LATER) {
            return false;
        }
        if self.tries == PATIENT {
            explain(&format!("{error}; trying again"));
        }
        tracing::info!(%error, "trying again");
        match asked.map(|pause| pause.min(LATER)) {
            Some(pause) => Backoff::new(pause, pause).wait().await,
            None => self.pauses.wait().await,
        }
        true
    }

    /// Starts the count anew after a success.
    pub(crate) fn reset(&mut self) {
        *self = Self::default();
    }
}
