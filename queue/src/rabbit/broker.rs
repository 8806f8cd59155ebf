//! What a server does with the broker apart from sending and receiving: workers' queues, users and permissions, and the
//! length of queues.

use super::connection::{Address, SMALL_FRAME_BYTES};
use super::{REPORTS, RabbitOwner, declare_reports, declare_worker, user, worker_queue};
use lapin::options::{QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::uri::AMQPQueryString;
use lapin::{Channel, Connection};
use percent_encoding::percent_decode_str;
use pictor_tasks::message::WorkerId;
use reqwest::{Client, Method, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

/// Time limit for an answer of the management service, after which it counts as away.
const ANSWER: Duration = Duration::from_secs(10);

/// Why a request to the broker failed.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The address or the certificates are invalid: the configuration has to be changed.
    #[error("{0}")]
    Invalid(String),
    /// The server's user lacks the permission.
    #[error("the broker does not let the server {0}: its user needs more rights")]
    Refused(String),
    /// The broker does not answer, or reports an error; retry later.
    #[error("the broker is not available: {0}")]
    Unavailable(String),
}

impl From<lapin::Error> for BrokerError {
    fn from(error: lapin::Error) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// How full a queue is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Depth {
    /// Name of the queue, such as `pictor.reports`.
    #[serde(rename = "name")]
    pub queue: String,
    /// Messages that wait for a consumer.
    #[serde(rename = "messages_ready", default)]
    pub ready: u64,
    /// Messages that were delivered and not acknowledged yet. Known only with the management service.
    #[serde(rename = "messages_unacknowledged", default)]
    pub unacknowledged: u64,
}

/// The broker, as seen by the server that registers workers.
///
/// With the management service each worker gets a user of its own that can read its own queue and write reports, and
/// nothing else. Without it all workers share the user of the address that they are given: only for networks in which
/// every machine is trusted.
#[derive(Debug)]
pub struct Broker {
    address: Address,
    workers: Address,
    management: Option<Management>,
}

impl Broker {
    /// The broker at an address. `management` is `http[s]://user:password@host:port`; `workers` is the address for
    /// workers, if it differs.
    pub fn new(
        address: Address,
        management: Option<&str>,
        workers: Option<&str>,
    ) -> Result<Self, BrokerError> {
        let management = management.map(|url| Management::new(url, &address)).transpose()?;
        let workers = match workers {
            Some(url) => Address::new(url, None)?,
            None => address.clone(),
        };
        Ok(Self { address, workers, management })
    }

    /// The owner's end of the queue. If each worker has a user of its own, reports of a worker count only if its user sent
    /// them. The connection is made in the background and kept up for ever.
    pub fn owner(&self) -> RabbitOwner {
        let vhost = self.management.as_ref().map(|management| management.vhost.clone());
        RabbitOwner::new(self.address.clone(), vhost)
    }

    /// Creates a worker's queue, and its user with this password. Returns the address that the worker has to connect
    /// to, which contains the password. An existing queue is kept, an existing user replaced.
    pub async fn add_worker(
        &self,
        worker: WorkerId,
        password: &str,
    ) -> Result<String, BrokerError> {
        let (connection, channel) = self.channel().await?;
        declare_reports(&channel).await?;
        declare_worker(&channel, worker).await?;
        connection.close(200, "".into()).await?;
        let mut uri = self.workers.uri.clone();
        // Each end chooses these for itself.
        uri.query = AMQPQueryString::default();
        if let Some(management) = &self.management {
            let name = user(&self.address.uri.vhost, worker);
            management.add_user(&name, worker, password).await?;
            uri.authority.userinfo.username = name;
            uri.authority.userinfo.password = password.to_owned();
        }
        Ok(uri.to_string())
    }

    /// Removes a worker's queue with all its messages, its user, and the user's connections.
    pub async fn remove_worker(&self, worker: WorkerId) -> Result<(), BrokerError> {
        if let Some(management) = &self.management {
            management.remove_user(&user(&self.address.uri.vhost, worker)).await?;
        }
        let (connection, channel) = self.channel().await?;
        let (queue, options) = (worker_queue(worker), QueueDeleteOptions::default());
        channel.queue_delete(queue.as_str().into(), options).await?;
        Ok(connection.close(200, "".into()).await?)
    }

    /// The lengths of the queues; without the management service only that of the reports queue.
    pub async fn depths(&self) -> Result<Vec<Depth>, BrokerError> {
        if let Some(management) = &self.management {
            return management.depths().await;
        }
        let (connection, channel) = self.channel().await?;
        let options = QueueDeclareOptions::durable().passive();
        let queue = channel.queue_declare(REPORTS.into(), options, FieldTable::default()).await?;
        let ready = queue.message_count().into();
        connection.close(200, "".into()).await?;
        Ok(vec![Depth { queue: REPORTS.to_owned(), ready, unacknowledged: 0 }])
    }

    async fn channel(&self) -> Result<(Connection, Channel), BrokerError> {
        let connection = self.address.connect("pictor server: queues", SMALL_FRAME_BYTES).await?;
        let channel = connection.create_channel().await?;
        Ok((connection, channel))
    }
}

/// A client of RabbitMQ's management service.
struct Management {
    client: Client,
    url: Url,
    user: String,
    password: String,
    vhost: String,
}

impl std::fmt::Debug for Management {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Management({})", self.url)
    }
}

