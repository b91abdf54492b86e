"""Rewards, which give each response a number, and how an experiment names them and its judges.

A reward gives numbers, a judge (`dpo_bench.rewards.judge`) gives preferences; what both come to,
the share of opponents that a response beats, is made in `dpo_bench.rewards.scoring`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment.config import CLASSIFIERS, JUDGE
from dpo_bench.progress import Tell
from dpo_bench.rewards.base import Prompt, Reward
from dpo_bench.rewards.functions import find_function

if TYPE_CHECKING:
    from dpo_bench.experiment.config import Evaluation
    from dpo_bench.rewards.judge import Judge


def find_reward(options: Evaluation, device: str = "cpu") -> Reward | Judge | None:
    """What an experiment's ``evaluation.reward`` names; None for ``none``.

    ========================  ====================================================================
    ``vader``                 the compound score, in [-1, 1], of Hutto & Gilbert 2014's sentiment
                              rules, of the response alone
    ``module:function``       a user's function, on the import path or in the working directory
    ``model:PATH``            a sequence classifier's scalar, or the log-odds of one of its labels
    ``sentiment:PATH``        a sentiment classifier's p(positive), as in the DPO paper
    ``judge:MODEL``           a language model behind an OpenAI-compatible endpoint
    ========================  ====================================================================

    Args:
        options: the evaluation's settings.
        device: where a classifier runs.

    Raises:
        ConfigurationError: there is no such module, function, model or label.
        EnvironmentProblem: a model cannot be had, or a judge lacks its package or key.
    """
    spec = options.reward
    if spec == "none":
        return None
    if spec == "vader":
        return _vader_reward()
    kind, colon, rest = spec.partition(":")
    if not colon or not kind or not rest:
        raise ConfigurationError(
            f"evaluation.reward = {spec!r}: use vader, none, module:function, model:PATH, "
            "sentiment:PATH or judge:MODEL."
        )
    if kind in CLASSIFIERS:
        from dpo_bench.rewards.classifiers import classifier_reward

        return classifier_reward(kind, rest, options, device)
    if kind == JUDGE:
        from dpo_bench.rewards.judge import find_judge

        return find_judge(rest, options)
    function = find_function(spec)
    return Reward(spec, function.identity, function)


def _vader_reward() -> Reward:
    from importlib.metadata import version

    return Reward("vader", f"vader {version('vaderSentiment')}", _vader)


def _vader(_prompts: list[Prompt], responses: list[str], _tell: Tell) -> list[float]:
    from dpo_bench.vader import gold_scores

    return gold_scores(responses)
