//! What happens outside of the owner: to the machines and by the users.

use super::machines::Held;
use super::{Day, Message};
use crate::render_farm;
use pictor_engine::Run;
use pictor_tasks::history::{Control, Event as ControlEvent};
use pictor_tasks::message::{
    Assignment, Execution, Failure, FailureKind, Outcome, Products, Report, RunId, TaskEnd, Try,
    What, WorkerId,
};
use std::cmp::Reverse;
use std::sync::Arc;

/// How often the priority of a waiting run is changed.
const CHANGE_MS: i64 = 10_000;
/// The attempts at a task.
const ATTEMPTS: u32 = 3;
/// Of a hundred machines that go, how many vanish without a word.
const VANISH: u32 = 30;
/// The number of scenes of a class.
const SCENES: usize = 25;

/// What happens at a time.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// A machine comes.
    Come(usize),
    /// A machine goes.
    Go(usize),
    /// A bundle on a machine ends.
    End(usize, u64),
    /// The next run is submitted.
    Submit,
    /// The priority of a waiting run is changed.
    Change,
}

impl Day {
    /// Schedules what happens first.
    pub(super) fn begin(&mut self) {
        self.ideal.begin_hour(0);
        for number in 0..self.machines.len() {
            if self.rng.below(10) > 0 {
                self.come(number, 0);
            } else {
                let away_ms = self.rng.stays_ms(false);
                self.schedule(away_ms, Event::Come(number));
            }
        }
        self.schedule(self.jobs[0].what.at_ms, Event::Submit);
        self.schedule(CHANGE_MS, Event::Change);
    }

