"""The limits on prompts and responses, in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from dpo_bench.data.problems import OVER_LIMIT, Reason, RowProblem
from dpo_bench.data.tokenized import Tokens
from dpo_bench.experiment.config import Data


class Sides(NamedTuple):
    """Token ids of a pair.

    Attributes:
        prompt: shape [token].
        chosen: shape [token].
        rejected: shape [token].
    """

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens


@dataclass(frozen=True, slots=True)
class Limits:
    """How long prompts and responses may be, and what becomes of longer ones.

    Attributes:
        prompt: tokens.
        response: tokens, EOS counted.
        over_limit: ``error``, ``truncate`` or ``drop``.
    """

    prompt: int
    response: int
    over_limit: Literal["error", "truncate", "drop"]

    @classmethod
    def of(cls, options: Data) -> Limits:
        """The limits of a configuration."""
        return cls(options.max_prompt_tokens, options.max_response_tokens, options.over_limit)

    def fit(self, sides: Sides, leading: int) -> Sides:
        """The pair within its limits.

        A prompt is cut from the left, but keeps its first ``leading`` tokens (BOS); a response is
        cut from the right, and has no EOS then: the policy shall not learn to stop there.

        Raises:
            RowProblem: it is over a limit and not to be cut, or cutting made both responses equal.
        """
        if self.over_limit != "truncate":
            self._require(sides)
            return sides
        fitted = Sides(
            self._cut_prompt(sides.prompt, leading),
            sides.chosen[: self.response],
            sides.rejected[: self.response],
        )
        if np.array_equal(fitted.chosen, fitted.rejected):
            raise RowProblem(
                Reason.CUT_IDENTICAL, f"both responses begin with the same {self.response} tokens"
            )
        return fitted

    def allow_dropping(self, reason: Reason, otherwise: bool) -> bool:
        """Whether a pair may be left out for a reason; ``otherwise``: for those of no limit."""
        if reason in OVER_LIMIT:
            return self.over_limit == "drop"
        return otherwise or reason == Reason.CUT_IDENTICAL

    def _cut_prompt(self, prompt: Tokens, leading: int) -> Tokens:
        if len(prompt) <= self.prompt:
            return prompt
        kept = min(leading, self.prompt)
        return np.concatenate([prompt[:kept], prompt[len(prompt) - (self.prompt - kept) :]])

    def _require(self, sides: Sides) -> None:
        names = ("the prompt", "the chosen response", "the rejected response")
        for name, tokens, limit in zip(
            names, sides, (self.prompt, self.response, self.response), strict=True
        ):
            if len(tokens) > limit:
                is_prompt = tokens is sides.prompt
                key = "max_prompt_tokens" if is_prompt else "max_response_tokens"
                raise RowProblem(
                    Reason.PROMPT_LIMIT if is_prompt else Reason.RESPONSE_LIMIT,
                    f"{name} has {len(tokens)} tokens, more than data.{key} = {limit}; "
                    'raise that, or set data.over_limit = "truncate" or "drop"',
                )
