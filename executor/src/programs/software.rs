//! Detects the programs of this machine: their paths and versions.

use super::process::output;
use super::version_cache::{Program, Versions, started};
use super::{Confinement, Programs, how_to_get};
use futures_util::future::join_all;
use pictor_tasks::worker::{BLENDER, Blender};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tokio::process::Command;
use tokio::time::Duration;

/// A program that does not report its version within this time is not used.
const ANSWER: Duration = Duration::from_secs(10);

/// A program that pictor can use, and whether it is available.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The name of the program, as in `requires: software`.
    pub name: &'static str,
    /// What pictor uses it for.
    pub purpose: &'static str,
    /// The path of the program; the name that was looked up if it was not found.
    pub path: PathBuf,
    /// The version, or why the program cannot be used.
    pub version: Result<String, String>,
    /// How to install it on Debian.
    pub how_to_get: String,
}

/// The programs that can be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Software {
    /// The versions by name; for Blender, the oldest one.
    pub versions: BTreeMap<String, String>,
    /// The Blenders, ordered from the oldest. What they can do with GPUs has not been tried.
    pub blenders: Vec<Blender>,
}

impl Software {
    /// Collects the usable programs among the findings.
    pub fn of(findings: impl IntoIterator<Item = Finding>) -> Self {
        let mut found = Self::default();
        for Finding { name, path, version, .. } in findings {
            let Ok(version) = version else { continue };
            if name == BLENDER {
                let path = path.display().to_string();
                found.blenders.push(Blender { version, path, ..Blender::default() });
            } else {
                found.versions.insert(name.to_owned(), version);
            }
        }
        found.blenders.sort_by_key(|blender| numbers(&blender.version));
        let oldest = found.blenders.first().map(|blender| blender.version.clone());
        found.versions.extend(oldest.map(|version| (BLENDER.to_owned(), version)));
        found
    }
}

