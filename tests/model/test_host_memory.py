"""A model that comes and goes gives the same bits, and its ties and holders stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpo_bench.model.choose_backend import choose_backend
from dpo_bench.model.host_memory import HostCopy
from dpo_bench.model.logprobs import score, token_logps
from tests.model.architectures import tiny_model
from tests.model.test_packed import PAIRS


def reference(**options: Any) -> Any:
    backend = choose_backend(tiny_model("llama", torch.float32, **options), longest=24)
    backend.model.requires_grad_(requires_grad=False)
    return backend


@pytest.mark.parametrize("tied", [True, False])
def test_log_probs_and_kl_keep_their_bits(tied: bool) -> None:
    backend, policy = reference(tie_word_embeddings=tied), reference()
    batch = backend.batch(PAIRS, range(len(PAIRS)))
    expected = token_logps(backend, batch), score(policy, backend, batch).kl
    backend.leave()
    assert backend.device == torch.device("cpu")
    for _ in range(2):
        assert torch.equal(token_logps(backend, batch), expected[0])
        with backend.present():
            assert torch.equal(score(policy, backend, batch).kl, expected[1])
    head, embedding = backend.model.get_output_embeddings(), backend.model.get_input_embeddings()
    assert (head.weight is embedding.weight) == tied


def test_it_is_on_its_device_only_while_it_is_used() -> None:
    model = torch.nn.Linear(3, 2)
    weight, before = model.weight, model.weight.detach().clone()
    host = HostCopy(model, "cpu")
    kept = weight.data_ptr()
    with host.there():
        used = weight.data_ptr()
        with host.there():
            assert weight.data_ptr() == used
        assert weight.data_ptr() == used != kept
    assert weight.data_ptr() == kept
    assert model.weight is weight
    assert torch.equal(weight, before)


def test_it_leaves_also_when_its_use_fails() -> None:
    host = HostCopy(torch.nn.Linear(3, 2), "cpu")

    def fail() -> None:
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        host.call(fail)
    assert host.call(lambda: 3) == 3
