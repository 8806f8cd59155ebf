//! Installs a Blender on request: the module `bpy` from `PyPI`, which is Blender without its program and has kernels
//! for GPUs, with a wrapper that acts as the program. It is installed completely or not at all.

use crate::programs::process::exit_sentence;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The versions that pictor was tested with, oldest first, each with the Python that it is built for. Adding a newer
/// one takes one line.
pub const BUILDS: [Build; 3] = [
    Build { version: "4.2.23", python: "3.11" },
    Build { version: "4.5.15", python: "3.11" },
    Build { version: "5.0.1", python: "3.11" },
];
/// The sizes of the download and the installation, for messages.
pub const SIZE: &str = "about 350 MB to fetch, 1 GB on disk";
/// A description of such a Blender, for messages.
pub const WHAT: &str = "the module bpy from PyPI, built by Blender's developers, behind a wrapper of \
                        pictor's; it is not blender.org's build of the program";
/// The program's file name in its folder.
const PROGRAM: &str = "blender";
/// The Python file that acts as the program.
const WRAPPER: (&str, &str) = ("blender.py", include_str!("wrapper.py"));
/// The subfolder of the Python environment that contains the module.
const ENVIRONMENT: &str = "python";
/// The shell script that starts the wrapper. It also works through a symbolic link.
const STUB: &str = "#!/bin/sh\nhere=$(dirname \"$(readlink -f \"$0\")\")\n\
                    exec \"$here/python/bin/python3\" -E \"$here/blender.py\" \"$@\"\n";
/// The Debian packages of the libraries that the module loads.
const LIBRARIES: &str =
    "libxfixes3 libxi6 libxkbcommon0 libsm6 libxrender1 libgl1 libegl1 libxxf86vm1";
/// Printed by a Blender that works.
const WORKS: &str = "pictor: this Blender works";
/// How many of the last lines of a failed program are quoted.
const LAST_LINES: usize = 5;

/// A version of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Build {
    /// Blender's version, such as `4.5.15`.
    pub version: &'static str,
    /// The Python version that it needs, such as `3.11`.
    pub python: &'static str,
}

/// Why a Blender was not installed.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The version is not one that pictor was tested with.
    #[error(
        "install Blender {version}: pictor was tried with {known} alone; for another one get blender.org's build and name it with --blender PATH"
    )]
    Unknown {
        /// The version that was asked for.
        version: String,
        /// The known versions, as a list for the message.
        known: String,
    },
    /// No Python on this machine fits the module.
    #[error(
        "install Blender {}: the module bpy {} is for Python {}, and here is {found}. Install Python {} (`python{}` in PATH), or get blender.org's build and name it with --blender PATH",
        .build.version, .build.version, .build.python, .build.python, .build.python
    )]
    Python {
        /// The build that was to be installed.
        build: Build,
        /// The Python that was found instead, for the message.
        found: String,
    },
    /// The folder is in use for something else.
    #[error(
        "install Blender: {} holds something else; name a folder that does not exist, with --to DIR",
        .0.display()
    )]
    Foreign(PathBuf),
    /// Another process is installing into the same folder.
    #[error("install Blender: another pictor is at work in {}; wait until it is done", .0.display())]
    Busy(PathBuf),
    /// A program that was started, such as pip, failed.
    #[error("install Blender: {doing}: {problem}{}", hint(.problem))]
    Program {
        /// What the program was started for.
        doing: &'static str,
        /// The reason, from its output.
        problem: String,
    },
    /// A file or a folder could not be read or written.
    #[error("install Blender: {}: {}", .0.display(), .1)]
    Io(PathBuf, #[source] io::Error),
}

/// Advice about a program that failed.
fn hint(problem: &str) -> String {
    if problem.contains("cannot open shared object file") {
        return format!(
            ". Libraries are missing; on Debian and Ubuntu: apt-get install --no-install-recommends \
             {LIBRARIES}"
        );
    }
    if problem.contains("ensurepip") {
        return ". On Debian and Ubuntu: apt-get install python3-venv".into();
    }
    String::new()
}

impl Build {
    /// The build of a version; the newest if there is none given.
    pub fn named(version: Option<&str>) -> Result<Self, SetupError> {
        let Some(version) = version else { return Ok(BUILDS[BUILDS.len() - 1]) };
        BUILDS.into_iter().find(|build| build.version == version).ok_or_else(|| {
            let known = BUILDS.map(|build| build.version).join(", ");
            SetupError::Unknown { version: version.to_owned(), known }
        })
    }

