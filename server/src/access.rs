//! What other commands may ask about runs and do to them. The same answers come from the process that
//! owns the data folder (over its socket) and from a command that opened the folder itself.

mod lists;

use crate::handle::{Error, OwnerHandle};
use lists::{first_tasks, runs, tasks};
use pictor_engine::{
    Config, Effects, Engine, FoldError, Notes, Run, RunState, RunView, TaskState, TaskView,
};
use pictor_storage::{RunRecord, RunRows, Store};
use pictor_tasks::history::{Changes, Control, Event, Fact, ResetTasks};
use pictor_tasks::job::changes;
use pictor_tasks::message::{Execution, Outcome, Output, RunId, TaskId, Try};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A question or an order.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Runs, the newest first.
    Runs {
        /// Only those in this state.
        #[serde(default)]
        state: Option<String>,
        /// Only those of this account.
        #[serde(default)]
        owner: Option<String>,
        /// Only those with this in their name.
        #[serde(default)]
        name: Option<String>,
        /// How many at most; a thousand at a time.
        limit: usize,
        /// Where to go on: the last run of the answer before.
        #[serde(default)]
        after: Option<RunId>,
    },
    /// One run in numbers.
    Show {
        /// Its id or the beginning of it.
        run: String,
    },
    /// Tasks of a run.
    Tasks {
        /// Its id or the beginning of it.
        run: String,
        /// Only those in this state.
        state: Option<TaskState>,
        /// Only those of this step.
        step: Option<String>,
        /// Only those with these values of dimensions.
        #[serde(default)]
        dims: Vec<(String, String)>,
        /// How many at most; a thousand at a time.
        limit: usize,
        /// Where to go on: the step and index that the answer before names.
        #[serde(default)]
        after: Option<TaskId>,
    },
    /// One task with its attempts.
    Task {
        /// The run's id or the beginning of it.
        run: String,
        /// As in `render[frame=7,tile=3]`.
        task: String,
    },
    /// Changes a run.
    Control {
        /// Its id or the beginning of it.
        run: String,
        /// The change; its id makes sure that it happens once.
        control: Control,
    },
    /// Does tasks of a run again: those that are named, or all that failed or were cancelled.
    Retry {
        /// Its id or the beginning of it.
        run: String,
        /// The tasks.
        tasks: Vec<String>,
        /// Makes sure that it happens once.
        id: u64,
        /// Only says how many tasks that would be.
        dry_run: bool,
        /// Settings that are changed before: names and values, as `--set` gives them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        set: Vec<(String, String)>,
    },
}

/// What comes back.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Runs`].
    Runs(Vec<RunLine>),
    /// To [`Request::Show`].
    Run(Box<RunReport>),
    /// To [`Request::Tasks`], and where to go on.
    Tasks(Vec<TaskView>, Option<TaskId>),
    /// To [`Request::Task`].
    Task(Box<TaskReport>),
    /// It was done.
    Done,
    /// To [`Request::Retry`].
    Reset(ResetSize),
    /// It was not done; why, for people.
    Failed(String),
}

/// How much is done again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetSize {
    /// Tasks: those that are asked for, everything that was built on them, and `remade`.
    pub tasks: u64,
    /// Those among them that had succeeded, and whose outputs were removed because nobody read them any
    /// more.
    pub remade: u64,
}

impl ResetSize {
    /// What a reset does.
    pub(crate) fn of(run: &Run, reset: &[ResetTasks]) -> Self {
        let closure = run.reset_closure(reset);
        let remade = closure.iter().filter(|at| run.is_removed(**at)).count();
        Self { tasks: closure.len() as u64, remade: remade as u64 }
    }
}

/// One run in a list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunLine {
    /// Its id.
    pub id: RunId,
    /// The job's name.
    pub name: String,
    /// Its state.
    pub state: String,
    /// Whether a process is working on it now.
    pub active: bool,
    /// The account that submitted it.
    #[serde(default)]
    pub owner: String,
    /// When it was submitted, milliseconds since 1970.
    pub created_ms: i64,
    /// When it ended.
    pub finished_ms: Option<i64>,
    /// Where its results are delivered.
    pub out_dir: String,
}

/// One run in detail.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunReport {
    /// The run.
    pub line: RunLine,
    /// Its steps and numbers.
    pub view: RunView,
    /// The first failed tasks.
    pub failures: Vec<TaskView>,
    /// Tasks that are not running although nothing they need is missing, and why; the first few.
    pub waiting: Vec<TaskView>,
    /// Sentences from workers that are not failures.
    #[serde(flatten)]
    pub notes: Notes,
}

