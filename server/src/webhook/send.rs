//! Sends one message: signs it according to the Standard Webhooks specification 1.0.0
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>), checks the response,
//! and decides when to retry.

use super::Webhooks;
use super::config::{Hook, HookError};
use crate::Error;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pictor_storage::Delivery;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{StatusCode, redirect};
use ring::hmac;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, warn};

/// Failed attempts (over about two days) after which a message is abandoned.
const ATTEMPTS_MAX: u32 = 10;
/// How the error of an abandoned message begins.
pub(super) const GIVEN_UP: &str = "given up: ";
/// Pause after the first failed attempt; each further one is four times as long …
const PAUSE_MS: i64 = 5_000;
/// … up to this, in milliseconds.
const PAUSE_MAX_MS: i64 = 86_400_000;
/// Messages of one hook that are in flight at a time.
const AT_A_TIME: u32 = 8;
/// How often to look for messages that another server has stored.
const LOOK: Duration = Duration::from_secs(30);
/// Pause after the database failed.
const RETRY: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_secs(5);

/// The client that sends requests. It follows no redirects: whoever configured the hook decides where messages go, not
/// the receiver.
pub(super) fn client() -> Result<reqwest::Client, HookError> {
    let client = pictor_net::client(CONNECT).redirect(redirect::Policy::none());
    client.build().map_err(HookError::Client)
}

/// The result of attempting everything that was due.
pub(super) struct Tried {
    pub(super) tried: usize,
    /// When the first of the failed messages is due again.
    next_ms: Option<i64>,
}

/// Sends the messages of one hook as they become due.
pub(super) async fn to_hook(all: &Webhooks, number: usize) {
    let hook = &all.hooks[number];
    let mut next_ms: Option<i64> = None;
    loop {
        let news = all.news.notified();
        let pause = match due(all, hook).await {
            Ok(done) if done.tried >= AT_A_TIME as usize => Duration::ZERO,
            Ok(done) => {
                let now_ms = (all.now_ms)();
                next_ms = next_ms.filter(|at| *at > now_ms).into_iter().chain(done.next_ms).min();
                let pause = next_ms.map(|at| (at - now_ms).max(1).unsigned_abs());
                pause.map_or(LOOK, Duration::from_millis).min(LOOK)
            }
            Err(failure) => {
                warn!(hook = hook.name, error = %failure, "messages cannot be looked up");
                RETRY
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            () = news => {}
        }
    }
}

/// Attempts the due messages of a hook, up to [`AT_A_TIME`], and records the results.
pub(super) async fn due(all: &Webhooks, hook: &Hook) -> Result<Tried, Error> {
    let due = all.registry.due_deliveries(&hook.name, (all.now_ms)(), AT_A_TIME).await?;
    let mut on_the_way = JoinSet::new();
    let tried = due.len();
    for message in due {
        let time_s = (all.now_ms)() / 1000;
        let request = all
            .client
            .post(hook.url.clone())
            .timeout(hook.timeout)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &message.event_id)
            .header("webhook-timestamp", time_s)
            .header("webhook-signature", signature(&hook.key, time_s, &message))
            .body(message.body.clone());
        on_the_way.spawn(async move { (message, answer(request).await) });
    }
    let mut next_ms = None;
    while let Some(done) = on_the_way.join_next().await {
        let Ok((message, answer)) = done else { continue };
        let again = note(all, hook, &message, answer).await?;
        next_ms = [next_ms, again].into_iter().flatten().min();
    }
    Ok(Tried { tried, next_ms })
}

/// `v1,` and the HMAC-SHA256 of id, time and body.
fn signature(key: &hmac::Key, time_s: i64, message: &Delivery) -> String {
    let signed = format!("{}.{time_s}.{}", message.event_id, message.body);
    format!("v1,{}", STANDARD.encode(hmac::sign(key, signed.as_bytes())))
}

