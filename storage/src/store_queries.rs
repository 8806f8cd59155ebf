//! The methods that are the same for both databases, written once: a macro generates them for each store. A store has
//! `reader` and `writer`, which lend a connection, and `answer` and `long_answer`, which wait for the database.

/// Runs work on a connection that the store lends. A connection that is not given back as sound, because the work
/// failed or was dropped half-way, is not reused as it is.
macro_rules! on {
    ($store:ident . $lend:ident, |$on:ident| $work:expr) => {
        on!($store.$lend.answer, |$on| $work)
    };
    ($store:ident . $lend:ident . $wait:ident, |$on:ident| $work:expr) => {{
        let mut lent = $store.$lend().await?;
        let $on = &mut *lent;
        let answer = $store.$wait($work).await?;
        lent.give_back();
        answer
    }};
}
pub(crate) use on;

/// The error for a stored row that cannot be decoded.
pub(crate) fn damaged(what: &str) -> crate::Error {
    crate::Error::Corrupt(format!("a stored {what} cannot be read"))
}

/// Replaces NUL characters, which Postgres refuses, in text from outside.
pub(crate) fn printable(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("stored types have only text keys and whole numbers")
}

/// An upper bound of the ids that begin with `prefix`.
pub(crate) fn after_all(prefix: &str) -> String {
    format!("{prefix}\u{10ffff}")
}

/// Queries where a run's history ends, as an expression for a connection.
macro_rules! last_row {
    ($on:expr, $run:expr) => {
        async {
            let number: Option<i64> = sqlx::query_scalar(crate::sql::RUN_NUMBER)
                .bind(&*$run.0)
                .fetch_optional(&mut *$on)
                .await?;
            let Some(run) = number else { return Ok(None) };
            let last: Option<(i64, i64)> =
                sqlx::query_as(crate::sql::HEAD).bind(run).fetch_optional(&mut *$on).await?;
            let (seq, time_ms) = last.unwrap_or((0, i64::MIN));
            Ok::<_, sqlx::Error>(Some(crate::last_row::LastRow {
                run,
                seq: seq.cast_unsigned(),
                time_ms,
            }))
        }
    };
}
pub(crate) use last_row;

/// Inserts a run unless its id is taken: affects 1 or 0 rows.
macro_rules! add_run {
    ($on:expr, $run:expr) => {
        sqlx::query(sql::ADD_RUN)
            .bind(&*$run.id.0)
            .bind(&$run.name)
            .bind(&$run.spec)
            .bind(&$run.source_name)
            .bind(&$run.plan)
            .bind(i64::from($run.fold_version))
            .bind(&$run.account)
            .bind(i64::from($run.priority))
            .bind($run.created_ms)
            .bind(&$run.out_dir)
            .execute($on)
    };
}
pub(crate) use add_run;

