//! Submission of a job, and what comes of it.

use crate::RunSummary;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A job: the text of a job file (YAML or JSON), or the job itself as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum JobBody {
    /// The text of a job file.
    Text(String),
    /// The job itself.
    Tree(Map<String, Value>),
}

/// A submission.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The job.
    #[cfg_attr(feature = "openapi", schema(example = json!({
        "pictor": "v1", "name": "nothing", "dims": { "frame": { "range": "1-3" } },
        "steps": [{ "name": "wait", "over": ["frame"], "noop": {} }],
    })))]
    pub job: JobBody,
    /// The job file's name, for error messages.
    #[serde(default)]
    pub source_name: Option<String>,
    /// Values that replace those of the job: `render.samples` to `16`. Each value is read as YAML.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// The uploaded files that the job names: the name that it uses, to the BLAKE3 digest of the file,
    /// or of the list of files of a packed scene.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, Digest>))]
    pub assets: BTreeMap<String, String>,
}

/// One step of a job that was only tried.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Submitted {
    /// The run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub run: Option<RunSummary>,
    /// What it would be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub plan: Option<PlanSummary>,
    /// What is odd about the job and no mistake: limits that nobody defines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// BLAKE3 of a file's bytes, in hex: 64 digits in small letters.
#[cfg(feature = "openapi")]
#[derive(utoipa::ToSchema)]
#[schema(pattern = "^[0-9a-f]{64}$")]
pub struct Digest(#[expect(dead_code, reason = "only a schema")] String);