    /// Installs the build into a folder, and returns the path of its program. An installation that works is left alone;
    /// one that does not is replaced. `say` receives messages about the progress.
    pub fn install(
        self,
        python: &Path,
        to: &Path,
        say: &dyn Fn(&str),
    ) -> Result<PathBuf, SetupError> {
        let program = to.join(PROGRAM);
        let (parent, name) = (to.parent().unwrap_or(to), to.file_name().unwrap_or(OsStr::new("")));
        std::fs::create_dir_all(parent).map_err(|e| SetupError::Io(parent.to_owned(), e))?;
        let _alone = lock(parent)?;
        if program.exists() && self.works(&program).is_ok() {
            say(&format!("Blender {} is there already and works", self.version));
            return Ok(program);
        }
        // However damaged it is: a part of an earlier installation remains.
        let is_ours = [WRAPPER.0, ENVIRONMENT].iter().any(|name| to.join(name).exists());
        if to.exists() && !is_ours && !is_empty(to) {
            return Err(SetupError::Foreign(to.to_owned()));
        }
        let python = self.python(python)?;
        say(&format!("fetching Blender {} with pip: {WHAT} ({SIZE})", self.version));
        // An earlier run that was killed may have left files, and its pip may still be writing there: so each run uses
        // a name of its own.
        let hidden = format!(".{}.part-", name.display());
        for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(hidden.as_bytes()) {
                remove(&entry.path())?;
            }
        }
        let part = parent.join(format!("{hidden}{}", std::process::id()));
        let old = parent.join(format!("{hidden}{}-old", std::process::id()));
        self.make(&python, &part).inspect_err(|_| drop(remove(&part)))?;
        if to.exists() {
            std::fs::rename(to, &old).map_err(|e| SetupError::Io(to.to_owned(), e))?;
        }
        std::fs::rename(&part, to).map_err(|e| SetupError::Io(to.to_owned(), e))?;
        remove(&old)?;
        Ok(program)
    }

    /// Builds the whole folder.
    fn make(self, python: &Path, folder: &Path) -> Result<(), SetupError> {
        let home = folder.join(ENVIRONMENT);
        let io = |path: &Path, error| SetupError::Io(path.to_owned(), error);
        std::fs::create_dir_all(folder).map_err(|e| io(folder, e))?;
        run("make an environment of Python", Command::new(python).args(["-m", "venv"]).arg(&home))?;
        let mut pip = Command::new(home.join("bin/python3"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--only-binary=:all:", &format!("bpy=={}", self.version)]);
        run("fetch it with pip", &mut pip)?;
        write_program(folder).map_err(|e| io(folder, e))?;
        self.works(&folder.join(PROGRAM))
    }

    /// Whether a program starts and has this version.
    fn works(self, program: &Path) -> Result<(), SetupError> {
        let script = format!("import bpy; print({WORKS:?}, bpy.app.version_string.split()[0])");
        let mut blender = Command::new(program);
        blender.args([
            "-b",
            "--factory-startup",
            "--python-exit-code",
            "1",
            "--python-expr",
            &script,
        ]);
        let said = run("start it", &mut blender)?;
        let said = String::from_utf8_lossy(&said.stdout);
        let is_it = said.lines().any(|line| line.trim() == format!("{WORKS} {}", self.version));
        let problem = || format!("it does not say that it is Blender {}", self.version);
        is_it
            .then_some(())
            .ok_or_else(|| SetupError::Program { doing: "start it", problem: problem() })
    }

    /// Finds a Python of the version that the module is built for.
    fn python(self, python: &Path) -> Result<PathBuf, SetupError> {
        let exact = PathBuf::from(format!("python{}", self.python));
        let ask = "import sys; print('%d.%d' % sys.version_info[:2])";
        let version = |program: &Path| {
            let said = Command::new(program).args(["-c", ask]).output().ok()?;
            let text = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            (said.status.success() && !text.is_empty()).then_some(text)
        };
        let fits = |program: &&Path| version(program).is_some_and(|found| found == self.python);
        let found = [python, &exact].into_iter().find(fits).map(Path::to_owned);
        found.ok_or_else(|| {
            let found =
                version(python).map_or("no Python".into(), |found| format!("Python {found}"));
            SetupError::Python { build: self, found }
        })
    }
}

/// Writes the wrapper and the script that starts it.
fn write_program(folder: &Path) -> io::Result<()> {
    std::fs::write(folder.join(WRAPPER.0), WRAPPER.1)?;
    let program = folder.join(PROGRAM);
    std::fs::write(&program, STUB)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
}

/// The programs below a folder of Blenders, each in a folder of its own. Unfinished installations have hidden names.
pub fn installed(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let visible = entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    let mut programs: Vec<PathBuf> = visible
        .map(|entry| entry.path().join(PROGRAM))
        .filter(|program| program.is_file())
        .collect();
    programs.sort();
    programs
}

/// A lock on the folder, held while it is being changed.
fn lock(folder: &Path) -> Result<File, SetupError> {
    let path = folder.join(".setup.lock");
    let file = File::create(&path).map_err(|error| SetupError::Io(path, error))?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| SetupError::Busy(folder.to_owned()))?;
    Ok(file)
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

fn remove(folder: &Path) -> Result<(), SetupError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SetupError::Io(folder.to_owned(), error))
        }
        _ => Ok(()),
    }
}

