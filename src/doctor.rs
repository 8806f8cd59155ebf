//! `pictor doctor`: what is here, what is missing and how to get it.

use crate::terminal::{say, table};
use crate::{FAILED, SUCCEEDED};
use pictor_executor::Programs;
use pictor_executor::inventory::{doctor as look, find};
use std::collections::BTreeSet;
use std::path::Path;

/// Looks at this machine.
pub(crate) async fn doctor(models: &Path, json: bool) -> anyhow::Result<u8> {
    let programs = Programs::default();
    let findings = look(&programs).await;
    let inventory =
        find(&std::env::current_dir()?, &programs, &BTreeSet::new(), (models, None)).await;
    let missing = findings.iter().any(|finding| finding.version.is_err());
    if json {
        let programs: Vec<_> = findings
            .iter()
            .map(|f| {
                let version = f.version.as_ref();
                serde_json::json!({
                    "name": f.name, "purpose": f.purpose, "version": version.ok(),
                    "problem": version.err(), "how_to_get": f.how_to_get,
                })
            })
            .collect();
        say(&serde_json::json!({ "machine": inventory, "programs": programs }).to_string());
        return Ok(if missing { FAILED } else { SUCCEEDED });
    }
    let gib = |bytes: u64| format!("{} GiB", bytes >> 30);
    say(&format!(
        "{}: {} processors, {} of memory, {} of free disk",
        inventory.name,
        inventory.cpus,
        gib(inventory.memory_bytes),
        gib(inventory.disk_bytes)
    ));
    if inventory.gpus.is_empty() {
        say("no NVIDIA GPU was found: frames are rendered by the processors");
    }
    for gpu in &inventory.gpus {
        say(&format!("GPU {}: {}, driver {}", gpu.name, gib(gpu.vram_bytes), gpu.driver));
    }
    let names: Vec<&str> = inventory.models.iter().map(String::as_str).collect();
    say(&match names.as_slice() {
        [] => {
            "no networks for `upscale`: `pictor models pull` fetches them and what runs them".into()
        }
        names => format!("networks for `upscale`: {}", names.join(", ")),
    });
    let rows: Vec<Vec<String>> = findings
        .into_iter()
        .map(|f| {
            let (found, hint) = match f.version {
                Ok(version) => (version, String::new()),
                Err(why) => (why, f.how_to_get),
            };
            vec![f.name.into(), f.purpose.into(), found, hint]
        })
        .collect();
    say("");
    say(&table(&["PROGRAM", "FOR", "FOUND", "HOW TO GET IT"], &rows));
    Ok(if missing { FAILED } else { SUCCEEDED })
}
