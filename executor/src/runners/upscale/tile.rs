//! `upscale` tasks: run one tile through the network.

use super::network::{Model, Network, Upscaler, share};
use super::opacity::{is_even, limited};
use super::original::{Original, original};
use super::strip::Strip;
use crate::ground::failure::{failure, gave_up, picture_failure, storage_failure};
use crate::ground::progress::{Progress, StopSignal};
use crate::task::TaskContext;
use pictor_models::{Ender, Listener, Planar, Tile};
use pictor_pictures::{Depth, Layout, PictureError, Tags, Target, write};
use pictor_tasks::body::{ImageFormat, OnError, Upscale};
use pictor_tasks::message::{Failure, FailureKind, Products};
use pictor_tasks::units::{Grid, Rect, Resolution};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// The largest overlap in pixels unless the job sets one.
const OVERLAP_MAX: u32 = 32;
/// The name of the output of a tile that was given up, which holds its factor.
pub(super) const SCALE: &str = "scale";
/// The memory in bytes that a network takes for each pixel of its result: 64 channels of floats, three times.
const PIXEL_BYTES: u64 = 64 * 4 * 3;
/// The longest side of a part that goes through the network at once, on a CPU and on a GPU: small enough to take
/// seconds, so that progress is visible.
const PART_PIXELS: (u32, u32) = (512, 1024);

/// Upscales the tile.
pub(super) async fn run(
    ctx: &TaskContext,
    upscaler: &mut Upscaler,
    body: &Upscale,
) -> Result<Products, Failure> {
    let model = Model::find(ctx, &body.model)?;
    let found = original(ctx, body.source.as_deref(), body.frame.as_deref(), None).await?;
    let Some(original) = found else {
        let problem = "The frame could not be taken out of the video.";
        let failure = failure(FailureKind::BadOutput, problem);
        return given_up(ctx, body, model.manifest.scale, failure).await;
    };
    let (name, blame, factor) = (original.name.clone(), original.blame, model.manifest.scale);
    let out = ctx.scratch.join("image.png");
    let work = TileWork::new(ctx, body, model, original, out.clone());
    let ender = work.ender.clone();
    let mut kept = std::mem::take(upscaler);
    let upscaling = tokio::task::spawn_blocking(move || {
        let result = work.run(&mut kept);
        (kept, result)
    });
    let (kept, result) = tokio::select! {
        done = upscaling => done.map_err(|panic| {
            failure(FailureKind::Failed, format!("Upscaling a tile failed: {panic}."))
        })?,
        _ = ctx.stop.stopped() => {
            // The network is dropped with its thread, one layer later.
            if let Some(ender) = ender.get() {
                ender.end();
            }
            return Err(ctx.stop.failure());
        }
    };
    *upscaler = kept;
    if let Some(reason) = upscaler.network.as_ref().and_then(|n| n.fallback.as_ref()) {
        ctx.note(format!("the network runs on the CPU and not on the GPU: {reason}"));
    }
    match result {
        Ok(()) => {
            Ok(Products { outputs: vec![ctx.put("image", &out).await?], ..Products::default() })
        }
        Err(PictureError::Unusable(problem)) => {
            let failure = picture_failure(PictureError::Unusable(problem), &name, blame);
            given_up(ctx, body, factor, failure).await
        }
        Err(error) => Err(picture_failure(error, &name, blame)),
    }
}

/// The result for a tile whose picture cannot be read. `stitch` needs to know the factor.
async fn given_up(
    ctx: &TaskContext,
    body: &Upscale,
    factor: u32,
    failure: Failure,
) -> Result<Products, Failure> {
    if body.on_error == OnError::Fail {
        return Err(failure);
    }
    ctx.note(failure.message);
    let path = ctx.scratch.join("scale.json");
    let scale = body.scale.unwrap_or(factor).to_string();
    std::fs::write(&path, scale).map_err(|error| storage_failure("scale.json", &error))?;
    Ok(Products { outputs: vec![ctx.put(SCALE, &path).await?], ..Products::default() })
}

