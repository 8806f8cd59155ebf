//! The structure of the source: which crate may depend on which, what stays pure, how long files may get.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::root;

/// The crates of ours that a crate may use. The order of the lines proves that there are no cycles.
const MAY_USE: [(&str, &[&str]); 16] = [
    ("pictor-tasks", &[]),
    ("pictor-api", &["pictor-tasks"]),
    ("pictor-net", &[]),
    ("pictor-test-servers", &[]),
    ("pictor-engine", &["pictor-tasks"]),
    ("pictor-proof", &["pictor-tasks"]),
    ("pictor-artifacts", &["pictor-tasks", "pictor-net"]),
    ("pictor-storage", &["pictor-tasks", "pictor-net", "pictor-artifacts"]),
    ("pictor-queue", &["pictor-tasks", "pictor-net"]),
    ("pictor-pictures", &["pictor-tasks"]),
    ("pictor-convolution", &[]),
    ("pictor-models", &["pictor-tasks", "pictor-convolution"]),
    (
        "pictor-executor",
        &[
            "pictor-tasks",
            "pictor-api",
            "pictor-net",
            "pictor-artifacts",
            "pictor-queue",
            "pictor-pictures",
            "pictor-models",
        ],
    ),
    (
        "pictor-server",
        &[
            "pictor-tasks",
            "pictor-api",
            "pictor-net",
            "pictor-engine",
            "pictor-artifacts",
            "pictor-storage",
            "pictor-queue",
        ],
    ),
    (
        "pictor",
        &[
            "pictor-tasks",
            "pictor-api",
            "pictor-net",
            "pictor-engine",
            "pictor-artifacts",
            "pictor-storage",
            "pictor-queue",
            "pictor-models",
            "pictor-executor",
            "pictor-server",
        ],
    ),
    (
        "pictor-benches",
        &[
            "pictor-tasks",
            "pictor-api",
            "pictor-net",
            "pictor-engine",
            "pictor-artifacts",
            "pictor-storage",
            "pictor-queue",
            "pictor-models",
            "pictor-executor",
            "pictor-server",
            "pictor",
            "pictor-test-servers",
        ],
    ),
];
/// Crates without input, output, clock or randomness.
const PURE: [&str; 3] = ["tasks", "engine", "proof"];
/// Packages that no pure crate may reach, not even through other crates.
const IMPURE: [&str; 12] = [
    "tokio", "sqlx", "lapin", "opendal", "axum", "rand", "reqwest", "hyper", "mio", "chrono",
    "time", "fastrand",
];
/// Packages of those who serve, or ask servers.
const SERVERS: [&str; 7] = ["tokio", "sqlx", "lapin", "opendal", "axum", "reqwest", "hyper"];
/// Paths that no source of a pure crate may name.
const IMPURE_PATHS: [&str; 8] = [
    "SystemTime",
    "Instant",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::process",
    "RandomState",
];
/// Module names that say nothing about their content.
const EMPTY_NAMES: [&str; 8] =
    ["util", "utils", "common", "helper", "helpers", "manager", "misc", "base"];
/// Most lines of a file …
const LINES: usize = 500;
/// … except these, each for a reason.
const LONG: [(&str, &str); 0] = [];

fn metadata() -> Json {
    let mut cargo = Command::new(env!("CARGO"));
    // Crates for other systems may not be downloaded.
    let rustc = Command::new("rustc").arg("-vV").output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    cargo.args(["metadata", "--format-version", "1", "--offline", "--locked"]);
    cargo.args(["--filter-platform", host]);
    let said = cargo.current_dir(root()).output().unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    serde_json::from_slice(&said.stdout).unwrap()
}

/// The name of each package and the packages that it is built with, without those of tests and benchmarks.
fn dependencies(metadata: &Json) -> BTreeMap<&str, (&str, Vec<&str>)> {
    let packages = metadata["packages"].as_array().unwrap().iter();
    let names: BTreeMap<_, _> =
        packages.map(|p| (p["id"].as_str().unwrap(), p["name"].as_str().unwrap())).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| {
            let all = node["deps"].as_array().unwrap().iter();
            let normal = all.filter(|dep| {
                dep["dep_kinds"].as_array().unwrap().iter().any(|kind| kind["kind"].is_null())
            });
            let id = node["id"].as_str().unwrap();
            (id, (names[id], normal.map(|dep| dep["pkg"].as_str().unwrap()).collect()))
        })
        .collect()
}

