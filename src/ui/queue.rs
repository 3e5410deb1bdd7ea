//! The jobs: one runs at a time, as a process of its own that outlives this one, the others wait for it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::sync::broadcast;

use super::answer::{Answer, missing, wrong};
use super::journal::{Job, Journal, Kind, State, now};
use super::log::{Reader, Summary};
use super::process::Process;
use crate::files::make_folder;

/// How often a job's log is read while somebody looks, and while nobody does.
const LOOKED_AT: Duration = Duration::from_millis(150);
const ALONE: Duration = Duration::from_secs(2);

/// Events that wait for a slow page; one that misses more asks for everything anew.
const WAITING: usize = 1024;

/// The jobs and whoever watches them.
pub(super) struct Queue {
    /// The commands' current folder.
    root: PathBuf,
    /// Where the journal and the logs are.
    folder: PathBuf,
    inner: Mutex<Inner>,
    woken: Condvar,
    events: broadcast::Sender<String>,
}

struct Inner {
    journal: Journal,
    /// The job that was asked to stop.
    stopping: Option<u64>,
    closing: bool,
}

/// What is known before the command line of a new job is.
pub(super) struct Asked {
    pub kind: Kind,
    pub title: String,
    pub adapter: Option<String>,
    pub arguments: Vec<String>,
}

impl Queue {
    /// The queue of a folder as an earlier server left it.
    pub(super) fn open(root: &Path, folder: &Path) -> Result<(Self, Option<String>)> {
        make_folder(&folder.join("jobs"))?;
        let (journal, warning) = Journal::read(folder)?;
        let inner = Mutex::new(Inner { journal, stopping: None, closing: false });
        let (root, folder) = (root.to_path_buf(), folder.to_path_buf());
        let events = broadcast::channel(WAITING).0;
        Ok((Self { root, folder, inner, woken: Condvar::new(), events }, warning))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the journal and tells of it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Journal) -> Answer<T>) -> Answer<T> {
        let mut inner = self.lock();
        let done = change(&mut inner.journal)?;
        inner.journal.write(&self.folder)?;
        self.tell("jobs", &jobs(&inner));
        drop(inner);
        self.woken.notify_all();
        Ok(done)
    }

    /// Something of the journal.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Journal) -> T) -> T {
        look(&self.lock().journal)
    }

    /// All jobs as pages see them.
    pub(super) fn jobs(&self) -> Value {
        jobs(&self.lock())
    }

    /// Tells all pages.
    pub(super) fn tell(&self, kind: &str, value: &Value) {
        let _ = self.events.send(json!({"kind": kind, "value": value}).to_string()); // an error: nobody looks
    }

    /// Joins those who are told.
    pub(super) fn watch(&self) -> broadcast::Receiver<String> {
        let watch = self.events.subscribe();
        self.woken.notify_all();
        watch
    }

    /// Adds a job.
    pub(super) fn add(&self, asked: Asked) -> Answer<u64> {
        let Asked { kind, title, adapter, arguments } = asked;
        self.change(|journal| {
            journal.last += 1;
            let (id, asked) = (journal.last, now());
            let state = State::Queued;
            let job = Job {
                id,
                kind,
                title,
                adapter,
                arguments,
                state,
                asked,
                began: None,
                ended: None,
                process: None,
                word: None,
            };
            journal.jobs.push(job);
            Ok(id)
        })
    }

    /// Stops a job: one that waits waits no more, one that runs saves what it has; asked twice it stops at once.
    pub(super) fn stop(&self, id: u64) -> Answer<()> {
        let process = self.change(|journal| {
            let job = journal.job(id).ok_or_else(|| missing("such job"))?;
            match job.state {
                State::Queued => job.state = State::Stopped,
                State::Running => {}
                _ => return Err(wrong("this job does not run")),
            }
            Ok(job.process)
        })?;
        if let Some(process) = process {
            let mut inner = self.lock();
            inner.stopping = Some(id);
            self.tell("jobs", &jobs(&inner));
            drop(inner);
            process.ask_to_stop();
            self.woken.notify_all();
        }
        Ok(())
    }

    /// Has a job that was stopped, failed or died go on where it was.
    pub(super) fn again(&self, id: u64) -> Answer<()> {
        let root = self.root.clone();
        self.change(|journal| {
            let job = journal.job(id).ok_or_else(|| missing("such job"))?;
            if matches!(job.state, State::Queued | State::Running | State::Done) {
                return Err(wrong("this job does not wait to go on"));
            }
            continued(job, &root);
            (job.state, job.word, job.ended, job.asked) = (State::Queued, None, None, now());
            Ok(())
        })
    }

    /// Takes a job that does not run off the list. What it made stays.
    pub(super) fn forget(&self, id: u64) -> Answer<()> {
        self.change(|journal| {
            let job = journal.job(id).ok_or_else(|| missing("such job"))?;
            if job.state == State::Running {
                return Err(wrong("this job runs: stop it first"));
            }
            journal.jobs.retain(|job| job.id != id);
            Ok(())
        })?;
        let _ = std::fs::remove_file(self.log(id)); // without its job nobody reads it
        Ok(())
    }

    /// What a job has said so far.
    pub(super) fn log(&self, id: u64) -> PathBuf {
        self.folder.join(format!("jobs/{id:06}.log"))
    }

    /// Whether a job that is not over makes that adapter.
    pub(super) fn makes(&self, adapter: &str) -> bool {
        let pending = |job: &Job| matches!(job.state, State::Queued | State::Running);
        let makes = |job: &&Job| job.kind == Kind::Train && job.adapter.as_deref() == Some(adapter);
        self.look(|journal| journal.jobs.iter().filter(makes).any(pending))
    }

    /// Runs jobs until [`close`](Self::close) is called and the last one has stopped.
    pub(super) fn run(&self, program: &Path) {
        while let Some(job) = self.next() {
            let id = job.id;
            if let Err(error) = self.work(program, job) {
                let text = format!("{error:#}");
                self.ended(id, State::Failed, Some(text));
            }
        }
    }

    /// Asks the running job to stop, and begins no other. It goes on when the next server starts.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.closing = true;
        let running = inner.journal.jobs.iter().find(|job| job.state == State::Running).and_then(|job| job.process);
        drop(inner);
        running.into_iter().for_each(Process::ask_to_stop);
        self.woken.notify_all();
    }

    /// The job that ran when a server before this one ended, else the first that waits.
    fn next(&self) -> Option<Job> {
        let mut inner = self.lock();
        loop {
            let running = inner.journal.jobs.iter().find(|job| job.state == State::Running);
            let waits = |job: &&Job| job.state == State::Queued && !inner.closing;
            let next =
                running.or_else(|| inner.journal.jobs.iter().filter(waits).min_by_key(|job| (job.asked, job.id)));
            if let Some(job) = next {
                return Some(job.clone());
            }
            if inner.closing {
                return None;
            }
            inner = self.woken.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Starts a job, or joins one that runs, and follows it to its end.
    fn work(&self, program: &Path, job: Job) -> Result<()> {
        let (id, path) = (job.id, self.log(job.id));
        let mut reader = Reader::new(path.clone(), path.metadata().map_or(0, |meta| meta.len()));
        let (mut child, mut process) = (None, job.process);
        if job.state == State::Queued {
            let started = self.start(program, &job)?;
            process = Process::find(started.id());
            child = Some(started);
            let begun = self.change(|journal| {
                if let Some(job) = journal.job(id) {
                    (job.state, job.process, job.began) = (State::Running, process, Some(now()));
                }
                Ok(())
            });
            begun.map_err(|refusal| anyhow::anyhow!(refusal.text))?;
        }
        loop {
            let over = match &mut child {
                Some(child) => child.try_wait().context("cannot wait for the job")?.is_some(),
                None => !process.is_some_and(Process::is_alive),
            };
            // after that question: what it said last is there by now
            loop {
                let lines = reader.lines();
                if lines.is_empty() {
                    break;
                }
                for (at, event) in lines {
                    self.tell("line", &json!({"job": id, "at": at, "event": event}));
                }
            }
            if over {
                break;
            }
            let pause = if self.events.receiver_count() > 0 { LOOKED_AT } else { ALONE };
            // somebody who asks to stop or begins to look ends the pause
            drop(self.woken.wait_timeout(self.lock(), pause));
        }
        let code = child.and_then(|mut child| child.wait().ok()?.code()).map(i64::from);
        let log = Summary::of(path);
        let closing = self.lock().closing;
        let (state, word) = match (code.or(log.end), log.error) {
            (Some(0), _) => (State::Done, None),
            (Some(130), _) if closing => (State::Queued, None),
            (Some(130), _) => (State::Stopped, None),
            (_, Some(error)) => (State::Failed, Some(error)),
            (Some(2), None) => (State::Failed, Some("the command was not understood: see the log".into())),
            _ => (State::Died, Some("it ended without a word: it was killed, or the memory did not suffice".into())),
        };
        self.ended(id, state, word);
        Ok(())
    }

    fn start(&self, program: &Path, job: &Job) -> Result<Child> {
        let path = self.log(job.id);
        let open = || File::options().create(true).append(true).open(&path);
        let mut log = open().with_context(|| format!("cannot write {}", path.display()))?;
        use std::io::Write;
        writeln!(log, "{}", json!({"event": "begin", "time": now()}))?;
        let mut command = Command::new(program);
        command.args(&job.arguments).arg("--json-progress").current_dir(&self.root);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0); // the terminal's Ctrl-C is the server's alone
        command.spawn().context("cannot start this program again")
    }

    fn ended(&self, id: u64, state: State, word: Option<String>) {
        let root = self.root.clone();
        self.lock().stopping = None;
        let written = self.change(|journal| {
            if let Some(job) = journal.job(id) {
                (job.state, job.word, job.ended, job.process) = (state, word, Some(now()), None);
                if state == State::Queued {
                    continued(job, &root);
                }
            }
            Ok(())
        });
        if let Err(refusal) = written {
            self.tell("trouble", &json!(refusal.text)); // the disk is full: the page says so
        }
        self.tell("changed", &json!(null));
    }
}

