//! The files and folders on this machine that a job names in `files`, for its commands.

use pictor_tasks::message::FileRef;
use pictor_tasks::pack::{Executable, command_file, is_packed_path};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Most files of one entry.
const FILES_MAX: usize = 10_000;
/// Most bytes of one entry, because each task gets a copy.
const BYTES_MAX: u64 = 1 << 30;

/// A file, or all files in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandFiles {
    /// The files, each with the path under which a task gets it.
    pub files: Vec<(String, PathBuf)>,
    path: PathBuf,
    size_bytes: u64,
}

impl CommandFiles {
    /// Finds the files that a path stands for. The error is a sentence for the author of the job.
    pub fn find(path: &Path) -> Result<Self, String> {
        let mut found = Self { files: Vec::new(), path: path.to_owned(), size_bytes: 0 };
        let shown = path.display();
        let Ok(root) = path.canonicalize() else {
            return Err(format!("the file or folder {shown} does not exist"));
        };
        if root.is_dir() {
            found.folder(&root, &root, "")?;
            if found.files.is_empty() {
                return Err(format!("there is no file in the folder {shown}"));
            }
            found.files.sort();
        } else {
            found.file(&root, "")?;
        }
        Ok(found)
    }

    fn folder(&mut self, root: &Path, folder: &Path, inside: &str) -> Result<(), String> {
        let unreadable = |error: std::io::Error| {
            format!("the folder {} cannot be read: {error}", folder.display())
        };
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            let shown = path.display();
            let name = entry.file_name().into_string().ok();
            let place =
                name.map(|name| if inside.is_empty() { name } else { format!("{inside}/{name}") });
            let place = place.filter(|place| is_packed_path(place));
            let place =
                place.ok_or_else(|| format!("the name {shown} cannot be used on a worker"))?;
            let kind = entry.file_type().map_err(unreadable)?;
            if kind.is_dir() {
                self.folder(root, &path, &place)?;
                continue;
            }
            if kind.is_symlink() {
                let real = path.canonicalize();
                let real = real.map_err(|_| format!("the link {shown} leads nowhere"))?;
                if !real.starts_with(root) {
                    return Err(format!("the link {shown} leads out of the folder"));
                }
                if real.is_dir() {
                    return Err(format!(
                        "{shown} is a link to a folder; only links to files are kept"
                    ));
                }
            }
            self.file(&path, &place)?;
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, inside: &str) -> Result<(), String> {
        let shown = path.display();
        let meta =
            std::fs::metadata(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
        if !meta.is_file() {
            return Err(format!("{shown} is neither a file nor a folder"));
        }
        self.size_bytes += meta.len();
        let of = self.path.display();
        if self.files.len() == FILES_MAX {
            return Err(format!("{of} has more than {FILES_MAX} files"));
        }
        if self.size_bytes > BYTES_MAX {
            return Err(format!(
                "{of} has more than {BYTES_MAX} bytes, and every task gets a copy; put large data where all \
                 workers can read it"
            ));
        }
        let executable = Executable(meta.permissions().mode() & 0o111 != 0);
        self.files.push((command_file(executable, inside), path.to_owned()));
        Ok(())
    }

    /// The reference to put into a plan until the digest is known.
    pub(crate) fn reference(&self) -> FileRef {
        let path = self.path.display().to_string();
        FileRef { path, digest: String::new(), size_bytes: self.size_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::symlink;

    #[test]
    fn a_folder_is_found_with_what_can_be_executed_in_it_and_nothing_outside() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let files = |name: &str| {
            let found = CommandFiles::find(&at(name)).unwrap();
            found.files.into_iter().map(|(place, _)| place).collect::<Vec<_>>()
        };
        let refused = |name: &str| CommandFiles::find(&at(name)).unwrap_err();
        assert!(refused("a").contains("does not exist"));
        create_dir(at("tools")).unwrap();
        assert!(refused("tools").contains("no file"));
        create_dir(at("tools/deep")).unwrap();
        for name in ["script.sh", "tools/run.sh", "tools/deep/a.py"] {
            write(at(name), name).unwrap();
        }
        set_permissions(at("tools/run.sh"), Permissions::from_mode(0o755)).unwrap();
        symlink("deep/a.py", at("tools/b.py")).unwrap();
        assert_eq!(files("script.sh"), ["plain"]);
        assert_eq!(files("tools"), ["executable/run.sh", "plain/b.py", "plain/deep/a.py"]);
        symlink("../script.sh", at("tools/out")).unwrap();
        assert!(refused("tools").contains("leads out of the folder"));
        std::fs::remove_file(at("tools/out")).unwrap();
        symlink("deep", at("tools/again")).unwrap();
        assert!(refused("tools").contains("link to a folder"));
        std::fs::remove_file(at("tools/again")).unwrap();
        let large = std::fs::File::create(at("tools/large")).unwrap();
        large.set_len(BYTES_MAX).unwrap();
        assert!(refused("tools").contains("every task gets a copy"));
    }
}