/// A version as numbers, so that 4.10 comes after 4.9.
fn numbers(version: &str) -> Vec<u64> {
    version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Whether a program exists, by its path or by a name that is looked up in PATH.
pub fn is_here(program: &Path) -> bool {
    started(program).is_some()
}

/// Asks every program that pictor can use for its version, all at the same time. Ignores remembered versions, as this
/// is used for troubleshooting.
pub async fn doctor(programs: &Programs) -> Vec<Finding> {
    ask_all(programs, |_| true, None).await
}

/// The wanted programs, as far as they are available.
pub(crate) async fn ask_for(
    programs: &Programs,
    wanted: impl Fn(&str) -> bool,
    cache: Option<&Path>,
) -> Software {
    Software::of(ask_all(programs, wanted, cache).await)
}

/// The Blenders among these programs, ordered from the oldest.
pub async fn blenders(programs: &Programs, cache: Option<&Path>) -> Vec<Blender> {
    ask_for(programs, |name| name == BLENDER, cache).await.blenders
}

async fn ask_all(
    programs: &Programs,
    wanted: impl Fn(&str) -> bool,
    cache: Option<&Path>,
) -> Vec<Finding> {
    let known = &cache.map(Versions::read).unwrap_or_default();
    let Programs { blenders, ffmpeg, ffprobe, python } = programs;
    let blenders =
        once_each(blenders).map(|blender| (BLENDER, "renders scenes", blender, "--version"));
    let others = [
        ("ffmpeg", "makes videos", ffmpeg.as_path(), "-version"),
        ("ffprobe", "checks videos", ffprobe, "-version"),
        ("python3", "runs scripts of `command` steps", python, "--version"),
    ];
    let asked = blenders.chain(others).filter(|(name, ..)| wanted(name));
    let asked = asked.map(|(name, purpose, program, argument)| async move {
        let file = cache.and_then(|_| Program::find(program));
        let (version, news) = match file.as_ref().and_then(|file| known.of(file)) {
            Some(version) => (Ok(version), None),
            None => (version(program, argument).await, file),
        };
        // A name is looked up once, so that a later change of PATH does not matter.
        let path = started(program).unwrap_or_else(|| program.to_owned());
        (Finding { name, purpose, path, version, how_to_get: how_to_get(name) }, news)
    });
    let found = join_all(asked).await;
    if let Some(cache) = cache {
        remember(cache, &found);
    }
    found.into_iter().map(|(finding, _)| finding).collect()
}

/// The programs without duplicates, as several names may lead to the same one.
fn once_each(programs: &[PathBuf]) -> impl Iterator<Item = &Path> {
    let file = |program: &Path| started(program).and_then(|path| path.canonicalize().ok());
    let files: Vec<_> = programs.iter().map(|program| file(program)).collect();
    let is_first = move |at: &usize| files[*at].is_none() || !files[..*at].contains(&files[*at]);
    (0..programs.len()).filter(is_first).map(|at| programs[at].as_path())
}

/// Stores the versions that programs reported. Programs whose file cannot be identified are asked again next time.
fn remember(cache: &Path, found: &[(Finding, Option<Program>)]) {
    let told = |(finding, file): &(Finding, Option<Program>)| {
        Some((file.clone()?, finding.version.clone().ok()?))
    };
    let told: Vec<_> = found.iter().filter_map(told).collect();
    if told.is_empty() {
        return;
    }
    // Others may have written it in the meantime.
    let mut versions = Versions::read(cache);
    for (file, version) in told {
        versions.insert(file, version);
    }
    if let Err(error) = versions.write(cache) {
        tracing::debug!(%error, "the versions of programs cannot be remembered");
    }
}

async fn version(program: &Path, argument: &str) -> Result<String, String> {
    let mut command = Command::new(program);
    let text =
        output(command.arg(argument), &Confinement::trusted(), ANSWER).await.map_err(|error| {
            match error.kind() {
                std::io::ErrorKind::NotFound if program.components().count() > 1 => {
                    format!("there is no `{}`", program.display())
                }
                std::io::ErrorKind::NotFound => format!("`{}` is not in PATH", program.display()),
                std::io::ErrorKind::TimedOut => format!("`{}` does not answer", program.display()),
                _ => format!("`{}` {error}", program.display()),
            }
        })?;
    version_in(&text).ok_or_else(|| format!("`{}` did not tell its version", program.display()))
}

/// The version in a program's first lines: the first word with a digit before a dot.
fn version_in(text: &str) -> Option<String> {
    let words = text.lines().take(3).flat_map(str::split_whitespace);
    words.map(|word| word.trim_start_matches(['v', 'n'])).find_map(|word| {
        let end = word.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(word.len());
        let number = word[..end].trim_end_matches('.');
        let looks_right = number.starts_with(|c: char| c.is_ascii_digit()) && number.contains('.');
        looks_right.then(|| number.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::inventory::find;
    use std::collections::BTreeSet;

    #[test]
    fn versions_are_found_in_what_programs_print() {
        for (text, version) in [
            ("Blender 3.4.1\n\tbuild date: 2023", "3.4.1"),
            ("Blender 5.0.0 Alpha", "5.0.0"),
            ("ffmpeg version 5.1.9-0+deb12u1 Copyright (c) 2000-2026", "5.1.9"),
            ("ffmpeg version n4.4.2 Copyright", "4.4.2"),
            ("Read prefs: /x\nBlender 4.2.0", "4.2.0"),
            ("Python 3.11.7", "3.11.7"),
        ] {
            assert_eq!(version_in(text).as_deref(), Some(version), "{text}");
        }
        assert_eq!(version_in("ffmpeg version N-12345-gabc"), None);
    }

    /// A folder with programs that report these versions.
    fn blenders(versions: &[&str]) -> (tempfile::TempDir, Programs) {
        let folder = tempfile::tempdir().unwrap();
        let programs = versions.iter().map(|version| {
            let path = folder.path().join(format!("blender-{version}"));
            std::fs::write(&path, format!("#!/bin/sh\necho Blender {version}\n")).unwrap();
            let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(&path, may_run).unwrap();
            path
        });
        let programs = Programs { blenders: programs.collect(), ..Programs::default() };
        (folder, programs)
    }

    #[tokio::test]
    async fn several_blenders_are_told_by_age_and_each_once() {
        let (folder, mut programs) = blenders(&["4.10.1", "3.4.1", "4.2.23"]);
        let link = folder.path().join("blender");
        std::os::unix::fs::symlink(&programs.blenders[0], &link).unwrap();
        programs.blenders.extend([link, "/nowhere/blender".into()]);
        let found = ask_for(&programs, |name| name == BLENDER, None).await;
        let versions: Vec<_> = found.blenders.iter().map(|b| &*b.version).collect();
        assert_eq!(versions, ["3.4.1", "4.2.23", "4.10.1"]);
        assert!(found.blenders.iter().all(|b| Path::new(&b.path).is_file()));
        assert_eq!(found.versions, [(BLENDER.to_owned(), "3.4.1".to_owned())].into());
        let told = doctor(&programs).await;
        assert_eq!(told[3].version, Err("there is no `/nowhere/blender`".to_owned()));
        assert!(told[3].how_to_get.contains("pictor setup-blender"));
        assert_eq!(told.iter().filter(|finding| finding.name == BLENDER).count(), 4);
    }

    /// A program in a folder of its own, beside the folder in which versions are remembered.
    struct Asked {
        folder: tempfile::TempDir,
        programs: Programs,
    }

    impl Asked {
        /// A copy of this machine's program, under the name `ffmpeg`.
        fn copy_of(program: &str) -> Self {
            let asked = Self::nothing();
            let paths = std::env::var_os("PATH").unwrap();
            let mut paths = std::env::split_paths(&paths).map(|folder| folder.join(program));
            let original = paths.find(|path| path.is_file()).unwrap();
            std::fs::copy(original, &asked.programs.ffmpeg).unwrap();
            asked
        }

        fn nothing() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (blenders, ffmpeg) = (Vec::new(), folder.path().join("ffmpeg"));
            let programs = Programs { blenders, ffmpeg, ..Programs::default() };
            Self { folder, programs }
        }

        /// The file in which versions are remembered.
        fn kept(&self) -> PathBuf {
            self.folder.path().join("cache/programs.json")
        }

        /// Replaces the remembered version.
        fn pretend(&self, old: &str, new: &str) {
            let text = std::fs::read_to_string(self.kept()).unwrap();
            assert!(text.contains(old), "{text}");
            std::fs::write(self.kept(), text.replace(old, new)).unwrap();
        }

        async fn version(&self) -> Option<String> {
            let (cache, wanted) = (self.folder.path().join("cache"), BTreeSet::from(["ffmpeg"]));
            let folder = self.folder.path();
            let found = find(folder, &self.programs, &wanted, folder, Some(&cache)).await;
            found.software.get("ffmpeg").cloned()
        }
    }

    #[tokio::test]
    async fn a_version_is_remembered_and_the_doctor_asks_all_the_same() {
        let asked = Asked::copy_of("ffmpeg");
        let version = asked.version().await.unwrap();
        asked.pretend(&version, "1.2.3");
        assert_eq!(asked.version().await.as_deref(), Some("1.2.3"));
        assert_eq!(doctor(&asked.programs).await[0].version.as_ref(), Ok(&version));
        let (folder, wanted) = (asked.folder.path(), BTreeSet::from(["ffmpeg"]));
        let found = find(folder, &asked.programs, &wanted, folder, None).await;
        assert_eq!(found.software["ffmpeg"], version);
    }

    #[tokio::test]
    async fn a_program_whose_file_changed_is_asked_anew() {
        let asked = Asked::copy_of("ffmpeg");
        let version = asked.version().await.unwrap();
        asked.pretend(&version, "1.2.3");
        let file = std::fs::File::options().write(true).open(&asked.programs.ffmpeg).unwrap();
        let meta = file.metadata().unwrap();
        file.set_modified(meta.modified().unwrap() + Duration::from_nanos(1)).unwrap();
        drop(file);
        assert_eq!(asked.version().await.as_ref(), Some(&version), "another time");
        asked.pretend(&version, "1.2.3");
        let other = asked.folder.path().join("other");
        std::fs::copy(&asked.programs.ffmpeg, &other).unwrap();
        let file = std::fs::File::options().write(true).open(&other).unwrap();
        file.set_modified(std::fs::metadata(&asked.programs.ffmpeg).unwrap().modified().unwrap())
            .unwrap();
        drop(file);
        std::fs::rename(&other, &asked.programs.ffmpeg).unwrap();
        assert_eq!(asked.version().await.as_ref(), Some(&version), "another file, of the same age");
        std::fs::remove_file(&asked.programs.ffmpeg).unwrap();
        assert_eq!(asked.version().await, None, "no file");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_not_remembered_and_written_anew() {
        let asked = Asked::copy_of("ffmpeg");
        let version = asked.version().await.unwrap();
        for broken in ["", "{", "[]", "{\"/usr/bin/ffmpeg\": 5}", &" ".repeat(1 << 17)] {
            std::fs::write(asked.kept(), broken).unwrap();
            assert_eq!(asked.version().await.as_ref(), Some(&version), "{broken:.20}");
            asked.pretend(&version, &version);
        }
        std::fs::remove_dir_all(asked.kept().parent().unwrap()).unwrap();
        std::fs::write(asked.kept().parent().unwrap(), "no folder").unwrap();
        assert_eq!(asked.version().await.as_ref(), Some(&version));
    }

    #[tokio::test]
    async fn a_failure_is_not_remembered() {
        let asked = Asked::copy_of("false");
        assert_eq!(asked.version().await, None);
        assert!(!asked.kept().exists());
        let true_one = Asked::copy_of("ffmpeg");
        std::fs::copy(&true_one.programs.ffmpeg, &asked.programs.ffmpeg).unwrap();
        assert!(asked.version().await.is_some());
        std::fs::copy(Asked::copy_of("false").programs.ffmpeg, &asked.programs.ffmpeg).unwrap();
        assert_eq!(asked.version().await, None);
    }

    #[tokio::test]
    async fn a_script_is_asked_each_time_since_it_may_start_another_program_tomorrow() {
        let asked = Asked::nothing();
        let said = asked.folder.path().join("said");
        let write = |text: &str| std::fs::write(&said, text).unwrap();
        write("ffmpeg version 6.0");
        let script = format!("#!/bin/sh\ncat '{}'\n", said.display());
        std::fs::write(&asked.programs.ffmpeg, script).unwrap();
        let may_run = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&asked.programs.ffmpeg, may_run).unwrap();
        assert_eq!(asked.version().await.as_deref(), Some("6.0"));
        write("ffmpeg version 7.0");
        assert_eq!(asked.version().await.as_deref(), Some("7.0"));
        assert!(!asked.kept().exists());
    }
}
