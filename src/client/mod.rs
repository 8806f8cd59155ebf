//! The commands that talk to a server.

mod admin;
mod args;
mod bar;
mod connection;
mod digests;
mod download;
mod events;
mod ledger;
mod logs;
mod pack;
mod runs;
mod schedules;
mod settings;
mod submit;
mod upload;
mod wait;

pub(crate) use admin::{token, workers};
pub(crate) use args::{DownloadArgs, ScheduleCommand, SubmitArgs, TokenCommand, WorkersArgs};
pub(crate) use connection::Connection;
pub(crate) use download::fetch_all;
pub(crate) use events::Changes;
pub(crate) use logs::follow_log;
pub(crate) use pack::{command_files, keep_command_files};
pub(crate) use runs::request_of;
pub(crate) use schedules::schedule;
pub(crate) use settings::{ServerArgs, blenders_of_user, sandbox_of_user};
pub(crate) use submit::{lay_out, submit};