/// One tile, and all that is needed to upscale it on a separate thread.
struct TileWork {
    model: Model,
    original: Original,
    scale: u32,
    passes: u32,
    overlap: u32,
    tiling: Option<pictor_tasks::body::Tiling>,
    tile: u32,
    memory_bytes: u64,
    out: PathBuf,
    progress: Progress,
    stop: StopSignal,
    /// Cancels the network, once it is loaded.
    ender: Arc<OnceLock<Ender>>,
}

impl TileWork {
    fn new(
        ctx: &TaskContext,
        body: &Upscale,
        model: Model,
        original: Original,
        out: PathBuf,
    ) -> Self {
        let own = model.manifest.scale;
        let scale = body.scale.unwrap_or(own);
        let passes = passes(own, scale);
        let field = model.manifest.receptive_field;
        let overlap = body.overlap.unwrap_or_else(|| reach(field, own, passes).min(OVERLAP_MAX));
        let tile = body.tiles.as_ref().and_then(|tiling| {
            let axis = ctx.brief.space.axes.iter().position(|axis| axis.name == tiling.dim)?;
            Some(ctx.brief.space.position(ctx.task.index, axis))
        });
        let memory = match &ctx.device {
            Some(device) => device.gpu.vram_bytes,
            None => ctx.config.inventory.memory_bytes / u64::from(ctx.config.slots.max(1)),
        };
        Self {
            model,
            original,
            scale,
            passes,
            overlap,
            tiling: body.tiles.clone(),
            tile: tile.unwrap_or(0),
            // An inventory without a memory size says nothing about the limit.
            memory_bytes: if memory == 0 { u64::MAX } else { memory / 2 },
            out,
            progress: ctx.progress.clone(),
            stop: ctx.stop.clone(),
            ender: Arc::default(),
        }
    }

    fn run(&self, kept: &mut Upscaler) -> Result<(), PictureError> {
        let of_file = kept.strip.take().filter(|strip| strip.is_of(&self.original.path));
        let strip = match of_file {
            Some(strip) => strip,
            None => Strip::open(&self.original.path)?,
        };
        let strip = kept.strip.insert(strip);
        let network = self.model.load(kept.network.take()).map_err(gave_up)?;
        let network = kept.network.insert(network);
        self.ender.get_or_init(|| network.ender());
        let source = strip.layout();
        let core = self.core(source.size)?;
        let factor = self.model.manifest.scale.pow(self.passes);
        let deep = source.depth != Depth::Eight || factor != self.scale;
        let size = Resolution {
            width: (core.x1 - core.x0) * factor,
            height: (core.y1 - core.y0) * factor,
        };
        let layout = Layout {
            size,
            colours: source.colours,
            alpha: source.alpha,
            depth: if deep { Depth::Sixteen } else { Depth::Eight },
        };
        let target = Target { layout, format: ImageFormat::Png, quality: 100, passing: true };
        let mut bands = Bands::new(self, core, strip, network);
        write(&self.out, target, &Tags::default(), &mut |row| bands.row(row))
    }

    /// The grid of tiles for a picture of this size.
    fn grid(&self, size: Resolution) -> Grid {
        let one = Grid { columns: 1, rows: 1 };
        self.tiling.as_ref().map_or(one, |tiling| tiling.grid(size))
    }

    /// The pixels of the original that the tile covers.
    fn core(&self, size: Resolution) -> Result<Rect, PictureError> {
        self.grid(size).rect(self.tile, size).ok_or_else(|| {
            let problem = format!("has {size} pixels and no tile {}", self.tile);
            PictureError::Unusable(problem)
        })
    }

    /// The grid of parts for a tile of at most the size `tile`.
    fn parts(&self, tile: Resolution) -> Grid {
        let (cpu, gpu) = PART_PIXELS;
        let most = if self.model.wants_gpu() { gpu } else { cpu };
        let factor = u64::from(self.model.manifest.scale.pow(self.passes));
        let pixels = self.memory_bytes / PIXEL_BYTES / (factor * factor);
        let side = u32::try_from(pixels.isqrt()).unwrap_or(u32::MAX);
        let side = side.saturating_sub(2 * self.overlap).clamp(64, most);
        Grid { columns: tile.width.div_ceil(side), rows: tile.height.div_ceil(side) }
    }
}

