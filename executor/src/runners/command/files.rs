//! The files that a job supplies for its commands: each task gets copies of its own, as the files were when the job was
//! submitted.

use crate::files::cache::{Kept, blocking, hash};
use crate::ground::failure::{failure, storage_failure};
use crate::task::TaskContext;
use pictor_tasks::body::Command;
use pictor_tasks::message::{Failure, FailureKind, FileRef};
use pictor_tasks::pack::{PLAIN, PROGRAMS, is_packed_path};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Permissions: nobody may write, and programs are executable.
const PLAIN_MODE: u32 = 0o444;
const PROGRAM_MODE: u32 = 0o555;

/// The folder of these files.
pub(crate) fn folder(ctx: &TaskContext) -> PathBuf {
    ctx.scratch.join(".files")
}

/// Copies the files into their folder.
pub(super) async fn lay_out(ctx: &TaskContext, body: &Command) -> Result<(), Failure> {
    for (place, name) in &body.files {
        if !is_packed_path(place) {
            let message = format!("`{}` cannot be the place of a file.", place.escape_debug());
            return Err(failure(FailureKind::Invalid, message));
        }
        let (file, to) = (ctx.file(name)?.clone(), folder(ctx).join(place));
        let kept = ctx.artifacts.scene(&file, &ctx.watch()).await?;
        blocking(move || match kept {
            Some(kept) => unpack(&kept, &to).map_err(|error| {
                storage_failure(&format!("{} cannot be laid out", to.display()), &error)
            }),
            None => copy_of_here(&file, &to),
        })
        .await?;
    }
    Ok(())
}

/// Copies a file, or a whole folder, out of its packed form.
fn unpack(kept: &Kept, to: &Path) -> io::Result<()> {
    let Some(tree) = &kept.tree else {
        // A single file, which was sent as it is: it is not known whether it is a program.
        return copy(&kept.path, to, PROGRAM_MODE);
    };
    let kinds =
        [(PROGRAMS, PROGRAM_MODE), (PLAIN, PLAIN_MODE)].map(|(k, mode)| (tree.join(k), mode));
    if !kinds.iter().any(|(folder, _)| kept.path.starts_with(folder)) {
        // A scene with its dependencies: copy the scene only.
        return copy(&kept.path, to, PLAIN_MODE);
    }
    kinds.iter().try_for_each(|(from, mode)| copy_all(from, to, *mode))
}

fn copy_all(from: &Path, to: &Path, mode: u32) -> io::Result<()> {
    match std::fs::metadata(from) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return copy(from, to, mode),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        copy_all(&entry.path(), &to.join(entry.file_name()), mode)?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path, mode: u32) -> io::Result<()> {
    std::fs::create_dir_all(to.parent().unwrap_or(to))?;
    std::fs::copy(from, to)?;
    std::fs::set_permissions(to, Permissions::from_mode(mode))
}

/// Copies a file of this machine that another step reads as well, which is why it was not stored for the commands.
fn copy_of_here(file: &FileRef, to: &Path) -> Result<(), Failure> {
    let copied = copy(Path::new(&file.path), to, PLAIN_MODE);
    copied.map_err(|error| storage_failure(&format!("{} cannot be copied", file.path), &error))?;
    if hash(to)?.digest == file.digest {
        return Ok(());
    }
    let message =
        format!("{} was changed after the run was submitted. Submit it again.", file.path);
    Err(failure(FailureKind::Invalid, message))
}
