// ---- one trial: its figures, settings, curves and, where it failed, the cause
const picker = byId("trial-picker");
const panel = byId("trial-panel");
const spent = (trial) => [["Training", trial.seconds[0]], ["Evaluation", trial.seconds[1]]]
  .filter(([, value]) => value !== null).map(([name, value]) => [name, `${number(value, 1)} s`]);
const curve = (index) => {
  const line = data.training.lines.find((one) => one.trial === index);
  if (!line || !byId("trial-chart")) return;
  const names = data.training.columns.filter(([name]) => line[name]);
  const columns = state.printing || byId("trial-chart").clientWidth > 700 ? 3 : byId("trial-chart").clientWidth > 420 ? 2 : 1;
  const rows = Math.ceil(names.length / columns);
  const layout = { height: 40 + 170 * rows, showlegend: false, hovermode: "closest", grid: { rows, columns, pattern: "independent", xgap: 0.18, ygap: 0.32 },
    margin: { l: 48, r: 10, t: 26, b: 36 }, annotations: [] };
  const traces = names.map(([name, title], place) => {
    const at = place ? String(place + 1) : "";
    ["xaxis", "yaxis"].forEach((axis) => { layout[axis + at] = { gridcolor: "@grid", linecolor: "@line", zeroline: false, nticks: 5, tickfont: { size: 11 } }; });
    layout.annotations.push({ text: title, showarrow: false, xref: `x${at} domain`, yref: `y${at} domain`, x: 0, y: 1.02, xanchor: "left", yanchor: "bottom", font: { size: 12 } });
    return { ...step({ ...line, shade: 4 }, name, { xaxis: "x" + at, yaxis: "y" + at }), line: { color: `@series-${data.series[line.series].color}`, width: 2, dash: line.failed ? "dot" : "solid" } };
  });
  byId("trial-chart").style.height = layout.height + "px";
  plot(byId("trial-chart"), traces, layout);
};
const openTrial = (index) => {
  const trial = data.trials[index];
  if (!trial) return;
  picker.value = String(index);
  const figures = Object.entries(trial.values).map(([name, found]) => element("tr", {},
    element("th", { scope: "row", title: data.measures[name].about || null }, data.measures[name].title),
    element("td", {}, figure(name, [found[0], null, null, null])), element("td", {}, interval(found[1], found[2], digits(data.measures[name], found)) || MISSING),
    element("td", {}, found[3] === null ? MISSING : found[3].toLocaleString("en-US"))));
  const settings = [...Object.entries(trial.settings), ["seed", String(trial.seed)], ...(trial.sources ? [["source", trial.sources.join(", ")]] : []),
    ...(trial.steps === null ? [] : [["steps", number(trial.steps, 0)]]), ...spent(trial),
    ...(trial.start[0] === null ? [] : [["Loss at step 0", `${number(trial.start[0], 6)}${trial.start[1] === null ? "" : ` (a policy equal to the reference: ${number(trial.start[1], 6)})`}`]]),
    ["Folder", `trials/${trial.id}`]];
  const words = trial.done ? element("button", { type: "button", id: "trial-samples" }, "Read its responses") : null;
  if (words) words.addEventListener("click", () => { readOnly(index); });
  const failure = trial.done ? null : element("div", { class: "failure", role: "note" }, element("h3", {}, trial.status === "stopped" ? "Stopped early" : "Failed"), element("p", {}, trial.error),
    trial.traceback ? element("details", { open: true }, element("summary", {}, "Traceback"), element("pre", {}, trial.traceback)) : null);
  fill(panel, ...[
    element("h3", {}, swatch(trial.series), isolated(trial.label)), failure,
    element("div", { class: "halves" },
      figures.length ? element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Figures of the trial" }, element("table", {},
        element("thead", {}, element("tr", {}, ...["Figure", "Value", "95% interval", "n"].map((title, at) => element("th", { scope: "col", class: at ? null : "text" }, title)))),
        element("tbody", {}, ...figures))) : null,
      element("div", {}, element("h4", {}, "Settings"), facts(settings), words)),
    data.training.lines.some((one) => one.trial === index) ? element("div", { id: "trial-chart", class: "chart tall", role: "img", "aria-label": `Training curves of ${trial.label}` }) : null,
  ].filter(Boolean));
  redrawTrial();
};
const redrawTrial = () => outdated((one) => one.element === byId("trial-place"));
if (picker) {
  picker.addEventListener("change", () => choose(Number(picker.value), false));
  addChart(byId("trial-place"), () => curve(Number(picker.value)));
  on("trial", openTrial);
}
