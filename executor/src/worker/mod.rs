//! A worker: what its machine has, the agent that speaks to the owner, and the slots that do its tasks.

pub(crate) mod agent;
mod bundle;
pub mod inventory;
mod slot;
