//! `stitch` tasks: put the tiles of a picture together and add what does not pass through the network.

use super::highlights::{Exact, Highlights, associate, bound, separate};
use super::original::{Original, original};
use super::tile::SCALE;
use crate::ground::failure::{failure, gave_up, picture_failure};
use crate::ground::progress::{Progress, StopSignal};
use crate::programs::process::{program_failure, run as run_program};
use crate::task::TaskContext;
use pictor_pictures::{
    Depth, Filter, Layout, PictureError, Reader, Resampler, Tags, Target, add_tags, to_display,
    to_linear, write,
};
use pictor_tasks::body::{ImageFormat, OnError, Stitch};
use pictor_tasks::message::{Failure, FailureKind, Input, Products};
use pictor_tasks::units::{Grid, Rect, Resolution};
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The quality of JPEG and WebP if the job does not set one.
const QUALITY: u8 = 92;
/// The longest side of a WebP, in pixels.
const WEBP_PIXELS_MAX: u32 = 16_383;

type Result<T> = std::result::Result<T, PictureError>;

/// Makes the final picture.
pub(super) async fn run(
    ctx: &TaskContext,
    body: &Stitch,
) -> std::result::Result<Products, Failure> {
    let tiles = Some(body.tiles.dim.as_str());
    let found = original(ctx, body.source.as_deref(), body.frame.as_deref(), tiles).await?;
    let Some(original) = found else {
        return given_up(ctx, body, "The frame could not be taken out of the video.");
    };
    let (files, scale) = tile_files(ctx, body).await?;
    let (name, blame) = (original.name.clone(), original.blame);
    let webp = body.format == ImageFormat::Webp;
    let extension = if webp { "png" } else { body.format.extension() };
    let out = ctx.scratch.join(format!("image.{extension}"));
    let work = StitchWork {
        original,
        files,
        scale: body.scale.or(scale),
        body: body.clone(),
        out: out.clone(),
        progress: ctx.progress.clone(),
        stop: ctx.stop.clone(),
    };
    let stitching = tokio::task::spawn_blocking(move || work.run());
    let made = tokio::select! {
        made = stitching => made.map_err(|panic| {
            failure(FailureKind::Failed, format!("Stitching failed: {panic}."))
        })?,
        _ = ctx.stop.stopped() => return Err(ctx.stop.failure()),
    };
    let made = match made {
        Ok(made) => made,
        Err(PictureError::Unusable(problem)) => {
            return given_up(ctx, body, &format!("{name} {problem}."));
        }
        Err(error) => return Err(picture_failure(error, &name, blame)),
    };
    made.notes.into_iter().for_each(|note| ctx.note(note));
    let out = if webp { to_webp(ctx, body, &out, &made.tags).await? } else { out };
    let bad = |error: PictureError| {
        picture_failure(error, "The picture that was made", FailureKind::BadOutput)
    };
    let size = pictor_pictures::size(&out).map_err(bad)?;
    if size != made.size {
        let message = format!("The picture is {size} pixels, not {}.", made.size);
        return Err(failure(FailureKind::BadOutput, message));
    }
    Ok(Products { outputs: vec![ctx.put("image", &out).await?], ..Products::default() })
}

/// The result for a picture that cannot be made: a failure, or a note if it may be left out.
fn given_up(
    ctx: &TaskContext,
    body: &Stitch,
    problem: &str,
) -> std::result::Result<Products, Failure> {
    if body.on_error == OnError::Fail {
        return Err(failure(FailureKind::Invalid, problem));
    }
    ctx.note(format!("left out: {problem}"));
    Ok(Products::default())
}

