//! From a job file to a run: parse, compile, hash the files that it names.

use crate::command_files::CommandFiles;
use crate::scenes::require_blenders;
use crate::sequence::Sequence;
use pictor_artifacts::Artifacts;
use pictor_artifacts::{asset_key, digest_file};
use pictor_engine::{Plan, RunLimits, compile, sizes};
use pictor_storage::NewRun;
use pictor_tasks::body::Body;
use pictor_tasks::job::spec::JobSpec;
use pictor_tasks::job::{Diagnostic, Source, field, parse};
use pictor_tasks::media::Media;
use pictor_tasks::message::{FileRef, RunId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

/// One error in a job file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line and column, counted from 1; `None` if the error is not at a place in the file.
    pub position: Option<(usize, usize)>,
    /// What is wrong, for people to read.
    pub message: String,
    /// How to correct it, if that is known.
    pub hint: Option<String>,
}

/// The errors in a job file: at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    /// The errors with the lines that they are on, for a terminal.
    pub text: String,
    /// The errors one by one.
    pub list: Vec<Mistake>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a job cannot be submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The job file has errors.
    #[error("{0}")]
    Invalid(Mistakes),
    /// The job names files that were not uploaded.
    #[error("{0}")]
    NotUploaded(Mistakes),
    /// The uploaded files cannot be looked up.
    #[error(transparent)]
    Store(#[from] pictor_storage::Error),
    /// The job file cannot be read.
    #[error("read the job file {}: {source}", path.display())]
    Unreadable {
        /// Path of the job file.
        path: PathBuf,
        /// The underlying error.
        source: std::io::Error,
    },
}

/// A job that was parsed and compiled without errors.
#[derive(Debug)]
pub struct CompiledJob {
    /// The job file as it was written.
    pub source: Source,
    /// The parsed job file.
    pub spec: JobSpec,
    /// The plan compiled from it.
    pub plan: Plan,
}

/// Where the files are that a job names.
#[derive(Clone, Copy, Debug)]
pub enum Files<'a> {
    /// On this machine: names are paths relative to this folder. The files must exist.
    Folder {
        /// Folder of the job file, as an absolute path.
        folder: &'a Path,
        /// Whether the files are hashed, so that tasks see exactly these bytes.
        hash: bool,
    },
    /// In artifact storage: the uploaded files by the name that the job uses, and the storage.
    Uploaded(&'a BTreeMap<String, FileRef>, &'a Artifacts),
}

/// Reads and compiles a job file. With `hash` the files that it names are hashed.
pub async fn read_job(
    path: &Path,
    overrides: &[(String, String)],
    hash: bool,
    limits: &RunLimits,
) -> Result<CompiledJob, SubmitError> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| SubmitError::Unreadable { path: path.into(), source })?;
    let source = Source { name: path.display().to_string(), text };
    let folder = path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_path_buf));
    let folder = folder.unwrap_or_default();
    compile_job(source, overrides, Files::Folder { folder: &folder, hash }, limits).await
}

/// Compiles the text of a job file. A job whose run would be larger than `limits` has an error.
pub async fn compile_job(
    source: Source,
    overrides: &[(String, String)],
    files: Files<'_>,
    limits: &RunLimits,
) -> Result<CompiledJob, SubmitError> {
    let parsed = parse(&source, overrides).map_err(|invalid| {
        let list = invalid.diagnostics().iter().zip(invalid.positions());
        let list = list.map(|(diagnostic, position)| Mistake::new(diagnostic, position)).collect();
        SubmitError::Invalid(Mistakes { text: invalid.render(&source), list })
    })?;
    let mistakes = |found: &[Diagnostic]| {
        let place = |d: &Diagnostic| Mistake::new(d, parsed.source_map.position(&d.path));
        let list = found.iter().map(place).collect();
        Mistakes { text: parsed.source_map.render(&source, found), list }
    };
    let compiled = compile(&parsed.spec);
    let mut plan = compiled.map_err(|found| SubmitError::Invalid(mistakes(&found)))?;
    limits.check(&plan).map_err(|large| {
        SubmitError::Invalid(mistakes(&[Diagnostic::new("dims".to_owned(), large)]))
    })?;
    if let Files::Folder { folder, .. } = files {
        plan.folder = folder.display().to_string();
    }
    let mut problems = Vec::new();
    if let Files::Uploaded(..) = files {
        let found = no_folder(&plan);
        if !found.is_empty() {
            return Err(SubmitError::Invalid(mistakes(&found)));
        }
    }
    let programs = program_files(&parsed.spec);
    for (place, name) in names(&parsed.spec).into_iter().chain(programs.clone()) {
        if plan.files.contains_key(&name) {
            continue;
        }
        let of_program = programs.contains(&(place.clone(), name.clone()));
        let (found, hint) = find(files, &name, of_program).await;
        match found {
            Ok(file) => drop(plan.files.insert(name, file)),
            Err(message) => {
                problems.push(Diagnostic::new(place, message).with_hint(Some(hint)));
            }
        }
    }
    if let Files::Folder { folder, .. } = files {
        problems.extend(frames_are_there(&parsed.spec, folder));
    }
    if problems.is_empty() {
        require_blenders(&mut plan, files).await;
        let spec = parsed.spec;
        return Ok(CompiledJob { source, spec, plan });
    }
    let mistakes = mistakes(&problems);
    Err(match files {
        Files::Folder { .. } => SubmitError::Invalid(mistakes),
        Files::Uploaded(..) => SubmitError::NotUploaded(mistakes),
    })
}

