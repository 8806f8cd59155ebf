//! A farm's artifact storage as its workers see it: links given by a server, and bytes that are hashed in transit. An
//! outage of the farm costs nothing but time: requests are repeated until a server answers.

use super::Tickets;
use super::api::{Api, ApiError};
use crate::files::artifacts::Store;
use crate::files::cache::{Cache, Kept, Watch, blocking, link};
use crate::ground::failure::{failure, storage_failure};
use crate::ground::lock;
use async_trait::async_trait;
use pictor_api::{Inputs, InputsRequest, Link, LinkedInput, OutputPlace, OutputRequest};
use pictor_artifacts::{ExecutionKey, HashedFile, Hasher, Stored, digest_file};
use pictor_net::Backoff;
use pictor_tasks::message::{Failure, FailureKind, FileRef, Output, StepKey, Try, WorkerId};
use pictor_tasks::pack::PackedFile;
use pictor_tasks::space::Coordinates;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};
use reqwest::{Body, Method, StatusCode};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::time::{Duration, Instant, sleep, timeout};
use tokio_util::io::{InspectReader, ReaderStream};

/// A connection on which nothing moves for that long is considered dead.
const STALLED: Duration = Duration::from_mins(1);
/// The bytes that are read and sent at a time.
const CHUNK_BYTES: usize = 1 << 18;

/// HTTP status of storage that has the file already.
const THERE: u16 = 412;

/// The links of one task's inputs, by the keys of the artifacts.
type Links = HashMap<String, Link>;

#[derive(Debug)]
pub(crate) struct FarmStore {
    pub(crate) api: Arc<Api>,
    pub(crate) worker: WorkerId,
    pub(crate) tickets: Tickets,
    pub(crate) cache: Cache,
    links: Mutex<HashMap<(StepKey, Try), Links>>,
}

/// Why a transfer failed.
enum Broken {
    /// The connection or the server failed.
    Line(ApiError),
    /// This machine cannot read or write.
    Here(Failure),
}

/// The file to fetch.
pub(super) enum Wanted<'a> {
    Asset(&'a str),
    Input(ExecutionKey<'a>, &'a Output),
}

impl FarmStore {
    pub(crate) fn new(api: Arc<Api>, worker: WorkerId, tickets: Tickets, cache: Cache) -> Self {
        Self { api, worker, tickets, cache, links: Mutex::default() }
    }

    /// The inputs of a task; an error if the task is no longer this worker's.
    pub(crate) async fn inputs(
        &self,
        key: &StepKey,
        task: Try,
    ) -> Result<Vec<LinkedInput>, ApiError> {
        let ticket = self.tickets.of(key, task);
        let path = format!("/v1/workers/{}/inputs", self.worker.0);
        let asked = InputsRequest { key: key.clone(), task, ticket };
        let Inputs { mut inputs } = self.api.post_patiently(&path, &asked).await?;
        for LinkedInput { input, .. } in &mut inputs {
            // A server of an earlier version gives the task's coordinates only in the label.
            if input.coordinates.0.is_empty() {
                input.coordinates = Coordinates::of_label(&input.label);
            }
        }
        let links = inputs.iter().map(|i| (i.input.output.key.clone(), i.link.clone())).collect();
        lock(&self.links).insert((key.clone(), task), links);
        Ok(inputs)
    }

    /// Stores a file and returns its key.
    async fn store(
        &self,
        of: ExecutionKey<'_>,
        file: &str,
        path: &Path,
        watch: &Watch,
    ) -> Result<(String, Stored), Failure> {
        let unreadable = |error: io::Error| {
            storage_failure(&format!("{} cannot be read", path.display()), &error)
        };
        let size_bytes = tokio::fs::metadata(path).await.map_err(unreadable)?.len();
        let ExecutionKey { key, step, task, execution } = of;
        let (mut backoff, mut refused) = (Backoff::default(), false);
        loop {
            let ticket = self.tickets.of(key, task);
            let asked = OutputRequest {
                key: key.clone(),
                task,
                execution,
                ticket,
                step: step.to_owned(),
                file: file.to_owned(),
                size_bytes,
            };
            let path_of = format!("/v1/workers/{}/outputs", self.worker.0);
            let answer = self.api.post_patiently(&path_of, &asked).await;
            let target: OutputPlace = answer.map_err(|error| refusal(file, &error))?;
            match self.upload(&target.link, path, size_bytes).await {
                Ok(fetched) => {
                    let (cache, made, path) =
                        (self.cache.clone(), fetched.clone(), path.to_owned());
                    // Later tasks of this machine may read it. If it cannot be kept, they fetch it.
                    let _ = tokio::task::spawn_blocking(move || cache.adopt(&made, &path)).await;
                    return Ok((target.key, fetched));
                }
                Err(Broken::Here(failure)) => return Err(failure),
                // The link may have expired; if so, the next one is valid.
                Err(Broken::Line(error)) if !error.is_retryable() && refused => {
                    return Err(refusal(file, &error));
                }
                Err(Broken::Line(error)) => {
                    refused = !error.is_retryable();
                    tracing::debug!(%error, file, "an output cannot be stored; trying again");
                    watch.progress.report(1.0, "waiting to store the result");
                    backoff.wait().await;
                }
            }
        }
    }

