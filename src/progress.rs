//! How a run goes, live: bars on a terminal, plain lines otherwise, JSON lines for programs. The same for
//! a run of this process and for one of a server.

use crate::session::{DRAW, mean};
use crate::terminal::{duration, say};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use pictor_engine::{RunState, RunView, StepView, TaskState};
use pictor_server::OwnerHandle;
use pictor_storage::RunRecord;
use pictor_tasks::message::RunId;
use std::io::IsTerminal;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How often plain lines are printed while nothing is completed.
const LINE: Duration = Duration::from_secs(10);

/// Shows a run until told that it is over.
pub(crate) struct Progress {
    task: JoinHandle<()>,
    over: watch::Sender<bool>,
}

/// Who knows how the run goes.
pub(crate) enum Views {
    /// The engine in this process.
    Owner(OwnerHandle),
    /// Somebody who asks a server, again and again.
    Server(watch::Receiver<Option<RunView>>),
}

impl Views {
    async fn view(&self, id: &RunId) -> Option<RunView> {
        match self {
            Self::Owner(owner) => {
                let id = id.clone();
                owner.ask(move |engine| engine.run(&id).map(|run| engine.view(run))).await.ok()?
            }
            Self::Server(latest) => latest.borrow().clone(),
        }
    }
}

impl Progress {
    /// Starts to show a run of this process.
    pub(crate) fn start(run: &RunRecord, owner: OwnerHandle, json: bool) -> Self {
        Self::of((&run.id, &run.out_dir), Views::Owner(owner), json)
    }

    /// Starts to show a run, given where its results land; empty: they are not fetched.
    pub(crate) fn of((id, out): (&RunId, &str), views: Views, json: bool) -> Self {
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

    /// Waits until the last state was shown.
    pub(crate) async fn finish(self) {
        self.over.send_replace(true);
        // A panic in it was printed.
        let _ = self.task.await;
    }
}

/// When to look next.
struct Pace(watch::Receiver<bool>);

impl Pace {
    /// Waits for the next look. `false`: the last one was taken.
    async fn next(&mut self) -> bool {
        if *self.0.borrow() {
            return false;
        }
        // Without the sender it is over as well, and the next question to the owner fails.
        let _ = tokio::time::timeout(DRAW, self.0.wait_for(|over| *over)).await;
        true
    }
}

fn finished(step: &StepView) -> u32 {
    TaskState::ALL.into_iter().filter(|s| s.is_terminal()).map(|s| step.count(s)).sum()
}

/// How far a step is, from 0 to 1, with what running tasks say; nothing while nothing of it runs.
fn fraction(step: &StepView) -> Option<f64> {
    let all = step.tasks.filter(|_| step.count(TaskState::Running) > 0)?;
    let inside = step.progress.unwrap_or(0.0);
    Some(((f64::from(finished(step)) + f64::from(inside)) / f64::from(all)).clamp(0.0, 1.0))
}

/// How a step has gone on since it was first seen to.
#[derive(Clone, Copy)]
struct Trend {
    since: Instant,
    from: f64,
}

impl Trend {
    fn new(from: f64) -> Self {
        Self { since: Instant::now(), from }
    }

