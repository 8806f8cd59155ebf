//! Requests and answers of the socket of a data folder. The answers are those of the API.

use super::{Place, Runs, TaskFilter};
use crate::handle::{Error, OwnerHandle};
use pictor_api::{
    Code, Page, ResetAnswer, RetryRequest, RunDetail, RunState, RunSummary, Task, TaskDetail,
    TaskState,
};
use pictor_storage::RunFilter;
use pictor_tasks::history::Control;
use pictor_tasks::message::RunId;
use serde::{Deserialize, Serialize};

/// Most runs or tasks in one answer.
const PAGE: usize = 1000;

/// A request about runs, or a change of one. A run is named by its id or the beginning of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Lists runs, the newest first.
    Runs {
        /// Only runs in this state.
        state: Option<RunState>,
        /// Only runs of this account.
        owner: Option<String>,
        /// Only runs with this in their name.
        name: Option<String>,
        /// Most runs in the answer, at most a thousand.
        limit: usize,
        /// The `next` of the page before.
        after: Option<String>,
    },
    /// Shows one run.
    Show {
        /// Names the run.
        run: String,
    },
    /// Lists tasks of a run.
    Tasks {
        /// Names the run.
        run: String,
        /// Only tasks in this state.
        state: Option<TaskState>,
        /// Only tasks of this step.
        step: Option<String>,
        /// Only tasks with these values of dimensions.
        dims: Vec<(String, String)>,
        /// Most tasks in the answer, at most a thousand.
        limit: usize,
        /// The `next` of the page before.
        after: Option<String>,
    },
    /// Shows one task with its attempts.
    Task {
        /// Names the run.
        run: String,
        /// Name of the task, as in `render[frame=7,tile=3]`.
        task: String,
    },
    /// Pauses, resumes or cancels a run, or changes its priority.
    Control {
        /// Names the run.
        run: String,
        /// The change; its id makes sure that it happens once.
        control: Control,
    },
    /// Retries tasks of a run.
    Retry {
        /// Names the run.
        run: String,
        /// Makes sure that it happens once.
        id: u64,
        /// Which tasks, and what is changed before.
        request: RetryRequest,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Request::Runs`].
    Runs(Page<RunSummary>),
    /// To [`Request::Show`].
    Run(Box<RunDetail>),
    /// To [`Request::Tasks`].
    Tasks(Page<Task>),
    /// To [`Request::Task`].
    Task(Box<TaskDetail>),
    /// To [`Request::Control`]: the run after the change.
    Changed(Box<RunSummary>),
    /// To [`Request::Retry`].
    Reset(Box<ResetAnswer>),
    /// The request failed, for this reason.
    Failed(String),
}

impl Runs {
    /// Answers a request, with the engine of the owner if there is one.
    pub async fn answer(&self, owner: Option<&OwnerHandle>, request: Request) -> Answer {
        let answered = self.try_to_answer(owner, request).await;
        answered.unwrap_or_else(|error| Answer::Failed(error.to_string()))
    }

    async fn try_to_answer(
        &self,
        owner: Option<&OwnerHandle>,
        request: Request,
    ) -> Result<Answer, Error> {
        Ok(match request {
            Request::Runs { state, owner: account, name, limit, after } => {
                let filter = RunFilter { state, account, name };
                let after = after.map(|after| RunId(after.into()));
                let part = (limit.min(PAGE), after.as_ref());
                Answer::Runs(self.list(owner, &filter, part).await?)
            }
            Request::Show { run } => {
                let record = self.find(&run).await?;
                Answer::Run(Box::new(self.detail(owner, record).await?))
            }
            Request::Tasks { run, state, step, dims, limit, after } => {
                let wrong = |why: &str| Error::Refused(Code::InvalidRequest, why.to_owned());
                let after = after.map(|after| after.parse::<Place>().map_err(wrong)).transpose()?;
                let (record, filter) = (self.find(&run).await?, TaskFilter { step, state, dims });
                Answer::Tasks(self.tasks(owner, &record, filter, (limit.min(PAGE), after)).await?)
            }
            Request::Task { run, task } => {
                let record = self.find(&run).await?;
                Answer::Task(Box::new(self.task(owner, &record, &task).await?))
            }
            Request::Control { run, control } => {
                let record = self.find(&run).await?;
                Answer::Changed(Box::new(self.change(owner, record, control).await?))
            }
            Request::Retry { run, id, request } => {
                let record = self.find(&run).await?;
                Answer::Reset(Box::new(self.retry(owner, record, (id, request)).await?))
            }
        })
    }
}
