//! The checks that every request of the API passes: authentication, rate limit, permission; and its entry in the audit
//! log.

use super::Api;
use super::caller::Caller;
use super::extract::NUL;
use super::limits::Rate;
use super::memory::Outage;
use super::refusal::Refusal;
use super::rules::{Rule, rule};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{HeaderMap, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pictor_api::{Code, TokenRole};
use pictor_storage::AuditEntry;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long to wait for the look-up of a token or the writing of an audit entry while the database cannot be used;
/// below, how long for a response.
const LOOK_UP: Duration = Duration::from_millis(500);
pub(super) const ANSWER: Duration = Duration::from_secs(2);
/// Calls of one token that its role does not allow and that are recorded nevertheless; below, calls from one address
/// without a valid token that are answered as such.
const REFUSED: Rate = Rate { per_second: 0.1, burst: 20.0 };
const UNKNOWN: Rate = Rate { per_second: 10.0, burst: 200.0 };

/// The object of a call whose path does not name it. Handlers add it to the response.
#[derive(Clone, Debug)]
pub(super) struct Target(pub(super) String);

/// Passes on requests that the rules allow, and writes the audit log.
pub(super) async fn guard(
    State(api): State<Arc<Api>>,
    path: MatchedPath,
    mut request: Request,
    next: Next,
) -> Response {
    let Some(rule) = rule(request.method().as_str(), path.as_str()) else {
        return Refusal::new(Code::Forbidden, "this route is closed").into_response();
    };
    let began = Instant::now();
    let address = api.address(peer(&request), request.headers()).await;
    let hurry = api.memory.gives_up(began + LOOK_UP);
    let caller = match api.tokens.identify(&*api.registry, request.headers(), address, hurry).await
    {
        Ok(caller) => caller,
        Err(problem) if problem.code == Code::Unauthorized => {
            let from = peer(&request);
            tracing::debug!(from, "a call without a valid token");
            let often = api
                .buckets
                .take(&format!("unknown {from}"), UNKNOWN, "requests without a valid token")
                .err();
            return often.unwrap_or(problem).into_response();
        }
        Err(problem) => return problem.into_response(),
    };
    let limits = &api.limits;
    let machine = caller.role == TokenRole::Machine;
    let rate = if machine { limits.machine_rate } else { limits.rate };
    if let Err(problem) = api.buckets.take(&caller.token, rate, "requests with this token") {
        return problem.into_response();
    }
    let target = request.uri().path().trim_start_matches("/v1/").to_owned();
    let allowed = caller.may(rule);
    let nul = request.uri().path_and_query().is_some_and(|path| path.as_str().contains("%00"));
    let response = if allowed && nul {
        Refusal::invalid(NUL).into_response()
    } else if allowed {
        let uri = request.uri().clone();
        let asked = Asked { route: rule.path, method: rule.method, uri, caller: caller.clone() };
        request.extensions_mut().insert(caller.clone());
        answer(&api, &asked, began, next.run(request)).await
    } else {
        forbidden(rule, &caller).into_response()
    };
    // Whoever is refused again and again fills no disk with that.
    let often = || api.buckets.take(&format!("refused {}", caller.token), REFUSED, "refusals");
    let recorded = allowed || often().is_ok();
    if let Some(action) = rule.action.filter(|_| recorded) {
        let entry = entry(&api, action, target, caller, &response);
        let target = entry.target.clone();
        let written = tokio::select! {
            written = api.audit_log.write(&*api.registry, entry) => written,
            outage = api.memory.gives_up(Instant::now() + LOOK_UP) => Err(outage.why),
        };
        // The change has been made: the caller has to learn of it in any case.
        if let Err(error) = written {
            tracing::error!(%error, action, target, "an audit entry is not written");
        }
    }
    response
}

/// The request, as far as a response from memory depends on it.
pub(super) struct Asked {
    /// The path of the route as in the `OpenAPI` description.
    pub(super) route: &'static str,
    method: &'static str,
    pub(super) uri: Uri,
    pub(super) caller: Caller,
}

impl Asked {
    /// The last segment of the path.
    pub(super) fn last(&self) -> Option<&str> {
        self.uri.path().rsplit('/').next()
    }
}

/// Waits for a response. While the database cannot be used it waits no longer than a moment: then the response comes
/// from memory, or reports the outage.
async fn answer(
    api: &Api,
    asked: &Asked,
    began: Instant,
    answered: impl Future<Output = Response>,
) -> Response {
    // Bodies of uploads may be large: they wait for the database themselves.
    if asked.method == "PUT" && asked.route != "/v1/schedules/{id}" {
        return answered.await;
    }
    let mut response = tokio::select! {
        response = answered => response,
        outage = api.memory.gives_up(began + ANSWER) => {
            let response = (asked.method == "GET").then(|| api.remembered(asked, &outage)).flatten();
            return response.unwrap_or_else(|| outage.problem().into_response());
        }
    };
    let outage = api.memory.outage();
    if asked.method != "GET" {
        return response;
    }
    if response.extensions().get::<Code>() == Some(&Code::Unavailable) {
        let outage = outage.unwrap_or_else(Outage::now);
        return api.remembered(asked, &outage).unwrap_or(response);
    }
    if let Some(outage) = outage {
        outage.mark(&mut response, outage.since.elapsed());
    }
    response
}

fn forbidden(rule: &Rule, caller: &Caller) -> Refusal {
    let roles: Vec<&str> = rule.roles.iter().map(|role| role.name()).collect();
    let detail = format!(
        "a token with the role `{}` may not do this; it takes one of: {}",
        caller.role.name(),
        roles.join(", ")
    );
    Refusal::new(Code::Forbidden, detail)
}

/// The address at the other end of the connection.
fn peer(request: &Request) -> String {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    peer.map_or_else(String::new, |ConnectInfo(peer)| peer.ip().to_string())
}

impl Api {
    /// The address that a request came from; if it came through another server of the farm, also the one that this
    /// server names.
    async fn address(&self, peer: String, headers: &HeaderMap) -> String {
        match self.forwarded_for(headers).await {
            Some(said) => format!("{said} by {peer}"),
            None => peer,
        }
    }
}

/// The entry for the audit log.
fn entry(
    api: &Api,
    action: &'static str,
    target: String,
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