/// One task with its attempts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaskReport {
    /// The task.
    pub task: TaskView,
    /// Its attempts so far, in order.
    pub attempts: Vec<AttemptView>,
    /// Its accepted outputs.
    pub outputs: Vec<Output>,
}

/// One attempt.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttemptView {
    /// Its number.
    pub attempt: u32,
    /// Which carrying-out: names its log file.
    pub execution: Execution,
    /// When it started, milliseconds since 1970.
    pub started_ms: i64,
    /// How long it took.
    pub took_ms: u32,
    /// `succeeded`, `failed`, `cancelled`, `lost` or `running`.
    pub outcome: String,
    /// Why it failed.
    pub message: String,
    /// Sentences from its worker that are not failures.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Answers a request, with the engine of the owner if there is one.
pub async fn answer(store: &dyn Store, owner: Option<&OwnerHandle>, request: Request) -> Answer {
    let answered = match request {
        request @ Request::Runs { .. } => runs(store, owner, request).await,
        Request::Show { run } => show(store, owner, &run).await,
        request @ Request::Tasks { .. } => tasks(store, owner, request).await,
        Request::Task { run, task } => one_task(store, owner, &run, &task).await,
        Request::Control { run, control } => {
            change(store, owner, &run, |_| Ok((Some(control), Answer::Done))).await
        }
        Request::Retry { run, tasks, id, dry_run, set } => {
            change(store, owner, &run, move |run| {
                let (event, size) = to_retry(run, &tasks, &set)?;
                let control = Control { id, event };
                Ok(((!dry_run).then_some(control), Answer::Reset(size)))
            })
            .await
        }
    };
    answered.unwrap_or_else(|error| Answer::Failed(error.to_string()))
}

/// A stored run by its id or an unambiguous beginning of it.
pub async fn stored_run(store: &dyn Store, name: &str) -> Result<RunRecord, Error> {
    store.run(name).await?.ok_or_else(|| Error::NoRun(name.to_owned()))
}

/// A run from its plan and history.
pub async fn load_run(store: &dyn Store, id: &RunId) -> Result<Run, Error> {
    let bad = |why: String| Error::Plan { run: id.clone(), why };
    let stored = store.run_plan(id).await?.ok_or_else(|| Error::NoRun(id.to_string()))?;
    if !pictor_engine::plan::FOLDS.contains(&stored.fold_version) {
        return Err(bad(format!(
            "it was written by another version of pictor (fold {}, this one knows {})",
            stored.fold_version,
            pictor_engine::plan::FOLD_VERSION
        )));
    }
    let plan = serde_json::from_str(&stored.plan).map_err(|e| bad(format!("its plan: {e}")))?;
    let mut run = Run::new(id.clone(), Arc::new(plan));
    let mut fault: Option<FoldError> = None;
    let fold = &mut |row| {
        if fault.is_none() {
            fault = run.apply(&row).err();
        }
    };
    store.load_history(id, 1, fold).await?;
    fault.map_or(Ok(run), |fault| Err(Error::Fold(id.clone(), fault)))
}

/// Asks the owner's engine about a run, or an engine made for the question.
async fn ask<T: Send + 'static>(
    store: &dyn Store,
    owner: Option<&OwnerHandle>,
    id: &RunId,
    question: impl FnOnce(&Engine, &Run) -> T + Send + 'static,
) -> Result<T, Error> {
    let mut question = Some(question);
    // An owner that cannot write has no more to tell than history.
    if let Some(owner) = owner.filter(|owner| !owner.is_stalled()) {
        let (id, question_) = (id.clone(), question.take().expect("asked once"));
        let answer = owner
            .ask(move |engine| match engine.run(&id) {
                Some(run) => Ok(question_(engine, run)),
                None => Err(question_),
            })
            .await?;
        match answer {
            Ok(answer) => return Ok(answer),
            Err(back) => question = Some(back),
        }
    }
    let run = load_run(store, id).await?;
    let question = question.expect("given back by the owner");
    let config = owner.map_or_else(|| Config::of(run.plan()), |owner| owner.config().clone());
    Ok(question(&Engine::new(config), &run))
}

