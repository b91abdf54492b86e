"""The methods paragraph for a paper's appendix, and how to cite what made the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import KL
from dpo_bench.analysis.results import SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.config import Training
from dpo_bench.report.configuration import adapter_in_words, length_in_words, spelled
from dpo_bench.report.sections.uncertainty import FAMILY, curve_points, held_by_intervals
from dpo_bench.version import __version__
from dpo_bench.wording import counted, listing, number


def citation() -> str:
    """The BibTeX entry of this program's version."""
    return (
        "@software{dpo_bench,\n"
        "  title = {dpo\\_bench: a benchmark of preference losses},\n"
        "  year  = {2026},\n"
        f"  note  = {{Version {__version__}}}\n"
        "}"
    )


def appendix(
    results: SweepResults,
    experiment: Experiment | None,
    series: Sequence[LossCurve],
    comparison: MatchedComparison | str,
) -> tuple[str, ...]:
    """The methods in running text from the configuration: how it trained, how it measured.

    Without an experiment it says of training and measuring only that they are not known.
    """
    training = " ".join(_training(results, experiment, series))
    measured = _evaluation(results, experiment) if experiment else ()
    evaluation = " ".join([*measured, *_statistics(results, experiment, comparison)])
    return training, evaluation


def _training(
    results: SweepResults, experiment: Experiment | None, series: Sequence[LossCurve]
) -> Iterator[str]:
    losses = list(dict.fromkeys(one.loss for one in series))
    compared = (
        f"We compared {counted(len(losses), 'preference loss', 'preference losses')}"
        f" ({listing(losses)})"
    )
    if experiment:
        yield (
            f"{compared} by training {experiment.policy} on {_pairs(results, experiment)} with each"
            " of them, from the same weights and over the same pairs in the same order."
        )
    else:
        yield (
            f"{compared} by results read from {results.name}, which does not record how the"
            " policies were trained and measured."
        )
    grids = {len([s for s in one.settings if s.strength is not None]) for one in series} - {0}
    if grids:
        low, high = min(grids), max(grids)
        span = counted(high, "strength") if low == high else f"{low} to {high} strengths"
        yield f"Each loss was swept over a grid of its own of {span}."
    if experiment:
        yield from _trainer(experiment.training)
    seeds = results.seeds
    if len(seeds) > 1:
        yield f"Each setting was trained with {len(seeds)} seeds."
    elif seeds:
        yield "Each setting was trained with one seed."
    if results.failed:
        yield (
            f"{len(results.failed)} of {counted(len(results.trials), 'trial')} failed and"
            f" {'is' if len(results.failed) == 1 else 'are'} reported as such."
        )


def _trainer(training: Training) -> Iterator[str]:
    length = length_in_words(training, "one epoch, or 30 steps where that is more,")
    length += " in steps" if training.epochs else ""
    yield (
        f"Training took {length} of {training.pairs_per_step} pairs with {training.optimizer} at a"
        f" learning rate of {spelled(training.learning_rate)} ({training.schedule} schedule,"
        f" warm-up {_percent(training.warmup_fraction)}, weight decay"
        f" {spelled(training.weight_decay)}, gradients clipped at norm"
        f" {spelled(training.max_gradient_norm)}); these settings were the same for all losses and"
        " tuned for none."
    )
    if training.lora:
        yield (
            f"Only {adapter_in_words(training.lora)}, was trained, from the same start for all"
            " losses; the policy's own weights stayed as they were."
        )
    if every := training.reference_sync_steps:
        yield (
            f"The reference of the losses followed the policy every {counted(every, 'step')}"
            f" (share {spelled(training.reference_sync_rate)}, TR-DPO); the reference of the"
            " evaluation did not."
        )


def _evaluation(results: SweepResults, experiment: Experiment) -> Iterator[str]:
    evaluation = experiment.evaluation
    yield (
        f"Every policy answered the same {evaluation.prompts} held-out prompts with"
        f" {counted(evaluation.samples_per_prompt, 'response')} each (temperature"
        f" {spelled(evaluation.temperature)}, at most {evaluation.max_new_tokens} tokens, common"
        " sampling seeds)."
    )
    if results.has_reward:
        yield (
            f"Responses were scored by {evaluation.reward}; the win rate is the share of the"
            f" {evaluation.reference_samples} reference responses to the same prompt that a"
            " response beats, ties counting a half."
        )
    if results.judge:
        yield (
            f"The judge {results.judge} compared each response with"
            f" {evaluation.judge_opponents} of the reference's to the same prompt, in both orders;"
            " disagreement counts as a tie."
        )
    yield (
        "The divergence from the reference is KL(policy || reference) in nats per response,"
        " summed over response tokens and Rao-Blackwellised over the vocabulary at temperature 1."
    )


def _statistics(
    results: SweepResults, experiment: Experiment | None, comparison: MatchedComparison | str
) -> Iterator[str]:
    yield (
        "Intervals are 95% intervals from a BCa bootstrap clustered by prompt"
        f" ({results.resamples:,} resamples). {held_by_intervals(results.seeds)}"
    )
    if isinstance(comparison, str):
        return
    levels = listing([number(level.kl, KL.decimals) for level in comparison.levels])
    who = f"{comparison.compared} of {comparison.total}"
    points = curve_points(_checkpoints(results), experiment)
    who = "all of them" if comparison.compared == comparison.total else who
    yield (
        "Because equal strengths mean different things to different losses, losses were compared at"
        f" matched KL ({levels} nats), inside the range that {who} cover, paired over"
        f" {comparison.prompts:,} prompts and never extrapolated; pairs are called separated after"
        f" {FAMILY}, at the 5% level. {points}"
    )


def _checkpoints(results: SweepResults) -> int:
    return sum(len(trial.checkpoint_prompts) > 0 for trial in results.done)


def _pairs(results: SweepResults, experiment: Experiment) -> str:
    source, pairs = experiment.preferences, results.counts.get("training_pairs")
    return f"{source} preferences" if pairs is None else f"{int(pairs):,} pairs of {source}"


def _percent(share: float) -> str:
    return f"{100 * share:g}% of the steps" if share else "none"