/// Why a message was not accepted.
struct Refused {
    why: String,
    /// Whether the receiver is gone for good, so that no further attempt is made.
    is_final: bool,
    /// Pause that the receiver asks for, in milliseconds.
    pause_ms: i64,
}

async fn answer(request: reqwest::RequestBuilder) -> Result<(), Refused> {
    let answer = request.send().await.map_err(|error| {
        let why = if error.is_timeout() {
            "it does not answer in time".to_owned()
        } else {
            // The URL is part of the error, and may be a secret.
            reason(&error.without_url())
        };
        Refused { why, is_final: false, pause_ms: 0 }
    })?;
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds: i64 = seconds.and_then(|text| text.trim().parse().ok()).unwrap_or_default();
    let hint = if status.is_redirection() { "; redirects are not followed" } else { "" };
    Err(Refused {
        why: format!("it answers with {status}{hint}"),
        is_final: status == StatusCode::GONE,
        pause_ms: seconds.clamp(0, PAUSE_MAX_MS / 1000) * 1000,
    })
}

/// An error with its causes.
fn reason(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Records the result of an attempt. Returns when the message is due again.
async fn note(
    all: &Webhooks,
    hook: &Hook,
    message: &Delivery,
    answer: Result<(), Refused>,
) -> Result<Option<i64>, Error> {
    let now_ms = (all.now_ms)();
    let Err(Refused { why, is_final, pause_ms }) = answer else {
        all.registry.delivery_done(message.number, now_ms).await?;
        return Ok(None);
    };
    let attempts = message.attempts + 1;
    if attempts >= ATTEMPTS_MAX || is_final {
        warn!(hook = hook.name, event = message.event_id, error = why, "a message is given up");
        let why = format!("{GIVEN_UP}{why}");
        all.registry.delivery_failed(message.number, &why, now_ms).await?;
        all.registry.delivery_done(message.number, now_ms).await?;
        return Ok(None);
    }
    debug!(hook = hook.name, event = message.event_id, error = why, attempts, "not delivered");
    let next_ms = now_ms + pause(message.number, attempts).max(pause_ms);
    all.registry.delivery_failed(message.number, &why, next_ms).await?;
    Ok(Some(next_ms))
}

/// The pause after this many failed attempts: four times as long each time, a fifth more or less, so that messages that
/// failed together are not repeated together.
fn pause(number: i64, attempts: u32) -> i64 {
    let factor = 4_i64.saturating_pow(attempts.saturating_sub(1));
    let pause = PAUSE_MS.saturating_mul(factor).min(PAUSE_MAX_MS);
    let hash = blake3::hash(format!("{number}\n{attempts}").as_bytes());
    let drawn = i64::from(u16::from_le_bytes([hash.as_bytes()[0], hash.as_bytes()[1]]));
    let spread = pause / 5;
    (pause - spread + 2 * spread * drawn / i64::from(u16::MAX)).min(PAUSE_MAX_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_that_of_the_specification() {
        // Key and message from the specification's reference libraries.
        let secret = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let message = Delivery {
            event_id: "msg_p5jXN8AQM9LWM0D4loKWxJek".into(),
            body: r#"{"test": 2432232314}"#.into(),
            ..Delivery::default()
        };
        let signed =
            signature(&hmac::Key::new(hmac::HMAC_SHA256, &secret), 1_614_265_330, &message);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn pauses_grow_to_a_day_and_differ() {
        let pauses: Vec<i64> = (1..ATTEMPTS_MAX).map(|attempts| pause(1, attempts)).collect();
        assert!((4_000..=6_000).contains(&pauses[0]), "{pauses:?}");
        assert!(pauses[..7].is_sorted(), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= PAUSE_MAX_MS), "{pauses:?}");
        assert!(pauses.iter().sum::<i64>() > 3 * PAUSE_MAX_MS / 2, "{pauses:?}");
        assert_ne!(pause(1, 1), pause(2, 1));
    }
}
