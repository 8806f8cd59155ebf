//! `/v1/events`: server-sent events of the farm. A client that was disconnected resumes after the last id; for a single
//! run that is exact for as long as the run exists.

use super::caller::Caller;
use super::extract::Query;
use super::hub::{About, After, Happened};
use super::limits::{Part, Quotas};
use super::refusal::Refusal;
use super::{Api, aside};
use crate::runs::shape;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, Stream};
use pictor_api::{AttemptState, EventData};
use pictor_engine::{Run, RunState};
use pictor_storage::RunRecord;
use pictor_tasks::history::{Event as Change, Fact, Row};
use pictor_tasks::message::{Outcome, RunId};
use pictor_tasks::space::Space;
use serde::Deserialize;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

/// After this time without an event a comment is sent, so that proxies keep the connection open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often the token of a stream is looked up.
const CHECK: Duration = Duration::from_secs(5);
/// Entries of the ring that are turned into events at a time.
const AT_ONCE: usize = 32;
/// Most rows that a resumed stream reads from history. A client that missed more has to look the run up again.
const CATCH_UP_ROWS: u64 = 50_000;

fn event(data: &EventData, id: Option<String>) -> Event {
    let event = Event::default().event(data.name());
    let event = id.into_iter().fold(event, Event::id);
    event.data(serde_json::to_string(data).expect("an event is plain data"))
}

fn reset(reason: &str) -> EventData {
    EventData::Reset { reason: reason.to_owned() }
}

/// Which events to receive, and from when on.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// Only events of this run: its id, or an unambiguous beginning of it.
    run: Option<String>,
    /// The same as the header `Last-Event-ID`, for clients that cannot send it.
    last_event_id: Option<String>,
}

/// Streams events as they happen.
///
/// Each event has a name and JSON data. With `Last-Event-ID` the stream continues after that event; without it, the
/// stream begins with the next one. A comment every 15 s keeps the connection open.
#[utoipa::path(
    get, path = "/v1/events", tag = "events",
    params(
        EventsQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that was seen"),
    ),
    responses((status = 200, description = "Events", body = EventData,
               content_type = "text/event-stream")),
)]
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Refusal> {
    let header = headers.get("last-event-id").and_then(|value| value.to_str().ok());
    let last = header.map(str::to_owned).or(query.last_event_id).filter(|last| !last.is_empty());
    let subject = match query.run {
        Some(run) => {
            let record = api.run(&caller, &run).await?;
            Subject::Run(Box::new(RunListener::new(&api, &record, last.as_deref()).await?))
        }
        None => Subject::Farm(FarmListener::new(&api, last.as_deref())?),
    };
    let (news, stop) = (api.events.listen(), api.stop.clone());
    let most = api.limits.quotas.streams;
    let place = api.streams.take(&caller.account, 1, most).ok_or_else(|| {
        let has = format!("the account `{}` has {most} event streams already", caller.account);
        Quotas::exceeded("streams", most, has)
    })?;
    let (ready, checked) = (VecDeque::new(), Instant::now());
    let listener = Listener { api, caller, subject, news, stop, ready, checked, _place: place };
    let events = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// A client that receives events.
struct Listener {
    api: Arc<Api>,
    caller: Caller,
    subject: Subject,
    news: watch::Receiver<u64>,
    stop: watch::Receiver<bool>,
    ready: VecDeque<Event>,
    /// When the caller's token was last looked up.
    checked: Instant,
    _place: Part,
}

enum Subject {
    Farm(FarmListener),
    Run(Box<RunListener>),
}

impl Listener {
    /// The next event. Returns `None` when the server stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.checked.elapsed() >= CHECK {
                self.checked = Instant::now();
                let token = timeout(CHECK, self.api.registry.token(&self.caller.token)).await;
                // A revoked token ends what it began. If that is not known at the moment, the stream goes on.
                if let Ok(Ok(token)) = token
                    && token.is_none_or(|token| token.revoked_ms.is_some())
                {
                    return None;
                }
            }
            self.news.borrow_and_update();
            let more = match &mut self.subject {
                Subject::Farm(farm) => farm.more(&self.api, &self.caller).await,
                Subject::Run(run) => run.more(&self.api).await,
            };
            match more {
                Ok(Some(events)) => self.ready.extend(events),
                Ok(None) => tokio::select! {
                    changed = self.news.changed() => changed.ok()?,
                    _ = self.stop.wait_for(|stop| *stop) => return None,
                    () = sleep_until(self.checked + CHECK) => {}
                },
                // Not available at the moment: the client reconnects and resumes after its last id.
                Err(_) => return None,
            }
        }
    }
}

