//! The commands in the README do what it says.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use pictor_test_servers::{Postgres, RabbitMq};
use std::path::Path;
use std::process::{Command, Stdio};
use support::{TestDir, files, root, soak};

/// The commands of the README's example of a farm.
fn farm() -> String {
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let block = text.split("```sh\n").find(|block| block.contains("schedule trigger")).unwrap();
    block.split("```").next().unwrap().to_owned()
}

/// Two frames instead of all, except in the soak test.
#[test]
fn one_server_and_two_workers_render_by_hand_and_by_a_schedule() {
    let dir = TestDir::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let programs = Path::new(env!("CARGO_BIN_EXE_pictor")).parent().unwrap();
    let folder = dir.path("farm");
    let job = "workflows/turntable.yaml";
    let short = if soak() { job.to_owned() } else { format!("{job} --set render.frames=1-2") };
    let commands = farm()
        .replace("$PWD/target/debug", &programs.display().to_string())
        .replace(":7420", &format!(":{port}"))
        .replace(".pictor/farm", &folder.display().to_string())
        .replace(job, &short);
    let vhost = RabbitMq::start().vhost();
    // Server and workers end with the shell when a command fails, and everything ends when this test is killed.
    let commands = format!("trap 'kill $(jobs -p) || true' EXIT\n{commands}");
    let mut shell = Command::new("setpriv");
    shell.args(["--pdeathsig", "TERM", "timeout", "--kill-after=5", "600"]);
    shell
        .args(["bash", "-euo", "pipefail", "-c"])
        .arg(commands)
        .current_dir(root())
        .stdin(Stdio::null());
    shell.env("PICTOR_LISTEN", format!("127.0.0.1:{port}")).env("HOME", dir.path("home"));
    shell.env("POSTGRES_URL", Postgres::start().database());
    shell.env("AMQP_URL", vhost.amqp_url).env("RABBITMQ_URL", vhost.management_url);
    let said = shell.output().unwrap();
    let out = String::from_utf8_lossy(&said.stdout);
    let all = format!("{out}\n{}", String::from_utf8_lossy(&said.stderr));
    let [by_hand, nightly] = ["by-hand", "nightly"].map(|name| files(&folder.join(name)));
    assert_eq!(by_hand.len(), if soak() { 49 } else { 5 }, "{all}");
    assert!(by_hand.keys().eq(nightly.keys()), "{all}");
    // Pictures contain the time when they were made.
    assert_eq!(by_hand["turntable.mp4"], nightly["turntable.mp4"]);
    for words in ["two   enabled", "nightly is due at", "\"outcome\":\"started\"", "\"next_ms\":["]
    {
        assert!(out.contains(words), "`{words}` is not in:\n{all}");
    }
    assert!(said.status.success(), "{}:\n{all}", said.status);
}
