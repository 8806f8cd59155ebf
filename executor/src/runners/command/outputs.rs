//! The outputs of a program: files, including empty ones, and folders, in which every file is an output of its own.

use crate::ground::failure::failure;
use crate::task::TaskContext;
use pictor_tasks::body::Written;
use pictor_tasks::message::{Failure, FailureKind};
use pictor_tasks::output::{IN_FOLDERS_MAX, check_name};
use std::path::{Path, PathBuf};

/// One output.
#[derive(Debug)]
pub(super) struct FoundOutput {
    pub(super) name: String,
    /// The path of its content, with links resolved.
    pub(super) path: PathBuf,
    /// Its path relative to the task's folder.
    pub(super) file: String,
}

/// Finds what the program wrote for a declared output.
pub(super) fn find(
    ctx: &TaskContext,
    name: &str,
    written: &Written,
) -> Result<Vec<FoundOutput>, Failure> {
    let file = written.file();
    let bad = |why: String| {
        let message = format!("The output `{name}` ({file}) {why}.");
        failure(FailureKind::BadOutput, message)
    };
    let path = ctx.scratch.join(file);
    if std::fs::symlink_metadata(&path).is_err() {
        if written.is_optional() {
            return Ok(Vec::new());
        }
        let why = "was not written, although the program succeeded; `{file: NAME, optional: true}` allows that";
        return Err(bad(why.to_owned()));
    }
    let scratch = ctx.scratch.canonicalize();
    let scratch = scratch.map_err(|error| bad(format!("cannot be looked at: {error}")))?;
    let real = inside(&path, &scratch).map_err(&bad)?;
    if real.is_file() {
        return Ok(vec![FoundOutput { name: name.to_owned(), path: real, file: file.to_owned() }]);
    }
    if !real.is_dir() {
        return Err(bad("is neither a file nor a folder".to_owned()));
    }
    let mut walk = Walk { scratch, above: vec![real.clone()], folders: 0, found: Vec::new() };
    walk.folder(&real, name, file).map_err(&bad)?;
    let mut found = walk.found;
    if found.is_empty() && !written.is_optional() {
        return Err(bad("is a folder without any file".to_owned()));
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// Resolves a path, which must be in the task's folder: a task may not publish files from outside of it.
fn inside(path: &Path, scratch: &Path) -> Result<PathBuf, String> {
    let real = path.canonicalize().map_err(|_| "is a link that leads nowhere".to_owned())?;
    if real.starts_with(scratch) {
        return Ok(real);
    }
    let to = real.display();
    Err(format!("is a link that leads out of the task's folder, to {to}: copy the file instead"))
}

/// A walk through an output folder. A link counts as what it leads to.
struct Walk {
    scratch: PathBuf,
    /// The folders that the walk is in, with links resolved: a link to one of them would never end.
    above: Vec<PathBuf>,
    /// How many folders were entered: links may lead to the same one again and again.
    folders: usize,
    found: Vec<FoundOutput>,
}

impl Walk {
    fn folder(&mut self, path: &Path, name: &str, file: &str) -> Result<(), String> {
        let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
        let too_many = || {
            format!(
                "is a folder with more than {IN_FOLDERS_MAX} files or folders: pack them into one (`tar -cf`)"
            )
        };
        self.folders += 1;
        if self.folders > IN_FOLDERS_MAX {
            return Err(too_many());
        }
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let part = entry.file_name().into_string().map_err(|part| {
                let part = part.as_encoded_bytes().escape_ascii();
                format!("holds `{part}` in `{}`, whose name is not UTF-8", file.escape_debug())
            })?;
            let (name, file) = (format!("{name}/{part}"), format!("{file}/{part}"));
            check_name(&name)
                .map_err(|why| format!("holds a file whose name cannot be used: {why}"))?;
            let of = |why: String| format!("holds `{}`, which {why}", file.escape_debug());
            let real = inside(&entry.path(), &self.scratch).map_err(of)?;
            if real.is_dir() {
                if self.above.contains(&real) {
                    return Err(of("is a link to a folder that it is in".to_owned()));
                }
                self.above.push(real.clone());
                self.folder(&real, &name, &file)?;
                self.above.pop();
            } else if !real.is_file() {
                return Err(of("is neither a file nor a folder".to_owned()));
            } else if self.found.len() == IN_FOLDERS_MAX {
                return Err(too_many());
            } else {
                self.found.push(FoundOutput { name, path: real, file });
            }
        }
        Ok(())
    }
}
