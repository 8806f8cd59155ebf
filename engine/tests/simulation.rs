//! Whole farms in virtual time, checked against a brute-force oracle at every step. A failure prints
//! its seed; `PICTOR_SIM_SEED=N` runs one seed again, `PICTOR_SIM_SEEDS=N` runs more of them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod sim;

use sim::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The total number of seeds in an ordinary test run.
const SEEDS: u64 = 2_000;
/// The number of tests among which they are divided, to run in parallel.
const SHARES: u64 = 4;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn simulate(share: u64) {
    let seeds = match number("PICTOR_SIM_SEED") {
        Some(only) => only..only + 1,
        None => 0..number("PICTOR_SIM_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds.filter(|seed| seed % SHARES == share) {
        let outcome = catch_unwind(AssertUnwindSafe(|| World::random(seed).run()));
        if let Err(panic) = outcome {
            eprintln!("PICTOR_SIM_SEED={seed} shows it again");
            resume_unwind(panic);
        }
    }
}

#[test]
fn random_farms_with_every_fault_obey_the_oracle_first_share() {
    simulate(0);
}

#[test]
fn random_farms_with_every_fault_obey_the_oracle_second_share() {
    simulate(1);
}

#[test]
fn random_farms_with_every_fault_obey_the_oracle_third_share() {
    simulate(2);
}

#[test]
fn random_farms_with_every_fault_obey_the_oracle_fourth_share() {
    simulate(3);
}

#[test]
fn the_same_seed_makes_the_same_world() {
    for seed in 0..20 {
        let history = || {
            let mut world = World::random(seed);
            world.run();
            let rows: Vec<_> = world.runs.into_iter().map(|run| run.rows).collect();
            (world.now, world.turns, world.crashes, rows)
        };
        assert!(history() == history(), "seed {seed}");
    }
}
