//! One connection to the broker, kept up for ever in the background: whatever ends it, a new one is made and everything
//! is declared again. Each period of being connected is a *session*; delivery tags and confirms belong to one session
//! and mean nothing in the next.

use super::{BrokerError, REPORTS, declare_reports, worker_queue};
use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions,
};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, Event,
    message::Delivery,
};
use pictor_net::Backoff;
use pictor_tasks::message::WorkerId;
use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tracing::{debug, info, warn};

/// Both sides notice within this time (twice this, at worst) that the other is gone.
const HEARTBEAT_SECONDS: u16 = 10;
/// Time limit for making a connection.
const CONNECT: Duration = Duration::from_secs(15);
/// Time limit for making a connection and declaring everything.
const OPEN: Duration = Duration::from_secs(30);
/// How long to wait for the broker to confirm the end of a connection.
const CLOSE: Duration = Duration::from_secs(2);
/// Pauses between attempts to connect: the first and the longest are drawn from these to twice as long.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(2500);
/// A connection that lasted for longer starts the pauses anew.
const LASTING: Duration = Duration::from_secs(5);
/// Messages above this size travel in several frames. lapin reserves room for 32 frames in each direction, and a
/// machine may run many workers.
const LARGE_FRAME_BYTES: u32 = 128 * 1024;
pub(super) const SMALL_FRAME_BYTES: u32 = 8 * 1024;
/// Messages that the owner accepts before it acknowledges.
const OWNER_PREFETCH: u16 = 4096;
/// Messages that a worker may hold; the engine gives it far fewer, so cancels always get through.
const WORKER_PREFETCH: u16 = 1024;
/// AMQP's delivery mode for a message that is written to disk.
const PERSISTENT: u8 = 2;
/// AMQP's reply code for a rejected name or password.
const ACCESS_REFUSED: u16 = 403;

/// Address of the broker, with the credentials and the certificates that it is checked by.
#[derive(Clone)]
pub struct Address {
    pub(super) uri: AMQPUri,
    /// Trusted certificates in PEM, in addition to those of the system.
    certificates: Option<String>,
}

impl Address {
    /// Parses `amqp://user:password@host:port/vhost`, or `amqps://…` for TLS. `certificates` (PEM) are trusted in
    /// addition to those of the system.
    pub fn new(url: &str, certificates: Option<String>) -> Result<Self, BrokerError> {
        let mut uri: AMQPUri = url
            .parse()
            .map_err(|why| BrokerError::Invalid(format!("the broker's address: {why}")))?;
        uri.query.heartbeat = Some(HEARTBEAT_SECONDS);
        uri.query.connection_timeout.get_or_insert(10_000);
        Ok(Self { uri, certificates })
    }

    pub(super) fn certificates(&self) -> Option<&str> {
        self.certificates.as_deref()
    }

    /// Makes one attempt to connect.
    pub(super) async fn connect(&self, name: &str, frame_bytes: u32) -> lapin::Result<Connection> {
        let mut uri = self.uri.clone();
        uri.query.frame_max = Some(frame_bytes);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let tls = OwnedTLSConfig { identity: None, cert_chain: self.certificates.clone() };
        let runtime = lapin::runtime::default_runtime()?;
        let connecting = Connection::connect_uri_with_config(uri, properties, tls, runtime);
        match timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(timed_out()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, port) = (&self.uri.authority.host, self.uri.authority.port);
        write!(f, "{}://{host}:{port}/{}", self.uri.scheme, self.uri.vhost)
    }
}

fn timed_out() -> lapin::Error {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Which end of the queue a connection serves.
#[derive(Clone, Copy, Debug)]
pub(super) enum Endpoint {
    Owner,
    Worker(WorkerId),
}

/// One period of being connected.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) number: u64,
    pub(super) began: Instant,
    pub(super) publisher: Arc<Channel>,
    receiver: Arc<Channel>,
    consumer: Consumer,
    /// Name of the user that is connected.
    user: ShortString,
    over: Arc<Notify>,
}

