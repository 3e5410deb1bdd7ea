// The losses of a training as a curve: each step thin, their running mean thick.

import { h } from "./parts.js";

const HEIGHT = 240, LEFT = 46, RIGHT = 18, TOP = 12, BOTTOM = 26;
const NS = "http://www.w3.org/2000/svg";

function s(tag, attributes, ...children) {
  const element = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Round numbers between two, about `count` of them. */
function ticks(low, high, count) {
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const first = Math.ceil(low / step) * step;
  return Array.from({ length: Math.max(0, Math.floor((high - first) / step + 1e-9) + 1) }, (_, i) => first + i * step);
}

/** A running mean that begins at the first value and forgets slowly. */
function smoothed(values) {
  const keep = Math.min(0.95, 1 - 4 / (values.length + 4));
  let mean = values[0];
  return values.map((value) => (mean = keep * mean + (1 - keep) * value));
}

const neat = (value) => String(Number(value.toPrecision(3)));

/** Puts the curve of `points` (step, losses by name) into `place`; `of` steps are the whole width. */
export function curve(place, points, of) {
  const names = [...new Set(points.flatMap(([, values]) => Object.keys(values)))];
  const chosen = names.includes(place.dataset.loss) ? place.dataset.loss : "total";
  const own = points.filter(([, values]) => Number.isFinite(values[chosen])).map(([step, values]) => [step, values[chosen]]);
  if (own.length < 1) {
    place.replaceChildren(h("p", { class: "hint" }, "The curve begins with the first step."));
    return;
  }
  const values = own.map(([, value]) => value);
  const means = smoothed(values);
  const width = Math.max(280, place.clientWidth); // letters keep their size on a phone
  const least = Math.min(...values), most = Math.max(...values), room = 0.08 * (most - least) || 0.1;
  // the scale begins at zero, unless all that changes would be a line at the top
  const low = least > most / 2 ? least - room : Math.min(0, least), high = most + room;
  const last = Math.max(of || 1, own.at(-1)[0]);
  const x = (step) => LEFT + (step / last) * (width - LEFT - RIGHT);
  const y = (value) => TOP + (1 - (value - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const path = (heights) => own.map(([step], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(heights[i]).toFixed(1)}`).join("");
  const rows = ticks(low, high, 4).map((value) => [
    s("line", { x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value), class: "grid" }),
    s("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, neat(value)),
  ]);
  const columns = ticks(0, last, 5).map((step) => s("text", { x: x(step), y: HEIGHT - 6, "text-anchor": "middle" }, neat(step)));
  const [lastStep] = own.at(-1);
  const label = `The loss ${chosen} fell or rose from ${neat(means[0])} to ${neat(means.at(-1))} in ${lastStep} steps`;
  const svg = s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label, class: "curve" },
    ...rows.flat(), ...columns,
    s("path", { d: path(values), class: "raw" }),
    s("path", { d: path(means), class: "mean" }),
    s("circle", { cx: x(lastStep), cy: y(means.at(-1)), r: 4, class: "mean-end" }));
  const caption = h("p", { class: "hint" }, `Step ${lastStep}: ${neat(values.at(-1))}, on average ${neat(means.at(-1))}`);
  const choose = h("select", { "aria-label": "Which loss", onchange: (event) => {
    place.dataset.loss = event.target.value;
    curve(place, points, of);
  } }, names.map((name) => h("option", { value: name, ".selected": name === chosen }, name)));
  const focused = place.contains(document.activeElement);
  place.replaceChildren(svg, h("div", { class: "row" }, caption, choose));
  if (focused) choose.focus();
}

/** Points of an adapter's table and of a job's log as one curve. */
export function joined(first, second) {
  const all = new Map(first.map((point) => [point[0], point]));
  second.forEach((point) => all.set(point[0], point));
  return [...all.values()].sort((a, b) => a[0] - b[0]);
}
