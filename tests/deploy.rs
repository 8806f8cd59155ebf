//! The files in `deploy/` are consistent with each other and with the command: what they name exists, and pictor reads
//! them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use saphyr::{LoadableYamlNode, YamlOwned};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use support::{TestDir, root};

fn deploy(name: &str) -> PathBuf {
    root().join("deploy").join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap()
}

/// A YAML value whose merge keys are resolved.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

impl Value {
    fn new(yaml: &YamlOwned) -> Self {
        if let Some(list) = yaml.as_vec() {
            return Self::List(list.iter().map(Self::new).collect());
        }
        let Some(map) = yaml.as_mapping() else {
            let text = yaml.as_str().map(str::to_owned);
            return Self::Text(text.unwrap_or_else(|| format!("{yaml:?}")));
        };
        let mut merged = BTreeMap::new();
        for (key, value) in map {
            if key.as_str() == Some("<<") {
                merged.extend(Self::new(value).map().clone());
            }
        }
        for (key, value) in map {
            merged.insert(key.as_str().unwrap().to_owned(), Self::new(value));
        }
        merged.remove("<<");
        Self::Map(merged)
    }

    fn map(&self) -> &BTreeMap<String, Self> {
        let Self::Map(map) = self else { panic!("{self:?} is no map") };
        map
    }

    fn list(&self) -> &[Self] {
        let Self::List(list) = self else { panic!("{self:?} is no list") };
        list
    }

    fn text(&self) -> &str {
        let Self::Text(text) = self else { panic!("{self:?} is no text") };
        text
    }
}

fn compose() -> Value {
    let documents = YamlOwned::load_from_str(&read("compose.yaml")).unwrap();
    assert_eq!(documents.len(), 1);
    Value::new(&documents[0])
}

#[test]
fn every_flag_and_variable_of_the_containers_is_one_of_the_command() {
    let dir = TestDir::new();
    let mut seen = BTreeSet::new();
    for (name, service) in compose().map()["services"].map() {
        let service = service.map();
        if !service.get("image").is_some_and(|image| image.text().starts_with("pictor-")) {
            continue;
        }
        let words: Vec<&str> = service["command"].list().iter().map(Value::text).collect();
        let help = dir.ok(&[words[0], "--help"]).out;
        seen.insert(words[0].to_owned());
        for flag in words.iter().filter(|word| word.starts_with("--")) {
            assert!(help.contains(&format!("{flag} ")), "{name}: {flag} is not in\n{help}");
        }
        for variable in service["environment"].map().keys() {
            let told = [format!("[env: {variable}]"), format!("[env: {variable}=")];
            let known = told.iter().any(|told| help.contains(told));
            assert!(known, "{name}: {variable} is not in\n{help}");
        }
    }
    assert_eq!(seen, BTreeSet::from(["serve".to_owned(), "work".to_owned()]));
}

#[test]
fn what_the_containers_name_exists() {
    let compose = compose();
    let services = compose.map()["services"].map();
    let volumes = compose.map()["volumes"].map();
    let secrets = compose.map()["secrets"].map();
    for (name, service) in services {
        let service = service.map();
        if let Some(depends) = service.get("depends_on") {
            for (other, how) in depends.map() {
                let other = services.get(other).unwrap_or_else(|| panic!("{name}: {other}")).map();
                let healthy = how.map()["condition"].text() == "service_healthy";
                assert!(!healthy || other.contains_key("healthcheck"), "{name} waits for health");
            }
        }
        for volume in service.get("volumes").into_iter().flat_map(Value::list) {
            let source = volume.text().split(':').next().unwrap();
            let there = match source.strip_prefix("./") {
                Some(file) => deploy(file).exists(),
                None => volumes.contains_key(source),
            };
            assert!(there, "{name}: {source}");
        }
        for secret in service.get("secrets").into_iter().flat_map(Value::list) {
            assert!(secrets.contains_key(secret.text()), "{name}: {secret:?}");
        }
        if let Some(build) = service.get("build").map(Value::map) {
            let folder = deploy(build["context"].text());
            let text = std::fs::read_to_string(folder.join(build["dockerfile"].text())).unwrap();
            let stage = format!(" AS {}\n", build["target"].text());
            assert!(text.contains(&stage), "{name}: {stage}");
        }
    }
    // Secrets are created by the operator, and must not be committed.
    let ignored = read(".gitignore");
    for secret in secrets.values() {
        let file = secret.map()["file"].text().trim_start_matches("./").to_owned();
        assert!(ignored.lines().any(|line| line == format!("/{file}")), "{file}");
    }
    assert!(ignored.lines().any(|line| line == "/.env"));
    let example = read("env.example");
    let text = read("compose.yaml");
    for used in text.split("${").skip(1) {
        let is_named = |c: &char| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == '_';
        let variable: String = used.chars().take_while(is_named).collect();
        let given = example.lines().any(|line| line.starts_with(&format!("{variable}=")));
        assert!(given, "{variable} is not in env.example");
    }
}

