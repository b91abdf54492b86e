// ---- what is drawn late: a chart is drawn when it comes near the window, and again once it is stale
const charts = []; // {element, draw, near, stale}
const drawNear = () => {
  charts.filter((one) => plotly && one.stale && (one.near || state.printing)).forEach((one) => {
    one.stale = false;
    one.draw(one.element);
  });
};
let asked = false;
const outdated = (which) => { // many changes, one drawing
  charts.filter(which).forEach((one) => { one.stale = true; });
  if (state.printing) { drawNear(); return; }
  if (asked) return;
  asked = true;
  queueMicrotask(() => { asked = false; drawNear(); });
};
on("draw", () => outdated(() => true));
const watcher = new IntersectionObserver((entries) => {
  entries.forEach((entry) => { charts.find((one) => one.element === entry.target).near = entry.isIntersecting; });
  drawNear();
}, { rootMargin: "400px" });
const addChart = (where, draw) => {
  charts.push({ element: where, draw, near: false, stale: true });
  watcher.observe(where);
};
