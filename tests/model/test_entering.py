"""Every use of a model's weights enters by `LogprobBackend.run`, once for states and logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pytest
import torch

from dpo_bench.model import logprobs
from dpo_bench.model.logprob_backends import HiddenStateBackend, LogprobBackend
from dpo_bench.model.logprobs import score, token_logps
from dpo_bench.model.token_statistics import token_values
from tests.model.architectures import random_batch, tiny_model

Found = TypeVar("Found")


class Counted(HiddenStateBackend):
    """Counts entries; its modules refuse to be called outside of them."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.entries = self.depth = 0
        for module in model.modules():
            module.register_forward_pre_hook(lambda *_: self._require_inside())

    def run(self, function: Callable[..., Found], *arguments: Any) -> Found:
        """Count the entry; a model is never entered while it is in use."""
        assert self.depth == 0
        self.entries, self.depth = self.entries + 1, 1
        try:
            return super().run(function, *arguments)
        finally:
            self.depth = 0

    def _require_inside(self) -> None:
        assert self.depth == 1


@pytest.fixture
def backends() -> tuple[Counted, Counted]:
    """A policy and its reference."""
    return Counted(tiny_model("llama")), Counted(tiny_model("llama"))


USES: dict[str, Callable[[LogprobBackend, LogprobBackend], Any]] = {
    "token_logps": lambda policy, _: token_logps(policy, random_batch()),
    "confidence": lambda policy, _: token_values(policy, random_batch(), confidence=True),
    "kl": lambda policy, reference: token_values(policy, random_batch(), reference=reference),
    "score": lambda policy, reference: score(policy, reference, random_batch()),
}


@pytest.mark.parametrize("use", USES)
def test_a_use_of_the_policy_is_one_entry(
    backends: tuple[Counted, Counted], use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", 1 << 9)  # several slices

    with torch.no_grad():
        USES[use](*backends)

    assert backends[0].entries == 1
    assert (backends[1].entries > 0) == (use in {"kl", "score"})