/// How often a network must run to reach the factor.
fn passes(own: u32, wanted: u32) -> u32 {
    let mut passes = 1;
    while own > 1 && own.pow(passes) < wanted {
        passes += 1;
    }
    passes
}

/// The receptive field of all passes together, in pixels of the original: later passes see smaller pixels.
fn reach(field: u32, own: u32, passes: u32) -> u32 {
    (0..passes).map(|pass| field.div_ceil(own.pow(pass))).sum()
}

/// A tile's rows, computed one row of parts at a time.
struct Bands<'a> {
    work: &'a TileWork,
    core: Rect,
    strip: &'a mut Strip,
    network: &'a mut Network,
    parts: Grid,
    window: Resolution,
    /// The number of the next part.
    next: u32,
    /// The rows of the latest row of parts, and the number of samples that were taken from it.
    band: Vec<f32>,
    taken: usize,
}

impl<'a> Bands<'a> {
    fn new(work: &'a TileWork, core: Rect, strip: &'a mut Strip, network: &'a mut Network) -> Self {
        let size = strip.layout().size;
        let grid = work.grid(size);
        // Tiles differ by a pixel; all windows of a picture have one size, so that the network stays warm.
        let largest = Resolution {
            width: size.width.div_ceil(grid.columns),
            height: size.height.div_ceil(grid.rows),
        };
        let least = |side: u32, parts: u32| parts.min(side);
        let parts = work.parts(largest);
        let parts = Grid {
            columns: least(core.x1 - core.x0, parts.columns),
            rows: least(core.y1 - core.y0, parts.rows),
        };
        let seen = |tile: u32, parts: u32, whole: u32| {
            whole.min(tile.div_ceil(parts).saturating_add(2 * work.overlap))
        };
        let window = Resolution {
            width: seen(largest.width, parts.columns, size.width),
            height: seen(largest.height, parts.rows, size.height),
        };
        Self { work, core, strip, network, parts, window, next: 0, band: Vec::new(), taken: 0 }
    }

    fn row(&mut self, out: &mut Vec<f32>) -> Result<(), PictureError> {
        if self.taken == self.band.len() {
            self.compute()?;
        }
        let channels = self.strip.layout().channels();
        let factor = self.work.model.manifest.scale.pow(self.work.passes);
        let length = ((self.core.x1 - self.core.x0) * factor) as usize * channels;
        out.clear();
        out.extend(&self.band[self.taken..self.taken + length]);
        self.taken += length;
        Ok(())
    }

    /// Computes the next row of parts.
    fn compute(&mut self) -> Result<(), PictureError> {
        let Rect { x0, y0, x1, y1 } = self.core;
        let tile = Resolution { width: x1 - x0, height: y1 - y0 };
        let factor = self.work.model.manifest.scale.pow(self.work.passes);
        let Layout { colours, alpha, .. } = self.strip.layout();
        let channels = colours + usize::from(alpha);
        let pitch = (tile.width * factor) as usize * channels;
        self.taken = 0;
        self.band.clear();
        for _ in 0..self.parts.columns {
            let part = self.parts.rect(self.next, tile).expect("parts are counted to the end");
            let core =
                Rect { x0: x0 + part.x0, y0: y0 + part.y0, x1: x0 + part.x1, y1: y0 + part.y1 };
            let window = self.window(core);
            self.strip.advance(window.y0, window.y1)?;
            self.band.resize(pitch * ((core.y1 - core.y0) * factor) as usize, 0.0);
            if self.work.stop.reason().is_some() {
                return Err(gave_up(self.work.stop.failure()));
            }
            let made = self.network_on(window)?;
            let position = PartPosition {
                tile: Tile { window, core },
                left: part.x0,
                factor,
                pitch,
                colours,
                channels,
            };
            position.put(&made, &mut self.band);
            self.next += 1;
        }
        Ok(())
    }

    /// The pixels that are passed to the network for a part.
    fn window(&self, core: Rect) -> Rect {
        let Resolution { width, height } = self.strip.layout().size;
        let overlap = self.work.overlap;
        let x0 = core.x0.saturating_sub(overlap).min(width - self.window.width);
        let y0 = core.y0.saturating_sub(overlap).min(height - self.window.height);
        Rect { x0, y0, x1: x0 + self.window.width, y1: y0 + self.window.height }
    }

