//! What accounts get, and how long runs wait.

#![expect(clippy::cast_precision_loss, reason = "a day has few seconds and slots")]

use super::scenario::HOUR_MS;
use crate::table::Series;

/// What all accounts got, and how long runs waited.
#[derive(Debug)]
pub struct Shares {
    accounts: Vec<Account>,
    /// The hours from submission to the first assigned task, of runs of priority 0, 1 and 2, and of those whose
    /// priority was changed while they waited.
    pub waits: [Series; 4],
}

/// One account.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Its tasks that could be assigned if a slot was free.
    pub(super) waiting: i64,
    /// Its busy slots.
    pub(super) busy: i64,
    /// Its slot seconds while it had waiting tasks.
    had: f64,
    /// The slot seconds of an equal part, at the same times.
    due: f64,
    /// For how many seconds it has had waiting tasks and no slot.
    without: u32,
    longest_without: u32,
}

impl Shares {
    pub(super) fn new(accounts: u32) -> Self {
        Self { accounts: vec![Account::default(); accounts as usize], waits: Default::default() }
    }

    pub(super) fn of(&mut self, account: u32) -> &mut Account {
        &mut self.accounts[account as usize]
    }

    /// Records how long a run has waited for its first task to be assigned.
    pub(super) fn waited(&mut self, series: usize, waited_ms: i64) {
        self.waits[series].push(waited_ms as f64 / HOUR_MS as f64);
    }

    /// To be called each second.
    pub(super) fn second(&mut self) {
        let wanting = || self.accounts.iter().filter(|account| account.waiting > 0);
        let equal = wanting().map(|account| account.busy).sum::<i64>() as f64
            / wanting().count().max(1) as f64;
        for account in &mut self.accounts {
            if account.waiting > 0 {
                account.had += account.busy as f64;
                account.due += equal;
            }
            let without = account.waiting > 0 && account.busy == 0;
            account.without = if without { account.without + 1 } else { 0 };
            account.longest_without = account.longest_without.max(account.without);
        }
    }

    /// The share of each account while it had waiting tasks: 1 is an equal part.
    pub fn shares(&self) -> Series {
        let waited = self.accounts.iter().filter(|account| account.due > 0.0);
        waited.map(|account| account.had / account.due).collect()
    }

    /// The longest time in seconds for which each account had waiting tasks and no slot.
    pub fn longest_without(&self) -> Series {
        self.accounts.iter().map(|account| f64::from(account.longest_without)).collect()
    }
}
