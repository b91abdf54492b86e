"""What the sweep found, in plain sentences written from its figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpo_bench.analysis.compare import Level, MatchedComparison, PairAtLevel
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.loss_curves import LossCurve, trial_label
from dpo_bench.analysis.metrics import ACCURACY, CHOSEN, FRONTIER_GAP, KL, REWARD, WIN_RATE, Metric
from dpo_bench.analysis.moved import unmoved_in_words
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.experiment import Experiment
from dpo_bench.report.sections.sanity_checks import agreement, follows_the_place, missed_controls
from dpo_bench.wording import counted, interval, listing, number

_NAMED_LOSSES = 12
"""how many losses the summary names as not separated"""
_LOSS_TOLERANCE = 1e-5
"""allowed relative difference of the loss at step 0 from its known value at the reference"""
_CUT_SHARE = 0.1
"""share of responses cut at the token limit from which a warning is due"""


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
    others: Sequence[MatchedComparison] = (),
) -> Summary:
    """Write the summary of a sweep.

    Args:
        results: the sweep.
        experiment: what made it; None where that is not known.
        series: its curves.
        comparison: by the headline measure, or why there is none.
        others: the same by further measures.
    """
    labels = {t.id: trial_label(one, t, results.seeds) for one in series for t in one.trials}
    sentences, also = [_state(results, series)], list[str]()
    blind = follows_the_place(results)  # nobody is called better by such a judge
    if results.done:
        sentences += [*_best(results, labels), *_reach(results)]
        sentences += [] if blind else _matched(series, comparison)
        also += [sentence for one in others for sentence in _matched(series, one) if not blind]
        also += [*_rewards(results), *_attained(results), *_displaced(results, labels)]
    if len(results.seeds) == 1:
        sentences.append("There is one training seed: the variance between seeds is unknown.")
    return Summary(
        tuple(sentences),
        tuple(also),
        tuple(_warnings(results, experiment, labels)),
        tuple(_tiles(results, labels, comparison)),
    )


def _state(results: SweepResults, series: Sequence[LossCurve]) -> str:
    total, failed = len(results.trials), len(results.failed)
    losses = len({one.loss for one in series})
    variants = f" ({len(series)} variants)" if len(series) > losses else ""
    text = f"{counted(losses, 'loss', 'losses')}{variants} in {counted(total, 'trial')}: "
    if not total:
        text += "none has run."
    elif failed == total:
        text += "all failed, so that there is nothing to compare."
    elif failed:
        text += f"{len(results.done)} finished, {failed} failed (the cause is below)."
    else:
        text += "all finished."
    if results.pending:
        verb = "has" if results.pending == 1 else "have"
        text += (
            f" {counted(results.pending, 'planned trial')} {verb} not run yet: this report is"
            " partial."
        )
    return text


def _highest(results: SweepResults, measure: Metric) -> tuple[Trial, Estimate] | None:
    measured = [(trial, trial.estimate(measure.name)) for trial in results.done]
    known = [(trial, figure) for trial, figure in measured if not figure.is_missing]
    return max(known, key=lambda pair: pair[1].value) if known else None


def _best(results: SweepResults, labels: dict[str, str]) -> Iterator[str]:
    if results.judge:
        yield "A judge compared the responses in pairs: there are win rates, but no mean reward."
    elif not results.has_wins:
        yield "The experiment has no reward, so that win rate and mean reward were not measured."
    if follows_the_place(results):
        agreed = agreement(results)
        yield (
            "It follows the place, not the text: both orders agree on"
            f" {number(agreed.value, 3)} {interval(agreed.low, agreed.high, 3)} of the controlled"
            " pairs, and the others are ties, so that no policy is called better than another."
        )
        return
    measure = WIN_RATE if results.has_wins else ACCURACY
    if (best := _highest(results, measure)) is None:
        return
    if _all_ties(results, measure):
        yield (
            "Every comparison is a tie, so that every win rate is 0.500 and no policy is called"
            " better than another."
        )
        return
    trial, figure = best
    kl = trial.value(KL.name)
    where = "" if kl is None else f" at KL {number(kl, KL.decimals)} nats"
    text = (
        f"The best {measure.phrase} is {_with_interval(figure, measure)}, reached by"
        f" {labels[trial.id]}{where}"
    )
    if len(results.done) > 1:
        text += f"; being the highest of {len(results.done)}, it is slightly optimistic"
    yield f"{text}."


def _all_ties(results: SweepResults, measure: Metric) -> bool:
    figures = [trial.estimate(measure.name) for trial in results.done]
    return measure == WIN_RATE and all(
        (one.value, one.low, one.high) == (0.5, 0.5, 0.5) for one in figures
    )


def _reach(results: SweepResults) -> Iterator[str]:
    if span := _span(results, KL):
        low, high = (number(end, KL.decimals) for end in span)
        yield f"KL to the reference runs from {low} to {high} nats."


def _rewards(results: SweepResults) -> Iterator[str]:
    reference, span = results.reference.reward, _span(results, REWARD)
    if span and not reference.is_missing:
        yield (
            f"The reference's mean reward is {_with_interval(reference, REWARD)}; the policies' lie"
            f" between {number(span[0])} and {number(span[1])}."
        )


def _matched(series: Sequence[LossCurve], comparison: MatchedComparison | str) -> Iterator[str]:
    if isinstance(comparison, str):
        return
    names = {one.index: one.label for one in series}
    level = comparison.middle
    pairs = level.compared
    apart = [pair for pair in pairs if pair.separated]
    where = f"At the same KL ({number(level.kl, KL.decimals)} nats),"
    by = comparison.measure.phrase
    if not apart:
        yield (
            f"{where} no two losses are separated by their {by}"
            f" ({counted(len(pairs), 'pair')} compared)."
        )
        return
    widest = _named(max(apart, key=lambda pair: abs(pair.difference.value)), names)
    if len(apart) == len(pairs):
        all_of = "all losses" if comparison.compared == comparison.total else "all compared losses"
        yield f"{where} {all_of} are separated by their {by}, most of all {widest}."
        return
    alike = _alike(level, names)
    yield (
        f"{where} {len(apart)} of {counted(len(pairs), 'pair')} of losses are separated by their"
        f" {by}, most of all {widest}; not separated: {alike}."
    )


def _alike(level: Level, names: dict[int, str]) -> str:
    """The groups of more than one loss; only the best one's size where they are too many."""
    groups = [[names[index] for index in group] for group in level.groups if len(group) > 1]
    if sum(map(len, groups)) > _NAMED_LOSSES:
        best = counted(len(level.groups[0]), "loss", "losses")
        return f"the group of the best has {best} (all groups are below)"
    return "; ".join(map(listing, groups))


