// ---- what links the figures: pointing at a trial marks it in all of them and shows its words
const axesOf = (chart) => (chart.dataset.explorer ? ["x", "y"].map((way) => byId(`${chart.dataset.explorer}-${way}`).value) : ["kl", "chosen_logratio"]);
// The ring lies over the picture: drawing the picture anew for it would take a hundred times as long.
const encircle = (chart) => {
  const ring = chart.querySelector(".ring") || chart.appendChild(element("div", { class: "ring", "aria-hidden": true }));
  const trial = data.trials[state.hover ?? state.trial];
  const [x, y] = axesOf(chart);
  const { xaxis, yaxis } = chart._fullLayout;
  const at = trial && trial.done && shown(trial.series) && trial.values[x] && trial.values[y]
    ? [xaxis.d2p(place(x, trial.values[x][0])), yaxis.d2p(place(y, trial.values[y][0]))] : null;
  ring.hidden = !at || at[0] < 0 || at[0] > xaxis._length || at[1] < 0 || at[1] > yaxis._length;
  if (!ring.hidden) ring.style.transform = `translate(${xaxis._offset + at[0]}px, ${yaxis._offset + at[1]}px)`;
};
const mark = () => all("[data-marks]").filter((chart) => chart._fullLayout).forEach(encircle);
const fill = (where, ...children) => where.replaceChildren(...children);
const facts = (pairs) => element("dl", { class: "facts" }, ...pairs.flatMap(([term, value]) =>
  [element("dt", {}, term), element("dd", {}, isolated(value))]));
const point = byId("point");
const showPoint = (index) => {
  if (!point) return;
  const trial = data.trials[index];
  if (!trial) {
    fill(point, element("p", { class: "muted" }, "Point at a mark, or move along a figure with the arrow keys, to see its trial and what it writes; press it to open the trial below."));
    return;
  }
  const names = ["reward", "win_rate", "kl", "preference_accuracy", "response_tokens"].filter((name) => trial.values[name]);
  const words = sampleOf(index);
  fill(point,
    element("div", {}, element("h3", {}, swatch(trial.series), isolated(trial.label)),
      facts(names.map((name) => [data.measures[name].title, figure(name, trial.values[name])]))),
    words ? element("div", { class: "words" },
      element("p", { class: "muted" }, `Prompt ${words.place}: `, isolated(words.prompt)),
      element("p", { dir: "auto" }, words.response),
      element("p", { class: "muted" }, words.facts)) : element("p", { class: "muted" }, "No response of this trial travels in the page."));
};
const point_at = (index) => {
  if (state.hover === index) return;
  state.hover = index;
  mark();
  showPoint(index ?? state.trial);
};
const choose = (index, scroll) => {
  state.trial = index;
  state.hover = null;
  mark();
  showPoint(index);
  tell("trial", index);
  if (scroll) byId("trial").scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
};

const listened = new WeakSet();
const listen = (chart) => {
  if (listened.has(chart)) return;
  listened.add(chart);
  encircle(chart);
  chart.on("plotly_afterplot", () => encircle(chart));
  chart.on("plotly_hover", ({ points }) => { const at = points[0].customdata; if (typeof at === "number") point_at(at); });
  chart.on("plotly_unhover", () => point_at(null));
  chart.on("plotly_click", ({ points }) => { const at = points[0].customdata; if (typeof at === "number") choose(at, false); });
};
// Keys: left and right walk through the visible trials along the x axis, Enter opens one.
const walk = (chart, step) => {
  const [x, y] = axesOf(chart);
  const order = data.trials.map((one, index) => [one, index])
    .filter(([one]) => one.done && shown(one.series) && one.values[x] && one.values[y])
    .sort(([a], [b]) => a.values[x][0] - b.values[x][0]).map(([, index]) => index);
  if (!order.length) return;
  const at = order.indexOf(state.hover ?? state.trial);
  const next = order[at < 0 ? (step > 0 ? 0 : order.length - 1) : (at + step + order.length) % order.length];
  point_at(next);
  const trial = data.trials[next];
  announce(`${trial.label}: ${[x, y].map((name) => `${data.measures[name].title} ${figure(name, trial.values[name])}`).join("; ")}`);
};
all("[data-marks]").forEach((chart) => chart.addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (step) { event.preventDefault(); walk(chart, step); }
  if (event.key === "Enter" && state.hover !== null) { event.preventDefault(); choose(state.hover, true); }
  if (event.key === "Escape") point_at(null);
}));
