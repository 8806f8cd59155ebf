//! The tasks that a Blender session does, and the checks of their results.

use super::picture;
use super::session::{Inspection, Session, read_as};
use super::sessions::Sessions;
use super::settings::settings;
use crate::ground::failure::{exr_failure, failure, storage_failure};
use crate::ground::text_of;
use crate::runners::merge::WHOLE;
use crate::runners::scene_file;
use crate::task::{TaskContext, copy_made};
use pictor_pictures::exr_image::{self, ExrImage, Stats};
use pictor_tasks::body::{Body, Develop, Render, Scene};
use pictor_tasks::message::{Binding, Bound, Failure, FailureKind, Input, Output, Products};
use pictor_tasks::space::{Value, Values};
use pictor_tasks::units::{Rect, Resolution};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Runs an inspect, bake, blender, finish or develop task.
pub(crate) async fn run(ctx: &TaskContext, sessions: &mut Sessions) -> Result<Products, Failure> {
    let scene = ctx.brief.body.scene().expect("only bodies with a scene come here");
    let settings = settings(ctx, scene).await?;
    let task = ResolvedTask { ctx, scene, settings };
    loop {
        let session = sessions.get(ctx, scene).await?;
        let done = match &ctx.brief.body {
            Body::Inspect(_) => task.inspect(session).await,
            Body::Bake(_) => task.bake(session).await,
            Body::Blender(render) => task.render(session, render).await,
            Body::Finish(_) => task.finish(session).await,
            Body::Develop(develop) => task.develop(session, develop).await,
            _ => unreachable!("only bodies with a scene come here"),
        };
        // A build may lack something that only the opened scene reveals, such as the denoiser: another Blender here may
        // have it.
        match &done {
            Err(failure) if failure.kind == FailureKind::Unsupported => {
                let Some(program) = sessions.pass_over(ctx, scene) else { return done };
                let (scene, program) = (&scene.scene, program.display());
                let why = failure.message.split_inclusive(". ").next().unwrap_or_default().trim();
                ctx.note(format!("{scene} is not rendered by {program}: {why}"));
            }
            _ => return done,
        }
    }
}

/// A task with its resolved settings.
struct ResolvedTask<'a> {
    ctx: &'a TaskContext,
    scene: &'a Scene,
    settings: Json,
}

/// The driver's answer to `render`.
#[derive(Deserialize)]
struct Rendered {
    region: [u32; 4],
    frame_width: u32,
    frame_height: u32,
    /// The file contains the whole frame, whatever was requested.
    whole: bool,
    /// The frame's size is that of the scene's render region.
    bordered: bool,
    #[serde(default)]
    notes: Vec<String>,
    #[serde(default)]
    files: Vec<String>,
}

/// The driver's answer to `finish`.
#[derive(Deserialize)]
struct Finished {
    /// The compositor's result, or the denoised picture.
    path: Option<PathBuf>,
    /// For a multilayer frame: the denoised pictures by layer, and the prefixes of passes that only the denoiser
    /// needed.
    #[serde(default)]
    denoised: BTreeMap<String, PathBuf>,
    #[serde(default)]
    drop: Vec<String>,
    #[serde(default)]
    files: Vec<String>,
}

/// The folder for File Output nodes below the task's scratch folder, and the prefix of their outputs.
const FILES: &str = "files";
/// The same for single passes.
const PASSES: &str = "passes";

