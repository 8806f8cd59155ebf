//! What this machine knows about a run on a server: the local files that it was made of, and the contents that were
//! downloaded. One line for each, written before the upload or download begins.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Name of the folder in the data folder.
const FOLDER: &str = "fetched";
/// Most runs that are remembered. Files of an older one count as somebody else's.
const RUNS_MAX: usize = 500;

/// The record of one run.
#[derive(Debug)]
pub(crate) struct Ledger {
    file: PathBuf,
    /// Files on this machine that were uploaded for the run.
    pub(crate) sources: Vec<PathBuf>,
    fetched: HashSet<String>,
}

impl Ledger {
    /// Reads the record of a run in a data folder.
    pub(crate) fn open(data: &Path, run: &str) -> Self {
        let file = data.join(FOLDER).join(run);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let mut ledger = Self { file, sources: Vec::new(), fetched: HashSet::new() };
        // The last line may be incomplete: then the transfer that it announces has not begun.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            match line.split_once(' ') {
                Some(("source", path)) => ledger.sources.push(path.into()),
                Some(("fetched", digest)) => drop(ledger.fetched.insert(digest.to_owned())),
                _ => {}
            }
        }
        ledger
    }

    /// Whether a file with this content was downloaded from the run.
    pub(crate) fn has(&self, digest: &str) -> bool {
        self.fetched.contains(digest)
    }

    /// Records which files on this machine are uploaded for the run.
    pub(crate) fn sent<'a>(
        &mut self,
        sources: impl Iterator<Item = &'a Path>,
    ) -> std::io::Result<()> {
        // Such names are not in use, and would be read as two.
        let sources = sources.filter(|path| path.to_str().is_some_and(|p| !p.contains('\n')));
        let sources: Vec<PathBuf> = sources.map(Path::to_path_buf).collect();
        self.add("source", sources.iter().filter_map(|path| path.to_str()))?;
        self.sources.extend(sources);
        Ok(())
    }

    /// Records the contents that are about to be downloaded.
    pub(crate) fn fetching<'a>(
        &mut self,
        digests: impl Iterator<Item = &'a str>,
    ) -> std::io::Result<()> {
        let new: HashSet<&str> = digests.filter(|digest| !self.fetched.contains(*digest)).collect();
        self.add("fetched", new.iter().copied())?;
        self.fetched.extend(new.into_iter().map(str::to_owned));
        Ok(())
    }

    fn add<'a>(&self, what: &str, values: impl Iterator<Item = &'a str>) -> std::io::Result<()> {
        let mut lines = String::new();
        for value in values {
            writeln!(lines, "{what} {value}").expect("a text");
        }
        if lines.is_empty() {
            return Ok(());
        }
        let folder = self.file.parent().unwrap_or(Path::new("."));
        if !self.file.exists() {
            std::fs::create_dir_all(folder)?;
            forget_old(folder)?;
        }
        let mut file = std::fs::File::options().create(true).append(true).open(&self.file)?;
        file.write_all(lines.as_bytes())
    }
}

fn forget_old(folder: &Path) -> std::io::Result<()> {
    let mut known = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        known.push((entry.metadata()?.modified()?, entry.path()));
    }
    known.sort();
    let many = known.len().saturating_sub(RUNS_MAX - 1);
    known[..many].iter().try_for_each(|(_, path)| std::fs::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_known_the_next_time_and_half_a_line_is_not() {
        let data = tempfile::tempdir().unwrap();
        let mut ledger = Ledger::open(data.path(), "job-1");
        assert!(!ledger.has("aa"));
        ledger.sent([Path::new("/in/a b.png"), Path::new("/in/c\nd.png")].into_iter()).unwrap();
        ledger.fetching(["aa", "bb", "aa"].into_iter()).unwrap();
        let file = data.path().join("fetched/job-1");
        let mut text = std::fs::read_to_string(&file).unwrap();
        text.push_str("fetched cc");
        std::fs::write(&file, text).unwrap();
        let again = Ledger::open(data.path(), "job-1");
        assert_eq!(again.sources, [PathBuf::from("/in/a b.png")]);
        assert!(again.has("aa") && again.has("bb") && !again.has("cc"));
        assert!(!Ledger::open(data.path(), "job-2").has("aa"));
    }

    #[test]
    fn the_oldest_runs_are_forgotten() {
        let data = tempfile::tempdir().unwrap();
        let digest = || ["aa"].into_iter();
        for number in 0..=RUNS_MAX {
            Ledger::open(data.path(), &number.to_string()).fetching(digest()).unwrap();
        }
        assert_eq!(std::fs::read_dir(data.path().join(FOLDER)).unwrap().count(), RUNS_MAX);
    }
}
