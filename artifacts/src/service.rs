//! The services that keep artifacts: a local folder, or a bucket of S3 or of a service compatible with it.

use super::SCRATCH;
use crate::{Error, folder as locked};
use opendal::{HttpTransporter, OperationContext, Operator, services};
use opendal_http_transport_reqwest::ReqwestTransport;
use reqwest::Url;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Piece size in bytes and concurrency for a folder.
const LOCAL: (usize, usize) = (1 << 20, 1);
/// Piece size in bytes and concurrency for a bucket. A longer file is uploaded in at most 10,000 parts, so the largest
/// file has 80 GiB.
const REMOTE: (usize, usize) = (8 << 20, 4);
/// How long a service may take to accept a connection, and to answer.
const CONNECT: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_mins(1);
/// The region to name for services that have none.
const REGION: &str = "us-east-1";

/// A configured service and the values that depend on its kind.
pub(super) struct Service {
    pub(super) operator: Operator,
    pub(super) signer: Option<Operator>,
    pub(super) place: String,
    pub(super) root: Option<PathBuf>,
    pub(super) lock: Option<File>,
    pub(super) wire: (usize, usize),
}

pub(super) fn folder(root: &Path) -> Result<Service, Error> {
    let (lock, scratch) = locked::lock_scratch(&root.join(SCRATCH))?;
    let root = root.canonicalize().map_err(|e| Error::io(root, e))?;
    let text = |path: &Path| {
        let text = path.to_str().map(str::to_owned);
        text.ok_or_else(|| Error::Invalid(format!("the path `{}` is not UTF-8", path.display())))
    };
    let place = text(&root)?;
    let service = services::Fs::default().root(&place).atomic_write_dir(&text(&scratch)?);
    let operator = Operator::new(service).map_err(|e| Error::artifact(&place, "", e))?;
    Ok(Service { operator, signer: None, place, root: Some(root), lock: Some(lock), wire: LOCAL })
}

pub(super) fn s3(url: &str, keys: Option<(&str, &str)>) -> Result<Service, Error> {
    // The address itself is not repeated: somebody may have written keys into it.
    let invalid = |why: &str| {
        let form = "s3://bucket/prefix?endpoint=https://host&region=name";
        Error::Invalid(format!("the place for artifacts: {why}; expected {form}"))
    };
    let parsed = Url::parse(url).map_err(|error| invalid(&error.to_string()))?;
    let bucket = parsed.host_str().unwrap_or_default();
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(invalid("keys do not belong into it"));
    }
    if bucket.is_empty() {
        return Err(invalid("the bucket is missing"));
    }
    let mut config = services::S3Config::default();
    bucket.clone_into(&mut config.bucket);
    config.root = Some(parsed.path().to_owned());
    config.region = Some(REGION.to_owned());
    for (name, value) in parsed.query_pairs() {
        match &*name {
            "endpoint" if is_web_address(&value) => config.endpoint = Some(value.into_owned()),
            "endpoint" => return Err(invalid("the endpoint is no web address")),
            "region" => config.region = Some(value.into_owned()),
            other => return Err(invalid(&format!("`{other}` is not known"))),
        }
    }
    if let Some((id, secret)) = keys {
        config.access_key_id = Some(id.to_owned());
        config.secret_access_key = Some(secret.to_owned());
        config.disable_config_load = true;
        config.disable_ec2_metadata = true;
    }
    let place = format!("s3://{bucket}{}", parsed.path());
    let context = OperationContext::new().with_http_transport(transport()?);
    let operator = |config: services::S3Config| {
        let operator = Operator::from_config(config).map_err(|e| Error::artifact(&place, "", e))?;
        Ok::<_, Error>(operator.with_context(context.clone()))
    };
    let signer = Some(operator(config.clone())?);
    config.checksum_algorithm = Some("crc32c".to_owned());
    let operator = operator(config)?;
    Ok(Service { operator, signer, place, root: None, lock: None, wire: REMOTE })
}

fn is_web_address(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// HTTP over our own TLS set-up, with time limits.
fn transport() -> Result<HttpTransporter, Error> {
    let client = pictor_net::client(CONNECT).read_timeout(SILENCE).build();
    let client = client.map_err(|error| Error::Unavailable {
        message: "there is no HTTP client to reach artifacts with".to_owned(),
        retryable: false,
        source: Some(Box::new(error)),
    })?;
    Ok(HttpTransporter::new(ReqwestTransport::new(client)))
}
