//! Versions that programs have reported, remembered for the next start: Blender takes half a second of CPU time to
//! report its own. If anything is wrong with what was stored, the program is asked.

use rustix::fs::Access;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The name of the file in the user's cache folder.
const NAME: &str = "programs.json";
/// A larger file was not written by pictor.
const BYTES_MAX: u64 = 64 << 10;
/// The start of a file with machine code. A script may start any program, which can change without the script.
const MACHINE_CODE: [u8; 4] = *b"\x7fELF";

/// The properties of a program's file, one of which changes when the file is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    size_bytes: u64,
    /// The modification time in seconds and nanoseconds since 1970.
    modified: (i64, i64),
    inode: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The path, with all links resolved.
    path: PathBuf,
    identity: Identity,
}

impl Program {
    /// The file that is started under this name or path. Returns `None` if there is none, or if the file alone does not
    /// determine what runs: a script, or a program under another name that starts many others (`snap`).
    pub(crate) fn find(name: &Path) -> Option<Self> {
        let path = started(name)?.canonicalize().ok()?;
        let own_name = |file: &Path| file.file_name()?.to_str().map(str::to_owned);
        if !own_name(&path)?.starts_with(&own_name(name)?) {
            return None;
        }
        let mut head = [0; MACHINE_CODE.len()];
        std::fs::File::open(&path).ok()?.read_exact(&mut head).ok()?;
        (head == MACHINE_CODE).then(|| Self::file(&path))?
    }

    /// The file at this path, even if it alone does not determine what runs.
    pub(crate) fn file(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let meta = path.metadata().ok()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        let identity = Identity { size_bytes: meta.len(), modified, inode: meta.ino() };
        Some(Self { path, identity })
    }

    /// A name for a folder, which is different for every file of the program.
    pub(crate) fn folder_name(&self) -> String {
        let text = format!("{} {:?}", self.path.display(), self.identity);
        blake3::hash(text.as_bytes()).to_hex()[..16].to_owned()
    }
}

/// The file that the system starts under this name.
pub(crate) fn started(name: &Path) -> Option<PathBuf> {
    let can_start =
        |path: &PathBuf| path.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok();
    if name.components().count() > 1 {
        return Some(name.to_owned()).filter(can_start);
    }
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders).map(|folder| folder.join(name)).find(can_start)
}

/// A version, and the file that reported it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reported {
    #[serde(flatten)]
    identity: Identity,
    version: String,
}

/// The reported versions, by the programs' paths.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Versions(BTreeMap<PathBuf, Reported>);

impl Versions {
    /// Reads the versions stored in the user's cache folder; empty if they cannot be read.
    pub(crate) fn read(cache: &Path) -> Self {
        read(&cache.join(NAME))
    }

    /// The version that this file reported.
    pub(crate) fn of(&self, program: &Program) -> Option<String> {
        let reported = self.0.get(&program.path)?;
        (reported.identity == program.identity).then(|| reported.version.clone())
    }

    /// Adds the version that a program reported.
    pub(crate) fn insert(&mut self, program: Program, version: String) {
        self.0.insert(program.path, Reported { identity: program.identity, version });
    }

    /// Stores the versions for the next start, except for those of programs that no longer exist. Of several processes
    /// that write at the same time, one wins, and the programs of the others are asked once more.
    pub(crate) fn write(mut self, cache: &Path) -> io::Result<()> {
        self.0.retain(|path, _| path.exists());
        write(&cache.join(NAME), &self)
    }
}

/// Reads a value from a file of the user's cache folder; the default if it cannot be read.
pub(crate) fn read<T: Default + DeserializeOwned>(file: &Path) -> T {
    let read = || -> io::Result<T> {
        let mut bytes = Vec::new();
        std::fs::File::open(file)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    read().unwrap_or_default()
}

/// Writes a value to such a file.
pub(crate) fn write(file: &Path, kept: &impl Serialize) -> io::Result<()> {
    let cache = file.parent().unwrap_or(file);
    std::fs::create_dir_all(cache)?;
    let mut part = tempfile::NamedTempFile::new_in(cache)?;
    part.write_all(&serde_json::to_vec_pretty(kept)?)?;
    part.persist(file)?;
    Ok(())
}
