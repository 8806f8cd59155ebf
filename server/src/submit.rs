//! From a job file to a run: read, compile, hash the files that it names.

use pictor_engine::{Plan, compile};
use pictor_storage::NewRun;
use pictor_storage::artifacts::digest_file;
use pictor_tasks::job::spec::JobSpec;
use pictor_tasks::job::{Diagnostic, Source, parse};
use pictor_tasks::message::{FileRef, RunId};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Why a job cannot be submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The job file has mistakes; the text shows each with its line.
    #[error("{0}")]
    Invalid(String),
    /// The job file cannot be read.
    #[error("read the job file {}: {source}", path.display())]
    Unreadable {
        /// The job file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// A job that was read and compiled.
#[derive(Debug)]
pub struct Job {
    /// The job file as written.
    pub source: Source,
    /// What it says.
    pub spec: JobSpec,
    /// What it compiles to.
    pub plan: Plan,
}

/// Reads and compiles a job file. With `hash` the files that it names must exist and are hashed.
pub async fn read_job(
    path: &Path,
    overrides: &[(String, String)],
    hash: bool,
) -> Result<Job, SubmitError> {
    let text = tokio::fs::read_to_string(path)
        .await
        .map_err(|source| SubmitError::Unreadable { path: path.into(), source })?;
    let source = Source { name: path.display().to_string(), text };
    let parsed = parse(&source, overrides).map_err(|e| SubmitError::Invalid(e.render(&source)))?;
    let invalid =
        |problems: &[Diagnostic]| SubmitError::Invalid(parsed.source_map.render(&source, problems));
    let mut plan = compile(&parsed.spec).map_err(|problems| invalid(&problems))?;
    let folder = path.canonicalize().ok().and_then(|p| p.parent().map(Path::to_path_buf));
    let folder = folder.unwrap_or_default();
    plan.folder = folder.display().to_string();
    let mut problems = Vec::new();
    for (place, name) in scenes(&parsed.spec) {
        if plan.files.contains_key(&name) {
            continue;
        }
        match file(&folder, &name, hash).await {
            Ok(file) => drop(plan.files.insert(name, file)),
            Err(message) => problems.push(
                Diagnostic::new(place, message)
                    .with_hint(Some("paths are relative to the folder of the job file".into())),
            ),
        }
    }
    if problems.is_empty() {
        let spec = parsed.spec;
        Ok(Job { source, spec, plan })
    } else {
        Err(invalid(&problems))
    }
}

/// The files that a job names, each with its place in the job.
fn scenes(spec: &JobSpec) -> Vec<(String, String)> {
    let mut scenes = Vec::new();
    scenes.extend(spec.render.as_ref().map(|r| ("render.scene".to_owned(), r.scene.clone())));
    for (i, step) in spec.steps.iter().enumerate() {
        let kinds = [
            ("inspect.scene", step.inspect.as_ref()),
            ("blender.scene.scene", step.blender.as_ref().map(|b| &b.scene)),
            ("finish.scene", step.finish.as_ref()),
            ("develop.scene.scene", step.develop.as_ref().map(|d| &d.scene)),
        ];
        for (field, scene) in kinds {
            scenes.extend(scene.map(|s| (format!("steps[{i}].{field}"), s.scene.clone())));
        }
    }
    scenes
}

async fn file(folder: &Path, name: &str, hash: bool) -> Result<FileRef, String> {
    if let Some((scheme, _)) = name.split_once("://") {
        return Err(format!("`{scheme}://` is not supported here; give a local file"));
    }
    let path = folder.join(name);
    let shown = path.display().to_string();
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

impl Job {
    /// The run to store. `salt` makes ids of runs differ that are submitted in one millisecond.
    pub fn new_run(&self, out_dir: &Path, now_ms: i64, salt: u64) -> NewRun {
        NewRun {
            id: run_id(&self.spec.name, now_ms, salt),
            name: self.spec.name.clone(),
            spec: self.source.text.clone(),
            source_name: self.source.name.clone(),
            plan: serde_json::to_string(&self.plan).expect("a plan is plain data"),
            fold_version: self.plan.fold_version,
            owner: std::env::var("USER").unwrap_or_default(),
            priority: self.plan.priority,
            created_ms: now_ms,
            out_dir: out_dir.display().to_string(),
        }
    }

    /// The tasks of each step, where they are known before the run.
    pub fn task_counts(&self) -> BTreeMap<String, Option<u32>> {
        let run = pictor_engine::Run::new(RunId("plan".into()), self.plan.clone().into());
        (0u16..)
            .zip(&self.plan.steps)
            .map(|(number, step)| (step.name.clone(), run.space(number).map(|s| s.len())))
            .collect()
    }
}

/// `turntable-3f9k2`: the job's name, so that people recognise it, and five letters that differ.
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
