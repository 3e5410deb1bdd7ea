//! The page's server as others meet it: who may ask, what is refused, and jobs that outlive it.
#![cfg(unix)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use common::{Place, tiny_base};
use serde_json::{Value, json};

/// `eqdiff ui` in a folder.
struct Server {
    child: Child,
    port: u16,
    token: String,
}

impl Server {
    fn start(place: &Place) -> Self {
        let mut child = place.command(&["ui", "--port", "0"]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the server");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let address = lines.find(|line| line.contains("http://")).expect("an address");
        let (host, token) = address
            .trim()
            .strip_prefix("http://127.0.0.1:")
            .and_then(|rest| rest.split_once("/?token="))
            .expect("a token");
        Self { child, port: host.parse().expect("a port"), token: token.into() }
    }

    /// Sends a request as it is, and gives status, headers and body.
    fn send(&self, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        write!(stream, "{}\r\nConnection: close\r\n\r\n", head.replace('\n', "\r\n")).expect("a request");
        let _ = stream.write_all(body); // a server that refuses does not read on
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer");
        let head = String::from_utf8_lossy(&answer[..end]).into_owned();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, head, answer[end + 4..].to_vec())
    }

    fn ask(&self, method: &str, path: &str, extra: &str, body: &[u8]) -> (u16, Value) {
        let Self { port, token, .. } = self;
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\nHost: 127.0.0.1:{port}\nAuthorization: Bearer {token}\nContent-Length: {length}{extra}"
        );
        let (status, head, body) = self.send(&head, body);
        assert!(head.contains("content-security-policy") && head.contains("nosniff"), "{head}");
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask("GET", path, "", b"");
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    fn post(&self, path: &str, json: &Value) -> (u16, Value) {
        self.ask("POST", path, "\nContent-Type: application/json", json.to_string().as_bytes())
    }

    fn job(&self) -> Value {
        self.get("/api/state")["jobs"][0].clone()
    }

    fn end(mut self, signal: i32) -> Option<i32> {
        common::signal(&self.child, signal);
        self.child.wait().expect("an end").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // SAFETY: a signal to a child of ours that was not waited for; asked, it stops its job too
            unsafe { libc::kill(self.child.id() as i32, libc::SIGINT) };
        }
        let _ = self.child.wait();
    }
}