fn line(record: RunRecord, active: bool) -> RunLine {
    RunLine {
        id: record.id,
        name: record.name,
        state: record.state.name().to_owned(),
        active,
        owner: record.account,
        created_ms: record.created_ms,
        finished_ms: record.finished_ms,
        out_dir: record.out_dir,
    }
}

/// Whether a process works on a run of this state now.
async fn active(owner: Option<&OwnerHandle>) -> Result<impl Fn(&RunRecord) -> bool, Error> {
    let is_over = |run: &RunRecord| run.finished_ms.is_some();
    let running: Option<Vec<RunId>> = match owner {
        None => Some(Vec::new()),
        Some(owner) if owner.is_stalled() => None,
        Some(owner) => {
            let running = |run: &&Run| !run.state().is_terminal();
            let ids = move |engine: &Engine| {
                engine.runs().filter(running).map(|run| run.id().clone()).collect()
            };
            Some(owner.ask(ids).await?)
        }
    };
    Ok(move |run: &RunRecord| running.as_ref().map_or(!is_over(run), |ids| ids.contains(&run.id)))
}

async fn show(store: &dyn Store, owner: Option<&OwnerHandle>, run: &str) -> Result<Answer, Error> {
    const FEW: usize = 10;
    let record = stored_run(store, run).await?;
    let active = active(owner).await?(&record);
    let (view, failures, waiting, notes) = ask(store, owner, &record.id, move |engine, run| {
        let few = |state| first_tasks(engine, run, state, FEW);
        let (failures, waiting) = (few(TaskState::Failed), few(TaskState::Ready));
        (engine.view(run), failures, waiting, engine.notes(run))
    })
    .await?;
    let mut line = line(record, active);
    view.state.name().clone_into(&mut line.state);
    Ok(Answer::Run(Box::new(RunReport { line, view, failures, waiting, notes })))
}

async fn one_task(
    store: &dyn Store,
    owner: Option<&OwnerHandle>,
    run: &str,
    task: &str,
) -> Result<Answer, Error> {
    let record = stored_run(store, run).await?;
    let (now_ms, name) = (crate::now_ms(), task.to_owned());
    let found = ask(store, owner, &record.id, move |engine, run| {
        let at = run.find_task(&name)?;
        let outputs = run.outputs(at).map_or_else(Vec::new, |(_, o)| o.to_vec());
        Some((engine.task(run, at, now_ms)?, outputs, at.step))
    });
    let Some((task, outputs, step)) = found.await? else {
        return Ok(Answer::Failed(format!(
            "run {} has no task `{task}`; `pictor tasks {}` lists them",
            record.id, record.id
        )));
    };
    let mut attempts: BTreeMap<(u32, u32, Execution), AttemptView> = BTreeMap::new();
    let collect = &mut |row: pictor_tasks::history::Row| {
        let (reference, execution) = match &row.fact {
            Fact::Claim(claim) => (claim.task, claim.execution),
            Fact::Ended(ended) => (ended.task, ended.execution),
            Fact::Event(_) => return,
        };
        if (reference.step, reference.task.index) == (step, task.index) {
            let Try { attempt, .. } = reference.task;
            let mut view = AttemptView {
                attempt,
                execution,
                started_ms: row.time_ms,
                took_ms: 0,
                outcome: "running".to_owned(),
                message: String::new(),
                notes: Vec::new(),
            };
            if let Fact::Ended(ended) = row.fact {
                (view.started_ms, view.took_ms) = (ended.started_ms, ended.took_ms);
                view.end(ended.outcome);
            }
            attempts.insert((reference.generation, attempt, execution), view);
        }
    };
    store.load_history(&record.id, 1, collect).await?;
    let attempts = attempts.into_values().collect();
    Ok(Answer::Task(Box::new(TaskReport { task, attempts, outputs })))
}

impl AttemptView {
    fn end(&mut self, outcome: Outcome) {
        let name = match outcome {
            Outcome::Succeeded(products) => {
                self.notes = products.notes;
                "succeeded"
            }
            Outcome::Failed(failure) => {
                self.message = failure.message;
                "failed"
            }
            Outcome::Cancelled => "cancelled",
            Outcome::Lost => "lost",
        };
        name.clone_into(&mut self.outcome);
    }
}

