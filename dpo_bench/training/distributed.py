"""The processes that train one policy together: each takes a share of every step's pairs.

All hold the same weights. Gradients are summed over the processes, so that a run does not depend on
their number but for rounding. `torchrun` or any launcher that sets torch's environment will do.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from dpo_bench.errors import ConfigurationError


def join_from_environment(backend: str = "gloo") -> Ranks:
    """Join the processes that a launcher started; alone where there is no launcher."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        dist.init_process_group(backend)
    return Ranks.current()


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among the others.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """As torch.distributed was initialized; alone when it was not."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, indices: Sequence[int]) -> list[int]:
        """This process's part of a step's pairs.

        Raises:
            ConfigurationError: there are fewer pairs than processes.
        """
        if len(indices) < self.size:
            raise ConfigurationError(
                f"training.pairs_per_step = {len(indices)} is less than the {self.size} processes."
            )
        return list(indices[self.rank :: self.size])

    def total(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor, pairs: int) -> Tensor:
        """The shares of all processes, one after another: [share] -> [pairs]."""
        if self.size == 1:
            return values
        whole = values.new_zeros(pairs)
        whole[self.place(pairs)] = values
        dist.all_reduce(whole)
        return whole

    def place(self, pairs: int) -> slice:
        """Where this process's share stands in what `gather` gives."""
        shares = [len(range(rank, pairs, self.size)) for rank in range(self.rank + 1)]
        return slice(sum(shares[:-1]), sum(shares))

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum each parameter's gradient over the processes, in one message per dtype."""
        if self.size == 1:
            return
        groups: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                groups.setdefault(parameter.dtype, []).append(parameter.grad)
        for gradients in groups.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        if self.size == 1:
            return flag
        answer = torch.tensor(float(flag))
        dist.all_reduce(answer)
        return bool(answer > 0)
