//! A worker: the inventory of its machine, the agent that communicates with the owner, and the slots that do its tasks.

pub(crate) mod agent;
mod bundle;
pub mod inventory;
mod scratch;
mod slot;
