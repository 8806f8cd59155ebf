//! One cell of the matrix: a feature, rendered by pictor with one Blender, compared with that Blender's own picture.

use crate::build::{Build, Feature};
use crate::picture::difference;
use crate::support::{Running, Said, TestDir, files};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// EEVEE compiles its shaders for minutes if the processors have to do it and are busy.
const LIMIT: Duration = Duration::from_mins(10);

/// The result of a comparison.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Cell {
    /// The pictures are the same.
    Same,
    /// Refused before anything was rendered, with this message.
    Refused(String),
    /// The pictures differ, and this note of the run says so.
    Noted(String),
    /// This Blender does not have the feature, for this reason.
    Absent(String),
    /// Anything else, which is an error of pictor.
    Wrong(String),
}

impl Cell {
    /// Stores the result beside its scene.
    pub(crate) fn keep(&self, dir: &Path) {
        std::fs::write(dir.join("cell.json"), serde_json::to_string(self).unwrap()).unwrap();
    }

    /// The stored result of this or an earlier run. Returns `None` if the scene has changed since.
    pub(crate) fn kept(dir: &Path) -> Option<Self> {
        let text = std::fs::read_to_string(dir.join("cell.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Refused(_) => "refused",
            Self::Noted(_) => "noted",
            Self::Absent(_) => "–",
            Self::Wrong(_) => "DIFFERENT",
        }
    }

    pub(crate) fn words(&self) -> &str {
        match self {
            Self::Same => "",
            Self::Refused(words)
            | Self::Noted(words)
            | Self::Absent(words)
            | Self::Wrong(words) => words,
        }
    }

    pub(crate) fn is_wrong(&self) -> bool {
        matches!(self, Self::Wrong(_))
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = self.words();
        write!(f, "{}{}{words}", self.kind(), if words.is_empty() { "" } else { ": " })
    }
}

/// Renders the scene with pictor and compares the pictures.
pub(crate) fn of(build: &Build, feature: &Feature) -> Cell {
    if let Some(why) = &feature.absent {
        return Cell::Absent(why.clone());
    }
    if let Some(why) = &feature.broken {
        return Cell::Wrong(format!("the scene cannot be built: {why}"));
    }
    let kinds = feature.kinds();
    // A job delivers its frames in one format; a scene may be compared in several.
    let mut jobs = vec![if kinds.contains(&"layers") { "exr_multilayer" } else { "exr" }];
    if kinds.contains(&"layers") && kinds.contains(&"exr") {
        jobs.push("exr");
    }
    let mut cells = jobs.iter().map(|format| one(build, feature, format));
    let first = cells.next().expect("there is a job");
    cells.fold(first, |cell, next| if cell == Cell::Same { next } else { cell })
}

fn one(build: &Build, feature: &Feature, format: &str) -> Cell {
    let dir = TestDir::new();
    dir.write("job.yaml", &job(feature, format).to_string());
    let data = dir.path(feature.data.as_deref().unwrap_or("data"));
    let pictor = |arguments: &[&str]| {
        let mut command = dir.command(arguments);
        command.env("PICTOR_DATA", &data);
        if arguments[0] == "run" {
            command.arg("--blender").arg(&build.program);
        }
        Running::start(&mut command).within(LIMIT).finish()
    };
    let said = pictor(&["run", "job.yaml", "--out", "out", "--slots", "1"]);
    let Some(run) = run_id(&said) else { return Cell::Wrong(said.to_string()) };
    let shown = pictor(&["show", &run, "--json"]);
    let shown: Json = serde_json::from_str(&shown.out).unwrap_or_else(|e| panic!("{e}\n{shown}"));
    if said.code != Some(0) {
        return failed(&shown, &said);
    }
    if feature.refused {
        return Cell::Wrong("rendered, and it should be refused".into());
    }
    let different = differences(feature, &dir);
    let notes = shown["notes"].as_array().unwrap().iter();
    let notes: Vec<&str> = notes.map(|note| note["text"].as_str().unwrap()).collect();
    let Some(words) = &feature.note else {
        let said = || format!("{} (notes: {notes:?})", different.join("; "));
        return if different.is_empty() { Cell::Same } else { Cell::Wrong(said()) };
    };
    // Not any note will do: it must be the one about this difference.
    match notes.iter().find(|note| note.contains(words)) {
        Some(note) if said.out.contains(*note) => Cell::Noted((*note).to_owned()),
        Some(_) => Cell::Wrong(format!("`run` does not say what `show` does: {notes:?}")),
        None => {
            Cell::Wrong(format!("no note has `{words}` in it: {notes:?} {}", different.join("; ")))
        }
    }
}

/// The job as JSON, which is also YAML.
fn job(feature: &Feature, format: &str) -> Json {
    let mut output = Map::new();
    output.insert("format".into(), format.into());
    if feature.kinds().contains(&"png") {
        output.insert("preview".into(), "png".into());
    }
    if feature.rate.is_some() {
        output.insert("video".into(), "video.mp4".into());
    }
    output.extend(feature.output.clone());
    let mut render = Map::new();
    render.insert("scene".into(), feature.dir.join("scene.blend").to_str().into());
    render.insert("frames".into(), feature.frames.as_deref().unwrap_or("1").into());
    render.insert("tiles".into(), feature.tiles.as_deref().unwrap_or("2x2").into());
    render.insert("output".into(), output.into());
    render.extend(feature.render.clone());
    let mut job =
        json!({ "pictor": "v1", "name": "matrix", "render": render, "retry": { "attempts": 1 } });
    if let Some(order) = &feature.order {
        job["order"] = order.as_str().into();
    }
    job
}

fn run_id(said: &Said) -> Option<String> {
    let first = said.out.lines().find_map(|line| line.split_once(": results land in"));
    first.map(|(run, _)| run.to_owned())
}

/// The result of a failed run: it was refused if only `inspect` did anything.
fn failed(shown: &Json, said: &Said) -> Cell {
    let failures = shown["failures"].as_array().unwrap();
    let Some(failure) = failures.first() else { return Cell::Wrong(said.to_string()) };
    let words = failure["reason"].as_str().unwrap().to_owned();
    let steps = shown["steps"].as_array().unwrap().iter();
    let rendered = steps.filter(|step| step["kind"] != "inspect").any(|step| {
        let count = |state| step["tasks"][state].as_u64() > Some(0);
        count("succeeded") || count("failed")
    });
    if rendered { Cell::Wrong(format!("failed: {words}")) } else { Cell::Refused(words) }
}

/// The differences from plain Blender's pictures, one sentence each.
fn differences(feature: &Feature, dir: &TestDir) -> Vec<String> {
    let plain = feature.dir.join("plain");
    if let Ok(words) = std::fs::read_to_string(plain.join("failed")) {
        return vec![format!("Blender itself fails: {words}")];
    }
    let mut found = Vec::new();
    if !feature.kinds().is_empty() && !plain.join("done").exists() {
        found.push("Blender itself crashes".into());
    }
    for kind in feature.kinds() {
        let (theirs, linear) = (pictures(&plain.join(kind)), !matches!(kind, "png" | "own"));
        let ours = pictures(&dir.path(match kind {
            "png" | "own" => "out/previews",
            "files" => "out/files",
            _ => "out/frames",
        }));
        let within = if linear { feature.within } else { feature.levels.into() };
        let compared = theirs.iter().map(|(name, path)| match ours.get(name) {
            Some(made) => {
                difference(made, path, within).map(|words| format!("{kind} {name}: {words}"))
            }
            None => Some(format!("{kind}: no {name}")),
        });
        found.extend(compared.flatten());
        if theirs.is_empty() {
            found.push(format!("{kind}: Blender itself writes nothing"));
        }
    }
    if let Some(rate) = &feature.rate {
        let made = rate_of(&dir.path("out/video.mp4"));
        found.extend(
            (made != *rate).then(|| format!("a video of {made} frames a second, not {rate}")),
        );
    }
    found
}

/// The pictures of a folder by the file name that Blender gives a frame, without the zeros before its number: pictor
/// puts views into folders, Blender appends them to the name.
fn pictures(folder: &Path) -> BTreeMap<String, PathBuf> {
    let names = files(folder).into_keys().map(|path| {
        // Each File Output node has a folder of its own.
        let name = match path.rsplit_once('/') {
            Some(("left", name)) => name.replace('.', "_L."),
            Some(("right", name)) => name.replace('.', "_R."),
            Some((_, name)) => name.to_owned(),
            None => path.clone(),
        };
        let end = name.find(|c: char| !c.is_ascii_digit() && c != '-').unwrap_or(name.len());
        let number = name[..end].parse::<i64>().map_or(name[..end].to_owned(), |n| n.to_string());
        let ending = name[end..].replace(".jpeg", ".jpg").replace(".tiff", ".tif");
        (format!("{number}{ending}"), folder.join(path))
    });
    names.collect()
}

/// The frame rate of a video, as ffprobe prints it.
fn rate_of(path: &Path) -> String {
    let probe = std::process::Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-of", "csv=p=0"])
        .args(["-show_entries", "stream=r_frame_rate"])
        .arg(path)
        .output()
        .unwrap();
    String::from_utf8(probe.stdout).unwrap().trim().to_owned()
}
