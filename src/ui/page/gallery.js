// What was drawn: many at a glance, one in full, two side by side.

import { anew, attempt, button, dialog, empty, h, icon, select, toast, when } from "./parts.js";
import { DIAL } from "./dial.js";
import { ask, follow, on, part, runningJob, store, undo } from "./server.js";

const key = (picture) => `${picture.folder}/${picture.file}`;
const path = (picture) => `pictures/${part(picture.folder)}/${part(picture.file)}`;

/** The folder of what the base drew alone. */
export const ALONE = "without-adapter";
const NAMES = { [ALONE]: "the base alone", top: "drawn in the terminal" };
const named = (folder) => NAMES[folder] ?? folder;

/** Pictures that are in the page at once; more come with a button. */
const AT_ONCE = 120;

export function gallery(place, signal, reuse) {
  const filter = { folder: "", starred: false, most: AT_ONCE };
  let first = null; // of two that are compared
  const grid = h("ol", { class: "gallery" });
  const bar = h("div", { class: "gallery-bar" });
  const more = h("div", { class: "actions" });
  place.append(bar, grid, more);
  const chosen = () => store.pictures.filter((picture) => (!filter.folder || picture.folder === filter.folder) && (!filter.starred || picture.star));

  const showBar = () => {
    const folders = [...new Set(store.pictures.map((picture) => picture.folder))];
    if (filter.folder && !folders.includes(filter.folder)) filter.folder = "";
    const which = select([["", "All pictures"], ...folders.map((folder) => [folder, named(folder)])], filter.folder, { "aria-label": "Which pictures", onchange: () => {
      filter.folder = which.value;
      show();
    } });
    const query = new URLSearchParams({ ...(filter.folder && { folder: filter.folder }), ...(filter.starred && { starred: 1 }) });
    const count = chosen().length;
    bar.replaceChildren(which,
      button("Starred", { icon: "star", "aria-pressed": String(filter.starred) }, () => {
        filter.starred = !filter.starred;
        show();
      }),
      h("span", { class: "hint", role: "status" }, `${count} ${count === 1 ? "picture" : "pictures"}`),
      count ? h("a", { class: "button", href: `/api/pictures.zip?${query}`, download: "pictures.zip" }, icon("download"), "Download all") : "");
  };
  const show = () => {
    showBar();
    const pictures = chosen();
    const waiting = pending();
    if (!pictures.length && !waiting.length) {
      grid.replaceChildren(h("li", { class: "whole" }, empty(filter.starred ? "No stars yet" : "No pictures yet", filter.starred ? "Star those that you want to find again." : "Say what to draw: they appear here one by one.")));
    } else {
      grid.replaceChildren(...waiting, ...pictures.slice(0, filter.most).map(tile));
    }
    more.replaceChildren(pictures.length > filter.most ? button("Show more", {}, () => {
      filter.most += AT_ONCE;
      show();
    }) : "");
  };
  /** Places of the pictures that the running job has not drawn yet. */
  const pending = () => {
    const job = runningJob();
    if (job?.kind !== "draw") return [];
    const { progress, pictures } = follow(job.id);
    const share = progress?.work === "Drawing" && progress.of ? progress.done / progress.of : 0;
    return [h("li", { class: "pending", "aria-hidden": "true" }, h("div", { class: "pending-fill", ".style": `height: ${Math.round(100 * share)}%` }), h("span", {}, pictures.length ? `${pictures.length} done` : "drawing"))];
  };
  const tile = (picture) => {
    const text = `${picture.prompt || picture.file}, seed ${picture.settings.Seed ?? "?"}`;
    return h("li", { "data-key": key(picture), class: first === key(picture) ? "first" : undefined },
      h("button", { type: "button", class: "picture", "aria-label": `Show ${text}`, onclick: () => (first && first !== key(picture) ? pair(picture) : full(picture)) },
        h("img", { src: `${picture.url}&side=384`, alt: "", loading: "lazy" })),
      h("div", { class: "tile-actions" },
        button(`Compare ${text}`, { icon: "compare", quiet: true, "aria-pressed": String(first === key(picture)) }, () => choose(picture)),
        button(`Delete ${text}`, { icon: "trash", quiet: true }, () => remove(picture)),
        button(`${picture.star ? "Take the star from" : "Star"} ${text}`, { icon: "star", quiet: true, "aria-pressed": String(picture.star) }, () => star(picture))),
      h("p", { class: "caption" }, picture.prompt || picture.file));
  };
  const star = (picture) => attempt(() => ask(path(picture), { method: "PUT", json: { star: !picture.star } }));
  const remove = (picture) => attempt(async () => {
    const gone = await ask(path(picture), { method: "DELETE" });
    toast("The picture is deleted", { undo: undo(gone.undo) });
  });
  const choose = (picture) => {
    if (first && first !== key(picture)) return pair(picture);
    first = first ? null : key(picture);
    if (first) toast("Choose the picture to compare it with");
    show();
  };
  const pair = (second) => {
    const other = store.pictures.find((picture) => key(picture) === first);
    first = null;
    show();
    if (other) compare(other, second);
  };

  /** A picture with everything that made it. */
  const full = (picture) => {
    const pictures = chosen();
    const at = pictures.findIndex((other) => key(other) === key(picture));
    const box = dialog("Picture", { wide: true });
    const step = (by) => {
      const next = pictures[at + by];
      if (!next) return;
      box.close();
      full(next);
    };
    const partner = store.pictures.find((other) => key(other) !== key(picture) && isSame(other, picture));
    box.classList.add("picture-window");
    box.append(h("div", { class: "full" },
      h("div", { class: "stage" }, h("img", { src: picture.url, alt: picture.prompt || picture.file }),
        h("div", { class: "actions" },
          button("Before", { icon: "left", disabled: at <= 0 }, () => step(-1)),
          button("Next", { icon: "right", disabled: at + 1 >= pictures.length }, () => step(1)))),
      h("div", {},
        h("p", { class: "prompt" }, picture.prompt || picture.file),
        facts(picture),
        h("div", { class: "actions" },
          button(picture.star ? "Starred" : "Star", { icon: "star", "aria-pressed": String(picture.star) }, (event) => {
            picture.star = !picture.star;
            event.currentTarget.setAttribute("aria-pressed", String(picture.star));
            attempt(() => ask(path(picture), { method: "PUT", json: { star: picture.star } }));
          }),
          button("Reuse", { icon: "reuse" }, () => {
            box.close();
            reuse(picture);
          }),
          partner && button(partner.folder === ALONE ? "Compare without the adapter" : "Compare with its twin", { icon: "compare" }, () => {
            box.close();
            compare(picture, partner);
          }),
          !partner && button("Compare", { icon: "compare" }, () => {
            box.close();
            choose(picture);
          }),
          h("a", { class: "button", href: `${picture.url}&keep=1`, download: picture.file }, icon("download"), "Download"),
          button("Delete", { icon: "trash" }, () => {
            box.close();
            remove(picture);
          })))));
    box.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
  };

  on("pictures", () => anew(place, show), signal);
  on("jobs", () => {
    const waits = Boolean(pending().length);
    if (waits !== Boolean(grid.querySelector(".pending"))) anew(place, show);
  }, signal);
  on("line", ({ event }) => event?.event === "progress" && grid.querySelector(".pending")?.replaceWith(...pending()), signal);
  show();
}

