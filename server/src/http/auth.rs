//! Tokens: creating them, identifying a caller by one, and caching them. Only a digest of the secret is stored; a token
//! is shown once, when it is created.

use super::caller::Caller;
use super::memory::Outage;
use super::refusal::Refusal;
use axum::http::{HeaderMap, HeaderValue, header};
use pictor_api::{Code, TokenRole};
use pictor_net::random_bytes;
use pictor_storage::{Registry, Token};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long it is believed that no token was revoked or made: a revocation by another process takes effect after this
/// time.
const BELIEVED: Duration = Duration::from_millis(800);
/// Most tokens in the cache.
const REMEMBERED: usize = 65_536;
/// Prefix of every token, so that scanners for leaked secrets recognise them.
const PREFIX: &str = "pictor_";
/// Characters of ids and secrets: none that can be mistaken for another.
const LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// Length of an id (60 bits); below, that of a secret (260 bits).
const ID_LETTERS: usize = 12;
const SECRET_LETTERS: usize = 52;

/// A token that was just created.
#[derive(Debug)]
pub struct Minted {
    /// The record to store.
    pub record: Token,
    /// The token itself, for its holder. It cannot be recovered later.
    pub text: String,
}

/// The properties of a token to be created.
#[derive(Clone, Copy, Debug)]
pub struct Purpose<'a> {
    /// Label that says what the token is for.
    pub name: &'a str,
    /// Role that the token gets.
    pub role: TokenRole,
    /// Account that the token acts for.
    pub account: &'a str,
}

/// Creates a token.
pub fn mint(purpose: &Purpose<'_>, now_ms: i64) -> Minted {
    let random: [u8; ID_LETTERS + SECRET_LETTERS] = random_bytes();
    let letters: String =
        random.iter().map(|byte| char::from(LETTERS[usize::from(byte & 31)])).collect();
    let (id, secret) = letters.split_at(ID_LETTERS);
    let record = Token {
        id: id.to_owned(),
        name: purpose.name.to_owned(),
        role: purpose.role,
        account: purpose.account.to_owned(),
        secret_hash: *blake3::hash(secret.as_bytes()).as_bytes(),
        created_ms: now_ms,
        revoked_ms: None,
        origin: String::new(),
    };
    Minted { record, text: format!("{PREFIX}{id}_{secret}") }
}

/// The id in a token's text. Returns `None` if the text is no token.
pub(super) fn token_id(text: &str) -> Option<&str> {
    take_apart(text).map(|(id, _)| id)
}

/// A 401 response that says how to authenticate.
pub(super) fn unauthorized(detail: &str) -> Refusal {
    Refusal::new(Code::Unauthorized, detail)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))
}

/// A cached token; `None`: there was no such token.
#[derive(Clone, Debug)]
struct Cached {
    token: Option<Arc<Token>>,
    asked: Instant,
    /// The number of revocations before the look-up.
    revocations: u64,
}

/// A cache of tokens.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    known: Mutex<HashMap<String, Cached>>,
    /// The number of revocations when it was last asked for. Callers that need it at the same time ask once.
    revocations: tokio::sync::Mutex<Option<(Instant, u64)>>,
}

impl Tokens {
    /// Identifies the caller by the token in these headers. Once `gives_up` resolves, the cached token is used.
    pub(super) async fn identify(
        &self,
        registry: &dyn Registry,
        headers: &HeaderMap,
        address: String,
        gives_up: impl Future<Output = Outage>,
    ) -> Result<Caller, Refusal> {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.ok_or_else(|| {
            unauthorized("a token is needed: send the header `Authorization: Bearer pictor_…`")
        })?;
        let (id, secret) = bearer(shown).and_then(take_apart).ok_or_else(|| {
            unauthorized("this is not a token: expected `Bearer pictor_<id>_<secret>`")
        })?;
        let wrong = || unauthorized("the token is not valid (any more)");
        let token = self.look_up(registry, id, gives_up).await?.ok_or_else(wrong)?;
        // Digests compare in constant time.
        let right = blake3::Hash::from_bytes(token.secret_hash) == blake3::hash(secret.as_bytes());
        if !right || token.revoked_ms.is_some() {
            return Err(wrong());
        }
        Ok(Caller {
            token: token.id.clone(),
            role: token.role,
            account: token.account.clone(),
            address,
        })
    }

