//! Namespaces, by Bubblewrap (`bwrap`).

use super::places::{Places, SYSTEM};
use crate::programs::Confinement;
use crate::programs::version_cache::started;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The size of a program's `/tmp` and of its `/dev/shm`, which are in memory.
const TEMPORARY_BYTES: &str = "2147483648";
/// Without the name of the network's namespace, which some programs share with us.
const NAMESPACES: [&str; 9] = [
    "--unshare-user",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--die-with-parent",
    "--new-session",
    "--cap-drop",
    "ALL",
];
const FRESH: [&str; 14] = [
    "--proc",
    "/proc",
    "--dev",
    "/dev",
    "--size",
    TEMPORARY_BYTES,
    "--tmpfs",
    "/tmp",
    "--size",
    TEMPORARY_BYTES,
    "--tmpfs",
    "/dev/shm",
    "--remount-ro",
    "/dev",
];

/// Finds Bubblewrap and tries whether it works here.
pub(super) fn usable() -> Result<PathBuf, String> {
    let program = started(Path::new("bwrap"))
        .ok_or("Bubblewrap is not installed (`apt install bubblewrap`)")?;
    let mut command = Command::new(&program);
    command.args(NAMESPACES).arg("--unshare-net").args(["--ro-bind", "/", "/"]).args(FRESH);
    let tried = command.arg("true").output();
    let tried = tried.map_err(|error| format!("Bubblewrap cannot be started: {error}"))?;
    if tried.status.success() {
        return Ok(program);
    }
    let said = String::from_utf8_lossy(&tried.stderr);
    let said = said.lines().next_back().unwrap_or("it does not say why").trim();
    Err(format!("Bubblewrap does not work here ({said})"))
}

/// Its arguments for a program that sees these places.
pub(super) fn arguments(places: &Places, needs: &Confinement, folder: &Path) -> Vec<OsString> {
    let mut all: Vec<OsString> = NAMESPACES.map(Into::into).into();
    if !needs.network {
        all.push("--unshare-net".into());
    }
    for place in SYSTEM {
        match std::fs::read_link(place) {
            Ok(to) => all.extend(["--symlink".into(), to.into(), place.into()]),
            Err(_) => all.extend(["--ro-bind-try", place, place].map(OsString::from)),
        }
    }
    let (devices, rest) = FRESH.split_at(4);
    all.extend(devices.iter().map(Into::into));
    if needs.gpu.is_some() {
        for node in nodes() {
            all.extend(["--dev-bind-try".into(), node.clone().into(), node.into()]);
        }
    }
    all.extend(rest.iter().map(Into::into));
    all.extend(["--symlink", "/tmp", "/var/tmp"].map(OsString::from));
    for (place, writable) in &places.0 {
        let bind = if *writable { "--bind" } else { "--ro-bind-try" };
        all.extend([bind.into(), place.into(), place.into()]);
    }
    all.extend(["--remount-ro".into(), "/".into(), "--chdir".into(), folder.into()]);
    all
}

/// The device nodes of the GPU's driver.
pub(super) fn nodes() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
        name.starts_with(b"nvidia") || name == b"kfd" || name == b"dri"
    };
    let mut nodes: Vec<_> = entries.map(|entry| entry.path()).filter(is_ours).collect();
    nodes.sort();
    nodes
}