    /// The network's result for a window: the planes of the colours, followed by one of the opacity if the picture has
    /// any.
    fn network_on(&mut self, window: Rect) -> Result<Vec<Planar>, PictureError> {
        let Layout { colours, alpha, .. } = self.strip.layout();
        let channels = self.work.model.manifest.channels;
        let runs: Vec<Vec<usize>> = match (channels, colours) {
            (1, _) => (0..colours).map(|colour| vec![colour]).collect(),
            (_, 1) => vec![vec![0; 3]],
            _ => vec![vec![0, 1, 2]],
        };
        let times = [self.work.passes, self.work.model.manifest.scale];
        let source = alpha.then(|| self.strip.window(window, &[colours]));
        let sees_opacity = source.as_ref().is_some_and(|opacity| !is_even(opacity));
        let all = u32::try_from(runs.len()).unwrap_or(1) + u32::from(sees_opacity);
        let (part, parts) = (self.next, self.parts.tiles());
        let mut before = 0..;
        let mut run = |colours: Vec<usize>| {
            let (before, progress) = (before.next().unwrap_or(0), self.work.progress.clone());
            let listener: Listener = Arc::new(move |run| {
                let done = share(part, share(before, run, all), parts);
                progress.report(done, &format!("part {}/{parts}", part + 1));
            });
            let part = self.strip.window(window, &colours);
            let at = [window.x0, window.y0];
            let made = self.network.run(part, at, times, &listener).map_err(gave_up)?;
            // A GPU reports no progress of its own.
            listener(1.0);
            Ok(made)
        };
        let mut made = runs.into_iter().map(&mut run).collect::<Result<Vec<_>, PictureError>>()?;
        if let Some(source) = source {
            let run = sees_opacity.then(|| run(vec![colours; channels as usize]));
            let factor = self.work.model.manifest.scale.pow(self.work.passes);
            made.push(limited(&source, run.transpose()?.as_ref(), factor));
        }
        Ok(made)
    }
}

/// The position of a part within a tile.
struct PartPosition {
    tile: Tile,
    /// Its first column within the tile, before upscaling.
    left: u32,
    factor: u32,
    /// The number of samples in a row of the tile.
    pitch: usize,
    colours: usize,
    /// Includes the one of opacity.
    channels: usize,
}

impl PartPosition {
    /// Copies the core of the network's result, pixel by pixel.
    fn put(&self, made: &[Planar], band: &mut [f32]) {
        let Tile { window, core } = self.tile;
        let scaled = |pixels: u32| (pixels * self.factor) as usize;
        let (width, rows) = (scaled(core.x1 - core.x0), scaled(core.y1 - core.y0));
        let (left, top) = (scaled(core.x0 - window.x0), scaled(core.y0 - window.y0));
        let wide = scaled(window.x1 - window.x0);
        let plane_length = wide * scaled(window.y1 - window.y0);
        let planes: Vec<&[f32]> =
            made.iter().flat_map(|part| part.samples().chunks_exact(plane_length)).collect();
        let others = self.channels - self.colours;
        let (planes, opacity) = planes.split_at(planes.len() - others);
        for row in 0..rows {
            let from = (top + row) * wide + left;
            let to = row * self.pitch + scaled(self.left) * self.channels;
            for column in 0..width {
                let pixel = &mut band[to + column * self.channels..][..self.channels];
                let at = from + column;
                let (pixel, rest) = pixel.split_at_mut(self.colours);
                for (sample, plane) in rest.iter_mut().zip(opacity) {
                    *sample = plane[at];
                }
                match (pixel, planes) {
                    // Grey went in as three equal colours: the result is the luminance of the three.
                    ([grey], [red, green, blue]) => {
                        *grey = 0.2126 * red[at] + 0.7152 * green[at] + 0.0722 * blue[at];
                    }
                    (pixel, planes) => {
                        for (sample, plane) in pixel.iter_mut().zip(planes) {
                            *sample = plane[at];
                        }
                    }
                }
            }
        }
    }
}
