// The frame: which view is shown, what runs now, and whether the server is there.

import { button, duration, h, icon, progress, toast } from "./parts.js";
import { begin, follow, on, runningJob, store } from "./server.js";
import { photos } from "./photos.js";
import { train } from "./train.js";
import { draw } from "./draw.js";
import { runs } from "./runs.js";
import { jobs } from "./jobs.js";

const VIEWS = { photos, train, draw, runs, jobs };
const TITLES = { photos: "Photos", train: "Train", draw: "Draw", runs: "Runs", jobs: "Jobs" };

const view = document.getElementById("view");
let shown = null;

/** Where the address points: a view and what it shows. */
function place() {
  const [name, ...rest] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  return { name: VIEWS[name] ? name : "photos", argument: rest.join("/") };
}

function show() {
  const { name, argument } = place();
  shown?.abort();
  shown = new AbortController();
  document.title = `${TITLES[name]} - eqdiff`;
  for (const link of document.querySelectorAll("#nav a")) {
    link.toggleAttribute("aria-current", link.dataset.view === name);
    if (link.dataset.view === name) link.setAttribute("aria-current", "page");
  }
  view.replaceChildren();
  view.className = `view view-${name}`;
  VIEWS[name](view, argument, shown.signal);
  scrollTo(0, 0);
}

function navigation() {
  const link = ([name, title]) =>
    h("a", { href: `#/${name}`, "data-view": name }, icon(name), h("span", {}, title));
  document.getElementById("nav").append(...Object.entries(TITLES).map(link));
}

/** The job that runs, in a line. */
function now() {
  const place = document.getElementById("now");
  const job = runningJob();
  const waiting = store.jobs.filter((job) => job.state === "queued").length;
  if (!job) {
    place.replaceChildren();
    return;
  }
  const live = store.live.get(job.id);
  const { work, done, of, seconds_left: left } = live?.progress ?? {};
  const text = job.stopping ? "Stopping" : work ? `${work} ${done} of ${of}` : "Starting";
  const rest = [left ? `${duration(left)} left` : "", waiting ? `${waiting} waiting` : ""].filter(Boolean).join(", ");
  place.replaceChildren(
    h("a", { href: "#/jobs" }, h("strong", {}, job.title), h("span", {}, text, rest && h("small", {}, rest))),
    progress(done, of, text));
}

/** Says when the server is gone, and when it is back. */
function connection() {
  const box = document.getElementById("trouble");
  const tell = (text) => box.replaceChildren(text ? h("p", {}, icon("warn"), h("span", {}, text)) : "");
  on("online", (online) => {
    tell(online ? "" : "The program does not answer. Trainings go on by themselves; this page comes back when it does.");
    if (online) toast("Connected again");
  });
  on("trouble", (text) => toast(text, { bad: true }));
}

/** Tells of jobs that ended while somebody looks. */
function endings() {
  const known = new Map();
  on("jobs", () => {
    for (const job of store.jobs) {
      const before = known.get(job.id);
      known.set(job.id, job.state);
      if (before !== "running" || job.state === "running") continue;
      const weak = job.state === "done" && job.kind === "mask" ? follow(job.id).said.filter(({ event }) => event === "warning").length : 0;
      if (job.state === "done") toast(weak ? `${job.title}: done, ${weak} of them unsure: the log names them` : `${job.title}: done`);
      if (job.state === "failed" || job.state === "died") toast(`${job.title}: ${job.word}`, { bad: true });
    }
  });
}

navigation();
connection();
endings();
on("jobs", now);
on("line", now);
addEventListener("hashchange", () => {
  for (const box of document.querySelectorAll("dialog[open]")) box.close(); // they belong to the page that was left
  show();
  view.focus({ preventScroll: true }); // a screen reader goes on there
});

async function start() {
  try {
    await begin();
    show();
    now();
  } catch (error) {
    view.replaceChildren(h("div", { class: "empty" }, h("h1", {}, "Not connected"), h("p", {}, error.message),
      button("Try again", { class: "primary" }, start)));
  }
}

start();
