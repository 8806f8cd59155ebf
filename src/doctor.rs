//! `pictor doctor`: what is installed, what is missing and how to get it, and what each Blender can do.

use crate::blenders::BlenderArgs;
use crate::terminal::{say, table};
use crate::{FAILED, SUCCEEDED};
use pictor_executor::Sandbox;
use pictor_executor::blender::probe::try_everything;
use pictor_executor::inventory::find;
use pictor_executor::software::{Finding, Software, doctor as look};
use pictor_tasks::worker::Inventory;
use std::collections::BTreeSet;
use std::path::Path;

/// Examines this machine and prints the results.
pub(crate) async fn doctor(data: &Path, blender: &BlenderArgs, json: bool) -> anyhow::Result<u8> {
    let programs = blender.programs(None, data)?;
    let models = crate::models::folder(data);
    let findings = look(&programs).await;
    let here = std::env::current_dir()?;
    let mut machine = find(&here, &programs, &BTreeSet::new(), &models, None).await;
    let Software { versions, blenders } = Software::of(findings.iter().cloned());
    (machine.software, machine.blenders) = (versions, blenders);
    try_everything(&mut machine.blenders, &machine.gpus, crate::cache().as_deref()).await;
    let missing = findings.iter().any(|finding| finding.version.is_err());
    if json {
        let programs: Vec<_> = findings
            .iter()
            .map(|f| {
                let version = f.version.as_ref();
                serde_json::json!({
                    "name": f.name, "purpose": f.purpose, "path": f.path, "version": version.ok(),
                    "problem": version.err(), "how_to_get": f.how_to_get,
                })
            })
            .collect();
        let sandbox = Sandbox::current();
        let sandbox = serde_json::json!({ "full": sandbox.is_full(), "state": sandbox.sentence() });
        let all =
            serde_json::json!({ "machine": machine, "programs": programs, "sandbox": sandbox });
        say(&all.to_string());
    } else {
        tell(&machine, findings);
    }
    Ok(if missing { FAILED } else { SUCCEEDED })
}

fn tell(machine: &Inventory, findings: Vec<Finding>) {
    let gib = |bytes: u64| format!("{} GiB", bytes >> 30);
    say(&format!(
        "{}: {} processors, {} of memory, {} of free disk",
        machine.name,
        machine.cpus,
        gib(machine.memory_bytes),
        gib(machine.disk_bytes)
    ));
    if machine.gpus.is_empty() {
        say("no NVIDIA GPU was found: frames are rendered by the processors");
    }
    for gpu in &machine.gpus {
        say(&format!("GPU {}: {}, driver {}", gpu.name, gib(gpu.vram_bytes), gpu.driver));
    }
    say(&Sandbox::current().sentence());
    let names: Vec<&str> = machine.models.iter().map(String::as_str).collect();
    say(&match names.as_slice() {
        [] => {
            "no networks for `upscale`: `pictor models pull` fetches them and what runs them".into()
        }
        names => format!("networks for `upscale`: {}", names.join(", ")),
    });
    let rows: Vec<Vec<String>> = findings
        .into_iter()
        .map(|f| {
            let (found, more) = match f.version {
                Ok(version) => (version, f.path.display().to_string()),
                Err(why) => (why, f.how_to_get),
            };
            vec![f.name.into(), f.purpose.into(), found, more]
        })
        .collect();
    say("");
    say(&table(&["PROGRAM", "FOR", "FOUND", "WHERE, OR HOW TO GET IT"], &rows));
    let rows: Vec<Vec<String>> = machine
        .blenders
        .iter()
        .map(|blender| {
            let devices: Vec<&str> = blender.devices.iter().map(String::as_str).collect();
            vec![blender.version.clone(), devices.join(", "), blender.notes.join(" ")]
        })
        .collect();
    if !rows.is_empty() {
        say("");
        say(&table(&["BLENDER", "RENDERED WITH", "NOTES"], &rows));
    }
}
