//! `pictor submit`: checks the job on this machine, packs the files that its scenes need and the pictures of its
//! sequences, uploads what the server lacks, and submits the job.

use crate::blenders::BlenderArgs;
use crate::client::connection::{Call, Connection, RequestError, as_json};
use crate::client::digests::Digests;
use crate::client::ledger::Ledger;
use crate::client::pack::{self, Layout};
use crate::client::upload::{self, Assets, Sent, Source};
use crate::client::{SubmitArgs, bar, wait};
use crate::results::is_free;
use crate::terminal::{complain, explain, say, table};
use crate::{FAILED, INVALID, SUCCEEDED};
use anyhow::Context;
use indicatif::ProgressBar;
use pictor_api::{Code, JobBody, PlanSummary, Submission, Submitted, Worker};
use pictor_engine::{Plan, Run, RunLimits};
use pictor_executor::software;
use pictor_net::random;
use pictor_server::{
    CompiledJob, Destination, Sequence, Sources, SubmitError, files_of_commands, read_job,
};
use pictor_tasks::body::Body;
use pictor_tasks::media::Media;
use pictor_tasks::message::RunId;
use pictor_tasks::worker::{BLENDER, Blender, Inventory, version_fits};
use reqwest::Method;
use reqwest::header::HeaderName;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most missing files that are named.
const NAMED: usize = 20;
/// Most workers that are examined.
const WORKERS: usize = 10_000;

/// A job that is ready to be submitted.
pub(crate) struct Prepared {
    /// The job, compiled without errors.
    pub(crate) job: CompiledJob,
    /// For each scene and source, by its name in the job, the digest of its list of files.
    pub(crate) names: BTreeMap<String, String>,
    /// All files that the server must have.
    pub(crate) assets: Assets,
    /// The files on this machine that are read for the job.
    pub(crate) read: BTreeSet<PathBuf>,
}

/// Compiles a job, asks Blender which files its scenes need, and computes digests. Returns `None` if the job has
/// errors, which have been reported.
pub(crate) async fn prepare(
    data: &Path,
    path: &Path,
    set: &[(String, String)],
    allow_missing: bool,
    blender: &BlenderArgs,
) -> anyhow::Result<Option<Prepared>> {
    // The server decides how large a run may be.
    let any = RunLimits { tasks: u64::MAX, memory_bytes: u64::MAX };
    let job = match read_job(path, set, false, &any).await {
        Ok(job) => job,
        Err(SubmitError::Invalid(mistakes)) => {
            explain(mistakes.text.trim_end());
            return Ok(None);
        }
        Err(error) => {
            complain(&error.to_string());
            return Ok(None);
        }
    };
    let layouts = lay_out(&job.plan, data, blender).await?;
    if !tell_missing(&job, &layouts, allow_missing) {
        return Ok(None);
    }
    let read: BTreeSet<_> = layouts.values().flat_map(Layout::sources).collect();
    let (names, assets) = take_digests(&layouts, &read, data)?;
    Ok(Some(Prepared { job, names, assets, read }))
}

/// `pictor submit`: submits a job, and waits for it if asked to.
pub(crate) async fn submit(
    server: &Connection,
    data: &Path,
    mut args: SubmitArgs,
    json: bool,
) -> anyhow::Result<u8> {
    args.set.extend(args.priority.map(|priority| ("priority".to_owned(), priority.to_string())));
    let prepared = prepare(data, &args.job, &args.set, args.allow_missing, &args.blender).await?;
    let Some(prepared) = prepared else { return Ok(INVALID) };
    let destination = destination(&prepared, &args)?;
    if let Some(destination) = &destination {
        let run = Run::new(RunId("new".into()), Arc::new(prepared.job.plan.clone()));
        if !is_free(&run, |_| true, destination, None).await? {
            return Ok(FAILED);
        }
    }
    warn_of_blenders(server, &prepared.job).await;
    if !args.dry_run {
        send(server, &prepared.assets, json).await?;
    }
    let answer = match hand_in(server, &prepared, &args).await {
        Err(RequestError::Refused(refused)) if refused.problem.is(Code::InvalidJob) => {
            explain(refused.problem.detail.trim_end());
            return Ok(INVALID);
        }
        answer => answer?,
    };
    answer.notes.iter().for_each(|note| explain(&format!("warning: {note}")));
    if let Some(plan) = answer.plan {
        let text = if json { serde_json::to_string(&plan)? } else { dry_run(&prepared, &plan) };
        say(&text);
        return Ok(SUCCEEDED);
    }
    let run = answer.run.ok_or_else(|| server.garbled("an answer without the run".into()))?;
    let id = RunId(run.id.as_str().into());
    let sent = prepared.read.iter().map(PathBuf::as_path);
    if let Err(error) = Ledger::open(data, &id.0).sent(sent) {
        tracing::warn!(%error, "which files were sent is not remembered in {}", data.display());
    }
    if args.wait {
        return wait::wait(server, &id, destination.as_ref(), data, json).await;
    }
    if json {
        say(&serde_json::to_string(&run)?);
    } else {
        say(&format!("{id}: submitted to {}", server.server()));
        say(&format!("how it goes: pictor show {id} --watch   results: pictor download {id}"));
    }
    Ok(SUCCEEDED)
}

