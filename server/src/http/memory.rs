//! A snapshot of the farm for outages of the database: instead of waiting, callers are told the last known state, and
//! how old it is.

use super::Api;
use super::caller::Caller;
use super::extract::Json;
use super::guard::Asked;
use super::paging::Paging;
use super::refusal::Refusal;
use super::runs::RunsQuery;
use super::workers::worker;
use crate::handle::{Error, OwnerHandle};
use crate::runs::{Detail, FEW, effort, shape};
use axum::extract::Query;
use axum::http::{HeaderName, HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use pictor_api::{Code, Page, RunSummary};
use pictor_engine::{Effort, Engine, Run, Totals, WorkerView};
use pictor_storage::{RunFilter, RunRecord, WorkerRecord};
use pictor_tasks::message::{RunId, WorkerId};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How often the snapshot is renewed.
const LOOK: Duration = Duration::from_secs(2);
/// How often the server checks whether it owns the farm by now.
const NOT_YET: Duration = Duration::from_millis(200);
/// Time limit for a snapshot: one that takes longer has failed.
const LATE: Duration = Duration::from_secs(2);
/// After this time everything is read again, whether or not it is known to have changed.
const ANEW: Duration = Duration::from_secs(30);
/// Most runs in the snapshot; the newest ones.
const RUNS: u32 = 1000;
/// Runs that are examined in one turn of the owner's loop; below, how many tasks of each are searched for failed and
/// waiting ones.
const RUNS_AT_A_TIME: usize = 32;
const PLACES: u32 = 1 << 12;
/// Seconds that a client should wait before it retries.
const RETRY_AFTER: u64 = 5;
/// Header that says why a response is not current.
const STALE: HeaderName = HeaderName::from_static("pictor-stale");

/// The last snapshot of the farm, and whether there is an outage.
#[derive(Debug, Default)]
pub(super) struct Memory {
    latest: Mutex<Option<Arc<Snapshot>>>,
    outage: watch::Sender<Option<Outage>>,
}

/// An outage: the database does not respond, or cannot be written.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    pub(super) since: Instant,
    pub(super) why: Arc<str>,
}

/// The farm as it was at one moment, as far as it is needed in an outage.
#[derive(Debug)]
pub(super) struct Snapshot {
    taken: Instant,
    /// When everything was read; since then only what has changed was.
    whole: Instant,
    /// The place in the ring of events at which the runs were read.
    place: (i64, u64),
    /// The number of changes of workers at which the workers were read.
    changes: u64,
    runs: Arc<[RunRecord]>,
    details: BTreeMap<RunId, Known>,
    pub(super) workers: Arc<[WorkerRecord]>,
    pub(super) views: BTreeMap<WorkerId, WorkerView>,
    pub(super) totals: Totals,
}

/// What is known about a run: its detail and, if it holds for as long as history does not grow, the last row.
#[derive(Clone, Debug)]
struct Known {
    detail: Arc<Detail>,
    lasting: Option<u64>,
}

impl Known {
    /// Looks at a run. Returns `None` if it is as it was at the row `before`.
    fn look(engine: &Engine, run: &Run, before: Option<u64>, now_ms: i64) -> Option<Self> {
        let lasting = Some(run.seq()).filter(|_| !run.is_held());
        if lasting.is_some() && lasting == before {
            return None;
        }
        let effort = Effort { places: PLACES, ..effort(FEW) };
        let detail = Arc::new(Detail::of(engine, run, effort, now_ms));
        Some(Self { detail, lasting })
    }
}

impl Snapshot {
    /// Takes a snapshot that has in common with the last one what has not changed since. If the engine cannot answer,
    /// its part is missing and the error is returned beside the rest.
    async fn take(
        api: &Api,
        owner: &OwnerHandle,
        last: Option<&Self>,
    ) -> Result<(Self, Result<(), Error>), Error> {
        let taken = Instant::now();
        let (place, changes) = (api.events.place(), api.heartbeats.changes());
        let last = last.filter(|last| last.whole.elapsed() < ANEW);
        let runs = if let Some(last) = last.filter(|last| last.place == place) {
            // Whether the database answers has to be known in any case.
            api.store.owner().await?;
            last.runs.clone()
        } else {
            api.store.runs(&RunFilter::default(), RUNS, None).await?.into()
        };
        let workers = match last.filter(|last| last.changes == changes) {
            Some(last) => last.workers.clone(),
            None => api.registry.workers().await?.into(),
        };
        let whole = last.map_or(taken, |last| last.whole);
        let mut snapshot = Self {
            taken,
            whole,
            place,
            changes,
            runs,
            details: BTreeMap::new(),
            workers,
            views: BTreeMap::new(),
            totals: Totals::default(),
        };
        let asked = snapshot.ask(owner, last, (api.now_ms)()).await;
        Ok((snapshot, asked))
    }

