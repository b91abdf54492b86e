"""Which responses the report shows side by side: picked by position, never by content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dpo_bench.analysis.loss_curves import LossCurve, trial_label
from dpo_bench.analysis.matched_policies import MatchedPolicies
from dpo_bench.analysis.metrics import KL, REWARD, ranking
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.report.verdicts import verdict_facts
from dpo_bench.wording import clipped, counted, number, visible

LIMITS = ((12, 2000), (8, 1200), (6, 800), (4, 600), (2, 400), (1, 300))
"""Numbers of prompts and of characters per response, tried in turn until the budget holds."""

BUDGET = 250_000
"""characters that all responses with their markup may take in the page"""

_MARKUP = 420
"""characters of markup around one response"""

MATCHED, BEST, ALL = "matched", "best", "all"


@dataclass(frozen=True, slots=True)
class Card:
    """One response.

    Attributes:
        title: who gave it.
        facts: its figures, in words.
        text: the response, visible characters only.
        series: index of its series; None for reference and dataset.
        views: selections in which it is shown; empty for always.
    """

    title: str
    facts: tuple[str, ...]
    text: str
    series: int | None = None
    views: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptCards:
    """One held-out prompt with the responses to it; its place is its number among all, from 1."""

    place: int
    prompt: str
    cards: tuple[Card, ...]

    def shown(self, view: str) -> tuple[Card, ...]:
        """The cards of a selection, with those that are always shown."""
        return tuple(card for card in self.cards if not card.views or view in card.views)


@dataclass(frozen=True, slots=True)
class SampleBrowser:
    """What the page shows.

    Attributes:
        prompts: evenly spaced over the held-out prompts.
        total: number of held-out prompts.
        views: key and title of each selection, the default first.
        limit: responses are cut after so many characters.
    """

    prompts: tuple[PromptCards, ...]
    total: int
    views: tuple[tuple[str, str], ...]
    limit: int


def sample_browser(
    results: SweepResults, series: Sequence[LossCurve], policies: MatchedPolicies
) -> SampleBrowser | None:
    """Pick prompts and responses; None where there are none to show beside each other."""
    if not results.has_responses:
        return None
    prompts = results.reference.prompts
    chosen = list(_chosen(results, series, policies))
    views = [
        (MATCHED, policies.title),
        (BEST, best_title(results)),
    ]
    views += [(f"series-{one.index}", f"{one.label}, all strengths") for one in series if one.done]
    views += [(ALL, "every policy")]
    count, limit = _affordable(len(prompts), len(chosen) + 2, _longest(results))
    rows = prompts.iloc[spread(len(prompts), count)]
    keys = set(rows["prompt_id"])
    pools = [_by_prompt(trial.samples, keys) for _, trial, _ in chosen]
    reference = _by_prompt(results.reference.samples, keys)
    shown = tuple(
        PromptCards(
            int(place) + 1,
            clipped(visible(str(row["prompt"])), limit),
            tuple(_cards(row, reference, list(zip(chosen, pools, strict=True)), results, limit)),
        )
        for place, row in zip(rows.index, rows.to_dict("records"), strict=True)
    )
    return SampleBrowser(shown, len(prompts), tuple(views), limit)


def best_title(results: SweepResults) -> str:
    """What showing each loss's best setting beside the others' is called."""
    return f"each loss where its {ranking(results).phrase} is highest"


def _cards(
    row: Any,
    reference: dict[Any, Any],
    policies: Sequence[tuple[tuple[LossCurve, Trial, tuple[str, ...]], dict[Any, Any]]],
    results: SweepResults,
    limit: int,
) -> Iterator[Card]:
    key = row["prompt_id"]
    text = clipped(visible(str(row["chosen"])), limit)
    yield Card("dataset's chosen", _facts(row.get("chosen_reward"), None), text)
    if key in reference:
        own = reference[key]
        about = _facts(own.get("reward"), own.get("tokens"))
        yield Card("reference", about, clipped(visible(str(own["response"])), limit))
    for (series, trial, views), pool in policies:
        if key not in pool:
            continue
        own = pool[key]
        facts = [f"policy's KL {number(trial.value(KL.name), KL.decimals)} nats"]
        facts += _facts(own.get("reward"), own.get("tokens"))
        if results.judge:
            facts += verdict_facts(own)
        elif _known(own.get("win_reference")):
            facts.append(f"beats {100 * float(own['win_reference']):.0f}% of the reference's")
        if not bool(own.get("finished", True)):
            facts.append("cut at the token limit")
        title = trial_label(series, trial, results.seeds)
        response = clipped(visible(str(own["response"])), limit)
        yield Card(title, tuple(facts), response, series.index, views)


def _facts(reward: Any, tokens: Any) -> tuple[str, ...]:
    facts = []
    if _known(reward):
        facts.append(f"reward {number(float(reward), REWARD.decimals)}")
    if _known(tokens):
        facts.append(counted(int(tokens), "token"))
    return tuple(facts)


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def _chosen(
    results: SweepResults, series: Sequence[LossCurve], policies: MatchedPolicies
) -> Iterator[tuple[LossCurve, Trial, tuple[str, ...]]]:
    """One finished trial per setting, with the selections that show it."""
    nearest = [setting for _, setting in policies.settings]
    best = ranking(results).name
    for one in series:
        settings = [setting for setting in one.settings if setting.done]
        if not settings:
            continue
        highest = one.highest(best)
        for setting in settings:
            views = [f"series-{one.index}", ALL]
            views += [MATCHED] if setting in nearest else []
            views += [BEST] if setting is highest else []
            yield one, setting.done[0], tuple(views)


def _by_prompt(samples: pd.DataFrame, keys: set[Any]) -> dict[Any, Any]:
    """The first sample of each of these prompts."""
    wanted = samples[samples["prompt_id"].isin(keys)]
    first = wanted.sort_values(["prompt_id", "sample"]).drop_duplicates("prompt_id")
    return {row["prompt_id"]: row for row in first.to_dict("records")}


def spread(total: int, count: int) -> list[int]:
    """Positions of ``count`` items, evenly over ``total``, the first included."""
    return [index * total // count for index in range(min(count, total))]


def _longest(results: SweepResults) -> float:
    """Mean characters of the responses, the largest over trials."""
    return max(float(trial.samples["response"].str.len().mean()) for trial in results.done)


def _affordable(total: int, cards: int, characters: float) -> tuple[int, int]:
    for count, limit in LIMITS:
        size = min(count, total) * cards * (_MARKUP + min(limit, 2 * characters))
        if size <= BUDGET:
            return min(count, total), limit
    return LIMITS[-1]
