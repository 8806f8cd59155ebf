//! Finds the picture of a task: a file of the job's source, or the output of a step that it depends on.

use super::container::readable;
use crate::files::cache::Kept;
use crate::ground::failure::failure;
use crate::runners::source::{Files, Info, files_of, info};
use crate::task::TaskContext;
use pictor_tasks::media::folder_and_pattern;
use pictor_tasks::message::{Failure, FailureKind, Input};
use pictor_tasks::output::in_folder;
use pictor_tasks::space::Value;
use std::path::{Path, PathBuf};

/// The picture that a task works on.
pub(super) struct Original {
    /// Its name for the user.
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The kind of failure if it is unusable: a source will not change, but a step's output may be made again.
    pub(super) blame: FailureKind,
    _kept: Option<Kept>,
}

/// Finds the picture of a task: a file of the `source` that it names, or the output of a step that it depends on,
/// except for outputs of tasks over `tiles`. Returns `None` if an earlier step could not make the picture.
pub(super) async fn original(
    ctx: &TaskContext,
    name: Option<&str>,
    frame: Option<&str>,
    tiles: Option<&str>,
) -> Result<Option<Original>, Failure> {
    let number = frame.map(|dim| frame_number(ctx, dim)).transpose()?;
    let Some(name) = name else {
        let Some(input) = made(ctx, number, tiles)? else { return Ok(None) };
        let name = format!("{input} {}", input.output.name);
        let (path, blame) = (ctx.input_path(input).await?, FailureKind::BadOutput);
        return Ok(Some(Original { name, path, blame, _kept: None }));
    };
    if let Some(number) = number {
        return of_frame(ctx, name, number).await.map(Some);
    }
    let Files { paths, kept } = files_of(ctx, name).await?;
    let path = paths.into_iter().next().expect("a source has a file");
    let name = path.file_name().unwrap_or_default().display().to_string();
    let path = readable(ctx, path, &name).await;
    Ok(Some(Original { name, path, blame: FailureKind::Invalid, _kept: kept }))
}

/// The value of the dimension with the frame number.
pub(super) fn frame_number(ctx: &TaskContext, dim: &str) -> Result<i64, Failure> {
    let value = ctx.brief.space.value(ctx.task.index, dim);
    value.as_ref().and_then(Value::number).ok_or_else(|| {
        let message = match value {
            Some(word) => {
                format!("{}: `{word}` (`{dim}`) is not the number of a frame.", ctx.name())
            }
            None => format!("{} runs over no dimension `{dim}` of numbers.", ctx.name()),
        };
        failure(FailureKind::Invalid, message)
    })
}

/// The file of a frame, as listed by `probe`. No other file is fetched.
async fn of_frame(ctx: &TaskContext, source: &str, number: i64) -> Result<Original, Failure> {
    let invalid = |message: String| Err(failure(FailureKind::Invalid, message));
    let Some(Info::Pictures(pictures)) = info(ctx).await? else {
        return invalid(format!(
            "{} reads frames of {source} and needs a `probe` step of it.",
            ctx.brief.step
        ));
    };
    let Some(picture) = pictures.into_iter().find(|picture| picture.number == number) else {
        return invalid(format!("{source} has no frame {number}."));
    };
    let (file, name) = (ctx.file(source)?, picture.file);
    let kept = ctx.artifacts.scene_file(file, &name, &ctx.watch()).await?;
    let local = || folder_and_pattern(Path::new(&file.path)).0.join(&name);
    let path = kept.as_ref().map_or_else(local, |kept| kept.path.clone());
    if !path.metadata().is_ok_and(|meta| meta.len() == picture.size_bytes) {
        let message = format!("{name} changed since `probe` looked at it; submit the job again.");
        return invalid(message);
    }
    let path = readable(ctx, path, &name).await;
    Ok(Original { name, path, blame: FailureKind::Invalid, _kept: kept })
}

/// The output for this frame among the inputs, or the only one.
fn made<'a>(
    ctx: &'a TaskContext,
    number: Option<i64>,
    tiles: Option<&str>,
) -> Result<Option<&'a Input>, Failure> {
    let is_tile = |input: &Input| tiles.is_some_and(|dim| input.coordinates.number(dim).is_some());
    // Leave out the results of `probe` and `inspect`, and what accompanies a picture.
    let is_other = |input: &Input| {
        let name = &*input.output.name;
        matches!(name, "info" | "scene") || in_folder(name).is_some()
    };
    let mut pictures = ctx.inputs.iter().filter(|input| !is_other(input) && !is_tile(input));
    let wanted = number.map(|number| format!("frame-{number}"));
    let mut framed = pictures.clone().filter(|input| input.output.name.starts_with("frame-"));
    if let Some(wanted) = wanted.filter(|_| framed.next().is_some()) {
        return Ok(pictures.find(|input| input.output.name == wanted));
    }
    match (pictures.next(), pictures.next()) {
        (picture, None) => Ok(picture),
        (Some(one), Some(two)) => {
            let (one, two) = (&one.output.key, &two.output.key);
            let message = format!("{} has two pictures to read: {one} and {two}.", ctx.name());
            Err(failure(FailureKind::Invalid, message))
        }
        (None, Some(_)) => unreachable!("what has no first has no second"),
    }
}