impl Management {
    fn new(url: &str, address: &Address) -> Result<Self, BrokerError> {
        let invalid = |why: String| {
            BrokerError::Invalid(format!("the address of the broker's management service: {why}"))
        };
        let mut url: Url = url.parse().map_err(|why| invalid(format!("{why}")))?;
        let userinfo = &address.uri.authority.userinfo;
        let (mut user, mut password) = (userinfo.username.clone(), userinfo.password.clone());
        if !url.username().is_empty() {
            let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
            (user, password) = (decoded(url.username()), decoded(url.password().unwrap_or("")));
        }
        if url.cannot_be_a_base()
            || url.set_username("").is_err()
            || url.set_password(None).is_err()
        {
            return Err(invalid("it has no host".to_owned()));
        }
        let mut client = pictor_net::client(ANSWER).timeout(ANSWER).no_proxy();
        if let Some(pem) = address.certificates() {
            let certificates = reqwest::Certificate::from_pem_bundle(pem.as_bytes());
            client = client.tls_certs_merge(certificates.map_err(|why| invalid(why.to_string()))?);
        }
        let client = client.build().map_err(|why| invalid(why.to_string()))?;
        Ok(Self { client, url, user, password, vhost: address.uri.vhost.clone() })
    }

    async fn add_user(
        &self,
        name: &str,
        worker: WorkerId,
        password: &str,
    ) -> Result<(), BrokerError> {
        let account = json!({ "password": password, "tags": "" });
        self.ask(Method::PUT, &["users", name], Some(account)).await?;
        let exactly = |name: &str| format!("^{}$", name.replace('.', "\\."));
        let rights = json!({
            "configure": "^$",
            "write": exactly(REPORTS),
            "read": exactly(&worker_queue(worker)),
        });
        self.ask(Method::PUT, &["permissions", &self.vhost, name], Some(rights)).await?;
        Ok(())
    }

    async fn remove_user(&self, name: &str) -> Result<(), BrokerError> {
        self.ask(Method::DELETE, &["users", name], None).await?;
        // An open connection keeps its permissions. The service fails when one ends while it is being looked up, as
        // connections do once their user is removed.
        let connections = ["connections", "username", name];
        if self.ask(Method::DELETE, &connections, None).await.is_err() {
            self.ask(Method::DELETE, &connections, None).await?;
        }
        Ok(())
    }

    async fn depths(&self) -> Result<Vec<Depth>, BrokerError> {
        let all = self.ask(Method::GET, &["queues", &self.vhost], None).await?;
        let depths: Vec<Depth> = serde_json::from_value(all)
            .map_err(|why| BrokerError::Unavailable(format!("its list of queues: {why}")))?;
        Ok(depths.into_iter().filter(|depth| depth.queue.starts_with("pictor.")).collect())
    }

    /// Sends a request to the service. A missing object is no error when it is to be removed.
    async fn ask(
        &self,
        method: Method,
        path: &[&str],
        body: Option<Value>,
    ) -> Result<Value, BrokerError> {
        let mut url = self.url.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("api").extend(path);
        }
        let unavailable = |why: reqwest::Error| BrokerError::Unavailable(why.to_string());
        let removes = method == Method::DELETE;
        let mut request = self.client.request(method.clone(), url);
        request = request.basic_auth(&self.user, Some(&self.password));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(unavailable)?;
        match answer.status() {
            StatusCode::NOT_FOUND if removes => Ok(Value::Null),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(BrokerError::Refused(format!("{method} {}", path.join("/"))))
            }
            status if !status.is_success() => {
                let why = answer.text().await.unwrap_or_default();
                Err(BrokerError::Unavailable(format!(
                    "{method} {}: {status} {why}",
                    path.join("/")
                )))
            }
            StatusCode::OK => answer.json().await.map_err(unavailable),
            _ => Ok(Value::Null),
        }
    }
}
