//! The page itself: plain files that are part of the program.

use axum::extract::Path;
use axum::http::header::{CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use super::answer::missing;
use crate::files::digest;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";

/// All files by name.
const FILES: [(&str, &str, &str); 17] = [
    ("index.html", HTML, include_str!("page/index.html")),
    ("style.css", CSS, include_str!("page/style.css")),
    ("forms.css", CSS, include_str!("page/forms.css")),
    ("views.css", CSS, include_str!("page/views.css")),
    ("app.js", JS, include_str!("page/app.js")),
    ("parts.js", JS, include_str!("page/parts.js")),
    ("server.js", JS, include_str!("page/server.js")),
    ("photos.js", JS, include_str!("page/photos.js")),
    ("mask.js", JS, include_str!("page/mask.js")),
    ("brush.js", JS, include_str!("page/brush.js")),
    ("train.js", JS, include_str!("page/train.js")),
    ("curve.js", JS, include_str!("page/curve.js")),
    ("draw.js", JS, include_str!("page/draw.js")),
    ("dial.js", JS, include_str!("page/dial.js")),
    ("gallery.js", JS, include_str!("page/gallery.js")),
    ("runs.js", JS, include_str!("page/runs.js")),
    ("jobs.js", JS, include_str!("page/jobs.js")),
];

/// The page.
pub(super) async fn index(headers: HeaderMap) -> Response {
    file(Path("index.html".into()), headers).await
}

/// A file of the page; one that the browser has already is not sent again.
pub(super) async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some((_, kind, text)) = FILES.iter().find(|(known, ..)| *known == name) else {
        return missing("such part of the page").into_response();
    };
    let tag = format!("\"{}\"", digest(text.as_bytes(), 8));
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response();
    }
    let headers = [(CONTENT_TYPE, *kind), (ETAG, tag.as_str()), (axum::http::header::CACHE_CONTROL, "no-cache")];
    (headers, *text).into_response()
}
