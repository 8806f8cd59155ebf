//! `pictor workers` and `pictor token`: the machines of a farm, and access to its server.

use crate::SUCCEEDED;
use crate::client::args::{TokenCommand, WorkersArgs};
use crate::client::connection::{Call, Connection, as_json};
use crate::terminal::{duration, explain, programs, say, table};
use pictor_api::{
    Gpu, MadeToken, NewToken, RevokedToken, Service, TokenRole, TokenView, Worker, WorkerPatch,
};
use pictor_server::now_ms;
use reqwest::Method;

/// Most workers or tokens that are listed.
const LISTED: usize = 100_000;

/// `pictor token`: adds, lists or revokes tokens.
pub(crate) async fn token(
    server: &Connection,
    command: TokenCommand,
    json: bool,
) -> anyhow::Result<u8> {
    match command {
        TokenCommand::Add { name, role, account } => {
            let account = account.unwrap_or_else(|| name.clone());
            let body = as_json(&NewToken { name, role, account });
            let made: MadeToken = server.order_once(&["tokens"], Some(&body)).await?;
            if json {
                say(&serde_json::to_string(&made)?);
            } else {
                // Only the token goes to standard output: `pictor token add … > FILE`.
                explain(&format!(
                    "{} may act as {} for {}",
                    made.id,
                    made.role.name(),
                    made.account
                ));
                say(&made.token);
            }
        }
        TokenCommand::List => {
            let tokens: Vec<TokenView> = server.list(&["tokens"], &[], LISTED).await?;
            if json {
                return crate::inspect::json_lines(&tokens);
            }
            let rows: Vec<Vec<String>> = tokens.iter().map(token_row).collect();
            say(&table(&["TOKEN", "NAME", "ROLE", "ACCOUNT", "MADE", "STATE"], &rows));
        }
        TokenCommand::Revoke { id, keep_machines } => {
            let path = ["tokens", id.as_str()];
            let query: &[_] = &[("keep_machines", "true".to_owned())];
            let query = if keep_machines { query } else { &[] };
            let call = Call { method: Method::DELETE, query, ..Call::get(&path) };
            let said: RevokedToken = server.ask(&call).await?;
            if json {
                say(&serde_json::to_string(&said)?);
                return Ok(SUCCEEDED);
            }
            say(&format!("{id} is worthless now"));
            for worker in said.machines {
                say(&format!("worker {worker} is shut out with it"));
            }
        }
    }
    Ok(SUCCEEDED)
}

fn ago(time_ms: i64) -> String {
    format!("{} ago", duration((now_ms() - time_ms).unsigned_abs()))
}

fn token_row(token: &TokenView) -> Vec<String> {
    let state =
        token.revoked_ms.map_or_else(|| "valid".into(), |at| format!("revoked {}", ago(at)));
    let role = token.role.map_or("damaged", TokenRole::name).to_owned();
    let made = ago(token.created_ms);
    vec![token.id.clone(), token.name.clone(), role, token.account.clone(), made, state]
}

/// `pictor workers`: lists workers, or shows or changes one.
pub(crate) async fn workers(
    server: &Connection,
    args: WorkersArgs,
    json: bool,
) -> anyhow::Result<u8> {
    let Some(id) = args.worker else {
        let workers: Vec<Worker> = server.list(&["workers"], &[], LISTED).await?;
        if json {
            return crate::inspect::json_lines(&workers);
        }
        let rows: Vec<Vec<String>> = workers.iter().map(worker_row).collect();
        say(&table(&["WORKER", "NAME", "STATE", "TASKS", "GPUS", "SEEN", "REASON"], &rows));
        return Ok(SUCCEEDED);
    };
    let id = id.to_string();
    let path = ["workers", &id];
    let worker: Worker = match args.set {
        Some(state) => {
            let body = as_json(&WorkerPatch { state });
            server.order(Method::PATCH, &path, Some(&body)).await?
        }
        None => server.get(&path, &[]).await?,
    };
    if json {
        return crate::inspect::json_lines(&[worker]);
    }
    say(&worker_text(&worker));
    Ok(SUCCEEDED)
}

/// The most important state: a worker that is away does not work, whatever its setting.
fn state(worker: &Worker) -> &'static str {
    match (worker.online, worker.accepts) {
        (false, _) => "away",
        (true, false) if worker.state == Service::Enabled => "resting",
        (true, _) => worker.state.name(),
    }
}

fn worker_row(worker: &Worker) -> Vec<String> {
    let gpus = &worker.inventory.gpus;
    let gpus = match gpus.first() {
        Some(gpu) if gpus.len() > 1 => format!("{} x {}", gpus.len(), gpu.name),
        Some(gpu) => gpu.name.clone(),
        None => "none".into(),
    };
    vec![
        worker.id.to_string(),
        worker.name.clone(),
        state(worker).into(),
        format!("{}/{}", worker.tasks, worker.slots),
        gpus,
        ago(worker.seen_ms),
        worker.reason.clone(),
    ]
}

fn worker_text(worker: &Worker) -> String {
    let has = &worker.inventory;
    let gib = |bytes: u64| format!("{} GiB", bytes >> 30);
    let mut lines = vec![format!("{}  {}  {}", worker.id, worker.name, state(worker))];
    lines.extend(Some(worker.reason.clone()).filter(|reason| !reason.is_empty()));
    let (registered, seen) = (ago(worker.registered_ms), ago(worker.seen_ms));
    lines.push(format!("of {}, registered {registered}, heard of {seen}", worker.account));
    lines.push(format!("{} tasks in {} slots", worker.tasks, worker.slots));
    lines.push(format!(
        "{} processors, {} of memory, {} of free disk",
        has.cpus,
        gib(has.memory_bytes),
        gib(has.disk_bytes)
    ));
    let gpu =
        |gpu: &Gpu| format!("GPU {}: {}, driver {}", gpu.name, gib(gpu.vram_bytes), gpu.driver);
    lines.extend(has.gpus.iter().map(gpu));
    let blenders = has.blenders.iter().map(|b| (&*b.version, &b.devices));
    lines.push(programs(&has.software, blenders).join(", "));
    lines.extend(has.blenders.iter().flat_map(|blender| blender.notes.clone()));
    lines.join("\n")
}
