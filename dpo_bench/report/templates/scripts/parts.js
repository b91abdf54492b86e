// ---- what is drawn late: a part is drawn when it comes near the window, text at the latest when
// the browser is idle, so that it can be searched and read out; drawn again once it is stale
const parts = []; // {element, draw, picture, near, stale}
const drawParts = (wanted) => {
  parts.filter((one) => one.stale && wanted(one) && (plotly || !one.picture)).forEach((one) => {
    one.stale = false;
    one.draw(one.element);
  });
};
const drawNear = () => drawParts((one) => one.near || state.printing);
const drawTexts = () => drawParts((one) => one.near || !one.picture);
const idle = (action) => (window.requestIdleCallback ? requestIdleCallback(action, { timeout: 400 }) : setTimeout(action, 200));
let asked = false;
const outdated = (which) => { // many changes, one drawing
  parts.filter(which).forEach((one) => { one.stale = true; });
  if (state.printing) { drawNear(); return; }
  if (asked) return;
  asked = true;
  queueMicrotask(() => { asked = false; drawNear(); });
  if (state.complete) idle(drawTexts);
};
on("draw", () => outdated((one) => one.picture));
const watcher = new IntersectionObserver((entries) => {
  entries.forEach((entry) => { parts.find((one) => one.element === entry.target).near = entry.isIntersecting; });
  drawNear();
}, { rootMargin: "400px" });
const addPart = (where, draw, picture) => {
  parts.push({ element: where, draw, picture, near: false, stale: true });
  watcher.observe(where);
};
const addChart = (where, draw) => addPart(where, draw, true);
const addText = (where, draw) => addPart(where, draw, false);
