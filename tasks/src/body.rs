//! What a task does: one struct for each kind of step. The same types are parsed from the job file, stored in the plan
//! and sent to workers. Strings marked *templated* may contain placeholders such as `{frame}` (see
//! [`crate::template`]), which the worker fills in for each task.

mod encode;
mod upscale;

pub use encode::{Codec, Encode};
pub use upscale::{
    Extract, ImageFormat, OVERLAP_MAX, OnError, Probe, Rehearsal, Stitch, TILE_PIXELS,
    TILE_PIXELS_MAX, TILE_PIXELS_MIN, Tiling, Upscale,
};

use crate::job::formats::{DimensionName, EngineName, FileName, Property, TemplateText};
use crate::media::Media;
use crate::units::{Grid, Millis, Resolution};
use crate::worker::{BLENDER, Device};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// A JSON number, boolean, string or list, which is assigned to a scene property.
pub type PropertyValue = serde_json::Value;

/// Declares the kinds, once: what the tasks of a step do ([`Body`]), and how a job file says it ([`Work`]).
macro_rules! kinds {
    ($($(#[doc = $doc:tt])+ $field:ident: $kind:ident($of:ident),)+) => {
        /// The work of a step's tasks.
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum Body {
            $($(#[doc = $doc])+ $kind($of),)+
        }

        /// The work of a step in a job file: exactly one of these.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        pub struct Work {
            $(
                $(#[doc = $doc])+
                #[serde(default, skip_serializing_if = "Option::is_none")]
                pub $field: Option<$of>,
            )+
        }

        impl Body {
            /// The kinds' names, as written in a job file.
            pub const KINDS: [&str; [$(stringify!($field)),+].len()] = [$(stringify!($field)),+];

            /// The kind's name, as written in a job file.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Self::$kind(_) => stringify!($field),)+
                }
            }
        }

        impl Work {
            /// All kinds that are given.
            pub fn bodies(&self) -> impl Iterator<Item = Body> + use<> {
                [$(self.$field.clone().map(Body::$kind)),+].into_iter().flatten()
            }
        }

        impl From<Body> for Work {
            fn from(body: Body) -> Self {
                let mut work = Self::default();
                match body {
                    $(Body::$kind(of) => work.$field = Some(of),)+
                }
                work
            }
        }
    };
}

kinds! {
    /// Does nothing, for benchmarks and dry runs.
    noop: Noop(Noop),
    /// Runs a program.
    command: Command(Command),
    /// Opens a scene and checks that it can be rendered.
    inspect: Inspect(Scene),
    /// Bakes the simulations of a scene, for the steps that need this one. `frame` is the last frame that is needed.
    bake: Bake(Scene),
    /// Renders with Blender.
    blender: Blender(Render),
    /// Merges tiles.
    merge: Merge(Merge),
    /// Applies the scene's denoiser and compositor.
    finish: Finish(Scene),
    /// Applies the scene's view transform.
    develop: Develop(Develop),
    /// Encodes a video.
    encode: Encode(Encode),
    /// Inspects pictures or a video.
    probe: Probe(Probe),
    /// Extracts the frames of a video.
    extract: Extract(Extract),
    /// Upscales tiles of pictures with a network.
    upscale: Upscale(Upscale),
    /// Assembles pictures from upscaled tiles.
    stitch: Stitch(Stitch),
}

impl Body {
    /// The scene that the task works on, if any. Workers that have loaded it are preferred.
    pub fn scene(&self) -> Option<&Scene> {
        match self {
            Self::Inspect(scene) | Self::Bake(scene) | Self::Finish(scene) => Some(scene),
            Self::Blender(render) => Some(&render.scene),
            Self::Develop(develop) => Some(&develop.scene),
            Self::Noop(_)
            | Self::Command(_)
            | Self::Merge(_)
            | Self::Encode(_)
            | Self::Probe(_)
            | Self::Extract(_)
            | Self::Upscale(_)
            | Self::Stitch(_) => None,
        }
    }

    /// The picture, sequence or video of the job that the task reads, if any.
    pub fn source(&self) -> Option<&str> {
        match self {
            Self::Probe(probe) => Some(&probe.source),
            Self::Extract(extract) => Some(&extract.source),
            Self::Upscale(upscale) => upscale.source.as_deref(),
            Self::Stitch(stitch) => stitch.source.as_deref(),
            Self::Encode(encode) => encode.source.as_deref(),
            Self::Noop(_)
            | Self::Command(_)
            | Self::Inspect(_)
            | Self::Bake(_)
            | Self::Blender(_)
            | Self::Merge(_)
            | Self::Finish(_)
            | Self::Develop(_) => None,
        }
    }

    /// Whether this kind reads outputs of the steps that it depends on.
    pub fn reads_inputs(&self) -> bool {
        match self {
            Self::Noop(_) | Self::Inspect(_) | Self::Probe(_) => false,
            Self::Bake(scene) => scene.state.is_some(),
            Self::Blender(Render { scene, .. }) => {
                scene.state.is_some() || scene.simulate == Simulate::Bake
            }
            Self::Command(_)
            | Self::Merge(_)
            | Self::Finish(_)
            | Self::Develop(_)
            | Self::Encode(_)
            | Self::Extract(_)
            | Self::Upscale(_)
            | Self::Stitch(_) => true,
        }
    }

    /// The files of the job that the task reads, each with its field in the job file.
    pub fn files(&self) -> impl Iterator<Item = (String, &str)> {
        let kind = self.kind();
        let deep = matches!(self, Self::Blender(_) | Self::Develop(_));
        let field = if deep { "scene.scene" } else { "scene" };
        let scene = self.scene().map(|scene| (format!("{kind}.{field}"), &*scene.scene));
        let source = self.source().map(|source| (format!("{kind}.source"), source));
        scene.into_iter().chain(source)
    }

    /// The program that a worker must have for it, if any.
    pub fn program(&self) -> Option<&'static str> {
        match self {
            Self::Inspect(_)
            | Self::Bake(_)
            | Self::Blender(_)
            | Self::Finish(_)
            | Self::Develop(_) => Some(BLENDER),
            Self::Encode(_) | Self::Extract(_) => Some("ffmpeg"),
            Self::Probe(Probe { rehearse, source, .. }) => {
                let reads_video = Media::of(source) == Some(Media::Video);
                (rehearse.is_some() || reads_video).then_some("ffmpeg")
            }
            Self::Noop(_)
            | Self::Command(_)
            | Self::Merge(_)
            | Self::Upscale(_)
            | Self::Stitch(_) => None,
        }
    }

    /// Whether the kind may use a GPU. What a command does, only its author knows.
    pub fn may_use_gpu(&self) -> bool {
        matches!(self, Self::Blender(_) | Self::Upscale(_) | Self::Command(_))
    }

    /// Whether the task leaves an output of this name.
    pub fn leaves(&self, name: &str) -> bool {
        match self {
            Self::Command(command) => command.outputs.contains_key(name),
            Self::Encode(_) => name == "video",
            Self::Probe(_) => name == "info",
            Self::Inspect(_) => name == "scene",
            Self::Noop(_) | Self::Extract(_) => false,
            Self::Bake(_) => matches!(name, "baked" | "caches"),
            Self::Blender(_)
            | Self::Merge(_)
            | Self::Finish(_)
            | Self::Develop(_)
            | Self::Upscale(_)
            | Self::Stitch(_) => name == "image",
        }
    }

    /// Whether this kind has outputs for later steps to read.
    pub fn has_outputs(&self) -> bool {
        !matches!(self, Self::Noop(_))
    }

    /// Whether this kind produces pictures, or may do so: a program may produce anything.
    pub fn makes_pictures(&self) -> bool {
        self.has_outputs() && !matches!(self, Self::Inspect(_) | Self::Probe(_) | Self::Bake(_))
    }
}

/// Does nothing, for benchmarks and dry runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Noop {
    /// How long the task takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Millis>,
}

