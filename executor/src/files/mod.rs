//! Files that tasks read and make: artifact storage, and a cache on this machine.

pub(crate) mod artifacts;
pub(crate) mod cache;
mod folder;
