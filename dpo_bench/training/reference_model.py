"""The reference as the trainer sees it: frozen and read from the cache, or following the policy."""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dpo_bench.data.mismatches import Mismatches
from dpo_bench.data.tokenized import TokenizedPairs
from dpo_bench.model.compile_layers import compile_layers
from dpo_bench.model.logprob_backends import AnyBatch
from dpo_bench.model.logprobs import LogprobBackend, batch_logps, sum_by_row, token_logps
from dpo_bench.model.master_weights import MasterWeights
from dpo_bench.model.reference_cache import (
    ReferenceLogps,
    mismatched_reference_logps,
    reference_logps,
    shared_reference_logps,
)
from dpo_bench.model.token_statistics import sum_shared
from dpo_bench.progress import Progress, quiet
from dpo_bench.training.weights import all_weights, move_towards, require_mixable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dpo_bench.experiment.config import Training


class CachedReference:
    """The frozen reference: each kind of log-prob of all pairs is had once, when first asked for.

    Args:
        backend: the reference with the kernel path that the policy takes too.
        pairs: the training pairs.
        model_digest: of the reference's weights.
        device: device and precision, e.g. ``cpu/fp32``.
        progress: told while log-probs are computed.
    """

    def __init__(
        self,
        backend: LogprobBackend,
        pairs: TokenizedPairs,
        model_digest: str,
        device: str,
        progress: Progress = quiet,
    ) -> None:
        self.backend = backend
        self.pairs = pairs
        self.mismatches = Mismatches(pairs)
        self.key = (model_digest, device, progress)

    @cached_property
    def all_sums(self) -> ReferenceLogps:
        """Summed log-probs of every pair's responses."""
        return reference_logps(self.backend, self.pairs, *self.key).to(self.backend.device)

    @cached_property
    def all_shared(self) -> ReferenceLogps:
        """The same over the tokens that both responses have."""
        return shared_reference_logps(self.backend, self.pairs, *self.key).to(self.backend.device)

    @cached_property
    def _mismatched(self) -> Tensor:
        return mismatched_reference_logps(self.backend, self.mismatches, *self.key).to(
            self.backend.device
        )

    def compute(self, needs: Collection[str]) -> None:
        """Have now what a loss of these needs will ask for."""
        _ = self.all_sums
        if "shared_sums" in needs:
            _ = self.all_shared
        if "mismatched_logratio" in needs:
            _ = self._mismatched

    def __getstate__(self) -> dict[str, Any]:
        """For other ranks: whoever is told of progress stays here."""
        return {**vars(self), "key": (*self.key[:2], quiet)}

    def sums(self, batch: AnyBatch) -> tuple[Tensor, Tensor]:
        """Log-probs of a pass's chosen and rejected responses, nats, each of shape [pair]."""
        return _picked(self.all_sums, batch.index)

    def shared(self, batch: AnyBatch) -> tuple[Tensor, Tensor]:
        """The same over the tokens that both responses have."""
        return _picked(self.all_shared, batch.index)

    def mismatched(self, batch: AnyBatch, _others: AnyBatch) -> Tensor:
        """Log-probs of other prompts' responses, shape [pair]; see `Mismatches`.

        Args:
            batch: the pass's pairs.
            _others: their prompts with those responses.
        """
        return self._mismatched[batch.index]

    def after_step(self, step: int, policy: LogprobBackend) -> None:
        """Nothing: it is frozen."""

    def state(self) -> dict[str, Tensor]:
        """What steps change of it, by name, in place: nothing."""
        return {}


def _picked(logps: ReferenceLogps, index: Tensor) -> tuple[Tensor, Tensor]:
    return logps.chosen[index], logps.rejected[index]


class ResampledReference(CachedReference):
    """The frozen reference for pairs that were drawn from others, whose log-probs it takes.

    Only its responses to other prompts are computed anew: which ones they are depends on the pairs.

    Args:
        whole: the reference for all pairs.
        pairs: those that were drawn.
        drawn: which of all pairs each of them is, shape [pair].
    """

    def __init__(
        self, whole: CachedReference, pairs: TokenizedPairs, drawn: NDArray[np.int64]
    ) -> None:
        super().__init__(whole.backend, pairs, *whole.key)
        self.whole = whole
        self.drawn = torch.from_numpy(drawn).to(whole.backend.device)

    @cached_property
    def all_sums(self) -> ReferenceLogps:
        """Summed log-probs of every drawn pair's responses."""
        return ReferenceLogps(*_picked(self.whole.all_sums, self.drawn))

    @cached_property
    def all_shared(self) -> ReferenceLogps:
        """The same over the tokens that both responses have."""
        return ReferenceLogps(*_picked(self.whole.all_shared, self.drawn))


class SyncedReference(CachedReference):
    """A reference that follows the policy (TR-DPO, Gorbatovski et al. 2024, arXiv:2404.09656).

    Every so many steps its weights become rate x policy + (1 - rate) x its own. Nothing of it can
    be cached: its log-probs are computed in every pass, from a copy that belongs to one run.

    Raises:
        ConfigurationError: policy and reference have not the same weights.
    """

    def __init__(self, frozen: CachedReference, policy: LogprobBackend, settings: Training) -> None:
        require_mixable(frozen.backend.model, policy.model)
        super().__init__(copy.deepcopy(frozen.backend), frozen.pairs, *frozen.key)
        if self.backend.compiled is not None:  # the layers that were copied
            compile_layers(self.backend)
        if self.backend.masters is not None:  # in bf16, small moves would be lost
            self.backend.masters = MasterWeights(self.backend.model, frozen=True)
        self.every, self.rate = settings.reference_sync_steps, settings.reference_sync_rate

    def compute(self, _needs: Collection[str]) -> None:
        """Nothing: it changes."""

    def sums(self, batch: AnyBatch) -> tuple[Tensor, Tensor]:
        """Log-probs of chosen and rejected responses as it is now, each of shape [pair]."""
        return _halves(sum_by_row(self._tokens(batch), batch.lengths))

    def shared(self, batch: AnyBatch) -> tuple[Tensor, Tensor]:
        """The same over the tokens that both responses have."""
        return _halves(sum_shared(self._tokens(batch), batch.lengths))

    def mismatched(self, _batch: AnyBatch, others: AnyBatch) -> Tensor:
        """Log-probs of other prompts' responses as it is now, shape [pair]."""
        return batch_logps(self.backend, others)

    def after_step(self, step: int, policy: LogprobBackend) -> None:
        """Follow the policy when it is time; ``step`` counts from 0."""
        if (step + 1) % self.every:
            return
        with self.backend.full_precision(), policy.full_precision():
            move_towards(self.backend.model, policy.model, self.rate)

    def state(self) -> dict[str, Tensor]:
        """Its weights."""
        return all_weights(self.backend.model)

    def _tokens(self, batch: AnyBatch) -> Tensor:
        with torch.no_grad():
            return token_logps(self.backend, batch)


def _halves(values: Tensor) -> tuple[Tensor, Tensor]:
    chosen, rejected = values.chunk(2)
    return chosen, rejected
