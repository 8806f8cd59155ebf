//! Files that tasks read and make: artifact storage, and what is kept of it on this machine.

pub(crate) mod artifacts;
pub(crate) mod cache;
mod folder;
