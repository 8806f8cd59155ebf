//! The first token of a farm: an admin's, into a file that only the operator can read.
//!
//! **Invariant:** the file is whole before the token is valid. Whoever dies in between leaves a farm without
//! a token, and its next start makes another one. Of several servers that begin at once each makes one, in
//! a file of its own.

use super::auth::{Minted, Purpose, TokenRole, mint, token_id};
use super::problem::Problem;
use pictor_storage::Registry;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Why there is no first token.
#[derive(Debug, thiserror::Error)]
pub enum FirstTokenError {
    /// The database does not take or tell it.
    #[error("make the first token: {0}")]
    Store(#[from] pictor_storage::Error),
    /// It cannot be made.
    #[error("make the first token: {0}")]
    Mint(String),
    /// It cannot be written.
    #[error("write the first token to {}: {source}; the folder has to be writable", path.display())]
    File {
        /// Its file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Makes an admin's token if the farm has no token yet, into the file `path`. `true`: there is a new one.
///
/// A file whose token the farm does not know is one that a server left which died before the token was
/// valid, while another server made one: it is removed.
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
    let minted = mint(&purpose, now_ms);
    let Minted { record, text } =
        minted.map_err(|problem: Problem| FirstTokenError::Mint(problem.detail))?;
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

/// Puts a token into a file, whole or not at all, also when the machine dies.
fn write(path: &Path, token: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    // One that was left in the middle may have been made with other rights.
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
