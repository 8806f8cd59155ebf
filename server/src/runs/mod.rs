//! What the engine and history know about runs, in the types of the API.

pub(crate) mod shape;
