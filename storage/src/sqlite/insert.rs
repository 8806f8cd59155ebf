//! Writes history rows. One statement carries up to 512 rows as plain parameters: measured, that is three times as fast
//! as one JSON parameter, and the statements are prepared once.

use crate::outcome;
use crate::store_queries::json;
use pictor_tasks::history::{Claim, Control, Ended, Fact, Row, TaskRef};
use pictor_tasks::message::Outcome;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments, AssertSqlSafe, Encode, Sqlite, Type};
use std::sync::{Arc, LazyLock};

/// Most rows of one statement: 14 columns each stay below `SQLite`'s 32,766 parameters.
const ROWS_MAX: usize = 512;

/// Insertion into one table, as statements of 1, 2, 4, … 512 rows.
struct Insert(Vec<Arc<str>>);

impl Insert {
    fn new(table: &str, columns: &str) -> Self {
        let count = columns.split(',').count();
        let row = format!("({})", vec!["?"; count].join(","));
        let sizes = (0..=ROWS_MAX.ilog2()).map(|power| 1_usize << power);
        let statement = |size: usize| {
            format!("INSERT INTO {table} ({columns}) VALUES {}", vec![&row[..]; size].join(","))
        };
        Self(sizes.map(|size| statement(size).into()).collect())
    }

    /// The statement that takes the most of `left` rows, and how many it takes.
    fn next(&self, left: usize) -> (&Arc<str>, usize) {
        let power = left.min(ROWS_MAX).ilog2();
        (&self.0[power as usize], 1 << power)
    }
}

static CLAIMS: LazyLock<Insert> = LazyLock::new(|| {
    Insert::new("claim", "run,seq,time_ms,step,generation,task,attempt,execution,worker")
});
static PLAIN: LazyLock<Insert> = LazyLock::new(|| {
    Insert::new(
        "attempt",
        "run,seq,time_ms,step,generation,task,attempt,execution,worker,started_ms,took_ms,outcome",
    )
});
static DETAILED: LazyLock<Insert> = LazyLock::new(|| {
    Insert::new(
        "attempt",
        "run,seq,time_ms,step,generation,task,attempt,execution,worker,started_ms,took_ms,\
         outcome,products,failure",
    )
});
static EVENTS: LazyLock<Insert> =
    LazyLock::new(|| Insert::new("event", "run,seq,time_ms,id,event"));

/// A row with the number of its run.
type Placed<'a, T> = (i64, &'a Row, &'a T);

/// Rows to be written, grouped by the statement that writes them.
#[derive(Default)]
pub(crate) struct Batch<'a> {
    claims: Vec<Placed<'a, Claim>>,
    plain: Vec<Placed<'a, Ended>>,
    detailed: Vec<Placed<'a, Ended>>,
    events: Vec<Placed<'a, Control>>,
}

impl<'a> Batch<'a> {
    /// Adds the rows of the run with this number.
    pub(crate) fn add(&mut self, run: i64, rows: &'a [Row]) {
        for row in rows {
            match &row.fact {
                Fact::Claim(claim) => self.claims.push((run, row, claim)),
                Fact::Ended(ended) if outcome::has_detail(&ended.outcome) => {
                    self.detailed.push((run, row, ended));
                }
                Fact::Ended(ended) => self.plain.push((run, row, ended)),
                Fact::Event(control) => self.events.push((run, row, control)),
            }
        }
    }

    /// Whether one statement, which is a transaction by itself, writes all rows.
    pub(crate) fn is_one_statement(&self) -> bool {
        let lists = [self.plain.len(), self.detailed.len(), self.claims.len(), self.events.len()];
        let mut filled = lists.into_iter().filter(|rows| *rows > 0);
        let one = |rows: usize| rows <= ROWS_MAX && rows.is_power_of_two();
        filled.next().is_some_and(one) && filled.next().is_none()
    }

    /// Writes the rows. If there are several statements, a transaction must be open on the connection.
    pub(crate) async fn write(&self, on: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        write(on, &PLAIN, &self.plain, add_ended).await?;
        write(on, &DETAILED, &self.detailed, |to, placed| {
            add_ended(to, placed)?;
            add_detail(to, &placed.2.outcome)
        })
        .await?;
        write(on, &CLAIMS, &self.claims, add_claim).await?;
        write(on, &EVENTS, &self.events, |to, (run, row, control)| {
            add_head(to, *run, row)?;
            add(to, control.id.cast_signed())?;
            add(to, json(&control.event))
        })
        .await
    }
}

async fn write<T>(
    on: &mut SqliteConnection,
    insert: &Insert,
    mut rows: &[T],
    encode: impl Fn(&mut SqliteArguments, &T) -> Result<(), sqlx::Error>,
) -> Result<(), sqlx::Error> {
    while !rows.is_empty() {
        let (statement, size) = insert.next(rows.len());
        let (now, later) = rows.split_at(size);
        let mut arguments = SqliteArguments::default();
        arguments.reserve(size * 14, 0);
        for row in now {
            encode(&mut arguments, row)?;
        }
        let statement = AssertSqlSafe(Arc::clone(statement));
        sqlx::query_with(statement, arguments).execute(&mut *on).await?;
        rows = later;
    }
    Ok(())
}

fn add<'v, V>(to: &mut SqliteArguments, value: V) -> Result<(), sqlx::Error>
where
    V: Encode<'v, Sqlite> + Type<Sqlite> + 'v,
{
    Arguments::add(to, value).map_err(sqlx::Error::Encode)
}

fn add_head(to: &mut SqliteArguments, run: i64, row: &Row) -> Result<(), sqlx::Error> {
    add(to, run)?;
    add(to, row.seq.cast_signed())?;
    add(to, row.time_ms)
}

fn add_task(to: &mut SqliteArguments, task: &TaskRef) -> Result<(), sqlx::Error> {
    add(to, i64::from(task.step))?;
    add(to, i64::from(task.generation))?;
    add(to, i64::from(task.task.index))?;
    add(to, i64::from(task.task.attempt))
}

fn add_claim(
    to: &mut SqliteArguments,
    (run, row, claim): &Placed<'_, Claim>,
) -> Result<(), sqlx::Error> {
    add_head(to, *run, row)?;
    add_task(to, &claim.task)?;
    add(to, claim.execution.0.cast_signed())?;
    add(to, i64::from(claim.worker.0))
}

fn add_ended(
    to: &mut SqliteArguments,
    (run, row, ended): &Placed<'_, Ended>,
) -> Result<(), sqlx::Error> {
    add_head(to, *run, row)?;
    add_task(to, &ended.task)?;
    add(to, ended.execution.0.cast_signed())?;
    add(to, i64::from(ended.worker.0))?;
    add(to, ended.started_ms)?;
    add(to, i64::from(ended.took_ms))?;
    add(to, outcome::code(&ended.outcome))
}

fn add_detail(to: &mut SqliteArguments, outcome: &Outcome) -> Result<(), sqlx::Error> {
    let (products, failure) = match outcome {
        Outcome::Succeeded(products) => (Some(json(products)), None),
        Outcome::Failed(failure) => (None, Some(json(failure))),
        Outcome::Cancelled | Outcome::Lost => (None, None),
    };
    add(to, products)?;
    add(to, failure)
}
