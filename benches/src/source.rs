//! Inputs for the measurements of upscaling: networks and pictures.

use crate::machine;
use pictor_models::Folder;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The networks of `pictor models pull`, downloaded the first time.
///
/// # Panics
/// If they cannot be downloaded.
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

/// Generates pixels from one of ffmpeg's sources, as a file of this name.
///
/// # Panics
/// If ffmpeg fails.
pub fn made(name: &str, source: &str, arguments: &[&str]) -> PathBuf {
    let path = machine::fresh_folder("upscale-source").join(name);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-f", "lavfi", "-i", source]).args(arguments);
    run(ffmpeg.arg(&path));
    path
}

/// Runs a program to its end, and returns what it prints.
///
/// # Panics
/// If it fails.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
