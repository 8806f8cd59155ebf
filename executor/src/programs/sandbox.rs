//! Keeps programs that open somebody's files apart from the rest of the machine. A scene, a video or a job may come from
//! anybody: whatever it makes a program do, that program sees the system's programs, the files of its own task and its
//! own scratch folder; it has no network unless it is given one, none of our environment, and no other processes.
//!
//! Bubblewrap does this with namespaces. Where it or user namespaces are missing, Landlock and a filter of system calls
//! protect the files, but other processes can be seen. What is not stopped is described in `docs/threats.md`.

mod bubblewrap;
mod groups;
mod places;
mod restrict;

use super::Confinement;
pub(super) use groups::Groups;
use rustix::fs::{Access, access};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::OnceLock;
use tokio::process::{Child, Command};

/// The variables that a program inherits, with what it gets if they are not set.
const INHERITED: [(&str, Option<&str>); 5] = [
    ("PATH", Some("/usr/local/bin:/usr/bin:/bin")),
    ("LANG", Some("C.UTF-8")),
    ("LC_ALL", None),
    ("TZ", None),
    // Where drivers are in an unusual place.
    ("LD_LIBRARY_PATH", None),
];

/// Lowers the limits of the shell that then becomes the program: no core dumps, which would hold another's data; files
/// of at most 1 TiB; and as many processes and threads as large renders need. (The limit of processes has no effect for
/// root, but that of the control group has.) `dash` calls the last one `-p`, `bash` calls it `-u`. If memory runs out,
/// the program is to be ended and not us.
const LIMITS: &str = r#"{ ulimit -c 0; ulimit -f 2147483648; ulimit -p 16384 || ulimit -u 16384
echo 500 > /proc/self/oom_score_adj
for group in $PICTOR_GROUPS; do echo 0 > "$group"; done; unset PICTOR_GROUPS; } 2> /dev/null
"#;

/// Whether programs have to run in a sandbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxPolicy {
    /// They have to.
    Required,
    /// They do if this machine has one.
    #[default]
    Preferred,
    /// Not at all.
    Off,
}

impl FromStr for SandboxPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "required" => Ok(Self::Required),
            "preferred" => Ok(Self::Preferred),
            "off" => Ok(Self::Off),
            _ => Err(format!("`{text}` is none of required, preferred, off")),
        }
    }
}

impl fmt::Display for SandboxPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "required",
            Self::Preferred => "preferred",
            Self::Off => "off",
        })
    }
}

/// How the programs of this process are kept apart.
#[derive(Debug)]
pub enum Sandbox {
    /// By Bubblewrap, at this path.
    Bubblewrap(PathBuf, restrict::CallsFile),
    /// By Landlock, because of the given reason.
    Landlock(String),
    /// Not at all, because of the given reason.
    Nothing(String),
}

/// What every program of this process sees in addition to what it needs.
#[derive(Debug, Default)]
pub struct Shared {
    /// Files and folders to be read.
    pub read: Vec<PathBuf>,
    /// Files and folders to be read and written.
    pub write: Vec<PathBuf>,
}

static CHOSEN: OnceLock<Sandbox> = OnceLock::new();
static SHARED: OnceLock<Shared> = OnceLock::new();

impl Sandbox {
    /// The sandbox of this process: the one chosen with [`Sandbox::choose`], or else the best one that the machine has.
    pub fn current() -> &'static Self {
        CHOSEN.get_or_init(|| Self::find(SandboxPolicy::Preferred))
    }

    /// Chooses the sandbox of this process. This has no effect once a program has been started.
    ///
    /// # Errors
    ///
    /// A sentence, if a sandbox is required and the machine has none.
    pub fn choose(policy: SandboxPolicy, shared: Shared) -> Result<&'static Self, String> {
        SHARED.get_or_init(|| shared);
        let found = CHOSEN.get_or_init(|| Self::find(policy));
        match found {
            Self::Nothing(why) if policy == SandboxPolicy::Required => Err(format!(
                "A sandbox is required, and this machine has none: {why}. `--sandbox preferred` goes on without one: \
                 then everybody whose jobs run here can read what this user can."
            )),
            _ => Ok(found),
        }
    }

    fn find(policy: SandboxPolicy) -> Self {
        if policy == SandboxPolicy::Off {
            return Self::Nothing("it is switched off (`--sandbox off`)".into());
        }
        let why = match bubblewrap::usable().and_then(|program| {
            let calls = restrict::CallsFile::new().map_err(|error| error.to_string())?;
            Ok(Self::Bubblewrap(program, calls))
        }) {
            Ok(found) => return found,
            Err(why) => why,
        };
        match restrict::is_usable() {
            Ok(()) => Self::Landlock(why),
            Err(error) => Self::Nothing(format!("{why}; nor is there Landlock: {error}")),
        }
    }

    /// Fails, with a sentence, if every program of this process could read the folder of a worker.
    pub(crate) fn check_hides(&self, data: &Path) -> io::Result<()> {
        let real = data.canonicalize()?;
        let shared =
            SHARED.get().into_iter().flat_map(|shared| shared.read.iter().chain(&shared.write));
        let system = places::SYSTEM.iter().map(Path::new);
        let open = system.chain(shared.map(PathBuf::as_path)).find(|place| real.starts_with(place));
        match open.filter(|_| !self.is_missing()) {
            Some(place) => Err(io::Error::other(format!(
                "the programs of jobs can read what is in {}, and {} is there with its secrets: choose another data \
                 folder (`--data`)",
                place.display(),
                data.display()
            ))),
            None => Ok(()),
        }
    }

    /// What it is and, unless it is the best one, why.
    pub fn sentence(&self) -> String {
        match self {
            Self::Bubblewrap(program, _) => {
                let limited = groups::limited();
                let limits = if limited.is_empty() { "nothing" } else { &limited };
                let program = program.display();
                format!(
                    "programs run in a sandbox of namespaces ({program}); control groups limit {limits}"
                )
            }
            Self::Landlock(why) => format!(
                "programs are confined by Landlock, but see which other processes run, because {why}"
            ),
            Self::Nothing(why) => format!("programs run WITHOUT a sandbox, because {why}"),
        }
    }

    /// Whether there is none.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Nothing(_))
    }

    /// Whether it is the best one.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Bubblewrap(..))
    }
}

