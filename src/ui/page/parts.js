// Small parts that all views are made of.

/** An element: attributes, listeners (`onclick`), properties (`.value`), then children. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) element[name.slice(1)] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Paths of a 24 x 24 grid, drawn with a round pen.
const ICONS = {
  photos: "M4 7h3l2-2h6l2 2h3v12H4zM12 16.5a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7",
  train: "M4 19V5M4 19h16M7 9c2 6 5 7 12 7",
  draw: "M4 20c3 0 5-1 5-3.5A2.5 2.5 0 0 0 4 16c0 2-1 3-2 3M9 15 19 4l2 2-10 11",
  runs: "M12 3 3 8l9 5 9-5zM3 12l9 5 9-5M3 16l9 5 9-5",
  jobs: "M9 6h12M9 12h12M9 18h12M4 6h.01M4 12h.01M4 18h.01",
  star: "m12 3 2.7 5.8 6.3.7-4.7 4.3 1.3 6.2-5.6-3.2L6.400 20l1.300-6.200L3 9.500l6.300-.7z",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v6M14 11v6",
  download: "M12 4v11m-5-5 5 5 5-5M4 20h16",
  dice: "M5 4h14a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1M8.500 8.500h.01M15.500 15.500h.01M12 12h.01M15.500 8.500h.01M8.500 15.500h.01",
  lock: "M6 11h12v9H6zM8 11V8a4 4 0 0 1 8 0v3",
  unlock: "M6 11h12v9H6zM8 11V8a4 4 0 0 1 7.500-2",
  plus: "M12 5v14M5 12h14",
  left: "m14 6-6 6 6 6",
  right: "m10 6 6 6-6 6",
  close: "m6 6 12 12M18 6 6 18",
  undo: "M4 9h10a6 6 0 0 1 0 12h-3M8 5 4 9l4 4",
  redo: "M20 9H10a6 6 0 0 0 0 12h3M16 5l4 4-4 4",
  brush: "M4 20c3 0 5-1 5-3.500A2.500 2.500 0 0 0 4 16c0 2-1 3-2 3M9 15 19 4l2 2-10 11",
  eraser: "M9 20h11M4 15 14 5l6 6-9 9H8zM9 10l6 6",
  invert: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  wand: "m4 20 11-11M15 4v3M19 8h3M18 5l2-2M13 7l-1-1M18 12l1 1",
  crop: "M7 2v15h15M2 7h15v15",
  play: "M7 5v14l12-7z",
  stop: "M6 6h12v12H6z",
  compare: "M12 3v18M4 6h5v12H4M20 6h-5v12h5",
  reuse: "M4 12a8 8 0 0 1 14-5l2 2M20 4v5h-5M20 12a8 8 0 0 1-14 5l-2-2M4 20v-5h5",
  score: "M5 20V10M12 20V4M19 20v-7",
  export: "M12 15V4m-5 5 5-5 5 5M4 15v5h16v-5",
  page: "M6 3h8l4 4v14H6zM14 3v4h4M9 12h6M9 16h6",
  eye: "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12M12 15a3 3 0 1 0 0-6 3 3 0 0 0 0 6",
  warn: "M12 3 2 20h20zM12 10v4M12 17h.01",
};

/** A picture of a word, which is said beside it or in the name of its button. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.setAttribute("class", `icon icon-${name}`);
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button with an icon; without a text its name is said to screen readers and shown on hovering. */
export function button(text, { icon: picture, quiet, ...attributes } = {}, onclick) {
  const name = quiet ? { "aria-label": text, title: text } : {};
  const look = [attributes.class, quiet && "quiet"].filter(Boolean).join(" ");
  const content = [picture && icon(picture), quiet ? null : h("span", {}, text)];
  return h("button", { type: "button", ...attributes, ...name, class: look || undefined, onclick }, content);
}

let fields = 0;

/** A control with its label, and a hint below it. */
export function field(label, control, hint) {
  control.id ||= `field-${(fields += 1)}`;
  const below = hint && h("p", { class: "hint", id: `${control.id}-hint` }, hint);
  if (below) control.setAttribute("aria-describedby", below.id);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, below);
}

export function number(value, attributes) {
  return h("input", { type: "number", inputmode: "decimal", ".value": value ?? "", ...attributes });
}

export function select(options, value, attributes) {
  const option = ([key, text]) => h("option", { value: key, ".selected": key === value }, text);
  return h("select", attributes, options.map(option));
}

export function checkbox(text, checked, attributes) {
  const input = h("input", { type: "checkbox", ".checked": checked, ...attributes });
  return [h("label", { class: "check" }, input, h("span", {}, text)), input];
}

/** One of several, each with a sentence. `change` is called with what was chosen. */
export function choices(name, legend, options, chosen, change) {
  const choice = ({ value, title, text }) =>
    h("label", { class: "choice" },
      h("input", { type: "radio", name, value, ".checked": value === chosen, onchange: () => change(value) }),
      h("span", { class: "choice-text" }, h("strong", {}, title), text && h("span", {}, text)));
  return h("fieldset", { class: "choices" }, h("legend", {}, legend), options.map(choice));
}

