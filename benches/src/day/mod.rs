//! A day of a large farm, simulated in memory with the real engine: machines come, leave and vanish; runs of all sizes
//! arrive; tasks fail; priorities change while runs wait. The same seed always makes the same day.
//!
//! The engine gets the calls that the owner of a farm makes: each 100 ms the messages that have arrived, then a round
//! of assignments; each second a tick; and a run is removed a minute after its end.

mod events;
mod ideal;
mod machines;
mod scenario;
mod shares;

use crate::machine::{resident_bytes, thread_seconds};
use crate::render_farm::{CLASSES, LICENCE};
use events::{Event, worker};
use ideal::Ideal;
pub use ideal::Work;
use machines::Machine;
use pictor_engine::{Config, Effects, Engine, Run, RunState};
use pictor_tasks::history::Control;
use pictor_tasks::message::{Report, RunId, StepKey, Try, WorkerId};
use pictor_tasks::worker::Inventory;
pub use scenario::Scenario;
use scenario::{HOUR_MS, Rng, Submission};
pub use shares::Shares;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Messages that arrive within this time are handled together.
const BATCH_MS: i64 = 100;
const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60_000;
/// How often a machine sends a heartbeat, in batches: each 20 s.
const BEAT_BATCHES: usize = 200;
/// Of a hundred slots, how many may do licensed tasks at a time: about as many as there are such tasks.
const LICENCES: u32 = 15;

/// What happened in an hour.
#[derive(Clone, Copy, Debug)]
pub struct Hour {
    /// The number of machines that are present at its end.
    pub machines: usize,
    /// The number of runs that are in memory at its end.
    pub runs: usize,
    /// The number of tasks that were assigned.
    pub tasks: u64,
    /// How much of the slot time was used.
    pub work: Work,
    /// The processor time of the engine, in seconds: that of the thread, times the engine's share of the hour's real
    /// time. On a busy machine both parts wait for a processor alike.
    pub engine: f64,
    /// The memory of the process at its end.
    pub bytes: u64,
}

/// What happened in the day.
#[derive(Debug)]
pub struct Summary {
    /// What accounts got, and how long runs waited.
    pub shares: Shares,
    /// The number of runs that succeeded, and that did not.
    pub ended: [u32; 2],
    /// The time at which the last run ended, in milliseconds since the beginning.
    pub end_ms: i64,
}

/// A message to the owner.
enum Message {
    Joined(WorkerId, Inventory),
    Left(WorkerId),
    Heartbeat(WorkerId, Vec<(StepKey, Vec<Try>)>),
    Report(Report),
    Published(u64),
    Submitted(Box<Run>, String),
    Control(RunId, Control),
}

/// A run that has been submitted or will be.
struct Job {
    what: Submission,
    is_started: bool,
    is_changed: bool,
}

/// The simulation.
struct Day {
    rng: Rng,
    now_ms: i64,
    turns: usize,
    engine: Engine,
    in_engine: Duration,
    assigned: u64,
    events: BinaryHeap<Reverse<(i64, u64, Event)>>,
    scheduled: u64,
    messages: Vec<Message>,
    machines: Vec<Machine>,
    jobs: Vec<Job>,
    submitted: usize,
    /// The failures of tasks that have not succeeded yet.
    failures: HashMap<(usize, u32), u32>,
    ended: VecDeque<(i64, RunId)>,
    outcomes: [u32; 2],
    ideal: Ideal,
    shares: Shares,
    controls: u64,
}

/// Simulates a day, and what follows until every run has ended. `each_hour` gets the hours of the day.
///
/// # Panics
/// If a run has not ended in three times the length of the day.
pub fn simulate(scenario: &Scenario, mut each_hour: impl FnMut(&Hour)) -> Summary {
    let mut day = Day::new(scenario);
    let end_ms = scenario.hours * HOUR_MS;
    let (mut tasks, mut clock) = (0, Clock::start());
    while day.now_ms < end_ms || day.outcomes.iter().sum::<u32>() < scenario.runs {
        assert!(day.now_ms < 3 * end_ms, "runs have not ended: {:?}", day.outcomes);
        day.now_ms += BATCH_MS;
        day.happen();
        day.turn();
        if day.now_ms > end_ms {
            continue;
        }
        if day.now_ms % SECOND_MS == 0 {
            day.shares.second();
        }
        if day.now_ms % MINUTE_MS == 0 {
            day.ideal.minute(day.now_ms);
        }
        if day.now_ms % HOUR_MS == 0 {
            each_hour(&Hour {
                machines: day.machines.iter().filter(|machine| machine.is_present).count(),
                runs: day.engine.runs().count(),
                tasks: day.assigned - tasks,
                work: day.ideal.end_hour(),
                engine: clock.processor(day.in_engine),
                bytes: resident_bytes(),
            });
            (tasks, clock) = (day.assigned, Clock::start());
            day.in_engine = Duration::ZERO;
            day.ideal.begin_hour(day.now_ms);
        }
    }
    Summary { shares: day.shares, ended: day.outcomes, end_ms: day.now_ms }
}

