//! Requests about runs to a server; its responses are converted to the types that describe runs on this machine, so
//! that the same code prints both.

use crate::client::connection::{Connection, as_json};
use pictor_api::{Changed, RunPatch};
use pictor_server::{Request, Response};
use pictor_tasks::history::{Control, Event};
use reqwest::Method;

/// Sends a request to a server.
pub(crate) async fn request_of(server: &Connection, request: Request) -> anyhow::Result<Response> {
    Ok(match request {
        Request::Runs { state, owner, name, limit, after } => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(state.map(|state| ("state", state.name().to_owned())));
            query.extend(owner.map(|owner| ("owner", owner)));
            query.extend(name.map(|name| ("name", name)));
            query.extend(after.map(|after| ("after", after)));
            Response::Runs(server.get(&["runs"], &query).await?)
        }
        Request::Show { run } => Response::Run(server.get(&["runs", &run], &[]).await?),
        Request::Tasks { run, state, step, dims, limit, after } => {
            let dims: Vec<(String, String)> =
                dims.into_iter().map(|(dim, value)| (format!("dim.{dim}"), value)).collect();
            let mut query: Vec<(&str, String)> =
                dims.iter().map(|(dim, value)| (&**dim, value.clone())).collect();
            query.push(("limit", limit.to_string()));
            query.extend(state.map(|state| ("state", state.name().to_owned())));
            query.extend(step.map(|step| ("step", step)));
            query.extend(after.map(|after| ("after", after)));
            Response::Tasks(server.get(&["runs", &run, "tasks"], &query).await?)
        }
        Request::Task { run, task } => {
            Response::Task(server.get(&["runs", &run, "tasks", &task], &[]).await?)
        }
        Request::Control { run, control } => {
            Response::Changed(Box::new(control_run(server, &run, control).await?.run))
        }
        Request::Retry { run, request, .. } => {
            let path = ["runs", &run, "retry"];
            Response::Reset(server.order_once(&path, Some(&as_json(&request))).await?)
        }
    })
}

/// Changes a run. Repeating any of these changes has no further effect.
async fn control_run(server: &Connection, run: &str, control: Control) -> anyhow::Result<Changed> {
    let verb = match control.event {
        Event::Paused => "pause",
        Event::Resumed => "resume",
        Event::Cancelled => "cancel",
        Event::Priority(priority) => {
            let body = as_json(&RunPatch { priority });
            return Ok(server.order(Method::PATCH, &["runs", run], Some(&body)).await?);
        }
        Event::Reset(_) | Event::Changed(_) | Event::Removed(_) => {
            anyhow::bail!("this is no change of a whole run")
        }
    };
    Ok(server.order(Method::POST, &["runs", run, verb], None).await?)
}
