//! The machine and the conditions of a measurement.

use crate::say;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder for everything that a measurement writes: in the build folder, or as `PICTOR_BENCH_DATA` says.
pub fn data_folder() -> PathBuf {
    std::env::var_os("PICTOR_BENCH_DATA").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench-data"),
        PathBuf::from,
    )
}

/// Creates an empty folder of this name in the data folder.
///
/// # Panics
/// If it cannot be created.
pub fn fresh_folder(name: &str) -> PathBuf {
    let folder = data_folder().join(name);
    match std::fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
        _ => std::fs::create_dir_all(&folder).expect("the disk has room for measurements"),
    }
    folder
}

/// Prints the machine, the date and the load.
pub fn introduce(what: &str) {
    let word = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_default();
        line.split(':').nth(1).unwrap_or("?").trim().to_owned()
    };
    let told = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        let text =
            output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().last().unwrap_or("?").trim().to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let folder = data_folder();
    // The type of the file system can only be queried for an existing folder.
    let _ = std::fs::create_dir_all(&folder);
    let shown = folder.display().to_string();
    say(&format!(
        "\n## {what}: {}, pictor {} on {} × {cpus}, {} of memory, Linux {}, {} on {}, load {}",
        told("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        told("git", &["describe", "--always", "--dirty"]),
        word("/proc/cpuinfo", "model name"),
        word("/proc/meminfo", "MemTotal"),
        told("uname", &["-r"]),
        told("stat", &["-f", "-c", "%T", &shown]),
        told("df", &["--output=source", &shown]),
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
    ));
}

/// Whether the program was started by `cargo bench`. `cargo test --all-targets` starts the same programs only to see
/// that they start.
pub fn measures() -> bool {
    std::env::args().any(|word| word == "--bench")
}

/// Whether the measurement `name` was requested: the arguments name it, or none.
pub fn wanted(name: &str) -> bool {
    let mut names = std::env::args().skip(1).filter(|word| !word.starts_with("--")).peekable();
    names.peek().is_none() || names.any(|word| name.contains(&word))
}

/// The processor time that this thread has used, in seconds; 0 if the system does not say it.
pub fn thread_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|word| word.parse::<f64>().ok());
    nanoseconds.unwrap_or(0.0) / 1e9
}

/// The memory that this process has now, in bytes; 0 if the system does not say it.
pub fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}