/// The time since something began.
struct Clock {
    real: Instant,
    processor: f64,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    fn start() -> Self {
        Self { real: Instant::now(), processor: thread_seconds() }
    }

    /// The processor time in a part of the time since then, in seconds.
    fn processor(&self, part: Duration) -> f64 {
        let processor = thread_seconds() - self.processor;
        processor * part.as_secs_f64() / self.real.elapsed().as_secs_f64()
    }
}

impl Day {
    fn new(scenario: &Scenario) -> Self {
        let mut rng = Rng(scenario.seed);
        let machines: Vec<Machine> = (0..scenario.machines).map(Machine::new).collect();
        let slots: u32 = machines.iter().map(|machine| machine.has.slots).sum();
        let licences = slots * LICENCES / 100;
        let limits = [(LICENCE.to_owned(), licences)].into();
        let job = |what| Job { what, is_started: false, is_changed: false };
        let jobs = scenario.submissions(&mut rng, CLASSES).into_iter().map(job).collect();
        let mut day = Self {
            rng,
            now_ms: 0,
            turns: 0,
            engine: Engine::new(Config { limits, ..Config::default() }),
            in_engine: Duration::ZERO,
            assigned: 0,
            events: BinaryHeap::new(),
            scheduled: 0,
            messages: Vec::new(),
            ideal: Ideal::new(&machines, licences),
            machines,
            jobs,
            submitted: 0,
            failures: HashMap::new(),
            ended: VecDeque::new(),
            outcomes: [0; 2],
            shares: Shares::new(scenario.accounts),
            controls: 0,
        };
        day.begin();
        day
    }

    /// A turn of the owner.
    #[expect(clippy::disallowed_methods, reason = "it measures real time")]
    fn turn(&mut self) {
        self.beat();
        let (messages, mut fx) = (std::mem::take(&mut self.messages), Effects::default());
        let ticks = self.now_ms % SECOND_MS == 0;
        let is_due = self.engine.next_wake().is_some_and(|at| at <= self.now_ms);
        if messages.is_empty() && !ticks && !is_due {
            return;
        }
        let begun = Instant::now();
        for message in messages {
            self.tell(message, &mut fx);
        }
        if ticks {
            self.engine.tick(self.now_ms, &mut fx);
            std::hint::black_box(self.engine.silent_workers(self.now_ms).count());
            self.forget_ended();
        }
        self.engine.assign(self.now_ms, &mut fx);
        self.in_engine += begun.elapsed();
        for (id, state) in fx.changed {
            if state.is_terminal() {
                self.outcomes[usize::from(state != RunState::Succeeded)] += 1;
                self.ended.push_back((self.now_ms, id));
            }
        }
        for (worker, assignment) in fx.assign {
            self.assigned += assignment.tasks.len() as u64;
            self.messages.push(Message::Published(assignment.id));
            self.deliver(worker.0 as usize - 1, assignment);
        }
    }

    fn tell(&mut self, message: Message, fx: &mut Effects) {
        let (engine, now_ms) = (&mut self.engine, self.now_ms);
        match message {
            Message::Joined(id, has) => engine.join(id, has, now_ms),
            Message::Left(id) => engine.leave(id, now_ms, fx),
            Message::Heartbeat(id, holding) => engine.heartbeat(id, &holding, now_ms, fx),
            Message::Report(report) => engine.report(report, now_ms, fx),
            Message::Published(id) => engine.published(id, true, fx),
            Message::Submitted(run, account) => engine.add_run(*run, account, now_ms, now_ms),
            Message::Control(run, control) => {
                engine.control(&run, control, now_ms, fx);
            }
        }
    }

    fn forget_ended(&mut self) {
        while let Some((since_ms, _)) = self.ended.front()
            && self.now_ms - since_ms >= MINUTE_MS
            && let Some((_, id)) = self.ended.pop_front()
        {
            self.engine.remove_run(&id);
        }
    }

    /// The heartbeats of this batch.
    fn beat(&mut self) {
        self.turns += 1;
        let first = self.turns % BEAT_BATCHES;
        for number in (first..self.machines.len()).step_by(BEAT_BATCHES) {
            let machine = &self.machines[number];
            if machine.is_present {
                self.messages.push(Message::Heartbeat(worker(number), machine.holding()));
            }
        }
    }
}
