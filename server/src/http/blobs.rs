//! Bytes from artifact storage: all of an artifact, a range, or a link to it; and bytes into it, hashed on the way.

use super::Api;
use super::refusal::Refusal;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, StreamExt};
use pictor_api::Code;
use pictor_artifacts::{HashedFile, Stored};
use pictor_net::random;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, Schema, SchemaFormat, Type};
use utoipa::openapi::{self, ContentBuilder, RefOr, ResponseBuilder, ResponsesBuilder};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

/// Size of the pieces that an artifact is read in: the memory that a download takes.
const PIECE_BYTES: u64 = 1 << 20;
/// Bytes of a body after which the room on the disk is looked at again.
const LOOK_BYTES: u64 = 16 << 20;
/// How long a link to storage is valid.
pub(super) const LINK: Duration = Duration::from_hours(1);

/// A response of bytes, for the `OpenAPI` description.
pub(super) struct Binary;

impl PartialSchema for Binary {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::KnownFormat(KnownFormat::Binary);
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Binary {}

/// The responses of a download, for the `OpenAPI` description.
pub(super) struct Download;

impl IntoResponses for Download {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let bytes = || ContentBuilder::new().schema(Some(Binary::schema())).build();
        let answer = |description: &str| ResponseBuilder::new().description(description);
        ResponsesBuilder::new()
            .response("200", answer("The file").content("*/*", bytes()))
            .response("206", answer("The range that was asked for").content("*/*", bytes()))
            .response("304", answer("It is the file that the caller has"))
            .response("307", answer("Where the file is"))
            .build()
            .into()
    }
}

/// What a download asks for.
pub(super) struct Wanted<'a> {
    /// Key of the artifact.
    pub(super) key: &'a str,
    /// `ETag` of its bytes, without quotes.
    pub(super) tag: String,
    /// Whether the response may redirect to storage.
    pub(super) redirect: bool,
}

/// Responds with the bytes, a range of them, or a link to them.
pub(super) async fn serve(
    api: &Arc<Api>,
    wanted: Wanted<'_>,
    headers: &HeaderMap,
) -> Result<Response, Refusal> {
    let missing = || Refusal::not_found(format_args!("artifact `{}`", wanted.key));
    let size = match api.artifacts.size(wanted.key).await {
        Ok(size) => size,
        Err(pictor_storage::Error::NotFound(_) | pictor_storage::Error::Invalid(_)) => {
            return Err(missing());
        }
        Err(error) => return Err(error.into()),
    };
    let tag = format!("\"{}\"", wanted.tag);
    let mut answer = HeaderMap::new();
    answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Artifacts never change.
    let forever = HeaderValue::from_static("private, max-age=31536000, immutable");
    answer.insert(header::CACHE_CONTROL, forever);
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        answer.insert(header::ETAG, tag);
    }
    if says(headers, header::IF_NONE_MATCH, |said| said == "*" || has_tag(said, &tag)) {
        return Ok((StatusCode::NOT_MODIFIED, answer).into_response());
    }
    if wanted.redirect
        && let Some(link) = api.artifacts.presign_get(wanted.key, LINK).await?
    {
        let place = [(header::LOCATION, link.url), (header::CACHE_CONTROL, "no-store".to_owned())];
        return Ok((StatusCode::TEMPORARY_REDIRECT, place).into_response());
    }
    answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind(wanted.key)));
    answer.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let same = !headers.contains_key(header::IF_RANGE)
        || says(headers, header::IF_RANGE, |said| said == tag);
    let range = headers.get(header::RANGE).and_then(|range| range.to_str().ok()).filter(|_| same);
    let (status, range) = match range.map(|range| part(range, size)) {
        None | Some(Part::All) => (StatusCode::OK, 0..size),
        Some(Part::Some(range)) => {
            let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            answer.insert(header::CONTENT_RANGE, header_of(&text));
            (StatusCode::PARTIAL_CONTENT, range)
        }
        Some(Part::None) => {
            let problem =
                Refusal::new(Code::RangeNotSatisfiable, format!("the artifact has {size} bytes"));
            let range = header_of(&format!("bytes */{size}"));
            return Err(problem.with_header(header::CONTENT_RANGE, range));
        }
    };
    answer.insert(header::CONTENT_LENGTH, (range.end - range.start).into());
    let body = Body::from_stream(pieces(api.clone(), wanted.key.to_owned(), range));
    Ok((status, answer, body).into_response())
}

fn header_of(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits and signs")
}

fn says(headers: &HeaderMap, name: header::HeaderName, what: impl Fn(&str) -> bool) -> bool {
    headers.get(name).and_then(|value| value.to_str().ok()).is_some_and(what)
}

fn has_tag(said: &str, tag: &str) -> bool {
    said.split(',').any(|said| said.trim().trim_start_matches("W/") == tag)
}

fn pieces(
    api: Arc<Api>,
    key: String,
    range: Range<u64>,
) -> impl stream::Stream<Item = Result<Bytes, pictor_storage::Error>> {
    stream::try_unfold((api, key, range), |(api, key, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let end = range.end.min(range.start + PIECE_BYTES);
        let piece = api.artifacts.range(&key, range.start..end).await?;
        Ok(Some((Bytes::from(piece), (api, key, end..range.end))))
    })
}

/// The part of an artifact that a `Range` header selects.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    /// All of it: the header has several ranges or another unit, and is ignored.
    All,
    Some(Range<u64>),
    /// A range outside the artifact.
    None,
}

