"""Which responses the report shows side by side: picked by position, never by content.

The page carries as many as fit (`report.page_samples`); Markdown, and a page without JavaScript,
show a few prompts as text. Both take prompts, policies and responses from here.
"""

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

FEW = 3
"""prompts that are shown as text"""
LIMITS = (2000, 1200, 800, 600, 400, 300)
"""characters per response, tried in turn until the budget holds"""
BUDGET = 60_000
"""characters that all responses of these prompts with their markup may take"""
_MARKUP = 420
"""characters of markup around one response"""

MATCHED, BEST, ALL = "matched", "best", "all"


@dataclass(frozen=True, slots=True)
class Selection:
    """Policies that are shown beside each other.

    Attributes:
        key: names it.
        title: says which policies.
        policies: each with its loss, at most one of a loss where losses are compared.
    """

    key: str
    title: str
    policies: tuple[tuple[LossCurve, Trial], ...]


@dataclass(frozen=True, slots=True)
class Card:
    """One response.

    Attributes:
        title: who gave it.
        facts: its figures, in words.
        text: the response, visible characters only.
        series: index of its series; None for reference and dataset.
    """

    title: str
    facts: tuple[str, ...]
    text: str
    series: int | None = None


@dataclass(frozen=True, slots=True)
class PromptCards:
    """One held-out prompt with the responses to it; its place is its number among all, from 1."""

    place: int
    prompt: str
    cards: tuple[Card, ...]


def selections(
    results: SweepResults, series: Sequence[LossCurve], policies: MatchedPolicies
) -> tuple[Selection, ...]:
    """What can be shown beside each other, the default first; empty where no trial finished."""
    known = [one for one in series if one.on_curve]
    if not known:
        return ()
    measure = ranking(results)
    nearest = tuple((one, setting.done[0]) for one, setting in policies.settings)
    best = tuple((one, one.highest(measure.name).done[0]) for one in known)
    each = [
        Selection(
            f"series-{one.index}",
            f"{one.label}, every trial",
            tuple((one, trial) for trial in one.done),
        )
        for one in known
    ]
    everyone = tuple((one, trial) for one in known for trial in one.done)
    return (
        Selection(MATCHED, policies.title, nearest),
        Selection(BEST, f"each loss where its {measure.phrase} is highest", best),
        *each,
        Selection(ALL, "every policy", everyone),
    )


def evenly_spaced(prompts: pd.DataFrame, count: int) -> pd.DataFrame:
    """So many prompts, evenly over their order, the first included."""
    total = len(prompts)
    return prompts.iloc[[index * total // count for index in range(min(count, total))]]


def first_by_prompt(samples: pd.DataFrame) -> pd.DataFrame:
    """The first response to each prompt, by prompt."""
    first = samples.sort_values(["prompt_id", "sample"]).drop_duplicates("prompt_id")
    return first.set_index("prompt_id")


def few_samples(
    results: SweepResults, selection: Selection, count: int = FEW
) -> tuple[PromptCards, ...]:
    """A few prompts with a selection's responses; empty where none stand beside the reference's."""
    if not results.has_responses:
        return ()
    rows = evenly_spaced(results.reference.prompts, count)
    reference = first_by_prompt(results.reference.samples)
    tables = [(*one, first_by_prompt(one[1].samples)) for one in selection.policies]
    limit = _affordable(len(rows) * (len(tables) + 2), [table for *_, table in tables])
    return tuple(
        PromptCards(
            int(place) + 1,
            clipped(visible(str(row["prompt"])), limit),
            tuple(_cards(row, reference, tables, results, limit)),
        )
        for place, row in zip(rows.index, rows.to_dict("records"), strict=True)
    )


def _cards(
    row: Any,
    reference: pd.DataFrame,
    policies: Sequence[tuple[LossCurve, Trial, pd.DataFrame]],
    results: SweepResults,
    limit: int,
) -> Iterator[Card]:
    def text(response: Any) -> str:
        return clipped(visible(str(response)), limit)

    key = row["prompt_id"]
    yield Card("dataset's chosen", _facts(row.get("chosen_reward"), None), text(row["chosen"]))
    if key in reference.index:
        own = reference.loc[key]
        about = _facts(own.get("reward"), own.get("tokens"))
        yield Card("reference", about, text(own["response"]))
    for series, trial, table in policies:
        if key not in table.index:
            continue
        own = table.loc[key]
        facts = [f"policy's KL {number(trial.value(KL.name), KL.decimals)} nats"]
        facts += _facts(own.get("reward"), own.get("tokens"))
        if results.judge:
            facts += verdict_facts(own.to_dict())
        elif _known(own.get("win_reference")):
            facts.append(f"beats {100 * float(own['win_reference']):.0f}% of the reference's")
        if not bool(own.get("finished", True)):
            facts.append("cut at the token limit")
        title = trial_label(series, trial, results.seeds)
        yield Card(title, tuple(facts), text(own["response"]), series.index)


def _facts(reward: Any, tokens: Any) -> tuple[str, ...]:
    facts = []
    if _known(reward):
        facts.append(f"reward {number(float(reward), REWARD.decimals)}")
    if _known(tokens):
        facts.append(counted(int(tokens), "token"))
    return tuple(facts)


def _known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def _affordable(cards: int, tables: Sequence[pd.DataFrame]) -> int:
    """The largest limit on a response's characters with which this many fit the budget."""
    typical = max(float(table["response"].str.len().mean()) for table in tables)
    for limit in LIMITS:
        if cards * (_MARKUP + min(limit, 2 * typical)) <= BUDGET:
            return limit
    return LIMITS[-1]
