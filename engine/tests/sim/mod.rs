//! A small world in one thread and in virtual time: an owner, its store, workers and a bad network.

pub(crate) mod chaos;
pub(crate) mod draft;
pub(crate) mod exhaustive;
pub(crate) mod history;
pub(crate) mod keep;
pub(crate) mod large;
pub(crate) mod model;
pub(crate) mod outcome;
pub(crate) mod owner;
pub(crate) mod rng;
pub(crate) mod rules;
pub(crate) mod worker;
pub(crate) mod world;
