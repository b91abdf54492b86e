// ---- the linked figures: any figure against any other, one mark per trial
const place = (name, value) => (data.measures[name].root ? Math.sqrt(Math.max(value, 0)) : value);
const reach = (name, found, sign) => {
  const end = sign > 0 ? found[2] : found[1];
  return end === null ? null : Math.abs(place(name, end) - place(name, found[0]));
};
const bars = (points, name, shade) => ({
  type: "data", symmetric: false, color: shade, thickness: 1.2, width: 0,
  array: points.map((one) => reach(name, one.values[name], 1)),
  arrayminus: points.map((one) => reach(name, one.values[name], -1)),
});
const hoverLines = (trial, names) => {
  const lines = names.map((name) => `${data.measures[name].title} ${figure(name, trial.values[name])}`);
  return [`<b>${plotlyText(trial.label)}</b>`, ...lines.map(plotlyText)].join("<br>");
};
const HOVER = "%{text}<extra></extra>";
const mean = (numbers) => numbers.reduce((sum, one) => sum + one, 0) / numbers.length;
const trialsOf = (series) => data.trials.filter((one) => one.done && one.series === series);

// A line joins the settings of a loss's curve (means over seeds) in their order; a mark is a trial.
const seriesTraces = (index, x, y, look = {}) => {
  const own = data.series[index];
  const points = trialsOf(index).filter((one) => one.values[x] && one.values[y]);
  if (!points.length) return [];
  const joined = points.filter((one) => one.setting !== null);
  const centers = [...new Set(joined.map((one) => one.setting))].map((setting) => joined.filter((one) => one.setting === setting));
  const dimmed = state.focus !== null && state.focus !== index;
  const shade = `@series-${own.color}`;
  const common = { meta: { series: index }, opacity: dimmed ? 0.12 : 1, visible: shown(index) };
  const axis = (name) => centers.map((group) => place(name, mean(group.map((one) => one.values[name][0]))));
  const errors = look.intervals !== false && byId("intervals").checked;
  return [
    { ...common, type: "scatter", mode: "lines", hoverinfo: "skip", x: axis(x), y: axis(y),
      line: { color: shade, width: state.focus === index ? 3.5 : 2, dash: look.dash || own.dash } },
    { ...common, type: "scatter", mode: "markers", hovertemplate: HOVER, customdata: points.map((one) => data.trials.indexOf(one)),
      x: points.map((one) => place(x, one.values[x][0])), y: points.map((one) => place(y, one.values[y][0])),
      text: points.map((one) => hoverLines(one, x === y ? [x] : [x, y])),
      marker: { color: shade, size: data.series.length > 12 ? 7 : 9, symbol: own.symbol + (look.open ? "-open" : ""), line: { color: look.open ? shade : "@ground", width: 1 } },
      ...(errors ? { error_x: bars(points, x, shade + "/0.5"), error_y: bars(points, y, shade + "/0.5") } : {}) },
  ];
};
// A trial's own way through training, where the sweep measured it.
const alongTraces = (x, y) => data.trials.filter((one) => one.along && one.along[x] && one.along[y]).map((one) => ({
  type: "scatter", mode: "lines+markers", meta: { series: one.series, along: true }, visible: shown(one.series),
  opacity: state.focus !== null && state.focus !== one.series ? 0.1 : 0.55, hovertemplate: HOVER,
  x: one.along[x].map((value) => (value === null ? null : place(x, value))), y: one.along[y].map((value) => (value === null ? null : place(y, value))),
  text: one.along.step.map((step) => `<b>${plotlyText(one.label)}</b><br>along training, step ${step}`),
  line: { color: `@series-${data.series[one.series].color}`, width: 1, dash: "dot" },
  marker: { color: `@series-${data.series[one.series].color}`, size: 4, symbol: "circle-open" },
}));

