//! `eqdiff ui`: a page for the browser, which asks for what the commands do.
//!
//! Jobs are this program's own commands, each a process that writes its progress to a file; the server follows that
//! file, and so does the next one where this one dies. Everything is in the files that the commands write anyway, under
//! the folder that it is started in: `subjects/` and `outputs/`. Beside them there is one journal, `outputs/ui`.

mod adapters;
mod answer;
mod commands;
mod guard;
mod jobs;
mod journal;
mod log;
mod looks;
mod names;
mod page;
mod photos;
mod pictures;
mod process;
mod queue;
mod subjects;
mod undo;
mod zip;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, delete, get, post, put};
use tokio::sync::Notify;

use crate::app::places::OUTPUTS;
use crate::app::{Observer, Usage};
use crate::files::{Lock, make_folder};
use answer::missing;
use guard::{Guard, LARGEST_BODY};
use queue::Queue;

#[cfg(test)]
pub(crate) use commands::tests::lines as command_lines;

/// Where the page is to be, and for whom.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // each is explained by `eqdiff ui --help`
pub struct Request {
    pub folder: PathBuf,
    pub port: u16,
    pub listen: IpAddr,
}

/// Ends a server from outside it.
#[derive(Clone, Default)]
pub struct Stop(Arc<Notify>);

impl Stop {
    /// Asks it to end: the running job saves what it has first.
    pub fn ask(&self) {
        self.0.notify_one();
    }
}

/// What all requests share.
struct Ui {
    /// The folder in which commands run.
    root: PathBuf,
    /// The page's own files.
    folder: PathBuf,
    queue: Queue,
    guard: Guard,
    known: pictures::Known,
    looks: looks::Looks,
    /// One picture is read at a time.
    turn: tokio::sync::Mutex<()>,
}

impl Ui {
    fn new(root: PathBuf, folder: PathBuf, queue: Queue, guard: Guard) -> Self {
        let (known, looks, turn) = Default::default();
        Self { root, folder, queue, guard, known, looks, turn }
    }

    fn subjects(&self) -> PathBuf {
        self.root.join(subjects::SUBJECTS)
    }

    fn outputs(&self) -> PathBuf {
        self.root.join(OUTPUTS)
    }
}

/// Serves the page until it is asked to stop. `ready` is called with its addresses.
///
/// # Errors
/// [`Usage`] if another server has the folder or the port, else if files cannot be read or written.
pub fn serve(
    request: &Request,
    stop: &Stop,
    observer: &mut dyn Observer,
    ready: impl FnOnce(&[String]) -> Result<()>,
) -> Result<()> {
    if !request.folder.exists() {
        observer.info(&format!("{} is a new folder", request.folder.display()));
    }
    make_folder(&request.folder)?;
    let root = request.folder.canonicalize().with_context(|| format!("cannot find {}", request.folder.display()))?;
    let folder = root.join(OUTPUTS).join("ui");
    [&root.join(subjects::SUBJECTS), &folder].into_iter().try_for_each(|folder| make_folder(folder))?;
    let lock = Lock::take(&folder)?;
    let _lock = lock.with_context(|| Usage(format!("{} has a page already: it is open elsewhere", root.display())))?;
    let listener = listener(request)?;
    let port = listener.local_addr()?.port();
    let guard = Guard::new(&folder.join("token"), port, !request.listen.is_loopback())?;
    let (queue, warning) = Queue::open(&root, &folder)?;
    warning.iter().for_each(|warning| observer.warn(warning));
    [root.join(subjects::SUBJECTS), root.join(OUTPUTS)].iter().for_each(|section| undo::purge(section));
    let addresses = addresses(request.listen)
        .into_iter()
        .map(|host| format!("http://{}{}", SocketAddr::new(host, port), guard.query()));
    let addresses: Vec<String> = addresses.collect();
    let ui = Arc::new(Ui::new(root, folder, queue, guard));
    let program = std::env::current_exe().context("cannot find this program's own file")?;
    let worker = {
        let ui = ui.clone();
        std::thread::Builder::new().name("jobs".into()).spawn(move || ui.queue.run(&program))?
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let serving = axum::serve(listener, router(ui.clone()));
        ready(&addresses)?;
        tokio::select! {
            ended = serving => ended.context("the page cannot be served any more"),
            () = stop.0.notified() => Ok(()),
        }
    })?;
    ui.queue.close();
    runtime.shutdown_background();
    if worker.join().is_err() {
        bail!("the jobs' thread stumbled");
    }
    Ok(())
}

fn listener(request: &Request) -> Result<TcpListener> {
    let address = SocketAddr::new(request.listen, request.port);
    let bind = || -> std::io::Result<TcpListener> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().with_context(|| Usage(format!("cannot listen on {address}: choose another --port, or 0 for any")))
}

/// What to type into a browser: here, and elsewhere if others may.
fn addresses(listen: IpAddr) -> Vec<IpAddr> {
    if !listen.is_unspecified() {
        return vec![listen];
    }
    // the address by which this machine would reach another; nothing is sent
    let outside = || {
        UdpSocket::bind("0.0.0.0:0").and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()))
    };
    let own = outside().ok().map(|own| own.ip()).filter(|own| !own.is_loopback() && !own.is_unspecified());
    [IpAddr::V4(Ipv4Addr::LOCALHOST)].into_iter().chain(own).collect()
}

/// Everything that can be asked.
fn router(ui: Arc<Ui>) -> Router {
    let api = Router::new()
        .route("/state", get(jobs::state))
        .route("/events", get(jobs::events))
        .route("/undo", post(subjects::back))
        .route("/subjects", get(subjects::list).post(subjects::create))
        .route("/subjects/{name}", put(subjects::change).delete(subjects::delete))
        .route("/subjects/{name}/photos", post(photos::add))
        .route("/subjects/{name}/photos/{file}", get(photos::get).delete(photos::remove))
        .route("/subjects/{name}/order", put(photos::order))
        .route("/subjects/{name}/crop/{file}", post(photos::crop))
        .route("/subjects/{name}/masks/{file}", get(photos::mask).put(photos::set_mask))
        .route("/subjects/{name}/proposal/{file}", get(photos::propose))
        .route("/jobs", post(jobs::ask))
        .route("/jobs/{id}", get(jobs::log).delete(jobs::forget))
        .route("/jobs/{id}/stop", post(jobs::stop))
        .route("/jobs/{id}/again", post(jobs::again))
        .route("/adapters", get(adapters::list))
        .route("/adapters/{name}", delete(adapters::delete))
        .route("/adapters/{name}/losses", get(adapters::losses))
        .route("/adapters/{name}/report/{evaluation}", get(adapters::report))
        .route("/adapters/{name}/{below}/{file}", get(adapters::image))
        .route("/exports/{name}/{file}", get(adapters::export))
        .route("/pictures", get(pictures::list))
        .route("/pictures.zip", get(pictures::archive))
        .route("/pictures/{folder}/{file}", get(pictures::get).put(pictures::mark).delete(pictures::delete))
        .fallback(any(|| async { missing("such address") }));
    Router::new()
        .route("/", get(page::index))
        .route("/page/{name}", get(page::file))
        .nest("/api", api)
        .fallback(any(|| async { missing("such address") }))
        .layer(DefaultBodyLimit::max(LARGEST_BODY as usize))
        .layer(from_fn_with_state(ui.clone(), guard::check))
        .with_state(ui)
}

/// A folder as people know it.
fn shown(folder: &Path) -> String {
    crate::images::shown(folder)
}