/// The folder for results, with what they must not replace there: any uploaded file, and the job file.
fn destination(prepared: &Prepared, args: &SubmitArgs) -> anyhow::Result<Option<Destination>> {
    let Some(out) = &args.out else { return Ok(None) };
    let folder = std::path::absolute(out).context("the output folder")?;
    let mut sources = Sources::named(&prepared.job.plan, &args.job);
    sources.extend(prepared.read.iter().cloned());
    Ok(Some(Destination { folder, sources, overwrite: args.overwrite }))
}

/// The files that each scene and each source of pictures of a job needs, by its name in the job.
pub(crate) async fn lay_out(
    plan: &Plan,
    data: &Path,
    blender: &BlenderArgs,
) -> anyhow::Result<BTreeMap<String, Layout>> {
    let scenes: BTreeSet<&str> =
        plan.steps.iter().filter_map(|step| step.body.scene()).map(|s| &*s.scene).collect();
    let mut layouts = BTreeMap::new();
    let cache = crate::cache();
    let blenders = if scenes.is_empty() {
        Vec::new()
    } else {
        software::blenders(&blender.programs(None, data)?, cache.as_deref()).await
    };
    let of_commands = files_of_commands(plan);
    for (name, file) in &plan.files {
        if of_commands.contains(&**name) {
            layouts.insert(name.clone(), pack::command_files(Path::new(&file.path))?);
            continue;
        }
        if !scenes.contains(&**name) {
            layouts.insert(name.clone(), source(plan, name, Path::new(&file.path))?);
            continue;
        }
        let bar = bar::spinner(format!("asking Blender what {name} needs"));
        let scene = Path::new(&file.path);
        let layout = if let Some(program) = chosen(plan, name, &blenders)? {
            pack::lay_out(scene, Path::new(&program.path), cache.as_deref()).await?
        } else {
            let mut alone = pack::alone(scene)?;
            alone.missing.push(format!(
                "{name}: Blender is not in PATH, so nobody can tell which files it needs"
            ));
            alone
        };
        bar.finish_and_clear();
        layouts.insert(name.clone(), layout);
    }
    Ok(layouts)
}

/// A picture, a video, or the pictures of a sequence: those of the frames to be processed.
fn source(plan: &Plan, name: &str, path: &Path) -> anyhow::Result<Layout> {
    if !matches!(Media::of(name), Some(Media::Sequence(_))) {
        return pack::alone(path);
    }
    let mut found = Sequence::find(path).map_err(anyhow::Error::msg)?;
    let probes = plan.steps.iter().filter_map(|step| match &step.body {
        Body::Probe(probe) if probe.source == name => Some(probe.frames.as_ref()),
        _ => None,
    });
    if let [Some(frames)] = probes.collect::<Vec<_>>()[..] {
        found = found.only(frames);
    }
    Ok(pack::pictures(&found))
}

/// The oldest Blender of this machine that the steps with a scene permit. Returns `None` if there is no Blender at all.
fn chosen<'a>(
    plan: &Plan,
    scene: &str,
    blenders: &'a [Blender],
) -> anyhow::Result<Option<&'a Blender>> {
    let wanted = blender_for(plan, scene);
    let fits = |blender: &&Blender| version_fits(wanted, &blender.version);
    let found = blenders.iter().find(fits);
    anyhow::ensure!(
        found.is_some() || blenders.is_empty(),
        "{scene} needs blender {wanted}, and here is {}: get one that fits with `pictor setup-blender`, or \
         name one with --blender PATH",
        blenders.iter().map(|b| &*b.version).collect::<Vec<_>>().join(", ")
    );
    Ok(found)
}

/// The versions of Blender that the steps with a scene require. They include the one that saved it.
fn blender_for<'a>(plan: &'a Plan, scene: &str) -> &'a str {
    let steps = plan.steps.iter();
    let mut steps = steps.filter(|step| step.body.scene().is_some_and(|s| s.scene == scene));
    let wanted = steps.find_map(|step| step.requires.software.get(BLENDER));
    wanted.map_or("*", String::as_str)
}

/// Warns of scenes that no current worker of the farm can read. Users who may not see the workers learn it from the
/// waiting run.
async fn warn_of_blenders(server: &Connection, job: &CompiledJob) {
    let Ok(workers) = server.list::<Worker>(&["workers"], &[], WORKERS).await else { return };
    let has: Vec<Inventory> = workers.into_iter().map(|w| w.inventory).collect();
    let scenes: BTreeSet<&str> =
        job.plan.steps.iter().filter_map(|step| step.body.scene()).map(|s| &*s.scene).collect();
    for scene in scenes {
        let wanted = blender_for(&job.plan, scene);
        let mut versions = has.iter().flat_map(|has| has.versions(BLENDER));
        if !has.is_empty() && !versions.any(|version| version_fits(wanted, version)) {
            explain(&format!(
                "warning: {scene} needs blender {wanted}, and no worker of this farm has one: the run \
                 waits until one joins"
            ));
        }
    }
}

