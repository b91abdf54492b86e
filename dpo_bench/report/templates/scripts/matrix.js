// ---- comparison matrix: loss by loss at one KL; a cell opens the difference
const matrix = byId("matrix");
const comparison = () => data.compared[Number((byId("matrix-measure") || { value: 0 }).value)];
const separation = (found) => (found[2] === null ? "not compared" : found[5] ? "separated" : "not separated");
const pairsAt = (at) => {
  const pairs = new Map();
  comparison().levels[at].pairs.forEach(([a, b, value, low, high, apart, ...words]) => {
    pairs.set(`${a} ${b}`, [a, b, value, low, high, apart, ...words]);
    pairs.set(`${b} ${a}`, value === null ? [b, a, null, null, null, false, "", ""] : [b, a, -value, -high, -low, apart, ...words]);
  });
  return pairs;
};
const strip = (found, half) => {
  const NS = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(NS, "svg");
  const at = (value) => 100 + (100 * value) / half;
  svg.setAttribute("viewBox", "0 0 200 16");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", found[5] ? "strip separated" : "strip");
  svg.setAttribute("aria-hidden", "true");
  const shape = (tag, attributes) => {
    const one = document.createElementNS(NS, tag);
    Object.entries(attributes).forEach(([name, value]) => one.setAttribute(name, value));
    svg.append(one);
  };
  shape("line", { class: "zero", x1: 100, x2: 100, y1: 0, y2: 16 });
  shape("line", { class: "reach", x1: at(found[3]), x2: at(found[4]), y1: 8, y2: 8 });
  shape("rect", { class: "value", x: at(found[2]) - 2.5, y: 3, width: 5, height: 10 });
  return svg;
};
const showDifference = (a, b) => {
  const levels = comparison().levels.map((one, at) => [one, pairsAt(at).get(`${a} ${b}`)]);
  const half = Math.max(...comparison().levels.flatMap((one) => one.pairs.flatMap((p) => (p[2] === null ? [] : [Math.abs(p[3]), Math.abs(p[4])])))) || 1;
  const [first, second] = [a, b].map((index) => data.series[index].label);
  const rows = levels.map(([one, found]) => element("tr", {},
    element("th", { scope: "row" }, `KL ${one.kl} nats`),
    element("td", {}, found[2] === null ? "not covered by both" : `${number(found[2])} ${interval(found[3], found[4])}`),
    element("td", { class: "wrap" }, found[2] === null ? MISSING : strip(found, half)),
    element("td", { class: "text" }, element("span", { class: found[5] ? "separated-text" : "muted" }, separation(found)),
      ...found.slice(6).filter(Boolean).map((words) => element("small", {}, words)))));
  fill(byId("difference"),
    element("h3", {}, swatch(a), isolated(first), " minus ", swatch(b), isolated(second)),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The difference at each KL" }, element("table", {},
      element("thead", {}, element("tr", {}, ...["At", `Difference in ${comparison().measure}`, `from ${number(-half)} to ${number(half)}`, "Verdict"]
        .map((title, index) => element("th", { scope: "col", class: index === 1 ? null : "text" }, title)))),
      element("tbody", {}, ...rows))));
};
const drawMatrix = (at) => {
  const found = comparison().levels[at];
  const pairs = pairsAt(at);
  const order = Object.keys(found.values).map(Number).filter(shown).sort((a, b) => found.values[b][0] - found.values[a][0]);
  const largest = Math.max(...found.pairs.map((one) => Math.abs(one[2] || 0))) || 1;
  const many = order.length > 14;
  matrix.classList.toggle("many", many);
  const head = element("tr", {}, element("th", { scope: "col", class: "text" }, "minus \u2192"),
    ...order.map((index) => element("th", { scope: "col", class: "turned" }, element("span", {}, swatch(index), isolated(clip(data.series[index].label, 22))))));
  const rows = order.map((a) => element("tr", {},
    element("th", { scope: "row", title: `${data.series[a].label}: ${number(found.values[a][0])} ${interval(found.values[a][1], found.values[a][2])}` },
      swatch(a), isolated(clip(data.series[a].label, 26)), many ? null : element("small", {}, `${number(found.values[a][0])} ${interval(found.values[a][1], found.values[a][2])}`)),
    ...order.map((b) => {
      if (a === b) return element("td", { class: "self", role: "gridcell" }, "");
      const pair = pairs.get(`${a} ${b}`);
      const kind = pair[2] === null ? "none" : !pair[5] ? "alike" : pair[2] > 0 ? "above" : "below";
      const sign = { none: "", alike: "\u00b7", above: "\u25b2", below: "\u25bc" }[kind];
      const label = pair[2] === null ? "not compared" : `${number(pair[2])} ${interval(pair[3], pair[4])}, ${separation(pair)}`;
      const cell = element("td", { class: kind, role: "gridcell", tabindex: -1, "data-pair": `${a} ${b}`,
        "aria-label": `${data.series[a].label} minus ${data.series[b].label}: ${label}`, style: `--share: ${Math.min(Math.abs(pair[2] || 0) / largest, 1).toFixed(2)}` },
      many || pair[2] === null ? sign : `${sign} ${number(pair[2])}`);
      cell.title = cell.getAttribute("aria-label");
      return cell;
    })));
  fill(matrix, element("thead", {}, head), element("tbody", {}, ...rows));
  const first = matrix.querySelector("td[data-pair]");
  if (first) first.tabIndex = 0;
  all("[data-level]").forEach((one) => { one.hidden = one.dataset.level !== String(at); });
  const chosen = String(data.compared.indexOf(comparison()));
  all("[data-compared]").forEach((one) => { one.hidden = one.dataset.compared !== chosen; });
  fill(byId("matrix-difference"), comparison().measure);
};
const openCell = (cell) => {
  all("td.chosen", matrix).forEach((one) => one.classList.remove("chosen"));
  cell.classList.add("chosen");
  showDifference(...cell.dataset.pair.split(" ").map(Number));
  announce(cell.getAttribute("aria-label"));
};
const moveTo = (cell) => {
  if (!cell || !cell.dataset.pair) return;
  all("td[tabindex='0']", matrix).forEach((one) => { one.tabIndex = -1; });
  cell.tabIndex = 0;
  cell.focus();
};
if (matrix) {
  const drawChosen = () => drawMatrix(Number(byId("matrix-level").value));
  addText(matrix, drawChosen);
  byId("matrix-level").addEventListener("change", drawChosen);
  if (byId("matrix-measure")) byId("matrix-measure").addEventListener("change", () => { fill(byId("difference")); drawChosen(); });
  on("losses", () => outdated((one) => one.element === matrix));
  matrix.addEventListener("click", (event) => {
    const cell = event.target.closest("td[data-pair]");
    if (cell) { moveTo(cell); openCell(cell); }
  });
  matrix.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td[data-pair]");
    if (!cell) return;
    const [row, column] = [cell.parentNode, cell.cellIndex];
    const next = (down, right) => { // the diagonal holds nothing: step over it
      let [r, c] = [row.rowIndex + down, column + right];
      if (r === c) { r += down; c += right; }
      return matrix.rows[r] && r > 0 ? matrix.rows[r].cells[c] : null;
    };
    const keys = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (keys[event.key]) { event.preventDefault(); moveTo(next(...keys[event.key])); }
    if (event.key === "Enter" || event.key === " ") { event.preventDefault(); openCell(cell); }
  });
}
