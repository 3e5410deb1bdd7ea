// Subjects and their photos.

import { anew, attempt, button, confirmed, dialog, empty, field, h, icon, select, toast } from "./parts.js";
import { ask, on, part, post, refresh, store, undo } from "./server.js";
import { editMask, proposeAll } from "./mask.js";

/** Bytes of the largest photo that the server takes. */
const LARGEST = 64 * 2 ** 20;

export function photos(view, argument, signal) {
  if (argument) subjectView(view, argument, signal);
  else subjectList(view, signal);
}

const thumb = (photo, side) => `${photo.url}&side=${side}`;
const place = (subject, rest = "") => `subjects/${part(subject)}${rest}`;

function subjectList(view, signal) {
  const list = h("div", { class: "tiles" });
  const begin = button("New subject", { icon: "plus" }, () => newSubject());
  view.append(
    h("div", { class: "head" },
      h("div", {}, h("h1", {}, "Photos"),
        h("p", { class: "lead" }, "4 to 6 photos of one thing, person or pet, and what belongs to it in each.")),
      begin),
    list);
  const show = () => {
    begin.classList.toggle("primary", store.subjects.length > 0); // else the first step is below
    if (!store.subjects.length) {
      list.replaceChildren(empty("Whom or what shall it learn?",
        "Drop photos anywhere on this page, choose them, or begin with an example that the program brings along.",
        h("div", { class: "actions" },
          button("Choose photos", { icon: "plus", class: "primary" }, () => newSubject()),
          button("Take an example", { icon: "wand" }, () => newSubject({ example: true })))));
      return;
    }
    list.replaceChildren(...store.subjects.map((subject) =>
      h("a", { class: "card tile", href: `#/photos/${part(subject.name)}` },
        h("div", { class: "strip" }, subject.photos.slice(0, 4).map((photo) =>
          h("img", { src: photo.error ? undefined : thumb(photo, 240), alt: "", loading: "lazy" }))),
        h("h2", {}, subject.name),
        h("p", { class: "hint" }, `${subject.class || "no class word"}, ${count(subject.photos.length, "photo")}`),
        subject.problem && h("p", { class: "chip queued" }, subject.problem))));
  };
  on("subjects", () => anew(list, show), signal);
  dropHere(view, signal, (files) => newSubject({ files }));
  show();
}

const count = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

/** Files that are dropped or pasted anywhere on the page. */
function dropHere(view, signal, take) {
  const over = (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
    event.preventDefault();
    view.classList.add("dropping");
  };
  const off = () => view.classList.remove("dropping");
  addEventListener("dragover", over, { signal });
  addEventListener("dragleave", (event) => event.relatedTarget || off(), { signal });
  addEventListener("drop", (event) => {
    off();
    if (!event.dataTransfer?.files.length) return;
    event.preventDefault();
    take([...event.dataTransfer.files]);
  }, { signal });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) take(files);
  }, { signal });
}

function picker(take, attributes) {
  return h("input", { type: "file", accept: "image/*", multiple: true, hidden: true, ...attributes,
    onchange: (event) => {
      const files = [...event.target.files];
      event.target.value = "";
      if (files.length) take(files);
    } });
}

/** Asks what the subject is, and takes its photos in. */
function newSubject({ files = [], example = false } = {}) {
  const name = h("input", { required: true, maxlength: 60, autocomplete: "off" });
  const noun = h("input", { required: true, maxlength: 60, autocomplete: "off" });
  const examples = store.state.examples.map((name) => [name, name]);
  const which = select([["", "my own photos"], ...examples], example ? examples[0][0] : "");
  const chosen = h("p", { class: "hint" });
  const input = picker((more) => {
    files.push(...more);
    describe();
  });
  const describe = () => (chosen.textContent = files.length ? `${count(files.length, "photo")} chosen` : "You can add photos later too.");
  const own = h("div", { class: "field" },
    h("div", { class: "actions" }, button("Choose photos", { icon: "plus" }, () => input.click()), input), chosen);
  const fit = () => {
    own.hidden = Boolean(which.value);
    if (which.value) (name.value = freeName(which.value)), (noun.value = which.value);
  };
  which.addEventListener("change", fit);
  const form = h("form", { onsubmit: (event) => {
    event.preventDefault();
    attempt(async () => {
      const made = await post("subjects", { name: name.value, class: noun.value, example: which.value || null });
      box.close();
      location.hash = `#/photos/${part(made.name)}`;
      if (!which.value) await upload(made.name, files);
      await refresh("subjects");
    });
  } },
    field("Photos", which), own,
    field("Name", name, "For you: its folder is called so."),
    field("What is it?", noun, "An ordinary noun that the model knows, such as teapot, dog or backpack."),
    h("div", { class: "actions" }, h("button", { class: "primary" }, "Begin")));
  const box = dialog("New subject", {}, form);
  describe();
  fit();
  (which.value ? noun : name).focus();
}

