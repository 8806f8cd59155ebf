//! Whether a worker made what it reports. A report is a claim of a machine that may belong to anybody: before a success
//! counts, its outputs have to lie in the attempt's own folder, to exist, and to have the size and digest that they are
//! said to have. Otherwise the attempt has failed.
//!
//! What needs storage ([`checked`]) is done before the report reaches the owner, which waits for nothing; what needs the
//! plan ([`in_own_places`]) by the owner.

use futures_util::StreamExt as _;
use futures_util::stream;
use pictor_artifacts::{Artifacts, Error, ExecutionKey};
use pictor_engine::Engine;
use pictor_tasks::message::{
    Execution, Failure, FailureKind, Outcome, Output, Products, Report, StepKey, TaskEnd, Try, What,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::sleep;
use tracing::warn;

/// Outputs of one report that are looked up at the same time.
const AT_ONCE: usize = 16;
/// Bytes of one report's outputs that are read to compare digests. What comes after that is only looked up: whoever
/// reads it compares its digest in any case.
const READ_BYTES_MAX: u64 = 256 << 20;
/// Pause before storage that cannot be reached is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Compares the outputs in a report with what is stored, and replaces the outcomes of those that differ. Waits until
/// storage can be reached.
pub async fn checked(artifacts: &Artifacts, mut report: Report) -> Report {
    let (key, execution) = (report.key.clone(), report.execution);
    let What::Ended(ends) = &mut report.what else { return report };
    let left = AtomicU64::new(READ_BYTES_MAX);
    for end in ends {
        let Outcome::Succeeded(products) = &end.outcome else { continue };
        let mut own = products.outputs.clone();
        own.retain(|output| is_own(output, (&key, end.task, execution)));
        if let Some(message) = first_wrong(artifacts, own, &left).await {
            end.outcome = bad(&message);
        }
    }
    report
}

/// What is wrong with one of these outputs; `None` if nothing is with any of them.
async fn first_wrong(
    artifacts: &Artifacts,
    outputs: Vec<Output>,
    left: &AtomicU64,
) -> Option<String> {
    let looks = stream::iter(outputs).map(|output| compare(artifacts, output, left));
    let mut looks = std::pin::pin!(looks.buffer_unordered(AT_ONCE));
    while let Some(wrong) = looks.next().await {
        if wrong.is_some() {
            return wrong;
        }
    }
    None
}

/// Whether the output lies in the folder of this execution, of whatever step.
fn is_own(output: &Output, (key, task, execution): (&StepKey, Try, Execution)) -> bool {
    let step = output.key.split('/').nth(2).unwrap_or_default();
    ExecutionKey { key, step, task, execution }.contains(&output.key)
}

/// What is wrong with an output; `None` if nothing is.
async fn compare(artifacts: &Artifacts, output: Output, left: &AtomicU64) -> Option<String> {
    let Output { name, key, digest, size_bytes } = &output;
    let mut told = false;
    loop {
        let looked = async {
            let size = artifacts.size(key).await?;
            if size != *size_bytes {
                return Ok(Some(format!(
                    "`{name}` has {size} bytes, and not {size_bytes} as reported"
                )));
            }
            let enough = |left: u64| left.checked_sub(size);
            if left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_err() {
                return Ok(None);
            }
            let same = artifacts.digest(key).await? == *digest;
            Ok::<_, Error>((!same).then(|| format!("`{name}` has other bytes than reported")))
        };
        match looked.await {
            Ok(wrong) => return wrong,
            Err(Error::NotFound(_) | Error::Invalid(_)) => {
                return Some(format!("`{name}` was reported but is not stored"));
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(%error, "an output cannot be verified; trying again");
                }
                sleep(AGAIN).await;
            }
        }
    }
}

