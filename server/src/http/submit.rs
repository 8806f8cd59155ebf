//! Submission: a job as JSON or YAML, once for each idempotency key, or only tried.

use super::Api;
use super::auth::Caller;
use super::extract::{Json, Query};
use super::guard::Target;
use super::problem::{self, Code, Problem};
use super::runs::{RunState, RunSummary};
use crate::submit::{Files, Job, Mistakes, SubmitError, compile_job, uploaded};
use axum::Extension;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pictor_engine::Run;
use pictor_storage::{Created, Idempotency, NewRun, RunRecord};
use pictor_tasks::job::Source;
use pictor_tasks::message::FileRef;
use pictor_tasks::pack::is_digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use utoipa::ToSchema;

/// The longest idempotency key.
const KEY_BYTES_MAX: usize = 255;
/// The longest line of a job file that is shown with a mistake.
const LINE_CHARS: usize = 200;

/// A job: the text of a job file (YAML or JSON), or the job itself as JSON.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum JobBody {
    /// The text of a job file.
    Text(String),
    /// The job itself.
    Tree(Map<String, Value>),
}

/// A submission.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The job.
    job: JobBody,
    /// The job file's name, for error messages.
    #[serde(default)]
    source_name: Option<String>,
    /// Values that replace those of the job: `render.samples` to `16`. Each value is read as YAML.
    #[serde(default)]
    set: BTreeMap<String, String>,
    /// Only say what would be done.
    #[serde(default)]
    dry_run: bool,
    /// The uploaded files that the job names: the name that it uses, to the BLAKE3 digest of the file,
    /// or of the list of files of a packed scene.
    #[serde(default)]
    assets: BTreeMap<String, String>,
}

/// What a submission as YAML says beside the job.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SubmitQuery {
    /// With a body as YAML: only say what would be done.
    dry_run: Option<bool>,
    /// With a body as YAML: the job file's name, for error messages.
    source_name: Option<String>,
}

/// One step of a job that was only tried.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlannedStep {
    /// Its name.
    pub name: String,
    /// The kind of work.
    pub kind: String,
    /// The dimensions that it runs over.
    pub over: Vec<String>,
    /// How many tasks it has; null where a step has to find out.
    pub size: Option<u32>,
}

/// What a job compiles to.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PlanSummary {
    /// The job's name.
    pub name: String,
    /// Its steps.
    pub steps: Vec<PlannedStep>,
    /// How many tasks there are, as far as it is known.
    pub tasks: u64,
    /// The longest chain of tasks that must be done one after another.
    pub longest_path: u64,
    /// The files (by the name that the job uses) that are not uploaded yet.
    pub missing_assets: Vec<String>,
}

/// What came of a submission: a run, or (dry run) what would have been one.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Submitted {
    /// The run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub run: Option<RunSummary>,
    /// What it would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub plan: Option<PlanSummary>,
}

/// Submits a job.
///
/// Its owner is the token's account. With an idempotency key the same submission, however often it is
/// made, is one run. The files that the job names have to be uploaded before.
#[utoipa::path(
    post, path = "/v1/runs", tag = "runs",
    params(
        SubmitQuery,
        ("Idempotency-Key" = Option<String>, Header,
         description = "The submitter's name for this submission: 1 to 255 visible characters",
         min_length = 1, max_length = 255, pattern = "^[!-~]+$"),
    ),
    request_body(content(
        (Submission = "application/json"),
        (String = "application/yaml"),
    )),
    responses(
        (status = 201, description = "The new run", body = Submitted),
        (status = 200, description = "The run of the same submission before, or the plan of a dry run",
         body = Submitted),
    ),
)]
pub(super) async fn submit(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Query(query): Query<SubmitQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let key = idempotency_key(request.headers())?;
    let submission = read(query, request).await?;
    let (assets, missing) = stored(&api, &submission.assets).await?;
    if !submission.dry_run && !missing.is_empty() {
        return Err(not_stored(&missing));
    }
    let once = key.map(|key| Idempotency {
        account: caller.account.clone(),
        key,
        request: submission.digest(),
    });
    let job = compile(&submission, assets).await?;
    if submission.dry_run {
        let plan = Some(summary(&job, missing));
        return Ok(Json(Submitted { run: None, plan }).into_response());
    }
    let salt =
        getrandom::u64().map_err(|error| Problem::new(Code::Unavailable, error.to_string()))?;
    let new = job.run_of(&caller.account, Path::new(""), ((api.now_ms)(), salt));
    match api.store.create_run(&new, once.as_ref()).await? {
        Created::New => start(&api, job, new).await,
        Created::Again(run) => {
            let record = api.run(&caller, &run.0).await?;
            let target = Extension(Target(format!("runs/{run}")));
            let run = Some(RunSummary::new(record, None));
            Ok((target, Json(Submitted { run, plan: None })).into_response())
        }
        Created::Conflict(run) => {
            let detail = format!("another job was submitted with this key; it is run `{run}`");
            Err(Problem::new(Code::IdempotencyConflict, detail))
        }
    }
}

