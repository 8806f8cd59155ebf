//! Limits on requests: sizes of bodies and pages, and rates.

use super::refusal::Refusal;
use pictor_api::Code;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Tokens whose rate is tracked at a time.
const COUNTED: usize = 65_536;

/// How often one token may send requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests per second, in the long run.
    pub per_second: f64,
    /// Requests that may be sent at once after a pause.
    pub burst: f64,
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
    /// Most unfinished runs of a submitter's account.
    pub account_runs: u64,
    /// Most tasks of these runs.
    pub account_tasks: u64,
    /// Most event streams of one account at a time.
    pub account_streams: usize,
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
            account_runs: 10_000,
            account_tasks: 64 << 20,
            account_streams: 64,
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

/// The token buckets: how many requests each token may send now.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    buckets: Mutex<HashMap<String, (Instant, f64)>>,
}

impl Buckets {
    /// Takes one request from a token's bucket. Fails, with the time to wait, if the bucket is empty.
    pub(super) fn take(&self, token: &str, rate: Rate) -> Result<(), Refusal> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= COUNTED {
            // A bucket that has had time to fill up need not be stored.
            let full = Duration::from_secs_f64(rate.burst / rate.per_second);
            buckets.retain(|_, (since, _)| now.duration_since(*since) < full);
        }
        let (since, left) = buckets.entry(token.to_owned()).or_insert((now, rate.burst));
        let filled = now.duration_since(*since).as_secs_f64() * rate.per_second;
        *left = (*left + filled).min(rate.burst);
        *since = now;
        if *left >= 1.0 {
            *left -= 1.0;
            return Ok(());
        }
        let wait = Duration::from_secs_f64((1.0 - *left) / rate.per_second);
        let seconds = wait.as_secs() + 1;
        let detail = format!("too many requests with this token; go on in {seconds} s");
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
        for _ in 0..3 {
            assert_eq!(buckets.take("a", rate), Ok(()));
        }
        assert_eq!(buckets.take("a", rate).unwrap_err().code, Code::RateLimited);
        assert_eq!(buckets.take("b", rate), Ok(()));
        tokio::time::advance(Duration::from_millis(501)).await;
        assert_eq!(buckets.take("a", rate), Ok(()));
        assert!(buckets.take("a", rate).is_err());
        tokio::time::advance(Duration::from_mins(1)).await;
        for _ in 0..3 {
            assert_eq!(buckets.take("a", rate), Ok(()));
        }
        assert!(buckets.take("a", rate).is_err());
    }
}
