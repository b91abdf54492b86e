"""The page of the report, written from the tables beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.lower_layers.ranking import disagreements
from benchmarks.lower_layers.speed import checked, lines
from benchmarks.lower_layers.worlds import (
    AGAIN,
    FULL,
    SMOLLM2_STUDY,
    UPPER,
    WHOLE,
    WORLD,
    Study,
)
from dpo_bench.processor import processor

SPEED, FACTS, FEW, PAGE = "speed.csv", "facts.json", "trials.csv", "README.md"
FIGURES = ("kl", "reward", "margin", "preference_accuracy")
"""Of each of a few trials."""
ALIKE = 0.5
"""Kendall's tau from which a ranking is called the same: three quarters of all pairs of losses."""
COMPARED = ((FULL, UPPER), (WHOLE, UPPER), (WHOLE, FULL), (WHOLE, AGAIN))
"""Pairs of conditions of the tables; the last is what a ranking is worth when it is repeated."""

OPENING = """# Adapters in the upper layers alone

Does a ranking of losses survive it? {verdict}

How that is decided: it *survives* where, against LoRA in all layers and against training of all
weights, the 95% interval of Kendall's tau lies above {alike} at every KL and no two losses are
decided the other way round; it *does not* where at a KL the interval lies below {alike}, or two
losses are decided the other way round; else it is *open*. Written by `{command}`.
"""

TAU = """Kendall's tau between the rankings of two conditions by reward at the same KL (1: the
same order; 0: none in common), with a 95% interval over prompts (the same for both) and training
seeds. The last rows of a KL say what a ranking is worth itself: the same condition with other
seeds. *Regret* is what the second condition's best loss falls short of the first's own best, in
reward, under the first condition."""

POWER = """What this could not have seen: an interval of tau as wide as the last rows' says that the
rankings themselves are not known better; losses that lie closer together than noise have no order
that could survive. Losses that are far apart, trained longer and with more seeds, would say more;
that was not measured. Resampling adds its own noise to that of the data, so that the intervals of
tau lie low: they err towards "not the same". Each learning rate was taken, not tuned."""


def write_page(folder: Path, plan: Study = WORLD) -> Path:
    """Write the page of the tables that there are; returns its file.

    Args:
        folder: of the tables.
        plan: the study whose ranking is decided about.
    """
    facts: dict[str, float] = {}
    if (folder / FACTS).is_file():
        facts = json.loads((folder / FACTS).read_text("utf-8"))
    page = [
        OPENING.format(
            verdict=said(folder, plan), alike=ALIKE, command="python -m benchmarks.lower_layers"
        ),
        *_study(folder, plan, facts),
        *_few(folder, SMOLLM2_STUDY, facts),
        *_speed(folder, facts),
    ]
    file = folder / PAGE
    file.write_text("\n".join(page).rstrip() + "\n", "utf-8")
    return file


def said(folder: Path, plan: Study) -> str:
    """The verdict of a study, with what it rests on, in a few sentences."""
    file = folder / f"{plan.name}-agreement.csv"
    if not file.is_file():
        return "**Not measured yet.**"
    taus, pairs = pd.read_csv(file), pd.read_csv(folder / f"{plan.name}-verdicts.csv")
    word, why = verdict(taus, pairs)
    losses, seeds = len(plan.losses), len(plan.conditions[UPPER].seeds)
    return (
        f"**{word}** on {plan.title}, by {losses} losses with {seeds} seeds at KL"
        f" {', '.join(f'{kl:g}' for kl in plan.levels)}: {why}"
    )


def verdict(taus: pd.DataFrame, pairs: pd.DataFrame) -> tuple[str, str]:
    """Whether the ranking survives, and of what that follows.

    Args:
        taus: from `ranking.agreement`.
        pairs: from `ranking.verdicts`.
    """
    own = taus[(taus["second"] == UPPER) & taus["first"].isin((FULL, WHOLE))]
    if own["tau"].isna().any():
        return "Open", "at some KL fewer than two losses could be read under all conditions."
    turned = {name: disagreements(pairs, name, UPPER) for name in (FULL, WHOLE)}
    reversed_ = sum(one["decided the other way"] for one in turned.values())
    lowest = own.sort_values("tau").iloc[0]
    why = (
        f"tau is {own['tau'].min():.2f} to {own['tau'].max():.2f}, least against"
        f" {lowest['first']} at KL {lowest['kl']:g} ({_tau(lowest)}); {reversed_} verdicts on pairs"
        f" are turned round. For comparison: {_repeated(taus)}."
    )
    if reversed_ or (own["high"] < ALIKE).any():
        return "It does not survive", why
    return ("It survives" if (own["low"] > ALIKE).all() else "Open"), why


def _repeated(taus: pd.DataFrame) -> str:
    again = taus[(taus["first"] == WHOLE) & (taus["second"] == AGAIN)]
    if again.empty:
        return "no condition was repeated with other seeds"
    found = ", ".join(f"{_tau(row)} at KL {row['kl']:g}" for _, row in again.iterrows())
    known = "" if (again["low"] > ALIKE).all() else (
        "; where not even a repetition is shown to keep its order, the order of these losses is not"
        " known well enough for its loss to be seen"
    )  # fmt: skip
    return f"the ranking by training of all weights, repeated with other seeds, has {found}{known}"


