//! The results of `probe` tasks, for the steps that depend on them.

use crate::ground::failure::failure;
use crate::runners::video::Video;
use crate::task::TaskContext;
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::units::Resolution;
use serde::{Deserialize, Serialize};

/// The output `info` of a `probe` step.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Info {
    /// Pictures, ordered by frame.
    Pictures(Vec<Picture>),
    Video(Box<Video>),
}

/// One picture of a source.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Picture {
    /// Its frame number.
    pub(super) number: i64,
    /// The name of its file.
    pub(super) file: String,
    /// The size of the file; a different one later means that the file has changed.
    pub(super) size_bytes: u64,
    /// The width and height once it is upright; `None` if it cannot be read.
    pub(super) size: Option<Resolution>,
    /// Why it cannot be read, as the end of a sentence.
    pub(super) problem: Option<String>,
}

/// Reads the result of the `probe` step that the task depends on, if there is one.
pub(crate) async fn info(ctx: &TaskContext) -> Result<Option<Info>, Failure> {
    let Some(input) = ctx.inputs.iter().find(|input| input.output.name == "info") else {
        return Ok(None);
    };
    let path = ctx.input_path(input).await?;
    let bad = |problem: String| {
        let message = format!("The `info` of {} cannot be read: {problem}.", input.step);
        failure(FailureKind::BadOutput, message)
    };
    let text = tokio::fs::read(&path).await.map_err(|error| bad(error.to_string()))?;
    serde_json::from_slice(&text).map(Some).map_err(|error| bad(error.to_string()))
}
