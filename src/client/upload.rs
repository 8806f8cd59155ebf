//! Uploads assets to a server: it is asked what it lacks, and only that is sent, several files at once. Files that have
//! arrived stay there, so another upload sends only the rest.

use crate::client::connection::{Connection, PAGE, Patience, RequestError, as_json};
use anyhow::Context;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::ProgressBar;
use pictor_api::{Digests, Missing};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncReadExt as _;

/// Files that are uploaded at a time. For small ones latency matters, not bandwidth.
const AT_ONCE: usize = 12;
/// Bytes of a file that are read at a time.
const PIECE_BYTES: usize = 256 << 10;

/// The assets to upload, by digest: where each comes from, and its size.
pub(crate) type Assets = BTreeMap<String, (Source, u64)>;

/// Where an asset's bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// From a file with this path.
    File(PathBuf),
    /// From memory, such as a list of files.
    Bytes(Arc<[u8]>),
}

/// The result of an upload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    /// Number of files that were uploaded.
    pub(crate) files: usize,
    /// Total size of these files in bytes.
    pub(crate) size_bytes: u64,
    /// Number of files that the server had already.
    pub(crate) there: usize,
}

/// The digests of the assets that the server lacks.
async fn missing(server: &Connection, assets: &Assets) -> Result<BTreeSet<String>, RequestError> {
    let digests: Vec<&String> = assets.keys().collect();
    let mut lacking = BTreeSet::new();
    for page in digests.chunks(PAGE) {
        let asked = Digests { digests: page.iter().map(|digest| (*digest).clone()).collect() };
        let path = ["assets", "missing"];
        let page: Missing = server.order(Method::POST, &path, Some(&as_json(&asked))).await?;
        lacking.extend(page.missing);
    }
    Ok(lacking)
}

/// Uploads what the server lacks. `bar` counts bytes and shows how many files are left.
pub(crate) async fn send(
    server: &Connection,
    assets: &Assets,
    bar: &ProgressBar,
) -> anyhow::Result<Sent> {
    let lacking = missing(server, assets).await.context("ask which files the server lacks")?;
    let todo: Vec<(&String, &(Source, u64))> =
        assets.iter().filter(|(digest, _)| lacking.contains(*digest)).collect();
    let size_bytes = todo.iter().map(|(_, (_, size))| size).sum();
    bar.set_length(size_bytes);
    let left = AtomicU64::new(todo.len() as u64);
    let tell = |left: u64| bar.set_message(format!("{left} of {} files to send", todo.len()));
    tell(left.load(Ordering::Relaxed));
    let (left, tell) = (&left, &tell);
    stream::iter(&todo)
        .map(|(digest, (source, size))| async move {
            send_one(server, digest, source, *size, bar).await?;
            tell(left.fetch_sub(1, Ordering::Relaxed) - 1);
            Ok::<(), anyhow::Error>(())
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<()>()
        .await?;
    Ok(Sent { files: todo.len(), size_bytes, there: assets.len() - todo.len() })
}

async fn send_one(
    server: &Connection,
    digest: &str,
    source: &Source,
    size: u64,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let name = match source {
        Source::File(path) => path.display().to_string(),
        Source::Bytes(_) => "the list of files".to_owned(),
    };
    let mut patience = Patience::default();
    loop {
        let counted = Arc::new(AtomicU64::new(0));
        let body =
            body(source, size, bar, &counted).await.with_context(|| format!("read {name}"))?;
        let request = server.request(Method::PUT, &["assets", digest], &[]);
        let request = request.header(CONTENT_LENGTH, size);
        let request = request.header(CONTENT_TYPE, "application/octet-stream").body(body);
        let Err(error) = server.send(request).await else { return Ok(()) };
        bar.dec(counted.load(Ordering::Relaxed));
        if !error.is_retryable() || !patience.wait(&error).await {
            return Err(error).with_context(|| format!("send {name}"));
        }
    }
}

/// The request body, which counts the bytes as they are read.
async fn body(
    source: &Source,
    size: u64,
    bar: &ProgressBar,
    counted: &Arc<AtomicU64>,
) -> std::io::Result<Body> {
    let count = {
        let (bar, counted) = (bar.clone(), counted.clone());
        move |bytes: u64| {
            counted.fetch_add(bytes, Ordering::Relaxed);
            bar.inc(bytes);
        }
    };
    let path = match source {
        Source::File(path) => path,
        Source::Bytes(bytes) => {
            count(size);
            return Ok(Body::from(bytes.to_vec()));
        }
    };
    if size <= PIECE_BYTES as u64 {
        // One read and one write instead of a stream.
        let bytes = tokio::fs::read(path).await?;
        let same = bytes.len() as u64 == size;
        count(size);
        return if same { Ok(Body::from(bytes)) } else { Err(changed()) };
    }
    let file = tokio::fs::File::open(path).await?;
    let pieces = stream::try_unfold((file, size, count), |(mut file, left, count)| async move {
        if left == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
        let read = file.read(&mut piece).await?;
        if read == 0 {
            return Err(changed());
        }
        piece.truncate(read);
        count(read as u64);
        Ok(Some((piece, (file, left - read as u64, count))))
    });
    Ok(Body::wrap_stream(pieces))
}

fn changed() -> std::io::Error {
    std::io::Error::other("it was changed while it was sent: submit again")
}
