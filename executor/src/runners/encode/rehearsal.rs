//! A trial of a job's encode step with one black picture, before any real ones exist: what cannot work is reported at
//! the start and not after all the work.

use super::source::Source;
use super::{FPS, Plan, Probed, arguments, checked, plan, probe, written};
use crate::ground::failure::{failure, picture_failure, storage_failure};
use crate::programs::process::{program_failure, run as run_program};
use crate::runners::video::{Video, as_file, reading_pictures};
use crate::task::TaskContext;
use pictor_models::Folder;
use pictor_pictures::{Depth, Layout, Tags, Target, write};
use pictor_tasks::body::{ImageFormat, Rehearsal};
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::range::Ranges;
use pictor_tasks::units::Resolution;
use std::path::Path;
use tokio::process::Command;

/// Tries to encode pictures of this size, with or without transparency (`alpha`) and more than 8 bits (`deep`); they were
/// taken from the video, if there is one.
pub(crate) async fn rehearse(
    ctx: &TaskContext,
    rehearsal: &Rehearsal,
    (size, (alpha, deep)): (Resolution, (bool, bool)),
    source: Option<(&Path, &Video)>,
) -> Result<(), Failure> {
    let invalid = |message: String| failure(FailureKind::Invalid, message);
    let body = &rehearsal.encode;
    let rate = body.fps.unwrap_or(FPS.into());
    let rate = checked(rate, written(rate)).map_err(invalid)?;
    let plan = plan(body, &ctx.resolve(&body.file).await?, rate, alpha).map_err(invalid)?;
    // Another worker may have the network; then only the size is left out of the trial.
    let model = |name: &String| Folder::new(ctx.config.models.clone()).find(name).ok();
    let own = || rehearsal.model.as_ref().and_then(model).map(|manifest| manifest.scale);
    let scale = rehearsal.scale.or_else(own).unwrap_or(1);
    let size = Resolution {
        width: size.width.saturating_mul(scale),
        height: size.height.saturating_mul(scale),
    };
    let folder = ctx.scratch.join("rehearsal");
    let pictures = folder.join("pictures");
    std::fs::create_dir_all(&pictures).map_err(|error| storage_failure("The rehearsal", &error))?;
    black(&pictures.join("00000000.png"), size, alpha)?;
    let mut command = Command::new(&ctx.config.programs.ffmpeg);
    let picture = Probed::png(size);
    let mut needs = ctx.confinement();
    match source {
        None => {
            plan.say(ctx, "one of the pictures", alpha, deep);
            command.args(reading_pictures());
            command.args(arguments(&plan, Path::new("pictures/%08d.png"), &picture))
        }
        Some((path, video)) => {
            let source = first_second(ctx, rehearsal, &plan, path, video).await?;
            source.write_list(&folder, "png")?;
            needs = needs.reads(path);
            command.args(source.arguments(&plan, &picture))
        }
    };
    let made = folder.join(&plan.file);
    command.args(["-t", "1"]).arg(as_file(&made)).current_dir(&folder);
    ctx.progress.report(0.0, "trying to make the video");
    let status = run_program(ctx.supervision(), &command, &needs, &mut |_| false).await?;
    // Some of its errors do not change its exit status.
    let tried = if status.success() {
        probe(ctx, &made).await.map(drop).map_err(|failure| failure.message)
    } else {
        Err(program_failure(&ctx.log, "ffmpeg", status).message)
    };
    if let Err(failed) = tried {
        let message = format!(
            "{} cannot be made of pictures of {size} pixels, as a trial with a black one shows: {failed}",
            plan.file
        );
        return Err(invalid(message));
    }
    // If this fails, the folder is removed with the scratch folder.
    let _ = std::fs::remove_dir_all(&folder);
    Ok(())
}

/// The source, treated as if it had one frame.
async fn first_second(
    ctx: &TaskContext,
    rehearsal: &Rehearsal,
    plan: &Plan,
    path: &Path,
    video: &Video,
) -> Result<Source, Failure> {
    let first = video.times.first().copied().unwrap_or(0);
    let second = video.time_base.1 / video.time_base.0;
    let video = Video {
        times: vec![first],
        end: first + second.max(1),
        numbers: Ranges::count(0),
        ..video.clone()
    };
    let video = Video { numbers: video.all_numbers(), ..video };
    let name = rehearsal.encode.source.as_deref().unwrap_or_default();
    Source::new(ctx, (&rehearsal.encode, plan), (path, name), video, vec![first]).await
}

/// Writes a black picture.
fn black(path: &Path, size: Resolution, alpha: bool) -> Result<(), Failure> {
    let layout = Layout { size, colours: 3, alpha, depth: Depth::Eight };
    let target = Target { layout, format: ImageFormat::Png, quality: 100, passing: true };
    let row = vec![0.0; layout.row_samples()];
    write(path, target, &Tags::default(), &mut |out| {
        out.clear();
        out.extend(&row);
        Ok(())
    })
    .map_err(|error| picture_failure(error, "The rehearsal's picture", FailureKind::BadOutput))
}
