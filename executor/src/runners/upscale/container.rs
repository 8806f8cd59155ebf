//! AVIF and HEIC: pictures in a container that is also used for videos. ffmpeg decodes them where it can.

use crate::programs::process::run as run_program;
use crate::runners::video::{self, Video};
use crate::task::TaskContext;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The description of the pictures is at the start of the container, within this many bytes.
const HEAD: u64 = 1 << 20;
/// Boxes that change what is shown: the picture is cropped, mirrored, derived from others, put together from several,
/// or transparent. ffmpeg ignores them.
const UNSUPPORTED: [&[u8]; 6] = [b"clap", b"imir", b"grid", b"iovl", b"iden", b":auxiliary:alpha"];

/// A picture at `path` that can be read row by row: the file itself, or a PNG that ffmpeg made from the container. If
/// ffmpeg cannot, the path is returned unchanged, and reading it reports the error.
pub(super) async fn readable(ctx: &TaskContext, path: PathBuf, name: &str) -> PathBuf {
    if !pictor_pictures::is_container(&path) || !is_simple(&path) {
        return path;
    }
    let Ok(mut video) = video::look(ctx, &path, name).await else { return path };
    // Without a stated matrix, a picture has the one of JPEG, whatever its size.
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

/// Whether the picture is shown exactly as it is decoded.
fn is_simple(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    let has = |mark: &[u8]| head.windows(mark.len()).any(|bytes| bytes == mark);
    // `irot` is followed by the number of quarter turns.
    let turn = head.windows(5).any(|bytes| bytes.starts_with(b"irot") && bytes[4] != 0);
    read.is_ok() && !turn && !UNSUPPORTED.into_iter().any(has)
}

/// Converts the first picture to PNG.
async fn decode(ctx: &TaskContext, path: &Path, video: &Video, made: &Path) -> bool {
    let mut command = Command::new(&ctx.config.programs.ffmpeg);
    command.args(["-y", "-hide_banner", "-nostdin", "-v", "error"]).args(video.reading(path));
    command.args(["-map", "0:V:0", "-frames:v", "1", "-vf", &video.to_rgb()]);
    let pixels = match (video.grey, video.deep) {
        (true, false) => "gray",
        (true, true) => "gray16be",
        (false, _) => video.picture_format(),
    };
    command.args(["-pix_fmt", pixels, "-f", "image2", "-update", "1"]);
    command.arg(video::as_file(made));
    let needs = ctx.confinement().reads(path);
    let status = run_program(ctx.supervision(), &command, &needs, &mut |_| true).await;
    status.is_ok_and(|status| status.success())
        && pictor_pictures::size(made).is_ok_and(|size| size == video.size)
}

/// The name of the colour space, if it is not sRGB.
fn wide(video: &Video) -> Option<&str> {
    let primaries = video.colours.primaries.as_deref().filter(|name| *name != "bt709");
    let transfer = video.colours.transfer.as_deref();
    primaries.or(transfer.filter(|name| matches!(*name, "smpte2084" | "arib-std-b67" | "linear")))
}
