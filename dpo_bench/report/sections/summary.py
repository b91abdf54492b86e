"""What the sweep found, in plain sentences written from its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_bench.analysis.best_setting import BestSetting
from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.loss_curves import CUT_SHARE, LossCurve, trial_label
from dpo_bench.analysis.metrics import ACCURACY, CHOSEN, FRONTIER_GAP, KL, REWARD, WIN_RATE, Metric
from dpo_bench.analysis.moved import unmoved_in_words
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.experiment import Experiment
from dpo_bench.report.sections.opening import opening, setting_label, verdicts
from dpo_bench.report.sections.sanity_checks import agreement, follows_the_place, missed_controls
from dpo_bench.report.templating import Words
from dpo_bench.wording import interval, number

_LOSS_TOLERANCE = 1e-5
"""allowed relative difference of the loss at step 0 from its known value at the reference"""
_RATIO_ROUNDING = 1e-6
"""nats by which rounding moves a log-ratio in single precision; a strength multiplies it"""


@dataclass(frozen=True, slots=True)
class Tile:
    """One key figure at the top of the page."""

    title: str
    figure: str
    detail: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The report's opening.

    Attributes:
        sentences: the summary paragraph.
        also: findings of second rank, a sentence each.
        warnings: what makes the figures doubtful; usually empty.
        tiles: key figures.
    """

    sentences: tuple[str, ...]
    also: tuple[str, ...]
    warnings: tuple[str, ...]
    tiles: tuple[Tile, ...]


def find(
    results: SweepResults,
    experiment: Experiment | None,
    series: Sequence[LossCurve],
    comparison: MatchedComparison | str,
    best: BestSetting | None = None,
) -> Summary:
    """Write the summary of a sweep.

    Args:
        results: the sweep.
        experiment: what made it; None where that is not known.
        series: its curves.
        comparison: by the primary measure, or why there is none.
        best: the setting to train.
    """
    labels = {t.id: trial_label(one, t, results.seeds) for one in series for t in one.trials}
    words = Words(
        "summary",
        losses=len({one.loss for one in series}),
        variants=len(series),
        trials=len(results.trials),
        done=len(results.done),
        failed=len(results.failed),
        stopped=len(results.stopped),
        pending=results.pending,
    )
    state = words.items("state")
    sentences: tuple[str, ...] = ()
    if results.done:
        sentences = _unusable(results, words) or opening(
            results, experiment, series, comparison, best
        )
    return Summary(
        sentences or state,
        (*(state if sentences else ()), *(_also(results, labels, words) if results.done else ())),
        tuple(_warnings(results, experiment, labels, words)),
        tuple(_tiles(results, series, comparison, best)),
    )


def _unusable(results: SweepResults, words: Words) -> tuple[str, ...]:
    """What is said instead of verdicts where a judge's answers tell nothing."""
    ties = _all_ties(results, WIN_RATE if results.has_wins else ACCURACY)
    follows = agreement(results) if follows_the_place(results) else None
    return words.items("unusable", results.judge, follows, ties)


def _all_ties(results: SweepResults, measure: Metric) -> bool:
    figures = [trial.estimate(measure.name) for trial in results.done]
    return measure == WIN_RATE and all(
        (one.value, one.low, one.high) == (0.5, 0.5, 0.5) for one in figures
    )


def _also(results: SweepResults, labels: dict[str, str], words: Words) -> tuple[str, ...]:
    reference = results.reference.reward
    span = None if reference.is_missing else _span(results, REWARD)
    shares = _shares_of_the_gain(results)
    return words.items("also", reference, span, shares, _displaced(results, labels))


def _shares_of_the_gain(results: SweepResults) -> list[float]:
    """Of the gain over the reference that each policy's KL would allow, what it reaches."""
    if results.reference.reward.is_missing:
        return []
    reference = results.reference.reward.value
    shares = []
    for trial in results.done:
        gap, reward = (trial.value(m.name) for m in (FRONTIER_GAP, REWARD))
        if gap is not None and reward is not None and reward + gap > reference:
            shares.append((reward - reference) / (reward + gap - reference))
    return shares


def _displaced(results: SweepResults, labels: dict[str, str]) -> dict[str, Any] | None:
    """Trials whose chosen responses became less likely, by their whole interval."""
    figures = [(trial, trial.estimate(CHOSEN.name)) for trial in results.done]
    known = [(trial, figure) for trial, figure in figures if not figure.is_missing]
    fallen = [pair for pair in known if pair[1].high < 0]
    if not fallen:
        return None
    trial, figure = min(fallen, key=lambda pair: pair[1].value)
    counts = {"count": len(fallen), "known": len(known)}
    return {**counts, "label": labels[trial.id], "value": figure.value}


