"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
  const byId = (id) => document.getElementById(id);
  const hidden = new Set();
  let printing = false;

  // ---- colours: "@name" or "@name/opacity" stands for the custom property of that name
  const COLOUR_KEYS = new Set(["color", "fillcolor", "gridcolor", "linecolor", "tickcolor"]);
  const colour = (token) => {
    if (typeof token !== "string" || token[0] !== "@") return token;
    const [name, opacity] = token.slice(1).split("/");
    const hex = getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
    if (!opacity) return hex;
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},${opacity})`;
  };
  const coloured = (value, key) => {
    if (Array.isArray(value)) return value.map((one) => coloured(one, key));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, k)]));
    }
    return COLOUR_KEYS.has(key) ? colour(value) : value;
  };

  // ---- charts
  const coarse = matchMedia("(pointer: coarse)").matches;
  const config = {
    displaylogo: false, responsive: true, scrollZoom: false,
    displayModeBar: coarse ? false : "hover",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
    toImageButtonOptions: { format: "svg", filename: "dpo_bench" },
  };
  const framed = (layout) => ({
    ...layout,
    ...(printing ? { width: 680, height: Math.min(layout.height || 400, 900) } : { autosize: true }),
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: coarse ? false : "zoom",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: "@ink" },
    hoverlabel: { bgcolor: colour("@panel"), bordercolor: colour("@line"), align: "left",
      font: { color: "@ink", size: 13 } },
  });
  const draw = (element, traces, layout) =>
    Plotly.react(element, coloured(traces), coloured(framed(layout)), config);
  const seen = (trace) => !trace.meta || !hidden.has(trace.meta.series);

  const drawChart = (element) => {
    const chart = data.charts[element.dataset.chart];
    draw(element, chart.data.map((trace) => ({ ...trace, visible: seen(trace) })), chart.layout);
  };

  // ---- training curves: a panel per loss, as many beside each other as the width allows
  const SHARED = new Set(["margin", "accuracy", "chosen_logratio", "rejected_logratio"]);
  const drawTraining = () => {
    const element = byId("chart-training");
    if (!element) return;
    const measure = byId("training-measure").value;
    const lines = data.training.lines.filter((line) => line[measure] && !hidden.has(line.series));
    const panels = [...new Set(lines.map((line) => line.series))];
    const width = printing ? 680 : element.clientWidth;
    const columns = Math.max(1, Math.min(panels.length, Math.floor(width / 250), 4));
    const rows = Math.max(1, Math.ceil(panels.length / columns));
    const height = 70 + rows * 215;
    const layout = {
      height, showlegend: false, hovermode: "closest", annotations: [],
      margin: { l: 48, r: 10, t: 28, b: 44 },
    };
    const gap = { x: columns > 1 ? 0.045 : 0, y: rows > 1 ? 70 / (height - 72) : 0 };
    const size = { x: (1 - gap.x * (columns - 1)) / columns, y: (1 - gap.y * (rows - 1)) / rows };
    const values = lines.flatMap((line) => line[measure]).filter((value) => value !== null);
    const pad = 0.05 * (Math.max(...values) - Math.min(...values) || 1);
    const range = SHARED.has(measure) && values.length
      ? [Math.min(...values) - pad, Math.max(...values) + pad] : undefined;
    panels.forEach((series, place) => {
      const [column, row] = [place % columns, Math.floor(place / columns)];
      const left = column * (size.x + gap.x);
      const top = 1 - row * (size.y + gap.y);
      const suffix = place ? String(place + 1) : "";
      const axis = { gridcolor: "@grid", linecolor: "@line", zeroline: false, automargin: false };
      const last = place + columns >= panels.length;
      layout["xaxis" + suffix] = { ...axis, domain: [left, left + size.x], anchor: "y" + suffix,
        title: last ? { text: "step", standoff: 4, font: { size: 13 } } : undefined, nticks: 5, rangemode: "tozero" };
      layout["yaxis" + suffix] = { ...axis, domain: [top - size.y, top], anchor: "x" + suffix,
        range, nticks: 6, showticklabels: column === 0 || !range };
      layout.annotations.push({ text: `<b>${data.training.panels[series]}</b>`, showarrow: false,
        xref: "paper", yref: "paper", x: left, y: top, xanchor: "left", yanchor: "bottom" });
    });
    const traces = lines.map((line) => {
      const place = panels.indexOf(line.series);
      const suffix = place ? String(place + 1) : "";
      return {
        type: "scatter", mode: line.failed ? "lines+markers" : "lines", x: line.step, y: line[measure],
        xaxis: "x" + suffix, yaxis: "y" + suffix, text: line.step.map(() => line.label),
        line: { color: "@rank-" + line.shade, width: 2, dash: line.failed ? "dot" : "solid" },
        marker: { symbol: "x", color: "@warning", opacity: 1, size: line.step.map((_, i) => (i === line.step.length - 1 ? 8 : 0)) },
        hovertemplate: "<b>%{text}</b><br>step %{x}: %{y:.4g}<extra></extra>",
      };
    });
    element.style.height = height + "px";
    draw(element, traces, layout);
  };

  const drawAll = () => {
    all("[data-chart]").forEach(drawChart);
    drawTraining();
  };

  // ---- losses: one button hides or shows a loss in every chart
  const toggle = (series) => {
    if (!hidden.delete(series)) hidden.add(series);
    all(".legend button").forEach((button) =>
      button.setAttribute("aria-pressed", String(!hidden.has(Number(button.dataset.series)))));
    drawAll();
  };
  all(".legend button").forEach((button) =>
    button.addEventListener("click", () => toggle(Number(button.dataset.series))));

  // ---- results table: sort by a heading, filter by words
  const table = byId("results-table");
  const compare = (left, right) => {
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
    const known = Array.from(body.rows).filter((row) => value(row) !== "");
    const missing = Array.from(body.rows).filter((row) => value(row) === "");
    known.sort((a, b) => (ascending ? 1 : -1) * compare(value(a), value(b)));
    body.append(...known, ...missing);
  };
  all("thead button", table).forEach((button, index) =>
    button.addEventListener("click", () => sortBy(index)));
  const filter = byId("filter");
  const applyFilter = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = Array.from(table.tBodies[0].rows);
    rows.forEach((row) => {
      const cells = Array.from(row.cells);
      const text = [...cells.slice(0, data.textColumns), cells[cells.length - 1]]
        .map((cell) => cell.textContent.toLowerCase()).join(" ");
      row.hidden = !words.every((word) => text.includes(word));
    });
    const shown = rows.filter((row) => !row.hidden).length;
    byId("filter-count").textContent = words.length ? `${shown} of ${rows.length} trials` : "";
  };
  filter.addEventListener("input", applyFilter);

  // ---- selectors
  const onChange = (id, action) => {
    const select = byId(id);
    if (!select) return;
    select.addEventListener("change", () => action(select.value));
    action(select.value); // browsers restore an earlier choice when a page is opened again
  };
  onChange("heat-measure", (name) => {
    all(".heat-view").forEach((view) => { view.hidden = view.dataset.view !== name; });
  });
  onChange("sample-prompt", (prompt) => {
    all(".sample").forEach((one) => { one.hidden = one.dataset.prompt !== prompt; });
  });
  onChange("sample-view", (view) => {
    all(".card[data-views]").forEach((card) => {
      card.hidden = !card.dataset.views.split(" ").includes(view);
    });
  });
  const training = byId("training-measure");
  if (training) training.addEventListener("change", drawTraining);

  // ---- colour scheme, width, print
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) { width = innerWidth; drawTraining(); }
  });
  const setPrinting = (state) => {
    printing = state;
    document.documentElement.classList.toggle("printing", state);
    all("details").forEach((one) => {
      if (state) { one.dataset.wasOpen = one.open; one.open = true; } else { one.open = one.dataset.wasOpen === "true"; }
    });
    drawAll();
  };
  addEventListener("beforeprint", () => setPrinting(true));
  addEventListener("afterprint", () => setPrinting(false));

  // the page's own controls work at once; plotly, the larger script, comes after this one
  addEventListener("DOMContentLoaded", () => {
    drawAll();
    document.documentElement.dataset.ready = "true";
  });
})();
