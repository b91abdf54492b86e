// ---- what all parts share: the data, elements, numbers, the state and who listens to it
const data = JSON.parse(document.getElementById("report-data").textContent);
const MISSING = "\u2013";
const byId = (id) => document.getElementById(id);
const all = (selector, root = document) => Array.from(root.querySelectorAll(selector));
const state = { hidden: new Set(), focus: null, hover: null, trial: null, printing: false };

const listeners = {};
const on = (topic, action) => (listeners[topic] ||= []).push(action);
const tell = (topic, value) => (listeners[topic] || []).forEach((action) => action(value));

// Text from data enters the document here and nowhere else: as text, never as markup.
const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  });
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};
const isolated = (text) => element("bdi", {}, text);
const swatch = (index) => {
  const one = data.series[index];
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  Object.entries({ class: "swatch", width: 14, height: 14, viewBox: "-7 -7 14 14", "aria-hidden": "true" })
    .forEach(([name, value]) => svg.setAttribute(name, value));
  path.setAttribute("d", one.path);
  path.setAttribute("fill", `var(--series-${one.color})`);
  svg.append(path);
  return svg;
};
// plotly reads some HTML, %{...} and $mathematics$
const plotlyText = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;")
  .replace(/\{/g, "&#123;").replace(/\$/g, "&#36;");
const clip = (text, length) => (text.length > length ? text.slice(0, length - 1).trimEnd() + "\u2026" : text);

const formats = []; // a formatter takes much longer to make than to use
const fixed = (decimals) => (formats[decimals] ||= new Intl.NumberFormat("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals }));
const number = (value, decimals = 3) => {
  if (value === null || value === undefined) return MISSING;
  const tiny = value !== 0 && Math.abs(value) < 10 ** -decimals;
  const text = tiny ? value.toPrecision(1) : fixed(decimals).format(value);
  return (Number(text.replace(/,/g, "")) === 0 ? text.replace("-", "") : text).replace(/-/g, "\u2212");
};
const interval = (low, high, decimals = 3) =>
  (low === null || low === undefined || high === null || high === undefined ? "" : `[${number(low, decimals)}, ${number(high, decimals)}]`);
const digits = (measure, [, low, high]) => {
  if (low === null || high === null || high <= low) return measure.decimals;
  const needed = Math.ceil(-Math.log10((high - low) / 2));
  return Math.min(Math.max(measure.decimals, needed), measure.decimals + 2);
};
// "0.512 nats [0.480, 0.544], n = 256"
const figure = (name, found) => {
  const measure = data.measures[name];
  if (!found) return MISSING;
  const places = measure ? digits(measure, found) : 3;
  const unit = measure && measure.unit ? ` ${measure.unit}` : "";
  const brackets = interval(found[1], found[2], places);
  const n = found[3] === null || found[3] === undefined ? "" : `, n = ${found[3].toLocaleString("en-US")}`;
  return `${number(found[0], places)}${unit}${brackets ? ` ${brackets}` : ""}${n}`;
};
// Browsers keep what was chosen when a page is opened again: an action runs at once, too.
const onChange = (id, action) => {
  const control = byId(id);
  if (!control) return;
  control.addEventListener("change", () => action(control));
  action(control);
};
const announce = (text) => { byId("announcer").textContent = text; };
