//! `pictor plan` and `pictor schema`.

use crate::terminal::{complain, explain, say, table};
use crate::{INVALID, SUCCEEDED};
use pictor_engine::plan::{DimCounts, DimValues, Plan, Step};
use pictor_engine::{RunLimits, undefined_limits};
use pictor_server::{CompiledJob, SubmitError, read_job};
use pictor_tasks::body::Body;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Compiles a job and prints the plan.
pub(crate) async fn plan(
    job: &Path,
    set: &[(String, String)],
    dot: bool,
    json: bool,
) -> anyhow::Result<u8> {
    let job = match read_job(job, set, false, &RunLimits::default()).await {
        Ok(job) => job,
        Err(SubmitError::Invalid(mistakes)) => {
            explain(mistakes.text.trim_end());
            return Ok(INVALID);
        }
        Err(error) => {
            complain(&error.to_string());
            return Ok(INVALID);
        }
    };
    for note in undefined_limits(&job.plan, &BTreeMap::<String, u32>::new()) {
        explain(&format!(
            "note: step `{}` holds a limit: unless the server defines it, {}",
            note.example, note.text
        ));
    }
    if json {
        say(&serde_json::to_string_pretty(&job.plan)?);
    } else if dot {
        say(graph(&job).trim_end());
    } else {
        say(text(&job).trim_end());
    }
    Ok(SUCCEEDED)
}

/// Prints the JSON Schema of the job file.
pub(crate) fn schema() -> anyhow::Result<u8> {
    say(&serde_json::to_string_pretty(&pictor_tasks::job::schema())?);
    Ok(SUCCEEDED)
}

fn values(plan: &Plan, values: &DimValues) -> String {
    match values {
        DimValues::Fixed(values) => {
            let ends =
                (values.get(0), values.len().checked_sub(1).and_then(|last| values.get(last)));
            match ends {
                (Some(first), Some(last)) if first != last => format!("{first} … {last}"),
                (Some(only), _) => only.to_string(),
                _ => "none".into(),
            }
        }
        DimValues::Late { binder } => format!("reported by {}", plan.steps[*binder as usize].name),
        DimValues::Blocks { of, size } => format!("blocks of {size} of {}", plan.dims[*of].name),
    }
}

fn needs(plan: &Plan, step: &Step) -> String {
    let need = |need: &pictor_engine::plan::Need| {
        let mut text = plan.steps[need.step as usize].name.clone();
        for (dim, by) in &need.offsets {
            let _ = write!(text, " [{} {by:+}]", plan.dims[*dim].name);
        }
        text + if need.soft { " (finished)" } else { "" }
    };
    step.needs.iter().map(need).collect::<Vec<_>>().join(", ")
}

/// The files that a step's command gets, and where they come from.
fn files(step: &Step) -> Vec<Vec<String>> {
    let Body::Command(command) = &step.body else { return Vec::new() };
    let row =
        |(place, from): (&String, &String)| vec![step.name.clone(), place.clone(), from.clone()];
    command.files.iter().map(row).collect()
}

fn text(job: &CompiledJob) -> String {
    let plan = &job.plan;
    let counts = job.task_counts();
    let over = |step: &Step| {
        step.over.iter().map(|d| plan.dims[*d].name.as_str()).collect::<Vec<_>>().join(" x ")
    };
    let dims: Vec<Vec<String>> = plan
        .dims
        .iter()
        .map(|dim| {
            let count = match &dim.values {
                DimValues::Fixed(values) => values.len().to_string(),
                DimValues::Late { .. } | DimValues::Blocks { .. } => "?".into(),
            };
            let bound = dim.bound.as_ref().map_or_else(String::new, |bound| {
                let late = matches!(bound.counts, DimCounts::Late { .. });
                let by = &plan.dims[bound.by].name;
                format!(", bounded by {by}{}", if late { " (reported)" } else { "" })
            });
            vec![dim.name.clone(), count, values(plan, &dim.values) + &bound]
        })
        .collect();
    let steps: Vec<Vec<String>> = plan
        .steps
        .iter()
        .map(|step| {
            let count = counts[&step.name].map_or_else(|| "?".into(), |n| n.to_string());
            let kind = step.body.kind().to_owned();
            vec![step.name.clone(), kind, over(step), count, needs(plan, step)]
        })
        .collect();
    let known: u64 = counts.values().flatten().map(|n| u64::from(*n)).sum();
    let open = counts.values().any(Option::is_none);
    let (length, path) = plan.longest_path();
    let files: Vec<Vec<String>> = plan.steps.iter().flat_map(files).collect();
    let files = if files.is_empty() {
        String::new()
    } else {
        table(&["STEP", "IN {job.dir}", "FILE"], &files) + "\n\n"
    };
    format!(
        "{}: {} steps, {}{known} tasks\n\n{}{}\n{files}longest path: {length} tasks ({})\n",
        plan.name,
        plan.steps.len(),
        if open { "at least " } else { "" },
        if dims.is_empty() {
            String::new()
        } else {
            table(&["DIMENSION", "COUNT", "VALUES"], &dims) + "\n\n"
        },
        table(&["STEP", "KIND", "OVER", "TASKS", "NEEDS"], &steps) + "\n",
        path.join(" → ")
    )
}

fn graph(job: &CompiledJob) -> String {
    let plan = &job.plan;
    let counts = job.task_counts();
    let mut text = format!("digraph {:?} {{\n  rankdir=LR;\n  node [shape=box];\n", plan.name);
    for (number, step) in plan.steps.iter().enumerate() {
        let count = counts[&step.name].map_or_else(|| "?".into(), |n| n.to_string());
        let _ = writeln!(
            text,
            "  s{number} [label=\"{}\\n{} x {count}\"];",
            step.name,
            step.body.kind()
        );
    }
    for (number, step) in plan.steps.iter().enumerate() {
        for need in &step.needs {
            let mut label = String::new();
            for (dim, by) in &need.offsets {
                let _ = write!(label, "{} {by:+} ", plan.dims[*dim].name);
            }
            let style = if need.soft { "dashed" } else { "solid" };
            let (label, from) = (label.trim(), need.step);
            let _ = writeln!(text, "  s{from} -> s{number} [style={style}, label=\"{label}\"];");
        }
    }
    text + "}\n"
}
