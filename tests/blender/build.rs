//! The Blenders under test, the scenes that each of them builds, and the pictures that it renders of them by itself.

use crate::support::{Running, lock, root};
use serde::Deserialize;
use serde_json::{Map, Value as Json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// One installed Blender.
pub(crate) struct Build {
    /// Version number, such as `4.5.15`.
    pub(crate) version: String,
    pub(crate) program: PathBuf,
}

/// A scene that shows one feature, as `scenes/stage.py` describes it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Feature {
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) group: String,
    pub(crate) number: u32,
    pub(crate) digest: String,
    pub(crate) short: u8,
    pub(crate) frames: Option<String>,
    pub(crate) run: bool,
    pub(crate) bake: bool,
    pub(crate) compare: Option<Vec<String>>,
    pub(crate) within: f32,
    pub(crate) levels: u8,
    pub(crate) why: String,
    pub(crate) tiles: Option<String>,
    pub(crate) order: Option<String>,
    pub(crate) data: Option<String>,
    pub(crate) output: Map<String, Json>,
    pub(crate) render: Map<String, Json>,
    pub(crate) note: Option<String>,
    pub(crate) refused: bool,
    pub(crate) rate: Option<String>,
    /// Why this version does not have the feature, if so.
    pub(crate) absent: Option<String>,
    /// Why its script failed, if it did.
    pub(crate) broken: Option<String>,
    /// Folder of its scene and its pictures.
    #[serde(skip)]
    pub(crate) dir: PathBuf,
}

impl Build {
    /// The Blender in `PATH`: on Debian, the distribution's.
    pub(crate) fn in_path() -> Self {
        let said = Running::start(Command::new("blender").arg("--version")).finish();
        let first = said.out.lines().find_map(|line| line.strip_prefix("Blender "));
        let version = first.and_then(|line| line.split(' ').next());
        let version = version.unwrap_or_else(|| panic!("no Blender in PATH:\n{said}"));
        let folders = std::env::var_os("PATH").unwrap();
        let mut programs = std::env::split_paths(&folders).map(|folder| folder.join("blender"));
        let program = programs.find(|program| program.exists()).expect("it has just been run");
        Self { version: version.into(), program }
    }

    /// A Blender that `make blenders` installed, if it exists for this machine's Python.
    pub(crate) fn installed(version: &str) -> Option<Self> {
        let found = installed().into_iter().find(|build| build.version.starts_with(version));
        if found.is_none() {
            eprintln!("left out: there is no Blender {version}; `make blenders` installs it");
        }
        found
    }

    /// All Blenders, from the oldest to the newest.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = installed();
        assert!(!all.is_empty(), "only one Blender: `make blenders` installs more");
        all.push(Self::in_path());
        all.sort_by_key(|build| {
            let numbers = build.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
            numbers.collect::<Vec<_>>()
        });
        all
    }

    /// The scenes whose `short` is at least `level`, with the pictures that plain Blender renders of them. Both are
    /// made if they are missing or their scripts have changed.
    pub(crate) fn features(&self, level: u8) -> Vec<Feature> {
        let folder = self.folder();
        std::fs::create_dir_all(&folder).unwrap();
        let _lock = lock(&folder);
        let only = std::env::var("PICTOR_FEATURES").unwrap_or_default();
        let only: Vec<&str> = only.split(',').filter(|name| !name.is_empty()).collect();
        let level_text = level.to_string();
        self.script("build.py", &folder, &[&[level_text.as_str()], only.as_slice()].concat());
        // When Blender crashes twice on a scene, that scene is left begun and not done.
        while !self.script("plain.py", &folder, &[]) {}
        let mut features = self.built();
        features.retain(|feature| {
            let name = feature.name.as_str();
            if only.is_empty() { feature.short >= level } else { only.contains(&name) }
        });
        features
    }

    /// The scenes that have been built, in order.
    pub(crate) fn built(&self) -> Vec<Feature> {
        let mut features = Vec::new();
        for entry in std::fs::read_dir(self.folder()).into_iter().flatten() {
            let dir = entry.unwrap().path();
            let Ok(text) = std::fs::read_to_string(dir.join("feature.json")) else { continue };
            features.push(Feature { dir, ..serde_json::from_str(&text).unwrap() });
        }
        features.sort_by_key(|feature| feature.number);
        features
    }

    fn folder(&self) -> PathBuf {
        Path::new(env!("CARGO_TARGET_TMPDIR")).join("matrix").join(&self.version)
    }

    /// Whether `PICTOR_BLENDERS` names it, or is not set.
    pub(crate) fn is_wanted(&self) -> bool {
        let only = std::env::var("PICTOR_BLENDERS").unwrap_or_default();
        only.is_empty() || only.split(',').any(|version| self.version.starts_with(version))
    }

    /// Runs a script in Blender. Returns whether it came to its end.
    fn script(&self, name: &str, folder: &Path, more: &[&str]) -> bool {
        let mut blender = Command::new(&self.program);
        blender.args([
            "-b",
            "--factory-startup",
            "-Y",
            "-noaudio",
            "--python-exit-code",
            "1",
            "-P",
        ]);
        blender.arg(root().join("tests/blender/scenes").join(name)).arg("--").arg(folder);
        blender.args(more).env_remove("DISPLAY");
        blender.env("PYTHONDONTWRITEBYTECODE", "1");
        let log = folder.join(name).with_extension("log");
        let file = std::fs::File::create(&log).unwrap();
        blender.stdout(file.try_clone().unwrap()).stderr(file);
        let status = blender.status().unwrap();
        let is_ours = status.code() == Some(1);
        assert!(!is_ours, "{name} of Blender {}: {}", self.version, log.display());
        status.success()
    }
}

fn installed() -> Vec<Build> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("blenders");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let builds = entries.filter(|entry| entry.path().join("blender").exists()).map(|entry| Build {
        version: entry.file_name().into_string().unwrap(),
        program: entry.path().join("blender"),
    });
    builds.collect()
}

impl Feature {
    /// The kinds of plain Blender's pictures that are compared.
    pub(crate) fn kinds(&self) -> Vec<&str> {
        match &self.compare {
            Some(kinds) => kinds.iter().map(String::as_str).collect(),
            None => vec!["exr", "png"],
        }
    }
}
