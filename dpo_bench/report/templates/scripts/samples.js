// ---- samples browser: prompts in pages, all policies or a selection beside each other, search
let samples = null;
let bank = new Map();
const sampleView = byId("sample-view");
const PAGE = 5;
let page = 0;
let only = null;
const VERBS = new Map([[1, "beats"], [0.5, "ties with"], [0, "loses to"]]);
const verdict = (share, whom) => { // the same words as report/verdicts.py
  if (share === null || share === undefined) return `no verdict against ${whom}`;
  return VERBS.has(share) ? `${VERBS.get(share)} ${whom}` : `wins ${Math.round(100 * share)}% against ${whom}`;
};
const verdicts = (own, at) => [`judge: ${verdict(own.win_reference[at], "the reference")}`, verdict(own.win_chosen[at], "the chosen response"),
  own.judge_agreed[at] !== null && own.judge_agreed[at] < 1 ? "the orders disagree" : ""];
const factsOf = (own, at) => [
  own.reward && own.reward[at] !== null ? `reward ${number(own.reward[at])}` : "",
  own.tokens && own.tokens[at] !== null ? `${own.tokens[at]} tokens` : "",
  own.kl && own.kl[at] !== null ? `KL ${number(own.kl[at], 2)} nats` : "",
  ...(own.judge_agreed ? verdicts(own, at)
    : [own.win_reference && own.win_reference[at] !== null ? `beats ${Math.round(100 * own.win_reference[at])}% of the reference's` : ""]),
  own.finished && !own.finished[at] ? "cut at the token limit" : "",
].filter(Boolean).join(", ");
const sampleOf = (index) => {
  const own = bank.get(index);
  if (!own) return null;
  const at = own.responses.findIndex((one) => one !== null);
  if (at < 0) return null;
  return { prompt: clip(samples.prompts[at], 160), place: samples.places[at], response: clip(own.responses[at], 360), facts: factsOf(own, at) };
};
const emphasised = (text, words) => { // what was searched for, marked without markup
  if (!words.length) return [text];
  const lower = text.toLowerCase();
  const parts = [];
  let from = 0;
  while (from < text.length) {
    const hits = words.map((word) => [lower.indexOf(word, from), word.length]).filter(([at]) => at >= 0).sort((a, b) => a[0] - b[0]);
    if (!hits.length || lower.length !== text.length) break;
    parts.push(text.slice(from, hits[0][0]), element("mark", {}, text.slice(hits[0][0], hits[0][0] + hits[0][1])));
    from = hits[0][0] + hits[0][1];
  }
  return [...parts, text.slice(from)];
};
const card = (title, own, at, words, series) => element("article", { class: "card", "data-series": series },
  element("h4", {}, series === undefined ? null : swatch(series), isolated(title)),
  element("p", { class: "muted" }, factsOf(own, at)),
  element("div", { class: "response", dir: "auto", tabindex: own.responses[at].length > 700 ? 0 : null }, ...emphasised(own.responses[at], words)));
const chosenTrials = () => (only !== null ? [only] : data.selections.find((one) => one.key === sampleView.value).trials);
const matching = (words, trials) => samples.prompts.map((prompt, at) => at).filter((at) => {
  if (!words.length) return true;
  const texts = [samples.prompts[at], samples.chosen.responses[at], samples.reference.responses[at], ...trials.map((one) => bank.get(one)?.responses[at])];
  return words.every((word) => texts.some((text) => text && text.toLowerCase().includes(word)));
});
const SORTS = {
  order: () => 0,
  best: (trials) => (a, b) => spread(trials, b) - spread(trials, a),
  low: (trials) => (a, b) => average(trials, a) - average(trials, b),
  high: (trials) => (a, b) => average(trials, b) - average(trials, a),
};
const scoresAt = (trials, at) => trials.map((one) => bank.get(one)).map((own) => (own.judge_agreed ? own.win_reference : own.reward)?.[at]).filter((value) => value !== null && value !== undefined);
const spread = (trials, at) => { const scores = scoresAt(trials, at); return scores.length ? Math.max(...scores) - Math.min(...scores) : -1; };
const average = (trials, at) => { const scores = scoresAt(trials, at); return scores.length ? mean(scores) : 0; };
const drawSamples = () => {
  if (!samples) return;
  const words = byId("sample-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const trials = chosenTrials().filter((one) => bank.has(one) && (only !== null || shown(data.trials[one].series)));
  const found = matching(words, trials);
  const order = byId("sample-order").value;
  if (order !== "order") found.sort(SORTS[order](trials));
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  page = Math.min(Math.max(page, 0), pages - 1);
  const blocks = found.slice(page * PAGE, (page + 1) * PAGE).map((at) => element("section", { class: "sample", "aria-label": `Prompt ${samples.places[at]}` },
    element("div", { class: "prompt" }, element("h3", {}, `Prompt ${samples.places[at]}`), element("div", { class: "response", dir: "auto" }, ...emphasised(samples.prompts[at], words))),
    element("div", { class: "cards" },
      ...[["dataset's chosen", samples.chosen], ["reference", samples.reference]].filter(([, own]) => own.responses[at] !== null).map(([title, own]) => card(title, own, at, words)),
      ...trials.filter((one) => bank.get(one).responses[at] !== null).map((one) => card(data.trials[one].label, bank.get(one), at, words, data.trials[one].series)))));
  fill(byId("samples-shown"), ...(blocks.length ? blocks : [element("p", { class: "muted" }, "No prompt or response holds these words.")]));
  byId("sample-pages").textContent = `Page ${page + 1} of ${pages}, ${found.length} of ${samples.prompts.length} prompts`;
  byId("sample-back").disabled = page === 0;
  byId("sample-next").disabled = page >= pages - 1;
  byId("sample-only").hidden = only === null;
  if (only !== null) byId("sample-only").textContent = `Only ${data.trials[only].label}: show a selection again`;
};
const readOnly = (index) => { only = index; page = 0; drawSamples(); byId("samples").scrollIntoView({ behavior: still ? "auto" : "smooth" }); };
const restart = () => { page = 0; drawSamples(); };
if (sampleView) {
  sampleView.addEventListener("change", () => { only = null; restart(); });
  ["sample-search", "sample-order"].forEach((id) => byId(id).addEventListener("input", restart));
  byId("sample-back").addEventListener("click", () => { page -= 1; drawSamples(); });
  byId("sample-next").addEventListener("click", () => { page += 1; drawSamples(); });
  byId("sample-only").addEventListener("click", () => { only = null; restart(); sampleView.focus(); });
  on("losses", drawSamples);
}
const loadSamples = async () => {
  if (!sampleView) return;
  samples = JSON.parse(await unpacked("samples-packed"));
  bank = new Map(samples.policies.map((one) => [one.trial, one]));
  drawSamples();
  showPoint(state.trial);
};
