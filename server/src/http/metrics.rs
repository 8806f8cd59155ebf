//! `/metrics`, for Prometheus. Numbers about the farm come from the owner only, so that a sum over all servers counts
//! nothing twice.

use super::Api;
use super::heartbeats::Beat;
use super::refusal::Refusal;
use crate::handle::{COMMIT_BOUNDS_US, Error, Tally};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use pictor_api::{Code, GpuLoad, TokenRole};
use pictor_engine::{RunState, TaskState, Totals, WorkerView};
use pictor_queue::Depth;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Time limit for the lengths of queues: a broker that takes longer is left out.
const DEPTHS: Duration = Duration::from_secs(2);
/// How long to wait for the database while it cannot be used.
const LOOK: Duration = Duration::from_millis(500);
/// Upper bounds of the buckets of HTTP latencies, in seconds.
const LATENCIES: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0];

type Labels = Vec<(&'static str, String)>;

/// Metrics that this server counts itself.
#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Histogram, fn() -> Histogram>,
    /// Rejected tickets and links.
    pub(super) bad_tickets: Counter,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::default();
        let new: fn() -> Histogram = || Histogram::new(LATENCIES);
        let requests = Family::new_with_constructor(new);
        let bad_tickets = Counter::default();
        let help = "Time until an answer begins, by route and status";
        registry.register_with_unit("pictor_http_request", help, Unit::Seconds, requests.clone());
        let help = "Tickets and links of workers that were refused";
        registry.register("pictor_bad_tickets", help, bad_tickets.clone());
        Self { registry, requests, bad_tickets }
    }
}

/// Measures how long responses take.
pub(super) async fn measure(
    State(api): State<Arc<Api>>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    // Anybody may invent methods, and each value of a label is stored.
    let known =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    let method = request.method();
    let method = if known.contains(method) { method.as_str() } else { "other" }.to_owned();
    let started = Instant::now();
    let response = next.run(request).await;
    let path = path.map_or_else(|| "none".to_owned(), |path| path.as_str().replace("{*", "{"));
    let status = response.status().as_u16().to_string();
    let labels = vec![("method", method), ("path", path), ("status", status)];
    let took = started.elapsed().as_secs_f64();
    api.metrics.requests.get_or_create(&labels).observe(took);
    response
}

/// Exports the metrics, in the text format of `OpenMetrics`. A server may be set up to demand a token, of an admin,
/// operator or viewer.
#[utoipa::path(
    get, path = "/metrics", tag = "server", security((), ("token" = [])),
    responses((status = 200, description = "Metrics", body = String,
               content_type = "application/openmetrics-text")),
)]
pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    if api.metrics_need_token {
        let hurry = api.memory.gives_up(Instant::now() + LOOK);
        let caller = api.tokens.identify(&*api.registry, &headers, String::new(), hurry).await?;
        if !matches!(caller.role, TokenRole::Admin | TokenRole::Operator | TokenRole::Viewer) {
            let detail = "the metrics take the token of an admin, operator or viewer";
            return Err(Refusal::new(Code::Forbidden, detail));
        }
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Snapshot::take(&api).await));
    let mut text = String::new();
    let written = encode_registry(&mut text, &api.metrics.registry)
        .and_then(|()| encode_registry(&mut text, &registry))
        .and_then(|()| encode_eof(&mut text));
    written.map_err(|_| Refusal::new(Code::Internal, "the numbers have no text"))?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// Numbers that are looked up for each export.