fn run(doing: &'static str, command: &mut Command) -> Result<Output, SetupError> {
    let failed = |problem: String| SetupError::Program { doing, problem };
    let program = command.get_program().display().to_string();
    command.env_remove("PYTHONPATH").env_remove("PYTHONHOME").stdin(Stdio::null());
    let output = command.output().map_err(|error| failed(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(output);
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("; ");
    Err(failed(format!("{program} {}: {last}", exit_sentence(output.status))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A fake Python whose environments contain one that prints prepared answers; `pip` is what its pip does.
    fn python(folder: &Path, version: &str, pip: &str) -> PathBuf {
        let path = folder.join("python3");
        let inner = format!("case \"$*\" in *pip*) {pip};; *) echo '{WORKS} 5.0.1';; esac");
        script(&folder.join("inner"), &inner);
        let inner = folder.join("inner");
        let venv = format!("mkdir -p \"$3/bin\" && cp '{}' \"$3/bin/python3\"", inner.display());
        script(&path, &format!("case \"$1\" in -c) echo {version};; -m) {venv};; esac"));
        path
    }

    fn newest() -> Build {
        Build::named(None).unwrap()
    }

    #[test]
    fn it_is_there_as_a_whole_or_not_at_all_and_a_second_time_repairs() {
        let folder = tempfile::tempdir().unwrap();
        let (to, said) =
            (folder.path().join("blenders/5.0.1"), std::cell::RefCell::new(Vec::new()));
        let say = |line: &str| said.borrow_mut().push(line.to_owned());
        let broken = python(folder.path(), "3.11", "echo no space left; exit 1");
        let error = newest().install(&broken, &to, &say).unwrap_err().to_string();
        assert!(error.contains("fetch it with pip") && error.contains("no space left"), "{error}");
        assert!(!to.exists());
        assert_eq!(installed(&folder.path().join("blenders")), [] as [PathBuf; 0]);
        let good = python(folder.path(), "3.11", "exit 0");
        let program = newest().install(&good, &to, &say).unwrap();
        assert_eq!(installed(&folder.path().join("blenders")), std::slice::from_ref(&program));
        assert!(
            said.borrow()[1].contains("not blender.org's") && said.borrow()[1].contains("350 MB")
        );
        newest().install(Path::new("/nowhere"), &to, &say).unwrap();
        assert!(said.borrow()[2].contains("is there already and works"));
        // Damaged: it is complete again afterwards, and nothing else is left.
        std::fs::remove_dir_all(to.join("python")).unwrap();
        newest().install(&good, &to, &say).unwrap();
        assert!(to.join("python/bin/python3").exists());
        let left = std::fs::read_dir(to.parent().unwrap()).unwrap().count();
        assert_eq!(left, 2, "the Blender, and the lock");
        assert_eq!(std::fs::read_to_string(to.join("blender.py")).unwrap(), WRAPPER.1);
    }

    #[test]
    fn what_cannot_be_installed_is_told_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("5.0.1");
        let quiet = |_: &str| ();
        let error = Build::named(Some("2.79")).unwrap_err().to_string();
        assert!(error.contains("4.2.23, 4.5.15, 5.0.1") && error.contains("--blender"), "{error}");
        // A version of Python that does not exist, so that a `python3.11` in PATH does not help.
        let build = Build { python: "3.999", ..newest() };
        let newer = python(folder.path(), "3.13", "exit 0");
        let error = build.install(&newer, &to, &quiet).unwrap_err().to_string();
        assert!(error.contains("for Python 3.999, and here is Python 3.13"), "{error}");
        let lacks = "echo 'ImportError: libXfixes.so.3: cannot open shared object file'; exit 1";
        let error = newest()
            .install(&python(folder.path(), "3.11", lacks), &to, &quiet)
            .unwrap_err()
            .to_string();
        assert!(error.contains("apt-get install --no-install-recommends libxfixes3"), "{error}");
        let foreign = folder.path().join("mine");
        std::fs::create_dir(&foreign).unwrap();
        std::fs::write(foreign.join("thesis"), "1").unwrap();
        let good = python(folder.path(), "3.11", "exit 0");
        let error = newest().install(&good, &foreign, &quiet).unwrap_err();
        assert!(matches!(error, SetupError::Foreign(_)), "{error}");
        assert!(foreign.join("thesis").exists());
        let held = lock(folder.path()).unwrap();
        assert!(matches!(newest().install(&good, &to, &quiet), Err(SetupError::Busy(_))));
        drop(held);
        // A different Blender from the one that was asked for.
        let other = Build::named(Some("4.5.15")).unwrap();
        let error = other.install(&good, &to, &quiet).unwrap_err().to_string();
        assert!(error.contains("does not say that it is Blender 4.5.15"), "{error}");
    }

    #[test]
    fn the_wrapper_acts_as_a_program_wherever_a_link_to_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        write_program(folder.path()).unwrap();
        script(&folder.path().join("python/bin/python3"), "echo \"$@\"");
        let link = folder.path().join("elsewhere");
        std::os::unix::fs::symlink(folder.path().join(PROGRAM), &link).unwrap();
        let said = Command::new(link).args(["-b", "a b"]).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.ends_with("/blender.py -b a b\n") && said.starts_with("-E "), "{said}");
    }
}