/// Events of the whole farm. Their ids: the ring's life, the entry, and the event within it.
struct FarmListener {
    life: i64,
    /// The last entry whose events were all sent.
    entry: u64,
    /// Number of events of the next entry that were sent already.
    told: usize,
}

impl FarmListener {
    fn new(api: &Api, last: Option<&str>) -> Result<Self, Refusal> {
        let Some(last) = last else {
            let (life, entry) = api.events.place();
            return Ok(Self { life, entry, told: 0 });
        };
        let mut parts = last.split('-').map(str::parse::<u64>);
        let (Some(Ok(life)), Some(Ok(entry)), Some(Ok(told)), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Refusal::invalid("`Last-Event-ID` is not the id of an event of the farm"));
        };
        let told = usize::try_from(told).unwrap_or(usize::MAX);
        let life = i64::try_from(life).unwrap_or(0);
        Ok(Self { life, entry: entry.saturating_sub(1), told })
    }

    async fn more(&mut self, api: &Api, caller: &Caller) -> Result<Option<Vec<Event>>, Refusal> {
        let (first, entries) = match api.events.after(self.life, self.entry, AT_ONCE) {
            After::Nothing => return Ok(None),
            After::Gone => {
                (self.life, self.entry) = api.events.place();
                self.told = 0;
                let id = format!("{}-{}-0", self.life, self.entry + 1);
                let data = reset("events in between are not known any more");
                return Ok(Some(vec![event(&data, Some(id))]));
            }
            After::Entries(first, entries) => (first, entries),
        };
        let mut events = Vec::new();
        for (number, entry) in (first..).zip(entries) {
            let data = self.data(api, caller, &entry).await?;
            let skip = std::mem::take(&mut self.told);
            let told = (1..).zip(&data).skip(skip);
            events.extend(told.map(|(nth, data): (usize, _)| {
                event(data, Some(format!("{}-{number}-{nth}", self.life)))
            }));
            self.entry = number;
        }
        Ok(Some(events))
    }

    /// The events of an entry for the caller. Always the same for the same entry and caller.
    async fn data(
        &self,
        api: &Api,
        caller: &Caller,
        entry: &Happened,
    ) -> Result<Vec<EventData>, Refusal> {
        let commit = match entry {
            Happened::Worker(worker, state) => {
                return Ok(vec![EventData::Worker { worker: *worker, state: (*state).to_owned() }]);
            }
            Happened::Started(run, account) => {
                let data = state_data(run, RunState::Running);
                return Ok(caller.sees(account).then_some(data).into_iter().collect());
            }
            Happened::Commit(commit) => commit,
        };
        let mut data = Vec::new();
        for (run, rows) in &commit.rows {
            let Ok(about) = api.about(run).await else { continue };
            if caller.sees(&about.account) {
                let spaces = commit.spaces.get(run).map_or(&[] as &[_], Vec::as_slice);
                data.extend(rows.iter().map(|row| row_data(run, row, &about, spaces)));
            }
        }
        for (run, state) in &commit.changed {
            if api.about(run).await.is_ok_and(|about| caller.sees(&about.account)) {
                data.push(state_data(run, *state));
            }
        }
        Ok(data)
    }
}

/// Events of one run. Their ids are sequence numbers in its history.
struct RunListener {
    run: RunId,
    record: RunRecord,
    about: About,
    /// The last row that was sent.
    seq: u64,
    /// Position in the ring up to which events were sent; `None`: history has to be read first.
    ring: Option<(i64, u64)>,
}

impl RunListener {
    async fn new(api: &Api, record: &RunRecord, last: Option<&str>) -> Result<Self, Refusal> {
        let run = record.id.clone();
        let about = api.about(&run).await?;
        let seq = match last {
            Some(last) => last.parse().map_err(|_| {
                Refusal::invalid("`Last-Event-ID` is not the id of an event of the run")
            })?,
            None => api.ask(record, |_, run| run.seq()).await?,
        };
        Ok(Self { run, record: record.clone(), about, seq, ring: None })
    }