#[derive(Debug, Default)]
struct Snapshot {
    owns: bool,
    /// Duration of the current outage of the database in seconds; 0 if there is none.
    outage: f64,
    farm: Option<FarmStats>,
    depths: Vec<Depth>,
    workers: BTreeMap<(&'static str, bool), u64>,
    beats: Vec<(String, Beat)>,
}

#[derive(Debug)]
struct FarmStats {
    totals: Totals,
    tally: Tally,
    tasks_held: u64,
}

impl Snapshot {
    async fn take(api: &Api) -> Self {
        let Ok(owner) = api.owner() else { return Self::default() };
        let now_ms = (api.now_ms)();
        let outage = api.memory.outage().map(|outage| outage.since.elapsed().as_secs_f64());
        let mut snapshot = Self { owns: true, outage: outage.unwrap_or(0.0), ..Self::default() };
        let looked = async {
            let ask = owner.ask(move |engine| (engine.totals(), engine.workers(now_ms)));
            let (totals, views) = ask.await?;
            let latest = api.memory.latest();
            let records = match latest.filter(|latest| latest.changes() == api.heartbeats.changes())
            {
                Some(latest) => latest.workers.clone(),
                None => api.registry.workers().await?.into(),
            };
            Ok::<_, Error>((totals, views, records))
        };
        let looked = tokio::select! {
            looked = looked => looked.ok(),
            _ = api.memory.gives_up(Instant::now() + LOOK) => None,
        };
        let remembered = || {
            let latest = api.memory.latest()?;
            let views = latest.views.values().cloned().collect();
            Some((latest.totals, views, latest.workers.clone()))
        };
        // The owner is ending and does not answer.
        let Some((totals, views, records)) = looked.or_else(remembered) else { return snapshot };
        let tasks_held = views.iter().map(|view: &WorkerView| u64::from(view.tasks)).sum();
        snapshot.farm = Some(FarmStats { totals, tally: owner.tally(), tasks_held });
        let lease_ms = i64::try_from(api.lease.as_millis()).unwrap_or(i64::MAX);
        let seen: HashMap<_, _> = views.iter().map(|view| (view.id, view.seen_ms)).collect();
        for record in &*records {
            let online = seen.get(&record.id).is_some_and(|seen_ms| now_ms - seen_ms <= lease_ms);
            let state = record.state.name();
            *snapshot.workers.entry((state, online)).or_default() += 1;
            let beat = api.heartbeats.latest(record.id.0).filter(|_| online);
            snapshot.beats.extend(beat.map(|beat| (record.name.clone(), beat)));
        }
        if let Some(broker) = &api.broker
            && let Ok(Ok(depths)) = timeout(DEPTHS, broker.depths()).await
        {
            snapshot.depths = depths;
        }
        snapshot
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let text = &mut encoder;
        let help = "Whether this server owns the farm";
        gauges(text, "pictor_owner", help, [(vec![], f64::from(u8::from(self.owns)))])?;
        let help = "For how long the database has not answered or could not be written, by now";
        gauges(text, "pictor_outage_seconds", help, [(vec![], self.outage)])?;
        if let Some(farm) = &self.farm {
            farm.encode(text)?;
        }
        let workers = self.workers.iter().map(|((state, online), count)| {
            (vec![("state", (*state).to_owned()), ("online", online.to_string())], number(*count))
        });
        gauges(text, "pictor_workers", "Registered workers", workers)?;
        let ready = self.depths.iter();
        let ready = ready.map(|d| (vec![("queue", d.queue.clone())], number(d.ready)));
        gauges(text, "pictor_queue_ready", "Messages that wait in a queue", ready)?;
        let taken = self.depths.iter();
        let taken = taken.map(|d| (vec![("queue", d.queue.clone())], number(d.unacknowledged)));
        let help = "Messages that were delivered and are not acknowledged";
        gauges(text, "pictor_queue_unacknowledged", help, taken)?;
        self.gpus(text)
    }
}

impl Snapshot {
    fn gpus(&self, text: &mut DescriptorEncoder<'_>) -> fmt::Result {
        type Read = fn(&GpuLoad) -> Option<f64>;
        let all: [(&str, &str, Read); 4] = [
            ("pictor_gpu_utilisation_percent", "How busy a GPU is", |gpu| {
                gpu.utilisation_percent.map(f64::from)
            }),
            ("pictor_gpu_memory_used_bytes", "A GPU's memory that is in use", |gpu| {
                gpu.memory_used_bytes.map(number)
            }),
            ("pictor_gpu_power_watts", "What a GPU draws", |gpu| gpu.power_watts),
            ("pictor_gpu_temperature_celsius", "How hot a GPU is", |gpu| {
                gpu.temperature_celsius.map(f64::from)
            }),
        ];
        for (name, help, read) in all {
            let values = self.beats.iter().flat_map(|(worker, beat)| {
                beat.gpus.iter().filter_map(move |gpu| {
                    let labels = vec![("worker", worker.clone()), ("gpu", gpu.uuid.clone())];
                    Some((labels, read(gpu)?))
                })
            });
            gauges(text, name, help, values)?;
        }
        let loads = self.beats.iter();
        let loads = loads.map(|(worker, b)| (vec![("worker", worker.clone())], b.machine.load));
        gauges(text, "pictor_worker_load", "Load of a worker's machine", loads)
    }
}

impl FarmStats {
    fn encode(&self, text: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let states = RunState::ALL.into_iter().zip(self.totals.runs);
        let runs = states.map(|(state, n)| (vec![("state", state.name().to_owned())], number(n)));
        gauges(text, "pictor_runs", "Runs in the engine, by state", runs)?;
        let states = TaskState::ALL.into_iter().zip(self.totals.tasks);
        let tasks = states.map(|(state, n)| (vec![("state", state.name().to_owned())], number(n)));
        gauges(text, "pictor_tasks", "Tasks of the runs in the engine, by state", tasks)?;
        let held = [(vec![], number(self.tasks_held))];
        gauges(text, "pictor_tasks_held", "Tasks that workers have", held)?;
        let Tally { stale, rejected, assigned, rows, .. } = self.tally;
        counter(text, "pictor_assigned_tasks", "Tasks sent to workers", assigned)?;
        counter(text, "pictor_stale_messages", "Messages that came too late", stale)?;
        counter(text, "pictor_rejected_messages", "Messages that were refused", rejected)?;
        counter(text, "pictor_history_rows", "Rows of history that were committed", rows)?;
        let about = "Time that a commit takes";
        let (name, unit) = ("pictor_commit", Some(&Unit::Seconds));
        let mut metric = text.encode_descriptor(name, about, unit, MetricType::Histogram)?;
        let bounds = COMMIT_BOUNDS_US.iter().map(|us| number(*us) / 1e6).chain([f64::MAX]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.tally.commit_buckets).collect();
        let sum = number(self.tally.commit_us) / 1e6;
        metric.encode_histogram::<NoLabelSet>(sum, self.tally.commits, &buckets, None)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a number for people and charts")]
fn number(number: u64) -> f64 {
    number as f64
}

/// The value of a label as the format demands: the encoder does not escape it.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

fn gauges(
    text: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let mut metric = text.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        if labels.is_empty() {
            metric.encode_gauge(&value)?;
        } else {
            // Some of them come from workers.
            let labels: Labels =
                labels.into_iter().map(|(name, text)| (name, escaped(&text))).collect();
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
    }
    Ok(())
}

fn counter(text: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let mut metric = text.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_cannot_become_a_line_of_its_own() {
        assert_eq!(escaped("x\"} 1\npictor_owner 1\n\\"), r#"x\"} 1\npictor_owner 1\n\\"#);
    }
}
