// Drawing: what is asked for, and the gallery.

import { attempt, button, checkbox, field, h, icon, number, select, toast } from "./parts.js";
import { adapterOf, on, store } from "./server.js";
import { DIAL, dial } from "./dial.js";
import { ALONE, gallery } from "./gallery.js";
import { order } from "./jobs.js";

/** What stands for the subject. */
const SUBJECT = "S*";

/** Ways to say it that show style and likeness at once. */
const IDEAS = ["in van gogh style", "at the beach", "in outer space", "in a meadow", "as a watercolor painting", "on a wooden floor"];

/** What was typed last, as long as the page is open. */
const kept = { prompt: null, negative: "", adapter: null, seed: 0, lock: true, count: 4, steps: "", guidance: "", rescale: "", sampler: "", width: "", height: "", dial: {}, reference: "", compare: false, base: "" };

/** Draws with another adapter from now on. The photos of all are called alike, so the one that was chosen goes too. */
function turnTo(adapter) {
  if (adapter !== kept.adapter) Object.assign(kept, { adapter, reference: "" });
}

export function draw(view, argument, signal) {
  if (argument) turnTo(argument);
  const columns = h("div", { class: "columns draw" });
  const side = h("div", {});
  const pictures = h("section", { "aria-label": "Pictures", class: "gallery-place" });
  columns.append(side, pictures);
  view.append(h("h1", {}, "Draw"), columns);
  const usable = () => store.adapters.filter((adapter) => adapter.ready);
  let shown = null;
  const show = () => {
    const names = usable().map((adapter) => adapter.name).join("/");
    if (shown === names) return; // what is being typed stays
    shown = names;
    if (kept.adapter === null || (kept.adapter && !adapterOf(kept.adapter))) turnTo(usable()[0]?.name ?? "");
    side.replaceChildren(drawForm(usable()));
  };
  on("adapters", show, signal);
  show();
  gallery(pictures, signal, (picture) => {
    reuse(picture);
    shown = null;
    show();
    scrollTo({ top: 0 });
    toast("Prompt, seed and settings are taken over");
  });
}

/** Takes over all that a picture was made with. */
function reuse({ folder, prompt, negative, settings }) {
  const sampler = store.state.samplers.find(({ title }) => title === settings.Sampler);
  const [width, height] = (settings.Size ?? "x").split("x");
  if (folder === ALONE) {
    turnTo("");
    kept.base = settings.Model ?? "";
  } else if (adapterOf(folder)) {
    turnTo(folder);
  }
  Object.assign(kept, {
    prompt, negative, seed: Number(settings.Seed ?? 0), lock: true, steps: settings.Steps ?? "", guidance: settings["CFG scale"] ?? "",
    rescale: settings["CFG rescale"] ?? "", sampler: sampler?.name ?? "", width, height,
    dial: Object.fromEntries(DIAL.filter(({ setting }) => setting in settings).map(({ name, setting }) => [name, Number(settings[setting])])),
  });
}

