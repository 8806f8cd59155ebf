//! The first token of a farm: an administrator's, written to a file that only the operator can read.
//!
//! **Invariant:** the file is complete before the token is valid. A crash in between leaves a farm without a token, and
//! the next start makes another one. Of several servers that start at once, each makes one, in a file of its own.

use super::auth::{Minted, Purpose, mint, token_id};
use pictor_api::TokenRole;
use pictor_storage::Registry;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why the first token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FirstTokenError {
    /// The database failed.
    #[error("make the first token: {0}")]
    Store(#[from] pictor_storage::Error),
    /// The file could not be written.
    #[error("write the first token to {}: {source}; the folder has to be writable", path.display())]
    File {
        /// Path of the file for the token.
        path: PathBuf,
        /// The underlying error.
        source: io::Error,
    },
}

/// Makes an administrator's token, in the file `path`, if the farm has no token yet. Returns whether it did.
///
/// A file with a token unknown to the farm was left by a server that died before the token was valid, while another
/// server made one: it is removed.
pub async fn first_token(
    registry: &dyn Registry,
    path: &Path,
    now_ms: i64,
) -> Result<bool, FirstTokenError> {
    let failed = |source| FirstTokenError::File { path: path.to_owned(), source };
    let tokens = registry.tokens().await?;
    if !tokens.is_empty() {
        let left = read(path).map_err(failed)?;
        let known = |id: &str| tokens.iter().any(|token| token.id == id);
        if left.is_some_and(|text| token_id(&text).is_some_and(|id| !known(id))) {
            std::fs::remove_file(path).map_err(failed)?;
        }
        return Ok(false);
    }
    let purpose = Purpose { name: "first token", role: TokenRole::Admin, account: "admin" };
    let Minted { record, text } = mint(&purpose, now_ms);
    write(path, &text).map_err(failed)?;
    registry.add_token(&record).await?;
    Ok(true)
}

fn read(path: &Path) -> io::Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes a token to a file, completely or not at all, even if the machine crashes.
fn write(path: &Path, token: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    // One that a crash left behind may have other permissions.
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}
