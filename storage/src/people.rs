//! [`crate::Registry`] over both databases, made by one macro as in `shared.rs`.

/// Makes a store a [`crate::Registry`].
macro_rules! impl_registry {
    ($store:ty, $dialect:ident) => {
        #[async_trait::async_trait]
        impl crate::Registry for $store {
            async fn add_token(&self, token: &Token) -> Result<(), Error> {
                let done = on!(self.writer, |on| {
                    sqlx::query(sql::ADD_TOKEN)
                        .bind(&token.id)
                        .bind(&token.name)
                        .bind(&token.role)
                        .bind(&token.account)
                        .bind(&token.secret_hash[..])
                        .bind(token.created_ms)
                        .bind(token.revoked_ms)
                        .execute(on)
                });
                if done.rows_affected() == 0 && self.token(&token.id).await?.as_ref() != Some(token)
                {
                    let id = &token.id;
                    return Err(Error::Corrupt(format!("there is another token `{id}`")));
                }
                Ok(())
            }

            async fn token(&self, id: &str) -> Result<Option<Token>, Error> {
                let row: Option<sql::TokenRow> = on!(self.reader, |on| {
                    sqlx::query_as(sql::TOKEN).bind(id).fetch_optional(on)
                });
                row.map(|row| sql::token(row).ok_or_else(|| damaged("token"))).transpose()
            }

            async fn tokens(&self) -> Result<Vec<Token>, Error> {
                let rows: Vec<sql::TokenRow> =
                    on!(self.reader, |on| sqlx::query_as(sql::TOKENS).fetch_all(on));
                let tokens: Option<_> = rows.into_iter().map(sql::token).collect();
                tokens.ok_or_else(|| damaged("token"))
            }

            async fn revoke_token(&self, id: &str, now_ms: i64) -> Result<bool, Error> {
                let done = on!(self.writer, |on| {
                    sqlx::query(sql::REVOKE_TOKEN).bind(id).bind(now_ms).execute(on)
                });
                Ok(done.rows_affected() > 0)
            }

            async fn register_worker(
                &self,
                (name, account): (&str, &str),
                token: &str,
                inventory: &Inventory,
                now_ms: i64,
            ) -> Result<WorkerId, Error> {
                let inventory = json(inventory);
                let mut id: Option<i64> = None;
                for statement in [sql::REGISTER_AGAIN, sql::REGISTER] {
                    if id.is_none() {
                        id = on!(self.writer, |on| {
                            sqlx::query_scalar(statement)
                                .bind(account)
                                .bind(name)
                                .bind(token)
                                .bind(&inventory)
                                .bind(now_ms)
                                .fetch_optional(on)
                        });
                    }
                }
                let id = id.and_then(|id| u32::try_from(id).ok());
                id.map(WorkerId).ok_or_else(|| damaged("worker"))
            }

            async fn workers(&self) -> Result<Vec<WorkerRecord>, Error> {
                let rows: Vec<sql::WorkerRow> =
                    on!(self.reader, |on| sqlx::query_as(sql::WORKERS).fetch_all(on));
                let workers: Option<_> = rows.into_iter().map(sql::worker).collect();
                workers.ok_or_else(|| damaged("worker"))
            }

            async fn worker(&self, id: WorkerId) -> Result<Option<WorkerRecord>, Error> {
                let row: Option<sql::WorkerRow> = on!(self.reader, |on| {
                    sqlx::query_as(sql::WORKER).bind(i64::from(id.0)).fetch_optional(on)
                });
                row.map(|row| sql::worker(row).ok_or_else(|| damaged("worker"))).transpose()
            }

            async fn set_worker_state(&self, id: WorkerId, state: &str) -> Result<bool, Error> {
                let done = on!(self.writer, |on| {
                    sqlx::query(sql::SET_WORKER_STATE).bind(i64::from(id.0)).bind(state).execute(on)
                });
                Ok(done.rows_affected() > 0)
            }

            async fn workers_seen(&self, seen: &[(WorkerId, i64)]) -> Result<(), Error> {
                let seen = json(&seen);
                on!(self.writer, |on| {
                    sqlx::query(sql::$dialect::WORKERS_SEEN).bind(seen).execute(on)
                });
                Ok(())
            }

            async fn worker_left(&self, id: WorkerId, now_ms: i64) -> Result<(), Error> {
                on!(self.writer, |on| {
                    sqlx::query(sql::WORKER_LEFT).bind(i64::from(id.0)).bind(now_ms).execute(on)
                });
                Ok(())
            }

            async fn audit(&self, entry: &AuditEntry) -> Result<(), Error> {
                on!(self.writer, |on| {
                    sqlx::query(sql::AUDIT)
                        .bind(entry.time_ms)
                        .bind(&entry.account)
                        .bind(&entry.token)
                        .bind(printable(&entry.action))
                        .bind(printable(&entry.target))
                        .bind(&entry.detail)
                        .bind(&entry.address)
                        .execute(on)
                });
                Ok(())
            }

            async fn audit_page(
                &self,
                limit: u32,
                before: Option<i64>,
            ) -> Result<Vec<AuditEntry>, Error> {
                let rows: Vec<sql::AuditRow> = on!(self.reader, |on| {
                    sqlx::query_as(sql::AUDIT_PAGE)
                        .bind(before.unwrap_or(i64::MAX))
                        .bind(i64::from(limit.min(sql::PAGE_ROWS_MAX)))
                        .fetch_all(on)
                });
                Ok(rows.into_iter().map(sql::audit_entry).collect())
            }

            async fn put_schedule(&self, schedule: &Schedule) -> Result<bool, Error> {
                let done = on!(self.writer, |on| {
                    sqlx::query(sql::PUT_SCHEDULE)
                        .bind(&schedule.id)
                        .bind(&schedule.account)
                        .bind(&schedule.cron)
                        .bind(&schedule.zone)
                        .bind(&schedule.overlap)
                        .bind(&schedule.catch_up)
                        .bind(schedule.jitter_ms)
                        .bind(&schedule.job)
                        .bind(&schedule.source_name)
                        .bind(&schedule.out_dir)
                        .bind(schedule.paused)
                        .bind(schedule.created_ms)
                        .bind(schedule.planned_ms)
                        .execute(on)
                });
                Ok(done.rows_affected() > 0)
            }

            async fn schedule(&self, id: &str) -> Result<Option<Schedule>, Error> {
                let row: Option<sql::ScheduleRow> = on!(self.reader, |on| {
                    sqlx::query_as(sql::SCHEDULE).bind(id).fetch_optional(on)
                });
                Ok(row.map(sql::schedule))
            }

            async fn schedules(&self) -> Result<Vec<Schedule>, Error> {
                let rows: Vec<sql::ScheduleRow> =
                    on!(self.reader, |on| sqlx::query_as(sql::SCHEDULES).fetch_all(on));
                Ok(rows.into_iter().map(sql::schedule).collect())
            }

            async fn remove_schedule(&self, id: &str) -> Result<bool, Error> {
                let done = on!(self.writer, |on| {
                    sqlx::query(sql::REMOVE_SCHEDULE).bind(id).execute(on)
                });
                Ok(done.rows_affected() > 0)
            }

            async fn pause_schedule(&self, id: &str, paused: bool) -> Result<bool, Error> {
                let done = on!(self.writer, |on| {
                    sqlx::query(sql::PAUSE_SCHEDULE).bind(id).bind(paused).execute(on)
                });
                Ok(done.rows_affected() > 0)
            }

            async fn fire(&self, fire: &Fire, run: Option<&NewRun>) -> Result<bool, Error> {
                let fired: Option<bool> = on!(self.writer, |on| async {
                    let mut t = on.begin().await?;
                    let first = sqlx::query(sql::FIRE)
                        .bind(&fire.schedule)
                        .bind(fire.due_ms)
                        .bind(&fire.outcome)
                        .bind(run.map(|run| &*run.id.0))
                        .execute(&mut *t)
                        .await?;
                    if first.rows_affected() == 0 {
                        return t.rollback().await.map(|()| Some(false));
                    }
                    if let Some(run) = run
                        && add_run!(&mut *t, run).await?.rows_affected() == 0
                    {
                        return t.rollback().await.map(|()| None);
                    }
                    let planned = sqlx::query(sql::PLANNED).bind(&fire.schedule).bind(fire.due_ms);
                    planned.execute(&mut *t).await?;
                    t.commit().await.map(|()| Some(true))
                });
                fired.ok_or_else(|| {
                    Error::Invalid("there is a run with the id of the one to be started".to_owned())
                })
            }

            async fn fires(&self, schedule: &str, limit: u32) -> Result<Vec<Fire>, Error> {
                let rows: Vec<sql::FireRow> = on!(self.reader, |on| {
                    let limit = i64::from(limit.min(sql::PAGE_ROWS_MAX));
                    sqlx::query_as(sql::FIRES).bind(schedule).bind(limit).fetch_all(on)
                });
                Ok(rows.into_iter().map(sql::fire).collect())
            }

            async fn waiting_fires(&self) -> Result<Vec<Fire>, Error> {
                let rows: Vec<sql::FireRow> =
                    on!(self.reader, |on| sqlx::query_as(sql::WAITING_FIRES).fetch_all(on));
                Ok(rows.into_iter().map(sql::fire).collect())
            }

            async fn add_deliveries(&self, deliveries: &[Delivery]) -> Result<(), Error> {
                on!(self.writer, |on| async {
                    let mut t = on.begin().await?;
                    for delivery in deliveries {
                        sqlx::query(sql::ADD_DELIVERY)
                            .bind(&delivery.hook)
                            .bind(&delivery.event_id)
                            .bind(&delivery.body)
                            .bind(delivery.next_ms)
                            .execute(&mut *t)
                            .await?;
                    }
                    t.commit().await
                });
                Ok(())
            }

            async fn due_deliveries(
                &self,
                hook: &str,
                now_ms: i64,
                limit: u32,
            ) -> Result<Vec<Delivery>, Error> {
                let rows: Vec<sql::DeliveryRow> = on!(self.reader, |on| {
                    let limit = i64::from(limit.min(sql::PAGE_ROWS_MAX));
                    let due = sqlx::query_as(sql::DUE_DELIVERIES).bind(hook).bind(now_ms);
                    due.bind(limit).fetch_all(on)
                });
                let deliveries: Option<_> = rows.into_iter().map(sql::delivery).collect();
                deliveries.ok_or_else(|| damaged("delivery"))
            }

            async fn deliveries(&self, hook: &str, limit: u32) -> Result<Vec<Delivery>, Error> {
                let rows: Vec<sql::DeliveryRow> = on!(self.reader, |on| {
                    let limit = i64::from(limit.min(sql::PAGE_ROWS_MAX));
                    sqlx::query_as(sql::DELIVERIES).bind(hook).bind(limit).fetch_all(on)
                });
                let deliveries: Option<_> = rows.into_iter().map(sql::delivery).collect();
                deliveries.ok_or_else(|| damaged("delivery"))
            }

            async fn delivery_done(&self, number: i64, now_ms: i64) -> Result<(), Error> {
                on!(self.writer, |on| {
                    sqlx::query(sql::DELIVERY_DONE).bind(number).bind(now_ms).execute(on)
                });
                Ok(())
            }

            async fn delivery_failed(
                &self,
                number: i64,
                error: &str,
                next_ms: i64,
            ) -> Result<(), Error> {
                on!(self.writer, |on| {
                    sqlx::query(sql::DELIVERY_FAILED)
                        .bind(number)
                        .bind(printable(error))
                        .bind(next_ms)
                        .execute(on)
                });
                Ok(())
            }

            async fn forget_before(&self, time_ms: i64) -> Result<u64, Error> {
                let removed = on!(self.writer, |on| async {
                    let mut t = on.begin().await?;
                    let mut removed = 0;
                    for statement in sql::FORGET_BEFORE {
                        let done = sqlx::query(statement).bind(time_ms).execute(&mut *t).await?;
                        removed += done.rows_affected();
                    }
                    t.commit().await.map(|()| removed)
                });
                Ok(removed)
            }
        }
    };
}
pub(crate) use impl_registry;
