//! Requests to the farm's servers: any of them will do, and if one does not answer, the next one is used.

use super::FarmError;
use pictor_api::{Link, Problem};
use pictor_net::Backoff;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::time::Duration;

/// The time limit for establishing a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The time limit for an ordinary response.
const ANSWER: Duration = Duration::from_secs(30);
/// The most bytes of an error response that are read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;

/// The code of an error that did not come from a pictor server.
const UNKNOWN: &str = "unknown";

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiError {
    /// No server answers, or none is able to serve the request at present.
    #[error("{0}")]
    Away(String),
    /// The server has refused the request.
    #[error("{detail} ({status} {code})")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// A stable identifier of the reason, such as `name_in_use`.
        code: String,
        /// The reason, as a sentence.
        detail: String,
    },
}

impl ApiError {
    /// Whether the same request may succeed later.
    pub(crate) fn is_retryable(&self) -> bool {
        matches!(self, Self::Away(_))
    }

    /// Whether the refusal comes from a pictor server and not from something in front of it, such as a proxy.
    pub(crate) fn is_of_pictor(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code != UNKNOWN)
    }

    /// Whether the farm does not know this worker or does not know it any more.
    pub(crate) fn disowns_us(&self) -> bool {
        self.is_of_pictor() && matches!(self.status(), Some(401 | 403 | 404))
    }

    /// Whether another machine is already running as this worker.
    pub(crate) fn is_in_use(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "name_in_use")
    }

    /// The HTTP status of a refusal.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Away(_) => None,
            Self::Refused { status, .. } => Some(*status),
        }
    }
}

/// The servers of a farm, and this worker's credentials.
#[derive(Debug)]
pub(crate) struct Api {
    client: Client,
    servers: Vec<String>,
    token: String,
    /// The index of the server that answered last.
    current: AtomicUsize,
    /// No server answers, and this has been logged.
    away: AtomicBool,
}

/// The HTTP client. `ca`: certificates to trust in addition to the system's.
pub(crate) fn client(ca: Option<&Path>) -> Result<Client, FarmError> {
    let mut builder = pictor_net::client(CONNECT);
    if let Some(path) = ca {
        let unusable = |why: String| FarmError::Settings(format!("use {}: {why}", path.display()));
        let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let certificates =
            Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.to_string()))?;
        if certificates.is_empty() {
            return Err(unusable("it holds no certificate".into()));
        }
        builder = builder.tls_certs_merge(certificates);
    }
    builder.build().map_err(|error| FarmError::Settings(format!("prepare TLS: {error}")))
}

impl Api {
    /// Requires at least one server, such as `https://farm.example`.
    pub(crate) fn new(client: Client, servers: Vec<String>, token: String) -> Self {
        let (current, away) = (AtomicUsize::new(0), AtomicBool::new(false));
        Self { client, servers, token, current, away }
    }

    /// The server that answered last.
    pub(crate) fn server(&self) -> &str {
        &self.servers[self.current.load(Ordering::Relaxed) % self.servers.len()]
    }

    /// Makes one attempt with each server in turn until one answers.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        limit: Option<Duration>,
    ) -> Result<T, ApiError> {
        let body = serde_json::to_vec(body).expect("messages are plain data");
        let mut last = ApiError::Away("there is no server".into());
        for _ in 0..self.servers.len() {
            let request =
                self.to_server(Method::POST, path).header(CONTENT_TYPE, "application/json");
            let request = request.body(body.clone()).timeout(limit.unwrap_or(ANSWER));
            let answer = match self.send(request, true).await {
                Ok(response) => response.bytes().await.map_err(|error| self.lost(&error, true)),
                Err(error) => Err(error),
            };
            match answer {
                Ok(bytes) => {
                    let bytes = if bytes.is_empty() { &b"null"[..] } else { &bytes };
                    return serde_json::from_slice(bytes).map_err(|error| ApiError::Refused {
                        status: 200,
                        code: "garbled".into(),
                        detail: format!("{} answered what makes no sense: {error}", self.server()),
                    });
                }
                Err(error) if error.is_retryable() => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    /// Repeats the request until a server answers.
    pub(crate) async fn post_patiently<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ApiError> {
        let mut backoff = Backoff::default();
        loop {
            match self.post(path, body, None).await {
                Err(error) if error.is_retryable() => {
                    tracing::debug!(%error, path, "trying again");
                    backoff.wait().await;
                }
                answer => return answer,
            }
        }
    }

    /// A request to the current server.
    pub(crate) fn to_server(&self, method: Method, path: &str) -> RequestBuilder {
        let mut token = HeaderValue::from_str(&format!("Bearer {}", self.token))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        token.set_sensitive(true);
        let url = format!("{}{path}", self.server());
        self.client.request(method, url).header(AUTHORIZATION, token)
    }

    /// A request to the target of a link. A path refers to one of this farm's servers. Other hosts never receive the
    /// worker's token.
    pub(crate) fn to_link(&self, method: Method, link: &Link) -> Result<RequestBuilder, ApiError> {
        let mut request = if link.is_ours() {
            self.to_server(method, &link.url)
        } else {
            self.client.request(method, &link.url)
        };
        for (name, value) in &link.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) else {
                let detail = "a link has headers that are none".to_owned();
                return Err(ApiError::Refused { status: 200, code: "garbled".into(), detail });
            };
            // The length is set by whoever sends the body.
            if name != reqwest::header::CONTENT_LENGTH && name != reqwest::header::HOST {
                request = request.header(name, value);
            }
        }
        Ok(request)
    }

    /// Makes one attempt to send a request. `ours`: it goes to a server of the farm, which stops being the current one
    /// if it does not answer.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        ours: bool,
    ) -> Result<Response, ApiError> {
        let response = request.send().await.map_err(|error| self.lost(&error, ours))?;
        let status = response.status();
        if ours && status != StatusCode::SERVICE_UNAVAILABLE {
            self.found();
        }
        if status.is_success() {
            return Ok(response);
        }
        let later = matches!(status.as_u16(), 408 | 425 | 429 | 500..=599);
        let problem = read_problem(response).await;
        if later {
            let error = format!("{} {status}", problem.detail);
            return Err(if ours { self.next(error) } else { ApiError::Away(error) });
        }
        let Problem { code, detail, .. } = problem;
        Err(ApiError::Refused { status: status.as_u16(), code, detail })
    }

    /// The error for a connection that broke.
    pub(crate) fn lost(&self, error: &reqwest::Error, ours: bool) -> ApiError {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(next) = cause {
            text = format!("{text}: {next}");
            cause = next.source();
        }
        if ours { self.next(text) } else { ApiError::Away(text) }
    }

    fn next(&self, error: String) -> ApiError {
        if !self.away.swap(true, Ordering::Relaxed) {
            tracing::warn!(server = self.server(), error, "a server does not answer");
        }
        self.current.fetch_add(1, Ordering::Relaxed);
        ApiError::Away(error)
    }

    fn found(&self) {
        if self.away.swap(false, Ordering::Relaxed) {
            tracing::info!(server = self.server(), "a server answers again");
        }
    }
}

/// Reads the error in a response. Other servers use a different format.
async fn read_problem(mut response: Response) -> Problem {
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        bytes.extend_from_slice(&piece);
        if bytes.len() > REFUSAL_BYTES_MAX {
            break;
        }
    }
    serde_json::from_slice(&bytes).unwrap_or_else(|_| {
        let text = String::from_utf8_lossy(&bytes);
        let detail = text.chars().take(300).collect::<String>().trim().to_owned();
        Problem { code: UNKNOWN.into(), detail, ..Problem::default() }
    })
}
