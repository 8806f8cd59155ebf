//! What programs told, kept for the next start: Blender takes half a second of a processor to tell its version.
//! Whatever is wrong with what was kept, the program is asked.

use rustix::fs::Access;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The file in the user's cache folder.
const NAME: &str = "programs.json";
/// What is larger was not written by us.
const BYTES_MAX: u64 = 64 << 10;
/// What machine code begins with. A script may start anything, and whatever it starts changes without it.
const MACHINE_CODE: [u8; 4] = *b"\x7fELF";

/// What a program's file is like. Whoever replaces it changes one of these.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    size_bytes: u64,
    /// Seconds and nanoseconds since 1970.
    modified: (i64, i64),
    inode: u64,
}

/// A program's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Where it is, all links followed.
    path: PathBuf,
    identity: Identity,
}

impl Program {
    /// The file that is started under this name, or path. Nothing if there is none, or if it does not itself decide
    /// what it does: a script, or a program of another name that starts many (`snap`).
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

    /// The file at this path, whatever decides what it does.
    pub(crate) fn file(path: &Path) -> Option<Self> {
        let path = path.canonicalize().ok()?;
        let meta = path.metadata().ok()?;
        let modified = (meta.mtime(), meta.mtime_nsec());
        let identity = Identity { size_bytes: meta.len(), modified, inode: meta.ino() };
        Some(Self { path, identity })
    }

    /// A name for a folder, which another file of the program does not have.
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

/// A version, and the file that told it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    #[serde(flatten)]
    identity: Identity,
    version: String,
}

/// The versions that were told, by the programs' paths.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Versions(BTreeMap<PathBuf, Told>);

impl Versions {
    /// What is kept in the user's cache folder; nothing if it cannot be read.
    pub(crate) fn read(cache: &Path) -> Self {
        read(&cache.join(NAME))
    }

    /// What this file told.
    pub(crate) fn of(&self, program: &Program) -> Option<String> {
        let told = self.0.get(&program.path)?;
        (told.identity == program.identity).then(|| told.version.clone())
    }

    /// Keeps what a program told.
    pub(crate) fn insert(&mut self, program: Program, version: String) {
        self.0.insert(program.path, Told { identity: program.identity, version });
    }

    /// Writes it for the next start, without what is not there any more. Of several who write at the same time one
    /// wins, and the others' programs are asked once more.
    pub(crate) fn write(mut self, cache: &Path) -> io::Result<()> {
        self.0.retain(|path, _| path.exists());
        write(&cache.join(NAME), &self)
    }
}

/// What is kept in a file of the user's cache folder; the default if it cannot be read.
pub(crate) fn read<T: Default + DeserializeOwned>(file: &Path) -> T {
    let read = || -> io::Result<T> {
        let mut bytes = Vec::new();
        std::fs::File::open(file)?.take(BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    read().unwrap_or_default()
}

/// Keeps something in such a file.
pub(crate) fn write(file: &Path, kept: &impl Serialize) -> io::Result<()> {
    let cache = file.parent().unwrap_or(file);
    std::fs::create_dir_all(cache)?;
    let mut part = tempfile::NamedTempFile::new_in(cache)?;
    part.write_all(&serde_json::to_vec_pretty(kept)?)?;
    part.persist(file)?;
    Ok(())
}
