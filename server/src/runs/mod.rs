//! What the engine and history know about runs, in the words of the API.

pub(crate) mod shape;
