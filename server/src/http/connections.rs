//! Connections: how many there may be, how long one may wait for a request, and how slowly a body may arrive. Whoever
//! opens many without asking anything, or asks very slowly, keeps nobody else out.

use super::{Api, router};
use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};
use tower_service::Service as _;

/// Pause after a connection could not be accepted, for example because this process has no descriptor left.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// Bytes of a body that have to arrive within its time-out.
const BODY_BYTES: usize = 16 << 10;

/// Serves the API on a listener until the server stops and every request in progress has been answered.
pub async fn serve(listener: TcpListener, api: Arc<Api>) -> std::io::Result<()> {
    let connections = Arc::new(Connections::new(api.limits.connections));
    let (app, mut stop) = (router(api.clone()), api.stop.clone());
    let mut open = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = open.join_next() => continue,
            // A sender that was dropped means stop as well.
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(place) = connections.enter() else { continue };
                let connection = Connection { stream, address, place, stop: api.stop.clone() };
                let (headers, body) = (api.limits.header_timeout, api.limits.body_timeout);
                open.spawn(connection.serve(app.clone(), headers, body));
            }
            Err(error) => {
                tracing::warn!(%error, "a connection is not accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
    Ok(())
}

/// All connections. When there are as many as there may be, a new one takes the place of one that has sent no request
/// yet, or else of one that sends none now: of the one that has been idle for the longest time.
#[derive(Debug)]
struct Connections {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    count: usize,
    /// Number of the next connection that becomes idle.
    next: u64,
    idle: BTreeMap<Rest, Arc<Notify>>,
}

/// Whether an idle connection has ever sent a request, and since when it is idle.
type Rest = (bool, u64);

/// The place of one connection. Free again when it is dropped.
#[derive(Debug)]
struct Place {
    among: Arc<Connections>,
    /// Where the connection is among the idle ones, if it is.
    idle: Mutex<Option<Rest>>,
    evicted: Arc<Notify>,
}

/// A request in progress, until its response has been sent.
struct Busy(Arc<Place>);

impl Connections {
    fn new(most: usize) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // Files, the database and the broker need some as well.
        let room = usize::try_from(descriptors - descriptors / 4).unwrap_or(usize::MAX);
        Self { most: most.min(room), state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a new connection. Returns `None` if all others are busy.
    fn enter(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut state = self.lock();
        if state.count >= self.most {
            let (_, idle) = state.idle.pop_first()?;
            idle.notify_one();
        }
        state.count += 1;
        drop(state);
        let (idle, evicted) = (Mutex::default(), Arc::default());
        let place = Arc::new(Place { among: self.clone(), idle, evicted });
        place.rest(false);
        Some(place)
    }
}

impl Place {
    fn rest(&self, has_asked: bool) {
        let mut state = self.among.lock();
        let rest = (has_asked, state.next);
        state.next += 1;
        state.idle.insert(rest, self.evicted.clone());
        *self.idle() = Some(rest);
    }

    fn work(self: &Arc<Self>) -> Busy {
        let mut state = self.among.lock();
        if let Some(rest) = self.idle().take() {
            state.idle.remove(&rest);
        }
        Busy(self.clone())
    }

    fn idle(&self) -> MutexGuard<'_, Option<Rest>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.rest(true);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.among.lock();
        state.count -= 1;
        if let Some(rest) = self.idle().take() {
            state.idle.remove(&rest);
        }
    }
}

/// One connection.
struct Connection {
    stream: TcpStream,
    address: SocketAddr,
    place: Arc<Place>,
    stop: watch::Receiver<bool>,
}

impl Connection {
    async fn serve(self, app: axum::Router, headers: Duration, body: Duration) {
        let Self { stream, address, place, mut stop } = self;
        // Otherwise the end of each response waits until its beginning is acknowledged, which wastes 40 ms. A failure
        // makes it slower, not wrong.
        let _ = stream.set_nodelay(true);
        let evicted = place.evicted.clone();
        let answer = hyper::service::service_fn(|request: hyper::Request<Incoming>| {
            let (busy, mut app) = (place.work(), app.clone());
            let mut request = request.map(|incoming| Body::new(Paced::new(incoming, body)));
            request.extensions_mut().insert(ConnectInfo(address));
            async move {
                let response = app.call(request).await?;
                Ok::<_, std::convert::Infallible>(response.map(|body| Held { body, _busy: busy }))
            }
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(headers);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(stream), answer));
        let ended = loop {
            tokio::select! {
                ended = &mut connection => break ended,
                () = evicted.notified() => {
                    // A request may have come at the very moment.
                    if place.idle().is_some() {
                        return;
                    }
                }
                () = async { drop(stop.wait_for(|stop| *stop).await) } => {
                    connection.as_mut().graceful_shutdown();
                    break connection.await;
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, %address, "a connection has failed");
        }
    }
}

/// The body of a response, with which its request ends.
struct Held {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request, which fails if it arrives too slowly.
struct Paced {
    body: Incoming,
    timeout: Duration,
    /// Set while the next [`BODY_BYTES`] are waited for.
    limit: Option<Pin<Box<Sleep>>>,
    received: usize,
}

/// A body arrives too slowly.
#[derive(Debug, thiserror::Error)]
#[error("it arrives too slowly: less than {} KiB in {} s", BODY_BYTES >> 10, .0.as_secs())]
struct TooSlow(Duration);

impl Paced {
    fn new(body: Incoming, timeout: Duration) -> Self {
        Self { body, timeout, limit: None, received: 0 }
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            let data = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.data_ref());
            this.received += data.map_or(0, Bytes::len);
            if this.received >= BODY_BYTES {
                (this.limit, this.received) = (None, 0);
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)));
        }
        let timeout = this.timeout;
        let limit = this.limit.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(limit.as_mut().poll(context));
        Poll::Ready(Some(Err(axum::Error::new(TooSlow(timeout)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
