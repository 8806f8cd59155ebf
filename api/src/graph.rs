//! The graph of a run: dimensions, steps and dependencies.

use crate::Step;
use serde::{Deserialize, Serialize};

/// Origin of the values of a dimension.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DimensionKind {
    /// The values are in the job file.
    Fixed,
    /// The values are determined by a step's result.
    Late,
    /// Each value is a block of values of another dimension.
    Blocks,
}

/// A dimension of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Dimension {
    /// Name of the dimension.
    pub name: String,
    /// Origin of its values.
    pub kind: DimensionKind,
    /// Number of its values; null if the job file does not determine it.
    pub size: Option<u32>,
    /// Name of the dimension that limits how many positions of this one exist.
    pub bounded_by: Option<String>,
}

/// Distance from a task to one that it depends on, along a dimension.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Offset {
    /// Name of the dimension.
    pub dimension: String,
    /// Distance in positions of its list of values.
    pub by: i32,
}

/// A dependency: each task of `to` waits for the tasks of `from` that have the same values of the shared dimensions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Edge {
    /// Name of the step that is depended on.
    pub from: String,
    /// Name of the step that depends on it.
    pub to: String,
    /// The dimensions that both steps run over.
    pub shared: Vec<String>,
    /// Distances along dimensions in which the values differ.
    pub offsets: Vec<Offset>,
    /// Whether it is enough that the tasks of `from` have ended, whatever their outcome.
    pub soft: bool,
}

/// The graph of a run. It has steps and not tasks, so its size does not depend on their number.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Graph {
    /// The dimensions of the job.
    pub dimensions: Vec<Dimension>,
    /// The steps, in the order of the job.
    pub steps: Vec<Step>,
    /// The dependencies between steps.
    pub needs: Vec<Edge>,
}