fn part(range: &str, size: u64) -> Part {
    let Some(range) = range.strip_prefix("bytes=").filter(|range| !range.contains(',')) else {
        return Part::All;
    };
    let Some((first, last)) = range.trim().split_once('-') else { return Part::All };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (start, end) = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => (first, last.saturating_add(1).min(size)),
        (Some(first), None) if last.is_empty() => (first, size),
        (None, Some(count)) if first.is_empty() => (size.saturating_sub(count), size),
        _ => return Part::All,
    };
    if start < end { Part::Some(start..end) } else { Part::None }
}

/// The media type, derived from the file extension.
fn kind(key: &str) -> &'static str {
    let end = key.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map(|(_, end)| end);
    match end.unwrap_or_default().to_ascii_lowercase().as_str() {
        "exr" => "image/x-exr",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "tif" | "tiff" => "image/tiff",
        "mp4" => "video/mp4",
        "mkv" => "video/x-matroska",
        "webm" => "video/webm",
        "mov" => "video/quicktime",
        "json" => "application/json",
        "txt" | "log" | "csv" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

impl Api {
    /// Stores a body, unless an artifact of this key is there. Returns whether it is stored. Once begun, this continues
    /// even if the client disconnects: otherwise the parts that object storage already has would stay there.
    pub(super) async fn store(&self, spooled: Spooled, key: String) -> Result<bool, Refusal> {
        let artifacts = self.artifacts.clone();
        let work = async move { artifacts.put_new(&spooled.path, &key).await };
        // The panic has been printed already.
        let panicked = |_| Refusal::new(Code::Internal, "the server's log says more");
        Ok(tokio::spawn(work).await.map_err(panicked)??)
    }
}

/// A request body in a file, which is removed when this is dropped.
pub(super) struct Spooled {
    pub(super) path: PathBuf,
    /// BLAKE3 digest of its bytes, in hex.
    pub(super) digest: String,
    pub(super) size_bytes: u64,
}

impl Drop for Spooled {
    fn drop(&mut self) {
        // A file that stays is removed at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Api {
    /// Fails if there is no more room in the data folder than the database is to have.
    fn check_room(&self) -> Result<(), Refusal> {
        let (found, floor) = (rustix::fs::statvfs(&self.data), self.limits.disk_floor);
        // A disk that cannot be asked will say itself when it is full.
        let free = found.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if free >= floor {
            return Ok(());
        }
        let detail = format!(
            "the server's disk has {free} bytes left, and the last {floor} are kept for its database: it takes no \
             more files until its operator makes room (`disk_floor` in the servers' configuration is this limit)"
        );
        Err(Refusal::new(Code::InsufficientStorage, detail))
    }

    /// Writes a body to disk as it arrives, and computes its digest.
    pub(super) async fn spool(&self, body: Body) -> Result<Spooled, Refusal> {
        let failed = |error: std::io::Error| {
            tracing::error!(%error, "a body cannot be written to the disk");
            if error.kind() == std::io::ErrorKind::StorageFull {
                return Refusal::new(Code::InsufficientStorage, "the server's disk is full");
            }
            let detail = "the server cannot write to its disk";
            Refusal::new(Code::Unavailable, detail).retry_after(5)
        };
        let folder = self.data.join("spool");
        tokio::fs::create_dir_all(&folder).await.map_err(failed)?;
        let path = folder.join(format!("{:016x}", random()));
        let mut spooled = Spooled { path, digest: String::new(), size_bytes: 0 };
        let mut file = HashedFile::create(&spooled.path).await.map_err(failed)?;
        let (mut pieces, mut looked) = (body.into_data_stream(), 0);
        self.check_room()?;
        while let Some(piece) = pieces.next().await {
            if file.size_bytes() >= looked + LOOK_BYTES {
                looked = file.size_bytes();
                self.check_room()?;
            }
            let cut = |error| Refusal::invalid(format!("the body ended before its end: {error}"));
            let piece = piece.map_err(cut)?;
            if file.size_bytes() + piece.len() as u64 > self.limits.asset_bytes {
                let detail = format!("a file may have {} bytes", self.limits.asset_bytes);
                return Err(Refusal::new(Code::BodyTooLarge, detail));
            }
            file.write(&piece).await.map_err(failed)?;
        }
        Stored { digest: spooled.digest, size_bytes: spooled.size_bytes } =
            file.finish().await.map_err(failed)?;
        Ok(spooled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        for (range, expected) in [
            ("bytes=0-0", Part::Some(0..1)),
            ("bytes=2-4", Part::Some(2..5)),
            ("bytes=2-", Part::Some(2..10)),
            ("bytes=-3", Part::Some(7..10)),
            ("bytes=-30", Part::Some(0..10)),
            ("bytes=8-99", Part::Some(8..10)),
            ("bytes=8-99999999999999999999999", Part::Some(8..10)),
            ("bytes=10-", Part::None),
            ("bytes=10-12", Part::None),
            ("bytes=-0", Part::None),
            ("bytes=4-2", Part::All),
            ("bytes=0-1,3-4", Part::All),
            ("bytes=", Part::All),
            ("bytes=-", Part::All),
            ("bytes=a-b", Part::All),
            ("lines=0-1", Part::All),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
        assert_eq!(part("bytes=0-", 0), Part::None);
    }
}
