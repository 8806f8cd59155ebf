//! What the measurements share: a farm in one process over a store on the real disk, the floors that the
//! machine sets, and the tables that are printed.

pub mod farm;
pub mod floor;
pub mod jobs;
pub mod machine;
pub mod source;
pub mod table;

/// Says something to the person who measures.
#[expect(clippy::print_stdout, reason = "the only output of a measurement")]
pub fn say(line: &str) {
    println!("{line}");
}

/// The runtime that the `pictor` command has.
///
/// # Panics
/// If the machine has no thread for it.
pub fn runtime() -> tokio::runtime::Runtime {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(1).enable_all().build().expect("a runtime starts")
}
