//! Who may ask: the browser that was given the address with the token, and no other page in it.
//!
//! A page of somebody else's can send requests to this machine too. Its origin betrays it; a name of its own that leads
//! here betrays itself as a foreign host; and it does not know the token, whose cookie browsers send with our own page's
//! requests alone.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, LOCATION, ORIGIN, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::Ui;
use super::answer::refusal;
use crate::files::{read_text, write_whole};

/// The largest body of a request; a photo of a phone has 10 MiB.
pub(super) const LARGEST_BODY: u64 = 64 << 20;

/// What everybody is measured by.
pub(super) struct Guard {
    token: String,
    port: u16,
    /// Whether the page is open to other machines.
    open: bool,
}

impl Guard {
    /// Reads the token of a folder's page, or draws one: it stays the same, so that an open page finds a server that was
    /// started again.
    pub(super) fn new(file: &Path, port: u16, open: bool) -> Result<Self> {
        let known =
            read_text(file).ok().filter(|token| token.len() == 48 && token.bytes().all(|b| b.is_ascii_hexdigit()));
        let token = match known {
            Some(token) => token,
            None => {
                let token: String = rand::random::<[u8; 24]>().iter().map(|byte| format!("{byte:02x}")).collect();
                write_whole(file, token.as_bytes())?;
                token
            }
        };
        only_ours(file)?;
        Ok(Self { token, port, open })
    }

    /// The address's ending.
    pub(super) fn query(&self) -> String {
        format!("/?token={}", self.token)
    }

    /// Cookies are shared by all ports of a machine, so each port has one of its own.
    fn cookie(&self) -> String {
        format!("eqdiff-{}", self.port)
    }

    /// Whether a host is this machine by its number, or `localhost`: a name could be anybody's that leads here.
    fn is_us(&self, host: &str) -> bool {
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port.parse().ok()),
            _ => (host, Some(80)),
        };
        let number = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let known = name == "localhost" || number.is_ok_and(|number| self.open || number.is_loopback());
        known && port == Some(self.port)
    }

    fn knows(&self, given: &str) -> bool {
        // in the same time whatever is given
        let differs = given.bytes().zip(self.token.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
        given.len() == self.token.len() && differs == 0
    }

    fn may(&self, headers: &HeaderMap) -> bool {
        let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
        let bearer = text(AUTHORIZATION).strip_prefix("Bearer ").is_some_and(|token| self.knows(token));
        let own = format!("{}=", self.cookie());
        bearer || text(COOKIE).split("; ").filter_map(|cookie| cookie.strip_prefix(&own)).any(|token| self.knows(token))
    }
}

#[cfg(unix)]
fn only_ours(file: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let ours = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(file, ours).with_context(|| format!("cannot close {} to others", file.display()))
}

#[cfg(not(unix))]
fn only_ours(_file: &Path) -> Result<()> {
    Ok(())
}

/// What a browser shows that has no token.
const CLOSED: &str = include_str!("page/closed.html");

/// Lets requests through that are ours.
pub(super) async fn check(State(ui): State<Arc<Ui>>, request: Request, next: Next) -> Response {
    let guard = &ui.guard;
    let headers = request.headers();
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(HOST).unwrap_or_default();
    let mut response = if !guard.is_us(host) {
        refusal(StatusCode::FORBIDDEN, format!("{host:?} is not the address of this page")).into_response()
    } else if text(ORIGIN).is_some_and(|origin| origin.strip_prefix("http://") != Some(host)) {
        refusal(StatusCode::FORBIDDEN, "another page may not ask here").into_response()
    } else if let Some(token) = token_of(&request).filter(|token| guard.knows(token)) {
        let cookie = format!("{}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age=31536000", guard.cookie());
        // to an address without the token, which a history or a screenshot would keep
        let to = [(LOCATION, "/".to_string()), (SET_COOKIE, cookie)];
        (StatusCode::SEE_OTHER, to).into_response()
    } else if !guard.may(headers) {
        match request.uri().path() {
            "/" => (StatusCode::UNAUTHORIZED, axum::response::Html(CLOSED)).into_response(),
            _ => refusal(StatusCode::UNAUTHORIZED, "open the address that eqdiff ui printed: it has the token")
                .into_response(),
        }
    } else if text(CONTENT_LENGTH)
        .is_some_and(|length| length.parse().map_or(true, |length: u64| length > LARGEST_BODY))
    {
        let text = format!("that is more than the {} MiB that are taken at once", LARGEST_BODY >> 20);
        ([("connection", "close")], refusal(StatusCode::PAYLOAD_TOO_LARGE, text)).into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// The token in the address of a page that is opened.
fn token_of(request: &Request) -> Option<&str> {
    let opened = request.method() == Method::GET && request.uri().path() == "/";
    request.uri().query().filter(|_| opened)?.split('&').find_map(|pair| pair.strip_prefix("token="))
}

/// What every answer says: nothing from elsewhere, in nobody's frame, kept by nobody.
const HEADERS: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_known_by_number() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("token");
        let guard = Guard::new(&file, 7860, false)?;
        assert_eq!(Guard::new(&file, 7860, false)?.token, guard.token);
        for host in ["127.0.0.1:7860", "localhost:7860", "[::1]:7860"] {
            assert!(guard.is_us(host), "{host}");
        }
        for host in
            ["", "127.0.0.1", "127.0.0.1:1", "evil.example:7860", "localhost.evil.example:7860", "10.0.0.5:7860"]
        {
            assert!(!guard.is_us(host), "{host}");
        }
        let open = Guard { open: true, ..guard };
        assert!(open.is_us("10.0.0.5:7860") && !open.is_us("evil.example:7860"));
        assert!(!open.knows("") && !open.knows(&"0".repeat(48)) && open.knows(&open.token.clone()));
        Ok(())
    }
}
