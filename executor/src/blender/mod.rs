//! Tasks that Blender does: looking at a scene, rendering, finishing and developing pictures.
//! Blender stays loaded with its scene and takes one task after another.

#[cfg(test)]
mod packed;
mod picture;
mod progress;
mod run;
#[cfg(test)]
mod scenes;
mod session;
mod sessions;
#[cfg(test)]
mod tests;

pub(crate) use run::run;
pub use sessions::Sessions;