/// A training that has begun is gone on with; what draws, scores or exports leaves what is there by itself.
fn continued(job: &mut Job, root: &Path) {
    let Some(adapter) = job.adapter.as_ref().filter(|_| job.kind == Kind::Train) else { return };
    let folder = Path::new(crate::app::places::OUTPUTS).join(adapter);
    let begun = root.join(&folder).join(crate::adapter::MANIFEST).is_file();
    if begun && !job.arguments.iter().any(|argument| argument == "--resume") {
        let kept = |name: &str| job.arguments.iter().filter(|word| word.starts_with(name)).cloned().collect::<Vec<_>>();
        let machine = [kept("--memory="), kept("--device="), kept("--offline"), kept("--base=")].concat();
        let first = ["train".into(), "--resume".into(), format!("--out={}", folder.display())];
        job.arguments = first.into_iter().chain(machine).collect();
    }
}

fn jobs(inner: &Inner) -> Value {
    let job = |job: &Job| {
        let mut value = json!({
            "id": job.id, "kind": job.kind, "title": job.title, "adapter": job.adapter, "state": job.state,
            "asked": job.asked, "began": job.began, "ended": job.ended, "word": job.word,
        });
        value["stopping"] = json!(inner.stopping == Some(job.id));
        value
    };
    inner.journal.jobs.iter().map(job).collect()
}
