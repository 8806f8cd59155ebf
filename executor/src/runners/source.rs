//! The pictures and videos that a job is made from: their files on this machine, and the results of `probe`.

use super::video::Video;
use crate::files::cache::Kept;
use crate::ground::failure::failure;
use crate::task::TaskContext;
use pictor_tasks::media::{Media, folder_and_pattern, is_of_sequence};
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::units::Resolution;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The files of a source on this machine.
pub(crate) struct Files {
    /// Ordered by name; at least one.
    pub(crate) paths: Vec<PathBuf>,
    /// Keeps the files from removal while this exists.
    pub(crate) kept: Option<Kept>,
}

/// Finds the files of a source that the job names.
pub(crate) async fn files_of(ctx: &TaskContext, name: &str) -> Result<Files, Failure> {
    let file = ctx.file(name)?;
    let kept = ctx.artifacts.scene(file, &ctx.watch()).await?;
    let local = PathBuf::from(&file.path);
    let Some(Media::Sequence(_)) = Media::of(name) else {
        let path = kept.as_ref().map_or(local, |kept| kept.path.clone());
        return Ok(Files { paths: vec![path], kept });
    };
    let packed = kept.as_ref().and_then(|kept| kept.path.parent().map(Path::to_path_buf));
    let (folder, pattern) = folder_and_pattern(&local);
    let folder = packed.unwrap_or_else(|| folder.to_owned());
    let unreadable = |error: std::io::Error| {
        let message = format!("The folder {} cannot be read: {error}.", folder.display());
        failure(FailureKind::Storage, message)
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        if is_of_sequence(pattern, name) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        let message = format!("There is no picture at {name}. Check the path in the job file.");
        return Err(failure(FailureKind::Invalid, message));
    }
    Ok(Files { paths, kept })
}

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
    pub(crate) number: i64,
    /// The name of its file.
    pub(crate) file: String,
    /// The size of the file; a different one later means that the file has changed.
    pub(crate) size_bytes: u64,
    /// The width and height once it is upright; `None` if it cannot be read.
    pub(crate) size: Option<Resolution>,
    /// Whether its pixels may be transparent, and whether its samples have more than 8 bits; only if a video is made.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) alpha: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) deep: bool,
    /// Why it cannot be read, as the end of a sentence.
    pub(crate) problem: Option<String>,
}

/// Whether any of the pictures has transparent pixels, and whether any has more than 8 bits.
pub(crate) fn sampled(pictures: &[Picture]) -> (bool, bool) {
    (pictures.iter().any(|picture| picture.alpha), pictures.iter().any(|picture| picture.deep))
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
