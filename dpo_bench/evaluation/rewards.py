"""Rewards: functions that give each response a number."""

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

RewardFunction = Callable[[list[str], list[str]], Sequence[float]]


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward and what identifies it.

    Attributes:
        name: as given in the experiment.
        identity: the name and the source that it comes from; part of every trial's identity.
        function: maps prompts and responses to a number each.
    """

    name: str
    identity: str
    function: RewardFunction

    def score(self, prompts: Iterable[str], responses: Iterable[str]) -> NDArray[np.float64]:
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


def _vader(_prompts: list[str], responses: list[str]) -> list[float]:
    from dpo_bench.data.world.labels import gold_scores

    return gold_scores(responses)


def find_reward(spec: str) -> Reward | None:
    """The reward that an experiment names: ``vader``, ``module:function``, or None for ``none``.

    ``vader`` is the compound score, in [-1, 1], of Hutto & Gilbert 2014's sentiment rules, of the
    response alone. A user's function is found on the import path or in the working directory.

    Raises:
        ConfigurationError: there is no such module or function.
    """
    if spec == "none":
        return None
    if spec == "vader":
        from importlib.metadata import version

        return Reward("vader", f"vader {version('vaderSentiment')}", _vader)
    module_name, colon, function_name = spec.partition(":")
    if not colon or not module_name or not function_name:
        raise ConfigurationError(
            f"evaluation.reward = {spec!r}: use vader, none, or module:function."
        )
    function = _import(spec, module_name, function_name)
    source = Path(inspect.getsourcefile(function) or "")
    content = source.read_bytes() if source.is_file() else b""
    return Reward(spec, f"{spec} {hashlib.sha256(content).hexdigest()}", function)


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
