"""Between the inputs of a pass and its gradient nothing makes a GPU and the CPU wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from dpo_bench import get_loss, list_losses
from dpo_bench.data.batches import joined, parted
from dpo_bench.data.packing import pack_pairs
from dpo_bench.training.prefetch import one_ahead
from tests.training.test_trainer import PAIRS, Setup

WAITING = {"aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten.unique_dim"}
"""Operators whose result the CPU needs: it waits for the device."""
FROM_LISTS = {"tensor", "as_tensor", "from_numpy", "tolist", "item", "nonzero", "cpu", "numpy"}
"""Functions that bring values to the device, or from it, outside of the one copy of the inputs."""


class NoWaitingInside(TorchDispatchMode):
    """Refuses operators for which the CPU would wait, also in the backward pass."""

    def __torch_dispatch__(
        self,
        func: Any,
        _types: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = str(func).rpartition(".")[0]
        assert name not in WAITING, name
        return func(*args, **(kwargs or {}))


class NoValuesBrought(TorchFunctionMode):
    """Refuses calls that make tensors of Python's numbers or numbers of tensors."""

    def __torch_function__(
        self,
        func: Any,
        _types: Any,
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        assert name not in FROM_LISTS, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", list_losses())
def test_a_pass_brings_nothing_to_the_device_and_waits_for_nothing(
    llama_folder: Path, tmp_path: Path, name: str
) -> None:
    update = Setup(llama_folder).trainer(tmp_path, get_loss(name)).update
    measurer, gradient = update.measurer, update.gradient.gradient
    inputs = measurer.inputs([3, 1, 4])
    with NoWaitingInside(), NoValuesBrought():  # type: ignore[no-untyped-call]
        record = measurer.record(inputs)
        if gradient.objective.batch_coupled:
            record = measurer.with_batch_fields(record)
        losses = gradient._losses(record)
        losses.sum().backward()
        update._tell(losses, record)
        norm = torch.nn.utils.clip_grad_norm_(update.backend.optimized().values(), 1.0)
    assert norm > 0


@pytest.mark.parametrize("call", [lambda one: one.sum().item(), lambda one: one.nonzero()])
def test_the_guards_see_what_waits(call: Callable[[torch.Tensor], object]) -> None:
    with pytest.raises(AssertionError), NoWaitingInside():  # type: ignore[no-untyped-call]
        call(torch.ones(2))
    with pytest.raises(AssertionError), NoValuesBrought():
        call(torch.ones(2))


def test_inputs_travel_in_one_tensor() -> None:
    pack = pack_pairs(PAIRS, [3, 1, 4])
    tensors = [pack.input_ids, pack.lengths, pack.state[:0], pack.index, *pack.shared_slots]
    together = joined(tensors)
    assert together.dtype == torch.long
    for found, one in zip(parted(together, tensors), tensors, strict=True):
        assert torch.equal(found, one)
        assert found.numel() == 0 or found._base is not None
    assert pack.index.tolist() == [3, 1, 4]


@pytest.mark.parametrize("threaded", [False, True])
def test_items_are_made_in_order_and_at_most_one_ahead(threaded: bool) -> None:
    made: list[int] = []

    def make(item: int) -> int:
        made.append(item)
        return 10 * item

    for used, result in enumerate(one_ahead(make, range(6), threaded=threaded)):
        assert result == 10 * used
        assert len(made) <= used + 1 + threaded
    assert made == list(range(6))
    assert list(one_ahead(make, [], threaded=threaded)) == []


@pytest.mark.parametrize("threaded", [False, True])
def test_an_error_comes_where_its_result_would(threaded: bool) -> None:
    found = one_ahead(lambda item: 6 // item, [3, 2, 0, 1], threaded=threaded)
    assert [next(found), next(found)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(found)