def _study(folder: Path, plan: Study, facts: dict[str, float]) -> Iterator[str]:
    if not (folder / f"{plan.name}-agreement.csv").is_file():
        return
    names = ("agreement", "verdicts", "rewards", "missing", "trials")
    taus, pairs, rewards, missing, trials = (
        pd.read_csv(folder / f"{plan.name}-{name}.csv") for name in names
    )
    spent = trials["seconds"].sum() / 60
    yield f"## {plan.title[0].upper()}{plan.title[1:]}\n"
    yield (
        f"{trials['trials'].sum()} trials of {len(plan.losses)} losses"
        f" ({', '.join(plan.losses)}), {plan.training['steps']} steps of"
        f" {plan.training['pairs_per_step']} pairs, {plan.evaluation['prompts']} prompts with"
        f" {plan.evaluation['samples_per_prompt']} responses: {spent:.0f} minutes of one thread for"
        f" training and evaluation, {facts.get(plan.name, 0) / 60:.0f} in all, on a machine with"
        " other work."
        " Strengths that lead to the KLs were searched for by condition.\n"
    )
    yield "| condition | learning rate | seeds | trials |"
    yield "|---|---:|---|---:|"
    counts = trials.set_index("condition")["trials"]
    for name, one in plan.conditions.items():
        seeds = ", ".join(map(str, one.seeds))
        rate = f"{one.training['learning_rate']:g}"
        yield f"| {name} | {rate} | {seeds} | {counts.get(name, 0):.0f} |"
    yield f"\n{TAU}\n"
    yield "| KL | first | second | losses | tau | regret |"
    yield "|---:|---|---|---:|---|---|"
    for kl in plan.levels:
        for first, second in COMPARED:
            chosen = (taus["kl"] == kl) & (taus["first"] == first) & (taus["second"] == second)
            for _, row in taus[chosen].iterrows():
                known = not pd.isna(row["tau"])
                ends = f"[{row['regret_low']:.3f}, {row['regret_high']:.3f}]"
                figures = f"{_tau(row)} | {row['regret']:.3f} {ends}" if known else "not ranked | "
                yield f"| {kl:g} | {first} | {second} | {row['losses']} | {figures} |"
    yield "\nMean reward at each KL:\n"
    yield from _rewards(rewards, plan)
    yield from _missing(missing)
    yield "\nVerdicts on pairs of losses by the project's own comparison, over all these KLs:\n"
    yield "| first | second | decided alike | the other way | open in one | open in both |"
    yield "|---|---|---:|---:|---:|---:|"
    for first, second in COMPARED:
        if {first, second} <= set(pairs.columns):
            found = disagreements(pairs, first, second)
            yield f"| {first} | {second} | {' | '.join(str(one) for one in found.values())} |"
    yield f"\n{POWER}\n"


def _few(folder: Path, plan: Study, facts: dict[str, float]) -> Iterator[str]:
    file = folder / f"{plan.name}-{FEW}"
    spent = facts.get(plan.name, 0) / 60
    yield f"## {plan.title[0].upper()}{plan.title[1:]}\n"
    if not file.is_file():
        yield "Not run: of this model only time and memory are measured, below.\n"
        return
    yield (
        f"That it runs on a real language model, and no more: {plan.training['steps']} steps of"
        f" {plan.training['pairs_per_step']} pairs, one strength, one seed,"
        f" {plan.evaluation['prompts']} prompts, in {spent:.0f} minutes. Strengths were not looked"
        " for and KLs differ: nothing is ranked here.\n"
    )
    yield "| condition | loss | KL | reward | held-out margin | held-out accuracy |"
    yield "|---|---|---:|---:|---:|---:|"
    for _, row in pd.read_csv(file).iterrows():
        figures = " | ".join(f"{row[name]:.3f}" for name in FIGURES)
        yield f"| {row['condition']} | {row['loss']} | {figures} |"
    yield ""


def _rewards(rewards: pd.DataFrame, plan: Study) -> Iterator[str]:
    conditions = [name for name in plan.conditions if name in set(rewards["condition"])]
    columns = [(kl, name) for kl in plan.levels for name in conditions]
    yield "| loss | " + " | ".join(f"KL {kl:g}, {name}" for kl, name in columns) + " |"
    yield "|---|" + "---:|" * len(columns)
    found = rewards.set_index(["kl", "condition", "loss"])["reward"]
    for loss in plan.losses:
        cells = (found.get((kl, name, loss)) for kl, name in columns)
        shown = ("not read" if one is None else f"{one:.3f}" for one in cells)
        yield f"| {loss} | {' | '.join(shown)} |"


def _missing(missing: pd.DataFrame) -> Iterator[str]:
    if len(missing):
        yield "\nNot read, and so not ranked at that KL under any condition:\n"
        for _, row in missing.iterrows():
            yield f"- {row['loss']} at KL {row['kl']:g}, {row['condition']}: {row['reason']}"


def _speed(folder: Path, facts: dict[str, float]) -> Iterator[str]:
    if not (folder / SPEED).is_file():
        return
    kept = pd.read_csv(folder / SPEED)
    yield "## What it saves\n"
    yield (
        "CPU seconds (`time.process_time`) of a trial of one worker, the reference's log-probs and"
        " what was tried before the first trial among them, and the most memory that its process"
        " held beyond its imports. The three workers take turns trial by trial, each with one"
        f" thread, on a {processor()} with other work, which lengthens all of them: what counts is"
        " how they compare. The median of repetitions, with their range. No evaluation."
        " *Lower layers in each pass* is a pass of all layers; *each further* is a trial behind the"
        f" first. {checked(kept)}\n"
    )
    yield from lines(kept)
    yield f"\n(In {facts.get('speed', 0) / 60:.0f} minutes.)"


def _tau(row: Any) -> str:
    return f"{row['tau']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
