"""The front as an interactive page: one HTML file that needs no network and no server.

Every trial is a point; pointing at it, clicking it, or walking with the arrow keys shows its
architecture and metrics. The axes can be any two metrics, and the table sorts by any column.
"""

from __future__ import annotations

import html
import json
import math
from pathlib import Path
from typing import Any

from configs.atomic import write_atomically
from experiments.reporting.colours import colours_of, ink_on
from experiments.reporting.plots import LABELS, front_axes
from search.trials import SearchResult
from search_space import ChoiceSpace


def front_html(result: SearchResult, space: ChoiceSpace, path: Path) -> Path:
    """Write the page. Whatever the texts contain, nothing in them is run or shown as markup."""
    before, after = TEMPLATE.split("@DATA@")
    before = before.replace("@TITLE@", html.escape(result.study_name))
    write_atomically(path, before + _script_safe(_data(result, space)) + after)
    return path


def _script_safe(data: Any) -> str:
    """JSON that can stand in a script element: no ``</script>`` and no ``<!--`` in any string."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _data(result: SearchResult, space: ChoiceSpace) -> dict[str, Any]:
    places = {record.number: index for index, record in enumerate(result.front)}
    # Members of the front as they were measured last, the others as the search saw them.
    records = [
        result.front[places[record.number]] if record.number in places else record
        for record in result.trials
    ]
    found = {name for record in records for name in record.metrics}
    known = [name for name in LABELS if name in found]
    x, y = front_axes(result.objectives)
    return {
        "x": x,
        "y": y,
        "labels": LABELS,
        "metrics": known + sorted(found - set(known)),
        "objectives": result.objectives,
        "constraints": result.constraints,
        "stages": [layer.stage for layer in space.layers],
        "colours": {name: [fill, ink_on(fill)] for name, fill in colours_of(space).items()},
        "trials": [
            {
                "number": record.number,
                "front": places.get(record.number),
                "state": record.state,
                "message": record.message,
                "architecture": record.architecture,
                "metrics": {k: v for k, v in record.metrics.items() if math.isfinite(v)},
            }
            for record in records
        ],
    }


TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>@TITLE@: front</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1b1b; --soft: #666; --line: #e2e2e2;
  --front: #d55e00; --other: #8f8f8f; --panel: #f6f6f6; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #ececec; --soft: #a2a2a2;
  --line: #33373c; --front: #ff8a3c; --other: #9a9a9a; --panel: #1f2226; } }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.25rem 3rem; background: var(--paper);
  color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.25rem; margin: 0; } p { margin: .15rem 0 .8rem; color: var(--soft); }
label { margin-right: 1rem; white-space: nowrap; } select { font: inherit; }
main { display: grid; grid-template-columns: minmax(0, 3fr) minmax(16rem, 2fr); gap: 1.25rem;
  margin: .75rem 0 1.25rem; }
@media (max-width: 50rem) { main { grid-template-columns: 1fr; } }
svg { width: 100%; height: auto; border-radius: 6px; }
svg text { fill: var(--soft); font-size: 12px; }
.grid { stroke: var(--line); } .bound { stroke: var(--soft); stroke-dasharray: 5 4; }
.steps { fill: none; stroke: var(--front); stroke-width: 1.5; opacity: .6; }
.point { fill: var(--other); opacity: .75; cursor: pointer; }
.point.infeasible { fill: none; stroke: var(--other); stroke-width: 1.5; }
.point.front { fill: var(--front); opacity: 1; stroke: var(--paper); }
.point.chosen { stroke: var(--ink); stroke-width: 2.5; opacity: 1; }
svg .index { fill: var(--ink); pointer-events: none; text-anchor: end; }
#detail { background: var(--panel); border-radius: 6px; padding: .8rem 1rem; min-height: 14rem; }
#detail h2 { font-size: 1rem; margin: 0 0 .5rem; } dl { display: grid; margin: .8rem 0 0;
  grid-template-columns: auto 1fr; gap: .15rem 1rem; } dt { color: var(--soft); }
dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
.strip { display: flex; flex-wrap: wrap; gap: 2px; } .strip span { padding: .1rem .4rem;
  border-radius: 2px; font-size: .78rem; } .strip .stage { margin-left: 8px; }
td .strip { flex-wrap: nowrap; } td .strip span { padding: 0 .3rem; font-size: .7rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line);
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th:nth-child(3) { text-align: left; }
th button, td button { all: unset; cursor: pointer; font-weight: 600; }
td button { min-width: 1.5rem; color: var(--front); }
button:focus-visible, svg:focus-visible { outline: 2px solid var(--front); outline-offset: 2px; }
tr.chosen { background: var(--panel); } tbody tr { cursor: pointer; }
</style>
<h1>@TITLE@</h1>
<p id="summary"></p>
<form>
<label>horizontal <select id="x"></select></label>
<label>vertical <select id="y"></select></label>
<label><input type="checkbox" id="all"> all trials in the table</label>
</form>
<main>
<svg id="plot" viewBox="0 0 640 420" tabindex="0" role="img"
 aria-label="All trials; the arrow keys move from one to the next"></svg>
<section id="detail" aria-live="polite"></section>
</main>
<div class="scroll"><table><thead><tr id="head"></tr></thead><tbody id="rows"></tbody></table></div>
<script type="application/json" id="data">@DATA@</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const front = data.trials.filter(t => t.front !== null).sort((a, b) => a.front - b.front);
const columns = ["front", "number", ...data.metrics];
let chosen = front[0] || data.trials[0], sortBy = "front", ascending = true;

function element(name, text, attributes = {}) {
  const svg = ["circle", "line", "text", "path", "g"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name)
                   : document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
const label = name => data.labels[name] || name;
const value = (trial, name) =>
  name === "front" || name === "number" ? trial[name] : trial.metrics[name] ?? null;
function show(number) {
  if (number === null) return "";
  for (const [size, unit, from] of [[1e9, "G", 1e9], [1e6, "M", 1e6], [1e3, "k", 1e4]])
    if (Math.abs(number) >= from) return (number / size).toPrecision(3) + unit;
  return String(Number(number.toPrecision(4)));
}
function strip(trial) {
  const made = element("div", undefined, {class: "strip"});
  trial.architecture.forEach((name, layer) => {
    const cell = element("span", name);
    const [fill, ink] = data.colours[name] || ["#888888", "#ffffff"];
    cell.style.background = fill;
    cell.style.color = ink;
    if (layer && data.stages[layer] !== data.stages[layer - 1]) cell.className = "stage";
    made.append(cell);
  });
  return made;
}
function ticks(low, high) {
  const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= rough), made = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) made.push(i * step);
  return made;
}
function scale(values, from, to) {
  let low = Math.min(...values), high = Math.max(...values);
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  low -= margin; high += margin;
  const place = v => from + (v - low) / (high - low) * (to - from);
  return {place, ticks: ticks(low, high)};
}
const drawn = () => {
  const [x, y] = [byId("x").value, byId("y").value];
  return data.trials.filter(t => value(t, x) !== null && value(t, y) !== null);
};
function draw() {
  const plot = byId("plot"), [xName, yName] = [byId("x").value, byId("y").value], points = drawn();
  plot.replaceChildren();
  if (!points.length) return;
  const x = scale(points.map(t => value(t, xName)), 62, 628);
  const y = scale(points.map(t => value(t, yName)), 372, 12);
  const line = (kind, x1, x2, y1, y2) =>
    plot.append(element("line", undefined, {class: kind, x1, x2, y1, y2}));
  for (const tick of x.ticks) {
    line("grid", x.place(tick), x.place(tick), 12, 372);
    plot.append(element("text", show(tick), {x: x.place(tick), y: 389, "text-anchor": "middle"}));
  }
  for (const tick of y.ticks) {
    line("grid", 62, 628, y.place(tick), y.place(tick));
    plot.append(element("text", show(tick), {x: 55, y: y.place(tick) + 4, "text-anchor": "end"}));
  }
  plot.append(element("text", label(xName), {x: 345, y: 412, "text-anchor": "middle"}),
    element("text", label(yName), {transform: "translate(14 192) rotate(-90)",
                                   "text-anchor": "middle"}));
  const bound = data.constraints[xName] === undefined ? NaN : x.place(data.constraints[xName]);
  if (bound >= 62 && bound <= 628) line("bound", bound, bound, 12, 372);
  const members = points.filter(t => t.front !== null)
    .sort((a, b) => value(a, xName) - value(b, xName));
  const objectives = Object.keys(data.objectives);
  if (objectives.length === 2 && objectives.includes(xName) && objectives.includes(yName)) {
    const least = data.objectives[xName] === "minimize";
    plot.append(element("path", undefined, {class: "steps", d: members.map((t, i) => {
      const [px, py] = [x.place(value(t, xName)), y.place(value(t, yName))];
      return i ? (least ? `H${px}V${py}` : `V${py}H${px}`) : `M${px} ${py}`;
    }).join("")}));
  }
  const order = t => t === chosen ? 2 : t.front !== null ? 1 : 0;
  for (const trial of [...points].sort((a, b) => order(a) - order(b))) {
    const kind = trial.front !== null ? "front" : trial.state;
    const point = element("circle", undefined, {
      class: `point ${kind} ${trial === chosen ? "chosen" : ""}`, r: kind === "front" ? 6.5 : 4.5,
      cx: x.place(value(trial, xName)), cy: y.place(value(trial, yName))});
    point.addEventListener("mouseenter", () => detail(trial));
    point.addEventListener("click", () => choose(trial));
    plot.append(point);
  }
  const placed = [];  // crowded numbers step aside
  for (const trial of [...members].reverse()) {
    let [px, py] = [x.place(value(trial, xName)) - 9, y.place(value(trial, yName)) - 3];
    while (placed.some(([a, b]) => Math.abs(px - a) < 14 && Math.abs(py - b) < 10)) px -= 14;
    placed.push([px, py]);
    plot.append(element("text", trial.front, {class: "index", x: px, y: py}));
  }
}
function detail(trial) {
  const panel = byId("detail"), list = element("dl");
  const place = trial.front === null ? trial.state : "on the front, index " + trial.front;
  panel.replaceChildren(element("h2", `Trial ${trial.number}: ${place}`), strip(trial), list);
  for (const name of data.metrics) if (value(trial, name) !== null)
    list.append(element("dt", label(name)), element("dd", show(value(trial, name))));
  if (trial.message) panel.append(element("p", trial.message));
}
function table() {
  const rows = byId("all").checked ? [...data.trials] : [...front], sign = ascending ? 1 : -1;
  rows.sort((a, b) => {
    const [p, q] = [value(a, sortBy), value(b, sortBy)];
    if (p === null || q === null) return (p === null) - (q === null);
    return sign * (p - q);
  });
  const heads = columns.map(name => {
    const cell = element("th", undefined, {scope: "col", "aria-sort":
      name !== sortBy ? "none" : ascending ? "ascending" : "descending"});
    const text = name === "number" ? "trial" : name === "front" ? "index" : label(name);
    const button = element("button", text + (name !== sortBy ? "" : ascending ? " ▲" : " ▼"));
    button.addEventListener("click", () => {
      ascending = name === sortBy ? !ascending : true;
      sortBy = name;
      table();
    });
    cell.append(button);
    return cell;
  });
  heads.splice(2, 0, element("th", "architecture", {scope: "col"}));
  byId("head").replaceChildren(...heads);
  byId("rows").replaceChildren(...rows.map(trial => {
    const row = element("tr", undefined, trial === chosen ? {class: "chosen"} : {});
    for (const name of columns) row.append(element("td", show(value(trial, name))));
    const name = "Show trial " + trial.number;
    const button = element("button", trial.front ?? "show", {"aria-label": name});
    row.firstChild.replaceChildren(button);
    const picture = element("td");
    picture.append(strip(trial));
    row.children[1].after(picture);
    row.addEventListener("click", () => choose(trial));
    return row;
  }));
}
function choose(trial) {
  const focused = document.activeElement && document.activeElement.getAttribute("aria-label");
  chosen = trial;
  draw(); table(); detail(trial);
  const again = [...document.querySelectorAll("td button")]
    .find(b => b.getAttribute("aria-label") === focused);
  if (again) again.focus();
}
for (const [id, name] of [["x", data.x], ["y", data.y]]) {
  for (const option of ["number", ...data.metrics]) {
    const text = option === "number" ? "trial" : label(option);
    byId(id).append(element("option", text, {value: option}));
  }
  byId(id).value = name;
  byId(id).addEventListener("change", draw);
}
byId("all").addEventListener("change", table);
byId("plot").addEventListener("mouseleave", () => chosen && detail(chosen));
byId("plot").addEventListener("keydown", event => {
  const step = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
  if (!step) return;
  event.preventDefault();
  const name = byId("x").value;
  const walk = drawn().sort((a, b) => value(a, name) - value(b, name));
  const at = walk.indexOf(chosen) + step;
  if (walk.length) choose(walk[Math.max(0, Math.min(walk.length - 1, at))]);
});
byId("summary").textContent = [
  `${data.trials.length} trials`, `${front.length} on the front`,
  ...Object.entries(data.objectives).map(([name, way]) => `${way} ${label(name)}`),
  ...Object.entries(data.constraints).map(([name, most]) => `${label(name)} ≤ ${show(most)}`),
].join(" · ");
draw(); table(); if (chosen) detail(chosen);
</script>
</html>
"""
