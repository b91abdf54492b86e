"""The methods paragraph for a paper's appendix, and how to cite what made the figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dpo_bench.analysis.compare import MatchedComparison
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import KL
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.sections.setup import adapter_in_words, spelled
from dpo_bench.report.sections.uncertainty import FAMILY, curve_points, held_by_intervals
from dpo_bench.version import __version__
from dpo_bench.wording import counted, listing, number, plain_number


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
    results: SweepResults, series: Sequence[LossCurve], comparison: MatchedComparison | str
) -> tuple[str, ...]:
    """The methods in running text from the configuration: how it trained, how it measured."""
    training = " ".join(_training(results, series))
    evaluation = " ".join([*_evaluation(results), *_statistics(results, comparison)])
    return training, evaluation


def _training(results: SweepResults, series: Sequence[LossCurve]) -> Iterator[str]:
    experiment, training = results.experiment, results.training
    losses = list(dict.fromkeys(one.loss for one in series))
    yield (
        f"We compared {counted(len(losses), 'preference loss', 'preference losses')}"
        f" ({listing(losses)}) by training {experiment.get('policy', 'the policy')} on"
        f" {_pairs(results)} with each of them, from the same weights and over the same pairs in"
        " the same order."
    )
    grids = {len([s for s in one.settings if s.strength is not None]) for one in series} - {0}
    if grids:
        low, high = min(grids), max(grids)
        span = counted(high, "strength") if low == high else f"{low} to {high} strengths"
        yield f"Each loss was swept over a grid of its own of {span}."
    yield (
        f"Training took {_length(training)} of {spelled(training.get('pairs_per_step'))} pairs with"
        f" {training.get('optimizer', 'the optimizer')} at a learning rate of"
        f" {spelled(training.get('learning_rate'))} ({training.get('schedule', 'constant')}"
        f" schedule, warm-up {_percent(training.get('warmup_fraction'))}, weight decay"
        f" {spelled(training.get('weight_decay'))}, gradients clipped at norm"
        f" {spelled(training.get('max_gradient_norm'))}); these settings were the same for all"
        " losses and tuned for none."
    )
    if lora := training.get("lora"):
        yield (
            f"Only {adapter_in_words(lora)}, was trained, from the same start for all losses; the"
            " policy's own weights stayed as they were."
        )
    if every := training.get("reference_sync_steps"):
        yield (
            f"The reference of the losses followed the policy every {counted(int(every), 'step')}"
            f" (share {spelled(training.get('reference_sync_rate'))}, TR-DPO); the reference of"
            " the evaluation did not."
        )
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


def _evaluation(results: SweepResults) -> Iterator[str]:
    evaluation = results.evaluation
    prompts, samples = evaluation.get("prompts"), int(evaluation.get("samples_per_prompt") or 1)
    yield (
        f"Every policy answered the same {spelled(prompts)} held-out prompts with"
        f" {counted(samples, 'response')} each (temperature"
        f" {spelled(evaluation.get('temperature'))}, at most"
        f" {spelled(evaluation.get('max_new_tokens'))} tokens, common sampling seeds)."
    )
    if results.has_reward:
        yield (
            f"Responses were scored by {evaluation.get('reward')}; the win rate is the share of the"
            f" {spelled(evaluation.get('reference_samples'))} reference responses to the same"
            " prompt that a response beats, ties counting a half."
        )
    if results.judge:
        yield (
            f"The judge {results.judge} compared each response with"
            f" {spelled(evaluation.get('judge_opponents'))} of the reference's to the same prompt,"
            " in both orders; disagreement counts as a tie."
        )
    yield (
        "The divergence from the reference is KL(policy || reference) in nats per response,"
        " summed over response tokens and Rao-Blackwellised over the vocabulary at temperature 1."
    )


def _statistics(results: SweepResults, comparison: MatchedComparison | str) -> Iterator[str]:
    resamples = results.evaluation.get("resamples")
    count = f" ({int(resamples):,} resamples)" if resamples else ""
    yield (
        f"Intervals are 95% intervals from a BCa bootstrap clustered by prompt{count}."
        f" {held_by_intervals(results.seeds)}"
    )
    if isinstance(comparison, str):
        return
    levels = listing([number(level.kl, KL.decimals) for level in comparison.levels])
    who = f"{comparison.compared} of {comparison.total}"
    points = curve_points(_checkpoints(results), results.evaluation)
    who = "all of them" if comparison.compared == comparison.total else who
    yield (
        "Because equal strengths mean different things to different losses, losses were compared at"
        f" matched KL ({levels} nats), inside the range that {who} cover, paired over"
        f" {comparison.prompts:,} prompts and never extrapolated; pairs are called separated after"
        f" {FAMILY}, at the 5% level. {points}"
    )


def _checkpoints(results: SweepResults) -> int:
    return sum(len(trial.checkpoint_prompts) > 0 for trial in results.done)


def _pairs(results: SweepResults) -> str:
    source = str(results.experiment.get("preferences", "the preferences"))
    pairs = results.counts.get("training_pairs")
    return f"{source} preferences" if pairs is None else f"{int(pairs):,} pairs of {source}"


def _length(training: Any) -> str:
    if steps := training.get("steps"):
        return counted(int(steps), "step")
    if not training.get("epochs"):
        return "one epoch, or 30 steps where that is more,"
    epochs = float(training["epochs"])
    return f"{plain_number(epochs)} {'epoch' if epochs == 1 else 'epochs'} in steps"


def _percent(value: Any) -> str:
    return "none" if not value else f"{100 * float(value):g}% of the steps"
