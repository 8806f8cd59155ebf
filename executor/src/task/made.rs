//! Files that a program made in the folder of its task, where it may have put links in their place.

use rustix::fs::{Mode, OFlags, open, openat};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// The path relative to the task's folder `made`; `None` if it is elsewhere.
pub(super) fn inside(path: &Path, made: &Path) -> Option<PathBuf> {
    let within = |folder: &Path| path.strip_prefix(folder).ok().map(Path::to_owned);
    within(made).or_else(|| within(&made.canonicalize().ok()?))
}

/// Opens a file in the task's folder `made`, which has to be one that the task made. A link to another file would
/// publish what its program may not even have been able to read, also where a folder on the way is one.
///
/// # Errors
///
/// A sentence without its end that says why it is not such a file.
pub(crate) fn open_made(path: &Path, made: &Path) -> Result<File, String> {
    let name = path.display();
    let inside = inside(path, made).ok_or_else(|| format!("{name} is not in the task's folder"))?;
    // Programs cannot replace the folder of the run, but those in it.
    let place = made.ancestors().nth(2).unwrap_or(made);
    let from_place = made.strip_prefix(place).unwrap_or(made).join(inside);
    let file = walk(place, &from_place).map_err(|error| match error.raw_os_error() {
        Some(libc::ELOOP | libc::ENOTDIR) => {
            format!("{name} is no file, but a link or a device: write the file itself")
        }
        _ => format!("{name} cannot be read: {error}"),
    })?;
    match file.metadata() {
        Ok(meta) if !meta.is_file() => {
            Err(format!("{name} is no file, but a link or a device: write the file itself"))
        }
        Ok(meta) if meta.nlink() > 1 => {
            Err(format!("{name} is a link to a file that has other names: copy it instead"))
        }
        Ok(_) => Ok(file),
        Err(error) => Err(format!("{name} cannot be read: {error}")),
    }
}

/// Opens what a relative path leads to without following links, and without waiting for the other end of a pipe.
fn walk(folder: &Path, path: &Path) -> io::Result<File> {
    let always = OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let on_the_way = always | OFlags::DIRECTORY | OFlags::PATH;
    let mut at: OwnedFd = open(folder, OFlags::CLOEXEC | OFlags::DIRECTORY, Mode::empty())?;
    let mut parts = path.components().peekable();
    while let Some(part) = parts.next() {
        let Component::Normal(part) = part else { return Err(io::ErrorKind::InvalidInput.into()) };
        let is_last = parts.peek().is_none();
        let flags = if is_last { always | OFlags::NONBLOCK } else { on_the_way };
        at = openat(&at, part, flags, Mode::empty())?;
    }
    Ok(at.into())
}

/// Copies such a file to the same place in the folder `to`, in which no program writes, and returns its path there. As
/// the program may still be running, nothing about the file itself is certain.
pub(crate) fn copy_made(path: &Path, made: &Path, to: &Path) -> Result<PathBuf, String> {
    let file = open_made(path, made)?;
    let to = to.join(inside(path, made).unwrap_or_default());
    let copied = || {
        std::fs::create_dir_all(to.parent().unwrap_or(&to))?;
        let size = file.metadata()?.len();
        io::copy(&mut file.take(size), &mut File::create(&to)?)
    };
    copied().map_err(|error| format!("{} cannot be copied: {error}", path.display()))?;
    Ok(to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_files_of_its_own_are_taken_from_the_folder_of_a_task() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        let [made, to] = ["made/task", "fetched/task"].map(|folder| place.join(folder));
        std::fs::create_dir_all(made.join("files/a")).unwrap();
        std::fs::write(place.join("secret"), "the token").unwrap();
        std::fs::write(made.join("files/a/real"), "mine").unwrap();
        let taken = copy_made(&made.join("files/a/real"), &made, &to).unwrap();
        assert_eq!(taken, to.join("files/a/real"));
        assert_eq!(std::fs::read(&taken).unwrap(), b"mine");

        symlink(place.join("secret"), made.join("link")).unwrap();
        symlink(place, made.join("up")).unwrap();
        std::fs::hard_link(made.join("files/a/real"), made.join("files/again")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, made.join("pipe"), Mode::RWXU).unwrap();
        for (path, why) in [
            (made.join("link"), "but a link"),
            (made.join("up/secret"), "but a link"),
            (made.join("files/again"), "other names"),
            (made.join("pipe"), "or a device"),
            (made.join("files"), "or a device"),
            (made.join("../../secret"), "cannot be read"),
            (place.join("secret"), "not in the task's folder"),
            (made.join("missing"), "No such file"),
        ] {
            let refused = copy_made(&path, &made, &to).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        // The folder of the task is itself in one that a program may write to.
        std::fs::rename(&made, place.join("made/other")).unwrap();
        symlink(place.join("made/other"), &made).unwrap();
        let refused = copy_made(&made.join("files/a/new"), &made, &to).unwrap_err();
        assert!(refused.contains("but a link"), "{refused}");
    }
}
