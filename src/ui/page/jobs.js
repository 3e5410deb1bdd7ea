// All jobs: what runs, what waits, what is over.

import { anew, attempt, button, dialog, duration, empty, h, progress, toast, when } from "./parts.js";
import { ask, follow, on, post, store } from "./server.js";

const WORDS = {
  queued: "waits", running: "runs", done: "done", stopped: "stopped", failed: "failed", died: "died",
};

export function jobs(view, _argument, signal) {
  const list = h("ol", { class: "jobs" });
  view.append(h("h1", {}, "Jobs"), list);
  const rows = new Map();
  const show = () => {
    const ordered = [...store.jobs].sort((a, b) => rank(a) - rank(b) || b.id - a.id);
    if (!ordered.length) list.replaceChildren(h("li", {}, empty("Nothing to do", "Trainings, drawings and exports appear here.")));
    else list.replaceChildren(...ordered.map(row));
  };
  const row = (job) => {
    const line = h("li", { class: "card job", "data-job": job.id }, jobLine(job));
    rows.set(job.id, line);
    return line;
  };
  const refreshLine = ({ job: id }) => {
    const job = store.jobs.find((job) => job.id === id);
    const place = rows.get(id)?.querySelector(".job-progress");
    if (job && place) place.replaceChildren(...progressOf(job));
  };
  on("jobs", () => anew(list, show), signal);
  on("line", refreshLine, signal);
  show();
}

/** Asks for jobs, and says whether they begin. */
export async function order(wish) {
  const busy = store.jobs.some(({ state }) => state === "running" || state === "queued");
  await post("jobs", wish);
  toast(busy ? "It waits for what runs now" : "It begins");
}

function rank(job) {
  return { running: 0, queued: 1 }[job.state] ?? 2;
}

/** How far a running job is. */
export function progressOf(job) {
  if (job.state !== "running") return [];
  const { work, done, of, seconds_left: left } = follow(job.id).progress ?? {};
  const text = job.stopping ? "Stopping: it saves what it has" : work ? `${work} ${done} of ${of}` : "Starting";
  return [progress(done, of, text), h("p", { class: "hint" }, text, left ? `, ${duration(left)} left` : "")];
}

/** A job with all that can be done to it; `first` comes before that. */
export function jobLine(job, { forget = true, first } = {}) {
  const over = !["running", "queued"].includes(job.state);
  const took = job.began && job.ended && job.state === "done" ? `, took ${duration(job.ended - job.began)}` : "";
  return [
    h("div", { class: "job-head" },
      h("strong", { class: "job-title" }, job.title),
      h("span", { class: `chip ${job.state}` }, job.stopping ? "stops" : WORDS[job.state])),
    h("p", { class: "hint" }, `Asked for at ${when(job.asked)}${took}`),
    job.word && h("p", { class: "trouble-text" }, job.word),
    h("div", { class: "job-progress" }, ...progressOf(job)),
    h("div", { class: "actions" },
      first,
      !over && button(job.stopping ? "Stop at once" : "Stop", { icon: "stop", "aria-label": `${job.stopping ? "Stop at once" : "Stop"}: ${job.title}` }, () => attempt(() => post(`jobs/${job.id}/stop`))),
      ["stopped", "failed", "died"].includes(job.state) &&
        button("Go on", { icon: "play", class: "primary", "aria-label": `Go on: ${job.title}` }, () => attempt(() => post(`jobs/${job.id}/again`))),
      button("Log", { icon: "page", "aria-label": `Log: ${job.title}` }, () => showLog(job)),
      over && forget && button(`Take off the list: ${job.title}`, { icon: "close", quiet: true },
        () => attempt(() => ask(`jobs/${job.id}`, { method: "DELETE" })))),
  ];
}

/** What a job said, as it says it. */
export function showLog(job) {
  const ended = new AbortController();
  const lines = h("div", { class: "log", role: "log", tabindex: "0", "aria-label": `Log of ${job.title}` });
  dialog(`Log: ${job.title}`, { wide: true, onclose: () => ended.abort() }, lines);
  const show = () => {
    const said = follow(job.id).said;
    const line = ({ event, text }) => h("p", { class: event }, text);
    lines.replaceChildren(...(said.length ? said.map(line) : [h("p", {}, "It has said nothing yet.")]));
    lines.scrollTop = lines.scrollHeight;
  };
  on("line", ({ job: id }) => id === job.id && show(), ended.signal);
  show();
}
