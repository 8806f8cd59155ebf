//! Digests: of files, and of bytes on their way.

use crate::Error;
use std::fs::File;
use std::io;
use std::path::Path;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

/// Size of the pieces in which a file is read while it is only hashed.
const PIECE_BYTES: usize = 128 << 10;

/// Digest and size of the bytes that were stored or fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// BLAKE3 of the bytes, in hex.
    pub digest: String,
    /// Size of the artifact in bytes.
    pub size_bytes: u64,
}

/// Computes the digest and counts the bytes that pass.
#[derive(Clone, Debug, Default)]
pub struct Hasher {
    hasher: blake3::Hasher,
    size_bytes: u64,
}

impl Hasher {
    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.size_bytes += bytes.len() as u64;
    }

    /// The number of bytes so far.
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Digest and size of all bytes so far.
    pub fn finish(&self) -> Stored {
        let digest = self.hasher.finalize().to_hex().to_string();
        Stored { digest, size_bytes: self.size_bytes }
    }
}

/// A file that is written from its beginning, and hashed on the way.
#[derive(Debug)]
pub struct HashedFile {
    file: tokio::fs::File,
    hasher: Hasher,
}

impl HashedFile {
    /// Creates an empty file; an existing one is emptied.
    pub async fn create(path: &Path) -> io::Result<Self> {
        Ok(Self { file: tokio::fs::File::create(path).await?, hasher: Hasher::default() })
    }

    /// Adds the next bytes.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes).await
    }

    /// The number of bytes so far.
    pub fn size_bytes(&self) -> u64 {
        self.hasher.size_bytes
    }

    /// Empties the file, to begin again.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.hasher = Hasher::default();
        self.file.set_len(0).await?;
        self.file.rewind().await.map(drop)
    }

    /// Completes the file.
    pub async fn finish(mut self) -> io::Result<Stored> {
        self.file.flush().await?;
        Ok(self.hasher.finish())
    }
}

/// Reads to the end and computes the digest. `on_piece` is called with the number of bytes just read; if it returns
/// false, the error is [`io::ErrorKind::Interrupted`].
pub fn digest(
    mut from: impl io::Read,
    mut on_piece: impl FnMut(usize) -> bool,
) -> io::Result<Stored> {
    let (mut hasher, mut piece) = (Hasher::default(), vec![0; PIECE_BYTES]);
    loop {
        let read = match from.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read?,
        };
        if read == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&piece[..read]);
        if !on_piece(read) {
            return Err(io::ErrorKind::Interrupted.into());
        }
    }
}

/// Computes the digest and size of a file.
pub async fn digest_file(path: &Path) -> Result<Stored, Error> {
    let file = path.to_owned();
    let work = move || digest(File::open(file)?, |_| true);
    let digested = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    digested.and_then(|digested| digested).map_err(|e| Error::io(path, e))
}