    fn schedule(&mut self, at_ms: i64, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((at_ms, self.scheduled, event)));
    }

    /// Everything until now.
    pub(super) fn happen(&mut self) {
        while let Some(Reverse((at_ms, ..))) = self.events.peek()
            && *at_ms <= self.now_ms
            && let Some(Reverse((at_ms, _, event))) = self.events.pop()
        {
            match event {
                Event::Come(number) => self.come(number, at_ms),
                Event::Go(number) => self.go(number, at_ms),
                Event::End(number, bundle) => self.end(number, bundle, at_ms),
                Event::Submit => self.submit(at_ms),
                Event::Change => self.change(at_ms),
            }
        }
    }

    fn come(&mut self, number: usize, now_ms: i64) {
        let machine = &mut self.machines[number];
        machine.is_present = true;
        self.ideal.offer(&machine.has, true, now_ms);
        self.messages.push(Message::Joined(worker(number), machine.has.clone()));
        let stays_ms = self.rng.stays_ms(true);
        self.schedule(now_ms + stays_ms, Event::Go(number));
    }

    fn go(&mut self, number: usize, now_ms: i64) {
        let machine = &mut self.machines[number];
        self.ideal.offer(&machine.has, false, now_ms);
        for held in machine.go() {
            let lost_ms = self.stop(&held, now_ms);
            let (job, tasks) = (&self.jobs[job_of(&held.assignment)].what, &held.assignment.tasks);
            self.ideal.demand(job.class, lost_ms, now_ms);
            self.shares.of(job.account).waiting += count(tasks);
        }
        if self.rng.below(100) >= VANISH {
            self.messages.push(Message::Left(worker(number)));
        }
        let away_ms = self.rng.stays_ms(false);
        self.schedule(now_ms + away_ms, Event::Come(number));
    }

    /// Takes the slot of a bundle and returns for how long it had one.
    fn stop(&mut self, held: &Held, now_ms: i64) -> i64 {
        let Some(since_ms) = held.since_ms else { return 0 };
        let job = &self.jobs[job_of(&held.assignment)].what;
        self.ideal.busy(job.class, -1, now_ms);
        self.shares.of(job.account).busy -= 1;
        now_ms - since_ms
    }

    /// A bundle arrives at a machine.
    pub(super) fn deliver(&mut self, number: usize, assignment: Assignment) {
        let machine = &mut self.machines[number];
        if !machine.is_present {
            return;
        }
        let job = &mut self.jobs[job_of(&assignment)];
        self.shares.of(job.what.account).waiting -= count(&assignment.tasks);
        if !job.is_started {
            job.is_started = true;
            let priority = job.what.priority.unsigned_abs() as usize;
            let waited_ms = self.now_ms - job.what.at_ms;
            self.shares.waited(if job.is_changed { 3 } else { priority }, waited_ms);
        }
        machine.give(assignment);
        self.start(number, self.now_ms);
    }

    /// Gives a free slot to the next bundle.
    fn start(&mut self, number: usize, now_ms: i64) {
        let Some(assignment) = self.machines[number].start(now_ms) else { return };
        let job = &self.jobs[job_of(assignment)].what;
        self.ideal.busy(job.class, 1, now_ms);
        self.shares.of(job.account).busy += 1;
        let took_ms: i64 = assignment.tasks.iter().map(|task| job.task_ms(task.index)).sum();
        let end = Event::End(number, assignment.id);
        let what = What::Claimed(assignment.tasks.clone());
        self.messages.push(Message::Report(report(number, assignment, what)));
        self.schedule(now_ms + took_ms, end);
    }

    fn end(&mut self, number: usize, bundle: u64, now_ms: i64) {
        let Some(held) = self.machines[number].end(bundle) else { return };
        self.stop(&held, now_ms);
        let tasks = &held.assignment.tasks;
        let ends = tasks.iter().map(|task| self.end_of(&held.assignment, *task, now_ms)).collect();
        self.messages.push(Message::Report(report(number, &held.assignment, What::Ended(ends))));
        self.start(number, now_ms);
    }

    fn end_of(&mut self, of: &Assignment, task: Try, now_ms: i64) -> TaskEnd {
        let number = job_of(of);
        let job = &self.jobs[number].what;
        let took_ms = job.task_ms(task.index);
        let outcome = if job.fails(task.index, task.attempt) {
            let failures = self.failures.entry((number, task.index)).or_default();
            *failures += 1;
            if *failures < ATTEMPTS {
                self.ideal.demand(job.class, took_ms, now_ms);
                self.shares.of(job.account).waiting += 1;
            }
            Outcome::Failed(Failure { kind: FailureKind::Failed, message: "by chance".into() })
        } else {
            self.failures.remove(&(number, task.index));
            Outcome::Succeeded(Products::default())
        };
        let took_ms = u32::try_from(took_ms).expect("less than an hour");
        TaskEnd { task, started_ms: now_ms - i64::from(took_ms), took_ms, outcome }
    }

    fn submit(&mut self, now_ms: i64) {
        let number = self.submitted;
        self.submitted += 1;
        let job = &self.jobs[number].what;
        let mut plan = render_farm::plan(job.class, job.frames);
        plan.priority = job.priority;
        for file in plan.files.values_mut() {
            file.digest = format!("{:032}{:032}", job.class, number % SCENES);
        }
        for index in 0..job.frames {
            self.ideal.demand(job.class, job.task_ms(index), now_ms);
        }
        self.shares.of(job.account).waiting += i64::from(job.frames);
        let run = Box::new(Run::new(run_id(number), Arc::new(plan)));
        let account = format!("account-{}", job.account);
        self.messages.push(Message::Submitted(run, account));
        if let Some(next) = self.jobs.get(self.submitted) {
            self.schedule(next.what.at_ms, Event::Submit);
        }
    }

    fn change(&mut self, now_ms: i64) {
        // Some of the latest runs; often one of them still waits.
        for _ in 0..100 {
            let back = self.rng.below(1_000) as usize;
            let Some(number) = self.submitted.checked_sub(back + 1) else { continue };
            let job = &mut self.jobs[number];
            if !job.is_started && !job.is_changed {
                job.is_changed = true;
                self.controls += 1;
                let priority = self.rng.below(3).cast_signed();
                let control =
                    Control { id: self.controls, event: ControlEvent::Priority(priority) };
                self.messages.push(Message::Control(run_id(number), control));
                break;
            }
        }
        self.schedule(now_ms + CHANGE_MS, Event::Change);
    }
}

pub(super) fn worker(number: usize) -> WorkerId {
    WorkerId(u32::try_from(number).expect("there are fewer machines") + 1)
}

fn report(number: usize, assignment: &Assignment, what: What) -> Report {
    Report {
        worker: worker(number),
        key: assignment.key.clone(),
        execution: Execution(assignment.id),
        what,
    }
}

fn count(tasks: &[Try]) -> i64 {
    i64::try_from(tasks.len()).expect("a bundle is small")
}

fn run_id(number: usize) -> RunId {
    RunId(format!("{number:026}").into())
}

/// The number of the run of an assignment.
fn job_of(assignment: &Assignment) -> usize {
    assignment.key.run.0.parse().expect("as in `run_id`")
}
