//! Live progress of a run: bars on a terminal, plain lines otherwise, JSON lines for programs. The same for a run in
//! this process and for one on a server.

use crate::session::{DRAW, mean};
use crate::terminal::{duration, say};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pictor_api::{RunDetail, RunState, Step, TaskState};
use pictor_engine::{Engine, RunView};
use pictor_server::{OwnerHandle, shape};
use pictor_storage::RunRecord;
use pictor_tasks::message::RunId;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often a plain line is printed while no task ends.
const LINE: Duration = Duration::from_secs(10);

/// Shows the progress of a run until it is finished.
pub(crate) struct Progress {
    task: JoinHandle<()>,
    over: watch::Sender<bool>,
}

/// Where the state of the run comes from.
pub(crate) enum Views {
    /// The engine in this process.
    Owner(OwnerHandle),
    /// The latest state that was fetched from a server.
    Server(watch::Receiver<Look>),
}

/// The state of a run, as far as it is shown.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    state: RunState,
    steps: Vec<Step>,
    eta_ms: Option<u64>,
}

impl Look {
    fn of(view: RunView) -> Self {
        let RunView { state, steps, eta_ms, .. } = view;
        Self { state, steps: shape::steps(steps), eta_ms }
    }
}

impl From<&RunDetail> for Look {
    fn from(detail: &RunDetail) -> Self {
        let RunDetail { run, steps, eta_ms, .. } = detail;
        Self { state: run.state, steps: steps.clone(), eta_ms: *eta_ms }
    }
}

impl Views {
    async fn view(&self, id: &RunId) -> Option<Look> {
        match self {
            Self::Owner(owner) => {
                let id = id.clone();
                let look =
                    move |engine: &Engine| engine.run(&id).map(|run| Look::of(engine.view(run)));
                owner.ask(look).await.ok()?
            }
            Self::Server(latest) => Some(latest.borrow().clone()),
        }
    }
}

impl Progress {
    /// Starts to show a run of this process.
    pub(crate) fn start(run: &RunRecord, owner: OwnerHandle, json: bool) -> Self {
        Self::of(&run.id, &run.out_dir, Views::Owner(owner), json)
    }

    /// Starts to show a run. `out` is the folder for its results; empty if they are not downloaded.
    pub(crate) fn of(id: &RunId, out: &str, views: Views, json: bool) -> Self {
        if json {
            say(&serde_json::json!({ "event": "start", "run": id, "out": out }).to_string());
        } else if out.is_empty() {
            say(&format!("{id}: get its results with: pictor download {id}"));
        } else {
            say(&format!("{id}: results land in {out}"));
        }
        let (over, end) = watch::channel(false);
        let id = id.clone();
        let task = if !json && std::io::stdout().is_terminal() {
            tokio::spawn(bars(id, views, Pace(end)))
        } else {
            tokio::spawn(lines(id, views, Pace(end), json))
        };
        Self { task, over }
    }

    /// Waits until the final state has been shown.
    pub(crate) async fn finish(self) {
        self.over.send_replace(true);
        // A panic in it has been printed already.
        let _ = self.task.await;
    }
}

/// Paces the updates; becomes true when the run ends.
struct Pace(watch::Receiver<bool>);

impl Pace {
    /// Waits for the next update. Returns `false` after the last one.
    async fn next(&mut self) -> bool {
        if *self.0.borrow() {
            return false;
        }
        // A sender that was dropped means over as well: the next query to the owner will fail.
        let _ = tokio::time::timeout(DRAW, self.0.wait_for(|over| *over)).await;
        true
    }
}

/// A number of tasks as a real number: a step has fewer than 2³² of them.
fn real(tasks: u64) -> f64 {
    f64::from(u32::try_from(tasks).unwrap_or(u32::MAX))
}

fn finished(step: &Step) -> u64 {
    TaskState::ALL.into_iter().filter(|s| s.is_terminal()).map(|s| step.tasks.get(s)).sum()
}

/// Completed fraction of a step, from 0 to 1, including the progress of running tasks. Returns `None` if no task of it
/// is running.
fn fraction(step: &Step) -> Option<f64> {
    let all = step.size.filter(|_| step.tasks.get(TaskState::Running) > 0)?;
    let inside = step.progress.unwrap_or(0.0);
    Some(((real(finished(step)) + f64::from(inside)) / f64::from(all)).clamp(0.0, 1.0))
}

/// Progress of a step since it was first observed.
#[derive(Clone, Copy)]
struct Trend {
    since: Instant,
    from: f64,
}

impl Trend {
    fn new(from: f64) -> Self {
        Self { since: Instant::now(), from }
    }

