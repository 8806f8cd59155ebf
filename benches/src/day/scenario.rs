//! What happens in a day, made from a seed: the same seed always makes the same day.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "times and sizes that are drawn are positive and small"
)]

use std::f64::consts::TAU;

/// The milliseconds of an hour.
pub(super) const HOUR_MS: i64 = 3_600_000;
/// The share of the farm's slot time that the submitted work takes.
const LOAD: f64 = 0.97;
/// How much busier than the mean the middle of the day is, and how much quieter its ends are.
const SWING: f64 = 0.3;
/// How long machines stay, and stay away, in the mean: nine tenths are present.
const STAYS_MS: f64 = 9.0 * 3_600_000.0;
const AWAY_MS: f64 = 3_600_000.0;
pub(super) const PRESENT: f64 = STAYS_MS / (STAYS_MS + AWAY_MS);
/// The chance that a task fails, in percent.
const FAILS: u64 = 1;
/// How many runs of each size there are of a hundred, in tasks before they are scaled to the load.
const SIZES: [(u32, f64); 4] = [(30, 1.0), (40, 10.0), (25, 100.0), (5, 1_000.0)];
/// How many runs of a hundred have tasks of each mean duration, in milliseconds.
const DURATIONS: [(u32, i64); 6] =
    [(5, 800), (15, 10_000), (30, 60_000), (30, 150_000), (15, 400_000), (5, 900_000)];
/// How many runs of a hundred have each priority.
const PRIORITIES: [(u32, i32); 3] = [(60, 0), (30, 1), (10, 2)];

/// The size of a farm, and the seed of its day.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// The same seed makes the same day.
    pub seed: u64,
    /// The number of machines, of which nine tenths are present at a time.
    pub machines: u32,
    /// The number of runs that are submitted.
    pub runs: u32,
    /// The number of accounts; some submit ten times as many runs as others.
    pub accounts: u32,
    /// The length of the day, in hours.
    pub hours: i64,
}

/// A run to be submitted.
#[derive(Clone, Debug)]
pub(super) struct Submission {
    pub(super) at_ms: i64,
    pub(super) account: u32,
    pub(super) class: u32,
    pub(super) priority: i32,
    pub(super) frames: u32,
    mean_ms: i64,
    seed: u64,
}

impl Submission {
    /// How long a task takes, between half of the mean and one and a half of it.
    pub(super) fn task_ms(&self, index: u32) -> i64 {
        let spread = mix(self.seed ^ u64::from(index)) % self.mean_ms.unsigned_abs();
        self.mean_ms / 2 + spread.cast_signed()
    }

    /// Whether an attempt at a task fails at its end.
    pub(super) fn fails(&self, index: u32, attempt: u32) -> bool {
        mix(self.seed ^ (u64::from(attempt) << 32) ^ u64::from(index)) % 100 < FAILS
    }
}

impl Scenario {
    /// The number of slots of a machine.
    pub(super) fn slots(number: u32) -> u32 {
        [1, 1, 2, 1, 1, 4, 1][number as usize % 7]
    }

    /// All runs in the order in which they are submitted.
    pub(super) fn submissions(&self, rng: &mut Rng, classes: u32) -> Vec<Submission> {
        let end_ms = (self.hours * HOUR_MS) as f64;
        let slots: u32 = (0..self.machines).map(Self::slots).sum();
        let size = SIZES.map(|(share, tasks)| f64::from(share) * tasks).iter().sum::<f64>() / 100.0;
        let task_ms = DURATIONS.map(|(share, ms)| i64::from(share) * ms).iter().sum::<i64>() / 100;
        let offered = f64::from(slots) * PRESENT * end_ms;
        let scale = LOAD * offered / (f64::from(self.runs) * size * task_ms as f64);
        let mut all: Vec<Submission> = (0..self.runs)
            .map(|_| {
                let at = loop {
                    let at = rng.unit();
                    if rng.unit() * (1.0 + SWING) < 1.0 - SWING * (TAU * at).cos() {
                        break at;
                    }
                };
                let account = f64::from(self.accounts) * rng.unit().powi(2);
                let frames = rng.weighted(&SIZES) * scale * (0.5 + rng.unit());
                Submission {
                    at_ms: (at * end_ms) as i64,
                    account: account as u32,
                    class: rng.below(classes),
                    priority: rng.weighted(&PRIORITIES),
                    frames: frames.round().max(1.0) as u32,
                    mean_ms: rng.weighted(&DURATIONS),
                    seed: rng.next(),
                }
            })
            .collect();
        all.sort_by_key(|run| run.at_ms);
        all
    }
}

/// A small random number generator (splitmix64).
#[derive(Debug)]
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        (self.next() % u64::from(end)) as u32
    }

    /// A number from 0 to 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// How long a machine stays, or stays away.
    pub(super) fn stays_ms(&mut self, present: bool) -> i64 {
        let mean = if present { STAYS_MS } else { AWAY_MS };
        (-mean * (1.0 - self.unit()).ln()) as i64
    }

    fn weighted<T: Copy>(&mut self, shares: &[(u32, T)]) -> T {
        let mut drawn = self.below(100);
        for (share, value) in shares {
            match drawn.checked_sub(*share) {
                Some(rest) => drawn = rest,
                None => return *value,
            }
        }
        unreachable!("the shares add up to a hundred")
    }
}

fn mix(number: u64) -> u64 {
    let z = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
