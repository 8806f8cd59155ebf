//! Hooks in the server's configuration, and their validated form.

use super::event::EventKind;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pictor_tasks::units::Millis;
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest name of a hook, in bytes.
const NAME_MAX: usize = 64;
/// Shortest secret, in bytes; the specification requires it.
const SECRET_MIN: usize = 24;
/// Prefix of a secret that is written in base64.
const PREFIX: &str = "whsec_";
/// Time limit for a response; the specification recommends 15 to 30 s.
const TIMEOUT: Millis = Millis(15_000);

/// One `[[webhook]]` of the server's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// Name of the hook, unique.
    pub name: String,
    /// URL that messages are sent to: `https://…` or `http://…`.
    pub url: String,
    /// File with the secret that messages are signed with: `whsec_` and base64, or plain text.
    pub secret_file: PathBuf,
    /// Kinds of events that it gets; all if absent.
    #[serde(default = "EventKind::all")]
    pub events: Vec<EventKind>,
    /// Time limit for a response.
    #[serde(default = "timeout")]
    pub timeout: Millis,
}

fn timeout() -> Millis {
    TIMEOUT
}

/// Why a hook cannot be used. The operator has to correct it.
#[derive(Debug, thiserror::Error)]
pub enum HookError {
    /// A value of its configuration is invalid.
    #[error("webhook `{name}`: {why}")]
    Invalid {
        /// Name of the invalid hook.
        name: String,
        /// What is wrong with it, for the operator.
        why: String,
    },
    /// Its secret cannot be read.
    #[error("webhook `{name}`: read the secret in {}: {source}", path.display())]
    Secret {
        /// Name of the hook that the secret is for.
        name: String,
        /// File with the secret.
        path: PathBuf,
        /// The underlying error.
        source: std::io::Error,
    },
    /// The HTTP client cannot be created.
    #[error("webhooks cannot be sent: {0}")]
    Client(#[source] reqwest::Error),
}

#[derive(Debug)]
pub(super) struct Hook {
    pub(super) name: String,
    pub(super) url: reqwest::Url,
    /// Host in its URL, for the status.
    pub(super) host: String,
    pub(super) key: hmac::Key,
    pub(super) events: BTreeSet<EventKind>,
    pub(super) timeout: Duration,
}

/// Validates hooks and reads their secrets.
pub(super) fn load(configs: &[HookConfig]) -> Result<Vec<Hook>, HookError> {
    let mut hooks: Vec<Hook> = Vec::with_capacity(configs.len());
    for config in configs {
        let hook = load_one(config)?;
        if hooks.iter().any(|known| known.name == hook.name) {
            return Err(invalid(config, "there are two of this name"));
        }
        hooks.push(hook);
    }
    Ok(hooks)
}

fn invalid(config: &HookConfig, why: impl Into<String>) -> HookError {
    HookError::Invalid { name: config.name.clone(), why: why.into() }
}

fn load_one(config: &HookConfig) -> Result<Hook, HookError> {
    let HookConfig { name, url, secret_file, events, timeout } = config;
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(invalid(config, format!("its name must have 1 to {NAME_MAX} characters")));
    }
    let url = reqwest::Url::parse(url).map_err(|e| invalid(config, format!("its url: {e}")))?;
    let host = url.host_str().map(str::to_owned);
    let Some(host) = host.filter(|_| matches!(url.scheme(), "http" | "https")) else {
        return Err(invalid(config, "its url must begin with https:// or http://"));
    };
    if events.is_empty() {
        return Err(invalid(config, "its `events` are none: it would never be told anything"));
    }
    if timeout.0 == 0 || timeout.0 > 120_000 {
        return Err(invalid(config, "its timeout must be more than nothing and at most 2m"));
    }
    let text = std::fs::read_to_string(secret_file).map_err(|source| HookError::Secret {
        name: name.clone(),
        path: secret_file.clone(),
        source,
    })?;
    let secret = secret(text.trim(), secret_file).map_err(|why| invalid(config, why))?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let (name, events) = (name.clone(), events.iter().copied().collect());
    Ok(Hook { name, url, host, key, events, timeout: Duration::from_millis(timeout.0) })
}

/// The key that a secret's text stands for.
fn secret(text: &str, file: &Path) -> Result<Vec<u8>, String> {
    let file = file.display();
    let secret = match text.strip_prefix(PREFIX) {
        Some(encoded) => STANDARD
            .decode(encoded)
            .map_err(|_| format!("the secret in {file} is not base64 after `{PREFIX}`"))?,
        None => text.as_bytes().to_vec(),
    };
    if secret.len() < SECRET_MIN {
        return Err(format!(
            "the secret in {file} is too short: at least {SECRET_MIN} bytes are needed. This makes a \
             good one: echo \"{PREFIX}$(openssl rand -base64 32)\" > {file}"
        ));
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(folder: &Path, secret: &str) -> HookConfig {
        let secret_file = folder.join("secret");
        std::fs::write(&secret_file, secret).unwrap();
        HookConfig {
            name: "chat".into(),
            url: "https://chat.example/hook/abc".into(),
            secret_file,
            events: EventKind::all(),
            timeout: TIMEOUT,
        }
    }

    #[test]
    fn mistakes_of_the_configuration_are_told_at_the_start() {
        let folder = tempfile::tempdir().unwrap();
        let good = config(folder.path(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
        assert_eq!(load(std::slice::from_ref(&good)).unwrap()[0].host, "chat.example");
        let error = |config: HookConfig| load(&[config]).unwrap_err().to_string();
        let url = |url: &str| HookConfig { url: url.into(), ..good.clone() };
        assert!(error(url("ftp://a/b")).contains("must begin with https://"));
        assert!(error(url("chat.example")).contains("its url:"));
        assert!(error(HookConfig { events: vec![], ..good.clone() }).contains("`events` are none"));
        let missing = HookConfig { secret_file: folder.path().join("no"), ..good.clone() };
        assert!(error(missing).contains("read the secret in"));
        let twice = load(&[good.clone(), good]).unwrap_err().to_string();
        assert_eq!(twice, "webhook `chat`: there are two of this name");
        assert!(error(config(folder.path(), "short")).contains("too short"));
        assert!(error(config(folder.path(), "whsec_???")).contains("not base64"));
    }
}