def _warnings(
    results: SweepResults, experiment: Experiment | None, labels: dict[str, str], words: Words
) -> Iterator[str]:
    kls = [kl for one in results.done if (kl := one.value(KL.name)) is not None]
    rate = experiment.training.learning_rate if experiment else "not recorded"
    if still := unmoved_in_words(kls, rate):
        yield still
    yield from (f"{note.text}." for note in results.notes if note.is_warning)
    asked = experiment.evaluation.prompts if experiment else 0
    if results.prompts is not None and results.prompts < asked:
        yield from words.items("few_prompts", results.prompts, asked)
    for trial in results.done:
        label = labels[trial.id]
        if _starts_elsewhere(trial):
            start = (trial.value(key) for key in ("initial_loss", "initial_loss_expected"))
            yield from words.items("wrong_start", label, *start)
        if trial.estimate(FRONTIER_GAP.name).high < 0:
            yield from words.items("above_the_frontier", label)
    yield from _continued(results, labels, words)
    yield from _cut(results, labels, words)
    yield from missed_controls(results)


def _starts_elsewhere(trial: Trial) -> bool:
    """Whether the loss at step 0 is not that of a policy that still equals the reference."""
    loss, expected = (trial.value(key) for key in ("initial_loss", "initial_loss_expected"))
    if loss is None or expected is None:
        return False
    allowed = _LOSS_TOLERANCE * max(1.0, abs(expected))
    return abs(loss - expected) > allowed + _RATIO_ROUNDING * abs(trial.strength or 0.0)


def _continued(results: SweepResults, labels: dict[str, str], words: Words) -> Iterator[str]:
    """Trials of which a part was trained with something else than the loss's formula."""
    shares: dict[str, dict[str, float]] = {}
    for trial in results.done:
        if "continued" in trial.training_log and (
            share := float(trial.training_log["continued"].mean())
        ):
            shares.setdefault(trial.loss, {})[labels[trial.id]] = share
    for loss, known in shares.items():
        worst = max(known, key=lambda name: known[name])
        yield from words.items("continued", loss, len(known), worst, known[worst])


def _cut(results: SweepResults, labels: dict[str, str], words: Words) -> tuple[str, ...]:
    shares = {labels[trial.id]: trial.cut_share or 0.0 for trial in results.done}
    over = {name: share for name, share in shares.items() if share > CUT_SHARE}
    if not over:
        return ()
    worst = max(over, key=lambda name: over[name])
    return words.items("cut", len(over), CUT_SHARE, worst, over[worst])


def no_reward(results: SweepResults) -> str:
    """What is left out of a report without reward, and that it is; empty otherwise."""
    if results.has_reward:
        return ""
    return Words("summary").paragraph("no_reward", results.judge, results.has_wins)


def _tiles(
    results: SweepResults,
    series: Sequence[LossCurve],
    comparison: MatchedComparison | str,
    best: BestSetting | None,
) -> Iterator[Tile]:
    if follows_the_place(results):
        agreed = agreement(results)
        brackets = interval(agreed.low, agreed.high, 3)
        title = "The judge's orders agree"
        yield Tile(title, number(agreed.value, 3), f"{brackets} of the controlled pairs")
    elif not isinstance(comparison, str):
        yield from _verdict_tiles(series, comparison, best)
    if span := _span(results, KL):
        yield Tile(
            "KL covered", f"{number(span[0], 2)} to {number(span[1], 2)}", "nats, to the reference"
        )
    failed = f"{len(results.failed)} failed" if results.failed else "none failed"
    waiting = f", {results.pending} not run" if results.pending else ""
    waiting = (f", {len(results.stopped)} stopped early" if results.stopped else "") + waiting
    total = len(results.trials) + results.pending
    yield Tile("Trials", f"{len(results.done)} of {total}", f"finished; {failed}{waiting}")


def _verdict_tiles(
    series: Sequence[LossCurve], comparison: MatchedComparison, best: BestSetting | None
) -> Iterator[Tile]:
    labels = {one.index: one.label for one in series}
    found = verdicts(comparison, labels)
    better, worse = (sum(one.said == said for one in found) for said in ("better", "worse"))
    kind = "losses" if comparison.repeated else "losses, by one policy each"
    rest = f"{worse} worse, {len(found) - better - worse} undecided or alike"
    title = f"Better than {labels[comparison.baseline]}"
    yield Tile(title, f"{better} of {len(found)}", f"{kind}, at the same KL; {rest}")
    if best is not None:
        decimals = comparison.measure.decimals
        brackets = interval(best.expected.low, best.expected.high, decimals)
        expected = f"{number(best.expected.value, decimals)} {brackets} {comparison.measure.phrase}"
        yield Tile("Highest, at any KL", setting_label(best, series), f"expect {expected}")


def _span(results: SweepResults, measure: Metric) -> tuple[float, float] | None:
    values = [trial.value(measure.name) for trial in results.done]
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None