    /// `37 %, 2m10s left`.
    fn words(&self, now: f64) -> String {
        let percent = format!("{:.0} %", (now * 100.0).floor());
        let (gone, past) = (now - self.from, self.since.elapsed());
        // Too little says nothing.
        if gone < 0.01 || past < DRAW {
            return percent;
        }
        let left = past.mul_f64(((1.0 - now) / gone).min(1e6));
        format!("{percent}, {} left", duration(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// The trends of all steps, by their place.
#[derive(Default)]
struct Trends(Vec<Option<Trend>>);

impl Trends {
    /// The trend of a step that says how far it is, and how far that is.
    fn of(&mut self, place: usize, step: &StepView) -> Option<(&Trend, f64)> {
        if self.0.len() <= place {
            self.0.resize(place + 1, None);
        }
        let Some(now) = fraction(step) else {
            self.0[place] = None;
            return None;
        };
        let trend = &mut self.0[place];
        // Tasks that are done again.
        *trend = trend.filter(|trend| trend.from <= now);
        Some((trend.get_or_insert_with(|| Trend::new(now)), now))
    }
}

/// `1 failed, 2 running`, without what is not there.
fn extras(step: &StepView) -> String {
    let states = [TaskState::Running, TaskState::Failed, TaskState::Skipped, TaskState::Cancelled];
    let shown = states.into_iter().filter(|s| step.count(*s) > 0);
    shown.map(|s| format!("{} {}", step.count(s), s.name())).collect::<Vec<_>>().join(", ")
}

async fn bars(id: RunId, views: Views, mut pace: Pace) {
    let group = MultiProgress::new();
    let style = |template| ProgressStyle::with_template(template).expect("a valid template");
    // In 80 columns 32 are left for the words; what is wider than the terminal is cut and not wrapped.
    let step_style = style("{prefix:>12} {bar:20.cyan/238} {pos:>6}/{len:<6} {wide_msg}");
    let mut all: Vec<ProgressBar> = Vec::new();
    let total = group.add(ProgressBar::no_length().with_style(style("{msg:>12}")));
    let started = Instant::now();
    let mut trends = Trends::default();
    while let Some(view) = views.view(&id).await {
        while all.len() < view.steps.len() {
            let name = view.steps[all.len()].name.clone();
            // Nothing is changed before it is in the group: a bar of its own would be drawn at once, and
            // stay where it is.
            let bar = ProgressBar::no_length().with_style(step_style.clone()).with_prefix(name);
            all.push(group.insert_before(&total, bar));
        }
        for (place, (bar, step)) in all.iter().zip(&view.steps).enumerate() {
            match step.tasks {
                Some(tasks) => bar.set_length(u64::from(tasks)),
                None => bar.unset_length(),
            }
            bar.set_position(u64::from(finished(step)));
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

/// Time, frames a second and time to the end.
fn footer(view: &RunView, started: Instant) -> String {
    let elapsed = started.elapsed();
    let mut words = vec![duration(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX))];
    let frames = view.steps.iter().rev().find(|s| s.over == ["frame"]);
    let frames = frames.map(|step| step.count(TaskState::Succeeded));
    if let Some(frames) = frames.filter(|n| *n > 0) {
        let rate = f64::from(frames) / elapsed.as_secs_f64().max(0.001);
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
    let mut told: Vec<u32> = Vec::new();
    let mut last = Instant::now();
    let mut trends = Trends::default();
    let mut state = RunState::Running;
    while let Some(view) = views.view(&id).await {
        told.resize(view.steps.len(), 0);
        let waited = last.elapsed() >= LINE;
        for (place, (told, step)) in told.iter_mut().zip(&view.steps).enumerate() {
            let (done, all) = (finished(step), step.tasks.unwrap_or(0));
            let complete = done == all && all > 0;
            // People want to read a line now and then; programs want to know.
            let inside = trends.of(place, step).map(|(trend, now)| (now, trend.words(now)));
            let runs_still = waited && inside.is_some();
            if !(runs_still || done != *told && (json || complete || waited)) {
                continue;
            }
            *told = done;
            if json {
                say(&serde_json::json!({
                    "event": "step", "run": id, "step": step.name, "finished": done, "tasks": all,
                    "failed": step.count(TaskState::Failed), "eta_ms": view.eta_ms,
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

/// Somebody paused the run from another terminal, or let it go on.
fn changed(id: &RunId, state: RunState, json: bool) {
    if json {
        say(&serde_json::json!({ "event": "state", "run": id, "state": state }).to_string());
    } else if state == RunState::Paused {
        say(&format!("{id} is paused; go on with: pictor resume {id}"));
    } else {
        say(&format!("{id} goes on"));
    }
}
