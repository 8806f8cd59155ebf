//! What every request of the API passes: who is it, how often, may it, and the line in the audit log.

use super::auth::{Caller, TokenRole};
use super::problem::{Code, Problem};
use super::rules::{Rule, rule};
use super::{Api, proxy};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pictor_storage::AuditEntry;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;

/// What a call was about, where its path does not say so. Put into the answer by handlers.
#[derive(Clone, Debug)]
pub(super) struct Target(pub(super) String);

/// Lets through whom the table of rules lets through, and writes the audit log.
pub(super) async fn guard(
    State(api): State<Arc<Api>>,
    path: MatchedPath,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(rule) = rule(request.method().as_str(), path.as_str()) else {
        return Problem::new(Code::Forbidden, "this route is closed").into_response();
    };
    let address = address(&request);
    let caller = match api.tokens.identify(&*api.registry, request.headers(), address).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let limits = &api.limits;
    let machine = caller.role == TokenRole::Machine;
    let rate = if machine { limits.machine_rate } else { limits.rate };
    if let Err(problem) = api.buckets.take(&caller.token, rate) {
        return problem.into_response();
    }
    let target = request.uri().path().trim_start_matches("/v1/").to_owned();
    let response = if rule.roles.contains(&caller.role) {
        request.extensions_mut().insert(caller.clone());
        next.run(request).await
    } else {
        forbidden(rule, &caller).into_response()
    };
    if let Some(action) = rule.action {
        let entry = entry(&api, (action, target), caller, &response);
        // What was done is done: the caller has to learn of it in any case.
        if let Err(error) = api.registry.audit(&entry).await {
            tracing::error!(%error, action, target = entry.target, "an audit entry is not written");
        }
    }
    response
}

fn forbidden(rule: &Rule, caller: &Caller) -> Problem {
    let roles: Vec<&str> = rule.roles.iter().map(|role| role.name()).collect();
    let detail = format!(
        "a token with the role `{}` may not do this; it takes one of: {}",
        caller.role.name(),
        roles.join(", ")
    );
    Problem::new(Code::Forbidden, detail)
}

/// Where a request came from; through another server: also what that one says.
fn address(request: &Request) -> String {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or_else(String::new, |ConnectInfo(peer)| peer.ip().to_string());
    match request.headers().get(proxy::FORWARDED).and_then(|value| value.to_str().ok()) {
        Some(said) => {
            let said: String = said.chars().take(64).collect();
            format!("{said} by {peer}")
        }
        None => peer,
    }
}

/// The line in the audit log.
fn entry(
    api: &Api,
    (action, target): (&'static str, String),
    caller: Caller,
    response: &Response,
) -> AuditEntry {
    let status = response.status();
    let code = response.extensions().get::<Code>().map(|code| code.name());
    let outcome = if status.is_success() { "done" } else { "refused" };
    AuditEntry {
        number: 0,
        time_ms: (api.now_ms)(),
        account: caller.account,
        token: caller.token,
        action: action.to_owned(),
        target: response.extensions().get::<Target>().map_or(target, |target| target.0.clone()),
        detail: json!({ "outcome": outcome, "status": status.as_u16(), "code": code }).to_string(),
        address: caller.address,
    }
}
