//! Answers that say no, and helpers of those that say yes.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use axum::Json;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;

use crate::app::Usage;

/// Why a request is not answered, with a word that people can use.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub text: String,
}

pub(super) type Answer<T> = Result<T, Refusal>;

/// A refusal of that kind.
pub(super) fn refusal(status: StatusCode, text: impl Into<String>) -> Refusal {
    Refusal { status, text: text.into() }
}

/// A request that makes no sense.
pub(super) fn wrong(text: impl Into<String>) -> Refusal {
    refusal(StatusCode::BAD_REQUEST, text)
}

/// What was asked for is not there.
pub(super) fn missing(what: &str) -> Refusal {
    refusal(StatusCode::NOT_FOUND, format!("there is no {what}"))
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.text }))).into_response()
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        let status = if error.is::<Usage>() { StatusCode::BAD_REQUEST } else { StatusCode::INTERNAL_SERVER_ERROR };
        refusal(status, format!("{error:#}"))
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        refusal(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }
}

/// Work that would hold up the other requests.
pub(super) async fn aside<T: Send + 'static>(work: impl FnOnce() -> Answer<T> + Send + 'static) -> Answer<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|_| Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, "the server stumbled over this request")))
}

/// A picture whose address changes with its content.
pub(super) fn picture(bytes: Vec<u8>, kind: &'static str) -> Response {
    let forever = HeaderValue::from_static("private, max-age=31536000, immutable");
    ([(CONTENT_TYPE, HeaderValue::from_static(kind)), (CACHE_CONTROL, forever)], bytes).into_response()
}

/// The address of a picture or file: parts after `/api/`.
pub(super) fn address(parts: &[&str]) -> String {
    format!("/api/{}", parts.iter().map(|part| encoded(part)).collect::<Vec<_>>().join("/"))
}

/// A text as a part of an address.
fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

/// What tells a file's content from an earlier one's: time and length.
pub(super) fn stamp(path: &Path) -> Option<(u64, u64)> {
    let meta = path.metadata().ok()?;
    let time = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((time.as_millis() as u64, meta.len()))
}

/// The stamp as a part of an address.
pub(super) fn version(path: &Path) -> String {
    stamp(path).map_or_else(String::new, |(time, length)| format!("{time:x}-{length:x}"))
}

/// Bytes of a file that are in memory at a time.
const PIECE: usize = 256 << 10;

/// A file of any length, to be kept under its name.
pub(super) async fn download(path: PathBuf, kind: &'static str) -> Answer<Response> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (file, length) = aside(move || {
        let file = std::fs::File::open(&path)?;
        let meta = file.metadata()?;
        if meta.is_file() { Ok((file, meta.len())) } else { Err(missing("file of that name")) }
    })
    .await?;
    let pieces = stream::unfold(Some(file), |file| async {
        let mut file = file?;
        let read = move || {
            use std::io::Read;
            let mut piece = Vec::with_capacity(PIECE);
            let read = file.by_ref().take(PIECE as u64).read_to_end(&mut piece);
            (read, piece, file)
        };
        match tokio::task::spawn_blocking(read).await {
            Ok((Ok(0), ..)) => None,
            Ok((Ok(_), piece, file)) => Some((Ok(piece), Some(file))),
            Ok((Err(error), ..)) => Some((Err(error), None)),
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    });
    let mut response = Body::from_stream(pieces).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(CONTENT_DISPOSITION, attachment(&name));
    Ok(response)
}

/// The header that has a browser keep a file under that name.
pub(super) fn attachment(name: &str) -> HeaderValue {
    let header = format!("attachment; filename*=UTF-8''{}", encoded(name));
    HeaderValue::from_str(&header).unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_any_name() {
        assert_eq!(encoded("a b/é"), "a%20b%2F%C3%A9");
    }
}
