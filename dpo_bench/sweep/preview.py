"""``--dry-run``: everything that a run would refuse is checked, and what it would do is shown.

The checks are the run's own, with its words and exit codes. Models are not loaded, only described;
one that is on the hub and not on this machine yet is left out, and that is said.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dpo_bench.contract import get_loss
from dpo_bench.data.prepare import read_preferences
from dpo_bench.experiment import Experiment, PlannedTrial, plan_trials
from dpo_bench.experiment.config import Search
from dpo_bench.experiment.defaults import settled, with_some_rate
from dpo_bench.model.compatibility import require_ids, require_positions
from dpo_bench.model.load import device_of, skeleton
from dpo_bench.model.reach import parameters_of_text
from dpo_bench.model.source import is_remote
from dpo_bench.notes import heard
from dpo_bench.progress import Loudness
from dpo_bench.rewards.find import find_reward
from dpo_bench.search.axes import LEARNING_RATE, Axis, axes_of
from dpo_bench.search.plan import baseline_of, looks_of, seeds_of, trial_range
from dpo_bench.sweep.display import make_display
from dpo_bench.sweep.estimate import Size, estimate, evaluations, in_words, matrix_speed
from dpo_bench.sweep.executors.machines import choose_workers, count_gpus, this_machine
from dpo_bench.sweep.inputs import Inputs, describe, prepare_inputs
from dpo_bench.sweep.judging import count_questions, describe_cost, describe_questions
from dpo_bench.sweep.memory import (
    GIB,
    describe_plan,
    memory_plan,
    on_gpu_of,
    require_fitting,
    shared_bytes,
)
from dpo_bench.sweep.power import TrialSeconds
from dpo_bench.sweep.sources import Sources, find_sources, preferences_source
from dpo_bench.terminal import Terminal, say
from dpo_bench.training.input_builders import require_margins
from dpo_bench.training.trainer import number_of_steps

if TYPE_CHECKING:
    from dpo_bench.sweep.display import Display
    from dpo_bench.training.memory import MemoryPlan

EXAMPLES = 3
SHOWN = 160
"""Characters shown of either end of a long text."""


@dataclass(frozen=True)
class _Forecast:
    """How many trials a sweep takes.

    Attributes:
        least: fewest of them.
        most: the most.
        trials: those that are known; none of a search.
    """

    least: int
    most: int
    trials: tuple[PlannedTrial, ...] = ()

    @property
    def has_own_values(self) -> bool:
        """Whether some have values of ``[training]`` of their own."""
        return any(trial.training for trial in self.trials)

    def seconds(self, experiment: Experiment, size: Size, speed: float) -> float:
        """Seconds that one trial takes, in the mean over those that are known; see `estimate`."""
        if not self.has_own_values:
            return estimate(experiment, size, speed)
        total = 0.0
        for own, count in Counter(trial.training for trial in self.trials).items():
            trial = next(one for one in self.trials if one.training == own)
            training = trial.settings(experiment.training)
            alike = experiment.model_copy(update={"training": training})
            total += count * estimate(alike, size, speed)
        return total / len(self.trials)


def _forecast(experiment: Experiment) -> _Forecast:
    if experiment.search is not None:
        return _Forecast(*trial_range(with_some_rate(experiment)))
    trials = plan_trials(experiment)
    return _Forecast(len(trials), len(trials), tuple(trials))


def print_plan(
    experiment: Experiment,
    workers: int | None,
    console: Console,
    loudness: Loudness = "normal",
    *,
    gpu_memory: float | None = None,
) -> TrialSeconds | None:
    """Check an experiment and print its trials, its data and what it may take.

    Args:
        experiment: what would be run.
        workers: as asked for; None: to be chosen.
        console: is printed to.
        loudness: of what is told on the way.
        gpu_memory: GiB of a GPU that this machine need not have, to plan the memory for.

    Returns:
        what a trial may take by its prompts and responses; None where that is not known.

    Raises:
        DpoBenchError: what a run would raise.
    """
    forecast = _forecast(experiment)
    if experiment.search is None:
        console.print(_trials(experiment, forecast.trials))
    else:
        _print_search(experiment, experiment.search, forecast, console)
    found = _checked(experiment, make_display(Terminal(stderr=True), loudness), gpu_memory)
    if isinstance(found, str):
        say(
            console,
            f"{found} is on the hub and not on this machine yet: a run fetches it. "
            "Data, reward and device were checked; lengths, time and memory are not known.",
        )
        _print_judging(experiment, forecast.most, None, console)
        return None
    experiment = found.experiment
    for line in (*describe(found.inputs, experiment), *_examples(found.inputs)):
        say(console, line)
    _print_judging(experiment, forecast.most, found.size, console)
    if workers is None:
        each = experiment.training.gpus_per_trial
        machines = [this_machine(count_gpus() if gpu_memory is None else each)]
        need = found.plan.total
        common = shared_bytes(found.plan, experiment.training)
        workers = choose_workers(machines, found.sources, forecast.most, need, each, shared=common)
    seconds = _print_cost(found, console, forecast=forecast, workers=workers)
    for line in describe_plan(found.plan):
        say(console, line)
    require_fitting(found.plan, experiment.training)
    return seconds


@dataclass(frozen=True)
class _Checked:
    """What a run would start from.

    Attributes:
        experiment: every ``auto`` settled.
        sources: of model and data.
        inputs: the data.
        size: how much there is to do.
        plan: of the memory.
    """

    experiment: Experiment
    sources: Sources
    inputs: Inputs
    size: Size
    plan: MemoryPlan


def _checked(experiment: Experiment, display: Display, gpu_memory: float | None) -> _Checked | str:
    """Check all that a run would; of a model that is not on this machine yet, only its name."""
    asked = experiment.training
    if gpu_memory is not None:  # all but memory and speed is checked as on a CPU
        training = asked.model_copy(update={"device": "cpu", "precision": "auto"})
        experiment = experiment.model_copy(update={"training": training})
    with display, heard(lambda note: display.note(note.text, warning=note.is_warning)):
        for name in (experiment.policy, experiment.reference):
            if name is not None and is_remote(name):
                _check_without_models(experiment, display)
                return name
        sources = find_sources(experiment, display.phase)
        experiment = settled(experiment, sources.parameters)
        inputs = prepare_inputs(experiment, sources, display.phase)
        models = _check(experiment, sources, inputs)
        memory = None
        if gpu_memory is not None:
            sources, memory = on_gpu_of(sources, asked.precision), int(gpu_memory * GIB)
        plan = memory_plan(experiment, sources, inputs, memory)
    return _Checked(experiment, sources, inputs, _size(models[0], inputs), plan)


def _check_without_models(experiment: Experiment, display: Display) -> None:
    device = device_of(experiment.training.device)
    find_reward(experiment.evaluation, device)
    read_preferences(preferences_source(experiment, display.phase), experiment.data)


def _check(experiment: Experiment, sources: Sources, inputs: Inputs) -> list[Any]:
    """What a worker refuses before its first trial; gives policy and reference without weights."""
    folders = [sources.policy]
    if sources.reference.digest != sources.policy.digest:
        folders.append(sources.reference)
    trust = experiment.trust_remote_code
    models = [skeleton(folder, trust_remote_code=trust) for folder in folders]
    shared = min(int(model.config.get_text_config().vocab_size) for model in models)
    for model in models:
        require_positions(model, inputs.longest_pair, inputs.longest_prompt, inputs.new_tokens)
        require_ids(model, shared, inputs.tokenizer, inputs.used_tokens)
    for grid in experiment.losses:
        loss = get_loss(grid.name)
        if "preference_margin" in loss.needs:
            require_margins(loss.name, inputs.pairs, experiment.data.margin_column)
    return models


def _trials(experiment: Experiment, trials: Sequence[PlannedTrial]) -> Table:
    table = Table(title=f"{experiment.name}: {len(trials)} trials", title_justify="left")
    for heading in ("", "loss", "hyperparameters", "seed"):
        table.add_column(heading)
    for number, trial in enumerate(trials, start=1):
        values = trial.setting_label.removeprefix(trial.loss).strip()
        table.add_row(str(number), escape(trial.loss), escape(values), str(trial.seed))
    return table


def _print_search(
    experiment: Experiment, search: Search, forecast: _Forecast, console: Console
) -> None:
    """What is sought, by what, and how many trials that may take."""
    found = with_some_rate(experiment)
    title = f"{experiment.name}: a search of {forecast.least:,} to {forecast.most:,} trials"
    table = Table("loss", "kept", "searched by, in this order", title=title, title_justify="left")
    for grid in found.losses:
        kept = " ".join(f"{name}={_plain(values[0])}" for name, values in grid.values.items())
        axes = ", then ".join(
            f"{axis.name} from {_start(axis, experiment)}"
            for axis in axes_of(grid, search, found.training)
        )
        table.add_row(escape(get_loss(grid.name).name), escape(kept), escape(axes))
    console.print(table)
    for line in _search_in_words(experiment, search):
        say(console, line)


def _seeds_in_words(experiment: Experiment, search: Search) -> str:
    seeds = seeds_of(experiment)
    if len(seeds) == 1:
        return f"Seeds: {seeds[0]} alone, with which policies are compared, and no losses."
    looks = ", ".join(map(str, looks_of(search, len(seeds))))
    return (
        f"Seeds: what is found with seed {seeds[0]} is repeated with others; comparisons with "
        f"{baseline_of(experiment)} are looked at when there are {looks} seeds in all."
    )


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _start(axis: Axis, experiment: Experiment) -> str:
    is_auto = axis.name == LEARNING_RATE and experiment.training.learning_rate == "auto"
    return "auto" if is_auto else f"{axis.start:g}"


def _search_in_words(experiment: Experiment, search: Search) -> Iterator[str]:
    kls = ", ".join(f"{kl:g}" for kl in search.kl)
    yield f"Sought: policies at KL {kls} nats, each within {100 * search.within:g}%."
    yield _seeds_in_words(experiment, search)
    if search.learning_rates:
        rates = ", ".join(f"{rate:g}" for rate in search.learning_rates)
        yield f"Learning rates: every loss is searched at each of {rates}; one is chosen."
    of_each = " and learning rate" if search.learning_rates else ""
    limits = [f"{search.trials_per_loss} trials of the search for each loss{of_each}"]
    limits += [f"{search.trials} trials in all"] if search.trials else []
    limits += [f"{search.hours:g} hours"] if search.hours else []
    early = (
        "trials far beyond the largest KL are stopped early"
        if search.stop_early
        else "none is stopped early"
    )
    yield f"Budget: at most {', '.join(limits)}; {early}."


def _examples(inputs: Inputs) -> Iterator[str]:
    """A few training pairs as the model reads them, the boundary of prompt and response marked."""
    decode = inputs.tokenizer.decode
    count = min(EXAMPLES, len(inputs.pairs))
    step = max(1, len(inputs.pairs) // max(count, 1))
    for number in range(count):
        prompt, chosen, rejected = inputs.pairs.pair(number * step)
        yield f"Pair {number * step + 1}, as it is trained on; \u2503 is where the response begins:"
        yield f"  chosen    {_short(decode(prompt))}\u2503{_short(decode(chosen))}"
        yield f"  rejected  ...\u2503{_short(decode(rejected))}"


def _short(text: str) -> str:
    """A text in one line, its middle left out where it is long."""
    line = text.replace("\n", "\u23ce").replace("\r", "\u240d")
    if len(line) > 2 * SHOWN + 5:
        line = f"{line[:SHOWN]} ... {line[-SHOWN:]}"
    return "".join(char if char.isprintable() else "\ufffd" for char in line)


def _size(model: Any, inputs: Inputs) -> Size:
    pairs = inputs.pairs
    responses = (pairs.chosen_lengths.mean() + pairs.rejected_lengths.mean()) / 2
    return Size(
        parameters=parameters_of_text(model),
        prompt=float(pairs.prompt.lengths.mean()),
        response=float(responses),
        pairs=len(pairs),
        prompts=len(inputs.prompts),
    )


def _print_judging(
    experiment: Experiment, trials: int, size: Size | None, console: Console
) -> None:
    options = experiment.evaluation
    if not experiment.has("judge"):
        return
    times = evaluations(experiment, size.pairs if size else None)
    if times is None:
        say(console, "No estimate of the judging: how often a trial is evaluated is not known.")
        return
    say(console, describe_questions(options, trials, times))
    if size is not None:
        questions = count_questions(options, trials, times).total
        say(console, describe_cost(options, questions, size.prompt, size.response))


def _print_cost(
    found: _Checked, console: Console, *, forecast: _Forecast, workers: int
) -> TrialSeconds | None:
    """Steps and, on a CPU, time, which it gives."""
    experiment, sources, size = found.experiment, found.sources, found.size
    training = experiment.training
    steps = number_of_steps(training, size.pairs)
    passes = steps * training.pairs_per_step / size.pairs
    own = "; some trials have values of their own" if forecast.has_own_values else ""
    say(
        console,
        f"Training: {steps} steps of {training.pairs_per_step} pairs ({passes:.2g} passes over the "
        f"pairs), learning rate {training.peak_rate:g}, {sources.content.device}{own}.",
    )
    say(console, f"Model: {size.parameters:,} parameters; workers: {workers}.")
    if sources.device != "cpu":
        say(console, "No estimate of the time: none was ever measured on a GPU.")
        return None
    speed = matrix_speed()
    seconds = forecast.seconds(experiment, size, speed)
    whole = [
        in_words(seconds * math.ceil(count / workers))
        for count in dict.fromkeys((forecast.least, forecast.most))
    ]
    say(
        console,
        f"Time: about {in_words(seconds)} a trial and {' to '.join(whole)} in all "
        "(an estimate, good to a factor of two or three).",
    )

    def of(prompts: int, responses: int) -> float:
        asked = {"prompts": prompts, "samples_per_prompt": responses}
        evaluation = experiment.evaluation.model_copy(update=asked)
        planned = experiment.model_copy(update={"evaluation": evaluation})
        return forecast.seconds(planned, replace(size, prompts=prompts), speed)

    return of
