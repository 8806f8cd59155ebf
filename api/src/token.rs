//! Tokens, and the log of who changed what.

use pictor_tasks::state::TokenRole;
use serde::{Deserialize, Serialize};

/// A token, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TokenView {
    /// Public part of the token.
    pub id: String,
    /// Label that says what the token is for.
    pub name: String,
    /// Role that the token has; null if the stored one is damaged, for which the token is refused.
    pub role: Option<TokenRole>,
    /// Account that the token acts for.
    pub account: String,
    /// When it was created, in milliseconds since 1970.
    pub created_ms: i64,
    /// When it was revoked, in milliseconds since 1970; null while it is valid.
    pub revoked_ms: Option<i64>,
}

/// A token that was revoked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RevokedToken {
    /// Public part of the token.
    pub id: String,
    /// Numbers of the workers that are shut out with it: the machine whose token it is, or those that enrolled with it.
    pub machines: Vec<u32>,
}

/// A token to be created.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Label that says what the token is for: 1 to 64 characters, the first not a space and none a control character.
    #[cfg_attr(
        feature = "openapi",
        schema(
            min_length = 1,
            max_length = 64,
            pattern = r"^[^\u0000-\u0020\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$"
        )
    )]
    pub name: String,
    /// Role that the token gets.
    #[cfg_attr(feature = "openapi", schema(schema_with = given_role))]
    pub role: TokenRole,
    /// Account that the token acts for: 1 to 64 letters, digits, `.`, `_`, `@` and `-`.
    #[cfg_attr(
        feature = "openapi",
        schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9._@-]+$")
    )]
    pub account: String,
}

/// The roles that can be requested: a machine gets its role by its registration.
#[cfg(feature = "openapi")]
fn given_role() -> utoipa::openapi::schema::Object {
    use utoipa::openapi::schema::{ObjectBuilder, Type};
    let given = TokenRole::ALL.into_iter().filter(|role| *role != TokenRole::Machine);
    let role = ObjectBuilder::new().schema_type(Type::String);
    let role = role.enum_values(Some(given.map(TokenRole::name)));
    role.description(Some("What it may do.")).build()
}

/// A token that was just created.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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

/// One entry of the audit log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub detail: serde_json::Value,
    /// Network address of the caller.
    pub address: String,
}
