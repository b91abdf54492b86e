// ---- colors: "@name" or "@name/opacity" stands for the custom property of that name
const COLOR_KEYS = new Set(["color", "fillcolor", "gridcolor", "linecolor", "tickcolor"]);
let palette = {};
const color = (token) => {
  if (typeof token !== "string" || token[0] !== "@") return token;
  const [name, opacity] = token.slice(1).split("/");
  palette[name] ||= getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const hex = palette[name];
  if (!opacity) return hex;
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
};
const colored = (value, key) => {
  if (Array.isArray(value)) return COLOR_KEYS.has(key) ? value.map(color) : value.map((one) => (one && typeof one === "object" ? colored(one) : one));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, colored(v, k)]));
  }
  return COLOR_KEYS.has(key) ? color(value) : value;
};

// ---- the scheme: the system's, unless the reader picks one; the choice is kept where that works
const SCHEMES = ["auto", "light", "dark"];
const kept = () => { try { return localStorage.getItem("dpo-bench-scheme"); } catch { return null; } };
const setScheme = (scheme) => {
  if (scheme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = scheme;
  all("input[name=scheme]").forEach((one) => { one.checked = one.value === scheme; });
  try { localStorage.setItem("dpo-bench-scheme", scheme); } catch { /* not kept, then */ }
  recolor();
};
const recolor = () => { palette = {}; tell("draw"); };
all("input[name=scheme]").forEach((one) => one.addEventListener("change", () => setScheme(one.value)));
setScheme(SCHEMES.includes(kept()) ? kept() : "auto");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolor);
