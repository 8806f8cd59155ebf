//! The types of the job file. Their doc comments become the descriptions in the JSON Schema, so they address the user.

mod upscale;

pub use upscale::{Pixels, UpscaleJob, UpscaleOutput, VideoSpec};

use super::formats::{
    DeliverPath, DimensionName, EngineName, FileName, LocalPath, Property, StepName, TemplateText,
    Word,
};
use super::shorthand;
use crate::body::{PictureFormat, PropertyValue, Simulate, Work};
use crate::range::Ranges;
use crate::units::{Grid, Millis, Resolution};
use crate::worker::{Device, Requires};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// The priorities that a run may have.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -100..=100;

/// A pictor job: either a macro (`render`, `upscale`) or `dims` and `steps`, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// The version of the job file's language.
    pub pictor: Version,
    /// The job's name, for display.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Renders a Blender scene: expands into inspect, render, merge, finish, develop and encode steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub render: Option<RenderJob>,
    /// Upscales pictures or a video with a network: expands into probe, extract, upscale, stitch and encode steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upscale: Option<UpscaleJob>,
    /// The dimensions that steps run over, by name.
    #[serde(default, deserialize_with = "shorthand::dims")]
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "shorthand::dims_schema")]
    pub dims: BTreeMap<String, DimSpec>,
    /// The steps, in any order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 256))]
    pub steps: Vec<StepSpec>,
    /// Files and folders that every command finds in `{job.dir}`: the path in that folder, to the original path
    /// relative to the job file. They are submitted with the job; a task sees them as they were at that time.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, LocalPath>")]
    #[schemars(extend("maxProperties" = 256, "propertyNames" = json!({ "format": "pictor-inside" })))]
    pub files: BTreeMap<String, String>,
    /// What every step requires of a machine; a step may add to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requires>,
    /// How often and how soon failed tasks are retried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// The time limit for one task, for example `2h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// How long a task may run without any sign of progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Millis>,
    /// Runs of higher priority go first: -100 to 100.
    #[serde(default)]
    #[schemars(range(min = -100, max = 100))]
    pub priority: i32,
    /// The order in which the tasks of a step are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<TaskOrder>,
    /// What happens to the rest of the run when a task has failed for good.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// The run stops when this many tasks have failed for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_failures: Option<u32>,
}

/// The version of the job file's language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// The first version.
    V1,
}

/// How often and how soon failed tasks are retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// The total number of attempts, including the first. Lost workers and resets do not count.
    #[serde(default = "three")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
    /// The pause before the second attempt; it doubles with each further one, up to an hour.
    #[serde(default = "five_seconds")]
    pub backoff: Millis,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: three(), backoff: five_seconds() }
    }
}

fn three() -> u32 {
    3
}

fn five_seconds() -> Millis {
    Millis(5_000)
}

/// The order in which the tasks of a step are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Order")]
pub enum TaskOrder {
    /// First to last.
    #[default]
    Index,
    /// First, middle and last, then the ones halfway between: an early overview of the whole sequence.
    Preview,
}

/// What happens to the rest of the run when a task has failed for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Tasks that do not depend on it continue.
    #[default]
    Continue,
    /// The run is cancelled.
    Stop,
}

/// One dimension: the values that steps run over.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimSpec {
    /// Integers, such as `1-100x5` or `3,7,9-12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "shorthand::range_schema")]
    pub range: Option<Ranges>,
    /// The words that are the values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Word>>", length(min = 1, max = 4096))]
    #[schemars(extend("uniqueItems" = true))]
    pub values: Option<Vec<String>>,
    /// The numbers from 0 to one less than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 16_777_216))]
    pub count: Option<u32>,
    /// One number for every tile of a grid, such as `4x4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<Grid>,
    /// Derived: blocks of this other dimension. Needs `size`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DimensionName>")]
    pub of: Option<String>,
    /// The number of positions of `of` in a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub size: Option<u32>,
    /// Late-bound: this step reports the values (or, with `bounded_by`, the counts).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<StepName>")]
    pub from: Option<String>,
    /// Late-bound: the dimension may turn out to have no values.
    #[serde(default)]
    pub allow_empty: bool,
    /// Bounded: the number of positions depends on the position of this other dimension. Needs `counts` or `from`.
    /// `count` is the upper limit; default: the largest of the counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<DimensionName>")]
    pub bounded_by: Option<String>,
    /// For each position of `bounded_by`: the number of positions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Vec<u32>>,
}

/// One step: the same work for every point of its dimensions. Exactly one kind says what the work is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("additionalProperties" = false))]
pub struct StepSpec {
    /// The step's name, unique in the job.
    #[schemars(with = "StepName")]
    pub name: String,
    /// The dimensions that it runs over, slowest first. Without any, it has one task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<DimensionName>", length(max = 16), extend("uniqueItems" = true))]
    pub over: Vec<String>,
    /// The steps that it depends on. A task waits for the tasks with the same values in all dimensions that the two
    /// steps share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub needs: Vec<NeedSpec>,
    /// Files and folders that the command finds in `{job.dir}`, in addition to those of the job.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, LocalPath>")]
    #[schemars(extend("maxProperties" = 256, "propertyNames" = json!({ "format": "pictor-inside" })))]
    pub files: BTreeMap<String, String>,
    /// What this step requires of a machine, in addition to the job's `requires`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires: Option<Requires>,
    /// Replaces the job's `retry`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Replaces the job's `timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Millis>,
    /// Replaces the job's `stalled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Millis>,
    /// Replaces the job's `order`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<TaskOrder>,
    /// Named concurrency limits (licences), each held by a task while it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1)), extend("uniqueItems" = true))]
    pub limits: Vec<String>,
    /// Where results go in the output folder: output name to a templated path. For a folder of outputs
    /// (`files/depth.exr`), the folder's name (`files`) to the path for all of its content.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, DeliverPath>")]
    #[schemars(extend("maxProperties" = 64, "propertyNames" = json!({ "format": "pictor-output" })))]
    pub deliver: BTreeMap<String, String>,
    /// How long the results are kept. Default: as long as the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// The work of the step, as one of the kinds.
    #[serde(flatten)]
    pub work: Work,
}

