// ---- results table: sort by a heading, filter by words, press a loss to open its trial
const table = byId("results-table");
const compareValues = (left, right) => {
  const [a, b] = [Number(left), Number(right)];
  return Number.isNaN(a) || Number.isNaN(b) ? left.localeCompare(right) : a - b;
};
const sortBy = (index) => {
  const heading = table.tHead.rows[0].cells[index];
  const ascending = heading.getAttribute("aria-sort") !== "ascending";
  all("th", table.tHead).forEach((one) => one.removeAttribute("aria-sort"));
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  const body = table.tBodies[0];
  const value = (row) => row.cells[index].dataset.value;
  const rows = Array.from(body.rows);
  const known = rows.filter((row) => value(row) !== "");
  known.sort((a, b) => (ascending ? 1 : -1) * compareValues(value(a), value(b)));
  body.append(...known, ...rows.filter((row) => value(row) === ""));
  announce(`Sorted by ${heading.textContent.trim()}, ${ascending ? "ascending" : "descending"}`);
};
all("thead button", table).forEach((button, index) => button.addEventListener("click", () => sortBy(index)));

// Words must all occur; "kl<3" or "win_rate>=.7" holds a figure against a number.
const CONDITION = /^([a-z_]+)(<=|>=|<|>|=)(-?\.?\d[\d.e+-]*)$/;
const HOLDS = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b };
const trialById = new Map(data.trials.map((one, index) => [one.id, index]));
const figureNamed = (trial, name) => {
  if (name === "strength" || name === "beta") return trial.strength;
  if (name === "seed") return trial.seed;
  return trial.values[name] ? trial.values[name][0] : null;
};
const textOf = new WeakMap();
const rowText = (row) => {
  if (!textOf.has(row)) {
    const cells = Array.from(row.cells);
    textOf.set(row, [...cells.slice(0, data.textColumns), cells[cells.length - 1]].map((cell) => cell.textContent.toLowerCase()).join(" "));
  }
  return textOf.get(row);
};
const applyFilter = () => {
  const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const tests = words.map((word) => {
    const found = CONDITION.exec(word);
    if (!found) return (row) => rowText(row).includes(word);
    return (row) => {
      const value = figureNamed(data.trials[trialById.get(row.dataset.trial)], found[1]);
      return value !== null && value !== undefined && HOLDS[found[2]](value, Number(found[3]));
    };
  });
  const onlyShown = byId("filter-shown").checked;
  const rows = Array.from(table.tBodies[0].rows);
  rows.forEach((row) => {
    const visible = !onlyShown || shown(data.trials[trialById.get(row.dataset.trial)].series);
    row.hidden = !visible || !tests.every((test) => test(row));
  });
  const count = rows.filter((row) => !row.hidden).length;
  byId("filter-count").textContent = count < rows.length || words.length ? `${count} of ${rows.length} trials` : "";
};
byId("filter").addEventListener("input", applyFilter);
byId("filter-shown").addEventListener("change", applyFilter);
on("losses", applyFilter);
table.tBodies[0].addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) choose(trialById.get(button.closest("tr").dataset.trial), true);
});
on("trial", (index) => all("tr.chosen", table).forEach((row) => row.classList.toggle("chosen", row.dataset.trial === data.trials[index].id)));
on("trial", (index) => { const row = byId("trial-" + data.trials[index].id); if (row) row.classList.add("chosen"); });