/// The file that a name in the job stands for, or why there is none; and what to do about that.
async fn find(files: Files<'_>, name: &str, of_program: bool) -> (Result<FileRef, String>, String) {
    match files {
        Files::Folder { folder, hash } => {
            let found = if of_program {
                CommandFiles::find(&folder.join(name)).map(|found| found.reference())
            } else {
                file(folder, name, hash).await
            };
            (found, "paths are relative to the folder of the job file".to_owned())
        }
        Files::Uploaded(files, _) => (
            files.get(name).cloned().ok_or_else(|| format!("`{name}` was not uploaded")),
            format!("upload it and name it in `assets`: {{\"{name}\": its BLAKE3 digest}}"),
        ),
    }
}

/// The error if an upscale of pictures on this machine names frames that do not exist.
fn frames_are_there(spec: &JobSpec, folder: &Path) -> Option<Diagnostic> {
    let upscale = spec.upscale.as_ref()?;
    let frames = upscale.frames.as_ref()?;
    matches!(Media::of(&upscale.input), Some(Media::Sequence(_))).then_some(())?;
    // A sequence without any pictures has been reported already.
    let found = Sequence::find(&folder.join(&upscale.input)).ok()?;
    Some(Diagnostic::new("upscale.frames", found.lacks(frames)?))
}

/// The uses of `{job.dir}` that mean nothing on a server, which has no folder of the job file but only the submitted
/// files.
fn no_folder(plan: &Plan) -> Vec<Diagnostic> {
    let message =
        "there is no folder of the job file on a server: `{job.dir}` holds what `files` names";
    let hint = "name what the step needs: `files: { script.sh: ./script.sh }`, at the job or the step; \
                `{job.dir}/script.sh` is then its path";
    let problem = |place| Diagnostic::new(place, message).with_hint(Some(hint.to_owned()));
    pictor_engine::uses_of_folder(plan).into_iter().map(problem).collect()
}

