//! Requests over the socket of a data folder, and the answers, which have the API's types.

use super::{Runs, TaskCursor, TaskFilter};
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

/// A request about runs, or a change of one. A run is named by its id or an unambiguous beginning of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Lists runs, newest first.
    Runs {
        /// Only runs in this state.
        state: Option<RunState>,
        /// Only runs that this account submitted.
        owner: Option<String>,
        /// Only runs whose name contains this text.
        name: Option<String>,
        /// Most runs in the answer, at most a thousand.
        limit: usize,
        /// Cursor: the `next` of the page before.
        after: Option<String>,
    },
    /// Describes one run.
    Show {
        /// Id of the run, or its beginning.
        run: String,
    },
    /// Lists tasks of a run.
    Tasks {
        /// Id of the run, or its beginning.
        run: String,
        /// Only tasks in this state.
        state: Option<TaskState>,
        /// Only tasks of this step.
        step: Option<String>,
        /// Only tasks with these values of dimensions.
        dims: Vec<(String, String)>,
        /// Most tasks in the answer, at most a thousand.
        limit: usize,
        /// Cursor: the `next` of the page before.
        after: Option<String>,
    },
    /// Describes one task with its attempts.
    Task {
        /// Id of the run, or its beginning.
        run: String,
        /// Name of the task, as in `render[frame=7,tile=3]`.
        task: String,
    },
    /// Pauses, resumes or cancels a run, or changes its priority.
    Control {
        /// Id of the run, or its beginning.
        run: String,
        /// The change; one of the same id is made once.
        control: Control,
    },
    /// Retries tasks of a run.
    Retry {
        /// Id of the run, or its beginning.
        run: String,
        /// Id of the retry: each one is made once.
        id: u64,
        /// The tasks to retry, and settings to change first.
        request: RetryRequest,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Answers [`Request::Runs`].
    Runs(Page<RunSummary>),
    /// Answers [`Request::Show`].
    Run(Box<RunDetail>),
    /// Answers [`Request::Tasks`].
    Tasks(Page<Task>),
    /// Answers [`Request::Task`].
    Task(Box<TaskDetail>),
    /// Answers [`Request::Control`]: the run after the change.
    Changed(Box<RunSummary>),
    /// Answers [`Request::Retry`].
    Reset(Box<ResetAnswer>),
    /// The request failed, for this reason.
    Failed(String),
}

impl Runs {
    /// Answers a request, with the engine of the owner if there is one.
    pub async fn answer(&self, owner: Option<&OwnerHandle>, request: Request) -> Response {
        let answered = self.try_to_answer(owner, request).await;
        answered.unwrap_or_else(|error| Response::Failed(error.to_string()))
    }

    async fn try_to_answer(
        &self,
        owner: Option<&OwnerHandle>,
        request: Request,
    ) -> Result<Response, Error> {
        Ok(match request {
            Request::Runs { state, owner: account, name, limit, after } => {
                let filter = RunFilter { state, account, name };
                let after = after.map(|after| RunId(after.into()));
                let page = self.list(owner, &filter, limit.min(PAGE), after.as_ref());
                Response::Runs(page.await?)
            }
            Request::Show { run } => {
                let record = self.find(None, &run).await?;
                Response::Run(Box::new(self.detail(owner, record).await?))
            }
            Request::Tasks { run, state, step, dims, limit, after } => {
                let wrong = |why: &str| Error::Refused(Code::InvalidRequest, why.to_owned());
                let after =
                    after.map(|after| after.parse::<TaskCursor>().map_err(wrong)).transpose()?;
                let (record, filter) =
                    (self.find(None, &run).await?, TaskFilter { step, state, dims });
                Response::Tasks(self.tasks(owner, &record, filter, (limit.min(PAGE), after)).await?)
            }
            Request::Task { run, task } => {
                let record = self.find(None, &run).await?;
                Response::Task(Box::new(self.task(owner, &record, &task).await?))
            }
            Request::Control { run, control } => {
                let record = self.find(None, &run).await?;
                Response::Changed(Box::new(self.change(owner, record, control).await?))
            }
            Request::Retry { run, id, request } => {
                let record = self.find(None, &run).await?;
                Response::Reset(Box::new(self.retry(owner, record, id, request).await?))
            }
        })
    }
}