/// The variable with the files by which the shell joins control groups.
const GROUPS: &str = "PICTOR_GROUPS";

/// A program that is ready to be started.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) command: Command,
    rules: Option<restrict::Rules>,
    /// Those of the program; they have to be kept until it has ended.
    pub(super) groups: Groups,
    /// Whether the child is Bubblewrap, which starts the program in namespaces.
    pub(super) in_namespaces: bool,
}

impl Prepared {
    /// Starts it.
    pub(super) fn start(&mut self) -> io::Result<Child> {
        let Some(rules) = self.rules.take() else { return self.command.spawn() };
        let child = rules.spawn(&mut self.command)?;
        // By its rules the shell may not do this by itself.
        if let Some(id) = child.id() {
            self.groups.admit(id);
        }
        Ok(child)
    }
}

/// Prepares the start of a program with what it needs.
pub(super) fn prepare(asked: &Command, needs: &Confinement) -> io::Result<Prepared> {
    let mut needs = needs.clone();
    if let Some(shared) = SHARED.get() {
        needs.read.extend(shared.read.iter().cloned());
        // The first one is the working folder.
        if !needs.write.is_empty() {
            needs.write.extend(shared.write.iter().cloned());
        }
    }
    prepare_in(Sandbox::current(), asked, &needs)
}

fn prepare_in(sandbox: &Sandbox, asked: &Command, needs: &Confinement) -> io::Result<Prepared> {
    let asked = asked.as_std();
    let folder = asked.get_current_dir().or(needs.write.first().map(PathBuf::as_path));
    if needs.is_trusted {
        let mut command = Command::new(asked.get_program());
        command.args(asked.get_args());
        for (name, value) in asked.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        folder.map(|folder| command.current_dir(folder));
        let groups = Groups::default();
        return Ok(Prepared { command, rules: None, groups, in_namespaces: false });
    }
    let mut variables = environment(needs);
    for (name, value) in asked.get_envs() {
        match value {
            Some(value) => variables.insert(name.to_owned(), value.to_owned()),
            None => variables.remove(name),
        };
    }
    let path = variables.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let folder = folder.unwrap_or(Path::new("/"));
    if !folder.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let program = program(asked.get_program(), &path, folder)?;
    let mut command = Command::new("/bin/sh");
    let (mut rules, mut groups) = (None, Groups::default());
    match sandbox {
        Sandbox::Bubblewrap(bubblewrap, calls) => {
            let script = format!("{LIMITS} exec \"$@\" 9< \"$0\"");
            groups = Groups::new();
            variables.insert(GROUPS.into(), groups.doors());
            command.arg("-c").arg(script).arg(calls.path()).arg(bubblewrap);
            let places = places::Places::new(needs, &program, &path);
            command.args(bubblewrap::arguments(&places, needs, folder));
            command.args(["--seccomp", "9", "--"]);
        }
        Sandbox::Landlock(_) => {
            let script = format!("{LIMITS} exec \"$@\"");
            groups = Groups::new();
            command.args(["-c", &script, "sh"]);
            let places = places::Places::new(needs, &program, &path);
            rules = Some(restrict::Rules::new(&places, needs)?);
            // The machine's own folder for temporary files is shared.
            let place = needs.write.first().map_or(OsString::from("/"), Into::into);
            variables.entry("TMPDIR".into()).or_insert(place);
        }
        Sandbox::Nothing(_) => {
            command = Command::new(&program);
        }
    }
    if !matches!(sandbox, Sandbox::Nothing(_)) {
        command.arg(&program);
    }
    command.args(asked.get_args()).env_clear().envs(variables).current_dir(folder);
    let in_namespaces = matches!(sandbox, Sandbox::Bubblewrap(..));
    Ok(Prepared { command, rules, groups, in_namespaces })
}

/// The environment of every program, before what its caller sets.
fn environment(needs: &Confinement) -> BTreeMap<OsString, OsString> {
    let inherited = INHERITED.into_iter().filter_map(|(name, fallback)| {
        Some((name.into(), std::env::var_os(name).or_else(|| fallback.map(Into::into))?))
    });
    let home = needs.write.first().map_or(OsString::from("/tmp"), Into::into);
    let mut all: BTreeMap<_, _> = inherited.chain([("HOME".into(), home)]).collect();
    all.extend(needs.gpu_variables());
    all
}

/// The file that is executed under a name, as the system finds it.
fn program(name: &OsStr, path: &OsStr, folder: &Path) -> io::Result<PathBuf> {
    let mut error = io::ErrorKind::NotFound;
    let mut is_found = |file: &PathBuf| {
        let found = file.is_file() && access(file, Access::EXEC_OK).is_ok();
        if !found && file.exists() {
            error = io::ErrorKind::PermissionDenied;
        }
        found
    };
    let found = if name.as_encoded_bytes().contains(&b'/') {
        Some(folder.join(name)).filter(&mut is_found)
    } else {
        std::env::split_paths(path).map(|place| folder.join(place).join(name)).find(is_found)
    };
    found.ok_or_else(|| error.into())
}

#[cfg(test)]
mod tests;
