"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
const front = data.trials.filter(t => t.front !== null).sort((a, b) => a.front - b.front);
const columns = ["front", "number", ...data.metrics];
let chosen = front[0] || data.trials[0], sortBy = "front", ascending = true;

function element(name, text, attributes = {}) {
  const svg = ["circle", "rect", "line", "text", "path", "g"].includes(name);
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
function frequent(trial) {
  const counts = new Map();
  for (const name of trial.architecture) counts.set(name, (counts.get(name) || 0) + 1);
  return [...counts].reduce((a, b) => b[1] > a[1] ? b : a)[0];
}
function copied(text) {  // a command, and a button that copies it
  const made = element("pre"), button = element("button", "copy", {type: "button"});
  button.addEventListener("click", () => navigator.clipboard.writeText(text)
    .then(() => { button.textContent = "copied"; }));
  made.append(element("code", text), button);
  return made;
}
function draw() {
  const plot = byId("plot"), [xName, yName] = [byId("x").value, byId("y").value], points = drawn();
  plot.replaceChildren();
  if (!points.length) return;
  const x = scale(points.map(t => value(t, xName)), 62, 628);
  const ends = t => t.front !== null && t.errors[yName] ? 1.96 * t.errors[yName] : 0;
  const y = scale(points.flatMap(t =>
    [value(t, yName) - ends(t), value(t, yName) + ends(t)]), 372, 12);
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
  for (const trial of points.filter(ends)) {
    const at = x.place(value(trial, xName));
    line("bar", at, at, ...[-1, 1].map(s => y.place(value(trial, yName) + s * ends(trial))));
  }
  const order = t => t === chosen ? 2 : t.front !== null ? 1 : 0;
  for (const trial of [...points].sort((a, b) => order(a) - order(b))) {
    const kind = trial.front !== null ? "front" : trial.state;
    const [px, py] = [x.place(value(trial, xName)), y.place(value(trial, yName))];
    const r = kind === "front" ? 6.5 : 4.5;
    const shape = trial.plain ? {x: px - r * .9, y: py - r * .9, width: r * 1.8, height: r * 1.8}
                              : {cx: px, cy: py, r};
    const point = element(trial.plain ? "rect" : "circle", undefined, {...shape,
      class: `point ${kind} ${trial === chosen ? "chosen" : ""}`});
    if (byId("families").checked) point.style.fill = (data.colours[frequent(trial)] || [])[0];
    point.addEventListener("mouseenter", () => {
      point.classList.add("hover");
      detail(trial);
    });
    point.addEventListener("mouseleave", () => point.classList.remove("hover"));
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
  if (trial.front !== null) panel.append(copied(data.retrain.replace("@", trial.front)));
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
    const button = element("button", trial.number, {"aria-label": name, type: "button"});
    row.children[1].replaceChildren(button);
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
byId("families").addEventListener("change", draw);
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
const states = new Set(data.trials.map(t => t.front !== null ? "front" : t.state));
byId("legend").textContent = [
  states.has("front") && "large and numbered: the front, with 95 % intervals where errors are known",
  data.trials.some(t => t.plain) && "squares: plain networks, one candidate throughout",
  states.has("stopped") && "rings: stopped early, trained alone for fewer epochs, or over a bound",
].filter(Boolean).join(" · ");
draw(); table(); if (chosen) detail(chosen);
