"""What an optimizer step changes and how: the policy, its optimizer, and the state behind a loss.

Several ranks that hold a policy together have one of these each, which the trainer of the leading
rank has act at the same time.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dpo_bench.contract import Objective, PairLogps
from dpo_bench.data.batches import step_order
from dpo_bench.model.logprobs import LogprobBackend
from dpo_bench.model.ranks import Ranks
from dpo_bench.model.sharded import undivided
from dpo_bench.training.checkpoint import load_tensors, save_tensors
from dpo_bench.training.fitting_step import FittingGradient
from dpo_bench.training.inputs import LossInputBuilder
from dpo_bench.training.optimizer import build_optimizer, learning_rate, moments
from dpo_bench.training.reference_model import CachedReference
from dpo_bench.training.step_metrics import PAIR_METRICS, pair_sums
from dpo_bench.training.steps import StepGradient
from dpo_bench.training.weights import trained_weights

if TYPE_CHECKING:
    from dpo_bench.data.tokenized import TokenizedPairs
    from dpo_bench.experiment.config import Training

NAME = "update"
"""What all ranks know it by."""


class PolicyUpdate:
    """The steps of one run, any of which can be made.

    Args:
        backend: the policy; its weights are changed in place.
        objective: what is minimized.
        pairs: the training pairs.
        reference: for the same pairs, or None.
        settings: the trainer's.
        steps: number of steps of the run.
        seed: sets the order of the pairs.
    """

    def __init__(
        self,
        backend: LogprobBackend,
        objective: Objective,
        *,
        pairs: TokenizedPairs,
        reference: CachedReference | None,
        settings: Training,
        steps: int,
        seed: int,
    ) -> None:
        self.backend = backend
        self.objective = objective
        self.settings = settings
        self.steps = steps
        self.reference = reference
        self.measurer = LossInputBuilder(backend, pairs, reference, objective)
        gradient = StepGradient(
            objective,
            self.measurer,
            settings.pairs_per_pass,
            backend.tokens_per_pass(settings.tokens_per_pass),
        )
        self.order = step_order(len(pairs), settings.pairs_per_step, steps, seed)
        self.optimizer = build_optimizer(backend.model, settings, backend.optimized())
        # Not a method of this object: in a circle it would wait for the garbage collector, and its
        # optimizer's moments would lie beside those of the next run.
        clear = functools.partial(_clear, self.optimizer, backend.model)
        self.gradient = FittingGradient(gradient, clear)

    def step(self, number: int) -> Tensor:
        """Make a step, counted from 0.

        Returns:
            its metrics as they were before it, and behind them, of the first one, the loss at the
            reference; shape [metric] or [metric + 1], on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, self.steps, self.settings)
        means = self.gradient(self.order[number], self._tell if number else self._tell_first)
        norm = torch.nn.utils.clip_grad_norm_(
            self.backend.optimized().values(), self.settings.max_gradient_norm
        )
        self.optimizer.step()
        if self.backend.masters is not None:
            self.backend.masters.copy_back()
        if self.reference is not None:
            self.reference.after_step(number, self.backend)
        count = len(PAIR_METRICS)
        return torch.cat([means[:count], undivided(norm).detach().float()[None], means[count:]])

    def save(self, folder: Path) -> None:
        """Write all that a step changes."""
        with self._full_precision():
            save_tensors(folder, self._state(), self.backend.ranks)

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote, on as many ranks or on another number of them.

        Raises:
            ValueError: it is the state of something else, or damaged.
        """
        moments(self.optimizer)
        with self._full_precision():
            state = self._state()
            load_tensors(folder, state, self.backend.ranks)
        needs = {name: _under(f"needs.{name}.", state) for name in self.measurer.providers}
        self.measurer.restore(needs)

    @contextlib.contextmanager
    def _full_precision(self) -> Iterator[None]:
        """While this is open all weights that a step changes are as they are kept."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.backend.full_precision())
            if self.reference is not None:
                stack.enter_context(self.reference.backend.full_precision())
            yield

    def _state(self) -> dict[str, Tensor]:
        """Every tensor that a step changes, by name; not copied."""
        found = {f"model.{n}": value for n, value in trained_weights(self.backend.model).items()}
        for number, state in enumerate(self.optimizer.state.values()):
            found |= {f"optimizer.{number}.{n}": value for n, value in state.items()}
        for need, state in self.measurer.state().items():
            found |= {f"needs.{need}.{n}": value for n, value in state.items()}
        if self.reference is not None:
            found |= {f"reference.{n}": value for n, value in self.reference.state().items()}
        return found

    def _tell(self, losses: Tensor, record: PairLogps) -> Tensor:
        return pair_sums(losses, record, self.objective.continued)

    def _tell_first(self, losses: Tensor, record: PairLogps) -> Tensor:
        """The metrics and, behind them, the loss at the reference: what the first one must be."""
        if self.reference is None:
            return self._tell(losses, record)
        with torch.no_grad():
            at_reference = self.objective(record.at_reference()).sum().float()
        return torch.cat([self._tell(losses, record), at_reference[None]])


def begin(
    ranks: Ranks, backend: LogprobBackend, objective: Objective, rest: Mapping[str, Any]
) -> PolicyUpdate:
    """Make an update on every rank; within a call.

    Args:
        ranks: those that hold the policy.
        backend: see `PolicyUpdate`, as for the others.
        objective: likewise.
        rest: the other arguments by name.
    """
    update = PolicyUpdate(backend, objective, **rest)
    if not ranks.alone:  # nobody else asks for it, and its moments would outlive the run
        ranks.shared[NAME] = update
    return update


def _clear(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> None:
    """Empty all gradients, also those that a pass that broke off left beside the masters'."""
    optimizer.zero_grad(set_to_none=True)
    model.zero_grad(set_to_none=True)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)}
