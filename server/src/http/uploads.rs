//! Files that jobs need, and who has uploaded them. A file is stored once, however many accounts have uploaded it; an
//! account has what it has uploaded itself, and learns nothing about the files of others.

use super::Api;
use super::blobs::Binary;
use super::caller::Caller;
use super::extract::{Json, Path};
use super::guard::ANSWER;
use super::limits::{Part, Quotas, Taken};
use super::refusal::Refusal;
use crate::scenes::packed_files;
use crate::submit::uploaded;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use pictor_api::{Code, Digest, Digests, Missing, Mistake};
use pictor_artifacts::asset_key;
use pictor_storage::Upload;
use pictor_tasks::message::FileRef;
use pictor_tasks::pack::is_digest;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Most digests in one request.
const DIGESTS_MAX: usize = 10_000;
/// Queries to storage at once.
const AT_ONCE: usize = 16;
/// How long the size of an account's uploads is believed: a prune makes it smaller.
const BELIEVED: Duration = Duration::from_secs(10);

/// How much each account has uploaded, as far as that is known, and is uploading now.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    bytes: Mutex<HashMap<String, (Instant, u64)>>,
    coming: Taken,
}

impl Uploads {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Instant, u64)>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Api {
    /// Those of these files that exist for the caller, if they exist at all.
    pub(super) async fn has(
        &self,
        caller: &Caller,
        digests: &[&str],
    ) -> Result<BTreeSet<String>, Refusal> {
        let Some(account) = caller.only() else {
            return Ok(digests.iter().map(|digest| (*digest).to_owned()).collect());
        };
        Ok(self.registry.uploaded_by(account, digests).await?.into_iter().collect())
    }

    /// References to the files of a job, and the names of those that the caller has not uploaded.
    pub(super) async fn stored(
        &self,
        caller: &Caller,
        assets: &BTreeMap<String, String>,
    ) -> Result<(BTreeMap<String, FileRef>, Vec<String>), Refusal> {
        if let Some((name, _)) = assets.iter().find(|(_, digest)| !is_digest(digest)) {
            let detail =
                format!("`assets`: the digest of `{name}` has to be 64 hexadecimal digits");
            return Err(Refusal::invalid(detail));
        }
        let digests: Vec<&str> = assets.values().map(String::as_str).collect();
        let has = self.has(caller, &digests).await?;
        let mut own = assets.clone();
        own.retain(|_, digest| has.contains(digest));
        let mut files = uploaded(&self.artifacts, &own).await?;
        let mut missing: Vec<String> =
            assets.keys().filter(|name| !files.contains_key(*name)).cloned().collect();
        for name in &missing {
            // A dry run continues nevertheless.
            let (path, digest) = (name.clone(), assets[name].clone());
            files.insert(name.clone(), FileRef { path, digest, size_bytes: 0 });
        }
        if caller.only().is_some() {
            missing.extend(self.missing_inside(caller, &own).await?);
        }
        Ok((files, missing))
    }

