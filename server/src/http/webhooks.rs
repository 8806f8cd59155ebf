//! The status of the webhooks that the configuration names.

use super::Api;
use super::extract::{Json, Query};
use super::paging::{Name, Paging};
use super::refusal::Refusal;
use crate::webhook::HookStatus;
use axum::extract::State;
use pictor_api::Page;
use std::sync::Arc;

/// Lists webhooks with their status, in order of name.
///
/// They are added and removed only in the server's configuration.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks", params(Paging<Name>),
    responses((status = 200, description = "Webhooks", body = Page<HookStatus>)),
)]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(paging): Query<Paging<Name>>,
) -> Result<Json<Page<HookStatus>>, Refusal> {
    let limit = api.limits.page(paging.limit)?;
    let after = paging.after.map_or_else(String::new, |Name(after)| after);
    let mut hooks = api.webhooks.status().await?;
    hooks.sort_by(|one, other| one.name.cmp(&other.name));
    let hooks = hooks.into_iter().filter(|hook| hook.name > after);
    Ok(Json(Page::of(hooks, limit, |hook| hook.name.clone())))
}