function freeName(stem) {
  const taken = (name) => store.subjects.some((subject) => subject.name === name);
  let name = stem;
  for (let n = 2; taken(name); n += 1) name = `${stem}-${n}`;
  return name;
}

/** Sends photos one after another; one that cannot be used is told of, and the others come all the same. */
async function upload(subject, files) {
  for (const file of files) {
    await attempt(async () => {
      if (file.size > LARGEST) throw new Error(`${file.name} has ${Math.round(file.size / 2 ** 20)} MiB: at most ${LARGEST / 2 ** 20} are taken`);
      await ask(`${place(subject, "/photos")}?name=${part(file.name)}`, { method: "POST", body: file });
    });
  }
}

function subjectView(view, name, signal) {
  const grid = h("ol", { class: "photos" });
  const top = h("div", { class: "head" });
  const notes = h("div", { class: "notes" });
  const take = (files) => upload(name, files);
  const input = picker(take);
  const camera = picker(take, { capture: "environment" });
  view.append(h("p", {}, h("a", { class: "back", href: "#/photos" }, icon("left"), "All subjects")), top, notes, grid, input, camera);
  dropHere(view, signal, take);

  const show = () => {
    const subject = store.subjects.find((subject) => subject.name === name);
    if (!subject) {
      grid.replaceChildren();
      top.replaceChildren(h("h1", {}, name));
      return;
    }
    const touch = matchMedia("(pointer: coarse)").matches;
    top.replaceChildren(
      h("div", {}, h("h1", {}, subject.name),
        h("p", { class: "lead" }, "In prompts it is ", h("span", { class: "token" }, `S* ${subject.class}`), " ",
          button("Change the word", { class: "link" }, () => changeClass(subject)))),
      h("div", { class: "actions" },
        button("Add photos", { icon: "plus", class: subject.photos.length ? undefined : "primary" }, () => input.click()),
        touch && button("Take a photo", { icon: "photos" }, () => camera.click()),
        subject.photos.some((photo) => !photo.error) && button("Propose masks", { icon: "wand" }, () => proposeAll(subject)),
        subject.photos.length > 0 && !subject.problem && h("a", { class: "button primary", href: `#/train/${part(name)}` }, icon("train"), "Train"),
        button("Delete the subject", { icon: "trash", quiet: true }, () => removeSubject(subject))));
    notes.replaceChildren(...[
      subject.problem && h("p", { class: "note" }, icon("warn"), h("span", {}, subject.problem,
        subject.photos.length ? " A mask says what in the photo is the subject: let one be proposed, then correct it." : " Drop some here.")),
      ...subject.left_out.map((text) => h("p", { class: "note" }, icon("warn"), h("span", {}, text))),
      subject.photos.length > 0 && subject.photos.length < 4 && h("p", { class: "hint" }, "Fewer than 4 photos: it learns more from 4 to 6, from several sides and on several grounds."),
    ].filter(Boolean));
    grid.replaceChildren(...subject.photos.map((photo, i) => card(subject, photo, i)));
  };
  on("subjects", () => anew(view, show), signal);
  show();
}

function card(subject, photo, i) {
  const named = photo.file.replace(/^\d{3}-/, "");
  const last = subject.photos.length - 1;
  const open = () => editMask(subject, photo);
  const picture = photo.error
    ? h("div", { class: "broken" }, icon("warn"))
    : h("button", { class: "photo", type: "button", onclick: open, "aria-label": `${photo.mask ? "Correct" : "Paint"} the mask of ${named}` },
        h("img", { src: thumb(photo, 480), alt: "", loading: "lazy" }),
        photo.mask && h("img", { class: "shade", src: photo.mask, alt: "" }));
  return h("li", { class: "card", "data-file": photo.file },
    picture,
    h("div", { class: "photo-text" },
      h("strong", { title: photo.file }, named),
      h("p", { class: "hint" }, photo.error ? "" : `${photo.width} x ${photo.height}${photo.mask ? `, subject ${(100 * photo.coverage).toFixed(0)} %` : ""}`),
      i === 0 && h("p", { class: "chip done", title: "While drawing it looks at this photo, unless another is chosen" }, "looked at while drawing"),
      !photo.mask && !photo.error && h("p", { class: "chip queued" }, "no mask yet"),
      photo.error && h("p", { class: "trouble-text" }, photo.error),
      (photo.warnings ?? []).map((text) => h("p", { class: "warning" }, icon("warn"), h("span", {}, text)))),
    h("div", { class: "actions tight" },
      !photo.error && button(photo.mask ? "Correct" : "Paint", { icon: "brush", "aria-label": `${photo.mask ? "Correct" : "Paint"} the mask of ${named}` }, open),
      button(`Move ${named} forward`, { icon: "left", quiet: true, disabled: i === 0 }, () => move(subject, i, i - 1)),
      button(`Move ${named} back`, { icon: "right", quiet: true, disabled: i === last }, () => move(subject, i, i + 1)),
      !photo.error && button(`Crop ${named}`, { icon: "crop", quiet: true }, () => crop(subject, photo)),
      button(`Remove ${named}`, { icon: "trash", quiet: true }, () => attempt(async () => {
        const gone = await ask(place(subject.name, `/photos/${part(photo.file)}`), { method: "DELETE" });
        toast(`${named} is removed`, { undo: undo(gone.undo) });
      }))));
}

