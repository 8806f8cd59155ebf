//! User actions and accidents in the simulated farm, and its return to normal.

use super::worker::{Condition, Timer, ToOwner, Worker};
use super::world::{Event, Faults, World};
use pictor_tasks::history::{Changes, Control, Event as ControlEvent, ResetTasks};
use pictor_tasks::units::Millis;

impl World {
    pub(super) fn chaos(&mut self) {
        if self.calm {
            return;
        }
        let number = self.rng.below(u32::try_from(self.workers.len()).unwrap()) as usize;
        let condition = self.workers[number].condition;
        match (self.rng.below(10), condition) {
            (0, Condition::Up) => {
                let until = self.now + self.rng.between(1_000, 100_000);
                self.workers[number].condition = Condition::Frozen(until);
            }
            (1, Condition::Up) => self.workers[number].condition = Condition::Gone,
            (2, Condition::Up) => self.with_worker(number, Worker::leave),
            (0..=4, Condition::Gone) => self.come(number),
            (5.., _) => self.control(),
            _ => {}
        }
        // Longer than any message takes, so that no goodbye arrives after the next hello.
        let pause = self.rng.between(4_100, 12_000);
        self.schedule(pause, Event::Chaos);
    }

    fn control(&mut self) {
        let number = self.rng.below(u32::try_from(self.runs.len()).unwrap()) as usize;
        let event = match self.rng.below(12) {
            0 => ControlEvent::Cancelled,
            1 | 2 => ControlEvent::Paused,
            3..=5 => ControlEvent::Resumed,
            6 => ControlEvent::Priority(i32::try_from(self.rng.below(5)).unwrap()),
            7 => ControlEvent::Changed(Changes {
                timeout: Some(Millis(60_000)),
                reset: self.some_tasks(number),
                ..Changes::default()
            }),
            _ => ControlEvent::Reset(self.some_tasks(number)),
        };
        self.last_control += 1;
        let control = Control { id: self.last_control, event };
        self.send_owner(&ToOwner::Control(number, control));
    }

    /// Resets all tasks of a step.
    pub(crate) fn reset(&mut self, number: usize, step: u16) {
        self.last_control += 1;
        let event = ControlEvent::Reset(vec![ResetTasks { step, tasks: Vec::new() }]);
        let control = Control { id: self.last_control, event };
        self.inbox.push(ToOwner::Control(number, control));
        self.schedule(0, Event::Turn);
    }

    fn some_tasks(&mut self, number: usize) -> Vec<ResetTasks> {
        let run = self.engine.run(&self.runs[number].id).unwrap();
        let steps = u32::try_from(run.plan().steps.len()).unwrap();
        let step = u16::try_from(self.rng.below(steps)).unwrap();
        let size = run.space(step).map_or(0, |space| space.len());
        let some = self.rng.below(101);
        let tasks = if self.rng.percent(30) {
            Vec::new()
        } else {
            // One more than exist: tasks that do not exist have no effect.
            (0..=size).filter(|_| self.rng.percent(some)).collect()
        };
        vec![ResetTasks { step, tasks }]
    }

    /// Ends all faults and lets time pass.
    pub(super) fn become_calm(&mut self) {
        self.calm = true;
        self.faults = Faults::default();
        for number in 0..self.workers.len() {
            match self.workers[number].condition {
                Condition::Gone => {}
                _ => self.workers[number].condition = Condition::Up,
            }
            if self.workers[number].condition == Condition::Gone {
                self.workers[number].life += 1;
                self.workers[number].held.clear();
                self.workers[number].condition = Condition::Up;
                let life = self.workers[number].life;
                self.schedule(5_000, Event::Timer(number, life, Timer::Beat));
            }
            self.announce(number, 5_000);
        }
        for number in 0..self.runs.len() {
            if self.rng.percent(80) {
                self.last_control += 1;
                let control = Control { id: self.last_control, event: ControlEvent::Resumed };
                self.schedule(5_000, Event::ToOwner(ToOwner::Control(number, control)));
            }
        }
    }
}
