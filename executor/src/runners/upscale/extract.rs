//! `extract` tasks: save frames of a video, selected by their time stamps, as PNG files.

use crate::files::cache::TRANSFERS;
use crate::ground::failure::failure;
use crate::programs::process::{program_failure, run as run_program};
use crate::runners::source::{Info, files_of, info};
use crate::runners::video::{Video, frames_done};
use crate::task::TaskContext;
use futures_util::{FutureExt, StreamExt, stream};
use pictor_tasks::body::Extract;
use pictor_tasks::message::{Failure, FailureKind, Output, Products};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The most frames that are selected one by one; more are selected as a span of time.
const NAMED_MAX: usize = 200;

/// Extracts the frames of the task from the video.
pub(super) async fn run(ctx: &TaskContext, body: &Extract) -> Result<Products, Failure> {
    let source = files_of(ctx, &body.source).await?;
    let Some(Info::Video(video)) = info(ctx).await? else {
        let message = format!("{} needs a `probe` step of {}.", ctx.brief.step, body.source);
        return Err(failure(FailureKind::Invalid, message));
    };
    let wanted = wanted(ctx, &body.dim, &video)?;
    let path = &source.paths[0];
    let seek = wanted.first().and_then(|(number, _)| video.seek(*number));
    let mut found = match seek {
        Some(_) => extract(ctx, path, &video, &wanted, seek).await?,
        None => BTreeMap::new(),
    };
    if found.len() < wanted.len() {
        // Where a container has no index, seeking may end behind the target.
        found = extract(ctx, path, &video, &wanted, None).await?;
    }
    let mut frames = Vec::with_capacity(wanted.len());
    for (number, _) in &wanted {
        match found.get(number) {
            Some(path) => frames.push((format!("frame-{number}"), path.clone())),
            None => ctx.note(format!("frame {number} of {} cannot be decoded", body.source)),
        }
    }
    let products = Products { outputs: stored(ctx, &frames).await?, ..Products::default() };
    if found.is_empty() {
        let message = format!("No frame of {} of this part can be decoded.", body.source);
        return Err(failure(FailureKind::BadOutput, message));
    }
    Ok(products)
}

/// Stores pictures under these names, several at a time, because storage may be remote.
async fn stored(ctx: &TaskContext, frames: &[(String, PathBuf)]) -> Result<Vec<Output>, Failure> {
    let count = frames.len();
    let put = async |name: &str, path: &Path| ctx.put_as(name, path, &format!("{name}.png")).await;
    let puts: Vec<_> = frames.iter().map(|(name, path)| put(name, path).boxed()).collect();
    let mut puts = stream::iter(puts).buffered(TRANSFERS);
    let mut outputs = Vec::with_capacity(count);
    while let Some(output) = puts.next().await {
        outputs.push(output?);
        let (done, thousandths) = (outputs.len(), outputs.len() * 1000 / count);
        let fraction = f32::from(u16::try_from(thousandths).unwrap_or(1000)) / 1000.0;
        ctx.progress.report(fraction, &format!("frame {done}/{count}"));
    }
    Ok(outputs)
}

/// The frames of the task with their time stamps.
fn wanted(ctx: &TaskContext, dim: &str, video: &Video) -> Result<Vec<(i64, i64)>, Failure> {
    let space = &ctx.brief.space;
    let axis = space.axes.iter().position(|axis| axis.name == dim);
    let ends =
        axis.and_then(|axis| space.axes[axis].values.ends(space.position(ctx.task.index, axis)));
    let numbers = ends.and_then(|(first, last)| first.number().zip(last.number()));
    let Some((first, last)) = numbers else {
        let message = format!("{} runs over no dimension `{dim}` of frames.", ctx.brief.step);
        return Err(failure(FailureKind::Invalid, message));
    };
    let numbers = video.numbers.iter().filter(|number| (first..=last).contains(number));
    Ok(numbers.filter_map(|number| Some((number, video.time(number)?))).collect())
}

/// Decodes the frames, from the start or from where `seek` says. Each file is named by its time stamp, so a frame that
/// cannot be decoded leaves a gap and does not shift the others. Returns none if seeking did not lead to the key frame:
/// the time stamps are others there, or frames depend on some that were skipped.
async fn extract(
    ctx: &TaskContext,
    path: &Path,
    video: &Video,
    wanted: &[(i64, i64)],
    seek: Option<(f64, i64)>,
) -> Result<BTreeMap<i64, PathBuf>, Failure> {
    let (Some((_, first)), Some((_, last))) = (wanted.first(), wanted.last()) else {
        return Ok(BTreeMap::new());
    };
    let folder = ctx.scratch.join(if seek.is_some() { "frames" } else { "all" });
    std::fs::create_dir_all(&folder)
        .map_err(|error| crate::ground::failure::storage_failure("The frames", &error))?;
    let mut command = Command::new(&ctx.config.programs.ffmpeg);
    command.args(["-y", "-hide_banner", "-nostdin", "-v", "error", "-copyts"]);
    let dense = usize::try_from(last - first).is_ok() && wanted.len() > NAMED_MAX;
    let named = wanted.iter().map(|(_, time)| format!("eq(pts\\,{time})")).collect::<Vec<_>>();
    let mut select = if dense { format!("gte(pts\\,{first})") } else { named.join("+") };
    let mut begin = *first;
    if let Some((start, key)) = seek {
        command.args(["-seek_timestamp", "1", "-noaccurate_seek", "-ss", &format!("{start:.6}")]);
        select = format!("if(eq(pts\\,{key})\\,key+eq(pict_type\\,I)\\,{select})");
        begin = key;
    }
    let filters = format!(
        "trim=start_pts={begin}:end_pts={},select={select},setpts=PTS-({begin}),{}",
        last + 1,
        video.to_rgb()
    );
    command.args(video.reading(path)).args(["-map", "0:V:0", "-vf", &filters]);
    command.args(["-pix_fmt", video.picture_format()]);
    command.args(["-fps_mode", "passthrough", "-enc_time_base", "-1", "-compression_level", "1"]);
    command.args(["-f", "image2", "-frame_pts", "1", "-progress", "pipe:1", "%d.png"]);
    command.current_dir(&folder);
    let mut on_line = frames_done(ctx, wanted.len());
    let needs = ctx.confinement().reads(path);
    let status = run_program(ctx.supervision(), &command, &needs, &mut on_line).await?;
    let picture = |time: i64| folder.join(format!("{}.png", time - begin));
    if seek.is_some_and(|(_, key)| !picture(key).exists()) {
        return Ok(BTreeMap::new());
    }
    let file = |(number, time): &(i64, i64)| {
        let path = picture(*time);
        let size = pictor_pictures::size(&path).ok()?;
        (size == video.size).then_some((*number, path))
    };
    let found: BTreeMap<i64, PathBuf> = wanted.iter().filter_map(file).collect();
    if !status.success() && found.is_empty() {
        return Err(program_failure(&ctx.log, "ffmpeg", status));
    }
    Ok(found)
}