def _named(pair: PairAtLevel, names: dict[int, str]) -> str:
    better, worse, difference = pair.first, pair.second, pair.difference
    value, low, high = difference.value, difference.low, difference.high
    if value < 0:
        better, worse, value, low, high = worse, better, -value, -high, -low
    return f"{names[better]} above {names[worse]} by {number(value)} {interval(low, high)}"


def _attained(results: SweepResults) -> Iterator[str]:
    if results.reference.reward.is_missing:
        return
    reference = results.reference.reward.value
    shares = []
    for trial in results.done:
        gap, reward = (trial.value(m.name) for m in (FRONTIER_GAP, REWARD))
        if gap is not None and reward is not None and reward + gap > reference:
            shares.append((reward - reference) / (reward + gap - reference))
    if not shares:
        return
    low, high = (f"{number(100 * end, 0)}%" for end in (min(shares), max(shares)))
    if len(shares) == 1:
        yield (
            f"One policy's KL lies where the optimal frontier is known; it reaches {low} of the"
            " gain that this KL would allow."
        )
    else:
        yield (
            f"Where the optimal frontier is known, policies reach {low} to {high} of the gain that"
            " their KL would allow."
        )


def _displaced(results: SweepResults, labels: dict[str, str]) -> Iterator[str]:
    figures = [(trial, trial.estimate(CHOSEN.name)) for trial in results.done]
    known = [(trial, figure) for trial, figure in figures if not figure.is_missing]
    fallen = [pair for pair in known if pair[1].high < 0]
    if not fallen:
        return
    trial, figure = min(fallen, key=lambda pair: pair[1].value)
    yield (
        f"In {len(fallen)} of {counted(len(known), 'trial')} the chosen responses became less"
        f" likely than under the reference, most with {labels[trial.id]}"
        f" ({number(figure.value, CHOSEN.decimals)} nats)."
    )


def _warnings(
    results: SweepResults, experiment: Experiment | None, labels: dict[str, str]
) -> Iterator[str]:
    kls = [kl for one in results.done if (kl := one.value(KL.name)) is not None]
    rate = experiment.training.learning_rate if experiment else "not recorded"
    if still := unmoved_in_words(kls, rate):
        yield still
    yield from (f"{note.text}." for note in results.notes if note.is_warning)
    asked = experiment.evaluation.prompts if experiment else 0
    if results.prompts is not None and results.prompts < asked:
        yield (
            f"{counted(results.prompts, 'held-out prompt')} instead of the {asked} that were asked"
            " for: the data has no more."
        )
    for trial in results.done:
        yield from _wrong_start(trial, labels[trial.id])
        if trial.estimate(FRONTIER_GAP.name).high < 0:
            yield (
                f"{labels[trial.id]} lies above the optimal frontier beyond its interval, which no"
                " policy can: its reward or KL is doubtful."
            )
    yield from _continued(results, labels)
    yield from _cut(results, labels)
    yield from missed_controls(results)