    async fn ask(
        &mut self,
        owner: &OwnerHandle,
        last: Option<&Self>,
        now_ms: i64,
    ) -> Result<(), Error> {
        let ask = move |engine: &Engine| (engine.totals(), engine.workers(now_ms));
        let (totals, views) = owner.ask(ask).await?;
        let before = |id: &RunId| last.and_then(|last| last.details.get(id));
        for some in self.runs.chunks(RUNS_AT_A_TIME) {
            let some: Vec<(RunId, Option<u64>)> = some
                .iter()
                .map(|run| (run.id.clone(), before(&run.id).and_then(|known| known.lasting)))
                .collect();
            let look = move |engine: &Engine| -> Vec<(RunId, Option<Known>)> {
                let runs = some.into_iter().filter_map(|(id, before)| {
                    let run = engine.run(&id)?;
                    Some((id, Known::look(engine, run, before, now_ms)))
                });
                runs.collect()
            };
            let known = owner.ask(look).await?.into_iter();
            self.details.extend(known.filter_map(|(id, known)| {
                let known = known.or_else(|| before(&id).cloned())?;
                Some((id, known))
            }));
        }
        self.totals = totals;
        self.views = views.into_iter().map(|view| (view.id, view)).collect();
        Ok(())
    }

    /// The number of changes of workers at which the workers were read.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// The run of this id, or the only one whose id begins with it.
    fn run(&self, caller: &Caller, name: &str) -> Option<&RunRecord> {
        let mut seen = self.runs.iter().filter(|run| caller.sees(&run.account));
        if let Some(exact) = seen.clone().find(|run| &*run.id.0 == name) {
            return Some(exact);
        }
        let found = seen.find(|run| !name.is_empty() && run.id.0.starts_with(name))?;
        seen.all(|run| !run.id.0.starts_with(name)).then_some(found)
    }

    fn runs(&self, caller: &Caller, query: RunsQuery, limit: usize) -> Option<Page<RunSummary>> {
        let (filter, after) = query.filter(caller)?;
        let wanted = |run: &&RunRecord| {
            let named = |name: &String| run.name.to_lowercase().contains(&name.to_lowercase());
            filter.state.is_none_or(|wanted| wanted == run.state)
                && filter.account.as_ref().is_none_or(|wanted| *wanted == run.account)
                && filter.name.as_ref().is_none_or(named)
        };
        let begin = match &after {
            Some(after) => self.runs.iter().position(|run| run.id == *after)? + 1,
            None => 0,
        };
        let records: Vec<&RunRecord> =
            self.runs[begin..].iter().filter(wanted).take(limit).collect();
        let next = (records.len() == limit).then(|| records.last().map(|run| run.id.to_string()));
        let items = records.into_iter().map(|record| {
            let view = self.details.get(&record.id).map(|known| &known.detail.view);
            shape::summary(record.clone(), view)
        });
        Some(Page { items: items.collect(), next: next.flatten() })
    }
}

impl Memory {
    /// The last snapshot. Returns `None` if this server does not own the farm.
    pub(super) fn latest(&self) -> Option<Arc<Snapshot>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The current outage, if there is one.
    pub(super) fn outage(&self) -> Option<Outage> {
        self.outage.borrow().clone()
    }

    /// Resolves during an outage, but not before `until`.
    pub(super) async fn gives_up(&self, until: Instant) -> Outage {
        let mut outage = self.outage.subscribe();
        sleep_until(until).await;
        let found = outage.wait_for(Option::is_some).await.ok().and_then(|found| found.clone());
        match found {
            Some(outage) => outage,
            // The memory ends with the server.
            None => std::future::pending().await,
        }
    }

    fn remember(&self, snapshot: Option<Snapshot>) {
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = snapshot.map(Arc::new);
    }

    fn ends(&self) {
        if self.outage.send_if_modified(|outage| outage.take().is_some()) {
            tracing::warn!("the database can be used again");
        }
    }