impl ResolvedTask<'_> {
    /// Checks the scene, determines its frames, and stores the inspection for later steps.
    async fn inspect(&self, session: &mut Session) -> Result<Products, Failure> {
        let found = self.looked_at(session).await?;
        let output = scene_file::leave(self.ctx, &found).await?;
        let inspection: Inspection = read_as(found)?;
        for note in &inspection.notes {
            self.ctx.note(note.clone());
        }
        let Inspection { frame_start, frame_end, frame_step, .. } = inspection;
        let mut products = Products { outputs: vec![output], ..Products::default() };
        for dim in &self.ctx.brief.binds {
            let text = format!("{frame_start}-{frame_end}x{}", frame_step.max(1));
            let frames = text.parse().map_err(|error| {
                let scene = &self.scene.scene;
                let message = format!("The frame range of {scene} cannot be rendered: {error}.");
                failure(FailureKind::Invalid, message)
            })?;
            let values = Bound::Values(Values::Ints(frames));
            products.bindings.push(Binding { dim: dim.clone(), values });
        }
        Ok(products)
    }

    /// Bakes the scene's simulations into a copy of it.
    async fn bake(&self, session: &mut Session) -> Result<Products, Failure> {
        let folder = self.ctx.scratch.join("baked");
        let made = tokio::fs::create_dir_all(&folder).await;
        made.map_err(|error| storage_failure("The folder to bake into cannot be made", &error))?;
        let more = json!({ "frame": self.settings["frame"], "folder": text_of(&folder)? });
        let answer = self.ask(session, "bake", &folder, more).await;
        session.spend();
        let answer = answer?;
        let mut products = Products::default();
        for (name, field) in [("baked", "scene"), ("caches", "caches")] {
            if let Some(path) = answer.get(field).and_then(Json::as_str) {
                let path = self.taken(Path::new(path)).await?;
                products.outputs.push(self.ctx.put(name, &path).await?);
            }
        }
        if products.outputs.is_empty() {
            self.ctx.note("Nothing in the scene has to be baked.");
        }
        Ok(products)
    }

    /// Renders a frame or a tile of it.
    async fn render(&self, session: &mut Session, render: &Render) -> Result<Products, Failure> {
        let (frame, wanted) = (self.frame(session), self.region(session, render).await?);
        let out = self.ctx.scratch.join("image.exr");
        let region =
            wanted.as_ref().map(|part| [part.rect.x0, part.rect.y0, part.rect.x1, part.rect.y1]);
        let tile = wanted.as_ref().map(|part| part.tile);
        let more =
            json!({ "frame": frame, "region": region, "tile": tile, "files": self.files()? });
        let answer = self.ask(session, "render", &out, more).await?;
        if answer.get("nothing") == Some(&Json::Bool(true)) {
            return Ok(Products::default());
        }
        let rendered: Rendered = read_as(answer)?;
        for note in rendered.notes {
            self.ctx.note(note);
        }
        let [x0, y0, x1, y1] = rendered.region;
        let whole = Resolution { width: rendered.frame_width, height: rendered.frame_height };
        let expected = wanted.as_ref().map(|part| part.frame).or(self.scene.resolution);
        if let Some(expected) = expected.filter(|size| !rendered.bordered && *size != whole) {
            let message = format!("Blender rendered a frame of {whole} pixels, not {expected}.");
            return Err(failure(FailureKind::BadOutput, message));
        }
        let all = Rect { x0: 0, y0: 0, x1: whole.width, y1: whole.height };
        let (name, wanted) = match wanted {
            Some(_) if rendered.whole => (WHOLE, all),
            Some(part) => ("image", part.rect),
            None => ("image", all),
        };
        let out = self.taken(&out).await?;
        let stats = check_and_cut(&out, Rect { x0, y0, x1, y1 }, wanted).await?;
        let mut outputs = vec![self.store(name, &out, stats).await?];
        outputs.extend(self.stored(&rendered.files).await?);
        Ok(Products { outputs, ..Products::default() })
    }

    /// Denoises and composites a rendered frame.
    async fn finish(&self, session: &mut Session) -> Result<Products, Failure> {
        let (input, path) = self.image().await?;
        let (raw, mut out) = (path.clone(), self.ctx.scratch.join("image.exr"));
        let size = blocking(move || exr_image::size(&raw).map_err(exr_failure)).await?;
        let more = json!({
            "frame": self.frame(session),
            "in": text_of(&path)?,
            "size": [size.width, size.height],
            "files": self.files()?,
        });
        let answer = self.ask(session, "finish", &out, more).await?;
        let is_unchanged = answer.get("unchanged") == Some(&Json::Bool(true));
        if is_unchanged && !self.scene.pass_files {
            let outputs = self.ctx.inputs.iter().filter(|other| other.index == input.index);
            let outputs = outputs.map(|other| other.output.clone()).collect();
            return Ok(Products { outputs, ..Products::default() });
        }
        let (mut outputs, finished) = if is_unchanged {
            let others = self.ctx.inputs.iter().filter(|other| other.output.name != "image");
            (others.map(|other| other.output.clone()).collect(), None)
        } else {
            let mut finished: Finished = read_as(answer)?;
            for made in finished.path.iter_mut().chain(finished.denoised.values_mut()) {
                *made = self.taken(made).await?;
            }
            (self.stored(&finished.files).await?, Some(finished))
        };
        if self.scene.all_passes {
            // No program writes to that folder.
            out = self.ctx.fetched.join("image.exr");
            let (target, is_split) = (out.clone(), self.scene.pass_files);
            let passes =
                blocking(move || assemble(&path, size, finished, &target, is_split)).await?;
            for file in passes {
                let name = format!("{PASSES}/{file}");
                outputs.push(self.ctx.put_as(&name, &self.ctx.fetched.join(&name), &name).await?);
            }
        } else {
            out = self.taken(&out).await?;
        }
        let all = Rect { x0: 0, y0: 0, x1: size.width, y1: size.height };
        let stats = check_and_cut(&out, all, all).await?;
        outputs.push(self.store("image", &out, stats).await?);
        Ok(Products { outputs, ..Products::default() })
    }

    /// Converts a frame to an ordinary picture.
    async fn develop(&self, session: &mut Session, body: &Develop) -> Result<Products, Failure> {
        let (_, path) = self.image().await?;
        let (format, raw) = (body.format, path.clone());
        let size = blocking(move || exr_image::size(&raw).map_err(exr_failure)).await?;
        let out = self.ctx.scratch.join(format!("image.{}", format.extension()));
        let more = json!({
            "frame": self.frame(session), "in": text_of(&path)?, "format": format,
            "size": [size.width, size.height],
        });
        self.ask(session, "develop", &out, more).await?;
        let out = self.taken(&out).await?;
        let made = out.clone();
        blocking(move || picture::check(&made, format, size)).await?;
        let output = self.store("image", &out, Stats::default()).await?;
        Ok(Products { outputs: vec![output], ..Products::default() })
    }

    /// The path of the folder for File Output nodes.
    fn files(&self) -> Result<String, Failure> {
        text_of(&self.ctx.scratch.join(FILES))
    }

    /// Stores the files of File Output nodes as outputs, whose names begin with that of their folder.
    async fn stored(&self, files: &[String]) -> Result<Vec<Output>, Failure> {
        let mut outputs = Vec::with_capacity(files.len());
        for file in files {
            let name = format!("{FILES}/{file}");
            let path = self.taken(&self.ctx.scratch.join(&name)).await?;
            outputs.push(self.ctx.put_as(&name, &path, &name).await?);
        }
        Ok(outputs)
    }

    /// Where to find a file that Blender made, to check, change and store it. While a scene's scripts run, what is in the
    /// task's folder may be a link to anything, and may change at any time: then it is a copy.
    async fn taken(&self, path: &Path) -> Result<PathBuf, Failure> {
        if !self.scene.allow_scripts {
            return Ok(path.to_owned());
        }
        let (from, made) = (path.to_owned(), self.ctx.scratch.clone());
        let to = self.ctx.fetched.clone();
        let bad = |why: String| failure(FailureKind::BadOutput, format!("{why}."));
        blocking(move || copy_made(&from, &made, &to).map_err(bad)).await
    }

    async fn ask(
        &self,
        session: &mut Session,
        op: &str,
        out: &Path,
        more: Json,
    ) -> Result<Map<String, Json>, Failure> {
        let mut question = Map::new();
        question.insert("op".into(), op.into());
        question.insert("out".into(), text_of(out)?.into());
        question.insert("settings".into(), self.settings.clone());
        if let Json::Object(more) = more {
            question.extend(more);
        }
        let doing = format!("working on {}", self.ctx.name());
        session.ask(self.ctx, &doing, question).await
    }

    /// The inspection of the scene with the job's settings.
    async fn inspection(&self, session: &mut Session) -> Result<Inspection, Failure> {
        read_as(self.looked_at(session).await?)
    }

    /// The same as the driver's raw answer.
    async fn looked_at(&self, session: &mut Session) -> Result<Map<String, Json>, Failure> {
        let question = json!({ "op": "inspect", "settings": self.settings });
        let Json::Object(question) = question else { unreachable!("written as an object") };
        let doing = format!("working on {}", self.ctx.name());
        session.ask(self.ctx, &doing, question).await
    }

    async fn store(&self, name: &str, path: &Path, stats: Stats) -> Result<Output, Failure> {
        if let Some(note) = stats.note() {
            self.ctx.note(note);
        }
        self.ctx.put(name, path).await
    }

    /// The only picture that the task reads, and its path.
    async fn image(&self) -> Result<(&Input, PathBuf), Failure> {
        let mut images = self.ctx.inputs.iter().filter(|input| input.output.name == "image");
        let (Some(input), None) = (images.next(), images.next()) else {
            let message = format!("{} needs exactly one picture as its input.", self.ctx.name());
            return Err(failure(FailureKind::Invalid, message));
        };
        Ok((input, self.ctx.input_path(input).await?))
    }

    /// The frame to work on: the job's, the dimension's, or the current one of the saved scene.
    fn frame(&self, session: &Session) -> i64 {
        self.settings["frame"].as_i64().unwrap_or(session.inspection.frame_current)
    }

    /// Whether frames have the scene's own size rather than one set by the job.
    fn has_own_size(&self) -> bool {
        let Scene { set, state, border, .. } = self.scene;
        set.is_empty() && state.is_none() && *border != Some(false)
    }

    /// The part of the frame that the task renders; `None` if the frame is not cut.
    async fn region(
        &self,
        session: &mut Session,
        render: &Render,
    ) -> Result<Option<Part>, Failure> {
        let Some(tiles) = &render.tiles else {
            return Ok(None);
        };
        let size = match self.scene.resolution {
            Some(size) => size,
            None if self.has_own_size() => session.inspection.size(),
            None => self.inspection(session).await?.size(),
        };
        let value = self.ctx.brief.space.value(self.ctx.task.index, &tiles.dim);
        let tile = value.as_ref().and_then(Value::number).and_then(|n| u32::try_from(n).ok());
        let found = tile.and_then(|tile| Some((tile, tiles.grid.rect(tile, size)?)));
        let (tile, rect) = found.ok_or_else(|| {
            let tile = value.map_or("(no such dimension)".into(), |value| value.to_string());
            let message = format!(
                "A frame of {size} pixels cut into {} tiles has no tile {tile} (`{}`).",
                tiles.grid, tiles.dim
            );
            failure(FailureKind::Invalid, message)
        })?;
        Ok(Some(Part { tile, rect, frame: size }))
    }
}