/** One of the bases that have a name of their own, or any other, which is typed. `chosen` has both: `base`, `other`. */
export function baseChoice(name, legend, options, chosen, change = () => {}) {
  const other = h("input", { placeholder: "stable-diffusion-v1-5/stable-diffusion-v1-5", autocomplete: "off", spellcheck: "false",
    ".value": chosen.other, oninput: () => (chosen.other = other.value) });
  const typed = field("Which base", other);
  const show = () => (typed.hidden = chosen.base !== "other");
  show();
  return [choices(name, legend, options, chosen.base, (value) => {
    chosen.base = value;
    show();
    change();
  }), typed];
}

/** What was chosen there, as commands take it. */
export function baseOf({ base, other }) {
  if (base === "other" && !other.trim()) throw new Error("Say which base.");
  return base === "other" ? other.trim() : base;
}

/** Where something can be seen and heard: in the last window that is open, or on the page. */
const front = () => [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;

/** Says something for some seconds. With `undo` it can be taken back, and stays until somebody has read it. */
export function toast(text, { undo, bad } = {}) {
  const box = h("div", { class: bad ? "toast bad" : "toast" }, h("span", {}, text));
  const close = () => box.remove();
  if (undo) {
    box.append(button("Undo", {}, () => {
      close();
      attempt(undo);
    }));
  }
  box.append(button("Close", { icon: "close", quiet: true }, close));
  const place = document.getElementById("toasts");
  if (place.parentElement !== front()) front().append(place);
  place.append(box);
  place.scrollTop = place.scrollHeight;
  if (!undo) setTimeout(close, bad ? 9000 : 5000);
}

/** Runs what may fail, and says why it did. */
export async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    toast(error.message, { bad: true });
    return undefined;
  }
}

/** A window over the page; the browser keeps the keyboard inside. Its cross and Escape close it, where there is `leave`
 * only if that says so. */
export function dialog(title, { wide, onclose, leave } = {}, ...children) {
  const heading = h("h2", { id: `dialog-${(fields += 1)}` }, title);
  const box = h("dialog", { class: wide ? "wide" : undefined, "aria-labelledby": heading.id });
  const close = async () => (!leave || (await leave())) && box.close();
  const head = h("header", {}, heading, button("Close", { icon: "close", quiet: true }, close));
  box.append(head, ...children);
  if (leave) {
    const instead = (event) => {
      event.preventDefault();
      close();
    };
    // "cancel" is a phone's way back too; browsers let it be held up only once in a row, so Escape is caught before
    box.addEventListener("cancel", instead);
    box.addEventListener("keydown", (event) => event.key === "Escape" && instead(event));
  }
  box.addEventListener("close", () => {
    front().append(document.getElementById("toasts"));
    box.remove();
    onclose?.();
  });
  document.body.append(box);
  box.showModal();
  return box;
}

/** Asks whether something is really meant. */
export function confirmed(question, yes) {
  return new Promise((resolve) => {
    let answer = false;
    const box = dialog(question, { onclose: () => resolve(answer) },
      h("div", { class: "actions" },
        button("Cancel", {}, () => box.close()),
        button(yes, { class: "primary" }, () => {
          answer = true;
          box.close();
        })));
  });
}

/** Seconds as people say them. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "";
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
}

/** A time as people say it. */
export function when(seconds) {
  if (!seconds) return "";
  const time = new Date(seconds * 1000);
  const today = new Date().toDateString() === time.toDateString();
  const clock = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? clock : `${time.toLocaleDateString([], { day: "numeric", month: "short" })}, ${clock}`;
}

export function bytes(count) {
  const units = ["bytes", "KB", "MB", "GB"];
  const power = Math.min(3, Math.floor(Math.log10(Math.max(count, 1)) / 3));
  return `${power ? (count / 1000 ** power).toFixed(1) : count} ${units[power]}`;
}

/** An empty place that says what would be there, and how it comes. */
export function empty(title, text, ...more) {
  return h("div", { class: "empty" }, h("h2", {}, title), h("p", {}, text), more);
}

/** Shows something anew; what had the focus has it again, as far as it is still there. */
export function anew(place, show) {
  const name = (element) => element.getAttribute("aria-label") ?? element.textContent;
  const holder = document.activeElement;
  const before = place.contains(holder) && holder !== place ? [holder.tagName, name(holder)] : null;
  show();
  if (!before || place.contains(holder)) return;
  const again = [...place.querySelectorAll(before[0])].find((element) => name(element) === before[1]);
  again?.focus({ preventScroll: true });
}

/** A bar with its value in words. */
export function progress(done, of, text) {
  const known = Number.isFinite(done) && of > 0;
  const bar = h("progress", { max: known ? of : undefined, ".value": known ? done : undefined, "aria-label": text });
  if (!known) bar.removeAttribute("value");
  return bar;
}
