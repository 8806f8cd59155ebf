//! Tokens and the audit log.

use super::Api;
use super::auth::{Caller, Purpose, TokenRole, mint};
use super::extract::{Json, Path, Query};
use super::guard::Target;
use super::paging::{Name, Page, Paging};
use super::problem::{Code, Problem};
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pictor_storage::{AuditEntry, Token};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, Type};

/// Longest name of a token or account, in characters.
const NAME_CHARS_MAX: usize = 64;

/// A token, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    /// Public part of the token.
    pub id: String,
    /// Label that says what the token is for.
    pub name: String,
    /// Role that the token has.
    pub role: TokenRole,
    /// Account that the token acts for.
    pub account: String,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it was revoked, in milliseconds since 1970; null while it is valid.
    pub revoked_ms: Option<i64>,
}

impl From<Token> for TokenView {
    fn from(token: Token) -> Self {
        let Token { id, name, role, account, created_ms, revoked_ms, .. } = token;
        // A role that this version does not know grants nothing here.
        let role = TokenRole::named(&role).unwrap_or(TokenRole::Viewer);
        Self { id, name, role, account, created_ms, revoked_ms }
    }
}

/// A token to be created.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Label that says what the token is for: 1 to 64 characters, the first not a space and none a control character.
    #[schema(
        min_length = 1,
        max_length = 64,
        pattern = r"^[^\u0000-\u0020\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
    )]
    name: String,
    /// Role that the token gets.
    #[schema(schema_with = given_role)]
    role: TokenRole,
    /// Account that the token acts for: 1 to 64 letters, digits, `.`, `_`, `@` and `-`.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._@-]+$")]
    account: String,
}

/// The roles that can be requested: a machine gets its role by its registration.
fn given_role() -> Object {
    let given = TokenRole::ALL.into_iter().filter(|role| *role != TokenRole::Machine);
    let role = ObjectBuilder::new().schema_type(Type::String);
    let role = role.enum_values(Some(given.map(TokenRole::name)));
    role.description(Some("What it may do.")).build()
}

/// A token that was just created.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    /// The token itself, to be sent as `Authorization: Bearer …`. It is shown only here and cannot be recovered.
    pub token: String,
    /// Public part of the token.
    pub id: String,
    /// Label that says what the token is for.
    pub name: String,
    /// Role that the token has.
    pub role: TokenRole,
    /// Account that the token acts for.
    pub account: String,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
}

/// Lists tokens, oldest first, including revoked ones.
#[utoipa::path(
    get, path = "/v1/tokens", tag = "tokens", params(Paging<Name>),
    responses((status = 200, description = "Tokens", body = Page<TokenView>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(paging): Query<Paging<Name>>,
) -> Result<Json<Page<TokenView>>, Problem> {
    let limit = api.limits.page(paging.limit)?;
    let tokens = api.registry.tokens().await?;
    let from = match &paging.after {
        None => 0,
        Some(Name(after)) => {
            let found = tokens.iter().position(|token| token.id == *after);
            let gone = || Problem::not_found(format_args!("token `{after}` to go on after"));
            found.ok_or_else(gone)? + 1
        }
    };
    let views = tokens.into_iter().skip(from).map(TokenView::from);
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
) -> Result<Response, Problem> {
    let length = |text: &str| (1..=NAME_CHARS_MAX).contains(&text.chars().count());
    if !length(&new.name) || new.name.starts_with(' ') || new.name.chars().any(char::is_control) {
        let detail = "`name` has to be 1 to 64 printable characters, the first not a space";
        return Err(Problem::invalid(detail));
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'@' | b'-');
    if !length(&new.account) || !new.account.bytes().all(plain) {
        return Err(Problem::invalid(
            "`account` has to be 1 to 64 letters, digits, `.`, `_`, `@` and `-`",
        ));
    }
    if new.role == TokenRole::Machine {
        return Err(Problem::invalid("a machine gets its token when it is registered as a worker"));
    }
    let purpose = Purpose { name: &new.name, role: new.role, account: &new.account };
    let minted = mint(&purpose, (api.now_ms)())?;
    api.registry.add_token(&minted.record).await?;
    let Token { id, name, account, created_ms, .. } = minted.record;
    let target = Extension(Target(format!("tokens/{id}")));
    let made = MadeToken { token: minted.text, id, name, role: new.role, account, created_ms };
    Ok((StatusCode::CREATED, target, Json(made)).into_response())
}

/// Revokes a token. From then on it is rejected.
#[utoipa::path(
    delete, path = "/v1/tokens/{id}", tag = "tokens",
    params(("id" = String, Path, description = "Its public part")),
    responses((status = 204, description = "It is not valid any more")),
)]
pub(super) async fn revoke(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let missing = || Problem::not_found(format_args!("token `{id}`"));
    let token = api.registry.token(&id).await?.ok_or_else(missing)?;
    if token.id == caller.token {
        let detail = "a token cannot revoke itself: the last one would lock everybody out";
        return Err(Problem::new(Code::Conflict, detail));
    }
    api.registry.revoke_token(&id, (api.now_ms)()).await?;
    api.tokens.forget(&id);
    if TokenRole::named(&token.role) == Some(TokenRole::Machine) {
        api.shut_out(&id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}

/// One entry of the audit log.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AuditView {
    /// Position in the log.
    pub number: i64,
    /// When the call was made, in milliseconds since 1970.
    pub time_ms: i64,
    /// Account of the token that the call was made with.
    pub account: String,
    /// Public part of that token.
    pub token: String,
    /// What was done, such as `run.submit` or `token.add`.
    pub action: String,
    /// The object of the call, such as `runs/ID/pause`.
    pub target: String,
    /// Further details: outcome (`done` or `refused`), HTTP status, code of the problem.
    #[schema(value_type = Object)]
    pub detail: serde_json::Value,
    /// Network address of the caller.
    pub address: String,
}

impl From<AuditEntry> for AuditView {
    fn from(entry: AuditEntry) -> Self {
        let AuditEntry { number, time_ms, account, token, action, target, detail, address } = entry;
        let detail = serde_json::from_str(&detail).unwrap_or_default();
        Self { number, time_ms, account, token, action, target, detail, address }
    }
}

/// Lists who changed what, latest first.
#[utoipa::path(
    get, path = "/v1/audit", tag = "tokens", params(Paging<u64>),
    responses((status = 200, description = "Entries of the audit log", body = Page<AuditView>)),
)]
pub(super) async fn audit(
    State(api): State<Arc<Api>>,
    Query(paging): Query<Paging<u64>>,
) -> Result<Json<Page<AuditView>>, Problem> {
    let limit = api.limits.page(paging.limit)?;
    let before = paging.after.map(|after| i64::try_from(after).unwrap_or(i64::MAX));
    let count = u32::try_from(limit).unwrap_or(u32::MAX);
    let entries = api.registry.audit_page(count, before).await?;
    let next = entries.last().filter(|_| entries.len() == limit);
    let next = next.map(|entry| entry.number.to_string());
    Ok(Json(Page { items: entries.into_iter().map(AuditView::from).collect(), next }))
}
