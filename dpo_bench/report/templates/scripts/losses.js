// ---- losses: one list for all figures; a button hides a loss everywhere, pointing at it brings it out
const shown = (series) => !state.hidden.has(series);
const buttons = all("#losses button[data-series]");
const readLosses = () => {
  buttons.forEach((one) => one.setAttribute("aria-pressed", String(shown(Number(one.dataset.series)))));
  const count = buttons.filter((one) => shown(Number(one.dataset.series))).length;
  byId("losses-count").textContent = count === buttons.length ? "" : `${count} of ${buttons.length} shown`;
  tell("draw");
  tell("losses");
};
const setShown = (indices) => {
  state.hidden = new Set(data.series.map((_, index) => index).filter((index) => !indices.has(index)));
  readLosses();
};
buttons.forEach((one) => {
  const series = Number(one.dataset.series);
  one.addEventListener("click", () => {
    if (!state.hidden.delete(series)) state.hidden.add(series);
    readLosses();
  });
  one.addEventListener("dblclick", () => setShown(new Set([series])));
  const focus = (index) => () => { if (data.series.length > 6) { state.focus = index; tell("focus"); } };
  one.addEventListener("mouseenter", focus(series));
  one.addEventListener("focus", focus(series));
  one.addEventListener("mouseleave", focus(null));
  one.addEventListener("blur", focus(null));
});
all("[data-losses]").forEach((one) => one.addEventListener("click", () => {
  const every = data.series.map((_, index) => index);
  const kind = one.dataset.losses;
  if (kind === "all") setShown(new Set(every));
  else if (kind === "none") setShown(new Set());
  else setShown(new Set(every.filter((index) => data.series[index].family === kind)));
}));
