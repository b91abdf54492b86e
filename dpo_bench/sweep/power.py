"""``--dry-run --detect``: how many prompts, responses and seeds show a difference, at what cost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dpo_bench.analysis.compare import LEVELS, MatchedComparison, Plan, compare_series
from dpo_bench.analysis.detectable import DEFAULT, Components, Mix, components_of, mixes, shown
from dpo_bench.analysis.prompt_curves import read_curves
from dpo_bench.analysis.results import SweepResults, read_sweep
from dpo_bench.analysis.series import group_series
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment import Experiment, plan_trials
from dpo_bench.search.plan import looks_of, seeds_of
from dpo_bench.sweep.estimate import in_words
from dpo_bench.terminal import say
from dpo_bench.wording import counted

SHOWN = 8
"""mixes that are listed"""

TrialSeconds = Callable[[int, int], float]
"""Seconds of a trial that is evaluated on so many prompts with so many responses to each."""


def print_mixes(
    experiment: Experiment,
    difference: float,
    pilot: Path | None,
    seconds: TrialSeconds | None,
    console: Console,
) -> None:
    """Print what shows a difference with a chance of 80%, the cheapest first.

    Args:
        experiment: that is planned.
        difference: in the primary measure, above 0.
        pilot: an earlier sweep whose variances and times count; None: defaults, and the estimate of
            this machine.
        seconds: that estimate; None where there is none.
        console: to print to.

    Raises:
        ConfigurationError: the difference is no positive number, or the pilot has one seed or
            nothing that was compared.
    """
    if not 0 < difference < float("inf"):
        raise ConfigurationError(f"--detect {difference:g}: give a difference above 0.")
    components = DEFAULT
    if pilot is not None:
        results = read_sweep(pilot)
        components, seconds = _components(results), _measured_seconds(results)
    losses = len(experiment.losses)
    comparisons = max(losses - 1, 1) * (len(experiment.comparison.kl) or LEVELS)
    settings, asked = _settings_and_seeds(experiment)

    def cost(prompts: int, responses: int, seeds: int) -> float:
        return settings * seeds * seconds(prompts, responses) if seconds else prompts * seeds

    found = mixes(components, difference, comparisons, cost)
    say(
        console,
        f"To show a difference of {difference:g} with a chance of 80%, among"
        f" {counted(comparisons, 'comparison')} with the baseline (variances: {components.source};"
        f" prompts {components.prompts:.2g}, responses {components.responses:.2g}, runs"
        f" {components.runs:.2g}):",
    )
    if not found:
        say(console, "No mix that was looked at (to 8,192 prompts and 20 seeds) is enough.")
        return
    console.print(_table(_best_by_seeds(found), timed=seconds is not None))
    now = experiment.evaluation
    if asked < 2:
        say(console, "As planned, with one seed, nothing is said of losses.")
        return
    here = shown(components, comparisons, now.prompts, now.samples_per_prompt, asked)
    say(console, f"As planned this sweep shows {here:.3f}.")


def _settings_and_seeds(experiment: Experiment) -> tuple[int, int]:
    """Settings that are compared, and seeds that each has; of a search the least number of seeds.

    The trials by which a search finds its settings are left out: they are the same for every mix.
    """
    search = experiment.search
    if search is None:
        seeds = len(experiment.training.seeds)
        return len(plan_trials(experiment)) // seeds, seeds
    return len(experiment.losses) * len(search.kl), looks_of(search, len(seeds_of(experiment)))[0]


def _best_by_seeds(found: list[Mix]) -> list[Mix]:
    """The cheapest mix of each number of seeds, the cheapest of all first."""
    cheapest: dict[int, Mix] = {}
    for one in found:
        cheapest.setdefault(one.seeds, one)
    return list(cheapest.values())[:SHOWN]


def _table(found: list[Mix], *, timed: bool) -> Table:
    table = Table()
    for heading in ("prompts", "responses", "seeds", "shows", *(["time of all trials"] * timed)):
        table.add_column(heading, justify="right")
    for one in found:
        cells = [f"{one.prompts:,}", str(one.responses), str(one.seeds), f"{one.shown:.3f}"]
        table.add_row(*cells, *([in_words(one.seconds)] * timed))
    return table


def _components(results: SweepResults) -> Components:
    series = group_series(results)
    found = compare_series(read_curves(results, series), series, Plan.of(results))
    known = None
    if isinstance(found, MatchedComparison):
        spreads = [one.spread for one in found.family.all if one.spread]
        responses = int(results.done[0].samples["sample"].max()) + 1
        known = components_of(spreads, found.prompts, responses, f"the sweep {results.name}")
    if known is None:
        raise ConfigurationError(
            f"--pilot {results.folder}: it tells no variances. A pilot needs two seeds or more, and"
            " two losses that share KLs."
        )
    return known


def _measured_seconds(results: SweepResults) -> TrialSeconds | None:
    """From the times of a pilot's trials: what training took, and each response."""
    table = results.table[results.table["status"] == "done"]
    if "train_seconds" not in table or not results.prompts:
        return None
    train, evaluation = (float(table[f"{name}_seconds"].mean()) for name in ("train", "evaluation"))
    responses = sum(len(trial.samples) for trial in results.done) / len(results.done)
    return lambda prompts, each: train + evaluation * prompts * each / responses
