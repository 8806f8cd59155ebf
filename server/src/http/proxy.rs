//! A standby forwards every request to the owner, streaming bodies in both directions, so that clients and workers can
//! talk to any server.

use super::Api;
use super::refusal::Refusal;
use crate::role::ServerRole;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Header with the address that a server forwards a request for. A request that has it is not forwarded again.
const FORWARDED: HeaderName = HeaderName::from_static("x-pictor-forwarded");
/// Header that proves that a server of the farm has named this address: without it the address is not believed.
const PROOF: HeaderName = HeaderName::from_static("x-pictor-forwarded-proof");
/// What the key of the proofs is derived for.
const PURPOSE: &str = "pictor 2026: requests that one server forwards to another";
/// How long to wait for that key while the database does not answer.
const KEY: Duration = Duration::from_millis(500);

/// Headers that belong to one connection only.
const OF_A_CONNECTION: [HeaderName; 8] = [
    header::CONNECTION,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// Handles the request if this server is the owner, else forwards it to the owner.
pub(super) async fn proxy(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    let owner = match &*api.role.borrow() {
        ServerRole::Owner(_) => None,
        ServerRole::Standby { owner } => Some(owner.clone()),
    };
    match owner {
        None => next.run(request).await,
        Some(Some(owner)) if !request.headers().contains_key(FORWARDED) => {
            pass_on(&api, &owner, request).await.unwrap_or_else(IntoResponse::into_response)
        }
        Some(_) => Refusal::no_owner().into_response(),
    }
}

async fn pass_on(api: &Api, owner: &str, request: Request) -> Result<Response, Refusal> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let url = format!("{}{path}", owner.trim_end_matches('/'));
    let mut headers = without_connection(&parts.headers);
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or_else(|| "?".to_owned(), |ConnectInfo(peer)| peer.ip().to_string());
    let peer = HeaderValue::from_str(&peer).unwrap_or(HeaderValue::from_static("?"));
    if let Some(proof) = api.forward_proof(&peer, &headers).await {
        let proof = HeaderValue::from_str(proof.to_hex().as_str());
        headers.insert(PROOF, proof.expect("hexadecimal digits"));
    }
    headers.insert(FORWARDED, peer);
    let body = reqwest::Body::wrap_stream(body.into_data_stream());
    let sent = api.http.request(parts.method, url).headers(headers).body(body).send().await;
    let answer = sent.map_err(|error| {
        tracing::warn!(%error, owner, "a request could not be passed on");
        Refusal::no_owner()
    })?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = answer.status();
    *response.headers_mut() = without_connection(answer.headers());
    let mut stop = api.stop.clone();
    // Endless responses would keep this server from stopping.
    let stopped = Box::pin(async move { stop.wait_for(|stop| *stop).await.is_ok() });
    *response.body_mut() = Body::from_stream(answer.bytes_stream().take_until(stopped));
    Ok(response)
}

impl Api {
    /// The address that another server of the farm has forwarded a request for.
    pub(super) async fn forwarded_for(&self, headers: &HeaderMap) -> Option<String> {
        let (address, proof) = (headers.get(FORWARDED)?, headers.get(PROOF)?.to_str().ok()?);
        // Digests compare in constant time.
        let right =
            self.forward_proof(address, headers).await? == blake3::Hash::from_hex(proof).ok()?;
        right.then(|| address.to_str().ok().map(str::to_owned))?
    }

    /// What proves that a server forwards a request for this address. It needs the secret that the servers of a farm
    /// share in their database, and belongs to the token of the request.
    async fn forward_proof(
        &self,
        address: &HeaderValue,
        headers: &HeaderMap,
    ) -> Option<blake3::Hash> {
        let key = self.forward_key.get_or_try_init(|| async {
            match timeout(KEY, self.store.owner()).await {
                Ok(Ok(Some(owner))) => Ok(blake3::derive_key(PURPOSE, &owner.ticket_key)),
                _ => Err(()),
            }
        });
        let token = headers.get(header::AUTHORIZATION).map_or(&[] as &[u8], HeaderValue::as_bytes);
        let content = [address.as_bytes(), b"\n", token].concat();
        Some(blake3::keyed_hash(key.await.ok()?, &content))
    }
}

fn without_connection(headers: &HeaderMap) -> HeaderMap {
    let mut headers = headers.clone();
    for name in &OF_A_CONNECTION {
        headers.remove(name);
    }
    headers
}