#[test]
fn only_our_own_page_may_ask() {
    let place = Place::new();
    let server = Server::start(&place);
    let Server { port, token, .. } = &server;
    let own = format!("Host: 127.0.0.1:{port}");
    let cookie = format!("Cookie: eqdiff-{port}={token}");
    for (head, status) in [
        (format!("GET / HTTP/1.1\n{own}"), 401),
        (format!("GET /?token={token} HTTP/1.1\n{own}"), 303),
        (format!("GET /?token=0 HTTP/1.1\n{own}"), 401),
        (format!("GET /?token={token} HTTP/1.1\nHost: evil.example:{port}"), 403),
        (format!("GET / HTTP/1.1\n{own}\n{cookie}"), 200),
        (format!("GET /api/state HTTP/1.1\n{own}"), 401),
        (format!("GET /api/state?token={token} HTTP/1.1\n{own}"), 401),
        (format!("GET /api/state HTTP/1.1\n{own}\n{cookie}"), 200),
        (format!("GET /api/state HTTP/1.1\n{own}\nCookie: eqdiff-1={token}"), 401),
        (format!("GET /api/state HTTP/1.1\nHost: localhost:{port}\n{cookie}"), 200),
        (format!("GET /api/state HTTP/1.1\nHost: evil.example:{port}\n{cookie}"), 403),
        (format!("GET /api/state HTTP/1.1\nHost: 10.0.0.9:{port}\n{cookie}"), 403),
        (format!("GET /api/state HTTP/1.1\n{own}\n{cookie}\nOrigin: http://evil.example"), 403),
        (format!("GET /api/state HTTP/1.1\n{own}\n{cookie}\nOrigin: null"), 403),
        (format!("POST /api/undo HTTP/1.1\n{own}\n{cookie}\nOrigin: http://127.0.0.1:1"), 403),
        (format!("GET /api/state HTTP/1.1\n{own}\n{cookie}\nOrigin: http://127.0.0.1:{port}"), 200),
    ] {
        let (found, answer, _) = server.send(&head, b"");
        assert_eq!(found, status, "{head}\n{answer}");
        assert!(answer.contains("frame-ancestors 'none'"), "{answer}");
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = place.path("outputs/ui/token").metadata().expect("the token").permissions().mode();
    assert_eq!(mode & 0o077, 0, "others may read the token");
    // a second server in the same folder would write the same files
    place.fails(2, &["page already"], &["ui", "--port", "0"]);
    place.fails(2, &["cannot listen", "--port"], &["ui", "elsewhere", "--port", &port.to_string()]);
    assert_eq!(server.end(libc::SIGINT), Some(130));
}

#[test]
fn nothing_outside_the_folders_is_served_or_written() {
    let place = Place::new();
    place.subject("subjects/thing");
    std::fs::write(place.path("secret.png"), "secret").expect("a file");
    std::os::unix::fs::symlink(place.path("secret.png"), place.path("subjects/thing/link.png")).expect("a link");
    let server = Server::start(&place);
    for name in
        ["..%2f..%2fsecret.png", "%2e%2e", "link.png", "%2fetc%2fpasswd", "..%5csecret.png", "a%00.png", ".eqdiff-lock"]
    {
        for path in [
            format!("/api/subjects/thing/photos/{name}"),
            format!("/api/subjects/thing/masks/{name}"),
            format!("/api/subjects/{name}/photos/0.png"),
            format!("/api/pictures/top/{name}"),
            format!("/api/pictures/{name}/a.png"),
            format!("/api/adapters/{name}/losses"),
            format!("/api/adapters/thing/photos/{name}"),
            format!("/api/exports/{name}/a"),
            format!("/page/{name}"),
        ] {
            for method in ["GET", "DELETE"] {
                let (status, answer) = server.ask(method, &path, "", b"");
                assert!([400, 404, 405].contains(&status), "{method} {path}: {status} {answer}");
            }
        }
    }
    assert!(place.path("secret.png").is_file());
    let train =
        json!({"kind": "train", "subject": "../..", "base": "mini", "preset": "eqdiff", "previews": 0, "crop": false});
    assert_eq!(server.post("/api/jobs", &train).0, 400);
    let draw = json!({"kind": "export", "adapter": "../thing", "to": "webui"});
    assert_eq!(server.post("/api/jobs", &draw).0, 400);
    assert_eq!(server.post("/api/undo", &json!({"section": "subjects", "id": "../thing"})).0, 404);
}

#[test]
fn uploads_are_read_before_they_are_kept() {
    let place = Place::new();
    let server = Server::start(&place);
    let (status, made) = server.post("/api/subjects", &json!({"name": "../My Thing!", "class": "thing"}));
    assert_eq!((status, &made["name"]), (200, &json!("My-Thing")));
    let photos = "/api/subjects/My-Thing/photos";
    // so much that it is not even waited for
    let huge = format!(
        "POST {photos}?name=a.png HTTP/1.1\nHost: 127.0.0.1:{}\nAuthorization: Bearer {}",
        server.port, server.token
    );
    let (status, _, answer) = server.send(&format!("{huge}\nContent-Length: 2147483648"), b"");
    assert!(status == 413 && String::from_utf8_lossy(&answer).contains("64 MiB"), "{status}");
    let (status, ..) = server.send(&format!("{huge}\nContent-Length: nonsense"), b"");
    assert!((400..500).contains(&status), "{status}");
    // a file that would be 10 GB of pixels, one that is none, one that is cut short
    let picture = |width: u32, height: u32| {
        let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 90]));
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, image::ImageFormat::Png).expect("a PNG");
        bytes.into_inner()
    };
    let mut bomb = picture(64, 64);
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    for bad in [&bomb[..], b"nonsense", &picture(64, 64)[..200]] {
        let (status, answer) = server.ask("POST", &format!("{photos}?name=..%2fbad.png"), "", bad);
        assert!(
            status == 422 && answer["error"].as_str().is_some_and(|text| text.contains("bad.png")),
            "{status} {answer}"
        );
    }
    for _ in 0..2 {
        assert_eq!(server.ask("POST", &format!("{photos}?name=..%2fa%20b-mask.PNG"), "", &picture(64, 48)).0, 200);
    }
    let subjects = server.get("/api/subjects");
    let files: Vec<&str> =
        subjects[0]["photos"].as_array().expect("photos").iter().filter_map(|p| p["file"].as_str()).collect();
    assert_eq!(files, ["001-a-b.png", "002-a-b.png"]);
    // masks have to fit, and come back as they were drawn
    let mask = |path: &str, bytes: &[u8]| server.ask("PUT", &format!("/api/subjects/My-Thing/masks/{path}"), "", bytes);
    let white = |width: u32, height: u32| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image::GrayImage::from_fn(width, height, |x, _| image::Luma([if x < width / 2 { 255 } else { 0 }]))
            .write_to(&mut bytes, image::ImageFormat::Png)
            .expect("a PNG");
        bytes.into_inner()
    };
    assert_eq!(mask("001-a-b.png", &white(64, 64)).0, 400);
    assert_eq!(mask("001-a-b.png", &white(32, 24)).0, 200);
    assert_eq!(mask("003-a-b.png", &white(32, 24)).0, 404);
    let subjects = server.get("/api/subjects");
    assert_eq!((&subjects[0]["photos"][0]["coverage"], &subjects[0]["photos"][1]["mask"]), (&json!(0.5), &Value::Null));
    // which methods need the mask that is missing
    let presets: Vec<Value> = server.get("/api/state")["needs_masks"].as_array().expect("presets").clone();
    assert_eq!(presets, ["eqdiff", "paper", "c", "d", "e", "f"]);
    assert_eq!(subjects[0]["lacks_masks_alone"], json!(true));
    // the order is that of the names, and masks go with their photos
    let order = json!({"files": ["002-a-b.png", "001-a-b.png"]});
    let (status, subject) = server.ask(
        "PUT",
        "/api/subjects/My-Thing/order",
        "\nContent-Type: application/json",
        order.to_string().as_bytes(),
    );
    assert_eq!((status, &subject["photos"][1]["coverage"]), (200, &json!(0.5)));
}