struct Part {
    tile: u32,
    rect: Rect,
    /// The size of the whole frame.
    frame: Resolution,
}

/// Turns a multilayer frame into what Blender's own file would contain, and writes it to `out`; or, if it is to be
/// split, writes the picture alone, and each pass into the folder of passes beside it. Returns the names of the passes.
fn assemble(
    raw: &Path,
    size: Resolution,
    finished: Option<Finished>,
    out: &Path,
    is_split: bool,
) -> Result<Vec<String>, Failure> {
    let mut frame = ExrImage::read(raw).map_err(exr_failure)?;
    if let Some(Finished { path, denoised, drop, .. }) = finished {
        let read = |path: PathBuf| {
            exr_image::check(&path, size).map(|(image, _)| image).map_err(exr_failure)
        };
        let denoised = denoised.into_iter().map(|(layer, path)| Ok((layer, read(path)?)));
        let denoised = denoised.collect::<Result<BTreeMap<_, _>, Failure>>()?;
        let composite = path.map(read).transpose()?;
        frame = frame.finished(&denoised, composite.as_ref(), &drop);
    }
    if !is_split {
        frame.write(out).map_err(exr_failure)?;
        return Ok(Vec::new());
    }
    let (picture, passes) = frame.split();
    let picture = picture.ok_or_else(|| {
        let message = format!("{} has no picture among its passes.", raw.display());
        failure(FailureKind::BadOutput, message)
    })?;
    picture.write(out).map_err(exr_failure)?;
    let folder = out.with_file_name(PASSES);
    std::fs::create_dir_all(&folder).map_err(|error| {
        storage_failure(&format!("The folder {} cannot be made", folder.display()), &error)
    })?;
    let mut names = Vec::with_capacity(passes.len());
    for (name, pass) in passes {
        let file = format!("{}.exr", plain_name(&name));
        pass.write(&folder.join(&file)).map_err(exr_failure)?;
        names.push(file);
    }
    Ok(names)
}

