//! Tasks that Blender does: looking at a scene, rendering, finishing and developing pictures.
//! Blender stays loaded with its scene and takes one task after another.

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
pub mod setup;
#[cfg(test)]
mod simulations;
#[cfg(test)]
mod tests;

pub(crate) use run::run;
pub use sessions::Sessions;

use crate::programs::told::Program;
use std::path::Path;
use tokio::process::Command;

/// Lets a Blender, which this command starts, keep what its Python compiles in the user's folder `cache`. Where it was
/// installed for everybody only root could keep that beside the scripts that come with Blender, so that every Blender
/// would compile them all again, which takes longer than all else that it does to start. Each Blender has a folder of
/// its own: Python knows a changed script by its time alone, and some packages give all files the same. (The Pythons
/// that come with Blender from blender.org do not hear this, and keep it beside their scripts if they may.)
pub fn keep_bytecode(command: &mut Command, cache: Option<&Path>) {
    let program = Program::find(Path::new(command.as_std().get_program()));
    if let (Some(cache), Some(program)) = (cache, program) {
        command.env("PYTHONPYCACHEPREFIX", cache.join("python").join(program.folder_name()));
        // Whoever set it did not want files beside the scripts.
        command.env_remove("PYTHONDONTWRITEBYTECODE");
    }
}
