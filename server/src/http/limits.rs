//! Limits on what callers may ask: sizes of bodies and pages, and how often.

use super::problem::{Code, Problem};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Tokens whose rate is counted at a time.
const COUNTED: usize = 16_384;

/// How often one token may ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Requests in a second, in the long run.
    pub per_second: f64,
    /// Requests at once after a pause.
    pub burst: f64,
}

/// What callers may ask at most.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest body with a job.
    pub job_bytes: usize,
    /// The largest body of any other question.
    pub body_bytes: usize,
    /// The largest asset or output that is sent through this server.
    pub asset_bytes: u64,
    /// The largest log of one attempt.
    pub log_bytes: u64,
    /// Items in a page unless the caller says how many.
    pub page: usize,
    /// Items in a page at most.
    pub page_max: usize,
    /// How often people and programs may ask, each token by itself.
    pub rate: Rate,
    /// How often a machine may: it sends heartbeats, logs and outputs.
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
            rate: Rate { per_second: 200.0, burst: 1000.0 },
            machine_rate: Rate { per_second: 1000.0, burst: 5000.0 },
        }
    }
}

impl Limits {
    /// How many items a page has.
    pub(super) fn page(&self, asked: Option<usize>) -> Result<usize, Problem> {
        match asked {
            None => Ok(self.page),
            Some(limit) if (1..=self.page_max).contains(&limit) => Ok(limit),
            Some(_) => {
                let max = self.page_max;
                Err(Problem::invalid(format!("`limit` has to be a number from 1 to {max}")))
            }
        }
    }
}

/// How much each token has left.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    buckets: Mutex<HashMap<String, (Instant, f64)>>,
}

impl Buckets {
    /// Takes one request out of a token's bucket, or says how long to wait for the next.
    pub(super) fn take(&self, token: &str, rate: Rate) -> Result<(), Problem> {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= COUNTED {
            // A bucket that had time to fill up is as good as none.
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
        Err(Problem::new(Code::RateLimited, detail).retry_after(seconds))
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
