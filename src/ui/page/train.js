// Training: what is asked for, and what runs.

import { attempt, baseChoice, baseOf, checkbox, choices, empty, field, h, icon, number, select } from "./parts.js";
import { ask, follow, on, part, store } from "./server.js";
import { curve, joined } from "./curve.js";
import { jobLine, order, progressOf } from "./jobs.js";

/** The bases that have a name; any other is typed. */
const BASES = [
  { value: "mini", title: "The built-in one", text: "Small and quick, 128 x 128 pixels: to see how it goes. It knows a small world of toys." },
  { value: "sd14", title: "Stable Diffusion 1.4", text: "The real one, 512 x 512 pixels. Downloads 4 GB the first time; wants a GPU or patience." },
  { value: "other", title: "Another one", text: "A folder, a .safetensors file, or OWNER/NAME on the Hugging Face hub." },
];

const PRESETS = {
  eqdiff: ["As published", "The method as its authors ran it. The one to begin with."],
  paper: ["By the paper's letter", "The text and equations where the authors' program differs from them."],
  a: ["A: Custom Diffusion", "The baseline, without any of the method's parts."],
  b: ["B: + reference attention", "Looks at a photo while drawing."],
  c: ["C: + its loss", "And is taught where to look."],
  d: ["D: + two embeddings", "One for coarse shapes, one for fine detail."],
  e: ["E: + masked loss", "Learns from inside the mask alone."],
  f: ["F: + masked diffusion", "All that the paper describes."],
  ti: ["Textual Inversion", "One new word; the model stays as it is."],
  dreambooth: ["DreamBooth", "The whole denoiser learns: much memory, a large file."],
  "custom-diffusion": ["Custom Diffusion", "As its authors published it."],
};

/** What was chosen last, as long as the page is open. */
const kept = { base: "mini", other: "", preset: "eqdiff", steps: "" };

export function train(view, argument, signal) {
  view.append(h("h1", {}, "Train"));
  const ready = store.subjects.filter((subject) => !subject.problem);
  const columns = h("div", { class: "columns" });
  view.append(columns);
  const form = h("div", {});
  const watch = h("section", { class: "watch", "aria-label": "The training that runs" });
  columns.append(form, watch);
  watchTraining(watch, signal);
  if (!store.subjects.length) {
    form.append(empty("Nothing to learn from yet", "First it needs photos of a subject.", h("a", { class: "button primary", href: "#/photos" }, "To the photos")));
    on("subjects", () => store.subjects.length && location.hash.startsWith("#/train") && form.replaceChildren(trainForm(argument, signal)), signal);
    return;
  }
  form.append(trainForm(argument || ready[0]?.name || store.subjects[0].name, signal));
}

