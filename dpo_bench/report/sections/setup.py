"""What the sweep varied, tuned and held fixed, in the sense of Google's tuning playbook.

The loss is the scientific hyperparameter, its strength the nuisance hyperparameter that each loss
sweeps over a grid of its own; all others are fixed, and each of those is a caveat.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.results import SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.fields import NO_EFFECT, VARIED, values
from dpo_bench.report.configuration import adapter_in_words, length_in_words, spelled
from dpo_bench.report.sections.uncertainty import held_by_intervals
from dpo_bench.wording import counted, listing, plain_number

FEWEST_STEPS = 30
"""Where neither steps nor epochs are given; see `training.trainer.number_of_steps`."""


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
    unknown = (("Training and evaluation", "not recorded"),)
    essentials = _essentials(results, experiment) if experiment else unknown
    return Setup(
        varied=tuple(varied),
        tuned=tuple(_grids(series)),
        fixed=(*essentials, *((repeated,) if len(seeds) == 1 else ())),
        caveats=tuple(_caveats(results, experiment)),
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


def _essentials(results: SweepResults, experiment: Experiment) -> Iterator[tuple[str, str]]:
    training, evaluation = experiment.training, experiment.evaluation
    yield "Policy", experiment.policy
    yield "Reference", experiment.reference or "the policy's starting point"
    yield "Preferences", _preferences(results, experiment)
    rate = f"learning rate {spelled(training.learning_rate)}"
    yield "Optimizer", f"{training.optimizer}, {rate}, {training.schedule} schedule"
    if training.lora:
        yield "Trained weights", adapter_in_words(training.lora)
    length = length_in_words(training, f"one epoch, at least {FEWEST_STEPS} steps")
    yield "Length", f"{length}, {training.pairs_per_step} pairs per step"
    if every := training.reference_sync_steps:
        share = spelled(training.reference_sync_rate)
        yield (
            "Reference while training",
            f"follows the policy every {counted(every, 'step')}, share {share} (TR-DPO)",
        )
    yield "Reward", evaluation.reward
    if text := results.reference.text_read_by_the_reward:
        yield "What the reward read of the first prompt", _shortened(text)
    if way := results.computing:
        names = (way.get("architecture"), way.get("log_probs"), way.get("sampling"))
        yield "Computation", "{}, log-probs {}, sampled {}".format(*names)
    count = evaluation.prompts if results.prompts is None else results.prompts
    samples = f"{counted(evaluation.samples_per_prompt, 'response')} each"
    tokens = f"at most {evaluation.max_new_tokens} tokens"
    temperature = f"temperature {spelled(evaluation.temperature)}"
    yield "Evaluation", f"{count} held-out prompts, {samples}, {tokens}, {temperature}"


def _shortened(text: str, ends: int = 150) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 2 * ends + 5 else f"{line[:ends]} ... {line[-ends:]}"


def _preferences(results: SweepResults, experiment: Experiment) -> str:
    source, pairs = experiment.preferences, results.counts.get("training_pairs")
    return source if pairs is None else f"{source}, {counted(int(pairs), 'training pair')}"


def _caveats(results: SweepResults, experiment: Experiment | None) -> Iterator[str]:
    yield from results.remarks
    if experiment:
        yield (
            "The fixed settings were tuned for no loss: another learning rate or number of steps"
            " could order the losses differently."
        )
    seeds = results.seeds
    if len(seeds) == 1:
        yield (
            f"One training seed ({seeds[0]}): the variance between seeds is unknown, and no"
            " interval here holds it."
        )
    elif seeds:
        yield held_by_intervals(seeds)
    yield from _data_caveats(results.counts)
    yield from _flipped(experiment) if experiment else ()
    if experiment and experiment.evaluation.temperature != 1.0:
        yield (
            "Responses were sampled at a temperature other than 1: reward and win rate describe"
            " that sampling, the KL the policy at temperature 1."
        )


def _flipped(experiment: Experiment) -> Iterator[str]:
    rate = experiment.world.flip_rate
    if rate and experiment.has("world"):
        yield (
            f"{100 * rate:g}% of the training labels are flipped (world.flip_rate). No loss is"
            " told: what a loss supposes about noise is a hyperparameter of its own, and each value"
            " of it makes a curve of its own."
        )


def _data_caveats(counts: Mapping[str, Any]) -> Iterator[str]:
    prompts, responses = counts.get("truncated_prompts"), counts.get("truncated_responses")
    cut = ((prompts, "prompt"), (responses, "response"))
    parts = [counted(int(count), noun) for count, noun in cut if count]
    if parts:
        yield f"Truncated to the token limits: {listing(parts)} of the data."
    dropped = counts.get("dropped") or {}
    if total := sum(int(count) for count in dropped.values()):
        reasons = listing([f"{reason}: {count}" for reason, count in sorted(dropped.items())])
        yield f"Left out of the data: {counted(total, 'row')} ({reasons})."


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