/// Runs any program, in a scratch folder of its own. The worker must allow commands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments, each templated. No shell is involved.
    #[schemars(with = "Vec<TemplateText>", length(min = 1, max = 4096))]
    pub run: Vec<String>,
    /// Environment variables in addition to PATH, HOME and LANG. Values are templated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, TemplateText>")]
    #[schemars(extend("propertyNames" = json!({ "format": "pictor-variable" })))]
    pub env: BTreeMap<String, String>,
    /// What the program writes: output name to file name. `{output.NAME}` is the path to write to. In a folder, every
    /// file is an output of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64, "propertyNames" = json!({ "format": "pictor-output" })))]
    pub outputs: BTreeMap<String, Written>,
    /// The files in `{job.dir}`: the path in that folder, to the job's name for the file. In a job file they are given
    /// by the `files` of the job and of the step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(skip)]
    pub files: BTreeMap<String, String>,
}

/// What a program writes: the name of a file or folder, or `{file, optional}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Written {
    /// The name of the file or folder, which must exist afterwards.
    Name(#[schemars(with = "FileName")] String),
    /// The same, with options.
    Long(LongWritten),
}

/// What a program writes, in the long form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LongWritten {
    /// The name of the file or folder.
    #[schemars(with = "FileName")]
    pub file: String,
    /// `true`: the program need not write it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

