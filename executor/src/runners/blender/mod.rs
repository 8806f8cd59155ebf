//! Tasks that Blender does: inspecting a scene, rendering, finishing and developing pictures. Blender stays loaded with
//! its scene and takes one task after another.

mod choice;
#[cfg(test)]
mod packed;
mod picture;
pub mod probe;
mod progress;
mod run;
#[cfg(test)]
mod scenes;
mod session;
mod sessions;
mod settings;
pub mod setup;
#[cfg(test)]
mod simulations;
#[cfg(test)]
mod tests;

pub(crate) use run::run;
pub use sessions::Sessions;

use crate::programs::version_cache::Program;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// Makes the Blender that this command starts keep compiled Python files in the user's folder `cache`. Where it was
/// installed for all users, only root could store them beside Blender's own scripts, so every Blender would compile all
/// of them again, which takes longer than the rest of its start. Each Blender has a folder of its own: Python
/// recognises a changed script by its modification time alone, and some packages give all files the same one. (The
/// Pythons in Blender from blender.org ignore this, and store them beside their scripts if they may.)
pub fn keep_bytecode(command: &mut Command, cache: Option<&Path>) {
    let program = Program::find(Path::new(command.as_std().get_program()));
    if let (Some(cache), Some(program)) = (cache, program) {
        command.env("PYTHONPYCACHEPREFIX", cache.join("python").join(program.folder_name()));
        // Whoever set this did not want files beside the scripts, where none are written now.
        command.env_remove("PYTHONDONTWRITEBYTECODE");
    }
}

/// What a scene that is rendered where it lies may use: its folder and the one above, as in `//../textures`. Of a home
/// or a folder for everybody's files, only what is visible directly in it.
fn around(scene: &Path) -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let is_shared = |folder: &Path| home.starts_with(folder) || folder.components().count() <= 2;
    let Some(folder) = scene.parent() else { return Vec::new() };
    if is_shared(folder) {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let is_visible =
            |entry: &std::fs::DirEntry| !entry.file_name().as_encoded_bytes().starts_with(b".");
        return entries.filter(is_visible).map(|entry| entry.path()).collect();
    }
    let above = folder.parent().filter(|above| !is_shared(above));
    vec![above.unwrap_or(folder).to_owned()]
}
