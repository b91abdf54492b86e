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
from dpo_bench.experiment.fields import NO_EFFECT, VARIED, walk
from dpo_bench.experiment.read import flat
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


def describe_setup(results: SweepResults, series: Sequence[LossCurve]) -> Setup:
    """Sort the experiment's settings into varied, tuned and fixed."""
    losses = list(dict.fromkeys(one.loss for one in series))
    varied = [(counted(len(losses), "loss", "losses"), listing(losses))]
    if len(series) > len(losses):
        varied.append(("Variants", listing([one.label for one in series])))
    seeds = results.seeds
    repeated = ("Training seeds", ", ".join(map(str, seeds)))
    varied += [repeated] if len(seeds) > 1 else []
    return Setup(
        varied=tuple(varied),
        tuned=tuple(_grids(series)),
        fixed=tuple(_essentials(results)) + ((repeated,) if len(seeds) == 1 else ()),
        caveats=tuple(_caveats(results)),
        settings=tuple(_fixed_settings(results.experiment)),
    )


def _grids(series: Sequence[LossCurve]) -> Iterator[tuple[str, str]]:
    """Each grid once, with the losses that have it."""
    grids: dict[tuple[str, str], list[str]] = {}
    for one in series:
        values = [s.strength for s in one.settings if s.strength is not None]
        if values:
            key = (one.strength_name, ", ".join(map(plain_number, values)))
            grids.setdefault(key, []).append(one.label)
    for (name, values_text), labels in grids.items():
        yield f"{name} of {listing(labels)}", values_text


def _essentials(results: SweepResults) -> Iterator[tuple[str, str]]:
    experiment, training, evaluation = results.experiment, results.training, results.evaluation
    yield "Policy", str(experiment.get("policy", ""))
    yield "Reference", str(experiment.get("reference") or "the policy's starting point")
    yield "Preferences", _preferences(results)
    optimizer = [
        f"{training.get('optimizer', '')}, learning rate {spelled(training.get('learning_rate'))}"
    ]
    optimizer.append(f"{training.get('schedule', '')} schedule")
    yield "Optimizer", ", ".join(optimizer)
    if lora := training.get("lora"):
        yield "Trained weights", adapter_in_words(lora)
    yield "Length", f"{_length(training)}, {spelled(training.get('pairs_per_step'))} pairs per step"
    if every := training.get("reference_sync_steps"):
        share = spelled(training.get("reference_sync_rate"))
        yield (
            "Reference while training",
            f"follows the policy every {counted(int(every), 'step')}, share {share} (TR-DPO)",
        )
    yield "Reward", str(evaluation.get("reward", "none"))
    if text := results.reference.text_read_by_the_reward:
        yield "What the reward read of the first prompt", _shortened(text)
    if way := results.computing:
        names = (way.get("architecture"), way.get("log_probs"), way.get("sampling"))
        yield "Computation", "{}, log-probs {}, sampled {}".format(*names)
    count = evaluation.get("prompts") if results.prompts is None else results.prompts
    prompts = f"{spelled(count)} held-out prompts"
    samples = counted(int(evaluation.get("samples_per_prompt", 1)), "response")
    tokens = f"at most {spelled(evaluation.get('max_new_tokens'))} tokens"
    temperature = f"temperature {spelled(evaluation.get('temperature'))}"
    yield "Evaluation", f"{prompts}, {samples} each, {tokens}, {temperature}"


def _shortened(text: str, ends: int = 150) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 2 * ends + 5 else f"{line[:ends]} ... {line[-ends:]}"


def _preferences(results: SweepResults) -> str:
    source = str(results.experiment.get("preferences", ""))
    pairs = results.counts.get("training_pairs")
    return source if pairs is None else f"{source}, {counted(int(pairs), 'training pair')}"


def adapter_in_words(lora: Mapping[str, Any]) -> str:
    """What a LoRA experiment trains, for the setup and the methods."""
    targets = lora.get("target_modules")
    scaling = "alpha / sqrt(rank)" if lora.get("rslora") else "alpha / rank"
    return (
        f"a LoRA adapter of rank {spelled(lora.get('rank'))}, alpha {spelled(lora.get('alpha'))}"
        f" (scaled by {scaling}), on"
        f" {'all linear layers' if targets == 'all-linear' else spelled(targets)}"
    )


def _length(training: Mapping[str, Any]) -> str:
    if steps := training.get("steps"):
        return counted(int(steps), "step")
    if not training.get("epochs"):
        return f"one epoch, at least {FEWEST_STEPS} steps"
    epochs = float(training["epochs"])
    return f"{plain_number(epochs)} {'epoch' if epochs == 1 else 'epochs'}"


def _caveats(results: SweepResults) -> Iterator[str]:
    yield from results.remarks
    yield (
        "The fixed settings were tuned for no loss: another learning rate or number of steps could"
        " order the losses differently."
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
    yield from _flipped(results.experiment)
    if float(results.evaluation.get("temperature") or 1.0) != 1.0:
        yield (
            "Responses were sampled at a temperature other than 1: reward and win rate describe"
            " that sampling, the KL the policy at temperature 1."
        )


def _flipped(experiment: Mapping[str, Any]) -> Iterator[str]:
    rate = float(dict(experiment.get("world") or {}).get("flip_rate") or 0.0)
    if rate and "world" not in _idle(experiment):
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


def _fixed_settings(experiment: Mapping[str, Any]) -> Iterator[FixedSetting]:
    keys = {key.path: key for key in walk(Experiment)}
    idle = _idle(experiment)
    for path, value in flat(experiment):
        key = keys.get(path)
        if path == "losses" or (key and (key.has(VARIED) or key.needed_for in idle)):
            continue
        about = "" if key is None else (key.field.description or "").replace("``", "")
        if key and key.has(NO_EFFECT):
            about = f"{about}; {NO_EFFECT.about}" if about else NO_EFFECT.about
        yield FixedSetting(path, spelled(value), about)


def _idle(experiment: Mapping[str, Any]) -> set[str]:
    """What keys are for, of all that this experiment does not have: a judge, a classifier ..."""
    sources = (experiment.get("policy"), experiment.get("reference"), experiment.get("preferences"))
    kind, colon, _ = str(dict(experiment.get("evaluation") or {}).get("reward")).partition(":")
    used = {
        "world": any(str(one).startswith("world:") for one in sources),
        "judge": kind == "judge" and bool(colon),
        "classifier": kind in ("model", "sentiment") and bool(colon),
    }
    return {name for name, is_used in used.items() if not is_used}


def spelled(value: Any) -> str:
    """A setting's value in words."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return plain_number(value)
    if isinstance(value, list):
        return ", ".join(map(spelled, value))
    return str(value)
