// The dial between likeness and style.

import { button, h } from "./parts.js";

/** What can be turned, by what an adapter has of it, and what pictures call it in their settings. The first one leads. */
export const DIAL = [
  { name: "reference", setting: "Reference strength", title: "Likeness to the photo", less: "free in style", more: "alike" },
  { name: "low", setting: "S low", title: "Shapes and colours", less: "the prompt's", more: "the subject's" },
  { name: "high", setting: "S high", title: "Edges and texture", less: "the prompt's", more: "the subject's" },
];

/** A turn of the dial between likeness and style: from not at all over as it was trained, in the middle, to twice that. What
 * is turned is noted in `turned`. */
export function dial({ name, title, less, more }, turned) {
  const range = h("input", { type: "range", min: 0, max: 2, step: 0.05, ".value": turned[name] ?? 1, oninput: () => show() });
  const label = h("label", { for: (range.id = `dial-${name}`) }, title);
  const said = h("output", { for: range.id });
  const back = button(`${title}: as trained`, { icon: "undo", quiet: true }, () => {
    range.value = 1;
    show();
    range.focus();
  });
  const show = () => {
    const strength = Number(range.value);
    if (strength === 1) delete turned[name];
    else turned[name] = strength;
    said.textContent = strength === 1 ? "as trained" : strength === 0 ? "none" : `${Math.round(100 * strength)} %`;
    range.setAttribute("aria-valuetext", said.textContent);
    back.hidden = strength === 1;
  };
  show();
  return h("div", { class: "field dial" }, h("div", { class: "dial-head" }, label, said, back), range,
    h("div", { class: "dial-ends", "aria-hidden": "true" }, h("span", {}, less), h("span", {}, more)));
}
