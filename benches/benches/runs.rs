//! Whole runs: from the submission of a job of `noop` tasks to the committed success of its run, with two slots and
//! full durability on a real disk. `runs [NAME…]` measures only those.

use pictor_benches::farm::{BenchFarm, two_slots};
use pictor_benches::floor::{Commits, Plain, sync};
use pictor_benches::table::{Series, head, line, verdict};
use pictor_benches::{jobs, machine, say};
use pictor_engine::Run;
use pictor_storage::{SqliteStore, Store};
use std::process::Command;
use std::sync::Arc;
use tokio::time::Instant;

/// Environment variable that makes this program the child process that is measured.
const CHILD: &str = "PICTOR_BENCH_CHILD";
const RUNS: usize = 11;
const MILLION: f64 = 1_000_000.0;

fn main() {
    if !machine::measures() {
        return;
    }
    let runtime = pictor_benches::runtime();
    if let Ok(what) = std::env::var(CHILD) {
        return runtime.block_on(child(&what));
    }
    machine::introduce("Whole runs");
    // On the runtime's own thread, where the owner is: baselines and runs are measured from the same place.
    let all = runtime.spawn(async {
        if machine::wanted("fan") {
            fan().await;
        }
        if machine::wanted("frames") {
            frames().await;
        }
        if machine::wanted("chain") {
            chain().await;
        }
    });
    runtime.block_on(all).expect("nothing is missing");
    if machine::wanted("million") {
        million();
    }
}

async fn fan() {
    const TASKS: u32 = 10_000;
    let mut farm = BenchFarm::start(&machine::fresh_folder("fan"), two_slots()).await;
    let mut floor = Commits::open("fan-floor").await;
    let (mut took, mut rate, mut ratio) = <(Series, Series, Series)>::default();
    let mut rows = Series::default();
    for _ in 0..RUNS {
        let bare = floor.commit(TASKS + 1).await;
        let seconds = farm.run(&jobs::fan(TASKS)).await;
        took.push(seconds * 1e3);
        rate.push(f64::from(TASKS + 1) / seconds);
        rows.push(bare * 1e3);
        ratio.push(seconds / bare);
    }
    head("Fan-out of 10,000 tasks and fan-in");
    line("run", &took, "ms", "");
    let met = rate.median() >= 100_000.0;
    line("tasks a second", &rate, "/s", &verdict(met, "≥ 100,000"));
    line("floor: 10,001 rows in one commit", &rows, "ms", "");
    line("run ÷ floor", &ratio, "×", "");
    farm.stop().await;
}

async fn frames() {
    let mut farm = BenchFarm::start(&machine::fresh_folder("frames"), two_slots()).await;
    let mut floor = Commits::open("frames-floor").await;
    let (mut took, mut bare, mut ratio) = <(Series, Series, Series)>::default();
    for _ in 0..RUNS {
        let floor = floor.commit(4501).await;
        let seconds = farm.run(&jobs::frames()).await;
        took.push(seconds * 1e3);
        bare.push(floor * 1e3);
        ratio.push(seconds / floor);
    }
    head("500 frames × 8 tiles → merge → encode (4,501 tasks)");
    line("run", &took, "ms", &verdict(took.median() < 60.0, "< 60 ms"));
    line("floor: 4,501 rows in one commit", &bare, "ms", "");
    line("run ÷ floor", &ratio, "×", "");
    farm.stop().await;
}

async fn chain() {
    const HOPS: u32 = 100;
    let mut farm = BenchFarm::start(&machine::fresh_folder("chain"), two_slots()).await;
    let mut floor = Commits::open("chain-floor").await;
    let mut plain = Plain::open("chain-plain").await;
    let (mut hop, mut commit, mut bare) = <(Series, Series, Series)>::default();
    let (mut ratio, mut bare_ratio) = <(Series, Series)>::default();
    for round in 0..6 * RUNS {
        let (mut floor_s, mut bare_s, mut hop_s) = (0.0, 0.0, 0.0);
        for turn in 0..3 {
            // The order changes, because the disk has other users.
            match (turn + round) % 3 {
                0 => hop_s = farm.run(&jobs::chain(HOPS)).await / f64::from(HOPS),
                1 => {
                    for _ in 0..HOPS {
                        floor_s += floor.commit(1).await / f64::from(HOPS);
                    }
                }
                _ => {
                    for _ in 0..HOPS {
                        bare_s += plain.commit().await / f64::from(HOPS);
                    }
                }
            }
        }
        hop.push(hop_s * 1e3);
        commit.push(floor_s * 1e3);
        bare.push(bare_s * 1e3);
        ratio.push(hop_s / floor_s);
        bare_ratio.push(hop_s / bare_s);
    }
    let synced: Series = sync(200).into_iter().map(|s| s * 1e3).collect();
    head("A chain of 100 tasks: one hop");
    line("hop", &hop, "ms", "");
    line("floor: one row, one commit through the store", &commit, "ms", "");
    line("one row, one commit to a plain SQLite file", &bare, "ms", "");
    line("8 KiB and fdatasync", &synced, "ms", "");
    let met = ratio.median() <= 1.2;
    line("hop ÷ commit through the store", &ratio, "×", &verdict(met, "≤ 1.2"));
    line("hop ÷ commit to a plain SQLite file", &bare_ratio, "×", "");
    farm.stop().await;
    plain.close().await;
}

