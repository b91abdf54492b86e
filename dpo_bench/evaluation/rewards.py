"""Rewards, which give each response a number, and how an experiment names them and its judges.

A reward gives numbers, a judge (`dpo_bench.evaluation.judge`) gives preferences; what both come to,
the share of opponents that a response beats, is made in `dpo_bench.evaluation.contest`.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dpo_bench.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.evaluation.judge import Judge
    from dpo_bench.evaluation.prompts import Prompt
    from dpo_bench.experiment.config import Evaluation

RewardFunction = Callable[[list[str], list[str]], Sequence[float]]
"""A user's: prompts as the policy reads them, and responses."""

CLASSIFIERS = ("model", "sentiment")
JUDGE = "judge"


def _none_cut(_prompts: list[Prompt], _responses: list[str]) -> int:
    return 0


def _not_said(_prompt: Prompt, _response: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward and what identifies it.

    Attributes:
        name: as given in the experiment.
        identity: the name and the source that it comes from, or the digest of a model; part of
            every trial's identity.
        function: maps prompts and responses to a number each.
        truncated: how many of these texts the reward cannot read whole.
        reads: the text that it makes of a prompt and a response, None where it makes none.
    """

    name: str
    identity: str
    function: Callable[[list[Prompt], list[str]], Sequence[float]]
    truncated: Callable[[list[Prompt], list[str]], int] = _none_cut
    reads: Callable[[Prompt, str], str | None] = _not_said

    def score(self, prompts: Iterable[Prompt], responses: Iterable[str]) -> NDArray[np.float64]:
        """Reward of each response, shape [response].

        Raises:
            DataError: the function gave another count, or a number that is not finite.
        """
        prompts, responses = list(prompts), list(responses)
        values = np.asarray(self.function(prompts, responses), dtype=np.float64)
        if values.shape != (len(responses),):
            raise DataError(
                f"reward {self.name} gave an array of shape {values.shape} for "
                f"{len(responses)} responses: return one number per response."
            )
        if not np.isfinite(values).all():
            worst = int((~np.isfinite(values)).nonzero()[0][0])
            text = repr(responses[worst])[:80]
            raise DataError(f"reward {self.name} gave {values[worst]} for the response {text}.")
        return values


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
        from dpo_bench.evaluation.classifiers import classifier_reward

        return classifier_reward(kind, rest, options, device)
    if kind == JUDGE:
        from dpo_bench.evaluation.judge import find_judge

        return find_judge(rest, options)
    return _function_reward(spec, kind, rest)


def _vader_reward() -> Reward:
    from importlib.metadata import version

    return Reward("vader", f"vader {version('vaderSentiment')}", _vader)


def _vader(_prompts: list[Prompt], responses: list[str]) -> list[float]:
    from dpo_bench.data.world.labels import gold_scores

    return gold_scores(responses)


def _function_reward(spec: str, module_name: str, function_name: str) -> Reward:
    function = _import(spec, module_name, function_name)
    source = Path(inspect.getsourcefile(function) or "")
    content = source.read_bytes() if source.is_file() else b""

    def reward(prompts: list[Prompt], responses: list[str]) -> Sequence[float]:
        return function([prompt.text for prompt in prompts], responses)

    return Reward(spec, f"{spec} {hashlib.sha256(content).hexdigest()}", reward)


def _import(spec: str, module_name: str, function_name: str) -> RewardFunction:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ConfigurationError(
            f"evaluation.reward = {spec!r}: cannot import {module_name}: "
            f"{type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ConfigurationError(
            f"evaluation.reward = {spec!r}: {module_name} has no function {function_name}."
        )
    return function  # type: ignore[no-any-return]
