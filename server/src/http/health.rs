//! Whether the server is alive, and whether it is ready for requests.

use super::Api;
use super::extract::Json;
use super::refusal::Refusal;
use crate::role::ServerRole;
use axum::extract::State;
use pictor_api::Code;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use utoipa::ToSchema;

/// Time limit for the check: a server that takes longer is not ready.
const LATE: Duration = Duration::from_secs(4);

/// State of a server: its role, and whether the database can be used.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Health {
    /// `owner` or `standby`.
    pub role: String,
    /// Address of the owner, if this server stands by and there is one.
    pub owner: Option<String>,
    /// Why the database cannot be used, if there is an outage. Requests are then answered from memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub outage: Option<String>,
}

fn health(api: &Api) -> Health {
    let (role, owner) = match &*api.role.borrow() {
        ServerRole::Owner(_) => ("owner", None),
        ServerRole::Standby { owner } => ("standby", owner.clone()),
    };
    let outage = api.memory.outage().map(|outage| outage.why.to_string());
    Health { role: role.to_owned(), owner, outage }
}

/// Reports that the server is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "server", security(()),
    responses((status = 200, description = "It lives", body = Health)),
)]
pub(super) async fn healthz(State(api): State<Arc<Api>>) -> Json<Health> {
    Json(health(&api))
}

/// Reports whether requests would be answered: the database responds, and a server owns the farm.
#[utoipa::path(
    get, path = "/readyz", tag = "server", security(()),
    responses((status = 200, description = "It is ready", body = Health)),
)]
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<Json<Health>, Refusal> {
    let health = health(&api);
    if health.role == "standby" && health.owner.is_none() {
        return Err(Refusal::no_owner());
    }
    if let Some(outage) = api.memory.outage() {
        return Err(outage.problem());
    }
    let answers = async {
        api.store.owner().await?;
        match api.owner() {
            Ok(owner) => Ok::<_, Refusal>(owner.ask(|_| ()).await?),
            Err(_) => Ok(()),
        }
    };
    let late = |_| Refusal::new(Code::Unavailable, "the database does not answer").retry_after(5);
    tokio::time::timeout(LATE, answers).await.map_err(late)??;
    Ok(Json(health))
}