#[test]
fn crates_use_each_other_in_one_direction() {
    let metadata = metadata();
    let all = dependencies(&metadata);
    let members: Vec<&str> = metadata["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m.as_str().unwrap())
        .collect();
    for (i, (name, may)) in MAY_USE.iter().enumerate() {
        let before: Vec<_> = MAY_USE[..i].iter().map(|(name, _)| *name).collect();
        assert!(
            may.iter().all(|used| before.contains(used)),
            "{name} may use what comes before it"
        );
    }
    for member in &members {
        let (name, used) = &all[member];
        let ours = used.iter().filter(|id| members.contains(*id)).map(|id| all[id].0);
        let (_, may) = MAY_USE.iter().find(|(known, _)| known == name).unwrap_or_else(|| {
            panic!("{name} is new: say in tests/architecture.rs what it may use")
        });
        let wrong: Vec<_> = ours.filter(|used| !may.contains(used)).collect();
        assert!(wrong.is_empty(), "{name} may not use {wrong:?}");
    }
}

#[test]
fn tasks_engine_and_proof_are_pure() {
    let metadata = metadata();
    let all = dependencies(&metadata);
    for pure in PURE {
        let name = format!("pictor-{pure}");
        let reached = reached(&all, &name);
        let wrong: Vec<_> = IMPURE.iter().filter(|name| reached.contains(**name)).collect();
        assert!(wrong.is_empty(), "{name} reaches {wrong:?}");
        for path in sources(&root().join(pure).join("src"), &["rs"]) {
            for (number, line) in code(&path) {
                let named = IMPURE_PATHS.iter().find(|word| is_named(&line, word));
                assert_eq!(named, None, "{}:{number}: {line}", path.display());
            }
        }
    }
}

#[test]
fn vocabulary_pictures_and_networks_know_nothing_of_servers() {
    let metadata = metadata();
    let all = dependencies(&metadata);
    for name in ["pictor-api", "pictor-pictures", "pictor-models"] {
        let reached = reached(&all, name);
        let wrong: Vec<_> = SERVERS.iter().filter(|name| reached.contains(**name)).collect();
        assert!(wrong.is_empty(), "{name} reaches {wrong:?}");
    }
}

/// The names of all packages that a package is built with, however many lie between.
fn reached<'a>(all: &BTreeMap<&'a str, (&'a str, Vec<&'a str>)>, name: &str) -> BTreeSet<&'a str> {
    let (start, _) = all.iter().find(|(_, (known, _))| *known == name).unwrap();
    let (mut reached, mut next) = (BTreeSet::new(), vec![*start]);
    while let Some(id) = next.pop() {
        if reached.insert(id) {
            next.extend(&all[id].1);
        }
    }
    let reached: BTreeSet<_> = reached.iter().map(|id| all[id].0).collect();
    assert!(reached.contains("serde"), "the search works: {reached:?}");
    reached
}

/// Crates whose folders use each other in one direction.
const ROOMS: [&str; 2] = ["engine", "executor"];

#[test]
fn folders_use_each_other_in_one_direction() {
    for krate in ROOMS {
        let modules = modules(&root().join(krate).join("src"));
        assert!(modules.len() > 20, "the search works: {}", modules.len());
        let is_folder = |path: &[String]| {
            modules.keys().any(|other| other.len() > path.len() && other.starts_with(path))
        };
        // For each folder, the sibling folders that it uses, and where.
        let mut uses: BTreeMap<Vec<String>, BTreeMap<Vec<String>, String>> = BTreeMap::new();
        for (from, text) in &modules {
            for to in uses_of(from, text, &modules) {
                let common = from.iter().zip(&to).take_while(|(a, b)| a == b).count();
                let (Some(_), Some(_)) = (from.get(common), to.get(common)) else { continue };
                let (a, b) = (&from[..=common], &to[..=common]);
                if is_folder(a) && is_folder(b) {
                    let place = format!("{} uses {}", from.join("::"), to.join("::"));
                    uses.entry(a.to_vec()).or_default().insert(b.to_vec(), place);
                }
            }
        }
        for start in uses.keys() {
            let (mut seen, mut next) = (BTreeSet::new(), vec![(start, String::new())]);
            while let Some((folder, trail)) = next.pop() {
                for (used, place) in uses.get(folder).into_iter().flatten() {
                    let trail = format!("{trail}\n  {place}");
                    assert_ne!(used, start, "{krate}/src: a circle of folders:{trail}");
                    if seen.insert(used) {
                        next.push((used, trail));
                    }
                }
            }
        }
    }
}

