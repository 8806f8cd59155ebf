//! The graph of a run: dimensions, steps and needs.

use crate::Step;
use serde::{Deserialize, Serialize};

/// Where the values of a dimension come from.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DimensionKind {
    /// The job file.
    Fixed,
    /// A step's result.
    Late,
    /// Another dimension, cut into blocks.
    Blocks,
}

/// One dimension of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Dimension {
    /// Its name.
    pub name: String,
    /// Where its values come from.
    pub kind: DimensionKind,
    /// How many values it has, where the job file says so.
    pub size: Option<u32>,
    /// The dimension that says how many positions of it exist.
    pub bounded_by: Option<String>,
}

/// How far a needed task is from the task that needs it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Offset {
    /// The dimension.
    pub dimension: String,
    /// Positions in its list of values.
    pub by: i32,
}

/// One need: tasks of `to` wait for the tasks of `from` that agree with them on the shared dimensions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Edge {
    /// The step that is needed.
    pub from: String,
    /// The step that needs it.
    pub to: String,
    /// The dimensions that both run over.
    pub shared: Vec<String>,
    /// How far away the needed task is.
    pub offsets: Vec<Offset>,
    /// Whether it is enough that the needed tasks are over.
    pub soft: bool,
}

/// The graph of a run: steps and needs, however many tasks there are.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Graph {
    /// The dimensions.
    pub dimensions: Vec<Dimension>,
    /// The steps, in the order of the job.
    pub steps: Vec<Step>,
    /// The needs.
    pub needs: Vec<Edge>,
}
