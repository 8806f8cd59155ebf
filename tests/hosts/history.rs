//! The history in Postgres, read without the farm.

use super::TestFarm;
use pictor_tasks::message::Products;
use sqlx::{Connection, PgConnection, Row};
use std::collections::BTreeMap;

/// The end of one attempt.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) step: i32,
    pub(crate) task: i64,
    pub(crate) number: i64,
    pub(crate) worker: i64,
    pub(crate) started_ms: i64,
    pub(crate) took_ms: i64,
    /// Code of the outcome: 1 succeeded, 2 failed, 3 cancelled, 4 lost.
    pub(crate) outcome: i16,
    pub(crate) products: Products,
    pub(crate) failure: String,
}

/// The ends of all attempts of a run, in order.
pub(crate) fn attempts(farm: &TestFarm, run: &str) -> Vec<Attempt> {
    let rows = rows(
        farm,
        "SELECT a.step, a.task, a.attempt, a.worker, a.started_ms, a.took_ms, a.outcome, \
         coalesce(a.products::text, '{}'), coalesce(a.failure::text, '') \
         FROM attempt a JOIN run r ON r.number = a.run WHERE r.id = $1 ORDER BY a.seq",
        Some(run),
    );
    let attempt = |row: &sqlx::postgres::PgRow| Attempt {
        step: row.get(0),
        task: row.get(1),
        number: row.get(2),
        worker: row.get(3),
        started_ms: row.get(4),
        took_ms: row.get(5),
        outcome: row.get(6),
        products: serde_json::from_str(row.get(7)).unwrap(),
        failure: row.get(8),
    };
    rows.iter().map(attempt).collect()
}

/// Number of attempts of a run that were claimed.
pub(crate) fn claims(farm: &TestFarm, run: &str) -> i64 {
    let sql = "SELECT count(*) FROM claim c JOIN run r ON r.number = c.run WHERE r.id = $1";
    rows(farm, sql, Some(run))[0].get(0)
}

/// Number of attempts with this outcome.
pub(crate) fn count(attempts: &[Attempt], outcome: i16) -> usize {
    attempts.iter().filter(|attempt| attempt.outcome == outcome).count()
}

/// Asserts that every task of these has succeeded exactly once; returns the successes by step and task.
pub(crate) fn one_success_each(attempts: &[Attempt]) -> BTreeMap<(i32, i64), &Attempt> {
    let mut successes = BTreeMap::new();
    for attempt in attempts.iter().filter(|attempt| attempt.outcome == 1) {
        let before = successes.insert((attempt.step, attempt.task), attempt);
        assert!(before.is_none(), "two successes: {before:?} and {attempt:?}");
    }
    successes
}

/// Epoch and address of the owner. Returns `None` if there is none.
pub(crate) fn owner(farm: &TestFarm) -> Option<(i64, String)> {
    let rows = rows(farm, "SELECT epoch, address FROM ownership", None);
    rows.first().map(|row| (row.get(0), row.get(1)))
}

/// When the run was submitted, in milliseconds since 1970.
pub(crate) fn created_ms(farm: &TestFarm, run: &str) -> i64 {
    rows(farm, "SELECT created_ms FROM run WHERE id = $1", Some(run))[0].get(0)
}

/// Reasons and contents of the rejected messages.
pub(crate) fn rejected(farm: &TestFarm) -> Vec<(String, Vec<u8>)> {
    let rows = rows(farm, "SELECT reason, raw FROM rejected ORDER BY number", None);
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn rows(farm: &TestFarm, sql: &'static str, bind: Option<&str>) -> Vec<sqlx::postgres::PgRow> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut database = PgConnection::connect(&farm.database_url()).await.unwrap();
        let query = bind.into_iter().fold(sqlx::query(sql), sqlx::query::Query::bind);
        query.fetch_all(&mut database).await.unwrap()
    })
}