#[test]
fn a_job_outlives_its_server_and_goes_on_after_its_own_death() {
    let place = Place::new();
    place.subject("subjects/thing");
    let server = Server::start(&place);
    let train = json!({"kind": "train", "subject": "thing", "base": tiny_base(), "preset": "a", "steps": 2000,
        "class_images": 0, "previews": 0, "crop": false});
    assert_eq!(server.post("/api/jobs", &train).0, 200);
    let limit = Duration::from_secs(180);
    let begun = || place.path("outputs/thing/adapter.safetensors").is_file();
    place.wait_until("a checkpoint", limit, begun);
    let worker = || -> i64 {
        let journal = std::fs::read(place.path("outputs/ui/journal.json")).expect("the journal");
        let journal: Value = serde_json::from_slice(&journal).expect("JSON");
        journal["jobs"][0]["process"]["id"].as_i64().expect("a process")
    };
    let first = worker();
    server.end(libc::SIGKILL);
    let server = Server::start(&place);
    assert_eq!((server.job()["state"].clone(), worker()), (json!("running"), first));
    // what was said meanwhile is there
    let log = server.get("/api/jobs/1");
    assert!(log["points"].as_array().is_some_and(|points| !points.is_empty()), "{log}");
    // SAFETY: a signal to the process that the journal names, which this test has started
    assert_eq!(unsafe { libc::kill(first as i32, libc::SIGKILL) }, 0);
    place.wait_until("a word of its death", limit, || server.job()["state"] == "died");
    assert_eq!(server.post("/api/jobs/1/again", &json!({})).0, 200);
    place.wait_until("another process", limit, || server.job()["state"] == "running" && worker() != first);
    let steps = || server.get("/api/jobs/1")["progress"]["done"].as_u64().unwrap_or_default();
    place.wait_until("a step", limit, || steps() > 0);
    // stopped cleanly with its server, it goes on with the next
    assert_eq!(server.end(libc::SIGINT), Some(130));
    let server = Server::start(&place);
    place.wait_until("its going on", limit, || server.job()["state"] == "running");
    assert_eq!(server.post("/api/jobs/1/stop", &json!({})).0, 200);
    place.wait_until("its end", limit, || server.job()["state"] == "stopped");
    let adapter = server.get("/api/adapters")[0].clone();
    assert_eq!(adapter["name"], "thing");
    assert_eq!(adapter["layouts"], json!(["diffusers", "webui", "release", "merged"]));
    assert_eq!(server.ask("DELETE", "/api/jobs/1", "", b"").0, 200);
    assert_eq!(server.get("/api/state")["jobs"], json!([]));
}