/// The existing tiles by number; and the factor, if a tile was given up.
async fn tile_files(
    ctx: &TaskContext,
    body: &Stitch,
) -> std::result::Result<(Vec<(u32, PathBuf)>, Option<u32>), Failure> {
    let (mut files, mut scale) = (Vec::new(), None);
    let number = |input: &Input| input.coordinates.number(&body.tiles.dim)?.try_into().ok();
    let inputs: Vec<&Input> = ctx.inputs.iter().filter(|input| number(input).is_some()).collect();
    let paths = ctx.input_paths(&inputs).await?;
    for (input, path) in inputs.into_iter().zip(paths) {
        if input.output.name == SCALE {
            let text = std::fs::read_to_string(&path);
            scale = text.ok().and_then(|text| text.parse().ok()).filter(|s| (1..=16).contains(s));
        } else {
            files.extend(number(input).map(|number| (number, path)));
        }
    }
    files.sort();
    Ok((files, scale))
}

/// Converts the picture to WebP, with ffmpeg.
async fn to_webp(
    ctx: &TaskContext,
    body: &Stitch,
    png: &Path,
    tags: &Tags,
) -> std::result::Result<PathBuf, Failure> {
    let out = ctx.scratch.join("image.webp");
    let quality = body.quality.unwrap_or(QUALITY).to_string();
    let mut command = Command::new(&ctx.config.programs.ffmpeg);
    command.args(["-y", "-hide_banner", "-nostdin", "-v", "error", "-i", "image.png"]);
    command.args(["-c:v", "libwebp", "-quality", &quality, "-f", "webp", "image.webp"]);
    command.current_dir(png.parent().unwrap_or(Path::new(".")));
    let status =
        run_program(ctx.supervision(), &command, &ctx.confinement(), &mut |_| true).await?;
    if !status.success() {
        return Err(program_failure(&ctx.log, "ffmpeg", status));
    }
    add_tags(&out, tags)
        .map_err(|error| picture_failure(error, "image.webp", FailureKind::BadOutput))?;
    Ok(out)
}

/// One picture, and all that is needed to stitch it on a separate thread.
struct StitchWork {
    original: Original,
    files: Vec<(u32, PathBuf)>,
    /// The factor; `None` if it has to be derived from the tiles.
    scale: Option<u32>,
    body: Stitch,
    out: PathBuf,
    progress: Progress,
    stop: StopSignal,
}

struct Made {
    size: Resolution,
    tags: Tags,
    notes: Vec<String>,
}

impl StitchWork {
    fn run(&self) -> Result<Made> {
        let lenient = self.body.on_error == OnError::Copy;
        let reader = Reader::open(&self.original.path, lenient)?;
        let layout = reader.layout();
        let grid = self.body.tiles.grid(layout.size);
        let missing = (0..grid.tiles()).zip(&self.files).find(|(n, (tile, _))| n != tile);
        let complete = missing.is_none() && self.files.len() == grid.tiles() as usize;
        if complete {
            return self.stitch(reader, grid);
        }
        match self.body.on_error {
            OnError::Fail => Err(gave_up(failure(
                FailureKind::Invalid,
                format!("There are {} of {} tiles.", self.files.len(), grid.tiles()),
            ))),
            OnError::Skip => Err(PictureError::Unusable("could not be upscaled".into())),
            OnError::Copy => self.copy(reader),
        }
    }

    /// The output format and layout for an original with this layout.
    fn target(&self, source: Layout, size: Resolution) -> Result<Target> {
        let format = self.body.format;
        if format == ImageFormat::Webp && size.width.max(size.height) > WEBP_PIXELS_MAX {
            let problem = format!(
                "would have {size} pixels, and WebP has at most {WEBP_PIXELS_MAX} on a side: choose \
                 another `format`"
            );
            return Err(gave_up(failure(FailureKind::Invalid, problem)));
        }
        let depth = match (format, source.depth) {
            (ImageFormat::Exr, Depth::Float) => Depth::Float,
            (ImageFormat::Exr, _) => Depth::Half,
            (ImageFormat::Jpeg | ImageFormat::Webp, _) | (_, Depth::Eight) => Depth::Eight,
            _ => Depth::Sixteen,
        };
        let layout = Layout { size, depth, ..source };
        let quality = self.body.quality.unwrap_or(QUALITY);
        Ok(Target { layout, format, quality, passing: format == ImageFormat::Webp })
    }