const optimum = () => {
  const { frontier, best } = data.reference;
  const reward = (low, high, value) => figure("reward", [value, low, high, null]);
  const traces = [];
  if (frontier.length) {
    const x = frontier.map((one) => place("kl", one[0]));
    traces.push(
      { type: "scatter", mode: "lines", fill: "toself", hoverinfo: "skip", x: [...x, ...x.slice().reverse()],
        y: [...frontier.map((one) => one[3]), ...frontier.map((one) => one[2]).reverse()], line: { width: 0 }, fillcolor: "@frontier/0.22" },
      { type: "scatter", mode: "lines", x, y: frontier.map((one) => one[1]), line: { color: "@frontier", width: 2.5 }, hovertemplate: HOVER,
        text: frontier.map((one) => `<b>optimal frontier</b><br>KL ${number(one[0], 2)} nats<br>Mean reward ${reward(one[2], one[3], one[1])}`) });
  }
  if (best.length) {
    traces.push({ type: "scatter", mode: "lines+markers", x: best.map((one) => place("kl", one[1])), y: best.map((one) => one[2]),
      line: { color: "@frontier", width: 1.3, dash: "dot" }, marker: { color: "@ground", size: 6, symbol: "circle", line: { color: "@frontier", width: 1.3 } },
      hovertemplate: HOVER, text: best.map((one) => `<b>best of ${one[0]} reference samples</b><br>KL ${number(one[1], 2)} nats<br>Mean reward ${reward(one[3], one[4], one[2])}`) });
  }
  return traces;
};
const star = (x, y) => {
  const own = data.reference.values;
  if (!own[x] || !own[y]) return [];
  return [{ type: "scatter", mode: "markers", x: [place(x, own[x][0])], y: [place(y, own[y][0])], cliponaxis: false, hovertemplate: HOVER,
    marker: { color: "@ink", size: 11, symbol: "star" }, text: [`<b>the reference</b><br>${[x, y].map((name) => plotlyText(`${data.measures[name].title} ${figure(name, own[name])}`)).join("<br>")}`] }];
};

const axisOf = (name) => {
  const measure = data.measures[name];
  const axis = { gridcolor: "@grid", linecolor: "@line", zeroline: false, ticks: "outside", tickcolor: "@line",
    title: { text: measure.axis + (measure.root ? ", \u221a scale" : ""), standoff: 8, font: { size: 14 } } };
  if (!measure.root) return axis;
  const end = Math.sqrt(measure.largest);
  return { ...axis, range: [-0.02 * end, 1.03 * end], tickmode: "array", tickvals: measure.ticks.map(Math.sqrt), ticktext: measure.ticks.map(String) };
};
const level = (name, way) => {
  const value = { win_rate: 0.5, chosen_logratio: 0, rejected_logratio: 0, margin: 0, length_controlled_win_rate: 0.5 }[name];
  if (value === undefined) return [];
  return [{ type: "line", [`${way}ref`]: `${way} domain`, [`${way}0`]: 0, [`${way}1`]: 1, [way === "x" ? "y0" : "x0"]: value, [way === "x" ? "y1" : "x1"]: value,
    layer: "below", line: { color: "@muted", width: 1, dash: "dash" } }];
};
const edge = (x, y) => {
  const { frontier } = data.reference;
  if (x !== "kl" || y !== "reward" || !frontier.length) return [];
  const [kl, , , high] = frontier[frontier.length - 1];
  const left = Math.sqrt(kl) < Math.sqrt(data.measures.kl.largest) / 2;
  return [{ x: Math.sqrt(kl), y: high, text: `optimum known to KL ${number(kl, 1)}`, showarrow: false, yshift: 3,
    xanchor: left ? "left" : "right", yanchor: "bottom", font: { size: 12, color: "@muted" } }];
};
const traceAll = (x, y) => data.series.flatMap((_, index) => seriesTraces(index, x, y));
const drawExplorer = (chart) => {
  const [x, y] = ["x", "y"].map((way) => byId(`${chart.dataset.explorer}-${way}`).value);
  const optimal = x === "kl" && y === "reward" ? optimum() : [];
  plot(chart, [...optimal, ...alongTraces(x, y), ...traceAll(x, y), ...star(x, y)], {
    half: true, xaxis: axisOf(x), yaxis: axisOf(y), showlegend: false, hovermode: "closest", uirevision: x + y,
    shapes: [...level(y, "x"), ...level(x, "y")], annotations: edge(x, y), margin: { l: 68, r: 14, t: 14, b: 52 },
  });
  listen(chart);
};
const drawDisplacement = (chart) => {
  const traces = data.series.flatMap((_, index) => [
    ...seriesTraces(index, "kl", "chosen_logratio"),
    ...seriesTraces(index, "kl", "rejected_logratio", { open: true, dash: "dot" }),
  ]);
  plot(chart, traces, {
    xaxis: axisOf("kl"), yaxis: { ...axisOf("chosen_logratio"), title: { text: "Log-ratio on held-out pairs (nats)", standoff: 8, font: { size: 14 } } },
    showlegend: false, hovermode: "closest", shapes: level("margin", "x"), margin: { l: 68, r: 14, t: 14, b: 52 },
    annotations: [{ x: 1, y: 0, xref: "x domain", text: "as likely as under the reference", showarrow: false, xanchor: "right", yanchor: "bottom", font: { size: 12, color: "@muted" } }],
  });
  listen(chart);
};
