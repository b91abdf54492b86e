// ---- start: controls work at once, then the words, then plotly, which is the largest part
all("[data-explorer]").forEach((chart) => {
  addChart(chart, drawExplorer);
  ["x", "y"].forEach((way) => byId(`${chart.dataset.explorer}-${way}`).addEventListener("change", () => tell("draw")));
});
if (byId("chart-displacement")) addChart(byId("chart-displacement"), drawDisplacement);
if (byId("chart-training")) {
  addChart(byId("chart-training"), drawTraining);
  byId("training-measure").addEventListener("change", () => tell("draw"));
}
if (byId("intervals")) byId("intervals").addEventListener("change", () => tell("draw"));
on("focus", () => tell("draw"));
onChange("heat-measure", (control) => {
  all(".heat-view").forEach((view) => { view.hidden = view.dataset.view !== control.value; });
});
all("[data-copy]").forEach((button) => button.addEventListener("click", async () => {
  const text = byId(button.dataset.copy).textContent;
  try { await navigator.clipboard.writeText(text); announce("Copied"); button.textContent = "Copied"; }
  catch { getSelection().selectAllChildren(byId(button.dataset.copy)); announce("Selected: copy with the keyboard"); }
}));

let width = innerWidth;
addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; tell("draw"); } });
const setPrinting = (printing) => {
  if (state.printing === printing) return;
  state.printing = printing;
  palette = {};
  document.documentElement.classList.toggle("printing", printing);
  all("details").forEach((one) => {
    if (printing) { one.dataset.wasOpen = one.open; one.open = true; } else { one.open = one.dataset.wasOpen === "true"; }
  });
  tell("draw");
};
addEventListener("beforeprint", () => setPrinting(true));
addEventListener("afterprint", () => setPrinting(false));

const start = async () => {
  readLosses();
  showPoint(null);
  const asked = trialById.get(location.hash.replace("#trial-", ""));
  const first = asked ?? data.trials.findIndex((one) => one.done);
  if (picker) { if (asked === undefined) openTrial(Math.max(first, 0)); else choose(asked, false); }
  document.documentElement.dataset.usable = "true";
  if (typeof DecompressionStream === "undefined") {
    byId("too-old").hidden = false;
    return;
  }
  await loadPlotly();
  drawNear();
  document.documentElement.dataset.ready = "true";
  performance.mark("opened");
  await loadSamples();
  document.documentElement.dataset.complete = "true";
};
addEventListener("DOMContentLoaded", start);
