//! Whole runs over Postgres and RabbitMQ, with the real `pictor serve` and `pictor work` (2 slots) and full durability.
//! `farm [NAME…]` measures only those: `fan`, `frames`, `chain`, `million`, `workers`, `clip`, `waiting`, `small`, `task`,
//! `archive`. The last four also measure a server that works alone. `PICTOR_BENCH_PROGRAM` is the program to measure
//! instead of this one: an earlier one, to compare.

mod archive;
mod chain;
mod floors;
mod served;
mod waiting;
mod workers;

use floors::{Commits, Trips};
use pictor_benches::source::{made, networks};
use pictor_benches::table::{Series, head, line, verdict};
use pictor_benches::{jobs, machine};
use reqwest::Method;
use serde_json::json;
use served::{Served, Services};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

const RUNS: usize = 11;

fn main() {
    if !machine::measures() {
        return;
    }
    machine::introduce("The farm");
    let services = Services::start();
    pictor_benches::runtime().block_on(async {
        if machine::wanted("fan") {
            fan(&services).await;
        }
        if machine::wanted("frames") {
            frames(&services).await;
        }
        if machine::wanted("chain") {
            chain::chain(&services).await;
        }
        if machine::wanted("million") {
            submit(&services).await;
            million(&services).await;
        }
        if machine::wanted("workers") {
            workers::workers(&services).await;
        }
        if machine::wanted("clip") {
            clip(&services).await;
        }
        if machine::wanted("waiting") {
            waiting::waiting(&services).await;
        }
        if machine::wanted("small") {
            waiting::small(&services).await;
        }
        if machine::wanted("task") {
            archive::task(&services).await;
        }
        if machine::wanted("archive") {
            archive::archive(&services).await;
        }
    });
}

/// The baselines of one table: a one-row commit, and the delivery of one message.
async fn floors(services: &Services, rounds: usize) -> (Series, Series) {
    let mut commits = Commits::open(&services.postgres.database()).await;
    let mut trips = Trips::open(&services.rabbit.vhost().amqp_url).await;
    let (mut commit, mut trip) = <(Series, Series)>::default();
    for _ in 0..rounds {
        commit.push(commits.commit().await * 1e3);
        trip.push(trips.trip().await * 1e3);
    }
    (commit, trip)
}

fn show_floors(commit: &Series, trip: &Series) {
    line("floor: one row, one commit to Postgres", commit, "ms", "");
    line("floor: one message, publication to arrival", trip, "ms", "");
}

async fn fan(services: &Services) {
    const TASKS: u32 = 10_000;
    let mut farm = Served::start(services, "farm-fan").await;
    farm.start_worker().await;
    let (mut took, mut rate) = <(Series, Series)>::default();
    for _ in 0..RUNS {
        let (_, seconds) = farm.run(&jobs::fan(TASKS)).await;
        took.push(seconds * 1e3);
        rate.push(f64::from(TASKS + 1) / seconds);
    }
    let (commit, trip) = floors(services, 200).await;
    head("Farm: fan-out of 10,000 tasks and fan-in");
    line("run", &took, "ms", "");
    line("tasks a second", &rate, "/s", &verdict(rate.median() >= 40_000.0, "≥ 40,000"));
    show_floors(&commit, &trip);
}

async fn frames(services: &Services) {
    let mut farm = Served::start(services, "farm-frames").await;
    farm.start_worker().await;
    let mut took = Series::default();
    for _ in 0..RUNS {
        took.push(farm.run(&jobs::frames()).await.1 * 1e3);
    }
    let (commit, trip) = floors(services, 200).await;
    head("Farm: 500 frames × 8 tiles → merge → encode (4,501 tasks)");
    line("run", &took, "ms", &verdict(took.median() < 200.0, "< 200 ms"));
    show_floors(&commit, &trip);
}

/// The response to the submission of a million tasks, without a worker that would start them.
async fn submit(services: &Services) {
    let farm = Served::start(services, "farm-submit").await;
    let mut took = Series::default();
    for _ in 0..RUNS {
        let (run, seconds) = farm.submit(&jobs::million()).await;
        took.push(seconds * 1e3);
        let cancel = farm.request(Method::POST, &format!("/v1/runs/{run}/cancel"));
        let answer = cancel.json(&json!({})).send().await.expect("the server answers");
        assert!(answer.status().is_success(), "{answer:?}");
    }
    head("Farm: a million tasks");
    line("submission at the API", &took, "ms", &verdict(took.median() < 50.0, "< 50 ms"));
}

