//! The socket in a data folder: the process that owns the folder answers there, one JSON line for each line, so that
//! `pictor show` and other commands work from a second terminal.

use crate::handle::OwnerHandle;
use crate::runs::{Request, Response, Runs};
use pictor_storage::Store;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tracing::debug;

/// Longest request, in bytes.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// Time limit for an answer: an owner that takes longer cannot answer (its disk is full, or the process is stopped).
const ANSWER: Duration = Duration::from_secs(20);
/// Longest path of a socket; systems allow 104 or 108 bytes.
const PATH_BYTES_MAX: usize = 100;

/// The path at which the owner of a data folder listens.
pub fn socket_path(data: &Path) -> PathBuf {
    data.join("socket")
}

/// A path to the socket that is short enough for the system; valid while the file is open.
fn reachable(path: PathBuf) -> io::Result<(PathBuf, Option<File>)> {
    let (Some(folder), true) = (path.parent(), path.as_os_str().len() > PATH_BYTES_MAX) else {
        return Ok((path, None));
    };
    let folder = File::open(folder)?;
    let detour = format!("/proc/self/fd/{}/socket", folder.as_raw_fd());
    Ok((detour.into(), Some(folder)))
}

/// Listens in a data folder, whose lock the caller holds, until dropped.
pub fn listen(
    data: &Path,
    store: Arc<dyn Store>,
    owner: OwnerHandle,
) -> io::Result<tokio::task::JoinHandle<()>> {
    let path = socket_path(data);
    // The socket of an owner that crashed; the lock shows that there is none now.
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let (path, _folder) = reachable(path)?;
    let listener = UnixListener::bind(path)?;
    Ok(tokio::spawn(async move {
        let runs = Arc::new(Runs::of_folder(store));
        while let Ok((stream, _)) = listener.accept().await {
            let (runs, owner) = (runs.clone(), owner.clone().in_a_hurry());
            tokio::spawn(async move {
                if let Err(error) = serve(stream, &runs, &owner).await {
                    debug!(%error, "a client of the socket went away");
                }
            });
        }
    }))
}

async fn serve(stream: UnixStream, runs: &Runs, owner: &OwnerHandle) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut line = String::new();
    while (&mut read).take(REQUEST_BYTES_MAX).read_line(&mut line).await? > 0 {
        let said = match serde_json::from_str::<Request>(&line) {
            Ok(request) => runs.answer(Some(owner), request).await,
            Err(error) => Response::Failed(format!("the request cannot be read: {error}")),
        };
        let mut reply = serde_json::to_string(&said).map_err(io::Error::other)?;
        reply.push('\n');
        write.write_all(reply.as_bytes()).await?;
        line.clear();
    }
    Ok(())
}

/// Sends a request to the owner of a data folder. Returns `None` if no process listens there.
pub async fn ask(data: &Path, request: &Request) -> io::Result<Option<Response>> {
    let Ok((path, _folder)) = reachable(socket_path(data)) else { return Ok(None) };
    let Ok(stream) = UnixStream::connect(path).await else { return Ok(None) };
    let said = tokio::time::timeout(ANSWER, converse(stream, request)).await;
    said.unwrap_or_else(|_| {
        let folder = data.display();
        let text = format!("the pictor that works in {folder} does not answer; is its disk full?");
        Err(io::Error::new(io::ErrorKind::TimedOut, text))
    })
}

async fn converse(stream: UnixStream, request: &Request) -> io::Result<Option<Response>> {
    let (read, mut write) = stream.into_split();
    let mut text = serde_json::to_string(request).map_err(io::Error::other)?;
    text.push('\n');
    write.write_all(text.as_bytes()).await?;
    let mut reply = String::new();
    BufReader::new(read).read_line(&mut reply).await?;
    if reply.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(&reply).map(Some).map_err(io::Error::other)
}
