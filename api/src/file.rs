//! Delivered results, and the files that jobs need.

use serde::{Deserialize, Serialize};

/// A delivered result of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RunFile {
    /// Path of the file in the output folder, as the job defines it.
    pub path: String,
    /// BLAKE3 digest of its bytes, in hex.
    pub digest: String,
    /// Size of the file in bytes.
    pub size_bytes: u64,
    /// Key of the artifact that holds it.
    pub key: String,
    /// Name of the task that made it, as in `render[frame=7]`.
    pub task: String,
}

/// Files that a client has.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Digests {
    /// BLAKE3 digests of the files, in hex.
    #[cfg_attr(feature = "openapi", schema(max_items = 10_000, value_type = Vec<crate::Digest>))]
    pub digests: Vec<String>,
}

/// Files that the farm lacks.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Missing {
    /// Digests of the missing files, in the order of the request.
    pub missing: Vec<String>,
}