    /// The names of files that are in the packed ones of these, and that the caller has not uploaded.
    async fn missing_inside(
        &self,
        caller: &Caller,
        assets: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, Refusal> {
        let mut missing = Vec::new();
        for (name, digest) in assets {
            let files = match packed_files(&self.artifacts, digest).await {
                Ok(files) => files,
                Err(pictor_storage::Error::Corrupt(why)) => return Err(Refusal::invalid(why)),
                Err(error) => return Err(error.into()),
            };
            let digests: Vec<&str> = files.iter().map(|file| &*file.digest).collect();
            let has = self.has(caller, &digests).await?;
            let lacks = files.iter().filter(|file| !has.contains(&file.digest));
            missing.extend(lacks.map(|file| format!("{name}/{}", file.path)));
        }
        Ok(missing)
    }

    /// Makes room among an account's uploads for a body of this length, for as long as it is coming.
    async fn part_for(&self, account: &str, length: Option<u64>) -> Result<Part, Refusal> {
        let known = self.uploads.lock().get(account).copied();
        let stored = match known {
            Some((asked, bytes)) if asked.elapsed() < BELIEVED => bytes,
            _ => {
                let bytes = self.registry.uploaded_bytes(account).await?;
                self.uploads.lock().insert(account.to_owned(), (Instant::now(), bytes));
                bytes
            }
        };
        let most = self.limits.quotas.upload_bytes;
        let left = most.0.saturating_sub(stored);
        // One that does not tell its length may be as long as is possible.
        let coming = length.unwrap_or(self.limits.asset_bytes);
        self.uploads.coming.take(account, coming, left).ok_or_else(|| {
            let has = format!(
                "the account `{account}` has uploaded {stored} bytes, and {coming} more are coming or may be"
            );
            Quotas::exceeded("upload_bytes", most, has)
        })
    }
}

/// The rejection of a job that names files which its submitter has not uploaded.
pub(super) fn not_stored(missing: &[String]) -> Refusal {
    let errors = missing.iter().map(|name| Mistake {
        line: None,
        column: None,
        message: format!("`{name}` is not uploaded"),
        hint: Some("upload it with `PUT /v1/assets/{digest}`".to_owned()),
        text: None,
    });
    let detail = format!("files of the job are not uploaded: {}", missing.join(", "));
    Refusal::new(Code::MissingAssets, detail).with_errors(errors.collect())
}

/// Tells which of some files have to be uploaded: those that the farm lacks, and, for a submitter, those that only other
/// accounts have uploaded.
#[utoipa::path(
    post, path = "/v1/assets/missing", tag = "files", request_body = Digests,
    responses((status = 200, description = "What is to be uploaded", body = Missing)),
)]
pub(super) async fn missing(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Json(Digests { digests }): Json<Digests>,
) -> Result<Json<Missing>, Refusal> {
    if digests.len() > DIGESTS_MAX {
        return Err(Refusal::invalid(format!("`digests` may have at most {DIGESTS_MAX}")));
    }
    if let Some(bad) = digests.iter().find(|digest| !is_digest(digest)) {
        let bad: String = bad.chars().take(80).collect();
        return Err(Refusal::invalid(format!("`{bad}` is not a digest: 64 hexadecimal digits")));
    }
    let has = api.has(&caller, &digests.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    let lacks = |digest: String| {
        let (api, has) = (&api, &has);
        async move {
            let there = has.contains(&digest) && api.artifacts.exists(&asset_key(&digest)).await?;
            Ok::<_, Refusal>((!there).then_some(digest))
        }
    };
    let answers = stream::iter(digests).map(lacks).buffered(AT_ONCE);
    let missing = answers.try_filter_map(async |digest| Ok(digest)).try_collect().await?;
    Ok(Json(Missing { missing }))
}

/// Uploads a file that jobs need. Uploading the same file again changes nothing.
#[utoipa::path(
    put, path = "/v1/assets/{digest}", tag = "files",
    params(("digest" = inline(Digest), Path, description = "BLAKE3 of the file, in hex")),
    request_body(content = inline(Binary), content_type = "application/octet-stream"),
    responses(
        (status = 201, description = "It is stored"),
        (status = 204, description = "The account had uploaded it already"),
    ),
)]
pub(super) async fn upload(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Path(digest): Path<String>,
    request: Request,
) -> Result<StatusCode, Refusal> {
    if !is_digest(&digest) {
        return Err(Refusal::invalid("a digest has 64 hexadecimal digits"));
    }
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    let look = async {
        let known = api.registry.uploaded_by(&caller.account, &[&digest]).await?;
        // What the account has already takes no more room.
        let part = match caller.only().filter(|_| known.is_empty()) {
            Some(account) => Some(api.part_for(account, length).await?),
            None => None,
        };
        Ok::<_, Refusal>((known, part))
    };
    let (known, _part) = tokio::select! {
        found = look => found?,
        outage = api.memory.gives_up(Instant::now() + ANSWER) => return Err(outage.problem()),
    };
    let spooled = api.spool(request.into_body()).await?;
    if spooled.digest != digest {
        let detail = format!("the {} bytes have the digest {}", spooled.size_bytes, spooled.digest);
        return Err(Refusal::new(Code::DigestMismatch, detail));
    }
    let key = asset_key(&digest);
    let there = api.artifacts.exists(&key).await?;
    let (account, size_bytes) = (caller.account, spooled.size_bytes);
    if !there {
        api.store(spooled, key).await?;
    }
    let uploaded_ms = (api.now_ms)();
    let upload = Upload { account: account.clone(), digest, size_bytes, uploaded_ms };
    tokio::select! {
        added = api.registry.add_upload(&upload) => added?,
        outage = api.memory.gives_up(Instant::now() + ANSWER) => return Err(outage.problem()),
    }
    if known.is_empty()
        && let Some((_, bytes)) = api.uploads.lock().get_mut(&account)
    {
        *bytes += size_bytes;
    }
    // Whether others have it, the answer does not tell.
    Ok(if there && !known.is_empty() { StatusCode::NO_CONTENT } else { StatusCode::CREATED })
}
