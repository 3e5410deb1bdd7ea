// The window in which a mask is painted: mouse, pen, fingers or keyboard.

import { attempt, baseChoice, baseOf, button, confirmed, dialog, field, h, icon, select, toast } from "./parts.js";
import { ask, part, post } from "./server.js";
import { Brush } from "./brush.js";

const place = (kind, subject, photo) => `subjects/${part(subject.name)}/${kind}/${part(photo.file)}`;

async function loaded(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return image;
}

/** Ways to have masks proposed. */
const WAYS = [
  { value: "", title: "By colours", text: "At once. For plain grounds, or several photos before different ones." },
  { value: "mini", title: "By looking for it, with the built-in base", text: "It knows a small world of toys, drawn ones best." },
  { value: "sd14", title: "By looking for it, with Stable Diffusion 1.4", text: "For real photos. Downloads 4 GB the first time, and takes its time without a GPU." },
  { value: "other", title: "By looking for it, with another base", text: "A folder, a .safetensors file, or OWNER/NAME on the Hugging Face hub." },
];

/** Has masks proposed for all photos that have none. They are cut from all photos together, as a job. */
export function proposeAll(subject) {
  if (!subject.photos.some((photo) => !photo.error && !photo.mask)) {
    toast("All photos have masks: open one to have another proposed for it.");
    return;
  }
  const way = { base: "", other: "" };
  const box = dialog("Propose masks", {}, h("form", { onsubmit: (event) => {
    event.preventDefault();
    attempt(async () => {
      await post("jobs", { kind: "mask", subject: subject.name, base: baseOf(way) || null, device: null });
      box.close();
      toast("Masks come as they are cut: look at each, and correct it where it is wrong.");
    });
  } },
    baseChoice("way", "How", WAYS, way),
    h("div", { class: "actions" }, h("button", { class: "primary" }, icon("wand"), h("span", {}, "Propose")))));
}

export async function editMask(subject, photo) {
  const image = await attempt(() => loaded(`${photo.url}&side=1600`));
  if (!image) return;
  const known = photo.mask ? await loaded(photo.mask).catch(() => null) : null;
  // masks are as fine as training sees photos, which is not finer than this
  const shrink = Math.min(1, 1024 / Math.max(image.naturalWidth, image.naturalHeight));
  const size = (side) => Math.max(1, Math.round(side * shrink));
  const canvas = h("canvas", { class: "easel", tabindex: "0", role: "application", "aria-roledescription": "mask",
    "aria-label": `Mask of ${photo.file}. Arrow keys move the brush, space puts it down or lifts it.` });
  const brush = new Brush(canvas, image, size(image.naturalWidth), size(image.naturalHeight));
  if (known) brush.take(known);
  const leave = () => !brush.isPainted || confirmed("Leave without keeping what you have painted?", "Leave");
  const box = dialog(`Mask of ${photo.file.replace(/^\d{3}-/, "")}`, { wide: true, leave, onclose: () => watcher.disconnect() },
    tools(brush, subject, photo), canvas, keysHelp(),
    h("div", { class: "actions" },
      button("Cancel", {}, async () => (await leave()) && box.close()),
      button("Keep the mask", { class: "primary" }, () => keep())));
  box.classList.add("mask-window");
  const keep = () => attempt(async () => {
    if (brush.isEmpty) throw new Error("The mask is empty: paint over the subject, or have a mask proposed.");
    await ask(place("masks", subject, photo), { method: "PUT", body: await brush.png() });
    box.close();
    toast("The mask is kept");
  });
  const fit = () => {
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    canvas.height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    brush.show();
  };
  const watcher = new ResizeObserver(fit);
  watcher.observe(canvas);
  fit();
  byPointer(brush, canvas);
  byKeyboard(brush, canvas, box);
  canvas.focus();
  if (!known) propose(brush, subject, photo);
}

async function propose(brush, subject, photo) {
  const proposed = await attempt(() => loaded(`/api/${place("proposal", subject, photo)}`));
  if (!proposed) return;
  brush.remember();
  brush.take(proposed);
}

function tools(brush, subject, photo) {
  const tool = (text, picture, erases) =>
    button(text, { icon: picture, "aria-pressed": String(brush.erases === erases), "data-erases": String(erases) }, () => setEraser(brush, bar, erases));
  const size = h("input", { type: "range", min: 2, max: brush.largest, ".value": brush.size, oninput: () => {
    brush.size = Number(size.value);
    brush.show();
  } });
  const back = button("Undo", { icon: "undo", quiet: true }, () => brush.takeBack());
  const again = button("Redo", { icon: "redo", quiet: true }, () => brush.redo());
  const look = select([["colour", "In colour"], ["dark", "In the dark"], ["mask", "Mask alone"]], brush.look, { onchange: () => {
    brush.look = look.value;
    brush.show();
  } });
  brush.changed = () => {
    back.disabled = !brush.past.length;
    again.disabled = !brush.future.length;
    size.value = brush.size;
  };
  const bar = h("div", { class: "tools", role: "toolbar", "aria-label": "Tools" },
    tool("Brush", "brush", false), tool("Eraser", "eraser", true),
    field("Size", size), field("The rest", look),
    back, again,
    button("Propose", { icon: "wand" }, () => propose(brush, subject, photo)),
    button("Invert", { icon: "invert" }, () => brush.invert()),
    button("Clear", { icon: "trash", quiet: true }, () => brush.clear()),
    button("Zoom in", { icon: "plus", quiet: true }, () => brush.zoomBy(1.5)),
    button("Whole photo", { icon: "eye", quiet: true }, () => brush.zoomBy(1 / 16)));
  brush.changed();
  return bar;
}

