//! The suite of the stores. The tests in `history`, `runs` and `registry` know nothing of the database behind a store;
//! `embedded` and `postgres` know theirs.

mod embedded;
pub(crate) mod history;
mod model;
pub(crate) mod postgres;
pub(crate) mod registry;
pub(crate) mod runs;

use pictor_storage::{Error, NewRun, Registry, RunRows, Store};
use pictor_tasks::history::{Ended, Fact, Row, TaskRef};
use pictor_tasks::message::{Execution, Outcome, Products, RunId, Try, WorkerId};
use std::sync::Arc;

/// A store that its user owns.
pub(crate) struct Stores {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) registry: Arc<dyn Registry>,
}

impl Stores {
    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn registry(&self) -> &dyn Registry {
        &*self.registry
    }

    pub(crate) fn both(&self) -> (&dyn Store, &dyn Registry) {
        (&*self.store, &*self.registry)
    }
}

pub(crate) async fn open(place: &str) -> Stores {
    let (store, registry) = pictor_storage::open(place).await.unwrap();
    store.take_ownership("here", 1).await.unwrap();
    Stores { store, registry }
}

pub(crate) fn new_run(id: &str) -> NewRun {
    NewRun {
        id: RunId(id.into()),
        name: format!("job {id}"),
        spec: "pictor: v1\nname: übung\n".to_owned(),
        source_name: "job.yaml".to_owned(),
        plan: "{\"steps\":[]}".to_owned(),
        fold_version: 1,
        account: "ann".to_owned(),
        priority: -3,
        created_ms: 1_700_000_000_000,
        out_dir: "/tmp/out".to_owned(),
    }
}

pub(crate) fn task(index: u32) -> TaskRef {
    TaskRef { step: 1, generation: 0, task: Try { index, attempt: 1 } }
}

pub(crate) fn done(seq: u64) -> Row {
    let index = u32::try_from(seq).unwrap();
    let ended = Ended {
        task: task(index),
        execution: Execution(seq.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        worker: WorkerId(7),
        started_ms: 5,
        took_ms: 3,
        outcome: Outcome::Succeeded(Products::default()),
    };
    Row { seq, time_ms: 1000, fact: Fact::Ended(ended) }
}

pub(crate) fn dones(from: u64, to: u64) -> Vec<Row> {
    (from..=to).map(done).collect()
}

pub(crate) async fn commit(store: &dyn Store, run: &RunId, rows: &[Row]) -> Result<(), Error> {
    store.commit(&[RunRows { run, rows, state: None }]).await
}

pub(crate) async fn history(store: &dyn Store, run: &RunId, from: u64) -> Vec<Row> {
    let mut rows = Vec::new();
    let last = store.load_history(run, from, &mut |row| rows.push(row)).await.unwrap();
    assert!(rows.last().is_none_or(|row| row.seq == last));
    rows
}

pub(crate) async fn with_run(store: &dyn Store, id: &str) -> RunId {
    store.create_run(&new_run(id), None).await.unwrap();
    RunId(id.into())
}
