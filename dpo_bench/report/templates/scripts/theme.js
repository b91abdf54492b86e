// ---- colours: "@name" or "@name/opacity" stands for the custom property of that name
const COLOUR_KEYS = new Set(["color", "fillcolor", "gridcolor", "linecolor", "tickcolor"]);
let palette = {};
const colour = (token) => {
  if (typeof token !== "string" || token[0] !== "@") return token;
  const [name, opacity] = token.slice(1).split("/");
  palette[name] ||= getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
  const hex = palette[name];
  if (!opacity) return hex;
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
};
const coloured = (value, key) => {
  if (Array.isArray(value)) return COLOUR_KEYS.has(key) ? value.map(colour) : value.map((one) => (one && typeof one === "object" ? coloured(one) : one));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, coloured(v, k)]));
  }
  return COLOUR_KEYS.has(key) ? colour(value) : value;
};

// ---- the scheme: the system's, unless the reader picks one; the choice is kept where that works
const SCHEMES = ["auto", "light", "dark"];
const kept = () => { try { return localStorage.getItem("dpo-bench-scheme"); } catch { return null; } };
const setScheme = (scheme) => {
  if (scheme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = scheme;
  all("input[name=scheme]").forEach((one) => { one.checked = one.value === scheme; });
  try { localStorage.setItem("dpo-bench-scheme", scheme); } catch { /* not kept, then */ }
  recolour();
};
const recolour = () => { palette = {}; tell("draw"); };
all("input[name=scheme]").forEach((one) => one.addEventListener("change", () => setScheme(one.value)));
setScheme(SCHEMES.includes(kept()) ? kept() : "auto");
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
