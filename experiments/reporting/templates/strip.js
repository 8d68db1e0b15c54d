// An architecture as coloured cells, for all pages; `data` and `element` are the page's own.
function strip(network) {
  const made = element("div");
  made.className = "strip";
  network.architecture.forEach((name, layer) => {
    const cell = element("span", name);
    const [fill, ink] = data.colours[name] || ["#888888", "#ffffff"];
    cell.style.background = fill;
    cell.style.color = ink;
    if (layer && data.stages[layer] !== data.stages[layer - 1]) cell.className = "stage";
    made.append(cell);
  });
  return made;
}