function drawForm(adapters) {
  const adapter = () => adapterOf(kept.adapter);
  const form = h("form", { class: "card form" });
  const options = [...adapters.map(({ name, called }) => [name, `${name} (${called})`]), ["", "the base alone"]];
  const which = select(options, kept.adapter, { onchange: () => {
    turnTo(which.value);
    if (!typed) kept.prompt = null;
    const other = drawForm(adapters);
    form.replaceWith(other);
    other.querySelector("select").focus();
  } });
  const subject = adapter() ? adapter().called : "clock";
  const typed = kept.prompt !== null && kept.touched;
  kept.prompt ??= `${subject} in van gogh style`;
  const keep = (name, control) => {
    control.value = kept[name];
    control.addEventListener("input", () => (kept[name] = control.value));
    return control;
  };
  const prompt = keep("prompt", h("textarea", { rows: 3, spellcheck: "true", required: true, "aria-describedby": "prompt-hint" }));
  prompt.addEventListener("input", () => (kept.touched = true));
  const chips = h("div", { class: "chips" },
    adapter() && button(subject, { class: "token", "aria-label": `Put in ${subject}` }, () => insert(prompt, subject)),
    IDEAS.map((idea) => button(idea, { class: "idea" }, () => insert(prompt, idea))));
  const seed = keep("seed", number(0, { min: 0, step: 1 }));
  const lock = button("", { quiet: true }, () => {
    kept.lock = !kept.lock;
    showLock();
  });
  const showLock = () => {
    const text = kept.lock ? "The seed stays: draw another each time" : "Another seed each time: keep this one";
    lock.replaceChildren(icon(kept.lock ? "lock" : "unlock"));
    lock.title = text;
    lock.setAttribute("aria-label", text);
    lock.setAttribute("aria-pressed", String(kept.lock));
  };
  const dice = button("Draw lots for the seed", { icon: "dice", quiet: true }, () => roll());
  const roll = () => (seed.value = kept.seed = Math.floor(Math.random() * 2 ** 32));
  const known = adapter() ?? {};
  const samplers = [["", `as trained (${store.state.samplers.find(({ name }) => name === known.sampler)?.title ?? "DDIM"})`], ...store.state.samplers.map(({ name, title }) => [name, title])];
  const [compareLabel, compare] = checkbox("Draw the same without the adapter too", kept.compare, { onchange: () => (kept.compare = compare.checked) });
  const turns = DIAL.filter(({ name }) => adapter()?.dial.includes(name));
  const [main, ...finer] = turns;
  const value = (name) => (kept[name] === "" || kept[name] === undefined ? null : Number(kept[name]));

  form.append(...[
    field("With", which),
    h("div", { class: "field" }, h("label", { for: (prompt.id = "prompt") }, "What"), highlighted(prompt),
      h("p", { class: "hint", id: "prompt-hint" }, adapter() ? `${adapter().called} is your subject. One prompt a line.` : "One prompt a line.")),
    chips,
    h("div", { class: "grid" },
      field("Pictures of each", keep("count", number(4, { min: 1, max: 1000, step: 1 }))),
      h("div", { class: "field" }, h("label", { for: (seed.id = "seed") }, "Seed"), h("div", { class: "joined" }, seed, dice, lock))),
    main && dial(main, kept.dial),
    h("details", { open: kept.open, ontoggle: (event) => (kept.open = event.target.open) }, h("summary", {}, "More"),
      field("What they shall not show", keep("negative", h("input", { autocomplete: "off" }))),
      h("div", { class: "grid" },
        field("Sampler", keep("sampler", select(samplers, kept.sampler))),
        field("Steps", keep("steps", number("", { min: 1, max: 1000, step: 1, placeholder: known.sampling_steps ?? "" }))),
        field("Guidance", keep("guidance", number("", { min: 0, max: 100, step: 0.1, placeholder: known.guidance ?? "" })), "How closely it follows the words."),
        field("Guidance rescale", keep("rescale", number("", { min: 0, max: 1, step: 0.05, placeholder: known.guidance_rescale ?? 0 })), "Against burnt colours: 0.7."),
        field("Width", keep("width", number("", { min: 8, step: 8, placeholder: known.side ?? "" }))),
        field("Height", keep("height", number("", { min: 8, step: 8, placeholder: known.side ?? "" })))),
      !adapter() && field("Base", keep("base", h("input", { placeholder: "mini", autocomplete: "off" })), "mini, sd14, a folder, a file, or OWNER/NAME."),
      finer.map((turn) => dial(turn, kept.dial)),
      adapter()?.looks && referencePhotos(adapter())),
    adapter() && compareLabel,
    h("div", { class: "actions" }, h("button", { class: "primary" }, icon("draw"), h("span", {}, "Draw"))),
    !adapters.length && h("p", { class: "note" }, icon("warn"), h("span", {}, "Nothing is trained yet, so it draws with the base alone. ", h("a", { href: "#/train" }, "To training"))),
  ].filter(Boolean));
  showLock();
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      if (!kept.lock) roll();
      const size = value("width") || value("height") ? [value("width") ?? value("height"), value("height") ?? value("width")] : null;
      await order({
        kind: "draw", adapter: kept.adapter || null, base: kept.adapter ? null : kept.base.trim() || null,
        prompts: kept.prompt.split("\n"), negative: kept.negative, sampler: kept.sampler || null, steps: value("steps"),
        guidance: value("guidance"), rescale: value("rescale"), count: value("count") ?? 1, seed: value("seed") ?? 0, size,
        reference: kept.reference || null, dial: Object.fromEntries(turns.map(({ name }) => [name, kept.dial[name]])), compare: kept.compare, device: null,
      });
    });
  });
  return form;
}

/** Puts a text in where the cursor is, with spaces around it. */
function insert(area, text) {
  const { selectionStart: start, selectionEnd: end, value } = area;
  const before = start && !/\s$/.test(value.slice(0, start)) ? " " : "";
  const after = end < value.length && !/^\s/.test(value.slice(end)) ? " " : "";
  area.focus();
  area.setRangeText(before + text + after, start, end, "end");
  area.dispatchEvent(new Event("input"));
}

/** The prompt with what stands for the subject marked: a text field whose own text lies over the marked one. */
function highlighted(area) {
  const behind = h("div", { class: "behind", "aria-hidden": "true" });
  const show = () => {
    const parts = area.value.split(SUBJECT);
    behind.replaceChildren(...parts.flatMap((part, i) => (i ? [h("mark", {}, SUBJECT), part] : [part])), "\n");
    behind.scrollTop = area.scrollTop;
  };
  area.addEventListener("input", show);
  area.addEventListener("scroll", show);
  show();
  return h("div", { class: "marked" }, behind, area);
}

function referencePhotos({ photos }) {
  const choice = ({ file, url }, i) =>
    h("label", { class: "reference" },
      h("input", { type: "radio", name: "reference", value: file, ".checked": (kept.reference || photos[0].file) === file, onchange: () => (kept.reference = i ? file : "") }),
      h("img", { src: url, alt: `Photo ${i + 1}` }));
  return h("fieldset", { class: "references" }, h("legend", {}, "The photo that it looks at"), photos.map(choice));
}

