//! Evidence: a manifest in canonical JSON (RFC 8785) with an ed25519 signature (RFC 8032), which anybody can verify
//! from its bytes alone, and the commitment that it is held to.

use crate::hex::{Commitment, Digest, PublicKey, Signature};
use crate::manifest::{BYTES_MAX, Manifest, OutOfBounds, Task};
use ed25519_dalek::Signer;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What precedes the manifest's bytes in the signed message, so that no signature of anything else can be passed off as
/// a manifest's.
pub const SIGNED_PREFIX: &[u8] = b"pictor manifest 1\n";
/// The context of the commitment's hash (BLAKE3's key derivation mode).
const COMMITMENT_CONTEXT: &str = "pictor 2026-11-30 commitment 1";
/// The most bytes of evidence: a manifest in a JSON text has a backslash before each quote.
const EVIDENCE_BYTES_MAX: usize = 2 * BYTES_MAX + 1_024;

/// Why evidence is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEvidence {
    /// It has more bytes than are read.
    #[error("the manifest has {found} bytes, which is more than {most}")]
    TooLarge {
        /// Its size.
        found: usize,
        /// The limit.
        most: usize,
    },
    /// It is not JSON, or lacks a field.
    #[error("this is not a manifest: {0}")]
    Malformed(String),
    /// A value is out of its bounds.
    #[error("the manifest is not acceptable: {0}")]
    OutOfBounds(#[from] OutOfBounds),
    /// It is not in the one form that RFC 8785 defines.
    #[error(
        "the manifest is not canonical JSON (RFC 8785), or has a field that this version does not know"
    )]
    NotCanonical,
    /// The worker's key is not a point of the curve, or a weak one.
    #[error("the key {0} is not an ed25519 key")]
    BadKey(PublicKey),
    /// The signature does not belong to these bytes and this key.
    #[error("the signature is not that of {0} for this manifest")]
    BadSignature(PublicKey),
    /// It is signed, but by somebody else.
    #[error("the manifest is signed by {found}, not by {expected}")]
    AnotherKey {
        /// The key that was expected.
        expected: PublicKey,
        /// The key in the manifest.
        found: PublicKey,
    },
    /// It is about something else.
    #[error(
        "the manifest is for task {} of run {} (attempt {}, execution {:016x}), not for the expected one",
        .0.attempt.index, .0.step.run, .0.attempt.attempt, .0.execution.0
    )]
    AnotherTask(Box<Task>),
}

/// The secret half of a worker's key.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.public())
    }
}

impl SigningKey {
    /// The key of 32 bytes that the caller drew at random, or has stored.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(secret))
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }
}

/// A manifest in canonical form and its signature.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The canonical JSON of the manifest: the bytes that are signed.
    pub manifest: String,
    /// The worker's signature of [`SIGNED_PREFIX`] and these bytes.
    pub signature: Signature,
}

impl Evidence {
    /// Signs a manifest. Fails if it is out of its bounds, too large, or names another key as the worker's.
    pub fn sign(manifest: &Manifest, key: &SigningKey) -> Result<Self, BadEvidence> {
        let (expected, found) = (key.public(), manifest.worker);
        if expected != found {
            return Err(BadEvidence::AnotherKey { expected, found });
        }
        manifest.check()?;
        let manifest = canonical(manifest)?;
        small(manifest.len(), BYTES_MAX)?;
        let signature = Signature(key.0.sign(&message(&manifest)).to_bytes());
        Ok(Self { manifest, signature })
    }

    /// Reads evidence as it is stored: JSON with `manifest` and `signature`. Nothing is verified yet.
    pub fn read(bytes: &[u8]) -> Result<Self, BadEvidence> {
        small(bytes.len(), EVIDENCE_BYTES_MAX)?;
        serde_json::from_slice(bytes).map_err(malformed)
    }

    /// Verifies it and returns the manifest: size, form, bounds, and that the worker whose key it names signed it.
    /// *Whose* key that is, and for which task, the caller compares ([`Self::verify_for`]).
    pub fn verify(&self) -> Result<Manifest, BadEvidence> {
        small(self.manifest.len(), BYTES_MAX)?;
        let manifest: Manifest = serde_json::from_str(&self.manifest).map_err(malformed)?;
        manifest.check()?;
        if canonical(&manifest)? != self.manifest {
            return Err(BadEvidence::NotCanonical);
        }
        let worker = manifest.worker;
        let key = ed25519_dalek::VerifyingKey::from_bytes(&worker.0)
            .ok()
            .filter(|key| !key.is_weak())
            .ok_or(BadEvidence::BadKey(worker))?;
        // Strict: one signature for one message, and no keys of small order.
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature.0);
        key.verify_strict(&message(&self.manifest), &signature)
            .map_err(|_| BadEvidence::BadSignature(worker))?;
        Ok(manifest)
    }

    /// Verifies it, and that it is this worker's statement about this task.
    pub fn verify_for(&self, worker: &PublicKey, task: &Task) -> Result<Manifest, BadEvidence> {
        let manifest = self.verify()?;
        if manifest.worker != *worker {
            return Err(BadEvidence::AnotherKey { expected: *worker, found: manifest.worker });
        }
        if manifest.task != *task {
            return Err(BadEvidence::AnotherTask(Box::new(manifest.task)));
        }
        Ok(manifest)
    }

    /// The digest of the manifest: BLAKE3 of its canonical bytes.
    pub fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }
}

/// What a worker is bound to before it learns anything of what will be checked: the hash of the task, its key and the
/// digest of its manifest. It is sent first; the manifest follows and must fit.
pub fn commitment(task: &Task, worker: &PublicKey, manifest: &Digest) -> Commitment {
    let Task { step, attempt, execution } = task;
    let run = step.run.0.as_bytes();
    let mut hash = blake3::Hasher::new_derive_key(COMMITMENT_CONTEXT);
    // Everything has a fixed length or its length before it: no two tasks give the same bytes.
    hash.update(&(run.len() as u64).to_le_bytes()).update(run);
    hash.update(&step.step.to_le_bytes()).update(&step.generation.to_le_bytes());
    hash.update(&attempt.index.to_le_bytes()).update(&attempt.attempt.to_le_bytes());
    hash.update(&execution.0.to_le_bytes()).update(&worker.0).update(&manifest.0);
    Commitment(hash.finalize().into())
}

fn canonical(manifest: &Manifest) -> Result<String, BadEvidence> {
    serde_json_canonicalizer::to_string(manifest).map_err(malformed)
}

fn message(manifest: &str) -> Vec<u8> {
    [SIGNED_PREFIX, manifest.as_bytes()].concat()
}

fn small(found: usize, most: usize) -> Result<(), BadEvidence> {
    if found > most { Err(BadEvidence::TooLarge { found, most }) } else { Ok(()) }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn malformed(error: serde_json::Error) -> BadEvidence {
    BadEvidence::Malformed(error.to_string())
}
