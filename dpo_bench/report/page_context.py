"""What the page's template fills in: its content in the order in which it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpo_bench.analysis.loss_curves import trial_label
from dpo_bench.analysis.metrics import CHOSEN, KL, REWARD, WIN_RATE, Metric, explored, ranking
from dpo_bench.report.families import loss_cards
from dpo_bench.report.page_samples import embedded_samples
from dpo_bench.report.samples import BEST, few_samples
from dpo_bench.report.sections.methods import appendix, citation
from dpo_bench.report.view import ReportView
from dpo_bench.wording import number

_CONTENTS = (
    ("explore", "Figures"),
    ("matched", "At the same KL"),
    ("heat", "Loss by strength"),
    ("results", "Every trial"),
    ("trial", "One trial"),
    ("displacement", "Displacement"),
    ("training", "Training"),
    ("samples", "Responses"),
    ("failed", "Failed trials"),
    ("methods", "Methods"),
    ("cite", "Cite"),
    ("rerun", "Run it again"),
)

_ROWS_SHOWN = 100
"""rows of a further table that the page shows: hundreds of pairs take time to open"""


def page_context(view: ReportView, data: Mapping[str, Any]) -> dict[str, Any]:
    """The template's values, from the view and from what `page_data` made of it."""
    results = view.results
    explorers = data["first"] if results.done else []
    samples = embedded_samples(results, view.series)
    measures = {measure.name: measure for measure in explored(results)}
    present = {
        "explore": bool(explorers),
        "heat": bool(view.heat_maps),
        "displacement": results.has_kl and results.has(CHOSEN.name),
        "training": bool(data["training"]["lines"]),
        "samples": samples is not None,
        "rerun": view.experiment is not None,
    }
    return {
        "name": results.name,
        "findings": view.findings,
        "setup": view.setup,
        "series": view.series,
        "families": _families(view),
        "many_seeds": len(results.seeds) > 1,
        "prompts_known": results.prompts_known,
        "contents": _contents(view, present),
        "further": view.further,
        "rows_shown": _ROWS_SHOWN,
        "no_reward": view.no_reward,
        "explorers": explorers,
        "axes": [(name, one.axis) for name, one in measures.items()],
        "captions": {name: f"{one.title}. {one.about}" for name, one in measures.items()},
        "figure_of": {name: "frontier" if name == REWARD.name else name for name in measures},
        "intervals": data["intervals"],
        "along": data["along"],
        "has_frontier": bool(results.frontier),
        "alternatives": _alternatives(view),
        **_matched_context(view),
        "heat_maps": [_heat_context(one) for one in view.heat_maps],
        "table": view.table,
        "seeds": view.seeds,
        "trial_labels": [
            (trial_label(one, trial, results.seeds), "" if trial.done else trial.status)
            for one in view.series
            for trial in one.trials
        ],
        "displacement": present["displacement"],
        "every": data["training"]["every"],
        "training": data["training"]["columns"] if data["training"]["lines"] else (),
        "samples": samples,
        "static_samples": _static_samples(view),
        "score_words": {REWARD.name: "reward", WIN_RATE.name: "judge's win rate"}.get(
            ranking(results).name, ""
        ),
        "selections": data["selections"],
        "failed": view.failed,
        "stopped": bool(view.results.stopped),
        "explored": any(one.explored for one in view.series),
        "paragraph": appendix(results, view.experiment, view.series, view.comparison),
        "notes": view.notes,
        "citation": citation(),
        "papers": [one for one in loss_cards(s.loss for s in view.series) if one.paper],
        "rerun": present["rerun"],
        "command": results.command,
        "provenance": view.provenance,
        "settings_file": view.settings_file,
    }


def _static_samples(view: ReportView) -> dict[str, Any]:
    """A few prompts with each loss's best policy, for readers without JavaScript."""
    best = next((one for one in view.selections if one.key == BEST), None)
    if best is None:
        return {"prompts": (), "title": ""}
    return {"prompts": few_samples(view.results, best), "title": best.title}


def _contents(view: ReportView, present: Mapping[str, bool]) -> list[tuple[str, str]]:
    known = [(key, title) for key, title in _CONTENTS if present.get(key, True)]
    place = [key for key, _ in known].index("matched") + 1
    return [*known[:place], *((one.key, one.title) for one in view.further), *known[place:]]


def _families(view: ReportView) -> list[tuple[str, list[Any]]]:
    """The series that finished, by family, in the order in which families first occur."""
    found: dict[str, list[Any]] = {}
    for one in view.series:
        if one.done:
            (card,) = loss_cards([one.loss])
            found.setdefault(card.family, []).append(one)
    return list(found.items())


def _heat_context(heat_map: Any) -> dict[str, Any]:
    decimals = heat_map.measure.decimals
    return {
        "measure": heat_map.measure,
        "rows": heat_map.rows,
        "ranks": heat_map.ranks,
        "low_text": number(heat_map.low, decimals),
        "high_text": number(heat_map.high, decimals),
    }


def _matched_context(view: ReportView) -> dict[str, Any]:
    if isinstance(view.comparison, str) or view.matched is None:
        return {"compared": (), "not_compared": view.comparison}
    ends = (view.comparison.low, view.comparison.high)
    return {
        "compared": view.compared,
        "baseline": view.matched.baseline,
        "everywhere": view.comparison.everywhere,
        "total": view.comparison.total,
        "span": [number(end, KL.decimals) for end in ends],
        "compared_prompts": view.comparison.prompts,
        "reaches": [number(one.reach, one.measure.decimals) for one in view.compared],
    }


def _alternatives(view: ReportView) -> dict[str, str]:
    """What a chart shows, in a sentence per series, for those who cannot see it."""
    texts = {
        "training": "Training curves by step, a panel per loss, a line per strength.",
        "displacement": "Chosen and rejected log-ratios against KL, a pair of curves per loss.",
    }
    for measure in explored(view.results):
        parts = [_described(one, measure) for one in view.series]
        texts[measure.name] = f"{measure.title} against KL. {' '.join(filter(None, parts))}"
    more = " The table of every trial holds the numbers."
    return {key: text + more for key, text in texts.items()}


def _described(series: Any, measure: Metric) -> str:
    pairs = [(setting.mean(KL.name), setting.mean(measure.name)) for setting in series.settings]
    known = [(kl, value) for kl, value in pairs if kl is not None and value is not None]
    if not known:
        return ""
    (first, low), (last, high) = min(known), max(known)
    return (
        f"{series.label}: {number(low, measure.decimals)} at KL {number(first, 2)}"
        f" to {number(high, measure.decimals)} at KL {number(last, 2)}."
    )
