// What was trained: settings, scores, and the way to other programs.

import { anew, attempt, button, bytes, checkbox, choices, confirmed, dialog, empty, field, h, icon, number, select, toast, when } from "./parts.js";
import { ask, on, part, post, store, undo } from "./server.js";
import { curve } from "./curve.js";

export function runs(view, _argument, signal) {
  const list = h("div", { class: "runs" });
  view.append(h("h1", {}, "Runs"), list);
  const show = () => {
    if (!store.adapters.length) {
      list.replaceChildren(empty("Nothing is trained yet", "Each training leaves an adapter here, with its scores and what other programs need.",
        h("a", { class: "button primary", href: "#/train" }, icon("train"), "To training")));
    } else {
      list.replaceChildren(...store.adapters.map(card));
    }
  };
  on("adapters", () => anew(list, show), signal);
  on("jobs", () => anew(list, show), signal);
  show();
}

function card(adapter) {
  if (adapter.error) {
    return h("article", { class: "card run" }, h("h2", {}, adapter.name), h("p", { class: "trouble-text" }, adapter.error), h("div", { class: "actions" }, deletion(adapter)));
  }
  const picture = adapter.previews.at(-1) ?? adapter.photos[0];
  const unfinished = adapter.steps < adapter.of && !adapter.imported;
  const busy = store.jobs.find((job) => job.adapter === adapter.name && ["queued", "running"].includes(job.state));
  return h("article", { class: "card run" },
    picture && h("img", { class: "run-picture", src: picture.url, alt: adapter.previews.length ? `Preview of ${adapter.name}` : `Photo of ${adapter.name}`, loading: "lazy" }),
    h("div", { class: "run-text" },
      h("h2", {}, adapter.name),
      h("p", {}, h("span", { class: "token" }, adapter.called)),
      h("p", { class: "hint" }, [
        adapter.imported ? "imported" : `${adapter.steps} of ${adapter.of} steps`, `base ${adapter.base}`, adapter.preset && `preset ${adapter.preset}`,
        `learning rate ${adapter.learning_rate}`, `seed ${adapter.seed}`, when(adapter.time / 1000),
      ].filter(Boolean).join(", ")),
      busy && h("p", { class: `chip ${busy.state}` }, busy.title),
      unfinished && !busy && h("p", { class: "chip stopped" }, "not finished"),
      scores(adapter),
      adapter.exports.map(exported),
      h("div", { class: "actions" },
        adapter.ready && h("a", { class: "button primary", href: `#/draw/${part(adapter.name)}` }, icon("draw"), "Draw", h("span", { class: "offstage" }, ` with ${adapter.name}`)),
        adapter.ready && button("Score", { icon: "score", "aria-label": `Score ${adapter.name}` }, () => evaluate(adapter)),
        adapter.ready && button("Export", { icon: "export", "aria-label": `Export ${adapter.name}` }, () => exportTo(adapter)),
        !adapter.imported && button(unfinished ? "Go on" : "Train on", { icon: "play", "aria-label": `${unfinished ? "Go on" : "Train on"} with ${adapter.name}` }, () => further(adapter, unfinished)),
        !adapter.imported && adapter.steps > 0 && button("Curve", { icon: "train", "aria-label": `Curve of ${adapter.name}` }, () => showCurve(adapter)),
        deletion(adapter))));
}

function deletion(adapter) {
  return button(`Delete ${adapter.name}`, { icon: "trash", quiet: true }, async () => {
    if (!(await confirmed(`Delete the adapter ${adapter.name}?`, "Delete"))) return;
    await attempt(async () => {
      const gone = await ask(`adapters/${part(adapter.name)}`, { method: "DELETE" });
      toast(`${adapter.name} is deleted`, { undo: undo(gone.undo) });
    });
  });
}

const MEANING = { "CLIP-T": "follows the prompt", cosine: "the same, unscaled", "CLIP-I": "alike, to CLIP", "DINO-I": "alike, to DINO", "CLIP-true": "as it should be, to CLIP", "DINO-true": "as it should be, to DINO" };

