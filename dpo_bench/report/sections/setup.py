"""What the sweep varied, tuned and held fixed, in the sense of Google's tuning playbook.

The loss is the scientific hyperparameter, its strength the nuisance hyperparameter that each loss
sweeps over a grid of its own; all others are fixed, and each of those is a caveat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.results import SweepResults
from dpo_bench.analysis.series import tuned_keys
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.fields import NO_EFFECT, VARIED, values
from dpo_bench.report.configuration import spelled
from dpo_bench.report.sections.methods import FEWEST_STEPS
from dpo_bench.report.templating import Words
from dpo_bench.wording import counted, listing, plain_number


@dataclass(frozen=True, slots=True)
class FixedSetting:
    """One condition that was the same for every trial."""

    key: str
    value: str
    about: str


@dataclass(frozen=True, slots=True)
class Setup:
    """The header's three lists and the details under them.

    Attributes:
        varied: what the sweep asks about.
        tuned: what each loss sweeps for itself.
        fixed: the conditions worth reading first.
        caveats: what the fixed conditions mean for the conclusions, in sentences.
        settings: every fixed condition.
    """

    varied: tuple[tuple[str, str], ...]
    tuned: tuple[tuple[str, str], ...]
    fixed: tuple[tuple[str, str], ...]
    caveats: tuple[str, ...]
    settings: tuple[FixedSetting, ...]


def describe_setup(
    results: SweepResults, experiment: Experiment | None, series: Sequence[LossCurve]
) -> Setup:
    """Sort the experiment's settings into varied, tuned and fixed.

    Without an experiment no fixed condition is known but the one seed, where there is one.
    """
    losses = list(dict.fromkeys(one.loss for one in series))
    varied = [(counted(len(losses), "loss", "losses"), listing(losses))]
    if len(series) > len(losses):
        varied.append(("Variants", listing([one.label for one in series])))
    seeds = results.seeds
    repeated = ("Training seeds", ", ".join(map(str, seeds)))
    varied += [repeated] if len(seeds) > 1 else []
    words = _words(results, experiment)
    return Setup(
        varied=tuple(varied),
        tuned=(*(_searched(results) if results.search else _grids(series)), *_options(series)),
        fixed=(*words.notes("fixed"), *((repeated,) if len(seeds) == 1 else ())),
        caveats=words.items("caveats"),
        settings=tuple(_fixed_settings(experiment)) if experiment else (),
    )


def _grids(series: Sequence[LossCurve]) -> Iterator[tuple[str, str]]:
    """Each grid once, with the losses that have it."""
    grids: dict[tuple[str, str], list[str]] = {}
    for one in series:
        strengths = [s.strength for s in one.settings if s.strength is not None]
        if strengths:
            key = (one.strength_name, ", ".join(map(plain_number, strengths)))
            grids.setdefault(key, []).append(one.label)
    for (name, grid), labels in grids.items():
        yield f"{name} of {listing(labels)}", grid


def _searched(results: SweepResults) -> Iterator[tuple[str, str]]:
    """What a search sought, in place of grids."""
    kls = {one["kl"] for found in results.search["series"] for one in found.get("targets", ())}
    sought = listing([plain_number(kl) for kl in sorted(kls)])
    yield "Settings of each loss", f"searched for, to reach KL {sought} nats"


def _options(series: Sequence[LossCurve]) -> Iterator[tuple[str, str]]:
    """What losses were tuned over, with what was chosen for each."""
    for one in series:
        if one.options:
            tried = listing([option.label for option in one.options])
            yield f"Training of {one.label}", f"{tried}; chosen {one.options[one.chosen].label}"


def _words(results: SweepResults, experiment: Experiment | None) -> Words:
    counts = results.counts
    cut = [(counts.get(f"truncated_{noun}s"), noun) for noun in ("prompt", "response")]
    dropped = counts.get("dropped") or {}
    return Words(
        "setup",
        experiment=experiment,
        fewest_steps=FEWEST_STEPS,
        pairs=counts.get("training_pairs"),
        prompts=results.prompts,
        text_read=_shortened(results.reference.text_read_by_the_reward),
        computing=results.computing,
        remarks=results.remarks,
        own=sorted(tuned_keys(results)),
        seeds=results.seeds,
        prompts_known=results.prompts_known,
        cut=[counted(int(count), noun) for count, noun in cut if count],
        dropped=sum(map(int, dropped.values())),
        reasons=[f"{reason}: {count}" for reason, count in sorted(dropped.items())],
    )


def _shortened(text: str, ends: int = 150) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 2 * ends + 5 else f"{line[:ends]} ... {line[-ends:]}"


def _fixed_settings(experiment: Experiment) -> Iterator[FixedSetting]:
    """What was the same for every trial and matters in this experiment, by the keys' names."""
    for key, value in sorted(values(experiment), key=lambda pair: pair[0].path.split(".")):
        needed = key.needed_for
        if key.has(VARIED) or (needed and not experiment.has(needed)):
            continue
        about = (key.field.description or "").replace("``", "")
        if key.has(NO_EFFECT):
            about = f"{about}; {NO_EFFECT.about}"
        yield FixedSetting(key.path, spelled(value), about)
