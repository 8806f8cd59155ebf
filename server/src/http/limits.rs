//! Limits: sizes of bodies and pages, rates, and the quotas of accounts.

use super::refusal::Refusal;
use pictor_api::Code;
use pictor_tasks::units::Bytes;
use serde::Deserialize;
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Tokens whose rate is tracked at a time.
const COUNTED: usize = 65_536;

/// How often something may be done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Times per second, in the long run.
    pub per_second: f64,
    /// How often it may be done at once after a pause.
    pub burst: f64,
}

impl Rate {
    /// So often per minute, and as often at once.
    pub(super) fn per_minute(times: u32) -> Self {
        Self { per_second: f64::from(times) / 60.0, burst: f64::from(times) }
    }
}

/// `[quotas]` of the configuration: what may be taken of the farm. They hold for submitters; the
/// one of streams for everybody, and those of machines for each enrolment token.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// Most unfinished runs of an account.
    pub runs: u64,
    /// Most tasks of these runs.
    pub tasks: u64,
    /// Most submissions of an account per minute, in the long run. As many may be made at once after a pause.
    pub submissions_per_minute: u32,
    /// Most schedules of an account.
    pub schedules: u64,
    /// Most event streams of an account at a time.
    pub streams: u64,
    /// Most bytes of the files that an account has uploaded.
    pub upload_bytes: Bytes,
    /// Most machines that have enrolled with one token.
    pub machines: u64,
    /// Most enrolments with one token per minute, in the long run. Half of them may be made at once.
    pub machines_per_minute: u32,
}

impl Default for Quotas {
    fn default() -> Self {
        Self {
            runs: 10_000,
            tasks: 64 << 20,
            submissions_per_minute: 600,
            schedules: 1000,
            streams: 64,
            upload_bytes: Bytes(1 << 40),
            machines: 1000,
            machines_per_minute: 60,
        }
    }
}

impl Quotas {
    /// The rejection of what goes beyond a quota: its name in the configuration and its value, and what there is.
    pub(super) fn exceeded(name: &str, most: impl Display, has: impl Display) -> Refusal {
        let detail = format!(
            "{has}, and the limit is {most}: it is `{name}` in `[quotas]` of the servers' configuration, which the \
             farm's operator sets"
        );
        Refusal::new(Code::QuotaExceeded, detail)
    }
}

/// The limits on what callers may request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest body with a job, in bytes.
    pub job_bytes: usize,
    /// Largest body of any other request, in bytes.
    pub body_bytes: usize,
    /// Largest asset or output that is sent through this server, in bytes.
    pub asset_bytes: u64,
    /// Largest log of one attempt, in bytes.
    pub log_bytes: u64,
    /// Items of a page if the caller does not say how many.
    pub page: usize,
    /// Most items of a page.
    pub page_max: usize,
    /// What accounts and enrolment tokens may take of the farm.
    pub quotas: Quotas,
    /// Milliseconds after which entries of the audit log are removed.
    pub audit_age_ms: u64,
    /// Most entries of the audit log that are kept.
    pub audit_entries: u64,
    /// Bytes of the data folder's file system that stay free for the database: no file is accepted beyond.
    pub disk_floor: u64,
    /// Most connections at a time. There are never more than three quarters of the descriptors of this process.
    pub connections: usize,
    /// How long a connection may wait for a request, or for the rest of its headers.
    pub header_timeout: Duration,
    /// How long the next 16 KiB of a body may take, or its end.
    pub body_timeout: Duration,
    /// Rate of each token of people and programs.
    pub rate: Rate,
    /// Rate of each machine's token, which sends heartbeats, logs and outputs.
    pub machine_rate: Rate,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            job_bytes: 4 << 20,
            body_bytes: 1 << 20,
            asset_bytes: 64 << 30,
            log_bytes: 64 << 20,
            page: 100,
            page_max: 1000,
            quotas: Quotas::default(),
            audit_age_ms: 400 * 86_400_000,
            audit_entries: 1_000_000,
            disk_floor: 1 << 30,
            connections: 65_536,
            // Longer than proxies and our own clients keep a connection without requests, which then end it first.
            header_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            rate: Rate { per_second: 500.0, burst: 5000.0 },
            machine_rate: Rate { per_second: 1000.0, burst: 5000.0 },
        }
    }
}

impl Limits {
    /// The number of items of a page, if `asked` is within the limits.
    pub(super) fn page(&self, asked: Option<usize>) -> Result<usize, Refusal> {
        match asked {
            None => Ok(self.page),
            Some(limit) if (1..=self.page_max).contains(&limit) => Ok(limit),
            Some(_) => {
                let max = self.page_max;
                Err(Refusal::invalid(format!("`limit` has to be a number from 1 to {max}")))
            }
        }
    }
}

/// How much each account takes of something at the moment. Clones share their state.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken(Arc<Mutex<HashMap<String, u64>>>);

/// A part of what an account may take. It is given back when this is dropped.
#[derive(Debug)]
pub(super) struct Part {
    of: Taken,
    account: String,
    amount: u64,
}

impl Taken {
    /// Takes `amount` for an account. Returns `None` if it has more than `most` then.
    pub(super) fn take(&self, account: &str, amount: u64, most: u64) -> Option<Part> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = taken.get(account).copied().unwrap_or_default();
        let after = before.checked_add(amount).filter(|after| *after <= most)?;
        taken.insert(account.to_owned(), after);
        Some(Part { of: self.clone(), account: account.to_owned(), amount })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut taken = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(amount) = taken.get_mut(&self.account) {
            *amount -= self.amount;
            if *amount == 0 {
                taken.remove(&self.account);
            }
        }
    }
}

/// The token buckets: how many requests each token may send now.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    buckets: Mutex<HashMap<String, (Instant, f64)>>,
}

impl Buckets {
    /// Takes one of `what` from the bucket of this name. Fails, with the time to wait, if the bucket is empty.
    pub(super) fn take(&self, name: &str, rate: Rate, what: &str) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= COUNTED {
            // A bucket that has had time to fill up need not be stored.
            let full = Duration::from_secs_f64(rate.burst / rate.per_second);
            buckets.retain(|_, (since, _)| now.duration_since(*since) < full);
        }
        let (since, left) = buckets.entry(name.to_owned()).or_insert((now, rate.burst));
        let filled = now.duration_since(*since).as_secs_f64() * rate.per_second;
        *left = (*left + filled).min(rate.burst);
        *since = now;
        if *left >= 1.0 {
            *left -= 1.0;
            return Ok(());
        }
        let wait = Duration::from_secs_f64((1.0 - *left) / rate.per_second);
        let seconds = wait.as_secs() + 1;
        let detail = format!("too many {what}; go on in {seconds} s");
        Err(Refusal::new(Code::RateLimited, detail).retry_after(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_bucket_empties_and_fills_again() {
        let buckets = Buckets::default();
        let rate = Rate { per_second: 2.0, burst: 3.0 };
        let take = |name| buckets.take(name, rate, "requests");
        for _ in 0..3 {
            assert_eq!(take("a"), Ok(()));
        }
        assert_eq!(take("a").unwrap_err().code, Code::RateLimited);
        assert_eq!(take("b"), Ok(()));
        tokio::time::advance(Duration::from_millis(501)).await;
        assert_eq!(take("a"), Ok(()));
        assert!(take("a").is_err());
        tokio::time::advance(Duration::from_mins(1)).await;
        for _ in 0..3 {
            assert_eq!(take("a"), Ok(()));
        }
        assert!(take("a").is_err());
    }
}