/// A publication that waits for its confirm.
pub(super) type Publishing = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send>>;

impl Session {
    /// The messages that this session receives.
    pub(super) fn deliveries(&self) -> Deliveries {
        Deliveries(self.consumer.clone())
    }

    /// Publishes in the order of the calls. The confirm need not be awaited. A message that no queue takes is returned
    /// with its confirm. It carries the name of the user: the broker refuses a message that carries another one.
    pub(super) fn publish(
        &self,
        exchange: &'static str,
        key: &str,
        payload: Vec<u8>,
        id: Option<u64>,
    ) -> Publishing {
        let mut properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_user_id(self.user.clone());
        if let Some(id) = id {
            properties = properties.with_message_id(id.to_string().into());
        }
        let (channel, key) = (self.publisher.clone(), key.into());
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        started(async move {
            channel.basic_publish(exchange.into(), key, options, &payload, properties).await?.await
        })
    }

    /// Acknowledges a message (with `multiple`: and all before it) without waiting. Does nothing if the session is
    /// over: the message will be delivered again.
    pub(super) fn acknowledge(&self, tag: u64, multiple: bool) {
        let receiver = self.receiver.clone();
        let options = BasicAckOptions { multiple };
        drop(started(async move { receiver.basic_ack(tag, options).await }));
    }

    /// Waits until the broker has received everything sent on both channels: it processes each in order, but lapin
    /// sends the end of a connection before the frames that are still in its queue.
    async fn heard(&self) -> lapin::Result<()> {
        for channel in [&self.publisher, &self.receiver] {
            channel.basic_qos(OWNER_PREFETCH, BasicQosOptions::default()).await?;
        }
        Ok(())
    }

    /// Ends this session; a new one will follow.
    pub(super) fn end(&self) {
        self.over.notify_one();
    }
}

/// The messages of one session.
#[derive(Debug)]
pub(super) struct Deliveries(Consumer);

impl Deliveries {
    /// The next message. Returns `None` when the session has ended. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Delivery> {
        match self.0.next().await? {
            Ok(delivery) => Some(delivery),
            Err(error) => {
                debug!(%error, "receiving from the broker");
                None
            }
        }
    }
}

/// Polls a future once, so that its frames are in the queue to the broker, behind everything that was sent before.
fn started<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> Pin<Box<dyn Future<Output = T> + Send>> {
    let mut work = Box::pin(work);
    match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Box::pin(ready(result)),
        Poll::Pending => work,
    }
}

/// State of the connection.
#[derive(Debug)]
pub(super) enum State {
    Down,
    /// The broker rejected the name or the password.
    Refused,
    Up(Arc<Session>),
}

/// Handle to the connection, shared by its users. The connection is closed when the last one is dropped.
#[derive(Clone, Debug)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    keeper: Arc<Keeper>,
}

