//! The owner loop of the simulated server, exactly as designed: take a batch, fold, commit, publish, acknowledge. It
//! may crash between any two of these steps.

use super::rules::Rules;
use super::worker::ToOwner;
use super::world::{Event as Happening, ToWorker, World};
use pictor_engine::{Effects, Engine, Run};
use pictor_tasks::history::{Event, Fact, RemovedOutputs, Row};
use pictor_tasks::message::TaskId;
use std::sync::Arc;

/// The most messages in one batch.
const BATCH: usize = 16;

/// The point at which a turn of the loop is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    Never,
    BeforeCommit,
    AfterCommit,
    WhilePublishing,
    BeforeAck,
}

impl World {
    pub(crate) fn turn(&mut self) {
        let crash = self.choose_crash();
        let batch: Vec<ToOwner> = self.inbox.iter().take(BATCH).cloned().collect();
        let mut fx = Effects::default();
        for message in &batch {
            self.hear(message.clone(), &mut fx);
        }
        if batch.len() < BATCH {
            self.engine.tick(self.now, &mut fx);
        }
        self.engine.assign(self.now, &mut fx);
        if crash == Crash::BeforeCommit {
            return self.recover();
        }
        self.commit(&fx);
        let committed = !fx.rows.is_empty();
        if crash == Crash::AfterCommit || committed && self.script.crash_after_commits {
            return self.recover();
        }
        let finished = self.publish(fx, crash);
        if !finished || crash == Crash::BeforeAck {
            return self.recover();
        }
        self.inbox.drain(..batch.len());
        self.check();
        if let Some(wake) = self.engine.next_wake() {
            assert!(wake > self.now, "it would wake at once, again and again");
            self.schedule(wake - self.now, Happening::Turn);
        }
    }

    fn choose_crash(&mut self) -> Crash {
        if !self.rng.percent(self.faults.crash) {
            return Crash::Never;
        }
        let points =
            [Crash::BeforeCommit, Crash::AfterCommit, Crash::WhilePublishing, Crash::BeforeAck];
        *self.rng.pick(&points)
    }

    fn hear(&mut self, message: ToOwner, fx: &mut Effects) {
        match message {
            ToOwner::Join(id, inventory) => self.engine.join(id, inventory, self.now),
            ToOwner::Leave(id) => self.engine.leave(id, self.now, fx),
            ToOwner::Beat(id, holding) => self.engine.heartbeat(id, &holding, self.now, fx),
            ToOwner::Report(report) => self.engine.report(report, self.now, fx),
            ToOwner::Control(run, control) => {
                let (id, known) = (self.runs[run].id.clone(), control.id);
                let new = self.engine.control(&id, control, self.now, fx);
                assert!(new || self.runs[run].controls.contains(&known) || !fx.rows.is_empty());
            }
        }
    }

    /// Stores the rows. The oracle and a second run fold them as well.
    fn commit(&mut self, fx: &Effects) {
        for (id, rows) in &fx.rows {
            let run = self.runs.iter_mut().find(|run| run.id == *id).unwrap();
            for row in rows {
                assert_eq!(row.seq, run.rows.len() as u64 + 1, "history has no gaps");
                let last = run.rows.last().map_or(0, |row| row.time_ms);
                assert!(row.time_ms >= last, "time does not go backwards");
                if let Fact::Event(control) = &row.fact {
                    run.controls.insert(control.id);
                    if let Event::Removed(removed) = &control.event {
                        run.removed.extend(keys(&run.shadow, removed));
                    }
                }
                run.model.apply(row).unwrap_or_else(|why| panic!("{id} row {}: {why}", row.seq));
                run.shadow.apply(row).unwrap();
                run.rows.push(row.clone());
            }
        }
    }

    /// Sends the messages. Returns false if the owner crashes in the meantime.
    fn publish(&mut self, fx: Effects, crash: Crash) -> bool {
        let mut left = match crash {
            Crash::WhilePublishing => self.rng.below(3),
            _ => u32::MAX,
        };
        for (worker, cancel) in fx.cancel {
            if left == 0 {
                return false;
            }
            left -= 1;
            self.send_worker(worker, &ToWorker::Cancel(cancel));
        }
        Rules::new(self).assignments(&fx.assign);
        let mut done = Effects::default();
        for (worker, assignment) in fx.assign {
            if left == 0 {
                return false;
            }
            left -= 1;
            let id = assignment.id;
            self.sent.push((worker, assignment.key.clone(), assignment.tasks.clone()));
            // A message that was not confirmed may have arrived nevertheless.
            let confirmed = !self.rng.percent(self.faults.unconfirmed);
            if confirmed || self.rng.percent(50) {
                self.send_worker(worker, &ToWorker::Assign(assignment));
            }
            self.engine.published(id, confirmed, &mut done);
        }
        for key in fx.remove.values().flatten() {
            if left == 0 {
                return false;
            }
            left -= 1;
            assert!(self.runs.iter().any(|run| run.removed.contains(key)), "{key} is not removed");
            self.stored.remove(key);
        }
        assert!(done.rows.is_empty() && done.assign.is_empty(), "a publication is not history");
        true
    }

    fn check(&mut self) {
        self.turns += 1;
        let thorough = self.turns.is_multiple_of(self.check_every);
        for run in &self.runs {
            let live = self.engine.run(&run.id).unwrap();
            if thorough {
                live.check().unwrap_or_else(|why| panic!("{}: {why}", run.id));
                assert!(
                    live.durable() == run.shadow.durable(),
                    "{}: it is not its history",
                    run.id
                );
            }
            run.model.compare(live).unwrap_or_else(|why| panic!("{}: {why}", run.id));
        }
        Rules::new(self).limits();
    }

    /// Restarts the owner from the committed state.
    fn recover(&mut self) {
        self.crashes += 1;
        self.engine = Engine::new(self.config.clone());
        for sim in &mut self.runs {
            let mut run = Run::new(sim.id.clone(), Arc::new(through_json(&*sim.plan)));
            for row in &sim.rows {
                let row: Row = through_json(row);
                run.apply(&row).unwrap();
            }
            assert!(run.durable() == sim.shadow.durable(), "{}: recovery differs", sim.id);
            run.check().unwrap();
            self.engine.add_run(run, sim.owner.clone(), 0, self.now);
        }
        let pause = self.rng.between(0, 4_000);
        self.down_until = self.now + pause;
        for worker in 0..self.workers.len() {
            self.announce(worker, pause);
        }
        self.schedule(pause, Happening::Turn);
    }
}

/// The keys of the tasks' outputs.
fn keys(run: &Run, removed: &[RemovedOutputs]) -> Vec<String> {
    let outputs = removed.iter().flat_map(|RemovedOutputs { step, tasks }| {
        let indices = tasks.iter().map(|index| u32::try_from(index).unwrap());
        indices.flat_map(|index| run.outputs(TaskId { step: *step, index }).unwrap().1)
    });
    outputs.map(|output| output.key.clone()).collect()
}

/// A value after a round trip through storage.
fn through_json<T: serde::Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}
