//! `pictor schedule`: jobs that a server submits at recurring times.

use crate::client::args::{ScheduleArgs, ScheduleCommand};
use crate::client::connection::Connection;
use crate::client::submit::{Prepared, prepare};
use crate::terminal::{say, table};
use crate::{INVALID, SUCCEEDED};
use pictor_api::{DueTimeView, NewSchedule, ScheduleDetail, ScheduleView, ScheduledJob, Triggered};
use reqwest::Method;
use serde::Serialize;
use serde_json::Value as Json;
use std::path::Path;

/// Most schedules that are listed.
const LISTED: usize = 10_000;

/// `pictor schedule`: executes a subcommand.
pub(crate) async fn schedule(
    server: &Connection,
    data: &Path,
    command: ScheduleCommand,
    json: bool,
) -> anyhow::Result<u8> {
    match command {
        ScheduleCommand::Add(args) => return add(server, data, args, json).await,
        ScheduleCommand::List => {
            let all: Vec<ScheduleView> = server.list(&["schedules"], &[], LISTED).await?;
            if json {
                all.iter().try_for_each(print_json)?;
            } else {
                say(&table(
                    &["SCHEDULE", "WHEN", "ZONE", "NEXT", "LAST"],
                    &all.iter().map(row).collect::<Vec<_>>(),
                ));
            }
        }
        ScheduleCommand::Show { name } => {
            let one: ScheduleDetail = server.get(&["schedules", &name], &[]).await?;
            if json { print_json(&one)? } else { say(&shown(&one)) }
        }
        ScheduleCommand::Pause { name } => {
            order(server, &name, "pause", json, "starts no more runs").await?;
        }
        ScheduleCommand::Resume { name } => {
            order(server, &name, "resume", json, "starts runs again").await?;
        }
        ScheduleCommand::Remove { name } => {
            let path = ["schedules", &name];
            let _: Json = server.order(Method::DELETE, &path, None).await?;
            done(json, &name, "is removed; its runs stay");
        }
        ScheduleCommand::Trigger { name } => {
            let path = ["schedules", &name, "trigger"];
            let said: Triggered = server.order_once(&path, None).await?;
            if json {
                print_json(&said)?;
            } else {
                say(&format!("{}: {}", said.run, said.outcome));
            }
        }
    }
    Ok(SUCCEEDED)
}

fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    say(&serde_json::to_string(value)?);
    Ok(())
}

fn done(json: bool, name: &str, what: &str) {
    if !json {
        say(&format!("{name} {what}"));
    }
}

async fn order(
    server: &Connection,
    name: &str,
    verb: &str,
    json: bool,
    what: &str,
) -> anyhow::Result<()> {
    let path = ["schedules", name, verb];
    let said: ScheduleDetail = server.order(Method::POST, &path, None).await?;
    if json {
        return print_json(&said);
    }
    done(json, name, what);
    tell_next(&said.schedule);
    Ok(())
}

/// Packs and uploads the job's files, as `submit` does, and stores the job on the server.
async fn add(
    server: &Connection,
    data: &Path,
    args: ScheduleArgs,
    json: bool,
) -> anyhow::Result<u8> {
    let prepared = prepare(data, &args.job, &args.set, args.allow_missing, &args.blender).await?;
    let Some(Prepared { job, names, assets, .. }) = prepared else {
        return Ok(INVALID);
    };
    super::submit::send(server, &assets, json).await?;
    let new = NewSchedule {
        name: args.name.clone(),
        cron: args.cron,
        zone: args.zone,
        overlap: args.overlap,
        catch_up: args.catch_up,
        jitter: args.jitter.map_or_else(|| "0s".into(), |jitter| jitter.to_string()),
        job: ScheduledJob {
            text: job.source.text.clone(),
            source_name: job.source.name.clone(),
            set: args.set.into_iter().collect(),
            assets: names,
        },
        out_dir: String::new(),
        paused: false,
    };
    let body = serde_json::to_value(&new)?;
    let said: ScheduleDetail = server.order_once(&["schedules"], Some(&body)).await?;
    if json {
        print_json(&said)?;
    } else {
        say(&format!("{} is due at:", args.name));
        tell_next(&said.schedule);
    }
    Ok(SUCCEEDED)
}

fn tell_next(schedule: &ScheduleView) {
    schedule.next.iter().for_each(|time| say(&format!("  {time}")));
}

fn row(schedule: &ScheduleView) -> Vec<String> {
    let next = schedule.next.first().filter(|_| !schedule.paused).cloned();
    vec![
        schedule.name.clone(),
        schedule.cron.clone(),
        schedule.zone.clone(),
        next.unwrap_or_else(|| "paused".into()),
        schedule.last.as_ref().map_or_else(String::new, due_time),
    ]
}

/// An outcome as text, such as `started nightly-20260329t010000-k3f9a`.
fn due_time(due: &DueTimeView) -> String {
    let run = due.run.as_ref().map_or_else(String::new, |run| format!(" {run}"));
    format!("{}{run}", due.outcome)
}

fn shown(detail: &ScheduleDetail) -> String {
    let ScheduleDetail { schedule, job, due_times } = detail;
    let mut lines = vec![
        format!("{}  {} ({})", schedule.name, schedule.cron, schedule.zone),
        format!("overlap: {}", word(schedule.overlap)),
        format!("catch up: {}", word(schedule.catch_up)),
        format!("jitter: up to {} s", schedule.jitter_ms / 1000),
        format!("job: {}", job.source_name),
        format!("account: {}", schedule.account),
    ];
    if schedule.paused {
        lines.push(format!("\npaused; go on with: pictor schedule resume {}", schedule.name));
    } else {
        lines.push("\nnext:".into());
        lines.extend(schedule.next.iter().map(|time| format!("  {time}")));
    }
    if !due_times.is_empty() {
        lines.push("\nlast:".into());
        lines.extend(due_times.iter().map(|last| format!("  {}", due_time(last))));
    }
    lines.join("\n")
}

/// A rule by its name in the API.
fn word(rule: impl Serialize) -> String {
    let word = serde_json::to_value(rule).ok();
    word.and_then(|word| word.as_str().map(str::to_owned)).unwrap_or_default()
}