    async fn upload(&self, link: &Link, path: &Path, size: u64) -> Result<Stored, Broken> {
        let unreadable = |error: &(dyn std::error::Error + 'static)| {
            Broken::Here(storage_failure(&format!("{} cannot be read", path.display()), error))
        };
        let file = tokio::fs::File::open(path).await.map_err(|error| unreadable(&error))?;
        let sent = Arc::new(Mutex::new((Hasher::default(), Instant::now())));
        let seen = sent.clone();
        let reader = InspectReader::new(file, move |bytes: &[u8]| {
            let mut seen = lock(&seen);
            seen.0.update(bytes);
            seen.1 = Instant::now();
        });
        let body = Body::wrap_stream(ReaderStream::with_capacity(reader, CHUNK_BYTES));
        let request = self.api.to_link(Method::PUT, link).map_err(Broken::Line)?;
        let request = request.header(CONTENT_LENGTH, size).body(body);
        let ours = link.is_ours();
        let mut sending = std::pin::pin!(self.api.send(request, ours));
        loop {
            let moved = lock(&sent).1;
            tokio::select! {
                answer = &mut sending => match answer {
                    Ok(_) => break,
                    // It was stored before, and the answer was lost. The farm compares what is there.
                    Err(error) if error.status() == Some(THERE) && !ours => {
                        return digest_file(path).await.map_err(|error| unreadable(&error));
                    }
                    Err(error) => return Err(Broken::Line(error)),
                },
                () = sleep(STALLED) => if moved == lock(&sent).1 {
                    return Err(Broken::Line(ApiError::Away("the line is dead".into())));
                }
            }
        }
        let stored = lock(&sent).0.finish();
        if stored.size_bytes != size {
            let message = format!("{} changed while it was stored.", path.display());
            return Err(Broken::Here(failure(FailureKind::BadOutput, message)));
        }
        Ok(stored)
    }

    /// Downloads the file to `part`.
    pub(super) async fn fetch(
        &self,
        wanted: &Wanted<'_>,
        part: &Path,
        watch: &Watch,
    ) -> Result<Stored, Failure> {
        let mut download = Download::new(part).await?;
        let (mut backoff, mut refused) = (Backoff::default(), false);
        loop {
            let link = self.link(wanted, refused).await.map_err(|e| missing(wanted, &e))?;
            match download.go_on(&self.api, &link, watch).await {
                Ok(()) => return download.finish().await,
                Err(Broken::Here(failure)) => return Err(failure),
                Err(Broken::Line(error)) if !error.is_retryable() => {
                    let is_asset = matches!(wanted, Wanted::Asset(_));
                    if refused || is_asset {
                        return Err(missing(wanted, &error));
                    }
                    // The link may have expired; if so, the next one is valid.
                    refused = true;
                }
                Err(Broken::Line(error)) => {
                    tracing::debug!(%error, "a file cannot be fetched; trying again");
                    watch.progress.report(0.0, "waiting for the server");
                    backoff.wait().await;
                }
            }
        }
    }

    /// The link to a file; with `anew` a fresh one.
    async fn link(&self, wanted: &Wanted<'_>, anew: bool) -> Result<Link, ApiError> {
        let (of, output) = match wanted {
            Wanted::Asset(digest) => {
                return Ok(Link::to(format!("/v1/workers/{}/assets/{digest}", self.worker.0)));
            }
            Wanted::Input(of, output) => (of, output),
        };
        let of_task = (of.key.clone(), of.task);
        let known =
            || lock(&self.links).get(&of_task).and_then(|links| links.get(&output.key).cloned());
        if let Some(link) = known().filter(|_| !anew) {
            return Ok(link);
        }
        self.inputs(of.key, of.task).await?;
        known().ok_or_else(|| ApiError::Refused {
            status: 404,
            code: "not_found".into(),
            detail: "the server gives no link to it".into(),
        })
    }
}