/// A name from the scene, which is not trusted, turned into a file name.
fn plain_name(name: &str) -> String {
    let plain = |c: char| if c.is_alphanumeric() || "._-".contains(c) { c } else { '_' };
    name.chars().map(plain).collect()
}

/// Checks a render and crops it if it contains more than was wanted (adaptive sampling depends on neighbours). Both
/// rectangles are in pixels of the whole frame.
async fn check_and_cut(path: &Path, holds: Rect, wanted: Rect) -> Result<Stats, Failure> {
    let path = path.to_owned();
    blocking(move || {
        let inside = holds.x0 <= wanted.x0
            && holds.y0 <= wanted.y0
            && holds.x1 >= wanted.x1
            && holds.y1 >= wanted.y1;
        if !inside {
            let message = format!("Blender rendered {holds:?}, and {wanted:?} was wanted.");
            return Err(failure(FailureKind::BadOutput, message));
        }
        let size = Resolution { width: holds.x1 - holds.x0, height: holds.y1 - holds.y0 };
        let (image, stats) = exr_image::check(&path, size).map_err(exr_failure)?;
        if holds == wanted {
            return Ok(stats);
        }
        let part = image.cut(Rect {
            x0: wanted.x0 - holds.x0,
            y0: wanted.y0 - holds.y0,
            x1: wanted.x1 - holds.x0,
            y1: wanted.y1 - holds.y0,
        });
        part.write(&path).map_err(exr_failure)?;
        Ok(part.stats())
    })
    .await
}

/// Runs work on pixels off the threads that wait for messages.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| {
        Err(failure(FailureKind::Failed, format!("Checking a picture failed: {panic}.")))
    })
}
