//! Scenes for measurements of rendering.

use crate::machine;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const HERE: &str = env!("CARGO_MANIFEST_DIR");

/// The scene of this name, built by a script of the repository unless it exists.
///
/// # Panics
/// If it cannot be built.
pub fn scene(name: &str, script: &str, args: &[&str]) -> PathBuf {
    let path = machine::data_folder().join(format!("{name}.blend"));
    if !path.is_file() {
        std::fs::create_dir_all(machine::data_folder()).expect("the disk has room");
        let script = Path::new(HERE).join(script);
        let mut command = Command::new("blender");
        command.args(["-b", "--factory-startup", "-P"]).arg(script).arg("--").arg(&path).args(args);
        finish(&mut command);
    }
    path.canonicalize().expect("Blender wrote the scene")
}

/// Runs Blender to its end.
///
/// # Panics
/// If it fails.
pub fn finish(command: &mut Command) {
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(status.expect("Blender is installed").success(), "Blender failed: {command:?}");
}
