"""``--dry-run``: everything that a run would refuse is checked, and what it would do is shown.

The checks are the run's own, with its words and exit codes. Models are not loaded, only described;
one that is on the hub and not on this machine yet is left out, and that is said.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dpo_bench.contract import get_loss
from dpo_bench.data.prepare import read_preferences
from dpo_bench.experiment import Experiment, PlannedTrial, plan_trials
from dpo_bench.experiment.defaults import settled
from dpo_bench.model.compatibility import require_ids, require_positions
from dpo_bench.model.load import device_of, skeleton
from dpo_bench.model.reach import parameters_of_text
from dpo_bench.model.source import is_remote
from dpo_bench.notes import heard
from dpo_bench.progress import Loudness
from dpo_bench.rewards.find import find_reward
from dpo_bench.sweep.display import make_display
from dpo_bench.sweep.estimate import Size, estimate, evaluations, in_words, matrix_speed
from dpo_bench.sweep.executors.machines import bytes_per_worker, choose_workers, this_machine
from dpo_bench.sweep.inputs import Inputs, describe, prepare_inputs
from dpo_bench.sweep.judging import count_questions, describe_cost, describe_questions
from dpo_bench.sweep.power import TrialSeconds
from dpo_bench.sweep.sources import Sources, find_sources, preferences_source
from dpo_bench.training.input_builders import require_margins
from dpo_bench.training.trainer import number_of_steps

if TYPE_CHECKING:
    from dpo_bench.sweep.display import Display

EXAMPLES = 3
SHOWN = 160
"""Characters shown of either end of a long text."""


def print_plan(
    experiment: Experiment, workers: int | None, console: Console, loudness: Loudness = "normal"
) -> TrialSeconds | None:
    """Check an experiment and print its trials, its data and what it may take.

    Returns:
        what a trial may take by its prompts and responses; None where that is not known.

    Raises:
        DpoBenchError: what a run would raise.
    """
    trials = plan_trials(experiment)
    console.print(_trials(experiment, trials))
    display = make_display(Console(stderr=True), loudness)
    with display, heard(lambda note: display.note(note.text, warning=note.is_warning)):
        remote = [name for name in (experiment.policy, experiment.reference) if is_remote(name)]
        if remote:
            _check_without_models(experiment, display)
        else:
            sources = find_sources(experiment, display.phase)
            experiment = settled(experiment, sources.parameters)
            inputs = prepare_inputs(experiment, sources, display.phase)
            models = _check(experiment, sources, inputs)
    if remote:
        _say(
            console,
            f"{remote[0]} is on the hub and not on this machine yet: a run fetches it. "
            "Data, reward and device were checked; lengths, time and memory are not known.",
        )
        _print_judging(experiment, len(trials), None, console)
        return None
    for line in describe(inputs, experiment):
        _say(console, line)
    for line in _examples(inputs):
        _say(console, line)
    size = _size(models[0], inputs)
    _print_judging(experiment, len(trials), size, console)
    return _print_cost(
        experiment, sources, size, _count(workers, experiment, sources, trials), console
    )


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


def _trials(experiment: Experiment, trials: list[PlannedTrial]) -> Table:
    table = Table(title=f"{experiment.name}: {len(trials)} trials", title_justify="left")
    for heading in ("", "loss", "hyperparameters", "seed"):
        table.add_column(heading)
    for number, trial in enumerate(trials, start=1):
        values = " ".join(f"{name}={value:g}" for name, value in trial.hyperparameters)
        table.add_row(str(number), escape(trial.loss), values, str(trial.seed))
    return table


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
        _say(console, "No estimate of the judging: how often a trial is evaluated is not known.")
        return
    _say(console, describe_questions(options, trials, times))
    if size is not None:
        questions = count_questions(options, trials, times).total
        _say(console, describe_cost(options, questions, size.prompt, size.response))


def _count(
    workers: int | None, experiment: Experiment, sources: Sources, trials: list[PlannedTrial]
) -> tuple[int, int]:
    """Workers, and trials that the busiest of them has."""
    need = bytes_per_worker(sources, lora=experiment.training.lora is not None)
    count = workers or choose_workers([this_machine()], sources, len(trials), need)
    return count, math.ceil(len(trials) / count)


def _print_cost(
    experiment: Experiment, sources: Sources, size: Size, load: tuple[int, int], console: Console
) -> TrialSeconds | None:
    """Steps, memory and, on a CPU, time, which it gives."""
    training, (workers, trials_each) = experiment.training, load
    steps = number_of_steps(training, size.pairs)
    passes = steps * training.pairs_per_step / size.pairs
    _say(
        console,
        f"Training: {steps} steps of {training.pairs_per_step} pairs ({passes:.2g} passes over the "
        f"pairs), learning rate {training.peak_rate:g}, {sources.content.device}.",
    )
    need = bytes_per_worker(sources, lora=training.lora is not None)
    _say(
        console,
        f"Model: {size.parameters:,} parameters; about {need / 2**20:,.0f} MiB a worker besides "
        f"the activations of a pass and the libraries; workers: {workers}.",
    )
    if sources.device != "cpu":
        _say(console, "No estimate of the time: none was ever measured on a GPU.")
        return None
    speed = matrix_speed()
    seconds = estimate(experiment, size, speed)
    _say(
        console,
        f"Time: about {in_words(seconds)} a trial and {in_words(seconds * trials_each)} in all "
        "(an estimate, good to a factor of two or three).",
    )

    def of(prompts: int, responses: int) -> float:
        asked = {"prompts": prompts, "samples_per_prompt": responses}
        evaluation = experiment.evaluation.model_copy(update=asked)
        planned = experiment.model_copy(update={"evaluation": evaluation})
        return estimate(planned, replace(size, prompts=prompts), speed)

    return of


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
