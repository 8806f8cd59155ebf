//! A scene with everything that it needs, as a list of files: created by the client that packs it, laid out by the
//! worker that renders it. The list is JSON, is an asset itself, and is recognised by its first bytes.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// The folder of a packed scene for files that the scene names by an absolute path.
pub const ABSOLUTE: &str = "_abs";
/// The names of packed files for commands: programs, and all others. Each is a folder, or, where the job names a single
/// file, that file.
pub const PROGRAMS: &str = "executable";
/// The name for packed files that are not programs; see [`PROGRAMS`].
pub const PLAIN: &str = "plain";
/// The most files of one scene.
pub const FILES_MAX: usize = 200_000;
/// The longest list, in bytes of JSON.
pub const MANIFEST_BYTES_MAX: u64 = 128 << 20;
/// The longest path, in bytes, and the longest name in it.
const PATH_BYTES_MAX: usize = 1024;
const NAME_BYTES_MAX: usize = 255;
/// The version of the list format.
const VERSION: u32 = 1;
/// The first bytes of every list; no scene file begins with them.
const MARK: &[u8] = br#"{"pictor_pack":"#;

/// What is wrong with a packed scene. It must be packed again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackError {
    /// The content is not a list of files.
    #[error("read a packed scene: {0}")]
    Unreadable(String),
    /// A newer pictor packed it.
    #[error("read a packed scene: version {0} of the list is newer than this pictor")]
    Newer(u32),
    /// A path could lead out of the folder, or is not a valid path on every system.
    #[error("pack a scene: `{0}` cannot be the path of a packed file")]
    Path(String),
    /// Two files have the same path, or the path of a file is that of a folder.
    #[error("pack a scene: `{0}` is in the way of another file")]
    Clash(String),
    /// A digest is not 64 hexadecimal digits.
    #[error("pack a scene: `{0}` has no usable digest")]
    Digest(String),
    /// The scene file itself is not among the files.
    #[error("pack a scene: the scene `{0}` is not among its files")]
    NoScene(String),
    /// There are more files than [`FILES_MAX`].
    #[error("pack a scene: {0} files are more than {FILES_MAX}")]
    TooMany(usize),
}

/// A scene and the files that it needs, with the paths that the scene uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "List", into = "List")]
pub struct PackManifest {
    /// The scene file, one of `files`.
    pub scene: String,
    /// All files, ordered by path.
    pub files: Vec<PackedFile>,
}

/// One file of a packed scene.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedFile {
    /// Its path in the packed scene: a relative path of plain names. Files that the scene names by an absolute path are
    /// below [`ABSOLUTE`].
    pub path: String,
    /// The BLAKE3 digest of its content, in hex, which is the name of its asset.
    pub digest: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// The stored form of the list.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    pictor_pack: u32,
    scene: String,
    files: Vec<PackedFile>,
}

impl PackManifest {
    /// Checks and sorts the files of a scene: the same files give the same list.
    pub fn new(scene: String, mut files: Vec<PackedFile>) -> Result<Self, PackError> {
        files.sort();
        if files.len() > FILES_MAX {
            return Err(PackError::TooMany(files.len()));
        }
        let mut folders = BTreeSet::new();
        for file in &files {
            if !is_packed_path(&file.path) {
                return Err(PackError::Path(file.path.clone()));
            }
            if !is_digest(&file.digest) {
                return Err(PackError::Digest(file.path.clone()));
            }
            folders.extend(file.path.match_indices('/').map(|(at, _)| &file.path[..at]));
        }
        let twice = files.windows(2).find(|two| two[0].path == two[1].path).map(|two| &two[0]);
        let covers = || files.iter().find(|file| folders.contains(file.path.as_str()));
        if let Some(file) = twice.or_else(covers) {
            return Err(PackError::Clash(file.path.clone()));
        }
        if files.binary_search_by(|file| file.path.as_str().cmp(&scene)).is_err() {
            return Err(PackError::NoScene(scene));
        }
        Ok(Self { scene, files })
    }

    /// Whether these are the first bytes of a list; a few dozen are enough.
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(MARK)
    }

    /// Parses a list and checks it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, PackError> {
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            return Err(PackError::Unreadable(format!("{} bytes are too many", bytes.len())));
        }
        let list: List = serde_json::from_slice(bytes)
            .map_err(|error| PackError::Unreadable(error.to_string()))?;
        list.try_into()
    }

    /// The list as bytes: the asset to upload. The same files give the same bytes.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a list of texts and numbers")
    }
}

impl TryFrom<List> for PackManifest {
    type Error = PackError;

    fn try_from(list: List) -> Result<Self, PackError> {
        if list.pictor_pack != VERSION {
            return Err(PackError::Newer(list.pictor_pack));
        }
        Self::new(list.scene, list.files)
    }
}

impl From<PackManifest> for List {
    fn from(manifest: PackManifest) -> Self {
        let PackManifest { scene, files } = manifest;
        Self { pictor_pack: VERSION, scene, files }
    }
}

