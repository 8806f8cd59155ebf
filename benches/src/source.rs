//! What upscaling is measured with: networks, and something to look at.

use crate::machine;
use pictor_models::Folder;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The networks of `pictor models pull`, fetched the first time.
///
/// # Panics
/// If they cannot be fetched.
pub fn networks() -> Folder {
    let place = machine::data_folder().join("networks");
    let (models, done) = (Folder::new(place.join("models")), place.join("done"));
    if !done.exists() {
        let scratch = place.join("scratch");
        models.pull(Path::new("python3"), &scratch).expect("the networks can be fetched");
        std::fs::remove_dir_all(scratch).expect("it is ours");
        std::fs::write(done, "").expect("the disk has room");
    }
    models
}

/// Pixels of one of ffmpeg's sources, as a file of this name.
///
/// # Panics
/// If ffmpeg does not make it.
pub fn made(name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let path = machine::fresh_folder("upscale-source").join(name);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-f", "lavfi", "-i", source]).args(arguments);
    run(ffmpeg.arg(&path));
    path
}

/// Runs a program to its end, and gives what it says.
///
/// # Panics
/// If it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