/// Ends the background task that keeps the connection up.
#[derive(Debug)]
struct Keeper(Arc<Notify>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Link {
    /// Starts to connect in the background.
    pub(super) fn start(address: Address, endpoint: Endpoint) -> Self {
        let (sender, state) = watch::channel(State::Down);
        let closing = Arc::new(Notify::new());
        tokio::spawn(keep_up(address, endpoint, sender, closing.clone()));
        Self { state, keeper: Arc::new(Keeper(closing)) }
    }

    /// Waits for a session later than `number`. Returns `None` when the link was closed. Cancel safe.
    pub(super) async fn session_after(&mut self, number: u64) -> Option<Arc<Session>> {
        let newer = |state: &State| matches!(state, State::Up(session) if session.number > number);
        match &*self.state.wait_for(newer).await.ok()? {
            State::Up(session) => Some(session.clone()),
            State::Down | State::Refused => None,
        }
    }

    /// Whether there is a session at the moment.
    pub(super) fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Waits until the broker rejects the name or the password.
    pub(super) async fn refused(&mut self) {
        if self.state.wait_for(|state| matches!(state, State::Refused)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Closes the connection when the broker has received everything that was sent, or after 2 s.
    pub(super) async fn close(&mut self) {
        self.keeper.0.notify_one();
        // An error means that the keeper has ended.
        let _ = self.state.wait_for(|_| false).await;
    }
}

async fn keep_up(
    address: Address,
    endpoint: Endpoint,
    state: watch::Sender<State>,
    closing: Arc<Notify>,
) {
    let (mut pauses, mut number) = (Backoff::new(PAUSE, LONGEST_PAUSE), 0);
    loop {
        number += 1;
        let opened = tokio::select! {
            opened = timeout(OPEN, open(&address, endpoint, number)) => opened,
            () = closing.notified() => return,
        };
        let tried = Instant::now();
        match opened.unwrap_or_else(|_| Err(timed_out())) {
            Ok((connection, session)) => {
                info!(broker = ?address, "connected to the broker");
                let session = Arc::new(session);
                let over = session.over.clone();
                state.send_replace(State::Up(session.clone()));
                let close = tokio::select! {
                    () = until_over(&connection, &over) => false,
                    () = closing.notified() => true,
                };
                state.send_replace(State::Down);
                // It may be closed already, or the broker may not answer.
                let _ = timeout(CLOSE, async {
                    if close {
                        session.heard().await?;
                    }
                    connection.close(200, "".into()).await
                })
                .await;
                if close {
                    return;
                }
                warn!(broker = ?address, "the connection to the broker is lost");
            }
            Err(error) => {
                let refused = matches!(error.kind(), lapin::ErrorKind::ProtocolError(error)
                    if error.get_id() == ACCESS_REFUSED);
                state.send_replace(if refused { State::Refused } else { State::Down });
                if number == 1 {
                    warn!(broker = ?address, %error, "the broker cannot be reached; trying again");
                }
            }
        }
        if tried.elapsed() > LASTING {
            pauses = Backoff::new(PAUSE, LONGEST_PAUSE);
        }
        tokio::select! {
            () = pauses.wait() => {}
            () = closing.notified() => return,
        }
    }
}

/// Connects and declares what the role needs.
async fn open(
    address: &Address,
    endpoint: Endpoint,
    number: u64,
) -> lapin::Result<(Connection, Session)> {
    let (connection, queue, prefetch) = match endpoint {
        Endpoint::Owner => {
            let connection = address.connect("pictor server", LARGE_FRAME_BYTES).await?;
            (connection, REPORTS.to_owned(), OWNER_PREFETCH)
        }
        Endpoint::Worker(id) => {
            let name = format!("pictor worker {}", id.0);
            let connection = address.connect(&name, SMALL_FRAME_BYTES).await?;
            (connection, worker_queue(id), WORKER_PREFETCH)
        }
    };
    // Two channels, because the broker processes one message of a channel at a time.
    let (publisher, receiver) =
        (connection.create_channel().await?, connection.create_channel().await?);
    publisher.confirm_select(ConfirmSelectOptions::default()).await?;
    if matches!(endpoint, Endpoint::Owner) {
        declare_reports(&publisher).await?;
    }
    receiver.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer =
        receiver.basic_consume(queue.as_str().into(), "".into(), options, arguments).await?;
    let (publisher, receiver) = (Arc::new(publisher), Arc::new(receiver));
    let (began, over) = (Instant::now(), Arc::new(Notify::new()));
    let user = address.uri.authority.userinfo.username.as_str().into();
    Ok((connection, Session { number, began, publisher, receiver, consumer, user, over }))
}

/// Waits until a user ends the session, or lapin reports an error of the connection or a channel.
async fn until_over(connection: &Connection, over: &Notify) {
    let failed = async {
        let mut events = connection.events_listener();
        while connection.status().connected() {
            match events.next().await {
                Some(Event::Error(error)) => return debug!(%error, "the broker's connection"),
                Some(_) => {}
                None => return,
            }
        }
    };
    tokio::select! {
        () = failed => {}
        () = over.notified() => {}
    }
}
