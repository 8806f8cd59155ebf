//! The server: the owner loop that folds, commits and sends; the submission of jobs; the socket through which other
//! commands reach the process that owns a data folder; the delivery of results; the HTTP API.

mod clock;
mod command_files;
mod deliver;
mod election;
mod handle;
pub mod http;
mod owner;
pub mod prune;
mod role;
mod runs;
mod scenes;
pub mod schedule;
mod sequence;
mod socket;
mod submit;
mod sweep;
mod verify;
pub mod webhook;

pub use clock::now_ms;
pub use command_files::CommandFiles;
pub use deliver::{
    Delivered, Destination, InTheWay, Sources, deliver_all, deliver_rows, in_the_way, sentences,
};
pub use election::{Election, load_runs, look_for_runs};
pub use handle::{Committed, Error, OwnerHandle, Tally};
pub use owner::Owner;
pub use role::ServerRole;
pub use runs::{Request, Response, Runs, load_run, shape, stored_run};
pub use sequence::Sequence;
pub use socket::{ask, listen, socket_path};
pub use submit::{
    CompiledJob, Files, Mistake, Mistakes, SubmitError, compile_job, files_of_commands, read_job,
};
pub use sweep::sweep_again;
pub use verify::checked;
