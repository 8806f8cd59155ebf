//! Limits on what all processes of a program use together, by control groups, where the system lets us make some: below
//! our own group if it is delegated to us (`Delegate=yes` in a unit of systemd) or belongs to us alone (a container).

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The share of the machine's memory that a program may use, in percent: the rest is for us and the system.
const MEMORY_PERCENT: u64 = 90;
/// The most processes and threads of a program.
const PROCESSES_MAX: u64 = 4_096;
/// How our groups are called; the id of our process and a number follow.
const PREFIX: &str = "pictor-";
/// A group can only be removed when the kernel has forgotten its last process.
const REMOVALS: u32 = 20;
const REMOVAL_PAUSE: Duration = Duration::from_millis(5);

/// A folder of the kernel's in which groups can be made, and the files of a group there that set a limit.
#[derive(Debug)]
struct Hierarchy {
    folder: PathBuf,
    limits: Vec<(&'static str, Limit)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Limit {
    Memory,
    Processes,
    /// Ends all processes of the group if memory runs out in it, and not only one.
    Whole,
}

/// The groups of one program, which are removed when this is dropped.
#[derive(Debug, Default)]
pub(in crate::programs) struct Groups(Vec<PathBuf>);

impl Groups {
    /// Makes them; there may be none.
    pub(super) fn new() -> Self {
        Self::with(memory_max().unwrap_or(u64::MAX >> 1), PROCESSES_MAX)
    }

    /// The same with other limits, in bytes and processes.
    pub(super) fn with(memory: u64, processes: u64) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}", std::process::id());
        let mut made = Self::default();
        for Hierarchy { folder, limits } in hierarchies() {
            let group = folder.join(&name);
            if fs::create_dir(&group).is_err() {
                continue;
            }
            for (file, limit) in limits {
                let limit = match limit {
                    Limit::Memory => memory.to_string(),
                    Limit::Processes => processes.to_string(),
                    Limit::Whole => "1".to_owned(),
                };
                if let Err(error) = fs::write(group.join(file), limit) {
                    tracing::debug!(%error, file, "a limit on programs cannot be set");
                }
            }
            made.0.push(group);
        }
        made
    }

    /// The files to which a process writes `0` in order to join, with spaces between them.
    pub(super) fn doors(&self) -> OsString {
        let mut all = OsString::new();
        for group in &self.0 {
            all.push(group.join("cgroup.procs"));
            all.push(" ");
        }
        all
    }

    /// Lets a process join, and be ended before us if memory runs out.
    pub(super) fn admit(&self, id: u32) {
        let _ = fs::write(format!("/proc/{id}/oom_score_adj"), "500");
        for group in &self.0 {
            let _ = fs::write(group.join("cgroup.procs"), id.to_string());
        }
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in &self.0 {
            // The first version has no such file; there, processes are only ended one by one.
            let _ = fs::write(group.join("cgroup.kill"), "1");
            for _ in 0..REMOVALS {
                match fs::remove_dir(group) {
                    Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(REMOVAL_PAUSE);
                    }
                    _ => break,
                }
            }
        }
    }
}

/// What is limited on this machine, for people: `memory and processes`.
pub(super) fn limited() -> String {
    let limits = hierarchies().iter().flat_map(|hierarchy| &hierarchy.limits);
    let kinds: Vec<&str> = limits
        .filter_map(|(_, limit)| match limit {
            Limit::Memory => Some("memory"),
            Limit::Processes => Some("processes"),
            Limit::Whole => None,
        })
        .collect();
    kinds.join(" and ")
}

fn hierarchies() -> &'static [Hierarchy] {
    static FOUND: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let ours = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let found: Vec<_> = [second_version(&mounts, &ours)]
            .into_iter()
            .flatten()
            .chain(
                ["memory", "pids"]
                    .into_iter()
                    .filter_map(|kind| first_version(&mounts, &ours, kind)),
            )
            .collect();
        for hierarchy in &found {
            forget_the_dead(&hierarchy.folder);
        }
        found
    })
}

/// The group of version 2, with the controllers that its children can have.
fn second_version(mounts: &str, ours: &str) -> Option<Hierarchy> {
    let path = ours.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let folder = mounted(mounts, |kind, _| kind == "cgroup2")?.join(path);
    let on = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).unwrap_or_default();
        ["memory", "pids"].map(|kind| text.split_whitespace().any(|word| word == kind))
    };
    if on("cgroup.subtree_control") == [false; 2] && on("cgroup.controllers") != [false; 2] {
        // A group with limits has no processes of its own: we move to a child. Others are not ours to move.
        let inside = fs::read_to_string(folder.join("cgroup.procs")).ok()?;
        if inside.split_whitespace().any(|id| id != std::process::id().to_string()) {
            return None;
        }
        let own = folder.join("pictor");
        fs::create_dir_all(&own).ok()?;
        fs::write(own.join("cgroup.procs"), "0").ok()?;
        for kind in ["+memory", "+pids"] {
            let _ = fs::write(folder.join("cgroup.subtree_control"), kind);
        }
    }
    let [memory, processes] = on("cgroup.subtree_control");
    let mut limits = Vec::new();
    if memory {
        limits.extend([("memory.max", Limit::Memory), ("memory.oom.group", Limit::Whole)]);
    }
    if processes {
        limits.push(("pids.max", Limit::Processes));
    }
    (!limits.is_empty() && is_writable(&folder)).then_some(Hierarchy { folder, limits })
}

/// The group of version 1 that limits this kind of resource.
fn first_version(mounts: &str, ours: &str, kind: &str) -> Option<Hierarchy> {
    let path = ours.lines().find_map(|line| {
        let (kinds, path) = line.split_once(':')?.1.split_once(':')?;
        kinds.split(',').any(|one| one == kind).then_some(path)
    })?;
    let is_it =
        |of: &str, options: &str| of == "cgroup" && options.split(',').any(|one| one == kind);
    let folder = mounted(mounts, is_it)?.join(path.trim_start_matches('/'));
    let limit = match kind {
        "memory" => ("memory.limit_in_bytes", Limit::Memory),
        _ => ("pids.max", Limit::Processes),
    };
    is_writable(&folder).then(|| Hierarchy { folder, limits: vec![limit] })
}

/// The first place where such a file system is mounted, by its type and its options.
fn mounted(mounts: &str, is_it: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (place, kind, options) = (words.next()?, words.next()?, words.next()?);
        is_it(kind, options).then(|| PathBuf::from(place))
    })
}

/// Whether groups can be made there. (Permissions alone do not say so: it may be mounted for reading only.)
fn is_writable(folder: &Path) -> bool {
    let trial = folder.join(format!("{PREFIX}{}-trial", std::process::id()));
    fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)).is_ok()
}

fn memory_max() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib.saturating_mul(1024) / 100 * MEMORY_PERCENT)
}

/// Removes groups of processes that were killed, and ended with all that they had started.
fn forget_the_dead(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}
