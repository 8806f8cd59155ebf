//! `probe` tasks: find out how many frames a source has, how large they are, and how they are cut into tiles.

use super::container::readable;
use crate::files::cache::hash;
use crate::ground::failure::{failure, picture_failure, storage_failure};
use crate::runners::encode::rehearse;
use crate::runners::source::{Files, Info, Picture, files_of, sampled};
use crate::runners::video;
use crate::task::TaskContext;
use pictor_pictures::PictureError;
use pictor_tasks::body::Probe;
use pictor_tasks::media::{Media, frames_of_names};
use pictor_tasks::message::{Binding, Bound, Failure, FailureKind, Products};
use pictor_tasks::range::Ranges;
use pictor_tasks::space::Values;
use pictor_tasks::units::Resolution;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Inspects the source.
pub(super) async fn run(ctx: &TaskContext, body: &Probe) -> Result<Products, Failure> {
    let files = files_of(ctx, &body.source).await?;
    let media = Media::of(&body.source);
    if !matches!(media, Some(Media::Sequence(_))) {
        verify(ctx, &body.source, &files.paths[0]).await?;
    }
    let info = if media == Some(Media::Video) {
        let mut video = video::look(ctx, &files.paths[0], &body.source).await?;
        video.numbers = chosen(body, &video.all_numbers())?;
        if let Some(rehearsal) = &body.rehearse {
            let of = (video.alpha, video.deep);
            rehearse(ctx, rehearsal, (video.size, of), Some((&files.paths[0], &video))).await?;
        }
        Info::Video(Box::new(video))
    } else {
        let pictures = pictures(ctx, body, files).await?;
        if let Some(rehearsal) = &body.rehearse
            && let Some(size) = one_size(&pictures)?
        {
            rehearse(ctx, rehearsal, (size, sampled(&pictures)), None).await?;
        }
        Info::Pictures(pictures)
    };
    let path = ctx.scratch.join("info.json");
    let text = serde_json::to_vec(&info).expect("plain texts and numbers");
    std::fs::write(&path, text).map_err(|error| storage_failure("info.json", &error))?;
    let mut products =
        Products { outputs: vec![ctx.put("info", &path).await?], ..Products::default() };
    for dim in &ctx.brief.binds {
        let values = bound(body, &info, dim)?;
        products.bindings.push(Binding { dim: dim.clone(), values });
    }
    Ok(products)
}

/// Checks that the source is the one that was submitted: frames of two versions must not end up in one film.
async fn verify(ctx: &TaskContext, name: &str, path: &Path) -> Result<(), Failure> {
    let file = ctx.file(name)?;
    if file.digest.is_empty() || path != Path::new(&file.path) {
        return Ok(());
    }
    ctx.progress.report(0.0, "checking the source");
    let path = path.to_owned();
    let hashed = tokio::task::spawn_blocking(move || hash(&path));
    let found = tokio::select! {
        found = hashed => found.map_err(|panic| failure(FailureKind::Failed, panic.to_string()))?,
        _ = ctx.stop.stopped() => return Err(ctx.stop.failure()),
    };
    if found?.digest == file.digest {
        return Ok(());
    }
    let message = format!("{name} changed since the run was submitted; submit it again.");
    Err(failure(FailureKind::Invalid, message))
}

/// Inspects each selected picture.
async fn pictures(ctx: &TaskContext, body: &Probe, source: Files) -> Result<Vec<Picture>, Failure> {
    let files = &source.paths;
    let names: Vec<String> = files.iter().map(|path| name(path)).collect();
    let numbers = frames_of_names(&names);
    let numbers = numbers.unwrap_or_else(|| (1..).take(names.len()).collect());
    let mut frames: Vec<(i64, PathBuf)> = numbers.into_iter().zip(files.clone()).collect();
    frames.sort();
    if body.frame.is_some() {
        let all: Vec<i64> = frames.iter().map(|(number, _)| *number).collect();
        let chosen = chosen(body, &ranges(&all)?)?;
        frames.retain(|(number, _)| chosen.position_of(*number).is_some());
    }
    // The sizes of those that ffmpeg has to decode.
    let mut decoded = BTreeMap::new();
    for (number, path) in &frames {
        let made = readable(ctx, path.clone(), &name(path)).await;
        if ctx.stop.reason().is_some() {
            return Err(ctx.stop.failure());
        }
        if made != *path {
            decoded.insert(*number, pictor_pictures::size(&made));
        }
    }
    let (progress, stop) = (ctx.progress.clone(), ctx.stop.clone());
    let filmed = body.rehearse.is_some();
    let work = tokio::task::spawn_blocking(move || {
        let count = frames.len();
        let mut pictures = Vec::with_capacity(count);
        for (done, (number, path)) in frames.into_iter().enumerate() {
            if stop.reason().is_some() {
                return Err(stop.failure());
            }
            let size = decoded.remove(&number).unwrap_or_else(|| pictor_pictures::size(&path));
            let mut picture = look(number, &path, size)?;
            if filmed && picture.problem.is_none() {
                // A picture that ffmpeg decoded has neither.
                (picture.alpha, picture.deep) = pictor_pictures::sampled(&path).unwrap_or_default();
            }
            pictures.push(picture);
            let thousandths = u16::try_from(done * 1000 / count).unwrap_or(1000);
            progress.report(f32::from(thousandths) / 1000.0, &format!("picture {done}/{count}"));
        }
        Ok(pictures)
    });
    let pictures =
        work.await.map_err(|panic| failure(FailureKind::Failed, panic.to_string()))??;
    for picture in &pictures {
        if let Some(problem) = &picture.problem {
            ctx.note(format!("{} {problem}", picture.file));
        }
    }
    Ok(pictures)
}

