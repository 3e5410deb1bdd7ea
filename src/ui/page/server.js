// What the server knows, kept up to date: everything else here only shows it.

/** The last that was heard of everything. */
export const store = {
  state: null,
  jobs: [],
  subjects: [],
  adapters: [],
  pictures: [],
  /** What jobs have said, by their number. */
  live: new Map(),
  online: true,
};

const listeners = new Map();

/** Calls `listener` when something of that kind has changed, until the signal aborts. */
export function on(kind, listener, signal) {
  const known = listeners.get(kind) ?? new Set();
  listeners.set(kind, known.add(listener));
  signal?.addEventListener("abort", () => known.delete(listener));
}

export function emit(kind, value) {
  for (const listener of listeners.get(kind) ?? []) listener(value);
}

function setOnline(online) {
  if (store.online === online) return;
  store.online = online;
  emit("online", online);
}

/** Asks the server; an answer that says no becomes an error with its words. */
export async function ask(path, { method = "GET", json, body } = {}) {
  const headers = json === undefined ? {} : { "content-type": "application/json" };
  let answer;
  try {
    answer = await fetch(`/api/${path}`, { method, headers, body: json === undefined ? body : JSON.stringify(json) });
  } catch {
    throw new Error("The program does not answer. Is it still running?");
  }
  const text = await answer.text();
  let value = {};
  try {
    value = JSON.parse(text);
  } catch {
    value = { error: text };
  }
  if (!answer.ok) throw new Error(value.error || `The program answered ${answer.status}.`);
  return value;
}

export const post = (path, json) => ask(path, { method: "POST", json: json ?? {} });

/** A part of an address. */
export const part = encodeURIComponent;

const LISTS = ["subjects", "adapters", "pictures"];
const asked = new Map();

/** Reads a list again; asked for meanwhile it is read once more after that. */
export async function refresh(kind) {
  if (asked.has(kind)) {
    asked.set(kind, true);
    return;
  }
  asked.set(kind, false);
  try {
    do {
      asked.set(kind, false);
      store[kind] = await ask(kind);
      emit(kind);
    } while (asked.get(kind));
  } finally {
    asked.delete(kind);
  }
}

/** What a job has said: read once, then followed line by line. */
export function follow(id) {
  let live = store.live.get(id);
  if (live) return live;
  live = { at: -1, said: [], points: [], pictures: [], progress: null, waiting: [], ready: false };
  store.live.set(id, live);
  ask(`jobs/${id}`).then(
    (log) => {
      Object.assign(live, log, { ready: true });
      live.waiting.splice(0).forEach((line) => take(live, line));
      emit("line", { job: id });
    },
    () => store.live.delete(id),
  );
  return live;
}

function take(live, { at, event }) {
  if (!live.ready) {
    live.waiting.push({ at, event });
    return;
  }
  if (at <= live.at) return; // it was in the log that was read
  live.at = at;
  if (event.event === "progress") {
    live.progress = event;
    if (event.work === "Training" && Object.keys(event.values ?? {}).length) live.points.push([event.done, event.values]);
  } else if (event.event === "picture") {
    if (event.picture) live.pictures.push(event.picture);
  } else if (event.event === "begin") {
    live.progress = null;
  } else if (event.event !== "end") {
    live.said.push(event);
  }
}

let stream = null;

function hear({ kind, value }) {
  if (kind === "jobs") {
    store.jobs = value;
    value.filter((job) => job.state === "running").forEach((job) => follow(job.id));
    emit("jobs");
  } else if (kind === "line") {
    take(follow(value.job), value);
    emit("line", value);
    if (value.event.event === "picture") refresh("pictures").catch(() => {});
  } else if (kind === "changed") {
    (value ? [value] : LISTS).forEach((list) => refresh(list).catch(() => {}));
  } else if (kind === "trouble") {
    emit("trouble", value);
  }
}

function connect(connected = () => {}) {
  stream?.close();
  stream = new EventSource("/api/events");
  stream.onopen = async () => {
    store.live.clear(); // the server may be another one by now
    setOnline(true);
    await Promise.all(LISTS.map((list) => refresh(list).catch(() => {})));
    connected();
  };
  stream.onmessage = (message) => hear(JSON.parse(message.data));
  stream.onerror = () => {
    setOnline(false);
    connected();
    if (stream?.readyState === EventSource.CLOSED) setTimeout(connect, 2000); // the browser has given up
  };
}

/** Begins to listen. A page that nobody sees does not: the server has nothing to do for it. */
export async function begin() {
  store.state = await ask("state");
  store.jobs = store.state.jobs;
  await new Promise(connect);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      stream?.close();
      stream = null;
    } else if (!stream) {
      connect();
    }
  });
}

export const runningJob = () => store.jobs.find((job) => job.state === "running");

/** Brings back what was deleted. */
export const undo = (back) => () => post("undo", back);

/** The adapter of that name. */
export const adapterOf = (name) => store.adapters.find((adapter) => adapter.name === name);