    /// Progress with an estimate of the remaining time: `37 %, 2m10s left`.
    fn words(&self, now: f64) -> String {
        let percent = format!("{:.0} %", (now * 100.0).floor());
        let (gone, past) = (now - self.from, self.since.elapsed());
        // Too early for an estimate.
        if gone < 0.01 || past < DRAW {
            return percent;
        }
        let left = past.mul_f64(((1.0 - now) / gone).min(1e6));
        format!("{percent}, {} left", duration(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// The trends of all steps, by their position.
#[derive(Default)]
struct Trends(Vec<Option<Trend>>);

impl Trends {
    /// The trend of a step, and its completed fraction. Returns `None` if the step is not running.
    fn of(&mut self, place: usize, step: &Step) -> Option<(&Trend, f64)> {
        if self.0.len() <= place {
            self.0.resize(place + 1, None);
        }
        let Some(now) = fraction(step) else {
            self.0[place] = None;
            return None;
        };
        let trend = &mut self.0[place];
        // The fraction falls when tasks are executed again: the trend starts anew.
        *trend = trend.filter(|trend| trend.from <= now);
        Some((trend.get_or_insert_with(|| Trend::new(now)), now))
    }
}

/// Counts by state, `1 failed, 2 running`, without those that are zero.
fn extras(step: &Step) -> String {
    let states = [TaskState::Running, TaskState::Failed, TaskState::Skipped, TaskState::Cancelled];
    let shown = states.into_iter().filter(|s| step.tasks.get(*s) > 0);
    shown.map(|s| format!("{} {}", step.tasks.get(s), s.name())).collect::<Vec<_>>().join(", ")
}

async fn bars(id: RunId, views: Views, mut pace: Pace) {
    let group = MultiProgress::new();
    let style = |template| ProgressStyle::with_template(template).expect("a valid template");
    // In 80 columns this leaves 32 for the text; what is wider than the terminal is cut and not wrapped.
    let step_style = style("{prefix:>12} {bar:20.cyan/238} {pos:>6}/{len:<6} {wide_msg}");
    let mut all: Vec<ProgressBar> = Vec::new();
    let total = group.add(ProgressBar::no_length().with_style(style("{msg:>12}")));
    let started = Instant::now();
    let mut trends = Trends::default();
    while let Some(view) = views.view(&id).await {
        while all.len() < view.steps.len() {
            let name = view.steps[all.len()].name.clone();
            // A bar is changed only once it is in the group: a bar by itself would be drawn at once, and stay where it
            // is.
            let bar = ProgressBar::no_length().with_style(step_style.clone()).with_prefix(name);
            all.push(group.insert_before(&total, bar));
        }
        for (place, (bar, step)) in all.iter().zip(&view.steps).enumerate() {
            match step.size {
                Some(tasks) => bar.set_length(u64::from(tasks)),
                None => bar.unset_length(),
            }
            bar.set_position(finished(step));
            let each = step.mean_ms.map_or_else(String::new, |m| format!("{} each", mean(Some(m))));
            let inside = trends.of(place, step).map(|(trend, now)| trend.words(now));
            let words = [each, extras(step), inside.unwrap_or_default()]
                .into_iter()
                .filter(|w| !w.is_empty());
            bar.set_message(words.collect::<Vec<_>>().join(", "));
        }
        total.set_message(footer(&view, started));
        if !pace.next().await {
            break;
        }
    }
    for bar in &all {
        bar.abandon();
    }
    total.finish_and_clear();
}

/// Elapsed time, frames per second and remaining time.
fn footer(view: &Look, started: Instant) -> String {
    let elapsed = started.elapsed();
    let mut words = vec![duration(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))];
    let frames = view.steps.iter().rev().find(|s| s.over == ["frame"]);
    let frames = frames.map(|step| step.tasks.get(TaskState::Succeeded));
    if let Some(frames) = frames.filter(|n| *n > 0) {
        let rate = real(frames) / elapsed.as_secs_f64().max(0.001);
        words.push(if rate >= 1.0 {
            format!("{rate:.1} frames/s")
        } else {
            format!("{:.1} s a frame", 1.0 / rate)
        });
    }
    let eta = view.eta_ms.filter(|eta| *eta > 0);
    words.extend(eta.map(|eta| format!("{} to go", duration(eta))));
    words.join("  ")
}

async fn lines(id: RunId, views: Views, mut pace: Pace, json: bool) {
    let started = Instant::now();
    let mut told: Vec<u64> = Vec::new();
    let mut last = Instant::now();
    let mut trends = Trends::default();
    let mut state = RunState::Running;
    while let Some(view) = views.view(&id).await {
        told.resize(view.steps.len(), 0);
        let waited = last.elapsed() >= LINE;
        for (place, (told, step)) in told.iter_mut().zip(&view.steps).enumerate() {
            let (done, all) = (finished(step), step.size.map_or(0, u64::from));
            let complete = done == all && all > 0;
            // People want a line now and then, programs want data.
            let inside = trends.of(place, step).map(|(trend, now)| (now, trend.words(now)));
            let runs_still = waited && inside.is_some();
            if !(runs_still || done != *told && (json || complete || waited)) {
                continue;
            }
            *told = done;
            if json {
                say(&serde_json::json!({
                    "event": "step", "run": id, "step": step.name, "finished": done, "tasks": all,
                    "failed": step.tasks.get(TaskState::Failed), "eta_ms": view.eta_ms,
                    "progress": inside.map(|(now, _)| now),
                })
                .to_string());
            } else {
                let extras = extras(step);
                let extras = if extras.is_empty() { extras } else { format!("  ({extras})") };
                let inside = inside.map_or_else(String::new, |(_, words)| format!("  {words}"));
                let footer = footer(&view, started);
                say(&format!("{:>12} {done}/{all}{extras}{inside}  {footer}", step.name));
            }
        }
        if waited {
            last = Instant::now();
        }
        if !view.state.is_terminal() && std::mem::replace(&mut state, view.state) != view.state {
            changed(&id, view.state, json);
        }
        if !pace.next().await {
            break;
        }
    }
}

/// Reports that the run was paused or resumed from another terminal.
fn changed(id: &RunId, state: RunState, json: bool) {
    if json {
        say(&serde_json::json!({ "event": "state", "run": id, "state": state }).to_string());
    } else if state == RunState::Paused {
        say(&format!("{id} is paused; go on with: pictor resume {id}"));
    } else {
        say(&format!("{id} continues"));
    }
}
