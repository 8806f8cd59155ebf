//! Sequences of pictures on this machine, given by a pattern or a folder.

use pictor_tasks::media::{folder_and_pattern, frames_of_names, is_of_sequence};
use pictor_tasks::message::FileRef;
use pictor_tasks::range::Ranges;
use std::path::{Path, PathBuf};

/// The pictures of a sequence, all in one folder, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    /// Path of the folder that holds them all.
    pub folder: PathBuf,
    /// Names and sizes of the files, in the order of the names.
    pub files: Vec<(String, u64)>,
}

impl Sequence {
    /// Finds the pictures of a pattern (`frames/*.png`, `frames/%04d.png`) or a folder. The error is a sentence for the
    /// author of the job.
    pub fn find(path: &Path) -> Result<Self, String> {
        let (folder, pattern) = folder_and_pattern(path);
        let unreadable = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                format!("the folder {} does not exist", folder.display())
            }
            _ => format!("the folder {} cannot be read: {error}", folder.display()),
        };
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = match entry.file_name().into_string() {
                Ok(name) => name,
                Err(name) if is_of_sequence(pattern, &name.to_string_lossy()) => {
                    return Err(format!(
                        "`{}` in {} has a name that is not UTF-8: rename it",
                        name.as_encoded_bytes().escape_ascii(),
                        folder.display()
                    ));
                }
                Err(_) => continue,
            };
            if is_of_sequence(pattern, &name)
                && let Ok(meta) = std::fs::metadata(entry.path())
                && meta.is_file()
            {
                files.push((name, meta.len()));
            }
        }
        files.sort();
        if files.is_empty() {
            return Err(match pattern {
                Some(pattern) => format!("no file in {} fits `{pattern}`", folder.display()),
                None => format!("there is no picture in the folder {}", folder.display()),
            });
        }
        Ok(Self { folder: folder.to_owned(), files })
    }

    /// The reference that a run keeps to the sequence at `path`: its digest covers the names and sizes, because the
    /// content may fill a disk.
    pub(crate) fn reference(&self, path: &Path) -> FileRef {
        let mut hasher = blake3::Hasher::new();
        for (name, size) in &self.files {
            hasher.update(format!("{name} {size}\n").as_bytes());
        }
        let digest = hasher.finalize().to_hex().to_string();
        let size_bytes = self.files.iter().map(|(_, size)| size).sum();
        FileRef { path: path.display().to_string(), digest, size_bytes }
    }

    /// Keeps only the pictures of these frames. Keeps all of them if frame numbers are positions in the list, because a
    /// part of it would be numbered differently.
    #[must_use]
    pub fn only(mut self, frames: &Ranges) -> Self {
        if let Some(numbers) = frames_of_names(&self.names()) {
            let mut numbers = numbers.into_iter();
            self.files.retain(|_| {
                numbers.next().is_some_and(|number| frames.position_of(number).is_some())
            });
        }
        self
    }

    /// The error if none of the pictures has one of these frames.
    pub(crate) fn lacks(&self, frames: &Ranges) -> Option<String> {
        let numbers = self.frames();
        if numbers.iter().any(|number| frames.position_of(*number).is_some()) {
            return None;
        }
        let (first, last) = (numbers.iter().min()?, numbers.iter().max()?);
        Some(format!("there is none of the frames {frames}: there are {first} to {last}"))
    }

    /// The frame of each picture: the number in its name, or else its position.
    pub(crate) fn frames(&self) -> Vec<i64> {
        let numbers = frames_of_names(&self.names());
        numbers.unwrap_or_else(|| (1..).take(self.files.len()).collect())
    }

    fn names(&self) -> Vec<String> {
        self.files.iter().map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in names {
            std::fs::write(folder.path().join(name), name).expect("a file");
        }
        folder
    }

    fn found(folder: &Path, pattern: &str) -> Result<Vec<String>, String> {
        Sequence::find(&folder.join(pattern)).map(|sequence| sequence.names())
    }

    #[test]
    fn a_pattern_and_a_folder_stand_for_pictures() {
        let folder = folder(&["b_2.png", "a_1.png", "c.jpg", "notes.txt", ".hidden"]);
        std::fs::create_dir(folder.path().join("d_3.png")).expect("a folder");
        let path = folder.path();
        assert_eq!(found(path, "*.png").unwrap_or_default(), ["a_1.png", "b_2.png"]);
        assert_eq!(found(path, "").unwrap_or_default(), ["a_1.png", "b_2.png", "c.jpg"]);
        let problem = |pattern| found(path, pattern).err().unwrap_or_default();
        assert_eq!(problem("x_*.png"), format!("no file in {} fits `x_*.png`", path.display()));
        assert!(problem("no/*.png").ends_with("no does not exist"), "{}", problem("no/*.png"));
        let empty = tempfile::tempdir().expect("a folder");
        let problem = found(empty.path(), "").err().unwrap_or_default();
        assert!(problem.starts_with("there is no picture in the folder"), "{problem}");
        let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"a\xff.png");
        std::fs::write(path.join(name), "").expect("a file");
        assert!(problem_of(path).contains("`a\\xff.png`"), "{}", problem_of(path));
    }

    fn problem_of(folder: &Path) -> String {
        found(folder, "*.png").err().unwrap_or_default()
    }

    #[test]
    fn only_the_pictures_of_the_wanted_frames_go_along() {
        let of = |names: &[&str], frames: &str| {
            let folder = folder(names);
            let sequence = Sequence::find(&folder.path().join("*.png")).expect("pictures");
            let frames = frames.parse().expect("frames");
            (sequence.lacks(&frames), sequence.only(&frames).names())
        };
        let numbered = ["s_07.png", "s_08.png", "s_20.png"];
        assert_eq!(of(&numbered, "8-30"), (None, vec!["s_08.png".into(), "s_20.png".into()]));
        let none = "there is none of the frames 1-6: there are 7 to 20";
        assert_eq!(of(&numbered, "1-6"), (Some(none.into()), vec![]));
        // Their positions count, and a part of the list would have others.
        assert_eq!(of(&["a.png", "b.png", "c.png"], "2").1.len(), 3);
        assert!(of(&["a.png", "b.png", "c.png"], "4").0.is_some());
    }
}
