"""The four sentences that a report begins with: better, again, which to train, not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_bench.analysis.best_setting import BestSetting
from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.comparisons import Comparison
from dpo_bench.analysis.loss_curves import LossCurve, trial_label, varying
from dpo_bench.analysis.metrics import KL, ranking
from dpo_bench.analysis.results import SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.report.templating import Words
from dpo_bench.wording import listing, number

_NAMED = 6
"""how many losses of one verdict are named"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the comparisons say of one loss, all compared KLs together.

    Attributes:
        label: of the loss.
        said: better, worse, both (at different KLs), same or open.
        least: the smallest size that the band leaves to the difference, where it is largest.
        most: the largest at the same KL.
        kl: where that is, nats.
        kls: how many KLs the verdict was given at.
    """

    label: str
    said: str
    least: float
    most: float
    kl: float
    kls: int


def opening(
    results: SweepResults,
    experiment: Experiment | None,
    series: Sequence[LossCurve],
    comparison: MatchedComparison | str,
    best: BestSetting | None,
) -> tuple[str, ...]:
    """The sentences, in their order; fewer where a sweep cannot answer."""
    if isinstance(comparison, str):
        words = Words("opening", seeds=len(results.seeds), measure=ranking(results))
        train = words.items("train", best, setting_label(best, series), "") if best else ()
        return (*words.items("not_compared", comparison), *words.items("one_run"), *train)
    labels = {one.index: one.label for one in series}
    words = Words(
        "opening",
        baseline=labels[comparison.baseline],
        measure=comparison.measure,
        kls=listing([number(level.kl, KL.decimals) for level in comparison.levels]),
        repeated=comparison.repeated,
        seeds=comparison.seeds,
        prompts=comparison.prompts,
        responses=experiment.evaluation.samples_per_prompt if experiment else None,
        margin=comparison.plan.same_within,
        planned=comparison.plan.planned,
        searched=bool(results.search),
        everywhere=comparison.everywhere,
        losses=len(series),
        fixed=not_varied(results),
    )
    found = verdicts(comparison, labels)
    return (
        *words.items("better", *_by_verdict(found), len(series) - 1 - len(found)),
        *words.items("again", *_counts(found)),
        *words.items("train", best, setting_label(best, series), _kept(found, comparison, labels)),
        *words.items("unseen", _detectable(comparison)),
    )


def not_varied(results: SweepResults) -> list[str]:
    """What all trials have in common that could order losses otherwise, in words."""
    own = varying([one.training for one in results.trials])
    length = {"steps", "epochs"} & own
    rate = [] if "learning_rate" in own else ["learning rate"]
    return ["model", "data set", *rate, *([] if length else ["length of training"])]


def _counts(found: Sequence[Verdict]) -> tuple[int, int]:
    """Losses with a verdict, and without."""
    decided = sum(one.said != "open" for one in found)
    return decided, len(found) - decided


def _kept(
    found: Sequence[Verdict], comparison: MatchedComparison, labels: Mapping[int, str]
) -> str:
    """The baseline, where no loss is better than it; empty otherwise, and with one seed."""
    better = any(one.said in ("better", "both") for one in found)
    return labels[comparison.baseline] if comparison.repeated and not better else ""


def verdicts(comparison: MatchedComparison, labels: Mapping[int, str]) -> list[Verdict]:
    """One for each loss that is compared anywhere, the surest first."""
    found = [
        _verdict(label, [one for one in comparison.of(index) if one.compared], comparison)
        for index, label in labels.items()
        if any(one.compared for one in comparison.of(index))
    ]
    return sorted(found, key=lambda one: -one.least)


def _verdict(label: str, of: Sequence[Comparison], comparison: MatchedComparison) -> Verdict:
    said = [one.verdict if comparison.repeated else one.policies for one in of]
    kinds = set(said)
    if {"better", "worse"} <= kinds:
        kind = "both"
    else:
        kind = next((one for one in ("better", "worse") if one in kinds), "open")
    if kinds == {"same"}:
        kind = "same"
    decided = [one for one, kind_of in zip(of, said, strict=True) if kind_of == kind] or list(of)
    clearest = max(decided, key=lambda one: one.at_least)
    most = max(one.at_most for one in of) if kind == "same" else clearest.at_most
    return Verdict(label, kind, clearest.at_least, most, clearest.kl, len(decided))


def _by_verdict(found: Sequence[Verdict]) -> list[dict[str, Any]]:
    """For better, worse, both, same and open: the first few, and how many more there are."""
    groups = []
    for said in ("better", "worse", "both", "same", "open"):
        members = [one for one in found if one.said == said]
        named = members[:_NAMED]
        groups.append({"named": named, "more": len(members) - len(named), "count": len(members)})
    return groups


def setting_label(best: BestSetting | None, series: Sequence[LossCurve]) -> str:
    """The setting to train, in words; empty where there is none."""
    if best is None:
        return ""
    one = next(one for one in series if str(one.index) == best.loss)
    setting = [setting for setting in one.settings if setting.done][best.strength]
    return trial_label(one, setting.done[0], seeds=())


def _detectable(comparison: MatchedComparison) -> tuple[float, float] | None:
    """The smallest and largest difference, by KL, that is shown with a chance of 80%."""
    known = [one.detectable for one in comparison.levels if one.detectable == one.detectable]
    return (min(known), max(known)) if known else None