/// The modules of a crate by their paths, each without comments and tests.
fn modules(folder: &Path) -> BTreeMap<Vec<String>, String> {
    let mut found = BTreeMap::new();
    let mut tests = BTreeSet::new();
    for file in sources(folder, &["rs"]) {
        let path = file.strip_prefix(folder).unwrap().with_extension("");
        let mut path: Vec<String> =
            path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
        if matches!(path.last().map(String::as_str), Some("mod" | "lib")) {
            path.pop();
        }
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for module in text.split("#[cfg(test)]\nmod ").skip(1) {
            let name = module.split(';').next().unwrap();
            tests.insert([path.as_slice(), &[name.to_owned()]].concat());
        }
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let code: Vec<&str> = text.lines().filter(is_code).collect();
        found.insert(path, code.join("\n"));
    }
    found.retain(|path, _| !tests.iter().any(|test| path.starts_with(test)));
    found
}

/// The modules that a module names from the crate's root or from above itself.
fn uses_of(
    from: &[String],
    text: &str,
    modules: &BTreeMap<Vec<String>, String>,
) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("crate::").chain(text.match_indices("super::")) {
        let before = text[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        let mut path = Vec::new();
        let mut rest = text[at..].split("::");
        let mut names = rest.by_ref().peekable();
        while let Some(name) = names.next_if(|name| matches!(*name, "crate" | "super")) {
            if name == "super" && path.is_empty() {
                path = from.to_vec();
            }
            path.truncate(if name == "super" { path.len().saturating_sub(1) } else { 0 });
        }
        for name in names {
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
            path.push(name[..end.unwrap_or(name.len())].to_owned());
            if end.is_some() {
                break;
            }
        }
        while !path.is_empty() && !modules.contains_key(&path) {
            path.pop();
        }
        // Items in `lib.rs`, and `use crate::{…}`, would hide which folder is used.
        let line = text[at..].lines().next().unwrap_or_default();
        assert!(!path.is_empty(), "{}: `{line}` names no folder", from.join("::"));
        found.insert(path);
    }
    found
}

/// The lines of a source without its comments and its tests.
fn code(path: &Path) -> Vec<(usize, String)> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = (1..).zip(text.lines());
    lines
        .take_while(|(_, line)| line.trim() != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
        .map(|(number, line)| (number, line.to_owned()))
        .collect()
}

/// Whether a line contains `word` as a whole word.
fn is_named(line: &str, word: &str) -> bool {
    let outside = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        outside(line[..at].chars().next_back()) && outside(line[at + word.len()..].chars().next())
    })
}

/// Files below a folder, without build output and files that git does not know.
fn sources(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(sources(&path, extensions));
        } else if extensions.iter().any(|e| path.extension().is_some_and(|found| found == *e)) {
            found.push(path);
        }
    }
    found
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut wrong = Vec::new();
    for path in sources(root(), &["rs", "py"]) {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        let is_listed = LONG.iter().any(|(long, _)| *long == name);
        if lines > LINES && !is_listed {
            wrong.push(format!("{name} has {lines} lines: cut it where it has a seam"));
        }
        if is_listed && lines <= LINES {
            wrong.push(format!("{name} is not long any more: take it off the list"));
        }
        let start = if path.extension().is_some_and(|e| e == "rs") { "//! " } else { "\"\"\"" };
        if !text.trim_start_matches("#!/usr/bin/env python3\n").starts_with(start) {
            wrong.push(format!("{name} does not begin with what it is for ({start})"));
        }
        let parts = Path::new(&name).with_extension("");
        let empty = parts.iter().find(|part| EMPTY_NAMES.iter().any(|empty| part == empty));
        if let Some(empty) = empty {
            wrong.push(format!("{name}: `{}` says nothing", empty.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