/// Reports missing files. Returns `false` if the job must not be submitted without them.
fn tell_missing(job: &CompiledJob, layouts: &BTreeMap<String, Layout>, allowed: bool) -> bool {
    let mut stops = false;
    for (name, layout) in layouts {
        layout.notes.iter().take(NAMED).for_each(|note| explain(&format!("note: {note}")));
        let tolerated = allowed || tolerates(job, name);
        stops |= !tolerated && !layout.missing.is_empty();
        let tell = |line: &str| {
            if tolerated { explain(&format!("warning: {line}")) } else { complain(line) }
        };
        layout.missing.iter().take(NAMED).for_each(|line| tell(line));
        let more = layout.missing.len().saturating_sub(NAMED);
        if more > 0 {
            tell(&format!("and {more} more files are not there"));
        }
    }
    if stops {
        complain(
            "the pictures would lack what is missing; make the paths right in Blender, or submit \
             all the same with --allow-missing",
        );
    }
    !stops
}

/// Whether the job itself permits that files of a scene are missing.
fn tolerates(job: &CompiledJob, name: &str) -> bool {
    let bodies = job.plan.steps.iter().filter_map(|step| step.body.scene());
    let mut scenes = bodies.filter(|scene| scene.scene == name).peekable();
    scenes.peek().is_some() && scenes.all(|scene| scene.allow_missing)
}

/// The digest of each scene's or source's list of files, and all files that the server must have.
fn take_digests(
    layouts: &BTreeMap<String, Layout>,
    paths: &BTreeSet<PathBuf>,
    data: &Path,
) -> anyhow::Result<(BTreeMap<String, String>, Assets)> {
    let size = |path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    let bar = bar::bytes("reading", paths.iter().map(size).sum());
    bar.set_message(format!("{} files", paths.len()));
    let mut known = Digests::open(data);
    let digests = tokio::task::block_in_place(|| known.of(paths, &|bytes| bar.inc(bytes)))?;
    known.save();
    bar.finish_and_clear();
    let (mut names, mut assets) = (BTreeMap::new(), Assets::new());
    for (name, layout) in layouts {
        let pack = layout.pack(&digests).with_context(|| format!("pack {name}"))?;
        let size = pack.manifest.len() as u64;
        assets.insert(pack.digest.clone(), (Source::Bytes(pack.manifest.into()), size));
        let files = pack.files.into_iter();
        assets.extend(files.map(|(digest, (path, size))| (digest, (Source::File(path), size))));
        names.insert(name.clone(), pack.digest);
    }
    Ok((names, assets))
}

/// Uploads the files that the server lacks, and reports how many there were.
pub(crate) async fn send(server: &Connection, assets: &Assets, json: bool) -> anyhow::Result<()> {
    let bar = if json { ProgressBar::hidden() } else { bar::bytes("sending", 0) };
    let sent = upload::send(server, assets, &bar).await;
    bar.finish_and_clear();
    let Sent { files, size_bytes, there } = sent?;
    if files > 0 && !json {
        let size = indicatif::HumanBytes(size_bytes);
        explain(&format!("sent {files} files, {size}; {there} were there already"));
    }
    Ok(())
}

/// Submits the job: once, however often it is attempted.
async fn hand_in(
    server: &Connection,
    prepared: &Prepared,
    args: &SubmitArgs,
) -> Result<Submitted, RequestError> {
    let source = &prepared.job.source;
    let body = as_json(&Submission {
        job: JobBody::Text(source.text.clone()),
        source_name: Some(source.name.clone()),
        set: args.set.iter().cloned().collect(),
        dry_run: args.dry_run,
        assets: prepared.names.clone(),
    });
    let key = format!("{:016x}{:016x}", random(), random());
    let headers = [(HeaderName::from_static("idempotency-key"), key)];
    let (method, path) = (Method::POST, ["runs"]);
    let call = Call { method, body: Some(&body), headers: &headers, ..Call::get(&path) };
    server.ask(&call).await
}

/// The result of a dry run as text.
fn dry_run(prepared: &Prepared, plan: &PlanSummary) -> String {
    let size: u64 = prepared.assets.values().map(|(_, size)| size).sum();
    let rows: Vec<Vec<String>> = plan
        .steps
        .iter()
        .map(|step| {
            let size = step.size.map_or_else(|| "?".into(), |size| size.to_string());
            vec![step.name.clone(), step.kind.clone(), step.over.join(" x "), size]
        })
        .collect();
    format!(
        "{}\n\n{}: {} tasks; {} files, {}; nothing was sent or started",
        table(&["STEP", "KIND", "OVER", "TASKS"], &rows),
        plan.name,
        plan.tasks,
        prepared.assets.len(),
        indicatif::HumanBytes(size)
    )
}