/// The path in a packed scene of a file that the scene names by this absolute path: `_abs/a/b.png` for `/a/b.png`,
/// `_abs/C/a/b.png` for `C:\a\b.png`. `None` if the path is not absolute or cannot be packed.
pub fn absolute_path(path: &str) -> Option<String> {
    let path = path.replace('\\', "/");
    let inner = match path.split_once(":/") {
        Some((drive, rest)) if drive.len() == 1 && drive.as_bytes()[0].is_ascii_alphabetic() => {
            format!("{}/{rest}", drive.to_ascii_uppercase())
        }
        // Two slashes: a path relative to the scene, in Blender's notation.
        _ => path.strip_prefix('/').filter(|rest| !rest.starts_with('/'))?.to_owned(),
    };
    let parts = inner.split('/').filter(|part| !matches!(*part, "" | "."));
    let packed = [ABSOLUTE].into_iter().chain(parts).collect::<Vec<_>>().join("/");
    is_packed_path(&packed).then_some(packed)
}

/// Whether a file is a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Executable(pub bool);

/// The packed path of a file for commands; `inside` is its path in the folder that the job names, and empty where the
/// job names the file itself.
pub fn command_file(Executable(is_program): Executable, inside: &str) -> String {
    let kind = if is_program { PROGRAMS } else { PLAIN };
    if inside.is_empty() { kind.to_owned() } else { format!("{kind}/{inside}") }
}

/// Whether a path may be in a packed scene: relative, plain names, none of them `.` or `..`.
pub fn is_packed_path(path: &str) -> bool {
    let plain = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= NAME_BYTES_MAX;
    let printable = !path.contains(|c: char| c.is_control() || c == '\\');
    path.len() <= PATH_BYTES_MAX && printable && path.split('/').all(plain)
}

/// Whether a text is a BLAKE3 digest in lower-case hex.
pub fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> PackedFile {
        PackedFile { path: path.into(), digest: "0a".repeat(32), size_bytes: 3 }
    }

    fn packed(scene: &str, files: &[&str]) -> Result<PackManifest, PackError> {
        PackManifest::new(scene.into(), files.iter().map(|path| file(path)).collect())
    }

    #[test]
    fn the_same_files_give_the_same_bytes_and_are_read_back() {
        let one = packed("a/s.blend", &["a/s.blend", "t/wood.png", "_abs/x/y.png"]).unwrap();
        let other = packed("a/s.blend", &["_abs/x/y.png", "t/wood.png", "a/s.blend"]).unwrap();
        assert_eq!(one.to_json(), other.to_json());
        assert!(PackManifest::is_one(&one.to_json()));
        assert!(!PackManifest::is_one(b"BLENDER-v304"));
        assert_eq!(PackManifest::from_json(&one.to_json()).unwrap(), other);
    }

    #[test]
    fn a_file_cannot_lie_outside_the_folder_or_where_another_one_is() {
        for bad in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/", "./a", "a\\b", "a\nb"] {
            assert_eq!(packed("s", &["s", bad]).unwrap_err(), PackError::Path(bad.into()));
        }
        assert_eq!(packed("s", &["s", "s"]).unwrap_err(), PackError::Clash("s".into()));
        for files in [["s", "a", "a/b"], ["s", "a/b", "a"]] {
            assert_eq!(packed("s", &files).unwrap_err(), PackError::Clash("a".into()));
        }
        assert_eq!(packed("s", &["t"]).unwrap_err(), PackError::NoScene("s".into()));
        let shout = PackedFile { digest: "0A".repeat(32), ..file("s") };
        let error = PackManifest::new("s".into(), vec![shout]).unwrap_err();
        assert_eq!(error, PackError::Digest("s".into()));
    }

    #[test]
    fn what_is_read_is_checked() {
        let text = |version, path: &str| {
            let digest = "0a".repeat(32);
            format!(
                r#"{{"pictor_pack":{version},"scene":"s","files":[{{"path":"{path}","digest":"{digest}","size_bytes":1}}]}}"#
            )
        };
        assert!(PackManifest::from_json(text(1, "s").as_bytes()).is_ok());
        let escaped = PackManifest::from_json(text(1, "../s").as_bytes());
        assert_eq!(escaped.unwrap_err(), PackError::Path("../s".into()));
        let newer = PackManifest::from_json(text(2, "s").as_bytes());
        assert_eq!(newer.unwrap_err(), PackError::Newer(2));
        let other = PackManifest::from_json(b"BLENDER").unwrap_err();
        assert!(matches!(other, PackError::Unreadable(_)), "{other}");
    }

    #[test]
    fn absolute_paths_have_a_place_of_their_own() {
        for (path, place) in [
            ("/home/a/wood.png", Some("_abs/home/a/wood.png")),
            ("/home//a/./wood.png", Some("_abs/home/a/wood.png")),
            ("c:\\textures\\wood.png", Some("_abs/C/textures/wood.png")),
            ("C:/textures/wood.png", Some("_abs/C/textures/wood.png")),
            ("/home/../wood.png", None),
            ("wood.png", None),
            ("//wood.png", None),
        ] {
            assert_eq!(absolute_path(path).as_deref(), place, "{path}");
        }
    }
}
