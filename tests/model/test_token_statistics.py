"""Statistics of response tokens, against full logits in double precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dpo_bench.data.batches import Batch, pad_responses
from dpo_bench.model import logprobs
from dpo_bench.model.load import load_model
from dpo_bench.model.logprobs import LogprobBackend, choose_backend, token_logps
from dpo_bench.model.token_statistics import _kl, sum_shared, token_values

GENERATOR = np.random.default_rng(3)
PROMPTS = [GENERATOR.integers(3, 200, n).astype(np.int32) for n in (3, 1, 5, 2)]
RESPONSES = [GENERATOR.integers(3, 200, n).astype(np.int32) for n in (4, 7, 1, 6)]


@pytest.fixture(scope="module")
def paths(llama_folder: Path) -> tuple[LogprobBackend, LogprobBackend]:
    """Two models that differ."""
    both = [choose_backend(load_model(llama_folder, "cpu"), "fp32") for _ in range(2)]
    with torch.no_grad():
        for parameter in both[0].model.parameters():
            parameter.mul_(1.7)
    return both[0], both[1]


def batch() -> Batch:
    return pad_responses(PROMPTS, RESPONSES)


def distributions(backend: LogprobBackend) -> Tensor:
    """Log-probs of every token at every response position, row after row: [token, vocabulary]."""
    rows = []
    with torch.no_grad():
        for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
            ids = torch.from_numpy(np.concatenate([prompt, response])).long()[None]
            logits = backend.model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            rows.append(logits.double().log_softmax(-1))
    return torch.cat(rows)


def test_confidence_and_kl_are_what_full_distributions_say(
    paths: tuple[LogprobBackend, LogprobBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, reference = paths
    ours, theirs = distributions(policy), distributions(reference)
    target = torch.from_numpy(np.concatenate(RESPONSES)).long()
    logp = ours.gather(-1, target[:, None]).squeeze(-1)
    for at_once in (1 << 26, 3000):  # in one go, and a few tokens at a time
        monkeypatch.setattr(logprobs, "LOGITS_AT_ONCE", at_once)
        found = token_values(policy, batch(), confidence=True, reference=reference)
        assert found.confidence is not None
        assert found.kl is not None
        torch.testing.assert_close(found.logp.double(), logp, rtol=1e-4, atol=1e-5)
        collision = ours.exp().square().sum(-1).log()
        torch.testing.assert_close(
            found.confidence.double(), logp - collision, rtol=1e-4, atol=1e-4
        )
        kl = (theirs.exp() * (theirs - ours)).sum(-1)
        assert kl.min() > 0
        torch.testing.assert_close(found.kl.double(), kl, rtol=1e-3, atol=1e-5)
        assert not found.confidence.requires_grad
        assert found.kl.requires_grad


def test_equal_models_have_no_kl_and_the_same_log_probs_bit_by_bit(
    paths: tuple[LogprobBackend, LogprobBackend],
) -> None:
    found = token_values(paths[1], batch(), reference=paths[1])
    assert found.kl is not None
    assert not found.kl.any()
    assert torch.equal(found.logp, token_logps(paths[1], batch()))


def test_slope_of_the_kl_is_policy_minus_reference() -> None:
    reference = torch.tensor([[1.0, -2.0, 0.5, -torch.inf]])
    policy = torch.tensor([[0.3, 0.1, -1.0, -torch.inf]], requires_grad=True)
    kl = _kl(reference, policy)
    (slope,) = torch.autograd.grad(kl.sum(), policy)
    torch.testing.assert_close(slope, policy.detach().softmax(-1) - reference.softmax(-1))


def test_shared_sums_stop_at_the_shorter_response() -> None:
    values = torch.arange(1.0, 11.0)
    lengths = torch.tensor([3, 1, 2, 4])  # pairs of (3, 2) and (1, 4) tokens
    assert sum_shared(values, lengths).tolist() == [1 + 2, 4, 5 + 6, 7]