/// The common size of all pictures, which a video requires; `None` if none can be read.
fn one_size(pictures: &[Picture]) -> Result<Option<Resolution>, Failure> {
    let mut sized = pictures.iter().filter_map(|picture| Some((&picture.file, picture.size?)));
    let Some((first, size)) = sized.next() else { return Ok(None) };
    match sized.find(|(_, other)| *other != size) {
        None => Ok(Some(size)),
        Some((file, other)) => {
            let message = format!(
                "{first} has {size} pixels and {file} has {other}: the pictures of a video are of one size. \
                 Take the others out with `frames`, or leave `output.file` out to have the pictures alone."
            );
            Err(failure(FailureKind::Invalid, message))
        }
    }
}

fn look(
    number: i64,
    path: &Path,
    size: Result<Resolution, PictureError>,
) -> Result<Picture, Failure> {
    let file = name(path);
    let size_bytes = path.metadata().map_err(|error| storage_failure(&file, &error))?.len();
    let (size, problem) = match size {
        Ok(size) => (Some(size), None),
        Err(PictureError::Unusable(problem)) => (None, Some(problem)),
        Err(error) => return Err(picture_failure(error, &file, FailureKind::Invalid)),
    };
    Ok(Picture { number, file, size_bytes, size, alpha: false, deep: false, problem })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The selected ones of all frames.
fn chosen(body: &Probe, all: &Ranges) -> Result<Ranges, Failure> {
    let Some(frames) = &body.frames else { return Ok(all.clone()) };
    let chosen: Vec<i64> = all.iter().filter(|n| frames.position_of(*n).is_some()).collect();
    if chosen.is_empty() {
        let (first, last) = (all.iter().next(), all.iter().last());
        let range = first.zip(last).map(|(first, last)| format!("{first} to {last}"));
        let message = format!(
            "{} has none of the frames {frames}: it has {}.",
            body.source,
            range.unwrap_or_else(|| "none".into())
        );
        return Err(failure(FailureKind::Invalid, message));
    }
    ranges(&chosen)
}

fn ranges(numbers: &[i64]) -> Result<Ranges, Failure> {
    Ranges::from_values(numbers)
        .map_err(|error| failure(FailureKind::Invalid, format!("The frames: {error}.")))
}

/// The values of a dimension that is bound by this step.
fn bound(body: &Probe, info: &Info, dim: &str) -> Result<Bound, Failure> {
    if body.frame.as_deref() == Some(dim) {
        return Ok(Bound::Values(Values::Ints(match info {
            Info::Video(video) => video.numbers.clone(),
            Info::Pictures(all) => ranges(&all.iter().map(|p| p.number).collect::<Vec<_>>())?,
        })));
    }
    let Some(tiling) = body.tiles.as_ref().filter(|tiling| tiling.dim == dim) else {
        let message = format!("A `probe` step finds frames and tiles, not `{dim}`.");
        return Err(failure(FailureKind::Invalid, message));
    };
    // A picture that cannot be read counts as one tile, whose task fails.
    let tiles = |size: Option<Resolution>| size.map_or(1, |size| tiling.grid(size).tiles());
    let counts: Vec<u32> = match info {
        Info::Video(video) => vec![tiles(Some(video.size)); video.numbers.len() as usize],
        Info::Pictures(all) => all.iter().map(|picture| tiles(picture.size)).collect(),
    };
    if body.frame.is_some() {
        return Ok(Bound::Counts(counts.into()));
    }
    Ok(Bound::Values(Values::count(counts.first().copied().unwrap_or(1))))
}