/// Operations wait while no server answers, but no longer than until their task is stopped.
#[async_trait]
impl Store for Arc<FarmStore> {
    async fn put(
        &self,
        of: ExecutionKey<'_>,
        file: &str,
        path: &Path,
        watch: &Watch,
    ) -> Result<(String, Stored), Failure> {
        watch.unless_stopped(self.store(of, file, path, watch)).await
    }

    async fn local(
        &self,
        of: ExecutionKey<'_>,
        output: &Output,
        folder: &Path,
        watch: &Watch,
    ) -> Result<PathBuf, Failure> {
        // Programs recognise a format by the extension.
        let name = Path::new(&output.key).file_name().unwrap_or_default();
        let path = folder.join(&output.digest).join(name);
        if tokio::fs::try_exists(&path).await.unwrap_or(false) {
            return Ok(path);
        }
        let fetch =
            async |part: PathBuf| self.fetch(&Wanted::Input(of, output), &part, watch).await;
        let kept = self.cache.file(&output.digest, output.size_bytes, fetch);
        let kept = watch.unless_stopped(kept).await?;
        let to = path.clone();
        blocking(move || {
            let linked = std::fs::create_dir_all(to.parent().unwrap_or(&to))
                .and_then(|()| link(&kept.path, &to));
            linked.map_err(|error| storage_failure("An input cannot be put into its place", &error))
        })
        .await?;
        Ok(path)
    }

    async fn submitted(
        &self,
        file: &FileRef,
        only: Option<&str>,
        watch: &Watch,
    ) -> Result<Option<Kept>, Failure> {
        let (from, watched) = (self.clone(), watch.clone());
        let fetch = move |file: PackedFile, part: PathBuf| {
            let (store, watch) = (from.clone(), watched.clone());
            async move { store.fetch(&Wanted::Asset(&file.digest), &part, &watch).await }
        };
        watch.unless_stopped(self.cache.scene(file, only, fetch, watch)).await.map(Some)
    }

    fn forget(&self, key: &StepKey, task: Try) {
        // A task that has ended does not need its links any more.
        lock(&self.links).remove(&(key.clone(), task));
    }
}

/// A download, which may take several attempts.
struct Download<'a> {
    path: &'a Path,
    file: HashedFile,
}

impl<'a> Download<'a> {
    async fn new(path: &'a Path) -> Result<Self, Failure> {
        let file = HashedFile::create(path).await.map_err(|error| unwritable(path, &error))?;
        Ok(Self { path, file })
    }

    /// Continues where it stopped, if the server supports that.
    async fn go_on(&mut self, api: &Api, link: &Link, watch: &Watch) -> Result<(), Broken> {
        let ours = link.is_ours();
        let unwritable = |error| Broken::Here(unwritable(self.path, &error));
        let mut request = api.to_link(Method::GET, link).map_err(Broken::Line)?;
        let size_bytes = self.file.size_bytes();
        if size_bytes > 0 {
            request = request.header(RANGE, format!("bytes={size_bytes}-"));
        }
        let dead = |_| Broken::Line(ApiError::Away("the line is dead".into()));
        let answer = timeout(STALLED, api.send(request, ours)).await.map_err(dead)?;
        let mut response = answer.map_err(Broken::Line)?;
        let continued = response.status() == StatusCode::PARTIAL_CONTENT && {
            let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
            range.is_some_and(|range| range.starts_with(&format!("bytes {size_bytes}-")))
        };
        if !continued {
            self.file.restart().await.map_err(unwritable)?;
        }
        loop {
            let piece = timeout(STALLED, response.chunk()).await.map_err(dead)?;
            let piece = piece.map_err(|error| Broken::Line(api.lost(&error, ours)))?;
            let Some(piece) = piece else { return Ok(()) };
            self.file.write(&piece).await.map_err(unwritable)?;
            watch.progress.activity.touch();
        }
    }

    async fn finish(self) -> Result<Stored, Failure> {
        self.file.finish().await.map_err(|error| unwritable(self.path, &error))
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    storage_failure(&format!("{} cannot be written", path.display()), error)
}

fn refusal(file: &str, error: &ApiError) -> Failure {
    failure(FailureKind::Storage, format!("The server does not take {file}: {error}."))
}

fn missing(wanted: &Wanted<'_>, error: &ApiError) -> Failure {
    let message = match wanted {
        Wanted::Asset(digest) => {
            format!("The server does not give the file {digest}: {error}. Submit the job again.")
        }
        Wanted::Input(_, output) => format!(
            "The server does not give the artifact {}: {error}. If it is gone, reset the task that \
             made it.",
            output.key
        ),
    };
    failure(FailureKind::Storage, message)
}
