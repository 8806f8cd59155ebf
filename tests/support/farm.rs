//! A server with a worker of its own, and users who talk to it from another folder.

use super::{Running, Said, TestDir, until};
use serde_json::Value as Json;
use std::process::Command;

pub(crate) struct TestFarm {
    pub(crate) dir: TestDir,
    pub(crate) address: String,
    pub(crate) server: Running,
}

impl TestFarm {
    /// Starts `pictor serve` with these options, and waits until it is ready.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_after("true", options)
    }

    /// The same, in a shell that has executed a command, such as one that limits what the server may use.
    pub(crate) fn start_after(shell: &str, options: &[&str]) -> Self {
        let dir = TestDir::new();
        let data = dir.path("server").display().to_string();
        let serve = ["serve", "--listen", "127.0.0.1:0", "--data", &data, "--allow-commands"];
        let serve = dir.command(&[&serve, options].concat());
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!("{shell}; exec \"$0\" \"$@\""));
        command.arg(serve.get_program()).args(serve.get_args());
        command.current_dir(serve.get_current_dir().unwrap());
        for (name, value) in serve.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut server = Running::start(&mut command);
        let line = server.wait_for("http://127.0.0.1:");
        let address = line[line.find("http://").unwrap()..].split_whitespace().next().unwrap();
        let address = address.trim_end_matches(['/', ',', '.', ';']).to_owned();
        until("the server has made a token", || dir.path("server/admin-token").exists());
        let ready = ["--silent", "--fail", &format!("{address}/readyz")];
        until("the server is ready", || {
            Command::new("curl").args(ready).output().unwrap().status.success()
        });
        Self { dir, address, server }
    }

    /// `pictor` with the server and a token in its environment.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.dir.command(arguments);
        command.env("PICTOR_SERVER", &self.address);
        command.env("PICTOR_TOKEN_FILE", self.dir.path("server/admin-token"));
        command
    }

    pub(crate) fn pictor(&self, arguments: &[&str]) -> Said {
        Running::start(&mut self.command(arguments)).finish()
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> Said {
        let said = self.pictor(arguments);
        assert_eq!(said.code, Some(0), "pictor {arguments:?}\n{said}");
        said
    }

    /// The one JSON value that a command prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> Json {
        let said = self.ok(&[arguments, &["--json"]].concat());
        serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}\n{said}"))
    }

    /// The JSON values that a command prints, one a line.
    pub(crate) fn lines(&self, arguments: &[&str]) -> Vec<Json> {
        let said = self.pictor(&[arguments, &["--json"]].concat());
        said.expect(0, &[]);
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Submits a job and returns the run's id.
    pub(crate) fn submit(&self, job: &str) -> String {
        self.dir.write("job.yaml", job);
        self.json(&["submit", "job.yaml"])["id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn state(&self, run: &str) -> Json {
        self.json(&["show", run])["state"].take()
    }

    /// Sends a request and returns the status and body of the response.
    pub(crate) fn api(&self, method: &str, path: &str, body: &str) -> (u16, Json) {
        let token = std::fs::read_to_string(self.dir.path("server/admin-token")).unwrap();
        let token = format!("Authorization: Bearer {}", token.trim());
        let said = Command::new("curl")
            .args(["-sS", "-X", method, "-H", &token, "-H", "Content-Type: application/json"])
            .args(["-d", body, "-w", "\n%{http_code}", &format!("{}{path}", self.address)])
            .output()
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let (body, status) = said.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}
