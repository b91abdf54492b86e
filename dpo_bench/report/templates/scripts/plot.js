// ---- pictures: plotly is unpacked once and draws them
const unpacked = (id) => {
  const packed = byId(id).textContent;
  const bytes = Uint8Array.from(atob(packed), (one) => one.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"))).text();
};
let plotly = null;
const loadPlotly = async () => {
  // The page's security policy names the digest of this text: no other would run.
  const script = document.createElement("script");
  script.textContent = await unpacked("plotly-packed");
  document.head.append(script);
  plotly = window.Plotly;
};

const coarse = matchMedia("(pointer: coarse)").matches;
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
const config = {
  displaylogo: false, responsive: true, scrollZoom: false, displayModeBar: coarse ? false : "hover",
  modeBarButtonsToRemove: ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
  toImageButtonOptions: { format: "svg", filename: "dpo_bench" },
};
const framed = (layout) => ({
  ...layout,
  ...(state.printing ? { width: layout.half ? 335 : 680, height: layout.half ? 300 : Math.min(layout.height || 400, 900) } : { autosize: true }),
  paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: coarse ? false : "zoom",
  font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: "@ink" },
  modebar: { bgcolor: "rgba(0,0,0,0)", color: color("@muted"), activecolor: color("@accent") },
  hoverlabel: { bgcolor: color("@panel"), bordercolor: color("@line"), align: "left", font: { color: "@ink", size: 13 } },
});
const plot = (where, traces, layout) => plotly.react(where, colored(traces), colored(framed(layout)), config);
