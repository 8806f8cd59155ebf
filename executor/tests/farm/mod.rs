//! One worker and the owner's end of its queue, in a temporary folder.
#![expect(dead_code, reason = "each test binary uses its part")]

use pictor_executor::{Agent, Artifacts, Config, Handle, Intake};
use pictor_queue::{Incoming, OwnerPort, OwnerQueue, Publication, ToOwner, ToWorker, in_process};
use pictor_tasks::body::{Body, Command, Noop};
use pictor_tasks::message::{
    Assignment, Brief, Cancel, Failure, Input, Outcome, Output, Products, Report, RunId, StepKey,
    TaskEnd, Try, What, WorkerId,
};
use pictor_tasks::space::{Axis, Coordinates, Space, Values};
use pictor_tasks::units::Millis;
use pictor_tasks::worker::Inventory;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The longest wait for a message; after that, the test has failed.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);
pub(crate) const WORKER: WorkerId = WorkerId(7);

pub(crate) struct TestFarm {
    handle: Option<Handle>,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) inputs: Option<Vec<Input>>,
    owner: OwnerPort,
    batch: Vec<Incoming>,
    assignments: u64,
}

pub(crate) fn key() -> StepKey {
    StepKey { run: RunId("run-1".into()), step: 0, generation: 0 }
}

pub(crate) fn first_try(index: u32) -> Try {
    Try { index, attempt: 1 }
}

/// A step over `frame`, from 1.
pub(crate) fn brief(body: Body, frames: u32) -> Brief {
    let values = Values::Ints(format!("1-{frames}").parse().unwrap());
    let axis = Axis { name: "frame".into(), values, bound: None };
    Brief {
        step: "step".into(),
        space: Space { axes: vec![axis] },
        body,
        timeout: None,
        stalled: None,
        files: BTreeMap::new(),
        folder: String::new(),
        has_inputs: false,
        binds: Vec::new(),
        blender: None,
    }
}

pub(crate) fn noop(duration_ms: Option<u64>, tasks: u32) -> Brief {
    brief(Body::Noop(Noop { duration: duration_ms.map(Millis) }), tasks)
}

pub(crate) fn command(run: &[&str], outputs: &[(&str, &str)]) -> Brief {
    let own = |(name, file): &(&str, &str)| ((*name).to_owned(), (*file).into());
    let run = run.iter().map(|word| (*word).to_owned()).collect();
    let outputs = outputs.iter().map(own).collect();
    brief(Body::Command(Command { run, env: BTreeMap::new(), outputs, files: BTreeMap::new() }), 3)
}

pub(crate) fn shell(script: &str) -> Brief {
    command(&["sh", "-c", script], &[])
}

impl TestFarm {
    pub(crate) fn start() -> Self {
        Self::start_with(|_| {})
    }

    pub(crate) fn start_with(edit: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (owner, mut ports) = in_process(&[WORKER]);
        let mut config = Config::new(folder.path().join("data"), Inventory::default());
        config.allow_commands = true;
        edit(&mut config);
        let port = ports.remove(0);
        let outbox = Arc::new(port.sender());
        let artifacts = Artifacts::in_folder(&config.artifacts()).unwrap();
        let handle = Agent::start(Box::new(port), outbox, WORKER, config, artifacts).unwrap();
        Self {
            handle: Some(handle),
            folder,
            inputs: None,
            owner,
            batch: Vec::new(),
            assignments: 0,
        }
    }

    /// Makes the worker leave, while its messages are still received.
    pub(crate) fn leave(&mut self, now: bool) {
        let intake = if now { Intake::HandBack } else { Intake::Finish };
        self.handle.as_ref().unwrap().leave(intake);
    }

    pub(crate) fn take(&self, intake: Intake) {
        self.handle.as_ref().unwrap().take(intake);
    }

    pub(crate) fn lose_owner(mut self) -> (Handle, tempfile::TempDir) {
        (self.handle.take().unwrap(), self.folder)
    }

    pub(crate) fn assign(&mut self, brief: Brief, tasks: impl IntoIterator<Item = u32>) {
        self.assignments += 1;
        let tasks = tasks.into_iter().map(first_try).collect();
        let assignment =
            Assignment { key: key(), id: self.assignments, brief: Arc::new(brief), tasks };
        let sent = self.owner.publish(WORKER, ToWorker::Assign(assignment));
        assert_eq!(sent, Publication::Confirmed);
    }

    pub(crate) fn cancel(&mut self, tasks: impl IntoIterator<Item = u32>) {
        let tasks = tasks.into_iter().map(first_try).collect();
        let cancel = ToWorker::Cancel(Cancel { key: key(), tasks });
        assert_eq!(self.owner.publish(WORKER, cancel), Publication::Confirmed);
    }