#[test]
fn the_images_are_built_from_what_the_build_needs() {
    // A crate or a build file that this list omits would only be missed in the image.
    let listed = read("Dockerfile.dockerignore");
    let workspace: toml::Table =
        std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = workspace["workspace"]["members"].as_array().unwrap().iter();
    for member in members.map(|member| member.as_str().unwrap()).chain(["src", "Cargo.lock"]) {
        assert!(listed.lines().any(|line| line == format!("!{member}")), "{member}");
    }
    let rust = workspace["workspace"]["package"]["rust-version"].as_str().unwrap();
    assert!(read("Dockerfile").contains(&format!("FROM rust:{rust}-")), "{rust}");
}

#[test]
fn a_server_starts_with_the_example_configuration() {
    let dir = TestDir::new();
    let config = deploy("pictor.toml").display().to_string();
    let mut server =
        dir.start(&["serve", "--listen", "127.0.0.1:0", "--no-worker", "--config", &config]);
    server.wait_for("listening on http://127.0.0.1:");
    server.signal(rustix::process::Signal::TERM);
    server.finish().expect(0, &[]);
    // Settings that are commented out are meant to be used: they are read, too, and only their files are missing.
    let all: String = read("pictor.toml")
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|l| is_setting(l)).unwrap_or(line))
        .flat_map(|line| [line, "\n"])
        .collect();
    dir.write("all.toml", &all);
    let said = dir.pictor(&["serve", "--config", "all.toml"]);
    said.expect(1, &["read the secret in /etc/pictor/"]);
    // Workers are given the same file.
    let said = dir.pictor(&["work", "--config", "all.toml"]);
    said.expect(1, &["read the token in /etc/pictor/"]);
}

fn is_setting(line: &str) -> bool {
    line.starts_with('[')
        || line.split_once(" = ").is_some_and(|(name, _)| !name.contains(char::is_whitespace))
}

#[test]
fn every_option_in_the_document_about_farms_is_one_of_the_command() {
    let dir = TestDir::new();
    let text = std::fs::read_to_string(root().join("docs/farm.md")).unwrap();
    let verbs = ["serve", "work", "submit", "download", "workers", "prune"];
    let helps = verbs.map(|verb| dir.ok(&[verb, "--help"]).out);
    let verbs = [["token", "add"], ["token", "revoke"], ["schedule", "add"]];
    let more = verbs.map(|verb| dir.ok(&[&verb[..], &["--help"]].concat()).out);
    let known = [helps.concat(), more.concat()].concat();
    let is_option = |c: char| c.is_ascii_lowercase() || c == '-';
    for found in text.split("--").skip(1).filter(|rest| rest.starts_with(char::is_alphabetic)) {
        let option: String = found.chars().take_while(|c| is_option(*c)).collect();
        let foreign = ["role", "no-worker", "default-queue-type"].contains(&&*option);
        // An optional value is printed in brackets.
        let told = [format!("--{option} "), format!("--{option}\n"), format!("--{option}[=")];
        assert!(foreign || told.iter().any(|told| known.contains(told)), "--{option}");
    }
    for variable in text.split(|c: char| !(c.is_ascii_uppercase() || c == '_' || c.is_numeric())) {
        let variable = variable.trim_end_matches('_');
        if variable.starts_with("PICTOR_") {
            assert!(known.contains(&format!("[env: {variable}")), "{variable}");
        }
    }
}