    fn lasts(&self, since: Instant, why: String) {
        self.outage.send_modify(|outage| {
            if outage.is_none() {
                tracing::warn!("{why}: questions are answered from memory");
            }
            let since = outage.as_ref().map_or(since, |outage| outage.since);
            *outage = Some(Outage { since, why: why.into() });
        });
    }
}

/// Renews the snapshot again and again while this server owns the farm.
pub(super) async fn look(api: Weak<Api>) {
    loop {
        let since = Instant::now();
        let Some(api) = api.upgrade() else { return };
        let pause = api.look(since).await;
        drop(api);
        sleep(pause).await;
    }
}

impl Api {
    /// Renews the snapshot; returns the time until the next one is due.
    async fn look(&self, since: Instant) -> Duration {
        let Ok(owner) = self.owner() else {
            self.memory.remember(None);
            self.memory.ends();
            return NOT_YET;
        };
        let last = self.memory.latest();
        match timeout(LATE, Snapshot::take(self, &owner, last.as_deref())).await {
            Ok(Ok((snapshot, Ok(())))) => {
                self.memory.remember(Some(snapshot));
                self.memory.ends();
            }
            Ok(Ok((snapshot, Err(error)))) => {
                if last.is_none() {
                    self.memory.remember(Some(snapshot));
                }
                self.memory.lasts(since, error.to_string());
            }
            Ok(Err(error)) => self.memory.lasts(since, error.to_string()),
            Err(_) => self.memory.lasts(since, "the database does not answer".to_owned()),
        }
        LOOK
    }
}

impl Outage {
    /// An outage that begins now.
    pub(super) fn now() -> Self {
        Self { since: Instant::now(), why: "the database cannot be used".into() }
    }

    /// The response to requests that need the database.
    pub(super) fn problem(&self) -> Refusal {
        Refusal::new(Code::Unavailable, self.why.to_string()).retry_after(RETRY_AFTER)
    }

    /// Adds to a response how old it is, and why.
    pub(super) fn mark(&self, response: &mut Response, age: Duration) {
        let plain: String = self.why.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect();
        let headers = response.headers_mut();
        headers.insert(header::AGE, age.as_secs().into());
        headers
            .insert(STALE, HeaderValue::from_str(&plain).unwrap_or(HeaderValue::from_static("-")));
    }
}

impl Api {
    /// The response from the snapshot, if it has what was requested.
    pub(super) fn remembered(&self, asked: &Asked, outage: &Outage) -> Option<Response> {
        let snapshot = self.memory.latest()?;
        let mut response = match asked.route {
            "/v1/runs" => {
                let query: RunsQuery = query(&asked.uri)?;
                let limit = self.limits.page(query.limit()).ok()?;
                Json(snapshot.runs(&asked.caller, query, limit)?).into_response()
            }
            "/v1/runs/{run}" => {
                let record = snapshot.run(&asked.caller, asked.last()?)?;
                let known = snapshot.details.get(&record.id)?;
                Json((*known.detail).clone().of_run(record.clone())).into_response()
            }
            "/v1/workers" => {
                let paging: Paging<u32> = query(&asked.uri)?;
                let limit = self.limits.page(paging.limit).ok()?;
                let after = paging.after.unwrap_or(0);
                let seen = |record: &&WorkerRecord| asked.caller.sees(&record.account);
                let records = snapshot.workers.iter().filter(|record| record.id.0 > after);
                let records = records.filter(seen);
                let workers = records
                    .map(|record| worker(self, record.clone(), snapshot.views.get(&record.id)));
                Json(Page::of(workers, limit, |worker| worker.id.to_string())).into_response()
            }
            "/v1/workers/{id}" => {
                let id = WorkerId(asked.last()?.parse().ok()?);
                let record = snapshot.workers.iter().find(|record| record.id == id)?;
                let record = Some(record).filter(|record| asked.caller.sees(&record.account))?;
                Json(worker(self, record.clone(), snapshot.views.get(&id))).into_response()
            }
            _ => return None,
        };
        outage.mark(&mut response, snapshot.taken.elapsed());
        Some(response)
    }
}

fn query<T: DeserializeOwned>(uri: &Uri) -> Option<T> {
    Query::try_from_uri(uri).ok().map(|Query(query)| query)
}
