"""Who supplies what a loss needs beyond sums: a provider per need; none knows a loss by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dpo_bench.errors import DataError
from dpo_bench.model.logprobs import LogprobBackend, batch_logps, sum_by_row
from dpo_bench.model.token_statistics import TokenValues, sum_shared

if TYPE_CHECKING:
    from dpo_bench.contract import PairLogps
    from dpo_bench.data.batches import Ids
    from dpo_bench.data.tokenized import TokenizedPairs
    from dpo_bench.model.logprob_backends import AnyBatch
    from dpo_bench.training.reference_model import CachedReference

Fields = dict[str, Tensor]
Texts = tuple[Sequence["Ids"], Sequence["Ids"]]


@dataclass(frozen=True, slots=True)
class Supplies:
    """What providers work with.

    Attributes:
        backend: the policy.
        pairs: the training pairs.
        reference: the reference; None where no loss of the run reads it.
        loss: name of the loss, for messages.
    """

    backend: LogprobBackend
    pairs: TokenizedPairs
    reference: CachedReference | None
    loss: str

    @property
    def known_reference(self) -> CachedReference:
        """The reference, which a need depends on."""
        if self.reference is None:
            raise ValueError(f"{self.loss} needs a reference and was given none")
        return self.reference


class Provider:
    """Supplies the fields of one need.

    Attributes:
        wants_confidence: whether `of_tokens` reads the tokens' confidence.
        wants_kl: whether it reads their KL.
    """

    wants_confidence = False
    wants_kl = False

    def __init__(self, supplies: Supplies) -> None:
        self.supplies = supplies

    def of_tokens(self, _tokens: TokenValues, _lengths: Tensor, /) -> Fields:
        """Fields from the policy's own forward pass, of the pass's pairs, with their gradient."""
        return {}

    def texts(self, _indices: Sequence[int], /) -> Texts | None:
        """Prompts and responses of a further pass that `of_pairs` needs of these pairs."""
        return None

    def of_pairs(self, _batch: AnyBatch, _further: AnyBatch | None, /) -> Fields:
        """Fields without a gradient, of the pass's pairs; ``_further`` are its own `texts`."""
        return {}

    def of_step(self, _whole: PairLogps, /) -> Fields:
        """Fields that only the whole batch of a step determines; called once a step."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps of it."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take a checkpoint's state."""


class PreferenceMargin(Provider):
    """The data's margin column."""

    def __init__(self, supplies: Supplies) -> None:
        super().__init__(supplies)
        require_margins(supplies.loss, supplies.pairs)
        margins = torch.as_tensor(np.asarray(supplies.pairs.margins, np.float64))
        self.margins = margins.to(supplies.backend.device, supplies.backend.dtype)

    def of_pairs(self, batch: AnyBatch, _further: AnyBatch | None, /) -> Fields:
        """The pairs' margins."""
        return {"preference_margin": self.margins[batch.index]}


def require_margins(loss: str, pairs: TokenizedPairs, column: str = "") -> None:
    """Refuse pairs of which one has no margin.

    Args:
        loss: name of the loss that needs them.
        pairs: the training pairs.
        column: where they were looked for, for the message.

    Raises:
        DataError: a pair has no margin.
    """
    margins = pairs.margins
    missing = len(pairs) if margins is None else int(np.isnan(margins).sum())
    if missing:
        where = f" in column {column!r}" if column else ""
        raise DataError(
            f"{loss} needs a margin for each pair, and {missing} of {len(pairs)} have no number"
            f"{where}. Name the column that has them as data.margin_column."
        )


class SharedSums(Provider):
    """Sums over the tokens that both responses have."""

    def of_tokens(self, tokens: TokenValues, lengths: Tensor, /) -> Fields:
        """The policy's."""
        chosen, rejected = sum_shared(tokens.logp, lengths).chunk(2)
        return {"policy_chosen_shared": chosen, "policy_rejected_shared": rejected}

    def of_pairs(self, batch: AnyBatch, _further: AnyBatch | None, /) -> Fields:
        """The reference's."""
        chosen, rejected = self.supplies.known_reference.shared(batch)
        return {"reference_chosen_shared": chosen, "reference_rejected_shared": rejected}


class Confidence(Provider):
    """Mean confidence of the policy over each response's tokens."""

    wants_confidence = True

    def of_tokens(self, tokens: TokenValues, lengths: Tensor, /) -> Fields:
        """Detached by nature."""
        means = sum_by_row(_known(tokens.confidence), lengths) / lengths
        chosen, rejected = means.chunk(2)
        return {"chosen_confidence": chosen, "rejected_confidence": rejected}


class SequentialKL(Provider):
    """KL(reference || policy) along each response."""

    wants_kl = True

    def of_tokens(self, tokens: TokenValues, lengths: Tensor, /) -> Fields:
        """With gradient; the loss stops what its paper stops."""
        chosen, rejected = sum_by_row(_known(tokens.kl), lengths).chunk(2)
        return {"chosen_kl": chosen, "rejected_kl": rejected}


class MismatchedLogratio(Provider):
    """Log-ratio of another prompt's response, from one more forward pass of the policy."""

    def texts(self, indices: Sequence[int], /) -> Texts:
        """The prompts with the other prompts' responses."""
        return self.supplies.known_reference.mismatches.texts(indices)

    def of_pairs(self, batch: AnyBatch, further: AnyBatch | None, /) -> Fields:
        """Policy minus reference, both without gradient."""
        if further is None:
            raise ValueError("the pass was not given its other texts")
        policy = batch_logps(self.supplies.backend, further)
        reference = self.supplies.known_reference.mismatched(batch, further)
        return {"mismatched_logratio": policy - reference}


class MeanLogratio(Provider):
    """Mean log-ratio of all responses that the run has seen, this step's included."""

    def __init__(self, supplies: Supplies) -> None:
        super().__init__(supplies)
        self.total = torch.zeros((), dtype=torch.float64, device=supplies.backend.device)
        self.responses = 0

    def of_step(self, whole: PairLogps, /) -> Fields:
        """Count the step's pairs in."""
        ratios = torch.cat([whole.chosen_logratio, whole.rejected_logratio]).detach()
        self.total = self.total + ratios.double().sum()
        self.responses += len(ratios)
        mean = (self.total / self.responses).to(ratios.dtype)
        return {"mean_logratio": mean.expand_as(whole.policy_chosen)}

    def state(self) -> dict[str, Tensor]:
        """The moving mean's sum and count, for a checkpoint."""
        return {"total": self.total.cpu(), "responses": torch.tensor(self.responses)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take up a checkpoint's sum and count."""
        self.total = state["total"].to(self.total.device)
        self.responses = int(state["responses"])


def _known(values: Tensor | None) -> Tensor:
    if values is None:
        raise ValueError("the forward pass was not asked for this")
    return values


PROVIDERS: Mapping[str, type[Provider]] = {
    "preference_margin": PreferenceMargin,
    "shared_sums": SharedSums,
    "confidence": Confidence,
    "sequential_kl": SequentialKL,
    "mismatched_logratio": MismatchedLogratio,
    "mean_logratio": MeanLogratio,
}
"""Who supplies which need of `dpo_bench.contract.NEEDS`."""
