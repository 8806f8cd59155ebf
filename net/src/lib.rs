//! What every part shares that speaks over a network: one HTTP client with one set-up of TLS, growing pauses between
//! attempts, and random numbers for secrets and ids.

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use reqwest::{Client, ClientBuilder};
use std::time::Duration;
use tokio::time::sleep;

/// How long a connection may be idle before the system checks whether the other end is still there.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How long a connection without requests is kept: less long than servers keep it, which might end it just when the next
/// request is sent.
const IDLE: Duration = Duration::from_secs(45);

/// Sets up TLS for this process: rustls with ring. Further calls change nothing.
pub fn set_up_tls() {
    // Fails if the process has a provider already: then that one is used.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// An HTTP client that introduces itself as pictor. `connect` is the time limit for making a connection; whoever builds
/// the client adds the limits for responses.
pub fn client(connect: Duration) -> ClientBuilder {
    set_up_tls();
    Client::builder()
        .user_agent(concat!("pictor/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(connect)
        .tcp_keepalive(KEEPALIVE)
        .pool_idle_timeout(IDLE)
}

/// Growing pauses between attempts. Each is drawn at random, so that many machines do not act in step.
#[derive(Debug)]
pub struct Backoff(ExponentialBackoff);

impl Backoff {
    /// Pauses that double each time. The first is between `first` and twice that; the longest are between `longest` and
    /// twice that.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let pauses = ExponentialBuilder::new().with_min_delay(first).with_max_delay(longest);
        Self(pauses.with_jitter().without_max_times().build())
    }

    /// Waits for the next pause.
    pub async fn wait(&mut self) {
        sleep(self.next()).await;
    }

    fn next(&mut self) -> Duration {
        self.0.next().expect("there is no last attempt")
    }
}

/// From 100 to 200 ms, up to 5 to 10 s.
impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(5))
    }
}

/// Random bytes from the system, good enough for secrets.
///
/// # Panics
///
/// If the system has no random numbers: then nothing can be kept secret or told apart.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the system has random numbers");
    bytes
}

/// A random number, which in practice nobody else has drawn.
///
/// # Panics
///
/// As [`random_bytes`].
pub fn random() -> u64 {
    u64::from_le_bytes(random_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        let millis = Duration::from_millis;
        let mut pauses = Backoff::new(millis(10), millis(35));
        let shortest = [10, 20, 35, 35, 35].map(millis);
        let drawn = shortest.map(|_| pauses.next());
        for (drawn, shortest) in drawn.iter().zip(shortest) {
            assert!((shortest..2 * shortest).contains(drawn), "{drawn:?}");
        }
        let firsts: BTreeSet<_> = (0..100).map(|_| Backoff::default().next()).collect();
        assert!(firsts.len() > 50, "{firsts:?}");
    }
}
