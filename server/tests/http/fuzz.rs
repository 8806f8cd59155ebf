//! The API against its own description: schemathesis makes requests from it, right and wrong ones, and holds
//! every answer against it. No 5xx, no answer that is not described; in the long form (`make soak`) also nothing
//! accepted that should not be, nothing refused that is as described.

use crate::farm::{FILMS, Farm, Options};
use pictor_server::http::{Limits, Rate};
use pictor_test_servers::Postgres;
use std::path::Path;
use std::process::Stdio;
use tokio::process::Command;

/// Where scripts/setup.sh installs it.
const PROGRAM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../target/schemathesis/bin/schemathesis");
const CONFIG: &str = include_str!("schemathesis.toml");

/// Lets schemathesis ask for so many seconds about the operations that `which` chooses.
async fn fuzz(farm: &Farm, (token, worker): (&str, u32), which: [&str; 2], seconds: u32) {
    assert!(Path::new(PROGRAM).exists(), "schemathesis is not installed: call `make setup`");
    let run = farm.submit(&farm.admin, FILMS).await;
    farm.until_over(&run).await;
    let task = farm.get(&format!("/v1/runs/{run}/tasks/join")).await.is(200);
    let config = CONFIG.replace("RUN", &run).replace("WORKER", &worker.to_string());
    let config = config.replace("KEY", task["outputs"][0]["key"].as_str().unwrap());
    std::fs::write(farm.path("schemathesis.toml"), config).unwrap();
    let mut command = Command::new(PROGRAM);
    command.args(["run", "--no-color", "--max-time", &seconds.to_string()]).args(which);
    // Few random texts are keys: that many have to be left out says nothing about the API.
    command.args(["--suppress-health-check", "filter_too_much"]);
    if !soaks() {
        // What fails once fails again.
        command.args(["--seed", "1", "--max-examples", "3"]);
        // Whether everything is accepted and refused as described takes the long form to find out.
        let acceptance = "negative_data_rejection,positive_data_acceptance";
        command.args(["--exclude-checks", acceptance]);
    }
    command.args(["--header", &format!("Authorization: Bearer {token}")]);
    command.arg(format!("{}/openapi.json", farm.url));
    let said = command.current_dir(farm.folder.path()).stdin(Stdio::null()).kill_on_drop(true);
    let said = said.output().await.unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    let lines = text.lines().map(|line| line.chars().take(500).collect::<String>());
    let text = lines.collect::<Vec<_>>().join("\n");
    assert!(said.status.success(), "{text}\n{}", String::from_utf8_lossy(&said.stderr));
    // One that asked nothing would succeed as well.
    let tested = text.lines().find_map(|line| line.trim().strip_prefix("Tested:"));
    assert!(tested.is_some_and(|tested| tested.trim().parse::<u32>().unwrap() > 0), "{text}");
}

fn soaks() -> bool {
    std::env::var_os("PICTOR_SOAK").is_some()
}

/// A farm over the database that real ones have, which a machine may ask as often as it can.
async fn farm() -> Farm {
    let rate = Rate { per_second: 1e6, burst: 1e6 };
    let limits = Limits { rate, machine_rate: rate, ..Limits::default() };
    let database = Some(Postgres::start().database());
    Farm::with(Options { limits: Some(limits), database, ..Options::default() }).await
}

#[tokio::test]
async fn people_find_the_api_as_it_is_described() {
    let farm = farm().await;
    let seconds = if soaks() { 600 } else { 20 };
    fuzz(&farm, (&farm.admin, 0), ["--exclude-tag", "machines"], seconds).await;
    farm.stop().await;
}

#[tokio::test]
async fn machines_find_the_api_as_it_is_described() {
    let farm = farm().await;
    let (worker, token) = farm.machine("rig").await;
    let seconds = if soaks() { 300 } else { 10 };
    fuzz(&farm, (&token, worker), ["--include-tag", "machines"], seconds).await;
    farm.stop().await;
}