/// The uploaded files among those with these digests, by the name that a job uses.
pub(crate) async fn uploaded(
    artifacts: &Artifacts,
    digests: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, FileRef>, pictor_storage::Error> {
    let mut files = BTreeMap::new();
    for (name, digest) in digests {
        match artifacts.size(&asset_key(digest)).await {
            Ok(size_bytes) => {
                let (path, digest) = (name.clone(), digest.clone());
                files.insert(name.clone(), FileRef { path, digest, size_bytes });
            }
            Err(pictor_storage::Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}

impl Mistake {
    fn new(diagnostic: &Diagnostic, position: Option<(usize, usize)>) -> Self {
        let Diagnostic { message, hint, .. } = diagnostic.clone();
        Self { position, message, hint }
    }
}

/// The files that a job names, each with its path in the job file.
fn names(spec: &JobSpec) -> Vec<(String, String)> {
    let mut names = Vec::new();
    names.extend(spec.render.as_ref().map(|r| ("render.scene".to_owned(), r.scene.clone())));
    names.extend(spec.upscale.as_ref().map(|u| ("upscale.input".to_owned(), u.input.clone())));
    for (i, step) in spec.steps.iter().enumerate() {
        for body in step.work.bodies() {
            names.extend(
                body.files().map(|(field, name)| (format!("steps[{i}].{field}"), name.to_owned())),
            );
        }
    }
    names
}

/// The files of commands, each with its path in the job file.
fn program_files(spec: &JobSpec) -> Vec<(String, String)> {
    let of_steps = spec.steps.iter().enumerate();
    let of_steps = of_steps.map(|(i, step)| (format!("steps[{i}].files"), &step.files));
    let lists = std::iter::once(("files".to_owned(), &spec.files)).chain(of_steps);
    let places = |(at, files): (String, &BTreeMap<String, String>)| {
        let place = |(key, name): (&String, &String)| (field(&at, key), name.clone());
        files.iter().map(place).collect::<Vec<_>>()
    };
    lists.flat_map(places).collect()
}

async fn file(folder: &Path, name: &str, hash: bool) -> Result<FileRef, String> {
    if let Some((scheme, _)) = name.split_once("://") {
        return Err(format!("`{scheme}://` is not supported here; give a local file"));
    }
    let path = folder.join(name);
    let shown = path.display().to_string();
    if let Some(Media::Sequence(_)) = Media::of(name) {
        return Sequence::find(&path).map(|found| found.reference(&path));
    }
    if !path.is_file() {
        let what = if path.is_dir() { "is a folder, not a file" } else { "does not exist" };
        return Err(format!("the file {shown} {what}"));
    }
    if !hash {
        return Ok(FileRef { path: shown, digest: String::new(), size_bytes: 0 });
    }
    let stored = digest_file(&path).await.map_err(|error| error.to_string())?;
    Ok(FileRef { path: shown, digest: stored.digest, size_bytes: stored.size_bytes })
}

/// The files that only commands read, by the names in the job.
pub fn files_of_commands(plan: &Plan) -> BTreeSet<&str> {
    let bodies = || plan.steps.iter().map(|step| &step.body);
    let others: BTreeSet<&str> = bodies()
        .filter_map(|body| body.scene().map(|s| &*s.scene).or_else(|| body.source()))
        .collect();
    let commands = bodies().filter_map(|body| match body {
        Body::Command(command) => Some(command.files.values()),
        _ => None,
    });
    commands.flatten().map(String::as_str).filter(|name| !others.contains(name)).collect()
}

impl CompiledJob {
    /// The run to store, for the user of this machine. `salt` distinguishes the ids of runs that are submitted in one
    /// millisecond.
    pub fn new_run(&self, out_dir: &Path, now_ms: i64, salt: u64) -> NewRun {
        let account = std::env::var("USER").unwrap_or_default();
        self.run_of(&account, out_dir, now_ms, salt)
    }

    /// The run to store, for an account.
    pub fn run_of(&self, account: &str, out_dir: &Path, now_ms: i64, salt: u64) -> NewRun {
        NewRun {
            id: run_id(&self.spec.name, now_ms, salt),
            name: self.spec.name.clone(),
            spec: self.source.text.clone(),
            source_name: self.source.name.clone(),
            plan: serde_json::to_string(&self.plan).expect("a plan is plain data"),
            fold_version: self.plan.fold_version,
            account: account.to_owned(),
            priority: self.plan.priority,
            created_ms: now_ms,
            out_dir: out_dir.display().to_string(),
        }
    }

    /// The number of tasks of each step, where it is known before the run.
    pub fn task_counts(&self) -> BTreeMap<String, Option<u32>> {
        let names = self.plan.steps.iter().map(|step| step.name.clone());
        names.zip(sizes(&self.plan)).collect()
    }
}

/// `turntable-3f9k2`: the job's name, to be recognised, and five letters that make it unique.
fn run_id(name: &str, now_ms: i64, salt: u64) -> RunId {
    let plain: String = name
        .to_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .take(32)
        .collect();
    let plain = plain.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-");
    let mut number = now_ms.unsigned_abs().wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt;
    number ^= number >> 29;
    let letters: String = number
        .to_le_bytes()
        .into_iter()
        .take(6)
        .map(|byte| char::from(b"0123456789abcdefghjkmnpqrstvwxyz"[usize::from(byte & 31)]))
        .collect();
    RunId(if plain.is_empty() { letters } else { format!("{plain}-{letters}") }.into())
}