    /// The next message; requests for inputs are answered.
    pub(crate) async fn message(&mut self) -> ToOwner {
        loop {
            if self.batch.is_empty() {
                let received = self.owner.receive(&mut self.batch, 1);
                let count = tokio::time::timeout(LIMIT, received).await.expect("a message in time");
                assert!(count > 0, "the worker is gone");
            }
            let Incoming::Message(message) = self.batch.remove(0) else {
                panic!("in-process there are only messages");
            };
            match message {
                ToOwner::Inputs { reply, .. } => {
                    if let Some(inputs) = self.inputs.clone() {
                        reply.send(inputs).unwrap();
                    }
                }
                message => return message,
            }
        }
    }

    /// The next report of the worker.
    pub(crate) async fn report(&mut self) -> What {
        self.full_report().await.what
    }

    pub(crate) async fn full_report(&mut self) -> Report {
        loop {
            // The start of a task is reported whenever the task takes a while, even on a busy machine.
            let begun = |what: &What| matches!(what, What::Progress { fraction: 0.0, message, .. } if message.is_empty());
            if let ToOwner::Report(report) = self.message().await
                && !begun(&report.what)
            {
                assert_eq!((report.worker, &report.key), (WORKER, &key()));
                return report;
            }
        }
    }

    /// The next tasks that end.
    pub(crate) async fn ended(&mut self) -> Vec<TaskEnd> {
        loop {
            if let What::Ended(ends) = self.report().await {
                return ends;
            }
        }
    }

    /// Runs one task and returns its outcome.
    pub(crate) async fn outcome(&mut self, brief: Brief) -> Outcome {
        self.assign(brief, [0]);
        self.ended().await.remove(0).outcome
    }

    pub(crate) async fn failure(&mut self, brief: Brief) -> Failure {
        match self.outcome(brief).await {
            Outcome::Failed(failure) => failure,
            other => panic!("a failure was expected: {other:?}"),
        }
    }

    pub(crate) async fn products(&mut self, brief: Brief) -> Products {
        match self.outcome(brief).await {
            Outcome::Succeeded(products) => products,
            other => panic!("a success was expected: {other:?}"),
        }
    }

    pub(crate) fn artifact(&self, output: &Output) -> PathBuf {
        self.folder.path().join("data/artifacts").join(&output.key)
    }

    /// Stores a file as the output of a task of the step `before`.
    pub(crate) fn input(&self, index: u32, label: &str, name: &str, path: &Path) -> Input {
        let file = path.file_name().unwrap().to_str().unwrap();
        let key = format!("runs/run-1/before/0/{index}/1-00/{file}");
        let stored = self.folder.path().join("data/artifacts").join(&key);
        std::fs::create_dir_all(stored.parent().unwrap()).unwrap();
        let size_bytes = std::fs::copy(path, &stored).unwrap();
        let digest = blake3::hash(&std::fs::read(path).unwrap()).to_hex().to_string();
        let output = Output { name: name.into(), key, digest, size_bytes };
        let coordinates = Coordinates::of_label(label);
        Input { step: "before".into(), label: label.into(), index, coordinates, output }
    }

    /// Waits until a task's program sleeps, and returns the ids of its processes. They are marked by [`sleeper`].
    pub(crate) async fn sleeping(&self) -> Vec<String> {
        let mark = format!("{MARK}={}", self.folder.path().display());
        let look = async {
            loop {
                let all = processes(&mark);
                let words = |id: &String| std::fs::read(format!("/proc/{id}/cmdline"));
                if all.iter().any(|id| words(id).is_ok_and(|words| words == b"sleep\x00600\0")) {
                    return all;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LIMIT, look).await.expect("a program that sleeps in time")
    }

    /// Makes a file of this name in the folder of every task that is running. Programs see no others.
    pub(crate) fn signal(&self, name: &str) {
        let tasks = self.folder.path().join("data/scratch/7/0/run-1/made");
        for task in std::fs::read_dir(tasks).unwrap() {
            std::fs::write(task.unwrap().path().join(name), "").unwrap();
        }
    }
}

/// The variable that marks the processes of a program.
const MARK: &str = "TEST_MARK";

/// A script that sleeps for ten minutes at last, for [`TestFarm::sleeping`] of the farm in this folder.
pub(crate) fn sleeper(script: &str, folder: &Path) -> Brief {
    let mut brief = shell(script);
    if let Body::Command(command) = &mut brief.body {
        command.env.insert(MARK.into(), folder.to_str().unwrap().into());
    }
    brief
}

/// The processes that have this variable in their environment.
fn processes(variable: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let is_marked = |entry: &std::fs::DirEntry| {
        let all = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        all.split(|byte| *byte == 0).any(|one| one == variable.as_bytes())
    };
    entries.filter(is_marked).map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Whether a process has ended; a zombie counts as ended.
pub(crate) fn is_gone(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
}
