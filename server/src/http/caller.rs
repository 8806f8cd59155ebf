//! Who asks, and what they may: the one type that every end point asks.

use super::refusal::Refusal;
use super::rules::Rule;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use pictor_api::TokenRole;

/// The authenticated sender of a request. What exists for it is asked here and nowhere else, before anything is looked
/// up: what belongs to somebody else is not found, as if it did not exist.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Public part of the caller's token.
    pub token: String,
    /// Role of that token, which the rules of the routes check.
    pub role: TokenRole,
    /// Account that the token acts for.
    pub account: String,
    /// Network address that the request came from.
    pub address: String,
}

impl Caller {
    /// Whether the caller may call a route at all.
    pub fn may(&self, rule: &Rule) -> bool {
        rule.roles.contains(&self.role)
    }

    /// Whether the caller may see what belongs to an account.
    pub fn sees(&self, account: &str) -> bool {
        self.only().is_none_or(|own| own == account)
    }

    /// The only account whose things exist for the caller; `None` if those of all accounts do.
    pub fn only(&self) -> Option<&str> {
        (self.role == TokenRole::Submitter).then_some(&*self.account)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        // Every route of the API is behind the guard that inserts it.
        parts
            .extensions
            .get()
            .cloned()
            .ok_or_else(|| super::auth::unauthorized("a token is needed"))
    }
}
