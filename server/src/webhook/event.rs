//! The events that webhooks report: derived from what is committed, and from nothing else.

use pictor_engine::RunState;
use pictor_storage::{RunRecord, WorkerRecord};
use pictor_tasks::message::{RunId, WorkerId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Kind of event that a webhook can subscribe to.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
pub enum EventKind {
    /// A run has succeeded: every task that had to succeed did.
    #[serde(rename = "run.succeeded")]
    RunSucceeded,
    /// A run has ended and failed.
    #[serde(rename = "run.failed")]
    RunFailed,
    /// A run was cancelled.
    #[serde(rename = "run.cancelled")]
    RunCancelled,
    /// A worker was silent for the length of a lease.
    #[serde(rename = "worker.lost")]
    WorkerLost,
}

impl EventKind {
    /// Every kind of event.
    pub fn all() -> Vec<Self> {
        vec![Self::RunSucceeded, Self::RunFailed, Self::RunCancelled, Self::WorkerLost]
    }

    /// The kind of event for a run that has ended in this state.
    fn of(state: RunState) -> Option<Self> {
        match state {
            RunState::Succeeded => Some(Self::RunSucceeded),
            RunState::Failed => Some(Self::RunFailed),
            RunState::Cancelled => Some(Self::RunCancelled),
            RunState::Running | RunState::Paused => None,
        }
    }
}

/// An event to be reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Happened {
    pub(super) kind: EventKind,
    pub(super) id: String,
    pub(super) time_ms: i64,
    pub(super) body: String,
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    event: EventKind,
    time_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<RunBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<WorkerBody<'a>>,
}

#[derive(Serialize)]
struct RunBody<'a> {
    id: &'a RunId,
    name: &'a str,
    state: &'a str,
    owner: &'a str,
    priority: i32,
    created_ms: i64,
    finished_ms: i64,
}

#[derive(Serialize)]
struct WorkerBody<'a> {
    id: WorkerId,
    name: &'a str,
    account: &'a str,
    seen_ms: i64,
}

/// The event of a stored run that has ended. Returns `None` if it has not ended.
pub(super) fn of_record(record: &RunRecord) -> Option<Happened> {
    of_end(record, record.state, record.finished_ms?)
}

/// The event of a run that ended at `time_ms`, whatever its state is now. If it is reset and ends again, that is
/// another event, because it ends at another time.
pub(super) fn of_end(record: &RunRecord, state: RunState, time_ms: i64) -> Option<Happened> {
    let kind = EventKind::of(state)?;
    let id = id(&format!("{}\n{}\n{time_ms}", state.name(), record.id));
    let run = RunBody {
        id: &record.id,
        name: &record.name,
        state: state.name(),
        owner: &record.account,
        priority: record.priority,
        created_ms: record.created_ms,
        finished_ms: time_ms,
    };
    let body = Body { id: &id, event: kind, time_ms, run: Some(run), worker: None };
    let body = serde_json::to_string(&body).expect("a body is plain data");
    Some(Happened { kind, id, time_ms, body })
}

/// The event of the loss of a worker, noticed at `now_ms`. It stays the same until the worker is seen again.
pub(super) fn of_loss(record: &WorkerRecord, now_ms: i64) -> Happened {
    let kind = EventKind::WorkerLost;
    let id = id(&format!("lost\n{}\n{}", record.id.0, record.seen_ms));
    let WorkerRecord { id: worker, name, account, seen_ms, .. } = record;
    let worker = WorkerBody { id: *worker, name, account, seen_ms: *seen_ms };
    let body = Body { id: &id, event: kind, time_ms: now_ms, run: None, worker: Some(worker) };
    let body = serde_json::to_string(&body).expect("a body is plain data");
    Happened { kind, id, time_ms: now_ms, body }
}

/// The time of the event in a stored body.
pub(super) fn time_of(body: &str) -> Option<i64> {
    let body: serde_json::Value = serde_json::from_str(body).ok()?;
    body["time_ms"].as_i64()
}

/// An id derived from `what`. It contains no `.`, as the specification requires.
fn id(what: &str) -> String {
    let hash = blake3::hash(what.as_bytes());
    format!("evt_{}", &hash.to_hex()[..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: RunState, finished_ms: Option<i64>) -> RunRecord {
        RunRecord {
            id: RunId("still-1".into()),
            name: "still".into(),
            source_name: String::new(),
            fold_version: 1,
            account: "ada".into(),
            priority: 0,
            created_ms: 1,
            out_dir: String::new(),
            state,
            finished_ms,
        }
    }

    #[test]
    fn an_end_is_the_same_event_whether_it_is_heard_of_or_looked_up() {
        let heard = of_end(&record(RunState::Running, None), RunState::Failed, 7).unwrap();
        let found = of_record(&record(RunState::Failed, Some(7))).unwrap();
        assert_eq!(heard, found);
        let body: serde_json::Value = serde_json::from_str(&found.body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "id": found.id, "event": "run.failed", "time_ms": 7,
                "run": {
                    "id": "still-1", "name": "still", "state": "failed", "owner": "ada",
                    "priority": 0, "created_ms": 1, "finished_ms": 7,
                }
            })
        );
        assert_eq!(time_of(&found.body), Some(7));
        let again = of_record(&record(RunState::Failed, Some(8))).unwrap();
        assert_ne!(again.id, found.id);
        assert_eq!(of_record(&record(RunState::Paused, None)), None);
    }
}
