//! What a large database costs: questions about one task of a large run, and about many runs.

use crate::served::{Served, Services};
use futures_util::{StreamExt as _, stream};
use pictor_benches::farm::new_run;
use pictor_benches::table::{Series, head, line, verdict};
use pictor_benches::{jobs, machine};
use pictor_engine::RunState;
use pictor_storage::{NewRun, RunRows};
use pictor_tasks::history::{Ended, Fact, Row, TaskRef};
use pictor_tasks::message::{Execution, Outcome, Products, RunId, Try, WorkerId};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

const FINISHED: u32 = 100_000;
const ACTIVE: u32 = 10_000;
/// Runs whose history is written in one commit.
const AT_ONCE: usize = 256;
/// Tasks that each active run has done.
const DONE: u32 = 10;
const ASKED: usize = 200;
/// A job that no worker can do, so that it stays as it is.
const JOB: &str = "pictor: v1\nname: shot\ndims: { frame: 1-100 }\nsteps:\n\
                   - { name: draw, over: [frame], requires: { cpus: 100000 }, noop: {} }\n";

/// One task's page and its log in a run of a million tasks: right after it, and after a new start.
pub(crate) async fn task(services: &Services) {
    let folder = machine::fresh_folder("farm-task");
    let mut farm = Served::alone(services, folder.clone()).await;
    let (run, _) = farm.submit(&jobs::million()).await;
    let path = format!("/v1/runs/{run}");
    while farm.timed(&path).await.1["state"] != "succeeded" {
        sleep(Duration::from_millis(200)).await;
    }
    head("Alone: one task of a run of a million that has just ended");
    ask(&farm, &run, ASKED).await;
    drop(farm);
    farm = Served::alone(services, folder).await;
    head(
        "The same after a new start, by which the run is no longer in memory: the first questions",
    );
    ask(&farm, &run, 1).await;
    head("The same, further questions");
    ask(&farm, &run, ASKED).await;
}

async fn ask(farm: &Served, run: &str, count: usize) {
    let (mut pages, mut logs, mut alive) = <(Series, Series, Series)>::default();
    for number in 0..count {
        let frame = 1 + number * 97 % 111_111;
        let task = format!("/v1/runs/{run}/tasks/render%5Bframe={frame},tile=3%5D");
        logs.push(farm.timed(&format!("{task}/log")).await.0 * 1e3);
        let (took, page) = farm.timed(&task).await;
        assert_eq!(page["attempts"][0]["state"], "succeeded", "{page}");
        pages.push(took * 1e3);
        alive.push(farm.timed("/healthz").await.0 * 1e3);
    }
    show("its page", &pages);
    show("its log", &logs);
    line("floor: `/healthz` between them", &alive, "ms", "");
}

fn show(what: &str, series: &Series) {
    let p99 = series.percentile(99);
    let remark = format!("p99 {p99:.1} ms, {}", verdict(p99 < 50.0, "< 50 ms"));
    line(what, series, "ms", &remark);
}

/// A start, lists, filters and searches over many runs, alone and as a farm.
pub(crate) async fn archive(services: &Services) {
    let folder = machine::fresh_folder("farm-archive");
    let data = folder.join("server");
    fill(&data.display().to_string(), 1).await;
    measure(services, &folder, None).await;
    let database = services.postgres.database();
    fill(&database, 8).await;
    let folder = machine::fresh_folder("farm-archive-postgres");
    measure(services, &folder, Some(&database)).await;
}

/// Stores the runs, so many at a time.
async fn fill(place: &str, parallel: usize) {
    let (store, _) = pictor_storage::open(place).await.expect("the store is ours");
    store.take_ownership("", 1).await.expect("the store works");
    let one = new_run(&RunId("x".into()), JOB, &jobs::plan(JOB));
    let name = |n: u32| format!("Shot_{:04} lighting v{:03}", n % 5_000, n / 5_000);
    let of = |n: u32| NewRun {
        id: RunId(format!("shot-{n:06}-{:05x}", n.wrapping_mul(2_654_435_761) >> 12).into()),
        name: name(n),
        account: format!("account-{}", n % 100),
        ..one.clone()
    };
    let runs: Vec<NewRun> = (0..FINISHED + ACTIVE).map(of).collect();
    let store = &*store;
    let created = stream::iter(&runs).map(|run| store.create_run(run, None));
    created.buffered(parallel).for_each(async |made| drop(made.expect("it works"))).await;
    for (chunk, some) in (0_usize..).zip(runs.chunks(AT_ONCE)) {
        let histories: Vec<Vec<Row>> = some.iter().map(|_| rows()).collect();
        let commit = some.iter().zip(&histories).enumerate().map(|(at, (run, rows))| {
            let number = chunk * AT_ONCE + at;
            let state = match number % 100 {
                0..3 => RunState::Failed,
                3 => RunState::Cancelled,
                _ => RunState::Succeeded,
            };
            let ended = number < FINISHED as usize;
            let state = ended.then_some((state, Some(1_700_000_000_000)));
            RunRows { run: &run.id, rows, state }
        });
        store.commit(&commit.collect::<Vec<_>>()).await.expect("the store works");
    }
    store.close().await.expect("the store works");
}

fn rows() -> Vec<Row> {
    let row = |index: u32| {
        let task = TaskRef { step: 0, generation: 0, task: Try { index, attempt: 1 } };
        let ended = Ended {
            task,
            execution: Execution(index.into()),
            worker: WorkerId(1),
            started_ms: 1_700_000_000_000,
            took_ms: 1000,
            outcome: Outcome::Succeeded(Products::default()),
        };
        Row { seq: u64::from(index) + 1, time_ms: 1_700_000_000_000, fact: Fact::Ended(ended) }
    };
    (0..DONE).map(row).collect()
}

async fn measure(services: &Services, folder: &Path, database: Option<&str>) {
    let vhost = services.rabbit.vhost();
    let over = database.map(|database| (database, &vhost));
    let mut starts = Series::default();
    let mut farm = None;
    for _ in 0..3 {
        drop(farm.take());
        let started = Instant::now();
        farm = Some(Served::start_in(services, folder.to_owned(), over).await);
        starts.push(started.elapsed().as_secs_f64());
    }
    let farm = farm.expect("started above");
    let place = if database.is_some() { "Farm" } else { "Alone" };
    head(&format!("{place}: {ACTIVE} active and {FINISHED} finished runs"));
    line("start, until it is ready", &starts, "s", &verdict(starts.max() < 5.0, "< 5 s"));
    for (what, query) in [
        ("the newest", ""),
        ("those that failed", "&state=failed"),
        ("those that were cancelled", "&state=cancelled"),
        ("those of an account", "&owner=account-7"),
        ("those of an account that failed", "&owner=account-1&state=failed"),
        ("those with a part of their name", "&name=0077%20LIGHT"),
        ("those with a name that none has", "&name=nobody"),
        ("those with a name and a state", "&name=nobody&state=succeeded"),
    ] {
        let mut took = Series::default();
        for _ in 0..ASKED {
            took.push(farm.timed(&format!("/v1/runs?limit=100{query}")).await.0 * 1e3);
            // A single token may not ask this often.
            sleep(Duration::from_millis(5)).await;
        }
        show(&format!("list of 100: {what}"), &took);
    }
    let mut alive = Series::default();
    for _ in 0..ASKED {
        alive.push(farm.timed("/healthz").await.0 * 1e3);
    }
    line("floor: `/healthz`", &alive, "ms", "");
    line("peak memory", &Series::from_iter([farm.server_megabytes()]), "MB", "");
}