function move(subject, from, to) {
  const files = subject.photos.map((photo) => photo.file);
  files.splice(to, 0, ...files.splice(from, 1));
  return attempt(() => ask(place(subject.name, "/order"), { method: "PUT", json: { files } }));
}

function changeClass(subject) {
  const noun = h("input", { required: true, maxlength: 60, ".value": subject.class });
  const box = dialog("What is it?", {}, h("form", { onsubmit: (event) => {
    event.preventDefault();
    attempt(async () => {
      await ask(place(subject.name), { method: "PUT", json: { class: noun.value } });
      box.close();
    });
  } }, field("Class word", noun, "An ordinary noun that the model knows. Trainings that are done keep theirs."),
    h("div", { class: "actions" }, h("button", { class: "primary" }, "Keep"))));
  noun.select();
}

async function removeSubject(subject) {
  if (!(await confirmed(`Delete ${subject.name} with its photos and masks?`, "Delete"))) return;
  await attempt(async () => {
    const gone = await ask(place(subject.name), { method: "DELETE" });
    location.hash = "#/photos";
    toast(`${subject.name} is deleted; what was trained stays`, { undo: undo(gone.undo) });
  });
}

/** Cuts a part out of a photo: drag over it, or set the edges by number. */
function crop(subject, photo) {
  const part_ = { left: 0, top: 0, right: 100, bottom: 100 };
  const frame = h("div", { class: "crop-frame" });
  const edges = Object.keys(part_).map((edge) => {
    const input = h("input", { type: "number", min: 0, max: 100, step: 1, ".value": part_[edge], oninput: () => {
      part_[edge] = Math.min(100, Math.max(0, Number(input.value) || 0));
      show(false);
    } });
    return [edge, input];
  });
  const show = (numbers = true) => {
    frame.style.inset = `${part_.top}% ${100 - part_.right}% ${100 - part_.bottom}% ${part_.left}%`;
    if (numbers) edges.forEach(([edge, input]) => (input.value = Math.round(part_[edge])));
  };
  const image = h("img", { src: thumb(photo, 1024), alt: "", draggable: "false" });
  const area = h("div", { class: "crop" }, image, frame);
  area.style.width = `min(100%, ${(52 * photo.width) / photo.height}vh)`;
  const at = (event) => {
    const box = image.getBoundingClientRect();
    const share = (place, start, length) => Math.min(100, Math.max(0, (100 * (place - start)) / length));
    return [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)];
  };
  let start = null;
  area.addEventListener("pointerdown", (event) => {
    start = at(event);
    area.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  area.addEventListener("pointermove", (event) => {
    if (!start) return;
    const [x, y] = at(event);
    [part_.left, part_.right] = [Math.min(x, start[0]), Math.max(x, start[0])];
    [part_.top, part_.bottom] = [Math.min(y, start[1]), Math.max(y, start[1])];
    show();
  });
  area.addEventListener("pointerup", () => (start = null));
  const box = dialog("Crop", { wide: true },
    h("p", { class: "hint" }, "Drag over what stays. Photos are squeezed into squares: a square part keeps the proportions."),
    area,
    h("div", { class: "row" }, edges.map(([edge, input]) => field(`${edge[0].toUpperCase()}${edge.slice(1)} edge, %`, input))),
    h("div", { class: "actions" }, button("Cut", { icon: "crop", class: "primary" }, () => attempt(async () => {
      const { left, top, right, bottom } = part_;
      const json = { left: left / 100, top: top / 100, width: (right - left) / 100, height: (bottom - top) / 100 };
      const gone = await post(place(subject.name, `/crop/${part(photo.file)}`), json);
      box.close();
      toast("The photo is cut", { undo: undo(gone.undo) });
    }))));
  show();
}