/// Implements [`crate::Store`] for a store. What differs between the databases is in methods of its own: `commit_rows`,
/// `read_history`, `read_rows`, `own`, `forget`, `shut`.
macro_rules! impl_store {
    ($store:ty, $dialect:ident) => {
        #[async_trait::async_trait]
        impl crate::Store for $store {
            async fn create_run(
                &self,
                run: &NewRun,
                once: Option<&Idempotency>,
            ) -> Result<Created, Error> {
                let known: Option<Option<(Vec<u8>, String)>> = on!(self.writer, |on| async {
                    let mut t = on.begin().await?;
                    if add_run!(&mut *t, run).await?.rows_affected() == 0 {
                        t.rollback().await?;
                        return Ok(Some(None));
                    }
                    if let Some(once) = once {
                        let first = sqlx::query(sql::ADD_SUBMISSION)
                            .bind(&once.account)
                            .bind(&once.key)
                            .bind(&once.request[..])
                            .bind(&*run.id.0)
                            .execute(&mut *t)
                            .await?;
                        if first.rows_affected() == 0 {
                            let known = sqlx::query_as(sql::SUBMISSION)
                                .bind(&once.account)
                                .bind(&once.key)
                                .fetch_one(&mut *t)
                                .await?;
                            t.rollback().await?;
                            return Ok(Some(Some(known)));
                        }
                    }
                    t.commit().await.map(|()| None)
                });
                match (known, once) {
                    (None, _) => Ok(Created::New),
                    (Some(Some((request, known))), Some(once)) if request == once.request => {
                        Ok(Created::Again(RunId(known.into())))
                    }
                    (Some(Some((_, known))), _) => Ok(Created::Conflict(RunId(known.into()))),
                    (Some(None), _) => {
                        let known: Option<sql::NewRunRow> = on!(self.reader, |on| {
                            sqlx::query_as(sql::RUN_AS_CREATED).bind(&*run.id.0).fetch_optional(on)
                        });
                        let id = &run.id;
                        if known.is_some_and(|known| sql::is_run(&known, run)) {
                            return Ok(Created::Again(id.clone()));
                        }
                        Err(Error::Invalid(format!("there is another run with the id `{id}`")))
                    }
                }
            }

            async fn commit(&self, batch: &[RunRows<'_>]) -> Result<(), Error> {
                self.commit_rows(batch).await
            }

            async fn load_history(
                &self,
                run: &RunId,
                from_seq: u64,
                each: &mut (dyn FnMut(Row) + Send),
            ) -> Result<u64, Error> {
                self.read_history(run, from_seq, each).await
            }

            async fn rows(&self, run: &RunId, seqs: &[u64]) -> Result<Vec<Row>, Error> {
                self.read_rows(run, seqs).await
            }

            async fn runs(
                &self,
                filter: &RunFilter,
                limit: u32,
                after: Option<&RunId>,
            ) -> Result<Vec<RunRecord>, Error> {
                let (statement, values) = sql::runs(filter, limit, after, sql::$dialect::NAMED);
                let rows: Vec<sql::RunRow> = on!(self.reader, |on| {
                    let mut runs = sqlx::query_as(sqlx::AssertSqlSafe(statement));
                    for value in values {
                        runs = runs.bind(value);
                    }
                    runs.fetch_all(on)
                });
                let records: Option<_> = rows.into_iter().map(sql::run_record).collect();
                records.ok_or_else(|| damaged("run"))
            }

            async fn unfinished_runs(
                &self,
                after: Option<&RunId>,
            ) -> Result<Vec<RunRecord>, Error> {
                let rows: Vec<sql::RunRow> = on!(self.reader, |on| {
                    let after = after.map_or("", |run| &*run.0);
                    sqlx::query_as(sql::UNFINISHED_RUNS).bind(after).fetch_all(on)
                });
                let records: Option<_> = rows.into_iter().map(sql::run_record).collect();
                records.ok_or_else(|| damaged("run"))
            }

            async fn run_of(
                &self,
                account: Option<&str>,
                id: &str,
            ) -> Result<Option<RunRecord>, Error> {
                let exact: Option<sql::RunRow> =
                    on!(self.reader, |on| { sqlx::query_as(sql::RUN).bind(id).fetch_optional(on) });
                if let Some(row) = exact {
                    let record = sql::run_record(row).ok_or_else(|| damaged("run"))?;
                    return Ok(Some(record).filter(|r| account.is_none_or(|own| own == r.account)));
                }
                if id.is_empty() {
                    return Ok(None);
                }
                let mut found: Vec<sql::RunRow> = on!(self.reader, |on| {
                    let end = after_all(id);
                    let account = account.unwrap_or_default();
                    sqlx::query_as(sql::RUNS_BETWEEN).bind(id).bind(end).bind(account).fetch_all(on)
                });
                if found.len() > 1 {
                    let ids: Vec<String> = found.iter().map(|run| format!("`{}`", run.0)).collect();
                    return Err(Error::Invalid(format!(
                        "`{id}` fits several runs, for example {}: write more of the id",
                        ids.join(" and ")
                    )));
                }
                let record = found.pop().map(|row| sql::run_record(row));
                record.map(|record| record.ok_or_else(|| damaged("run"))).transpose()
            }

            async fn run_plan(&self, run: &RunId) -> Result<Option<StoredPlan>, Error> {
                let row: Option<(String, String, i64)> = on!(self.reader, |on| {
                    sqlx::query_as(sql::RUN_PLAN).bind(&*run.0).fetch_optional(on)
                });
                let plan = row.map(sql::stored_plan);
                plan.map(|plan| plan.ok_or_else(|| damaged("plan"))).transpose()
            }

            async fn reject(&self, message: &Rejected) -> Result<(), Error> {
                let raw = &message.raw[..message.raw.len().min(sql::REJECTED_BYTES_MAX)];
                on!(self.writer, |on| {
                    sqlx::query(sql::REJECT)
                        .bind(message.time_ms)
                        .bind(printable(&message.reason))
                        .bind(raw)
                        .execute(on)
                });
                on!(self.writer, |on| { sqlx::query(sql::FORGET_REJECTED).execute(on) });
                Ok(())
            }

            async fn rejected(&self, limit: u32) -> Result<Vec<Rejected>, Error> {
                let rows: Vec<(i64, String, Vec<u8>)> = on!(self.reader, |on| {
                    let limit = i64::from(limit.min(sql::PAGE_ROWS_MAX));
                    sqlx::query_as(sql::REJECTED).bind(limit).fetch_all(on)
                });
                Ok(rows.into_iter().map(sql::rejected).collect())
            }

            async fn remove_run(&self, run: &RunId) -> Result<bool, Error> {
                let has_ended: Option<bool> = on!(self.writer.long_answer, |on| async {
                    let mut t = on.begin().await?;
                    let known: Option<(i64, Option<i64>)> = sqlx::query_as(sql::$dialect::LOCK_RUN)
                        .bind(&*run.0)
                        .fetch_optional(&mut *t)
                        .await?;
                    let Some((number, Some(_))) = known else {
                        t.rollback().await?;
                        return Ok(known.map(|_| false));
                    };
                    let last: Option<(i64, i64)> =
                        sqlx::query_as(sql::HEAD).bind(number).fetch_optional(&mut *t).await?;
                    let last = last.map_or(0, |(seq, _)| seq);
                    for from in (0..=last).step_by(sql::REMOVED_ROWS) {
                        let to = from.saturating_add_unsigned(sql::REMOVED_ROWS as u64);
                        for remove in sql::REMOVE_HISTORY {
                            let remove = sqlx::query(remove).bind(number).bind(from).bind(to);
                            remove.execute(&mut *t).await?;
                        }
                    }
                    sqlx::query(sql::REMOVE_RUN).bind(number).execute(&mut *t).await?;
                    t.commit().await.map(|()| Some(true))
                });
                if has_ended == Some(false) {
                    return Err(Error::Invalid(format!("the run `{run}` has not ended")));
                }
                self.forget(run).await;
                Ok(has_ended.is_some())
            }

            async fn take_ownership(&self, address: &str, now_ms: i64) -> Result<Ownership, Error> {
                self.own(address, now_ms).await
            }

            async fn owner(&self) -> Result<Option<Ownership>, Error> {
                let row: Option<(i64, Vec<u8>, String)> = on!(self.reader, |on| {
                    sqlx::query_as(sql::OWNER).bind(sql::SHARD).fetch_optional(on)
                });
                let owner = row.map(sql::ownership);
                owner.map(|owner| owner.ok_or_else(|| damaged("ownership"))).transpose()
            }

            async fn close(&self) -> Result<(), Error> {
                self.shut().await
            }
        }
    };
}
pub(crate) use impl_store;
