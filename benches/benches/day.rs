//! A day of a large farm in memory: how much of its slot time is used, what accounts get, how long runs wait, and what
//! the engine takes of time and memory in each hour.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use pictor_benches::day::{Scenario, simulate};
use pictor_benches::table::{self, Series};
use pictor_benches::{machine, say};

const DAY: Scenario =
    Scenario { seed: 16, machines: 10_000, runs: 50_000, accounts: 100, hours: 24 };

fn main() {
    if !machine::measures() {
        return;
    }
    machine::introduce("A day of a large farm");
    say(&format!("\n{DAY:?}\n"));
    say(
        "| hour | machines | runs in memory | tasks | slots busy | of the ideal | engine | a task | memory |",
    );
    say("|---|---|---|---|---|---|---|---|---|");
    let (mut number, mut of_ideal, mut done, mut ideal) = (0, Series::default(), 0, 0);
    let summary = simulate(&DAY, |hour| {
        number += 1;
        let percent = |of: i64| hour.work.done as f64 / of as f64 * 100.0;
        of_ideal.push(percent(hour.work.ideal));
        (done, ideal) = (done + hour.work.done, ideal + hour.work.ideal);
        say(&format!(
            "| {number} | {} | {} | {} | {:.1} % | {:.2} % | {:.2} s | {:.1} µs | {} MB |",
            hour.machines,
            hour.runs,
            hour.tasks,
            percent(hour.work.offered),
            percent(hour.work.ideal),
            hour.engine,
            hour.engine * 1e6 / hour.tasks as f64,
            hour.bytes >> 20,
        ));
    });
    let [succeeded, other] = summary.ended;
    say(&format!(
        "\n{succeeded} runs succeeded, {other} did not; the last ended after {:.1} hours.",
        summary.end_ms as f64 / 3.6e6
    ));
    table::head("The day");
    let all = done as f64 / ideal as f64 * 100.0;
    let met = table::verdict(all >= 97.0, "≥ 97 %");
    table::line("busy ÷ the ideal, all hours", &Series::from_iter([all]), "%", &met);
    table::line("busy ÷ the ideal, each hour", &of_ideal, "%", "");
    let shares = summary.shares.shares();
    table::line(
        "an account's share while it had waiting tasks",
        &shares,
        "×",
        "1 is an equal part",
    );
    let without = summary.shares.longest_without();
    table::line("its longest time with waiting tasks and no slot", &without, "s", "");
    let names = ["of priority 0", "of priority 1", "of priority 2", "whose priority was changed"];
    for (name, waits) in names.iter().zip(&summary.shares.waits) {
        let p95 = format!("p95 {:.2} h", waits.percentile(95));
        table::line(&format!("wait of runs {name}"), waits, "h", &p95);
    }
    say("");
}