    /// The metadata for the result: an ICC profile describes a coding that the samples of an EXR do not have.
    fn tags(reader: &Reader, target: &Target, notes: &mut Vec<String>) -> Tags {
        notes.extend_from_slice(reader.notes());
        let mut tags = reader.tags().fitted(target.format, target.layout.size, notes);
        if target.layout.depth.is_linear() && tags.icc.take().is_some() {
            notes.push("the colour profile is left out: the picture is taken for sRGB".into());
        }
        tags
    }

    fn stitch(&self, mut reader: Reader, grid: Grid) -> Result<Made> {
        let source = reader.layout();
        let mut tiles = Tiles::open(&self.files, grid, source)?;
        let scale = self.scale.unwrap_or(tiles.factor);
        let size =
            Resolution { width: source.size.width * scale, height: source.size.height * scale };
        let target = self.target(source, size)?;
        let mut notes = Vec::new();
        let tags = Self::tags(&reader, &target, &mut notes);
        let whole = tiles.size();
        let mut exact = (whole != size).then(|| Exact::new(whole, size, source));
        let mut highlights = Highlights::new(source, target.layout, size);
        let (mut made, mut done) = (Vec::new(), 0);
        write(&self.out, target, &tags, &mut |row| {
            match &mut exact {
                Some(exact) => exact.row(&mut |row| tiles.row(row), &mut made)?,
                None => tiles.row(&mut made)?,
            }
            highlights.row(&mut reader)?;
            highlights.join(&made, row);
            self.report(&mut done, size.height)
        })?;
        Ok(Made { size, tags, notes })
    }

    /// Resizes the original without the network; missing parts of it become black.
    fn copy(&self, mut reader: Reader) -> Result<Made> {
        let source = reader.layout();
        let scale = self.scale.unwrap_or(1);
        let size =
            Resolution { width: source.size.width * scale, height: source.size.height * scale };
        let target = self.target(source, size)?;
        let mut notes = Vec::new();
        let tags = Self::tags(&reader, &target, &mut notes);
        let mut lacking = None;
        // With the cubic filter, opacity has hardly any ringing, and the colours get the same edges.
        let filter = if source.alpha { Filter::CatmullRom } else { Filter::Lanczos3 };
        let mut resampler = Resampler::new(source.size, size, source.channels(), filter);
        let mut done = 0;
        let (from, to) = (source.depth.is_linear(), target.layout.depth.is_linear());
        write(&self.out, target, &tags, &mut |row| {
            let rows = &mut |row: &mut Vec<f32>| match reader.row(row) {
                Err(PictureError::Unusable(problem)) if reader.next() > 0 => {
                    lacking.get_or_insert((reader.next(), problem));
                    row.clear();
                    row.resize(source.row_samples(), 0.0);
                    Ok(())
                }
                // Transparent pixels must not affect the colours of visible ones.
                other => other.map(|()| {
                    if !from {
                        associate(row, source);
                    }
                    let opacity = row.iter_mut().skip(source.colours).step_by(source.channels());
                    opacity.filter(|_| source.alpha).for_each(|o| *o = o.clamp(0.0, 1.0));
                }),
            };
            resampler.row(rows, row)?;
            bound(row, source);
            if !(from && to) {
                separate(row, source);
                for pixel in row.chunks_exact_mut(source.channels()) {
                    for sample in &mut pixel[..source.colours] {
                        *sample = match (from, to) {
                            (true, false) => to_display(*sample),
                            (false, true) => to_linear(*sample),
                            _ => *sample,
                        };
                    }
                }
            }
            if to && !from {
                associate(row, source);
            }
            self.report(&mut done, size.height)
        })?;
        notes.push(match lacking {
            Some((rows, problem)) => format!(
                "{} {problem}: {rows} of its {} rows were resized without the network",
                self.original.name, source.size.height
            ),
            None => format!("{} was resized without the network", self.original.name),
        });
        Ok(Made { size, tags, notes })
    }

