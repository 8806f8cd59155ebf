//! A storm: every few seconds something is killed, frozen or cut off, in an order determined by a seed.

use crate::hosts::TestFarm;
use crate::hosts::network::Host;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle, sleep};
use std::time::Duration;
use tokio::time::Instant;

/// A part of the farm, by its index among those of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Server(usize),
    Worker(usize),
    Broker,
    Database,
    Objects,
}

/// The kind of damage done to parts of the farm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    /// `kill -9`; later the part is started again.
    Kill(Part),
    /// SIGSTOP; later SIGCONT.
    Freeze(Part),
    /// Nothing that one of them sends reaches the other.
    Cut(Part, Part),
}

/// One fault of the sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    at: Duration,
    harm: Harm,
    lasts: Duration,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, harm, lasts } = self;
        write!(f, "{:5.1} s: {harm:?} for {:.1} s", at.as_secs_f64(), lasts.as_secs_f64())
    }
}

/// Pseudo-random numbers (splitmix64). The seed is printed; `PICTOR_SEED` sets it.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let given = std::env::var("PICTOR_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| RandomState::new().hash_one(1));
        eprintln!("PICTOR_SEED={seed}");
        Self(seed)
    }

    /// A number from 0 to `end - 1`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(end).unwrap()).unwrap()
    }

    fn millis(&mut self, from: usize, to: usize) -> Duration {
        Duration::from_millis((from + self.below(to - from)).try_into().unwrap())
    }
}

/// The faults for a storm of this length.
pub(crate) fn sequence(time: Duration) -> Vec<Fault> {
    let mut dice = Dice::new();
    let mut busy: BTreeMap<Part, Duration> = BTreeMap::new();
    let (mut faults, mut at) = (Vec::new(), dice.millis(500, 1500));
    while at < time {
        let harm = harm(&mut dice);
        let lasts = match harm {
            Harm::Kill(_) => dice.millis(0, 3_000),
            Harm::Freeze(_) | Harm::Cut(..) => dice.millis(2_000, 15_000),
        };
        // A part that is damaged already, or was started again only just now, is left alone.
        let (hurt, rest) = match harm {
            Harm::Kill(part) => (vec![part], 3),
            Harm::Freeze(part) => (vec![part], 1),
            Harm::Cut(one, other) => (vec![one, other], 0),
        };
        if hurt.iter().any(|part| busy.get(part).is_some_and(|until| *until > at)) {
            // Every part may be in that state.
            at += Duration::from_millis(50);
            continue;
        }
        let until = at + lasts + Duration::from_secs(rest);
        busy.extend(hurt.into_iter().map(|part| (part, until)));
        faults.push(Fault { at, harm, lasts });
        at += dice.millis(1_000, 3_000);
    }
    faults
}

fn harm(dice: &mut Dice) -> Harm {
    let part = |dice: &mut Dice| match dice.below(10) {
        0..4 => Part::Worker(dice.below(3)),
        4..7 => Part::Server(dice.below(2)),
        7..9 => Part::Database,
        _ => Part::Broker,
    };
    match dice.below(3) {
        0 => Harm::Kill(part(dice)),
        1 => Harm::Freeze(part(dice)),
        _ => {
            let server = Part::Server(dice.below(2));
            let worker = Part::Worker(dice.below(3));
            let pairs = [
                (server, Part::Database),
                (server, Part::Broker),
                (worker, Part::Broker),
                (worker, server),
                (worker, Part::Objects),
                (Part::Server(0), Part::Server(1)),
            ];
            let (one, other) = pairs[dice.below(pairs.len())];
            Harm::Cut(one, other)
        }
    }
}

/// Applies the faults to the farm, and repairs them. `progress` returns how much of the work is done.
pub(crate) fn rage(farm: &mut TestFarm, faults: &[Fault], progress: impl Fn() -> usize) {
    let start = Instant::now();
    // The damage to be repaired, and when.
    let mut open: Vec<(Duration, Harm)> = Vec::new();
    std::thread::scope(|scope| {
        let mut starts = Starts { scope, running: BTreeMap::new() };
        for fault in faults {
            settle(farm, &mut starts, &mut open, (start, fault.at));
            wait(start, fault.at);
            eprintln!("{fault}; {} programs were executed", progress());
            begin(farm, &mut starts, fault.harm);
            open.push((fault.at + fault.lasts, fault.harm));
        }
        settle(farm, &mut starts, &mut open, (start, Duration::MAX));
    });
}