/// Hands a stored run to the owner.
async fn start(api: &Api, job: Job, new: NewRun) -> Result<Response, Problem> {
    let (id, plan) = (new.id.clone(), Arc::new(job.plan));
    let run = tokio::task::spawn_blocking(move || Run::new(id, plan)).await;
    let run = run.map_err(|_| Problem::new(Code::Internal, "the server's log says more"))?;
    // Told first, so that nobody hears of its tasks before.
    api.events.started(&new.id, &new.owner);
    if let Ok(owner) = api.owner()
        && let Err(error) = owner.add(run, new.owner.clone(), new.created_ms).await
    {
        // It is stored: the next owner finds it.
        tracing::warn!(%error, run = %new.id, "a new run was not handed over");
    }
    let record = RunRecord {
        id: new.id,
        name: new.name,
        source_name: new.source_name,
        fold_version: new.fold_version,
        owner: new.owner,
        priority: new.priority,
        created_ms: new.created_ms,
        out_dir: new.out_dir,
        state: RunState::Running.name().to_owned(),
        finished_ms: None,
    };
    let place = format!("/v1/runs/{}", record.id);
    let target = Extension(Target(format!("runs/{}", record.id)));
    let run = Some(RunSummary::new(record, None));
    let body = Json(Submitted { run, plan: None });
    Ok((StatusCode::CREATED, [(header::LOCATION, place)], target, body).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=KEY_BYTES_MAX).contains(&key.len()));
    let key = key.filter(|key| key.bytes().all(|byte| byte.is_ascii_graphic()));
    let key = key.ok_or_else(|| {
        Problem::invalid(format!(
            "`Idempotency-Key` has to be 1 to {KEY_BYTES_MAX} visible characters"
        ))
    })?;
    Ok(Some(key.to_owned()))
}

/// Reads the body, by its media type.
async fn read(query: SubmitQuery, request: Request) -> Result<Submission, Problem> {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let kind = kind.to_ascii_lowercase();
    if !matches!(&*kind, "application/yaml" | "application/x-yaml" | "text/yaml") {
        if query.dry_run.is_some() || query.source_name.is_some() {
            let detail = "with a body as JSON, `dry_run` and `source_name` belong into it";
            return Err(Problem::invalid(detail));
        }
        return Json::from_request(request, &()).await.map(|Json(submission)| submission);
    }
    let bytes = Bytes::from_request(request, &()).await;
    let bytes = bytes.map_err(|error| Problem::rejected(error.status(), error.body_text()))?;
    let text = String::from_utf8(bytes.into());
    let text = text.map_err(|_| Problem::invalid("the body is not UTF-8"))?;
    Ok(Submission {
        job: JobBody::Text(text),
        source_name: query.source_name,
        set: BTreeMap::new(),
        dry_run: query.dry_run.unwrap_or(false),
        assets: BTreeMap::new(),
    })
}

impl Submission {
    fn text(&self) -> String {
        match &self.job {
            JobBody::Text(text) => text.clone(),
            JobBody::Tree(tree) => {
                serde_json::to_string_pretty(tree).expect("a tree of texts and numbers")
            }
        }
    }

    /// What makes it the same submission.
    fn digest(&self) -> [u8; 32] {
        let content = (self.text(), &self.source_name, &self.set, &self.assets);
        let bytes = serde_json::to_vec(&content).expect("texts");
        *blake3::hash(&bytes).as_bytes()
    }
}