/** Whether two pictures were asked for in the same words, with the same seed and settings, by different means. */
function isSame(a, b) {
  const means = ["Model", "Version", ...DIAL.map(({ setting }) => setting)];
  const asked = ({ prompt, negative, settings }) => JSON.stringify([prompt, negative, Object.entries(settings).filter(([name]) => !means.includes(name))]);
  return a.folder !== b.folder && asked(a) === asked(b);
}

function facts(picture) {
  const settings = Object.entries(picture.settings).filter(([name]) => name !== "Version");
  const all = [["With", named(picture.folder)], ["Not", picture.negative], ...settings, ["Drawn", when(picture.time / 1000)], ["File", picture.file]];
  return h("dl", { class: "pairs" }, all.filter(([, value]) => value).flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** Two pictures side by side, and in what they differ. */
function compare(a, b) {
  const side = (picture) => h("figure", {},
    h("img", { src: picture.url, alt: picture.prompt || picture.file }),
    h("figcaption", {}, h("strong", {}, named(picture.folder)), h("p", {}, picture.prompt)));
  const all = (picture) => ({ Prompt: picture.prompt, Not: picture.negative, ...picture.settings, With: named(picture.folder) });
  const [left, right] = [all(a), all(b)];
  const differing = [...new Set([...Object.keys(left), ...Object.keys(right)])].filter((name) => (left[name] ?? "") !== (right[name] ?? ""));
  const table = h("table", {}, h("caption", { class: "offstage" }, "In what they differ"),
    h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, "Left"), h("th", { scope: "col" }, "Right"))),
    h("tbody", {}, differing.map((name) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, left[name] || "-"), h("td", {}, right[name] || "-")))));
  dialog("Side by side", { wide: true }, h("div", { class: "pair" }, side(a), side(b)), differing.length ? h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "In what they differ" }, table) : "");
}