    async fn more(&mut self, api: &Api) -> Result<Option<Vec<Event>>, Refusal> {
        let Some((life, entry)) = self.ring else { return self.catch_up(api).await.map(Some) };
        let (first, entries) = match api.events.after(life, entry, AT_ONCE) {
            After::Nothing => return Ok(None),
            After::Gone => return self.catch_up(api).await.map(Some),
            After::Entries(first, entries) => (first, entries),
        };
        let last = first + entries.len() as u64 - 1;
        let mut events = Vec::new();
        for entry in &entries {
            let Happened::Commit(commit) = entry else { continue };
            let spaces = commit.spaces.get(&self.run).map_or(&[] as &[_], Vec::as_slice);
            for row in commit.rows.get(&self.run).into_iter().flatten() {
                if row.seq > self.seq + 1 {
                    // A row is missing: history has it.
                    return self.catch_up(api).await.map(Some);
                }
                if row.seq == self.seq + 1 {
                    self.seq = row.seq;
                    let data = row_data(&self.run, row, &self.about, spaces);
                    events.push(event(&data, Some(row.seq.to_string())));
                }
            }
            let state = commit.changed.get(&self.run);
            events.extend(state.map(|state| event(&state_data(&self.run, *state), None)));
        }
        self.ring = Some((life, last));
        Ok(Some(events))
    }

    /// The rows of history after the last one that was sent, then the run's state.
    async fn catch_up(&mut self, api: &Api) -> Result<Vec<Event>, Refusal> {
        // The position in the ring first: what is committed from now on is found there.
        let ring = api.events.place();
        let look = |_: &pictor_engine::Engine, run: &Run| {
            let steps = (0u16..).take(run.plan().steps.len());
            let spaces: Vec<_> = steps.map(|step| run.space(step).cloned()).collect();
            (run.seq(), run.state(), spaces)
        };
        let (seq, state, spaces) = api.ask(&self.record, look).await?;
        let mut events = Vec::new();
        if seq < self.seq || seq - self.seq > CATCH_UP_ROWS {
            self.seq = seq;
            let data = reset("too much happened in between");
            events.push(event(&data, Some(seq.to_string())));
        } else if seq > self.seq {
            let rows = history(api, &self.run, self.seq + 1, seq).await?;
            self.seq = seq;
            events.extend(rows.iter().map(|row| {
                let data = row_data(&self.run, row, &self.about, &spaces);
                event(&data, Some(row.seq.to_string()))
            }));
        }
        events.push(event(&state_data(&self.run, state), None));
        self.ring = Some(ring);
        Ok(events)
    }
}

/// Reads rows of a run's history, on a thread of its own.
async fn history(api: &Api, run: &RunId, from: u64, to: u64) -> Result<Vec<Row>, Refusal> {
    let (store, run) = (api.store.clone(), run.clone());
    let runtime = tokio::runtime::Handle::current();
    let read = aside(move || {
        let mut rows = Vec::new();
        let mut collect = |row: Row| {
            if row.seq <= to {
                rows.push(row);
            }
        };
        runtime.block_on(store.load_history(&run, from, &mut collect)).map(|_| rows)
    });
    Ok(read.await??)
}

fn state_data(run: &RunId, state: RunState) -> EventData {
    EventData::Run { run: run.to_string(), state: state.name().to_owned() }
}

fn row_data(run: &RunId, row: &Row, about: &About, spaces: &[Option<Arc<Space>>]) -> EventData {
    let (run, seq, time_ms) = (run.to_string(), row.seq, row.time_ms);
    let (task, worker, state, message) = match &row.fact {
        Fact::Claim(claim) => (claim.task, claim.worker, AttemptState::Running, None),
        Fact::Ended(ended) => {
            let message = match &ended.outcome {
                Outcome::Failed(failure) => Some(failure.message.clone()),
                _ => None,
            };
            (ended.task, ended.worker, shape::ended(&ended.outcome), message)
        }
        Fact::Event(control) => {
            let (change, priority) = match &control.event {
                Change::Paused => ("paused", None),
                Change::Resumed => ("resumed", None),
                Change::Cancelled => ("cancelled", None),
                Change::Priority(priority) => ("priority", Some(*priority)),
                Change::Reset(_) => ("reset", None),
                Change::Changed(changes) => ("changed", changes.priority),
                Change::Removed(_) => ("removed", None),
            };
            return EventData::Control { run, seq, time_ms, change: change.to_owned(), priority };
        }
    };
    let (number, index) = (task.step as usize, task.task.index);
    let step = about.plan.steps.get(number).map_or_else(String::new, |step| step.name.clone());
    let label = match spaces.get(number).and_then(Option::as_ref) {
        Some(space) if !space.axes.is_empty() => format!("{step}[{}]", space.label(index)),
        _ => step.clone(),
    };
    EventData::Task {
        run,
        seq,
        time_ms,
        task: label,
        step,
        index,
        attempt: task.task.attempt,
        state,
        worker: worker.0,
        message,
    }
}