impl Written {
    /// The name of the file or folder.
    pub fn file(&self) -> &str {
        match self {
            Self::Name(file) | Self::Long(LongWritten { file, .. }) => file,
        }
    }

    /// Whether the program need not write it.
    pub fn is_optional(&self) -> bool {
        matches!(self, Self::Long(LongWritten { optional: true, .. }))
    }
}

impl From<&str> for Written {
    fn from(file: &str) -> Self {
        Self::Name(file.to_owned())
    }
}

/// A scene file, and the settings that the job changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of the job file")]
pub struct Scene {
    /// The .blend file, relative to the job file.
    #[schemars(length(min = 1))]
    pub scene: String,
    /// Picture size in pixels. Default: that of the scene.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolution: Option<Resolution>,
    /// Render engine in place of the scene's own: `cycles`, `eevee`, `workbench`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<EngineName>")]
    pub engine: Option<String>,
    /// Samples per pixel (Cycles).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub samples: Option<u32>,
    /// Seed of the noise (Cycles), the same for all tiles of a frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub seed: Option<u32>,
    /// Camera object in place of the scene's active one. Templated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TemplateText>")]
    pub camera: Option<String>,
    /// Render only this view layer. Templated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TemplateText>")]
    pub view_layer: Option<String>,
    /// Render only this view of a stereoscopic scene: `left`, `right`, or one of the scene's own. Templated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TemplateText>")]
    pub view: Option<String>,
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
    /// Keep every pass and layer in the frames (multilayer EXR).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all_passes: bool,
    /// With `all_passes`: `finish` outputs the picture alone as `image`, and each pass as a separate file,
    /// `passes/LAYER.PASS.exr`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pass_files: bool,
    /// Render even if textures, libraries or caches are missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_missing: bool,
    /// Run the Python of the scene: registered texts, scripted drivers, Freestyle's and OSL's scripts. It runs in the
    /// worker's sandbox; without the setting, a scene whose rendering would run a script is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_scripts: bool,
    /// The device that renders: `any`, `gpu`, `cpu`. Default: a GPU if the machine has one, otherwise the CPU; a GPU
    /// that Blender cannot use is then an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<Device>,
    /// What to do with simulations that are not baked.
    #[serde(default, skip_serializing_if = "Simulate::is_refuse")]
    pub simulate: Simulate,
    /// Scene properties to change: data path to value. Texts are templated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, Property>")]
    pub set: BTreeMap<String, PropertyValue>,
    /// Output of a needed step: a JSON file with data paths and values that are set before rendering. `STEP` or
    /// `STEP.OUTPUT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The frame to work on. Templated. Default: the dimension `frame` if the step has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<TemplateText>")]
    pub frame: Option<String>,
}

/// What to do with cloth, particles and other simulations that are not baked: each frame depends on the one before, but
/// frames are rendered in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Simulate {
    /// The scene is refused with an error.
    #[default]
    Refuse,
    /// They are baked by a separate step before anything is rendered.
    Bake,
    /// They are rendered anyway, and may be wrong.
    Ignore,
}

impl Simulate {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
    fn is_refuse(&self) -> bool {
        *self == Self::Refuse
    }
}

/// Renders one frame, or one tile of it, with Blender to a raw linear 32-bit EXR.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Render {
    /// The scene and its settings.
    pub scene: Scene,
    /// How the frame is cut into tiles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiles>,
}

/// A grid of tiles, and the dimension that numbers them, row by row from the top left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tiles {
    /// The numbers of columns and rows.
    pub grid: Grid,
    /// The dimension that numbers the tiles.
    #[serde(default = "tile_dimension")]
    #[schemars(with = "DimensionName")]
    pub dim: String,
}

fn tile_dimension() -> String {
    "tile".into()
}

/// Merges tiles into one picture. Its inputs are the `image` outputs of the only step that it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Merge {
    /// The grid that the tiles were rendered in.
    pub tiles: Tiles,
}

/// Converts a linear EXR to the picture that Blender would have written with the scene's view settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Develop {
    /// The scene whose view transform, look, exposure and gamma are used.
    pub scene: Scene,
    /// The picture's format.
    #[serde(default)]
    pub format: PictureFormat,
}

/// Formats of ordinary pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PictureFormat {
    /// PNG, lossless.
    #[default]
    Png,
    /// JPEG, lossy.
    Jpeg,
    /// TIFF, lossless.
    Tiff,
}

impl PictureFormat {
    /// The file extension, without a dot.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::Tiff => "tif",
        }
    }
}
