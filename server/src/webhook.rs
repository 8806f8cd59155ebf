//! Webhooks: events are reported to other programs by HTTP, signed, and repeated until they are accepted. Delivery is
//! at least once and in no particular order; `webhook-id` identifies duplicates.
//!
//! **Invariant:** an event has one id, derived from what is committed, so that it is stored once for each hook,
//! whichever server finds it and however often.

mod config;
mod event;
mod send;

pub use config::{HookConfig, HookError};
pub use event::EventKind;

use crate::{Committed, Error, OwnerHandle, ServerRole};
use config::Hook;
use event::Happened;
use pictor_storage::{Delivery, Registry, RunFilter, Store};
use pictor_tasks::message::WorkerId;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::warn;
use utoipa::ToSchema;

/// Pause after the database failed.
const RETRY: Duration = Duration::from_secs(1);
/// Age above which events are not reported any more.
const AGE_MAX_MS: i64 = 7 * 86_400_000;
/// How much earlier than the last known event to look for others. Events are stored in the order of commits, and clocks
/// of servers may differ.
const OVERLAP_MS: i64 = 3_600_000;
/// Event id of the stored message that marks from when on a hook gets events. It is never sent.
const SINCE: &str = "since";
/// Runs that are read at a time.
const PAGE: u32 = 1000;
/// Most stored messages that are examined for a hook's status.
const LOOKED_AT: u32 = 1000;

/// The hooks of a farm. Clones share their state.
#[derive(Clone)]
pub struct Webhooks {
    hooks: Arc<[Hook]>,
    store: Arc<dyn Store>,
    registry: Arc<dyn Registry>,
    now_ms: fn() -> i64,
    client: reqwest::Client,
    /// Notified when there is a new message to send.
    news: Arc<Notify>,
}

/// Status of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HookStatus {
    /// Name of the webhook.
    pub name: String,
    /// Host that it is on. The rest of its address may be a secret.
    pub host: String,
    /// Kinds of events that it gets.
    pub events: Vec<EventKind>,
    /// Messages that are not delivered yet; counted up to 1000.
    pub waiting: u32,
    /// Failed attempts to deliver the oldest of them.
    pub attempts: u32,
    /// Why the last of these attempts failed; empty if none did.
    pub error: String,
    /// Messages among the last 1000 that were abandoned after too many attempts.
    pub given_up: u32,
    /// When a message was last delivered, in milliseconds since 1970.
    pub delivered_ms: Option<i64>,
}

impl Webhooks {
    /// Prepares the configured hooks and reads their secrets. `now_ms` is the source of the time.
    pub fn new(
        configs: &[HookConfig],
        store: Arc<dyn Store>,
        registry: Arc<dyn Registry>,
        now_ms: fn() -> i64,
    ) -> Result<Self, HookError> {
        let hooks = config::load(configs)?;
        let client = send::client()?;
        Ok(Self { hooks: hooks.into(), store, registry, now_ms, client, news: Arc::default() })
    }

