//! The runs with tasks that can be assigned, in the order in which they get workers: by priority, then by the number
//! of tasks that their account has assigned, then by age. Runs are queued by the *kind of place* that their tasks need,
//! so that ten thousand runs that wait for the same workers are passed over at once.
//!
//! An account's position depends on how many tasks it has, which changes with each of them. So a position may be too
//! early, never too late: it is corrected when it comes up ([`Backlog::head`]), or when the account's count falls below
//! it ([`Backlog::set_held`]).

use super::pools::ClassId;
use pictor_tasks::message::RunId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What tasks need to be assigned; it is there for all tasks with the same demand, or for none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Demand {
    pub(crate) class: ClassId,
    /// Whether the tasks may be queued on workers whose slots are all taken.
    pub(crate) ahead: bool,
    /// The set of concurrency limits that they hold.
    pub(crate) limits: u32,
}

/// A run's place among those of equal priority whose accounts have equally many tasks.
pub(crate) type Age = (i64, RunId);

/// The number of an account.
pub(crate) type AccountId = u32;

/// The position of a demand's first run, smaller is earlier: its priority, the number of tasks of its account, its age.
pub(crate) type Position = (Reverse<i64>, u32, Age);

/// All runs with tasks that can be assigned.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    queues: BTreeMap<Demand, BTreeMap<Reverse<i64>, Level>>,
    accounts: Vec<Account>,
    account_ids: HashMap<String, AccountId>,
}

/// The runs of one priority.
#[derive(Debug, Default)]
struct Level {
    /// The accounts, by the number of their tasks (or fewer) and their oldest run.
    order: BTreeMap<(u32, Age), AccountId>,
    waiting: BTreeMap<AccountId, Waiting>,
}

/// The runs of one account and one priority.
#[derive(Debug, Default)]
struct Waiting {
    held: u32,
    runs: BTreeSet<Age>,
}

#[derive(Debug, Default)]
struct Account {
    held: u32,
    /// Where it has runs, by the count under which it is found there.
    places: BTreeSet<(u32, Demand, Reverse<i64>)>,
}

impl Backlog {
    /// The number of an account, for all other calls.
    pub(crate) fn account(&mut self, name: &str) -> AccountId {
        if let Some(id) = self.account_ids.get(name) {
            return *id;
        }
        let id = u32::try_from(self.accounts.len()).expect("there are fewer accounts");
        self.accounts.push(Account::default());
        self.account_ids.insert(name.to_owned(), id);
        id
    }

    /// The number of tasks that an account has assigned.
    pub(crate) fn held(&self, account: AccountId) -> u32 {
        self.accounts[account as usize].held
    }

    /// Changes the number of tasks that an account has assigned.
    pub(crate) fn set_held(&mut self, account: AccountId, held: u32) {
        self.accounts[account as usize].held = held;
        while let Some(&(found, demand, level)) = self.accounts[account as usize].places.last()
            && found > held
        {
            self.correct(account, demand, level);
        }
    }

    /// Finds an account under its present count.
    fn correct(&mut self, account: AccountId, demand: Demand, level: Reverse<i64>) {
        let Account { held, places } = &mut self.accounts[account as usize];
        let queue = self.queues.get_mut(&demand).expect("a place has a queue");
        let of = queue.get_mut(&level).expect("a place has a level");
        let waiting = of.waiting.get_mut(&account).expect("a place has runs");
        let first = waiting.runs.first().expect("there are runs where an account waits").clone();
        of.order.remove(&(waiting.held, first.clone()));
        places.remove(&(waiting.held, demand, level));
        waiting.held = *held;
        of.order.insert((waiting.held, first), account);
        places.insert((waiting.held, demand, level));
    }

    /// Adds a run.
    pub(crate) fn insert(&mut self, demand: Demand, priority: i64, account: AccountId, run: &Age) {
        let level = Reverse(priority);
        let Account { held, places } = &mut self.accounts[account as usize];
        let of = self.queues.entry(demand).or_default().entry(level).or_default();
        let waiting = of.waiting.entry(account).or_default();
        let Some(first) = waiting.runs.first() else {
            waiting.held = *held;
            places.insert((*held, demand, level));
            of.order.insert((*held, run.clone()), account);
            waiting.runs.insert(run.clone());
            return;
        };
        if run < first {
            of.order.remove(&(waiting.held, first.clone()));
            of.order.insert((waiting.held, run.clone()), account);
        }
        waiting.runs.insert(run.clone());
    }

    /// Removes a run that was added with the same values.
    pub(crate) fn remove(&mut self, demand: Demand, priority: i64, account: AccountId, run: &Age) {
        let level = Reverse(priority);
        let queue = self.queues.get_mut(&demand).expect("the run was added");
        let of = queue.get_mut(&level).expect("the run was added");
        let waiting = of.waiting.get_mut(&account).expect("the run was added");
        let was_first = waiting.runs.first() == Some(run);
        waiting.runs.remove(run);
        if !was_first {
            return;
        }
        of.order.remove(&(waiting.held, run.clone()));
        if let Some(first) = waiting.runs.first() {
            of.order.insert((waiting.held, first.clone()), account);
            return;
        }
        self.accounts[account as usize].places.remove(&(waiting.held, demand, level));
        of.waiting.remove(&account);
        if of.waiting.is_empty() {
            queue.remove(&level);
        }
        if queue.is_empty() {
            self.queues.remove(&demand);
        }
    }

    /// The demands for which runs wait.
    pub(crate) fn demands(&self) -> impl Iterator<Item = Demand> {
        self.queues.keys().copied()
    }

    /// The first run of a demand.
    pub(crate) fn head(&mut self, demand: Demand) -> Option<Position> {
        loop {
            let (level, of) = self.queues.get(&demand)?.first_key_value()?;
            let ((found, run), account) = of.order.first_key_value()?;
            if self.accounts[*account as usize].held == *found {
                return Some((*level, *found, run.clone()));
            }
            self.correct(*account, demand, *level);
        }
    }
}