async fn million(services: &Services) {
    const TASKS: f64 = 1_000_000.0;
    let (mut took, mut rate, mut memory) = <(Series, Series, Series)>::default();
    for _ in 0..3 {
        let mut farm = Served::start(services, "farm-million").await;
        farm.start_worker().await;
        let (run, seconds) = farm.run(&jobs::million()).await;
        assert_eq!(farm.rows(&run).await, 1_000_000, "each task has ended once");
        took.push(seconds);
        rate.push(TASKS / seconds);
        memory.push(farm.server_megabytes());
    }
    line("run", &took, "s", &verdict(took.median() < 30.0, "< 30 s"));
    line("tasks a second", &rate, "/s", "");
    line("peak memory of the server", &memory, "MB", &verdict(memory.max() < 250.0, "< 250 MB"));
    questions(services).await;
}

/// How long the API takes to return a run of a million tasks, and a page of its tasks, while it is running.
async fn questions(services: &Services) {
    let mut farm = Served::start(services, "farm-questions").await;
    farm.start_worker().await;
    let (run, _) = farm.submit(&jobs::million()).await;
    let show = format!("/v1/runs/{run}");
    // A step, a state and a value: what a user would search for.
    let page = format!("{show}/tasks?step=render&state=succeeded&dim.tile=3&limit=100");
    let (mut shown, mut pages, mut alive) = <(Series, Series, Series)>::default();
    let mut tick = interval(Duration::from_millis(25));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (seconds, answer) = farm.timed(&show).await;
        if answer["state"] != "running" {
            assert_eq!(answer["state"], "succeeded");
            break;
        }
        shown.push(seconds * 1e3);
        let (seconds, answer) = farm.timed(&page).await;
        assert!(answer["items"].is_array(), "{answer}");
        pages.push(seconds * 1e3);
        let (seconds, answer) = farm.timed("/healthz").await;
        assert_eq!(answer["role"], "owner");
        alive.push(seconds * 1e3);
    }
    assert!(shown.len() > 50, "the run was over after {} questions", shown.len());
    for (what, series) in [("GET of the run", &shown), ("GET of 100 of its tasks", &pages)] {
        let p99 = series.percentile(99);
        let remark = format!("p99 {p99:.1} ms, {}", verdict(p99 < 20.0, "< 20 ms"));
        line(&format!("{what} while it runs"), series, "ms", &remark);
    }
    let remark = format!("p99 {:.1} ms", alive.percentile(99));
    line("floor: `/healthz`, which asks nobody, while it runs", &alive, "ms", &remark);
}

/// A clip of 200 frames, upscaled: the gain from a second worker. Each worker has one slot, on processors of its own;
/// server, database and broker have the rest.
async fn clip(services: &Services) {
    const ROUNDS: usize = 3;
    const FARMS: [&[&str]; 3] = [&["0"], &["0", "1"], &["0-1"]];
    let models = std::path::absolute(networks().path()).expect("a path");
    let source = made(
        "clip.mp4",
        "testsrc2=size=192x108:rate=25:duration=8",
        &["-c:v", "libx264", "-qp", "10", "-pix_fmt", "yuv420p"],
    );
    let job = source.with_file_name("clip.yaml");
    let text = "pictor: v1\nname: clip\nupscale:\n  input: clip.mp4\n  \
                model: realesr-animevideov3-x2\n  output: { file: clip-x2.mp4 }\n";
    std::fs::write(&job, text).expect("the disk has room");
    let mut took = <[Series; FARMS.len()]>::default();
    let (mut second, mut whole) = <(Series, Series)>::default();
    for round in 0..ROUNDS {
        let mut seconds = [0.0; FARMS.len()];
        for turn in 0..FARMS.len() {
            // The order changes, so that a machine that gets slower or faster affects all alike.
            let who = (turn + round) % FARMS.len();
            let mut farm = Served::start(services, "farm-clip").await;
            for processors in FARMS[who] {
                farm.start_upscaler(processors, &models).await;
            }
            seconds[who] = farm.deliver(&job);
            took[who].push(seconds[who]);
        }
        second.push(seconds[0] / seconds[1]);
        whole.push(seconds[2] / seconds[1]);
    }
    head(
        "Farm: 200 frames of 192 × 108, upscaled twofold, from `pictor submit` to the fetched video",
    );
    line("one worker, on one processor", &took[0], "s", "");
    line("two workers, on one processor each", &took[1], "s", "");
    line("one worker, on both processors", &took[2], "s", "");
    line("one worker ÷ two workers, each on one processor", &second, "×", "");
    line("one worker on both processors ÷ two workers", &whole, "×", "");
}