/// What is known of the named files, and which of them are not stored.
async fn stored(
    api: &Api,
    assets: &BTreeMap<String, String>,
) -> Result<(BTreeMap<String, FileRef>, Vec<String>), Problem> {
    if let Some((name, _)) = assets.iter().find(|(_, digest)| !is_digest(digest)) {
        let detail = format!("`assets`: the digest of `{name}` has to be 64 hexadecimal digits");
        return Err(Problem::invalid(detail));
    }
    let mut files = uploaded(&api.artifacts, assets).await?;
    let missing: Vec<String> =
        assets.keys().filter(|name| !files.contains_key(*name)).cloned().collect();
    for name in &missing {
        // A dry run goes on all the same.
        let (path, digest) = (name.clone(), assets[name].clone());
        files.insert(name.clone(), FileRef { path, digest, size_bytes: 0 });
    }
    Ok((files, missing))
}

fn not_stored(missing: &[String]) -> Problem {
    let errors = missing.iter().map(|name| problem::Mistake {
        line: None,
        column: None,
        message: format!("`{name}` is not uploaded"),
        hint: Some("upload it with `PUT /v1/assets/{digest}`".to_owned()),
        text: None,
    });
    let detail = format!("files of the job are not uploaded: {}", missing.join(", "));
    Problem::new(Code::MissingAssets, detail).with_errors(errors.collect())
}

/// Compiles on a thread of its own: a job file may be long.
async fn compile(
    submission: &Submission,
    assets: BTreeMap<String, FileRef>,
) -> Result<Job, Problem> {
    let name = submission.source_name.clone().unwrap_or_else(|| "job".to_owned());
    let source = Source { name, text: submission.text() };
    let overrides: Vec<(String, String)> = submission.set.clone().into_iter().collect();
    let runtime = tokio::runtime::Handle::current();
    let compiled = tokio::task::spawn_blocking(move || {
        let text = source.text.clone();
        let files = Files::Uploaded(&assets);
        runtime
            .block_on(compile_job(source, &overrides, files))
            .map_err(|error| refused(&text, error))
    });
    compiled.await.map_err(|_| Problem::new(Code::Internal, "the server's log says more"))?
}

/// A problem that says what is wrong with a job.
pub(super) fn refused(text: &str, error: SubmitError) -> Problem {
    let (code, mistakes) = match error {
        SubmitError::Invalid(mistakes) => (Code::InvalidJob, mistakes),
        SubmitError::NotUploaded(mistakes) => (Code::MissingAssets, mistakes),
        SubmitError::Store(error) => return error.into(),
        error @ SubmitError::Unreadable { .. } => return Problem::invalid(error.to_string()),
    };
    let Mistakes { text: detail, list } = mistakes;
    let lines: Vec<&str> = text.lines().collect();
    let errors = list.into_iter().map(|mistake| {
        let (line, column) = mistake.position.unzip();
        let text = line.and_then(|line| lines.get(line - 1));
        problem::Mistake {
            line: line.and_then(|line| line.try_into().ok()),
            column: column.and_then(|column| column.try_into().ok()),
            message: mistake.message,
            hint: mistake.hint,
            text: text.map(|text| text.chars().take(LINE_CHARS).collect()),
        }
    });
    Problem::new(code, detail.trim_end()).with_errors(errors.collect())
}

fn summary(job: &Job, missing_assets: Vec<String>) -> PlanSummary {
    let counts = job.task_counts();
    let steps: Vec<PlannedStep> = job
        .plan
        .steps
        .iter()
        .map(|step| PlannedStep {
            name: step.name.clone(),
            kind: step.body.kind().into(),
            over: step.over.iter().map(|dim| job.plan.dims[*dim].name.clone()).collect(),
            size: counts.get(&step.name).copied().flatten(),
        })
        .collect();
    PlanSummary {
        name: job.plan.name.clone(),
        tasks: steps.iter().filter_map(|step| step.size).map(u64::from).sum(),
        longest_path: job.plan.longest_path().0,
        steps,
        missing_assets,
    }
}