/// Replaces the outcomes of successes whose outputs lie elsewhere than in the attempt's own folder. Only what the task
/// read may be passed on as it is.
pub(crate) fn in_own_places(engine: &Engine, mut report: Report) -> Report {
    let Some(run) = engine.run(&report.key.run) else { return report };
    let Some(step) = run.plan().steps.get(usize::from(report.key.step)) else { return report };
    let (key, execution) = (&report.key, report.execution);
    let What::Ended(ends) = &mut report.what else { return report };
    for TaskEnd { task, outcome, .. } in ends {
        let Outcome::Succeeded(Products { outputs, .. }) = &*outcome else { continue };
        let own = ExecutionKey { key, step: &step.name, task: *task, execution };
        let mut others = outputs.iter().filter(|output| !own.contains(&output.key)).peekable();
        if others.peek().is_none() {
            continue;
        }
        let inputs = engine.inputs(key, *task, None).unwrap_or_default();
        let read = |output: &Output| {
            let same = |one: &Output| {
                (&one.key, &one.digest, one.size_bytes)
                    == (&output.key, &output.digest, output.size_bytes)
            };
            inputs.iter().any(|input| same(&input.output))
        };
        if let Some(other) = others.find(|output| !read(output)) {
            *outcome = bad(&format!("`{}` was reported in a folder of others", other.name));
        }
    }
    report
}

fn bad(message: &str) -> Outcome {
    Outcome::Failed(Failure { kind: FailureKind::BadOutput, message: format!("{message}.") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use pictor_tasks::message::{RunId, WorkerId};

    const TASK: Try = Try { index: 7, attempt: 2 };
    const EXECUTION: Execution = Execution(255);

    fn report(output: Output) -> Report {
        let outcome = Outcome::Succeeded(Products { outputs: vec![output], ..Products::default() });
        let end = TaskEnd { task: TASK, started_ms: 1, took_ms: 2, outcome };
        let key = StepKey { run: RunId("run-1".into()), step: 0, generation: 3 };
        Report { worker: WorkerId(1), key, execution: EXECUTION, what: What::Ended(vec![end]) }
    }

    fn why(report: &Report) -> Option<&str> {
        let What::Ended(ends) = &report.what else { panic!("{report:?}") };
        match &ends[0].outcome {
            Outcome::Failed(failure) => {
                assert_eq!(failure.kind, FailureKind::BadOutput);
                Some(&failure.message)
            }
            _ => None,
        }
    }

    #[tokio::test]
    async fn what_is_reported_must_be_stored_as_it_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::folder(folder.path()).unwrap();
        let key = "runs/run-1/render/3/7/2-00000000000000ff/image.exr".to_owned();
        let stored = artifacts.put(b"pixels".to_vec(), &key).await.unwrap();
        let (digest, size_bytes) = (stored.digest, stored.size_bytes);
        let good = Output { name: "image".into(), key, digest, size_bytes };
        assert_eq!(why(&checked(&artifacts, report(good.clone())).await), None);
        let zeros = Output { digest: "0".repeat(64), ..good.clone() };
        let huge = Output { size_bytes: u64::MAX, ..good.clone() };
        let gone = Output { key: good.key.replace("image", "other"), ..good.clone() };
        for (wrong, word) in [(zeros, "other bytes"), (huge, "6 bytes"), (gone, "not stored")] {
            let report = checked(&artifacts, report(wrong)).await;
            assert!(why(&report).is_some_and(|why| why.contains(word)), "{report:?}");
        }
    }

    #[tokio::test]
    async fn what_lies_elsewhere_is_not_even_looked_up() {
        let folder = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::folder(folder.path()).unwrap();
        for key in ["../../admin-token", "runs/run-2/render/3/7/2-00000000000000ff/image.exr"] {
            let (name, digest) = ("image".to_owned(), String::new());
            let other = Output { name, key: key.into(), digest, size_bytes: 1 };
            assert!(!is_own(&other, (&report(other.clone()).key, TASK, EXECUTION)), "{key}");
            assert_eq!(why(&checked(&artifacts, report(other)).await), None, "the owner's part");
        }
    }
}
