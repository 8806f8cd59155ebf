//! The archive of a removed run: one file of JSON lines, complete or absent.

use crate::Error;
use pictor_storage::{RunRecord, Store};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// Version of the archive's format.
const VERSION: u32 = 1;

/// Writes a run to `<folder>/<run>.jsonl`. The lines are: the run itself, its job file, its plan, then each row of its
/// history. When this returns, the file is on disk.
pub(super) async fn write(
    store: &dyn Store,
    record: &RunRecord,
    folder: &Path,
) -> Result<(), Error> {
    let id = &record.id;
    let plan = store.run_plan(id).await?.ok_or_else(|| Error::NoRun(id.to_string()))?;
    let failed = |error| failed(folder, error);
    let part = folder.join(format!("{id}.part"));
    let mut out = start(folder, &part).map_err(failed)?;
    let lines = [
        json!({ "pictor_archive": VERSION, "run": run(record) }),
        json!({ "job": plan.spec }),
        // A plan is JSON; if it should not be, it is kept as text.
        json!({ "plan": serde_json::from_str(&plan.plan).unwrap_or(Value::String(plan.plan)) }),
    ];
    let mut written = lines.iter().try_for_each(|value| line(&mut out, value));
    let each = &mut |row| {
        if written.is_ok() {
            written = line(&mut out, &json!({ "row": row }));
        }
    };
    store.load_history(id, 1, each).await?;
    written.map_err(failed)?;
    finish(out, &part, folder, &format!("{id}.jsonl")).map_err(failed)
}

fn start(folder: &Path, part: &Path) -> io::Result<BufWriter<File>> {
    std::fs::create_dir_all(folder)?;
    Ok(BufWriter::new(File::create(part)?))
}

/// Renames the complete file to its final name, with both the content and the name synced to disk.
fn finish(out: BufWriter<File>, part: &Path, folder: &Path, name: &str) -> io::Result<()> {
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    std::fs::rename(part, folder.join(name))?;
    File::open(folder)?.sync_all()
}

fn line(out: &mut impl Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.write_all(b"\n")
}

fn run(record: &RunRecord) -> Value {
    json!({
        "id": record.id,
        "name": record.name,
        "source_name": record.source_name,
        "fold_version": record.fold_version,
        "owner": record.account,
        "priority": record.priority,
        "created_ms": record.created_ms,
        "out_dir": record.out_dir,
        "state": record.state,
        "finished_ms": record.finished_ms,
    })
}

fn failed(folder: &Path, error: io::Error) -> Error {
    Error::Store(pictor_storage::Error::Unavailable {
        message: format!("the archive cannot be written to {}", folder.display()),
        retryable: false,
        source: Some(Box::new(error)),
    })
}
