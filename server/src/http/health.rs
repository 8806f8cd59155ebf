//! Whether the server lives, and whether it can be asked.

use super::Api;
use super::extract::Json;
use super::problem::{Code, Problem};
use crate::role::Role;
use axum::extract::State;
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// What a server is.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Health {
    /// `owner` or `standby`.
    pub role: String,
    /// The owner's address, if this server stands by.
    pub owner: Option<String>,
}

fn health(api: &Api) -> Health {
    let (role, owner) = match &*api.role.borrow() {
        Role::Owner(_) => ("owner", None),
        Role::Standby { owner } => ("standby", owner.clone()),
    };
    Health { role: role.to_owned(), owner }
}

/// Says that the server lives.
#[utoipa::path(
    get, path = "/healthz", tag = "server", security(()),
    responses((status = 200, description = "It lives", body = Health)),
)]
pub(super) async fn healthz(State(api): State<Arc<Api>>) -> Json<Health> {
    Json(health(&api))
}

/// Says whether questions would be answered: the database answers, and somebody owns the farm.
#[utoipa::path(
    get, path = "/readyz", tag = "server", security(()),
    responses((status = 200, description = "It is ready", body = Health)),
)]
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<Json<Health>, Problem> {
    let health = health(&api);
    if health.role == "standby" && health.owner.is_none() {
        return Err(Problem::no_owner());
    }
    api.store.owner().await?;
    if let Ok(owner) = api.owner() {
        let answer = tokio::time::timeout(std::time::Duration::from_secs(5), owner.ask(|_| ()));
        let late = |_| Problem::new(Code::Unavailable, "the owner does not answer").retry_after(5);
        answer.await.map_err(late)??;
    }
    Ok(Json(health))
}