/// What a retry does, and how much: settings that are changed, and tasks that are done again. Settings alone may
/// be changed while nothing has failed.
pub(crate) fn to_retry(
    run: &Run,
    names: &[String],
    set: &[(String, String)],
) -> Result<(Event, ResetSize), String> {
    if set.is_empty() {
        let reset = to_reset(run, names)?;
        let size = ResetSize::of(run, &reset);
        return Ok((Event::Reset(reset), size));
    }
    let changes = changes(set)?;
    if let Some(problem) = run.lacks_settings(&changes) {
        return Err(problem);
    }
    let reset = match to_reset(run, names) {
        Err(_) if names.is_empty() => Vec::new(),
        reset => reset?,
    };
    let size = ResetSize::of(run, &reset);
    Ok((Event::Changed(Changes { reset, ..changes }), size))
}

/// Which tasks a retry is about.
pub(crate) fn to_reset(run: &Run, names: &[String]) -> Result<Vec<ResetTasks>, String> {
    let mut chosen: BTreeMap<u16, Vec<u32>> = BTreeMap::new();
    for name in names {
        if let Some(at) = run.find_task(name) {
            chosen.entry(at.step).or_default().push(at.index);
        } else if let Some(step) = run.plan().step(name) {
            let all = TaskState::ALL.into_iter().flat_map(|state| run.tasks_in(step, state));
            chosen.entry(step).or_default().extend(all.map(|at| at.index));
        } else {
            return Err(format!("there is no task `{name}`"));
        }
    }
    if names.is_empty() {
        for step in (0u16..).take(run.plan().steps.len()) {
            let bad = [TaskState::Failed, TaskState::Cancelled];
            let tasks = bad.into_iter().flat_map(|state| run.tasks_in(step, state));
            let tasks: Vec<u32> = tasks.map(|at| at.index).collect();
            if !tasks.is_empty() {
                chosen.insert(step, tasks);
            }
        }
    }
    if chosen.values().all(Vec::is_empty) {
        return Err("nothing failed and nothing was cancelled, so there is nothing to retry".into());
    }
    Ok(chosen.into_iter().map(|(step, tasks)| ResetTasks { step, tasks }).collect())
}

/// A run that is over can only be done again.
fn fits(run: &Run, event: &Event) -> Result<(), String> {
    let change = match event {
        Event::Paused => "paused",
        Event::Resumed => "resumed",
        Event::Cancelled => "cancelled",
        Event::Priority(_) | Event::Reset(_) | Event::Changed(_) => return Ok(()),
        Event::Removed(_) => return Err("only the engine removes what nobody reads".into()),
    };
    let (id, state) = (run.id(), run.state());
    if state.is_terminal() {
        let hint = format!("`pictor retry {id}` does tasks of it again");
        return Err(format!("{id} is over ({}) and cannot be {change}; {hint}", state.name()));
    }
    Ok(())
}

/// Changes a run, if there is something to change: through the owner if there is one, else in the store.
async fn change(
    store: &dyn Store,
    owner: Option<&OwnerHandle>,
    run: &str,
    make: impl FnOnce(&Run) -> Result<(Option<Control>, Answer), String> + Send + 'static,
) -> Result<Answer, Error> {
    let record = stored_run(store, run).await?;
    let question = move |_: &Engine, run: &Run| {
        let (control, answer) = make(run)?;
        let checked = control.as_ref().map_or(Ok(()), |control| fits(run, &control.event));
        checked.map(|()| (control, answer))
    };
    let order = ask(store, owner, &record.id, question).await?;
    let (control, answer) = match order {
        Ok((Some(control), answer)) => (control, answer),
        Ok((None, answer)) => return Ok(answer),
        Err(why) => return Ok(Answer::Failed(why)),
    };
    if let Some(owner) = owner {
        let known = record.id.clone();
        if owner.ask(move |engine| engine.run(&known).is_some()).await? {
            owner.control(record.id, control).await?;
            return Ok(answer);
        }
        // Nobody works on this run: it is changed where it is kept, and nothing of it is started.
    }
    let loaded = load_run(store, &record.id).await?;
    let mut engine = Engine::new(Config::default());
    let now_ms = crate::now_ms();
    engine.add_run(loaded, record.account, record.created_ms, now_ms);
    let mut fx = Effects::default();
    engine.control(&record.id, control, now_ms, &mut fx);
    for (run, rows) in &fx.rows {
        let state = engine.run(run).map(Run::state);
        let ended = rows.last().map(|row| row.time_ms);
        let state = state.map(|s: RunState| (s, ended.filter(|_| s.is_terminal())));
        store.commit(&[RunRows { run, rows, state }]).await?;
    }
    Ok(answer)
}
