"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = id => document.getElementById(id);
function element(name, ...content) {
  const made = document.createElement(name);
  made.append(...content);
  return made;
}
const row = (cell, values) => element("tr", ...values.map(value => element(cell, value)));
const fixed = (value, digits = 2) => value === null ? "–" : value.toFixed(digits);
function short(value) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return (value / size).toPrecision(3) + unit;
  return String(Number(value.toPrecision(4)));
}
function judged(label, how) {
  const [low, high] = how.interval;
  const interval = low === null ? "–" : `${fixed(low)} to ${fixed(high)}`;
  return row("td", [label, fixed(how.tau), interval, ...data.tops.map(k => fixed(how.regrets[k]))]);
}
const names = Object.keys(data.predictors);
byId("summary").textContent = data.summary + ".";
byId("explanation").textContent = data.explanation;
byId("notes").append(...data.notes.map(note => element("li", note)));
byId("predictors").append(
  row("th", ["predictor", "tau", "95 % interval", ...data.tops.map(k => `top ${k}: regret`)]),
  ...(data.ceiling ? [judged(data.ceiling_label, data.ceiling)] : []),
  ...names.map(name => judged(data.labels[name], data.predictors[name])));
byId("networks").append(
  row("th", ["architecture", "", "accuracy (%)", ...data.seeds.map(seed => `seed ${seed}`),
             ...names.map(name => data.labels[name])]),
  ...[...data.networks].sort((a, b) => b.accuracy - a.accuracy).map(network =>
    row("td", [strip(network), network.plain ? "plain" : "", fixed(network.accuracy),
               ...network.accuracies.map(value => fixed(value)),
               ...names.map(name => short(network.scores[name]))])));
