//! The API against its own description: schemathesis derives valid and invalid requests from it, and checks every
//! response against it. No 5xx and no undescribed response; in the long form (`make soak`) also no invalid request is
//! accepted, and no valid one rejected.

use crate::farm::{FILMS, Options, TestFarm};
use pictor_api::TokenRole;
use pictor_server::http::{Limits, Rate};
use pictor_test_servers::Postgres;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// Path at which scripts/setup.sh installs it.
const PROGRAM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../target/schemathesis/bin/schemathesis");
const CONFIG: &str = include_str!("schemathesis.toml");

/// Runs schemathesis for this many seconds on the operations that `which` selects.
async fn fuzz(farm: &TestFarm, (token, worker): (&str, u32), which: &[&str], seconds: u32) {
    assert!(Path::new(PROGRAM).exists(), "schemathesis is not installed: call `make setup`");
    let run = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&run).await;
    let task = farm.get(&format!("/v1/runs/{run}/tasks/join")).await.is(200);
    let config = CONFIG.replace("RUN", &run).replace("WORKER", &worker.to_string());
    let config = config.replace("KEY", task["outputs"][0]["key"].as_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schemathesis.toml"), config).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--no-color", "--max-time", &seconds.to_string()]).args(which);
    // Few random texts are valid keys; that many are filtered out says nothing about the API.
    command.args(["--suppress-health-check", "filter_too_much"]);
    if !soaks() {
        // A failure is reproducible.
        command.args(["--seed", "1"]);
        // It takes the long form to check what is accepted and rejected.
        let acceptance = "negative_data_rejection,positive_data_acceptance";
        command.args(["--exclude-checks", acceptance]);
    }
    command.args(["--header", &format!("Authorization: Bearer {token}")]);
    command.arg(format!("{}/openapi.json", farm.url));
    let said = command.current_dir(folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    let said = said.output().await.unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    let lines = text.lines().map(|line| line.chars().take(500).collect::<String>());
    let text = lines.collect::<Vec<_>>().join("\n");
    assert!(said.status.success(), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
    // A run without any request would succeed as well.
    let tested = text.lines().find_map(|line| line.trim().strip_prefix("Tested:"));
    assert!(tested.is_some_and(|tested| tested.trim().parse::<u32>().unwrap() > 0), "{text}");
}

/// Options that select operations; those after the first two only hold for the short form.
fn few<'a>(options: &'a [&'a str]) -> &'a [&'a str] {
    if soaks() { &options[..2] } else { options }
}

fn soaks() -> bool {
    std::env::var_os("PICTOR_SOAK").is_some()
}

/// A farm with Postgres, as real ones have it, and without rate limits.
async fn farm() -> TestFarm {
    let rate = Rate { per_second: 1e6, burst: 1e6 };
    let limits = Limits { rate, machine_rate: rate, ..Limits::default() };
    let database = Some(Postgres::start().database());
    TestFarm::with(Options { limits: Some(limits), database, ..Options::default() }).await
}

#[tokio::test]
async fn people_find_the_api_as_it_is_described() {
    let farm = farm().await;
    let seconds = if soaks() { 600 } else { 15 };
    let which = few(&["--exclude-tag", "machines", "--max-examples", "3"]);
    fuzz(&farm, (&farm.admin, 0), which, seconds).await;
    // Whoever may do less finds it so as well. An operator may do almost the same: the long form has time for that.
    let roles = [TokenRole::Submitter, TokenRole::Viewer, TokenRole::Worker, TokenRole::Operator];
    // The stream of events takes as long as nothing happens.
    let short = ["--exclude-tag", "machines", "--phases", "fuzzing", "--max-examples", "1"];
    let short = [&short[..], &["--exclude-path", "/v1/events"]].concat();
    let (roles, seconds) = if soaks() { (&roles[..], 200) } else { (&roles[..3], 6) };
    // One after the other: side by side, none has made a request when its time is over.
    for role in roles {
        let token = farm.token(*role, "root").await;
        fuzz(&farm, (&token, 0), few(&short), seconds).await;
    }
    farm.stop().await;
}

#[tokio::test]
async fn machines_find_the_api_as_it_is_described() {
    let farm = farm().await;
    let (worker, token) = farm.machine("rig").await;
    let seconds = if soaks() { 300 } else { 10 };
    let which = few(&["--include-tag", "machines", "--max-examples", "3"]);
    fuzz(&farm, (&token, worker), which, seconds).await;
    farm.stop().await;
}