    /// Removes a token that was changed from the cache.
    pub(super) fn forget(&self, id: &str) {
        self.lock().remove(id);
    }

    async fn look_up(
        &self,
        registry: &dyn Registry,
        id: &str,
        gives_up: impl Future<Output = Outage>,
    ) -> Result<Option<Arc<Token>>, Refusal> {
        let found = tokio::select! {
            found = self.current(registry, id) => found.map_err(Refusal::from),
            outage = gives_up => Err(outage.problem()),
        };
        match found {
            // If the database does not answer, the cached token stays valid: revoking one would need the database too.
            Err(problem) if problem.code == Code::Unavailable => {
                self.lock().get(id).map(|cached| cached.token.clone()).ok_or(problem)
            }
            found => found,
        }
    }

    /// A token, from the cache if no token has been revoked since it was looked up.
    async fn current(
        &self,
        registry: &dyn Registry,
        id: &str,
    ) -> Result<Option<Arc<Token>>, pictor_storage::Error> {
        let revocations = self.revocations(registry).await?;
        let cached = self.lock().get(id).cloned();
        if let Some(Cached { token, asked, revocations: before }) = cached
            && before == revocations
            && (token.is_some() || asked.elapsed() < BELIEVED)
        {
            return Ok(token);
        }
        let asked = Instant::now();
        let token = registry.token(id).await?.map(Arc::new);
        let mut known = self.lock();
        if known.len() >= REMEMBERED {
            known.retain(|_, cached| cached.asked.elapsed() < BELIEVED);
        }
        if known.len() < REMEMBERED {
            known.insert(id.to_owned(), Cached { token: token.clone(), asked, revocations });
        }
        Ok(token)
    }

    async fn revocations(&self, registry: &dyn Registry) -> Result<u64, pictor_storage::Error> {
        let mut last = self.revocations.lock().await;
        if let Some((asked, count)) = *last
            && asked.elapsed() < BELIEVED
        {
            return Ok(count);
        }
        let asked = Instant::now();
        let count = registry.revocations().await?;
        *last = Some((asked, count));
        Ok(count)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Cached>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The token in `Bearer <token>`.
fn bearer(shown: &str) -> Option<&str> {
    let (scheme, token) = shown.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

/// Splits `pictor_<id>_<secret>` into id and secret.
fn take_apart(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.trim().strip_prefix(PREFIX)?.split_once('_')?;
    let plain = |text: &str| text.bytes().all(|byte| LETTERS.contains(&byte));
    let fits = id.len() == ID_LETTERS && secret.len() == SECRET_LETTERS;
    (fits && plain(id) && plain(secret)).then_some((id, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_apart_as_it_was_made() {
        let purpose = Purpose { name: "n", role: TokenRole::Viewer, account: "a" };
        let Minted { record, text } = mint(&purpose, 7);
        let shown = format!("Bearer {text}");
        let (id, secret) = bearer(&shown).and_then(take_apart).unwrap();
        assert_eq!(id, record.id);
        assert_eq!(blake3::hash(secret.as_bytes()), record.secret_hash);
        assert_ne!(text, mint(&purpose, 7).text);
        let basic = format!("Basic {text}");
        let short = &shown[..shown.len() - 1];
        let capitals = shown.to_uppercase();
        for wrong in ["", "Bearer", "Bearer x", &text, &basic, short, &capitals] {
            assert_eq!(bearer(wrong).and_then(take_apart), None, "{wrong}");
        }
    }
}