fn million() {
    let mut columns = vec![Series::default(); 8];
    for _ in 0..3 {
        let done = ask_child("run").into_iter().chain(ask_child("recover"));
        columns.iter_mut().zip(done).for_each(|(column, value)| column.push(value));
    }
    let [compile, bytes, run, run_rss, floor, recover, recover_rss, read] = &columns[..] else {
        unreachable!("there are eight columns");
    };
    head("A million tasks");
    line("job file → plan", compile, "ms", &verdict(compile.median() < 10.0, "< 10 ms"));
    line("plan", bytes, "bytes", &verdict(bytes.median() < 10_000.0, "< 10 kB"));
    line("run", run, "s", &verdict(run.median() < 10.0, "< 10 s"));
    let rate: Series =
        [MILLION / run.max(), MILLION / run.median(), MILLION / run.min()].into_iter().collect();
    line("tasks a second", &rate, "/s", "");
    line("floor: its rows through the store, 8,192 a commit", floor, "s", "");
    line(
        "peak memory of the process",
        run_rss,
        "MB",
        &verdict(run_rss.median() < 200.0, "< 200 MB"),
    );
    line("recovery from the full history", recover, "s", &verdict(recover.median() < 3.0, "< 3 s"));
    line("of which: reading the rows", read, "s", "");
    line("peak memory of that process", recover_rss, "MB", "");
}

/// Measures in a process of its own, so that its peak memory is its own.
fn ask_child(what: &str) -> Vec<f64> {
    let program = std::env::current_exe().expect("this program has a file");
    let output = Command::new(program)
        .arg("--bench")
        .env(CHILD, what)
        .output()
        .expect("this program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

async fn child(what: &str) {
    let folder = machine::data_folder().join("million");
    let text = jobs::million();
    if what == "run" {
        machine::fresh_folder("million");
        let started = Instant::now();
        let plan = jobs::plan(&text);
        let compile = started.elapsed().as_secs_f64() * 1e3;
        let bytes = serde_json::to_string(&plan).expect("a plan is plain data").len();
        let mut farm = BenchFarm::start(&folder, two_slots()).await;
        let seconds = farm.run(&text).await;
        let peak = peak_megabytes();
        farm.stop().await;
        let mut floor = Commits::open("million-floor").await;
        let mut bare = 0.0;
        for _ in 0..122 {
            bare += floor.commit(8192).await;
        }
        return say(&format!("{compile} {bytes} {seconds} {peak} {bare}"));
    }
    let store = SqliteStore::open(&folder).await.expect("the run left it");
    let id = pictor_tasks::message::RunId("bench-1".into());
    let started = Instant::now();
    let stored = store.run_plan(&id).await.expect("the store works").expect("the run is stored");
    let plan = serde_json::from_str(&stored.plan).expect("it was written as JSON");
    let mut run = Run::new(id.clone(), Arc::new(plan));
    let mut rows = 0;
    store
        .load_history(&id, 1, &mut |row| {
            rows += 1;
            run.apply(&row).expect("it was folded before");
        })
        .await
        .expect("the store works");
    assert!(run.state().is_terminal() && rows >= 1_000_000, "the run had ended");
    let seconds = started.elapsed().as_secs_f64();
    let peak = peak_megabytes();
    let started = Instant::now();
    let mut count = 0_u32;
    store.load_history(&id, 1, &mut |_| count += 1).await.expect("the store works");
    let read = started.elapsed().as_secs_f64();
    say(&format!("{seconds} {peak} {read}"));
}

/// Peak memory of this process in MB.
fn peak_megabytes() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let line = text.lines().find(|line| line.starts_with("VmHWM")).expect("Linux tells");
    let kib = line.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
    kib.expect("a number of KiB") * 1024.0 / 1e6
}