function setEraser(brush, bar, erases) {
  brush.erases = erases;
  for (const tool of bar.querySelectorAll("[data-erases]")) tool.setAttribute("aria-pressed", String(tool.dataset.erases === String(erases)));
}

/** One finger, pen or mouse paints; two fingers zoom and move; so do the wheel and the middle button. */
function byPointer(brush, canvas) {
  const touching = new Map();
  let last = null, moved = null;
  const at = (event) => {
    const ratio = canvas.width / canvas.clientWidth;
    return [event.offsetX * ratio, event.offsetY * ratio];
  };
  const pinch = () => {
    const [a, b] = [...touching.values()];
    return { middle: [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], apart: Math.hypot(a[0] - b[0], a[1] - b[1]) };
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    touching.set(event.pointerId, at(event));
    if (touching.size === 2) {
      if (last) brush.takeBack(); // the first finger began to paint
      last = null;
      moved = pinch();
    } else if (event.button === 1) {
      moved = { middle: at(event) };
    } else if (event.button === 0) {
      brush.remember();
      last = brush.inMask(...at(event));
      brush.stroke(last, last);
    }
    event.preventDefault();
    canvas.focus({ preventScroll: true });
  });
  canvas.addEventListener("pointermove", (event) => {
    const place = at(event);
    brush.cursor = brush.inMask(...place);
    if (touching.has(event.pointerId)) touching.set(event.pointerId, place);
    if (moved) {
      const next = touching.size === 2 ? pinch() : { middle: place };
      if (moved.apart && next.apart) brush.zoomBy(next.apart / moved.apart, ...next.middle);
      brush.move((moved.middle[0] - next.middle[0]) / brush.scale, (moved.middle[1] - next.middle[1]) / brush.scale);
      moved = next;
    } else if (last) {
      for (const step of event.getCoalescedEvents?.().length ? event.getCoalescedEvents() : [event]) {
        const next = brush.inMask(...at(step));
        // a pen paints as wide as it is pressed
        brush.stroke(last, next, step.pointerType === "pen" && step.pressure ? brush.size * (0.4 + 0.8 * step.pressure) : brush.size);
        last = next;
      }
    } else {
      brush.show();
    }
  });
  const lift = (event) => {
    touching.delete(event.pointerId);
    if (touching.size < 2) moved = null;
    last = null;
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => {
    brush.cursor = null;
    brush.show();
  });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    brush.zoomBy(Math.exp(-event.deltaY / 400), ...at(event));
  }, { passive: false });
}

const KEYS = [
  ["Arrows", "move the brush (with Shift: pixel by pixel)"], ["Space", "puts it down and lifts it"], ["B, E", "brush, eraser"],
  ["[ ]", "smaller, larger"], ["I", "inverts"], ["Ctrl+Z, Ctrl+Y", "undo, redo"], ["+ - 0", "zoom in, out, whole photo"],
];

function keysHelp() {
  return h("details", { class: "hint" }, h("summary", {}, "Keys"),
    h("dl", { class: "pairs" }, KEYS.flatMap(([keys, what]) => [h("dt", {}, keys), h("dd", {}, what)])));
}

function byKeyboard(brush, canvas, box) {
  let down = false;
  const bar = box.querySelector(".tools");
  canvas.addEventListener("blur", () => (down = false));
  canvas.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    const arrow = { arrowleft: [-1, 0], arrowright: [1, 0], arrowup: [0, -1], arrowdown: [0, 1] }[key];
    brush.cursor ??= [brush.mask.width / 2, brush.mask.height / 2];
    if (arrow) {
      const step = event.shiftKey ? 1 : Math.max(2, brush.size / 4);
      const limit = (value, most) => Math.min(most, Math.max(0, value));
      const next = [limit(brush.cursor[0] + arrow[0] * step, brush.mask.width), limit(brush.cursor[1] + arrow[1] * step, brush.mask.height)];
      if (down) brush.stroke(brush.cursor, next);
      brush.cursor = next;
      brush.show();
    } else if (key === " ") {
      down = !down;
      if (down) {
        brush.remember();
        brush.stroke(brush.cursor, brush.cursor);
      }
    } else if ((event.ctrlKey || event.metaKey) && key === "z") {
      if (event.shiftKey) brush.redo();
      else brush.takeBack();
    } else if ((event.ctrlKey || event.metaKey) && key === "y") {
      brush.redo();
    } else if (event.ctrlKey || event.metaKey || event.altKey) {
      return;
    } else if (key === "b" || key === "e") {
      setEraser(brush, bar, key === "e");
    } else if (key === "[" || key === "]") {
      brush.resize(key === "]" ? 1.2 : 1 / 1.2);
    } else if (key === "i") {
      brush.invert();
    } else if (key === "+" || key === "=") {
      brush.zoomBy(1.3);
    } else if (key === "-") {
      brush.zoomBy(1 / 1.3);
    } else if (key === "0") {
      brush.zoomBy(1 / 16);
    } else {
      return;
    }
    event.preventDefault();
  });
}
