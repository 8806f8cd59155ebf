//! Real servers of one's own for tests, demos and benchmarks: Postgres, RabbitMQ, S3. They listen on free
//! loopback ports, keep their data under `target/servers/`, and end when their last user has ended.
//!
//! # Which one
//! - [`Postgres::start`], [`RabbitMq::start`]: one server for the whole test run. The first process that
//!   asks starts it, the others connect. [`Postgres::database`] and [`RabbitMq::vhost`] keep tests apart.
//!   Nobody may stop these.
//! - [`Postgres::private`], [`RabbitMq::private`]: one of the caller's own, which it may kill, freeze and
//!   start again; it ends with its value.
//! - [`S3::start`]: a thread of the calling process; it ends with its value.
//!
//! Every function blocks (in async code it holds up one thread), and panics with a sentence that says what
//! is missing or what the server wrote, so a test fails and never skips. `make setup` installs the servers.
//!
//! # Why nothing stays behind
//! Each server has a keeper, a small shell script (`keep.sh`) in a session of its own. Users hold a shared
//! lock on the file `lease`, which the kernel gives back however they end, SIGKILL included. When the
//! keeper gets that lock for itself it ends the server with all its processes and removes the folder: at
//! once for a private server, after some seconds for a shared one. If the keeper itself is killed, the
//! kernel kills the server (`PR_SET_PDEATHSIG`). Folders whose keeper could not remove them go at the
//! next start of any server.
//!
//! # Durability
//! Both servers run with the durability that they have by default (`fsync`, `synchronous_commit`).
#![expect(clippy::disallowed_methods, reason = "servers start in real time")]

mod broker;
mod database;
mod http;
mod instance;
mod objects;
mod server;

pub use broker::{Queues, RabbitMq, Vhost};
pub use database::Postgres;
pub use objects::S3;