function trainForm(chosen, signal) {
  const subject = select(store.subjects.map(({ name }) => [name, name]), chosen, { onchange: () => show() });
  const strip = h("div", { class: "strip" });
  const problem = h("p", { class: "note", hidden: true });
  const steps = number(kept.steps, { min: 1, max: 1000000, step: 1, oninput: () => (kept.steps = steps.value) });
  const stepsField = field("Steps", steps, "-");
  const previews = select([["0", "none"], ["3", "3"], ["5", "5"], ["10", "10"]], "5");
  const images = number("", { min: 0, max: 10000, step: 1, placeholder: "as the base needs" });
  const [cropLabel, crop] = checkbox("Cut a square around the subject where a photo is wide", false, { onchange: () => show() });
  const seed = number("", { min: 0, step: 1, placeholder: "0" });
  const memory = number("", { min: 0.5, step: 0.5, placeholder: "what is free" });
  const device = select([["", "where it is fastest"], ...store.state.devices.map((name) => [name, { cpu: "the processor", cuda: "the NVIDIA GPU", metal: "the Mac's GPU" }[name]])], "");
  const usual = () => store.state.steps[kept.base === "mini" ? "mini" : "other"][kept.preset];

  const show = () => {
    const known = store.subjects.find(({ name }) => name === subject.value);
    strip.replaceChildren(...(known?.photos ?? []).filter((photo) => !photo.error).slice(0, 6).map((photo) => h("img", { src: `${photo.url}&side=240`, alt: "" })));
    const idle = known?.lacks_masks_alone && !store.state.needs_masks.includes(kept.preset) && !crop.checked;
    problem.hidden = !known?.problem || idle;
    problem.replaceChildren(icon("warn"), h("span", {}, known?.problem ?? "", " ", h("a", { href: `#/photos/${part(subject.value)}` }, "To its photos")));
    steps.placeholder = usual();
    stepsField.querySelector(".hint").textContent = `${usual()} unless you say otherwise. More steps: more alike, less free.`;
  };
  const number_ = (input) => (input.value === "" ? null : Number(input.value));
  const preset_ = (name) => ({ value: name, title: PRESETS[name]?.[0] ?? name, text: PRESETS[name]?.[1] });
  const main = ["eqdiff", "paper"], ablations = store.state.presets.filter((name) => name.length === 1);
  const others = store.state.presets.filter((name) => !main.includes(name) && !ablations.includes(name));
  const choose = (value) => {
    kept.preset = value;
    show();
  };
  const form = h("form", { class: "card form", onsubmit: (event) => {
    event.preventDefault();
    attempt(async () => {
      await order({
        kind: "train", subject: subject.value, base: baseOf(kept), preset: kept.preset,
        steps: number_(steps) ?? usual(), class_images: number_(images), previews: Number(previews.value), crop: crop.checked,
        seed: number_(seed), memory: number_(memory), device: device.value || null,
      });
    });
  } },
    field("Subject", subject), strip, problem,
    baseChoice("base", "What shall learn it", BASES, kept, show),
    choices("preset", "How", main.map(preset_), kept.preset, choose),
    stepsField,
    h("details", { open: !main.includes(kept.preset) }, h("summary", {}, "More"),
      h("div", { class: "grid" },
        field("Previews", previews, "Pictures on the way; each takes as long as four drawings."),
        field("Class images", images, "Other things of the class, drawn once so that it forgets nothing. 0: none."),
        field("Seed", seed, "The same seed gives the same adapter."),
        field("Memory, GiB", memory, "With little, a step computes more twice."),
        field("Where it runs", device)),
      cropLabel,
      choices("preset", "Other methods", others.map(preset_), kept.preset, choose),
      choices("preset", "The paper's ablations", ablations.map(preset_), kept.preset, choose)),
    h("div", { class: "actions" }, h("button", { class: "primary" }, icon("play"), h("span", {}, "Train"))));
  on("subjects", show, signal);
  show();
  return form;
}

/** The training that runs, or else the last one. */
function watchTraining(place, signal) {
  let shown = null, table = [];
  const job = () => {
    const trainings = store.jobs.filter((job) => job.kind === "train");
    return trainings.find((job) => job.state === "running") ?? [...trainings].sort((a, b) => (b.began ?? 0) - (a.began ?? 0) || b.id - a.id)[0];
  };
  const head = h("div", {}), plot = h("div", { class: "plot" }), pictures = h("div", { class: "previews", role: "group", "aria-label": "Pictures on the way", tabindex: "0", hidden: true });
  const read = async (adapter) => {
    table = await ask(`adapters/${part(adapter)}/losses`).catch(() => []);
    progress({ job: shown });
  };
  const show = () => {
    const now = job();
    if (!now) {
      place.replaceChildren(empty("No training yet", "Its curve and its previews will be here."));
      return;
    }
    if (shown !== now.id) {
      shown = now.id;
      table = [];
      read(now.adapter);
    }
    const draw = now.state === "done" && h("a", { class: "button primary", href: `#/draw/${part(now.adapter)}` }, icon("draw"), "Draw with it");
    head.replaceChildren(...jobLine(now, { forget: false, first: draw }).filter(Boolean));
    place.classList.toggle("live", now.state === "running");
    place.replaceChildren(h("div", { class: "card" }, h("h2", { class: "offstage" }, "Training"), head, plot, pictures));
    progress({ job: now.id });
  };
  const progress = ({ job: id }) => {
    const now = job();
    if (!now || id !== now.id) return;
    const live = follow(id);
    head.querySelector(".job-progress")?.replaceChildren(...progressOf(now));
    const points = joined(table, live.points);
    curve(plot, points, live.progress?.work === "Training" ? live.progress.of : points.at(-1)?.[0]);
    const known = live.pictures.filter((picture) => picture.url.includes("/previews/")).reverse();
    pictures.hidden = !known.length;
    if (pictures.children.length !== known.length) {
      pictures.replaceChildren(...known.map(({ url, file }) => {
        const step = Number(file.replace(/\D/g, ""));
        return h("figure", {}, h("img", { src: url, alt: `Preview at step ${step}` }), h("figcaption", {}, `Step ${step}`));
      }));
    }
  };
  on("jobs", show, signal);
  on("line", progress, signal);
  show();
}