function scores({ evaluations, name }) {
  if (!evaluations.length) return null;
  const last = evaluations.at(-1);
  const metrics = Object.keys(last.with.means);
  const row = (title, measured) => h("tr", {}, h("th", { scope: "row" }, title), metrics.map((metric) => h("td", {}, measured.means[metric]?.toFixed(3) ?? "-")));
  return h("div", { class: "scores" },
    last.older !== null && h("p", { class: "chip stopped" }, `scored at step ${last.older}, not as it is now`),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Scores of ${name}` },
      h("table", {}, h("caption", { class: "offstage" }, `Scores of ${name}`),
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, `${last.with.pictures} ${last.with.pictures === 1 ? "picture" : "pictures"}`), metrics.map((metric) => h("th", { scope: "col", title: MEANING[metric] }, metric)))),
        h("tbody", {}, row("with the adapter", last.with), last.without && row("without", last.without)))),
    evaluations.filter(({ report }) => report).map(({ report, name: evaluation, time }) =>
      h("a", { class: "button", href: report, target: "_blank", rel: "noopener" }, icon("page"), evaluations.length > 1 ? `Report of ${when(time / 1000)}` : "Report", h("span", { class: "offstage" }, ` ${evaluation} of ${name}`))));
}

function exported({ name, layout, files }) {
  return h("details", { class: "exported" }, h("summary", {}, `Exported for ${layout}: ${name}`),
    h("ul", {}, files.map(({ file, url, bytes: size }) => h("li", {}, h("a", { href: url, download: file }, file), ` ${bytes(size)}`))));
}

function evaluate(adapter) {
  const limit = select([["2", "2 of each list, a first look"], ["8", "8 of each list"], ["", "all, as the paper does"]], "8");
  const [label, baseline] = checkbox("Draw and score the base alone too", true);
  const box = dialog(`Score ${adapter.name}`, {}, h("form", { onsubmit: (event) => {
    event.preventDefault();
    attempt(async () => {
      await post("jobs", { kind: "evaluate", adapter: adapter.name, limit: limit.value ? Number(limit.value) : null, baseline: baseline.checked, device: null });
      box.close();
      toast("It draws the built-in prompts and scores them");
    });
  } }, field("Prompts", limit), label, h("div", { class: "actions" }, h("button", { class: "primary" }, icon("score"), h("span", {}, "Score")))));
}

function exportTo(adapter) {
  const layouts = store.state.layouts.filter(({ name }) => adapter.layouts.includes(name));
  let to = layouts[0].name;
  const rank = number(32, { min: 1, max: 320, step: 1 });
  const rankField = field("Rank of the LoRA", rank, "Higher is nearer to what was trained, and larger.");
  const name = h("input", { pattern: "[A-Za-z0-9_\\-]*", placeholder: `eqdiff-${adapter.subject}`, autocomplete: "off" });
  rankField.hidden = to !== "webui";
  const box = dialog(`Export ${adapter.name}`, {}, h("form", { onsubmit: (event) => {
    event.preventDefault();
    attempt(async () => {
      await post("jobs", { kind: "export", adapter: adapter.name, to, rank: to === "webui" ? Number(rank.value) : null, name: name.value || null });
      box.close();
      toast("The files appear at the adapter");
    });
  } },
    choices("layout", "For which program", layouts.map(({ name, help }) => ({ value: name, title: name, text: help })), to, (value) => {
      to = value;
      rankField.hidden = to !== "webui";
    }),
    rankField, field("Name in prompts there", name, "Letters, digits, - and _."),
    h("div", { class: "actions" }, h("button", { class: "primary" }, icon("export"), h("span", {}, "Export")))));
}

function further(adapter, unfinished) {
  const steps = number(unfinished ? adapter.of : adapter.of + Math.max(20, Math.round(adapter.of / 2)), { min: adapter.steps + 1, step: 1, required: true });
  const box = dialog(`Train ${adapter.name} on`, {}, h("form", { onsubmit: (event) => {
    event.preventDefault();
    attempt(async () => {
      await post("jobs", { kind: "further", adapter: adapter.name, steps: Number(steps.value), memory: null, device: null });
      box.close();
      location.hash = "#/train";
    });
  } }, field("Steps in all", steps, `${adapter.steps} are taken. It goes on as if it had never stopped.`),
    h("div", { class: "actions" }, h("button", { class: "primary" }, icon("play"), h("span", {}, "Go on")))));
}

async function showCurve(adapter) {
  const points = await attempt(() => ask(`adapters/${part(adapter.name)}/losses`));
  if (!points) return;
  const plot = h("div", { class: "plot" });
  dialog(`Losses of ${adapter.name}`, { wide: true }, plot);
  curve(plot, points, points.at(-1)?.[0]);
}
