//! What of the file system a program sees.

use crate::programs::Confinement;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

/// Folders of installed software, which everybody may read.
pub(super) const SYSTEM: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix/store"];
/// What libraries read of the system's settings; nothing in it is secret or says who uses the machine.
const SETTINGS: [&str; 18] = [
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/locale.alias",
    "/etc/fonts",
    "/etc/mime.types",
    "/etc/magic",
    "/etc/nsswitch.conf",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/ca-certificates",
    "/etc/pki",
    "/etc/OpenCL",
    "/etc/vulkan",
    "/var/cache/fontconfig",
];
/// What is needed to find other machines.
const NETWORK: [&str; 4] = ["/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/services"];
/// How the processors and their memory are arranged.
const PROCESSORS: &str = "/sys/devices/system";
/// Everything that the GPU's driver asks the kernel.
const DEVICES: [&str; 2] = ["/sys", "/run/nvidia-persistenced"];
/// How far interpreters of interpreters are followed.
const INTERPRETERS_MAX: usize = 3;

/// The files and folders that a program sees, by path, and whether it may write to them. A folder comes before what is
/// in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Places(pub(super) BTreeMap<PathBuf, bool>);

/// Other names of places, by which programs were told of them.
type Names = BTreeMap<PathBuf, bool>;

impl Places {
    pub(super) fn new(needs: &Confinement, program: &Path, path: &OsStr) -> Self {
        let (mut places, mut names) = (Self::default(), Names::default());
        let settings = SETTINGS.into_iter().chain([PROCESSORS]);
        let network = needs.network.then_some(NETWORK).into_iter().flatten();
        let devices = needs.gpu.is_some().then_some(DEVICES).into_iter().flatten();
        for place in settings.chain(network).chain(devices) {
            places.add(&mut names, Path::new(place), false);
        }
        places.install(&mut names, program, 0);
        for folder in std::env::split_paths(path).filter(|folder| folder.is_absolute()) {
            places.add(&mut names, &prefix(&folder), false);
        }
        for place in &needs.read {
            places.add(&mut names, place, false);
        }
        for place in &needs.write {
            places.add(&mut names, place, true);
        }
        for (name, writable) in names {
            // In a folder that is seen, the link is there already, and nothing else can be put in its place.
            let is_seen = |folder: &Path| places.0.contains_key(folder) || is_of_system(folder);
            if !name.ancestors().skip(1).any(is_seen) {
                *places.0.entry(name).or_default() |= writable;
            }
        }
        places
    }

    /// Adds a file or folder, if it exists. What is to be read only stays so inside of a folder that is written to, as do
    /// scratch folders inside of what is read.
    fn add(&mut self, names: &mut Names, place: &Path, writable: bool) {
        let Ok(real) = place.canonicalize() else { return };
        if real.parent().is_none() || (!writable && is_of_system(&real)) {
            return;
        }
        // A name with `..` leads to the real one by itself.
        let climbs = place.components().any(|part| part == Component::ParentDir);
        if place.is_absolute() && !climbs && place != real {
            *names.entry(place.to_owned()).or_default() |= writable;
        }
        *self.0.entry(real).or_default() |= writable;
    }

    /// Adds what is installed together with a program: its folder, or that of the interpreter that executes it.
    fn install(&mut self, names: &mut Names, program: &Path, depth: usize) {
        let real = program.canonicalize().unwrap_or_else(|_| program.to_owned());
        for file in [program, &real] {
            let Some(folder) = file.parent() else { continue };
            if is_of_system(folder) {
                continue;
            }
            let prefix = prefix(folder);
            self.add(names, if is_personal(&prefix) { file } else { &prefix }, false);
            // An environment of Python uses the files of the one that it was made with.
            for environment in [prefix.clone(), folder.join("python")] {
                let settings = std::fs::read_to_string(environment.join("pyvenv.cfg"));
                let settings = settings.unwrap_or_default();
                let home = settings.lines().find_map(|line| line.strip_prefix("home = "));
                if let Some(home) = home {
                    self.add(names, &self::prefix(Path::new(home.trim())), false);
                }
            }
        }
        if depth < INTERPRETERS_MAX
            && let Some(interpreter) = interpreter(&real)
        {
            self.install(names, &interpreter, depth + 1);
        }
    }
}

/// Whether everybody sees it in any case.
pub(super) fn is_of_system(real: &Path) -> bool {
    SYSTEM.iter().any(|system| real.starts_with(system))
}

/// The folder of an installation whose programs are in `folder`: the one that has libraries as well.
fn prefix(folder: &Path) -> PathBuf {
    let parent = folder.parent().filter(|parent| {
        let parts = ["lib", "libexec", "pyvenv.cfg"];
        let is_one = parts.iter().any(|part| parent.join(part).exists());
        // Below `~/.local` there are keys as well.
        is_one && !is_personal(parent) && !parent.ends_with(".local")
    });
    parent.unwrap_or(folder).to_owned()
}

/// Whether a folder is the user's home or contains it.
fn is_personal(folder: &Path) -> bool {
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    home.is_some_and(|home| home.starts_with(folder)) || folder.parent().is_none()
}

/// The program that executes a script.
fn interpreter(script: &Path) -> Option<PathBuf> {
    let mut head = Vec::new();
    std::fs::File::open(script).ok()?.take(256).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let name = std::str::from_utf8(line).ok()?.split_whitespace().next()?;
    Some(PathBuf::from(name))
}