/// Services that are being started again. A broker needs up to ten seconds, during which the storm continues.
struct Starts<'s, 'e> {
    scope: &'s Scope<'s, 'e>,
    running: BTreeMap<Part, ScopedJoinHandle<'s, ()>>,
}

impl<'s> Starts<'s, '_> {
    fn begin(&mut self, part: Part, start: impl FnOnce() + Send + 's) {
        self.running.insert(part, self.scope.spawn(start));
    }

    /// Waits until no start of this part is in progress.
    fn wait(&mut self, part: Part) {
        if let Some(start) = self.running.remove(&part) {
            start.join().unwrap();
        }
    }
}

fn wait(start: Instant, at: Duration) {
    sleep(at.saturating_sub(start.elapsed()));
}

/// Repairs the damage that is due by then, in order.
fn settle(
    farm: &mut TestFarm,
    starts: &mut Starts<'_, '_>,
    open: &mut Vec<(Duration, Harm)>,
    (start, by): (Instant, Duration),
) {
    open.sort_by_key(|(at, _)| *at);
    let due = open.partition_point(|(at, _)| *at <= by);
    for (at, harm) in open.drain(..due) {
        wait(start, at);
        end(farm, starts, harm);
    }
}

fn begin(farm: &mut TestFarm, starts: &mut Starts<'_, '_>, harm: Harm) {
    if let Harm::Kill(part) | Harm::Freeze(part) = harm {
        starts.wait(part);
    }
    match harm {
        Harm::Kill(Part::Server(i)) => farm.servers[i].kill9(),
        Harm::Kill(Part::Worker(i)) => farm.workers[i].kill9(),
        Harm::Kill(Part::Broker) => farm.services.rabbit.kill9(),
        Harm::Kill(_) => farm.services.postgres.kill9(),
        Harm::Freeze(Part::Server(i)) => farm.servers[i].signal(Signal::STOP),
        Harm::Freeze(Part::Worker(i)) => farm.workers[i].signal(Signal::STOP),
        Harm::Freeze(Part::Broker) => farm.services.rabbit.freeze(),
        Harm::Freeze(_) => farm.services.postgres.freeze(),
        Harm::Cut(one, other) => farm.network.cut(&host(farm, one), &host(farm, other)),
    }
}

fn end(farm: &mut TestFarm, starts: &mut Starts<'_, '_>, harm: Harm) {
    match harm {
        Harm::Kill(Part::Server(i)) => farm.servers[i].start(),
        Harm::Kill(Part::Worker(i)) => farm.workers[i].start(),
        Harm::Kill(Part::Broker) => {
            let (host, rabbit) = (farm.services.broker.clone(), farm.services.rabbit.clone());
            starts.begin(Part::Broker, move || host.inside(|| rabbit.start_again()));
        }
        Harm::Kill(part) => {
            let (host, postgres) = (farm.services.database.clone(), farm.services.postgres.clone());
            starts.begin(part, move || host.inside(|| postgres.start_again()));
        }
        Harm::Freeze(Part::Server(i)) => farm.servers[i].signal(Signal::CONT),
        Harm::Freeze(Part::Worker(i)) => farm.workers[i].signal(Signal::CONT),
        Harm::Freeze(Part::Broker) => farm.services.rabbit.thaw(),
        Harm::Freeze(_) => farm.services.postgres.thaw(),
        Harm::Cut(one, other) => farm.network.heal(&host(farm, one), &host(farm, other)),
    }
}

fn host(farm: &TestFarm, part: Part) -> Arc<Host> {
    match part {
        Part::Server(i) => farm.servers[i].host.clone(),
        Part::Worker(i) => farm.workers[i].host.clone(),
        Part::Broker => farm.services.broker.clone(),
        Part::Database => farm.services.database.clone(),
        Part::Objects => farm.services.objects.clone(),
    }
}
