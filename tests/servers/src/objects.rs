//! S3 services for tests: `s3s-fs` on a thread of this process.

use crate::instance::{Instance, secret};
use crate::server::sure;
use anyhow::{Context, Result, anyhow};
use async_trait::async_trait;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::dto::{
    GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, PutObjectInput,
    PutObjectOutput,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3Request, S3Response, S3Result};
use s3s_fs::FileSystem;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::{JoinHandle, spawn};
use tokio::sync::oneshot::{Receiver, Sender, channel};

/// An S3 service. It checks signatures (version 4) and the expiry of presigned URLs; buckets are addressed by path;
/// every region is accepted.
#[derive(Debug)]
pub struct S3 {
    endpoint: String,
    access_key: String,
    secret_key: String,
    files: PathBuf,
    /// Ends the thread when it is dropped.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Keeps the folder of the service.
    _instance: Instance,
}

impl S3 {
    /// Starts a service without buckets; it ends with its value.
    pub fn start() -> Self {
        sure("S3 does not start", Self::try_start(S3ServiceBuilder::new))
    }

    /// Starts a service that replaces objects although a request demands that there is none.
    pub fn careless() -> Self {
        let careless = |system| S3ServiceBuilder::new(Careless(system));
        sure("S3 does not start", Self::try_start(careless))
    }

    fn try_start(build: impl FnOnce(FileSystem) -> S3ServiceBuilder) -> Result<Self> {
        let instance = Instance::create("s3")?;
        let files = instance.folder().join("data");
        fs::create_dir(&files)?;
        let (access_key, secret_key) = (secret()?, secret()?);
        let system = FileSystem::new(&files).map_err(|error| anyhow!("s3s-fs: {error:?}"))?;
        let mut builder = build(system);
        builder.set_auth(SimpleAuth::from_single(&*access_key, &*secret_key));
        let service = builder.build();
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = channel();
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).context("the listener")?
        };
        let thread = spawn(move || runtime.block_on(serve(listener, service, ended)));
        let (end, thread) = (Some(end), Some(thread));
        Ok(Self { endpoint, access_key, secret_key, files, end, thread, _instance: instance })
    }

    /// Address of the service: `http://127.0.0.1:port`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Id of the access key.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// Secret of the access key.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// A region to name in requests; any other would do.
    pub fn region(&self) -> &'static str {
        "us-east-1"
    }

    /// Creates an empty bucket and returns its name.
    pub fn bucket(&self) -> String {
        let made = secret().and_then(|name| {
            let name = format!("test-{name}");
            fs::create_dir(self.files.join(&name))?;
            Ok(name)
        });
        sure("S3 makes no bucket", made)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.end = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A service that knows no conditions.
struct Careless(FileSystem);

#[async_trait]
impl s3s::S3 for Careless {
    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        request.input.if_none_match = None;
        self.0.put_object(request).await
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.0.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.0.head_object(request).await
    }
}

async fn serve(listener: tokio::net::TcpListener, service: S3Service, mut ended: Receiver<()>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut ended => return,
        };
        // A client that went away before it was accepted is no error of the service.
        let Ok((socket, _)) = accepted else { continue };
        let connection =
            http1::Builder::new().serve_connection(TokioIo::new(socket), service.clone());
        tokio::spawn(connection);
    }
}
