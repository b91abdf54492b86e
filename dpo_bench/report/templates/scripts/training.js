// ---- training curves: a panel per loss, as many beside each other as the width allows
const SHARED = new Set(["margin", "accuracy", "chosen_logratio", "rejected_logratio"]);
const step = (line, measure, panel) => ({
  type: "scatter", mode: line.failed ? "lines+markers" : "lines", x: line.step, y: line[measure],
  ...panel, text: line.step.map(() => plotlyText(data.trials[line.trial].label)),
  line: { color: "@rank-" + line.shade, width: 2, dash: line.failed ? "dot" : "solid" },
  marker: { symbol: "x", color: "@warning", opacity: 1, size: line.step.map((_, i) => (i === line.step.length - 1 ? 8 : 0)) },
  hovertemplate: "<b>%{text}</b><br>step %{x}: %{y:.4g}<extra></extra>",
});
const drawTraining = (where) => {
  const measure = byId("training-measure").value;
  const lines = data.training.lines.filter((line) => line[measure] && shown(line.series));
  const panels = [...new Set(lines.map((line) => line.series))];
  const width = state.printing ? 680 : where.clientWidth;
  const columns = Math.max(1, Math.min(panels.length, Math.floor(width / (panels.length > 8 ? 200 : 250)), 5));
  const rows = Math.max(1, Math.ceil(panels.length / columns));
  const height = 70 + rows * (panels.length > 8 ? 165 : 215);
  const layout = { height, showlegend: false, hovermode: "closest", annotations: [], margin: { l: 48, r: 10, t: 28, b: 44 } };
  const gap = { x: columns > 1 ? 0.045 : 0, y: rows > 1 ? 50 / (height - 72) : 0 };
  const size = { x: (1 - gap.x * (columns - 1)) / columns, y: (1 - gap.y * (rows - 1)) / rows };
  const values = lines.flatMap((line) => line[measure]).filter((value) => value !== null);
  const pad = 0.05 * (Math.max(...values) - Math.min(...values) || 1);
  const range = SHARED.has(measure) && values.length ? [Math.min(...values) - pad, Math.max(...values) + pad] : undefined;
  const suffix = (place) => (place ? String(place + 1) : "");
  panels.forEach((series, place) => {
    const [column, row] = [place % columns, Math.floor(place / columns)];
    const [left, top] = [column * (size.x + gap.x), 1 - row * (size.y + gap.y)];
    const axis = { gridcolor: "@grid", linecolor: "@line", zeroline: false, automargin: false, tickfont: { size: 11 } };
    const last = place + columns >= panels.length;
    layout["xaxis" + suffix(place)] = { ...axis, domain: [left, left + size.x], anchor: "y" + suffix(place), showticklabels: last,
      title: last ? { text: "step", standoff: 4, font: { size: 13 } } : undefined, nticks: 5, rangemode: "tozero" };
    layout["yaxis" + suffix(place)] = { ...axis, domain: [Math.max(top - size.y, 0), top], anchor: "x" + suffix(place), range, nticks: 6, showticklabels: column === 0 || !range };
    layout.annotations.push({ text: `<b>${plotlyText(clip(data.series[series].label, 24))}</b>`, showarrow: false,
      xref: "paper", yref: "paper", x: left, y: top, xanchor: "left", yanchor: "bottom" });
  });
  where.style.height = height + "px";
  plot(where, lines.map((line) => {
    const at = suffix(panels.indexOf(line.series));
    return step(line, measure, { xaxis: "x" + at, yaxis: "y" + at });
  }), layout);
};
