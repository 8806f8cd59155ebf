//! The types of the API: requests and responses under `/v1`, the output of the command line with `--json`, and the
//! messages between workers and servers. They are a contract: fields are added, but not renamed or removed, and readers
//! ignore unknown ones.

mod event;
mod file;
mod graph;
mod page;
mod problem;
mod run;
mod schedule;
mod submit;
mod task;
mod token;
mod transfer;
mod worker;

pub use event::EventData;
pub use file::{Digests, Missing, RunFile};
pub use graph::{Dimension, DimensionKind, Edge, Graph, Offset};
pub use page::Page;
pub use pictor_tasks::message::{Input, Output};
pub use pictor_tasks::state::{CatchUp, Overlap, RunState, Service, TaskState, TokenRole};
pub use pictor_tasks::worker::{Blender, Gpu, Inventory};
pub use problem::{Code, Mistake, Problem};
pub use run::{
    Changed, Note, ResetAnswer, ResetRequest, RetryRequest, RunDetail, RunPatch, RunSummary, Step,
    TaskCounts,
};
pub use schedule::{
    DueTimeView, NewSchedule, ScheduleBody, ScheduleDetail, ScheduleView, ScheduledJob, Triggered,
};
#[cfg(feature = "openapi")]
pub use submit::Digest;
pub use submit::{JobBody, PlanSummary, PlannedStep, Submission, Submitted};
pub use task::{Attempt, AttemptState, Task, TaskDetail};
pub use token::{AuditView, MadeToken, NewToken, RevokedToken, TokenView};
pub use transfer::{Inputs, InputsRequest, Link, LinkedInput, OutputPlace, OutputRequest};
pub use worker::{
    Amqp, Enrol, Enrolled, GpuLoad, Heartbeat, HeartbeatReply, Holding, MachineLoad, Worker,
    WorkerPatch,
};