    fn report(&self, done: &mut u32, rows: u32) -> Result<()> {
        *done += 1;
        if done.is_multiple_of(256) || *done == rows {
            let thousandths = u64::from(*done) * 1000 / u64::from(rows);
            let fraction = f32::from(u16::try_from(thousandths).unwrap_or(1000)) / 1000.0;
            self.progress.report(fraction, &format!("row {done}/{rows}"));
            if self.stop.reason().is_some() {
                return Err(gave_up(self.stop.failure()));
            }
        }
        Ok(())
    }
}

/// The tiles of a picture, read side by side.
struct Tiles<'a> {
    files: &'a [(u32, PathBuf)],
    grid: Grid,
    source: Layout,
    /// How many pixels a tile has for each of the original, along each axis.
    factor: u32,
    /// The row of tiles that is being read.
    open: Vec<Reader>,
    next: usize,
    part: Vec<f32>,
}

impl<'a> Tiles<'a> {
    fn open(files: &'a [(u32, PathBuf)], grid: Grid, source: Layout) -> Result<Self> {
        let mut tiles =
            Self { files, grid, source, factor: 1, open: Vec::new(), next: 0, part: Vec::new() };
        tiles.factor = {
            let first = tile_size(&files[0].1)?;
            let rect = tiles.rect(0)?;
            (first.width / (rect.x1 - rect.x0)).max(1)
        };
        Ok(tiles)
    }

    fn size(&self) -> Resolution {
        let Resolution { width, height } = self.source.size;
        Resolution { width: width * self.factor, height: height * self.factor }
    }

    fn rect(&self, tile: u32) -> Result<Rect> {
        let rect = self.grid.rect(tile, self.source.size);
        rect.ok_or_else(|| bad_tile(tile, "has no place in the picture"))
    }

    /// The next row of the whole picture.
    fn row(&mut self, out: &mut Vec<f32>) -> Result<()> {
        let used_up = |reader: &Reader| reader.next() == reader.layout().size.height;
        if self.open.first().is_none_or(used_up) {
            self.open_row()?;
        }
        out.clear();
        for reader in &mut self.open {
            reader.row(&mut self.part).map_err(|error| bad_tile(0, &error.to_string()))?;
            out.extend(&self.part);
        }
        Ok(())
    }

    fn open_row(&mut self) -> Result<()> {
        self.open.clear();
        let end = self.next + self.grid.columns as usize;
        for (number, path) in &self.files[self.next..end] {
            let rect = self.rect(*number)?;
            let reader =
                Reader::open(path, false).map_err(|error| bad_tile(*number, &error.to_string()))?;
            let wanted = Resolution {
                width: (rect.x1 - rect.x0) * self.factor,
                height: (rect.y1 - rect.y0) * self.factor,
            };
            let Layout { size, colours, alpha, .. } = reader.layout();
            if size != wanted || colours != self.source.colours || alpha != self.source.alpha {
                let problem = format!("is {size} pixels with {colours} colours, not {wanted}");
                return Err(bad_tile(*number, &problem));
            }
            self.open.push(reader);
        }
        self.next = end;
        Ok(())
    }
}

fn tile_size(path: &Path) -> Result<Resolution> {
    pictor_pictures::size(path).map_err(|error| bad_tile(0, &error.to_string()))
}

/// A bad tile is the fault of another task, not of the picture.
fn bad_tile(number: u32, problem: &str) -> PictureError {
    let message = format!("The tile {number} {problem}. Reset the task that made it.");
    gave_up(failure(FailureKind::BadOutput, message))
}