/// How long results are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Keep {
    /// The results of a task are removed when all tasks that need it have succeeded, and so have all tasks of this step
    /// with the same values in the shared dimensions. A reset that needs the results makes them again.
    #[schemars(with = "StepName")]
    pub until: String,
}

/// One dependency of a step: the name of another step, or `{step, offset, on}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeedSpec {
    /// The step that is needed.
    pub step: String,
    /// For a dimension that both steps share: how many positions away the needed task is.
    pub offset: BTreeMap<String, i32>,
    /// Whether the needed tasks must succeed, or only have ended.
    pub on: NeedOn,
}

/// Whether needed tasks must succeed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NeedOn {
    /// They must succeed; otherwise this task is skipped.
    #[default]
    Success,
    /// They must have ended, in whatever way.
    Finished,
}

/// Renders frames of a Blender scene.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenderJob {
    /// The .blend file, relative to the job file.
    #[schemars(length(min = 1))]
    pub scene: String,
    /// The renderer.
    #[serde(default)]
    pub renderer: Renderer,
    /// The frames, such as `1-10`, `1-100x5` or `3,7,9-12`; `scene` takes those of the file.
    #[serde(default)]
    pub frames: Frames,
    /// Tiles per frame: columns x rows, or `auto` (about 512 x 512 pixels each; needs `resolution`).
    #[serde(default)]
    pub tiles: TilesSpec,
    /// Picture size in pixels. Default: that of the scene.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// Samples per pixel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub samples: Option<u32>,
    /// Seed of the noise, the same for all tiles of a frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub seed: Option<u32>,
    /// Camera object in place of the scene's active one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TemplateText>")]
    pub camera: Option<String>,
    /// Render only this view layer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TemplateText>")]
    pub view_layer: Option<String>,
    /// The views of a stereoscopic scene, such as `[left, right]`: each is rendered as separate frames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Word>", length(max = 64), extend("uniqueItems" = true))]
    pub views: Vec<String>,
    /// Render engine in place of the scene's own: `cycles`, `eevee`, `workbench`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<EngineName>")]
    pub engine: Option<String>,
    /// `false`: do not denoise, even if the scene would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoise: Option<bool>,
    /// `false`: do not composite, even if the scene would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compositor: Option<bool>,
    /// `false`: render what the camera sees, even if the scene has a video edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequencer: Option<bool>,
    /// `false`: render the whole frame, even if the scene has a render region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub border: Option<bool>,
    /// Render even if textures, libraries or caches are missing.
    #[serde(default)]
    pub allow_missing: bool,
    /// Run the Python of the scene: registered texts, scripted drivers, Freestyle's and OSL's scripts. It runs in the
    /// worker's sandbox; without the setting, a scene whose rendering would run a script is refused.
    #[serde(default)]
    pub allow_scripts: bool,
    /// The device that renders: `any`, `gpu`, `cpu`. Default: a GPU if the machine has one, otherwise the CPU; a GPU
    /// that Blender cannot use is then an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// What to do with simulations that are not baked.
    #[serde(default)]
    pub simulate: Simulate,
    /// Scene properties to change: data path to value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Property>")]
    pub set: BTreeMap<String, PropertyValue>,
    /// What to deliver.
    #[serde(default)]
    pub output: RenderOutput,
}

/// The renderer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Renderer {
    /// Blender.
    #[default]
    Blender,
}

/// The frames to render.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Frames {
    /// The scene's own frame range, taken from the file.
    #[default]
    Scene,
    /// These frames.
    Ranges(Ranges),
}

/// How frames are cut into tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TilesSpec {
    /// Chosen by the size of the picture.
    Auto,
    /// This grid; `1x1` does not cut.
    Grid(Grid),
}

impl Default for TilesSpec {
    fn default() -> Self {
        Self::Grid(Grid { columns: 1, rows: 1 })
    }
}

/// What a render delivers into the output folder.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RenderOutput {
    /// Format of the frames in `frames/`.
    #[serde(default)]
    pub format: FrameFormat,
    /// `true`: each pass of the scene as a separate file in `passes/`, in addition to the frames.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passes: bool,
    /// Format of the pictures in `previews/`; `false` for none.
    #[serde(default)]
    pub preview: Preview,
    /// File name of a video of the previews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<FileName>")]
    pub video: Option<String>,
    /// Frames per second of the video. Default: the scene's own rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 1000.0))]
    pub fps: Option<f64>,
    /// Codec of the video. Default: by its extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<crate::body::Codec>,
    /// Quality of the video (H.264: CRF 0 to 51; `ProRes`: profile 0 to 4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 51))]
    pub quality: Option<u8>,
}

/// Format of rendered frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FrameFormat {
    /// Linear 32-bit `OpenEXR` of the picture.
    #[default]
    Exr,
    /// Linear 32-bit `OpenEXR` with all passes and layers.
    ExrMultilayer,
}

/// Whether and how previews are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preview {
    /// No previews.
    Off,
    /// In this format.
    On(PictureFormat),
}

impl Default for Preview {
    fn default() -> Self {
        Self::On(PictureFormat::Png)
    }
}
