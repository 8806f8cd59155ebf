//! The submission of a job, and its result.

use crate::RunSummary;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A job: the text of a job file (YAML or JSON), or the job itself as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(untagged)]
pub enum JobBody {
    /// The text of a job file (YAML or JSON).
    Text(String),
    /// The job itself, as a JSON object.
    Tree(Map<String, Value>),
}

impl JobBody {
    /// The text of the job file, or the job itself as JSON.
    pub fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Tree(tree) => {
                serde_json::to_string_pretty(tree).expect("a tree of texts and numbers")
            }
        }
    }
}

/// A submission of a job.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The job to be run, as text or as JSON.
    #[cfg_attr(feature = "openapi", schema(example = json!({
        "pictor": "v1", "name": "nothing", "dims": { "frame": { "range": "1-3" } },
        "steps": [{ "name": "wait", "over": ["frame"], "noop": {} }],
    })))]
    pub job: JobBody,
    /// Name of the job file, for error messages.
    #[serde(default)]
    pub source_name: Option<String>,
    /// Values that replace those in the job, such as `16` for `render.samples`. Each value is parsed as YAML.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Whether to only report what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// The uploaded files that the job names: maps each name to the BLAKE3 digest of the file, or of the file list of a
    /// packed scene.
    #[serde(default)]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, Digest>))]
    pub assets: BTreeMap<String, String>,
}

/// One step of a compiled job, in a dry run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlannedStep {
    /// Name of the step, unique in the job.
    pub name: String,
    /// Kind of the step, such as `blender`.
    pub kind: String,
    /// Names of the dimensions that it runs over.
    pub over: Vec<String>,
    /// Number of tasks; null if a step determines it only during the run.
    pub size: Option<u32>,
}

/// The plan that a job compiles to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PlanSummary {
    /// Name of the job, as the job file has it.
    pub name: String,
    /// The steps, in the order of the job.
    pub steps: Vec<PlannedStep>,
    /// Number of tasks, as far as it is known.
    pub tasks: u64,
    /// Number of tasks in the longest chain of dependent tasks.
    pub longest_path: u64,
    /// Files that are not uploaded yet, by the name that the job uses.
    pub missing_assets: Vec<String>,
}

/// The result of a submission: a run, or, in a dry run, the plan of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Submitted {
    /// The run; absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub run: Option<RunSummary>,
    /// The plan; present only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(nullable = false))]
    pub plan: Option<PlanSummary>,
    /// Remarks about the job that are no errors, such as limits that nobody defines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// BLAKE3 digest of a file's bytes, in hex: 64 digits in lower case.
#[cfg(feature = "openapi")]
#[derive(utoipa::ToSchema)]
#[schema(pattern = "^[0-9a-f]{64}$")]
pub struct Digest(#[expect(dead_code, reason = "only a schema")] String);
