//! Tokens and the audit log.

use super::Api;
use super::auth::{Purpose, mint};
use super::caller::Caller;
use super::extract::{Json, Path, Query};
use super::guard::Target;
use super::paging::{Name, Paging};
use super::refusal::Refusal;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pictor_api::{AuditView, Code, MadeToken, NewToken, Page, RevokedToken, TokenRole, TokenView};
use pictor_storage::{AuditEntry, ListedToken, Token};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Longest name of a token or account, in characters.
const NAME_CHARS_MAX: usize = 64;

fn view(token: ListedToken) -> TokenView {
    let ListedToken { id, name, role, account, created_ms, revoked_ms } = token;
    TokenView { id, name, role, account, created_ms, revoked_ms }
}

/// Lists tokens, oldest first, including revoked ones.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens", params(Paging<Name>),
    responses((status = 200, description = "Tokens", body = Page<TokenView>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(paging): Query<Paging<Name>>,
) -> Result<Json<Page<TokenView>>, Refusal> {
    let limit = api.limits.page(paging.limit)?;
    let tokens = api.registry.tokens().await?;
    let from = match &paging.after {
        None => 0,
        Some(Name(after)) => {
            let found = tokens.iter().position(|token| token.id == *after);
            let gone = || Refusal::not_found(format_args!("token `{after}` to go on after"));
            found.ok_or_else(gone)? + 1
        }
    };
    let views = tokens.into_iter().skip(from).map(view);
    Ok(Json(Page::of(views, limit, |token| token.id.clone())))
}

/// Creates a token. It is shown once.
#[utoipa::path(
    post, path = "/v1/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, description = "The token", body = MadeToken)),
)]
pub(super) async fn add(
    State(api): State<Arc<Api>>,
    Json(new): Json<NewToken>,
) -> Result<Response, Refusal> {
    let length = |text: &str| (1..=NAME_CHARS_MAX).contains(&text.chars().count());
    if !length(&new.name) || new.name.starts_with(' ') || new.name.chars().any(char::is_control) {
        let detail = "`name` has to be 1 to 64 printable characters, the first not a space";
        return Err(Refusal::invalid(detail));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-');
    if !length(&new.account) || !new.account.bytes().all(plain) {
        return Err(Refusal::invalid(
            "`account` has to be 1 to 64 letters, digits, `.`, `_`, `@` and `-`",
        ));
    }
    if new.role == TokenRole::Machine {
        return Err(Refusal::invalid("a machine gets its token when it is registered as a worker"));
    }
    let purpose = Purpose { name: &new.name, role: new.role, account: &new.account };
    let minted = mint(&purpose, (api.now_ms)());
    api.registry.add_token(&minted.record).await?;
    let Token { id, name, account, created_ms, .. } = minted.record;
    let target = Extension(Target(format!("tokens/{id}")));
    let made = MadeToken { token: minted.text, id, name, role: new.role, account, created_ms };
    Ok((StatusCode::CREATED, target, Json(made)).into_response())
}

/// What else to do when a token is revoked.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RevokeQuery {
    /// Whether machines that enrolled with the token may go on. Without this their tokens are revoked with it.
    keep_machines: Option<bool>,
}

/// Revokes a token. From then on it is rejected. Machines that enrolled with it are shut out with it.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "Its public part"), RevokeQuery),
    responses((status = 200, description = "It is not valid any more", body = RevokedToken)),
)]
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<RevokeQuery>,
) -> Result<Json<RevokedToken>, Refusal> {
    let missing = || Refusal::not_found(format_args!("token `{id}`"));
    // A damaged token can be revoked as well, and may be a machine's.
    let tokens = api.registry.tokens().await?;
    let token = tokens.into_iter().find(|token| token.id == id).ok_or_else(missing)?;
    if token.id == caller.token {
        let detail = "a token cannot revoke itself: the last one would lock everybody out";
        return Err(Refusal::new(Code::Conflict, detail));
    }
    let mut revoked = BTreeSet::from([id.clone()]);
    if !query.keep_machines.unwrap_or(false) {
        // Those that were revoked before as well, in case that call has not come to its end.
        let machines = api.registry.machines_of(&id).await?;
        revoked.extend(machines.into_iter().map(|machine| machine.id));
    }
    for token in &revoked {
        api.registry.revoke_token(token, (api.now_ms)()).await?;
        api.tokens.forget(token);
    }
    let machines = api.shut_out(&revoked).await?;
    Ok(Json(RevokedToken { id, machines }))
}

fn entry(entry: AuditEntry) -> AuditView {
    let AuditEntry { number, time_ms, account, token, action, target, detail, address } = entry;
    let detail = serde_json::from_str(&detail).unwrap_or_default();
    AuditView { number, time_ms, account, token, action, target, detail, address }
}

/// Lists who changed what, latest first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "tokens", params(Paging<u64>),
    responses((status = 200, description = "Entries of the audit log", body = Page<AuditView>)),
)]
pub(super) async fn audit(
    State(api): State<Arc<Api>>,
    Query(paging): Query<Paging<u64>>,
) -> Result<Json<Page<AuditView>>, Refusal> {
    let limit = api.limits.page(paging.limit)?;
    let before = paging.after.map(|after| i64::try_from(after).unwrap_or(i64::MAX));
    let count = u32::try_from(limit).unwrap_or(u32::MAX);
    let entries = api.registry.audit_page(count, before).await?;
    let next = entries.last().filter(|_| entries.len() == limit);
    let next = next.map(|entry| entry.number.to_string());
    Ok(Json(Page { items: entries.into_iter().map(entry).collect(), next }))
}