    /// Stores and sends events whenever this server owns the farm, until the sender of the role is dropped.
    pub async fn run(&self, mut role: watch::Receiver<ServerRole>) {
        loop {
            let owner = role.borrow_and_update().owner().cloned();
            let work = async {
                match owner {
                    Some(owner) if !self.hooks.is_empty() => {
                        tokio::join!(self.listen(&owner), self.send());
                    }
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = work => {}
                changed = role.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Stores messages for everything that is committed.
    async fn listen(&self, owner: &OwnerHandle) {
        // Commits from now on are received; earlier ones are looked up.
        let mut news = owner.news();
        self.until_done(|| self.catch_up()).await;
        loop {
            match news.recv().await {
                Ok(committed) => self.until_done(|| self.note(&committed)).await,
                Err(RecvError::Lagged(_)) => self.until_done(|| self.catch_up()).await,
                Err(RecvError::Closed) => return std::future::pending().await,
            }
        }
    }

    /// Repeats work until the database accepts it.
    async fn until_done<F: Future<Output = Result<(), Error>>>(&self, work: impl Fn() -> F) {
        while let Err(failure) = work().await {
            warn!(error = %failure, "events for webhooks cannot be stored; trying again");
            sleep(RETRY).await;
        }
    }

    /// Stores messages for what was committed while nobody listened: every run that has ended since the last event that
    /// a hook got. A new hook gets events from now on.
    pub async fn catch_up(&self) -> Result<(), Error> {
        let now_ms = (self.now_ms)();
        let mut since = Vec::with_capacity(self.hooks.len());
        for hook in &*self.hooks {
            since.push(self.since(hook, now_ms).await?);
        }
        let Some(first) = since.iter().min().copied() else { return Ok(()) };
        let mut after = None;
        loop {
            let page = self.store.runs(&RunFilter::default(), PAGE, after.as_ref()).await?;
            let ends = page.iter().filter_map(event::of_record);
            let ends: Vec<Happened> = ends.filter(|end| end.time_ms >= first).collect();
            let wanted = |number: usize, event: &Happened| event.time_ms >= since[number];
            self.keep(&ends, wanted).await?;
            match page.last() {
                Some(last) if page.len() == PAGE as usize => after = Some(last.id.clone()),
                _ => return Ok(()),
            }
        }
    }

    /// The time from which on a hook gets events.
    async fn since(&self, hook: &Hook, now_ms: i64) -> Result<i64, Error> {
        let stored = self.registry.deliveries(&hook.name, LOOKED_AT).await?;
        let noted = stored.iter().find(|message| message.event_id == SINCE);
        let noted_ms = noted.and_then(|noted| event::time_of(&noted.body)).unwrap_or(i64::MIN);
        if let Some(time_ms) = stored.first().and_then(|last| event::time_of(&last.body)) {
            return Ok((time_ms - OVERLAP_MS).max(noted_ms).max(now_ms - AGE_MAX_MS));
        }
        let since = Delivery {
            hook: hook.name.clone(),
            event_id: SINCE.to_owned(),
            body: serde_json::json!({ "time_ms": now_ms }).to_string(),
            next_ms: i64::MAX,
            ..Delivery::default()
        };
        self.registry.add_deliveries(&[since]).await?;
        Ok(now_ms)
    }

    /// Stores messages for a commit.
    pub async fn note(&self, committed: &Committed) -> Result<(), Error> {
        let mut events = Vec::new();
        for (run, state) in committed.changed.iter().filter(|(_, state)| state.is_terminal()) {
            let last = committed.rows.get(run).and_then(|rows| rows.last());
            // A run that has been pruned already has nothing to report.
            let (Some(last), Some(record)) = (last, self.store.run(&run.0).await?) else {
                continue;
            };
            events.extend(event::of_end(&record, *state, last.time_ms));
        }
        for worker in &committed.lost {
            events.extend(self.lost(*worker).await?);
        }
        self.keep(&events, |_, _| true).await
    }

    /// A worker that was last seen long ago has been reported as lost before.
    async fn lost(&self, worker: WorkerId) -> Result<Option<Happened>, Error> {
        let now_ms = (self.now_ms)();
        let record = self.registry.worker(worker).await?;
        let record = record.filter(|record| record.seen_ms >= now_ms - AGE_MAX_MS);
        Ok(record.map(|record| event::of_loss(&record, now_ms)))
    }

    /// Stores messages for the hooks that want the events; `also` is called with a hook's number.
    async fn keep(
        &self,
        events: &[Happened],
        also: impl Fn(usize, &Happened) -> bool,
    ) -> Result<(), Error> {
        let mut messages = Vec::new();
        for (number, hook) in self.hooks.iter().enumerate() {
            let wanted =
                |event: &&Happened| hook.events.contains(&event.kind) && also(number, event);
            messages.extend(events.iter().filter(wanted).map(|event| Delivery {
                hook: hook.name.clone(),
                event_id: event.id.clone(),
                body: event.body.clone(),
                next_ms: (self.now_ms)(),
                ..Delivery::default()
            }));
        }
        if !messages.is_empty() {
            self.registry.add_deliveries(&messages).await?;
            self.news.notify_waiters();
        }
        Ok(())
    }

    /// Sends due messages, each hook by itself: one that hangs delays no other.
    async fn send(&self) {
        let mut tasks = JoinSet::new();
        for number in 0..self.hooks.len() {
            let all = self.clone();
            tasks.spawn(async move { send::to_hook(&all, number).await });
        }
        while tasks.join_next().await.is_some() {}
    }

    /// Attempts every due message once and waits for the responses. Returns how many messages were attempted.
    pub async fn deliver_due(&self) -> Result<usize, Error> {
        let mut tasks: JoinSet<Result<usize, Error>> = JoinSet::new();
        for number in 0..self.hooks.len() {
            let all = self.clone();
            tasks.spawn(async move { Ok(send::due(&all, &all.hooks[number]).await?.tried) });
        }
        let mut tried = 0;
        while let Some(done) = tasks.join_next().await {
            tried += done.unwrap_or(Err(Error::Stopped))?;
        }
        Ok(tried)
    }

    /// The status of each hook.
    pub async fn status(&self) -> Result<Vec<HookStatus>, Error> {
        let mut all = Vec::with_capacity(self.hooks.len());
        for hook in &*self.hooks {
            let stored = self.registry.deliveries(&hook.name, LOOKED_AT).await?;
            let told = stored.into_iter().filter(|d| d.event_id != SINCE);
            all.push(status(hook, &told.collect::<Vec<_>>()));
        }
        Ok(all)
    }
}

/// The status derived from the last stored messages, newest first.
fn status(hook: &Hook, stored: &[Delivery]) -> HookStatus {
    let waiting = || stored.iter().filter(|message| message.done_ms.is_none());
    let given_up = |message: &&Delivery| message.error.starts_with(send::GIVEN_UP);
    let (attempts, error) = waiting()
        .next_back()
        .map_or((0, String::new()), |oldest| (oldest.attempts, oldest.error.clone()));
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    HookStatus {
        name: hook.name.clone(),
        host: hook.host.clone(),
        events: hook.events.iter().copied().collect(),
        waiting: count(waiting().count()),
        attempts,
        error,
        given_up: count(stored.iter().filter(given_up).count()),
        delivered_ms: stored.iter().filter(|m| !given_up(m)).filter_map(|m| m.done_ms).max(),
    }
}
