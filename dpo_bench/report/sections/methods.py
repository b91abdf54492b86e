"""How the figures were made, in sentences filled in from the configuration."""

from __future__ import annotations

from collections.abc import Iterator

from dpo_bench.analysis.metrics import KL
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts
from dpo_bench.analysis.results import SweepResults
from dpo_bench.experiment import Experiment
from dpo_bench.experiment.config import Evaluation
from dpo_bench.report.sections.uncertainty import FAMILY, curve_points, held_by_intervals
from dpo_bench.wording import counted, number, plain_number

Note = tuple[str, str]
"""A heading and its text."""


def method_notes(
    results: SweepResults, experiment: Experiment | None, compared: CurvesOnPrompts | None
) -> tuple[Note, ...]:
    """The notes that apply to this sweep.

    Args:
        results: the sweep.
        experiment: what made it; None where that is not known.
        compared: the curves by which losses were compared at matched KL; None when they were not.
    """
    matched = [_matched(results, experiment, compared)] if compared else []
    if experiment is None:
        return (_as_given(results), _intervals(results), *matched)
    rewards = _reward_notes(results, experiment.evaluation)
    kl = _kl(experiment.evaluation.temperature)
    return (kl, *rewards, _pairs(), _intervals(results), *matched, _pairing())


def _as_given(results: SweepResults) -> Note:
    text = (
        f"Figures are as {results.name} gives them. How they were measured is not recorded there,"
        " nor that the policies had their training data, their prompts and their sampling in"
        " common."
    )
    if results.has_kl:
        text += " KLs are taken to be in nats; axes show their square root."
    return "Figures as they were given", text


def _kl(temperature: float) -> Note:
    text = (
        "KL(policy || reference), in nats per response: the sum over the response's tokens (its end"
        " token counted, the prompt's tokens not), mean over responses. Rao-Blackwellised: at every"
        " position of a sampled response the KL between the two next-token distributions is taken"
        " over the whole vocabulary, at temperature 1, instead of the log-ratio of the one sampled"
        " token. The plain Monte Carlo estimate stands beside it in the table; the two agree within"
        " their errors when all is well. Axes show the square root of the KL."
    )
    if temperature != 1.0:
        text += (
            " The responses that the reward sees were sampled at temperature"
            f" {plain_number(temperature)}; the KL is that of further responses at temperature 1."
        )
    return "KL to the reference", text


def _reward_notes(results: SweepResults, evaluation: Evaluation) -> Iterator[Note]:
    if results.judge:
        yield "Judged win rate", _judged(results.judge, evaluation.judge_opponents)
        return
    if not results.has_reward:
        yield (
            "No reward",
            (
                "This experiment names no reward (evaluation.reward = none). Mean reward, win"
                " rates, the optimal frontier, best-of-n and the comparison at matched KL are"
                " therefore left out: they are not zero, they were not measured."
            ),
        )
        return
    k = evaluation.reference_samples
    yield (
        "Reward and win rate",
        (
            f"The reward ({evaluation.reward}) scores the response to a held-out prompt. A"
            f" policy's response is held against all {k} reference responses to the same prompt; a"
            " win counts 1, a tie a half. The win rate is the mean over responses; against the"
            " dataset's chosen response it is defined alike, with one opponent per prompt."
        ),
    )
    if not results.reference.frontier:
        yield (
            "No optimal frontier",
            (
                "The frontier and best-of-n are estimated from the reference's own responses at"
                " temperature 1; this sweep has none."
            ),
        )
        return
    yield "Optimal frontier", _frontier(results, k)
    yield (
        "Best of n",
        (
            f"The mean reward of the best of n of the {k} reference responses, at KL ln n - (n -"
            " 1)/n nats. It is an unbiased estimate while the frontier's bias is downward, so that"
            " best-of-n may appear above the frontier near the end of its range."
        ),
    )


def _judged(judge: str, opponents: int) -> str:
    return (
        f"The judge {judge} compares a policy's response with"
        f" {counted(opponents, 'response')} of the reference to the same prompt, in both orders:"
        " where the orders disagree it is a tie, which counts a half. A judge gives no reward to a"
        " single response, so mean reward, the optimal frontier and best-of-n are left out: they"
        " are not zero, they were not measured. Losses are compared at matched KL by their win"
        " rate, on the prompts for which every policy has a verdict. The section on controls says"
        " how far the judge can be trusted."
    )


def _frontier(results: SweepResults, k: int) -> str:
    end = number(results.reference.frontier[-1].kl, KL.decimals)
    return (
        "The best mean reward that any policy could have at a given KL, estimated from the"
        f" reference's own responses: for each prompt its {k} responses are tilted by exp(reward /"
        f" temperature), one temperature for all prompts. {k} responses cannot show policies that"
        f" are far from the reference: the curve is drawn to KL {end} nats (at most ln {k} - 1.2)"
        " and no further, and gaps to it are given only there. Within that range the estimate's"
        " small bias is downward, so a policy slightly above the curve is not thereby better than"
        " optimal."
    )


def _pairs() -> Note:
    return (
        "Preference accuracy, margin and log-ratios",
        (
            "On held-out preference pairs. A log-ratio is the log-probability of a response under"
            " the policy minus under the reference, in nats, summed over the response; the margin"
            " is the chosen one minus the rejected one; a pair counts as right when its margin is"
            " above 0, half when it is 0. A falling chosen log-ratio (likelihood displacement)"
            " means that the policy makes the very responses less likely that the data prefers."
        ),
    )


def _intervals(results: SweepResults) -> Note:
    count = counted(results.resamples, "resample")
    return (
        "Intervals",
        (
            f"Every interval is a 95% interval from a bootstrap over prompts ({count},"
            " bias-corrected and accelerated): a prompt is drawn with all its responses, because"
            f" responses to one prompt are alike. {held_by_intervals(results.seeds)} Each interval"
            " stands for itself: none is corrected for how many comparisons a reader makes; the"
            " verdicts separated and not separated are."
        ),
    )


def _families(curves: CurvesOnPrompts) -> str:
    if len(curves.measures) < 2:
        return ""
    return " Each measure is a family of its own."


def _apart(seeds: int) -> str:
    if seeds < 2:
        return ""
    return (
        " The standard errors from prompts (what endless seeds would leave) and from seeds (what"
        " endless prompts would leave; 0 where seeds differ no more than sampled responses make"
        " them) are given apart."
    )


def _matched(results: SweepResults, experiment: Experiment | None, curves: CurvesOnPrompts) -> Note:
    figures = " and ".join(one.phrase for one in curves.measures)
    return (
        "Comparison at matched KL",
        (
            "Equal strengths mean different things to different losses, so losses are compared at"
            f" equal KL, by {figures}. {curve_points(curves.checkpoints, experiment)}"
            " Curves are read at KLs that all of the compared losses cover, and never"
            " extrapolated. Differences are taken prompt by prompt, and the same resampled prompts"
            " serve all losses and all points of a curve. Two losses are called separated where"
            f" {FAMILY} lets them: any false separation has a chance of at most 5%;"
            " otherwise they are not separated, which is not the same as equal."
            f"{_families(curves)} A pair's own interval may exclude 0 where the family's verdict"
            f" is not separated.{_apart(len(results.seeds))}"
        ),
    )


def _pairing() -> Note:
    return (
        "Shared conditions",
        (
            "Every trial starts from the same weights, sees the pairs of its seed in the same order"
            " and answers the same prompts with the same sampling seeds. That correlates the errors"
            " of different policies: good for differences, which become more precise than the"
            " single figures; but it also means that the single figures err in the same direction"
            " together."
        ),
    )