def _wrong_start(trial: Trial, label: str) -> Iterator[str]:
    loss, expected = (trial.value(key) for key in ("initial_loss", "initial_loss_expected"))
    if loss is None or expected is None:
        return
    if abs(loss - expected) > _LOSS_TOLERANCE * max(1.0, abs(expected)):
        yield (
            f"{label}: the loss at step 0 is {loss:.6g} where a policy that still equals the"
            f" reference gives {expected:.6g}."
        )


def _continued(results: SweepResults, labels: dict[str, str]) -> Iterator[str]:
    """Trials of which a part was trained with something else than the loss's formula."""
    shares: dict[str, dict[str, float]] = {}
    for trial in results.done:
        if "continued" in trial.training and (share := float(trial.training["continued"].mean())):
            shares.setdefault(trial.loss, {})[labels[trial.id]] = share
    for loss, known in shares.items():
        worst = max(known, key=lambda name: known[name])
        percent = f"{100 * known[worst]:.1f}%" if known[worst] >= 0.001 else "less than 0.1%"
        yield (
            f"In {counted(len(known), 'trial')} of {loss} there were training pairs where its"
            " formula would overflow and its documented continuation stands in for it, most with"
            f" {worst} ({percent} of the pairs that were seen): there it is not the paper's loss."
        )


def _cut(results: SweepResults, labels: dict[str, str]) -> Iterator[str]:
    shares = {
        labels[trial.id]: 1.0 - float(trial.samples["finished"].mean())
        for trial in results.done
        if "finished" in trial.samples and len(trial.samples)
    }
    over = {name: share for name, share in shares.items() if share > _CUT_SHARE}
    if over:
        worst = max(over, key=lambda name: over[name])
        yield (
            f"In {counted(len(over), 'trial')} more than {100 * _CUT_SHARE:.0f}% of the responses"
            f" were cut at the token limit, most with {worst} ({100 * over[worst]:.0f}%): their KL"
            " and length are those of the cut responses."
        )


def _tiles(
    results: SweepResults, labels: dict[str, str], comparison: MatchedComparison | str
) -> Iterator[Tile]:
    measure = WIN_RATE if results.has_wins else ACCURACY
    best = _highest(results, measure)
    if follows_the_place(results):
        agreed = agreement(results)
        brackets = interval(agreed.low, agreed.high, 3)
        title = "The judge's orders agree"
        yield Tile(title, number(agreed.value, 3), f"{brackets} of the controlled pairs")
    elif best and not _all_ties(results, measure):
        trial, figure = best
        brackets = interval(figure.low, figure.high, measure.decimals)
        title = "Best win rate" if measure == WIN_RATE else f"Best {measure.title.lower()}"
        yield Tile(
            title, number(figure.value, measure.decimals), f"{brackets} {labels[trial.id]}".strip()
        )
    if span := _span(results, KL):
        yield Tile(
            "KL covered", f"{number(span[0], 2)} to {number(span[1], 2)}", "nats, to the reference"
        )
    if not isinstance(comparison, str) and not follows_the_place(results):
        pairs = comparison.middle.compared
        apart = sum(pair.separated for pair in pairs)
        where = f"pairs of losses, at KL {number(comparison.middle.kl, KL.decimals)} nats"
        yield Tile("Separated", f"{apart} of {len(pairs)}", where)
    failed = f"{len(results.failed)} failed" if results.failed else "none failed"
    waiting = f", {results.pending} not run" if results.pending else ""
    total = len(results.trials) + results.pending
    yield Tile("Trials", f"{len(results.done)} of {total}", f"finished; {failed}{waiting}")


def _span(results: SweepResults, measure: Metric) -> tuple[float, float] | None:
    values = [trial.value(measure.name) for trial in results.done]
    known = [value for value in values if value is not None]
    return (min(known), max(known)) if known else None


def _with_interval(figure: Estimate, measure: Metric) -> str:
    n = f", n = {figure.n:,} prompts" if figure.n else ""
    brackets = interval(figure.low, figure.high, measure.decimals)
    return f"{number(figure.value, measure.decimals)} {brackets}{n}"
