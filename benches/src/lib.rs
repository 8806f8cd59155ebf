//! What the measurements share: a farm in one process over a store on a real disk, the baselines of the machine, and
//! the tables that are printed.

pub mod day;
pub mod farm;
pub mod floor;
pub mod jobs;
pub mod machine;
pub mod render_farm;
pub mod scene;
pub mod source;
pub mod table;

/// Prints a line to standard output.
#[expect(clippy::print_stdout, reason = "the only output of a measurement")]
pub fn say(line: &str) {
    println!("{line}");
}

/// A runtime like that of the `pictor` command.
///
/// # Panics
/// If the machine cannot start a thread for it.
pub fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().expect("a runtime starts")
}
