//! AVIF and HEIC: pictures in the container of videos, which ffmpeg decodes where it can.

use crate::programs::process::run as run_program;
use crate::runners::video::{self, Video};
use crate::task::TaskContext;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// What a container says of its pictures stands before them, in no more than this.
const HEAD: u64 = 1 << 20;
/// Boxes that change what is shown: it is cut, mirrored, made of several pictures or of a chain of them, or transparent.
/// ffmpeg passes over them.
const UNSUPPORTED: [&[u8]; 6] = [b"clap", b"imir", b"grid", b"iovl", b"iden", b":auxiliary:alpha"];

/// A picture of `path` that can be read row by row: the file itself, or a PNG that ffmpeg made of its container.
/// Where ffmpeg cannot, it is the file itself as well, and whoever reads that says so.
pub(super) async fn readable(ctx: &TaskContext, path: PathBuf, name: &str) -> PathBuf {
    if !pictor_pictures::is_container(&path) || !is_simple(&path) {
        return path;
    }
    let Ok(mut video) = video::look(ctx, &path, name).await else { return path };
    // A picture that does not say it has this matrix, as of JPEG, whatever its size.
    video.colours.matrix.get_or_insert_with(|| "smpte170m".into());
    let made = ctx.scratch.join("decoded.png");
    if decode(ctx, &path, &video, &made).await {
        ctx.note(format!("{name} is read by ffmpeg: its profile and metadata are left out"));
        if let Some(colours) = wide(&video) {
            ctx.note(format!("{name} has colours of {colours}, which are taken for those of sRGB"));
        }
        return made;
    }
    path
}

/// Whether all that is shown is one picture as it is decoded.
fn is_simple(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    let has = |mark: &[u8]| head.windows(mark.len()).any(|bytes| bytes == mark);
    // `irot` is followed by how many quarters it is turned.
    let turn = head.windows(5).any(|bytes| bytes.starts_with(b"irot") && bytes[4] != 0);
    read.is_ok() && !turn && !UNSUPPORTED.into_iter().any(has)
}

/// Makes a PNG of the first picture.
async fn decode(ctx: &TaskContext, path: &Path, video: &Video, made: &Path) -> bool {
    let mut command = Command::new(&ctx.config.programs.ffmpeg);
    command.args(["-y", "-hide_banner", "-nostdin", "-v", "error"]).args(video.reading(path));
    command.args(["-map", "0:V:0", "-frames:v", "1", "-vf", &video.to_rgb()]);
    command.args(["-pix_fmt", video.picture_format(), "-f", "image2", "-update", "1"]);
    command.arg(video::as_file(made));
    let status = run_program(ctx, &mut command, &mut |_| true).await;
    status.is_ok_and(|status| status.success())
        && pictor_pictures::size(made).is_ok_and(|size| size == video.size)
}

/// The colours of a picture that are not those of sRGB.
fn wide(video: &Video) -> Option<&str> {
    let primaries = video.colours.primaries.as_deref().filter(|name| *name != "bt709");
    let transfer = video.colours.transfer.as_deref();
    primaries.or(transfer.filter(|name| matches!(*name, "smpte2084" | "arib-std-b67" | "linear")))
}
