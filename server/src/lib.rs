//! The engine running: the owner loop that folds, commits and sends; the submission of jobs; the socket
//! through which other commands speak to the process that owns a data folder; the delivery of results.

mod access;
mod clock;
mod deliver;
mod owner;
mod socket;
mod submit;

pub use access::{
    Answer, AttemptView, Request, RunLine, RunReport, TaskReport, answer, load_run, stored_run,
};
pub use clock::now_ms;
pub use deliver::{Delivered, deliver_all, deliver_rows};
pub use owner::{Committed, Error, Owner, OwnerHandle};
pub use socket::{ask, listen, socket_path};
pub use submit::{Job, SubmitError, read_job};
