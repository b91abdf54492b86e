"""From pairs to the record that a loss sees, with what the loss needs and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from dpo_bench.contract import Objective, PairLogps
from dpo_bench.data.tokenized import TokenizedPairs
from dpo_bench.model.logprob_backends import AnyBatch
from dpo_bench.model.logprobs import LogprobBackend, sum_by_row
from dpo_bench.model.token_statistics import token_values
from dpo_bench.training.input_builders import PROVIDERS, Fields, Provider, Supplies
from dpo_bench.training.prefetch import one_ahead
from dpo_bench.training.reference_model import CachedReference


@dataclass(frozen=True, slots=True)
class PassInputs:
    """What a pass reads.

    Attributes:
        batch: its pairs.
        further: texts of further passes over them, by need.
    """

    batch: AnyBatch
    further: Mapping[str, AnyBatch]


class LossInputBuilder:
    """Makes the records of a run.

    Args:
        backend: the policy.
        pairs: the training pairs.
        reference: None where the loss does not read it: then its fields hold NaN.
        objective: says what is needed.
    """

    def __init__(
        self,
        backend: LogprobBackend,
        pairs: TokenizedPairs,
        reference: CachedReference | None,
        objective: Objective,
    ) -> None:
        self.backend = backend
        self.pairs = pairs
        self.reference = reference
        supplies = Supplies(backend, pairs, reference, objective.name)
        self.providers: dict[str, Provider] = {
            name: PROVIDERS[name](supplies) for name in objective.needs
        }
        wants_kl = any(provider.wants_kl for provider in self.providers.values())
        self.wants_confidence = any(p.wants_confidence for p in self.providers.values())
        self.compared = supplies.known_reference if wants_kl else None
        self.chosen_tokens = torch.as_tensor(pairs.chosen_lengths, device=backend.device)
        self.rejected_tokens = torch.as_tensor(pairs.rejected_lengths, device=backend.device)

    def batch(self, indices: Sequence[int]) -> AnyBatch:
        """The pairs as tensors on the policy's device."""
        return self.backend.batch(self.pairs, indices)

    def policy(self, batch: AnyBatch) -> Fields:
        """What the policy's own forward pass gives, with gradient, by field."""
        tokens = token_values(
            self.backend,
            batch,
            confidence=self.wants_confidence,
            reference=self.compared.backend if self.compared else None,
        )
        chosen, rejected = sum_by_row(tokens.logp, batch.lengths).chunk(2)
        found = {"policy_chosen": chosen, "policy_rejected": rejected}
        for provider in self.providers.values():
            found |= provider.of_tokens(tokens, batch.lengths)
        return found

    def inputs(self, indices: Sequence[int]) -> PassInputs:
        """Everything that a pass over some pairs reads, on the policy's device.

        From here to the gradient nothing makes a GPU and the CPU wait for each other.
        """
        texts = {name: provider.texts(indices) for name, provider in self.providers.items()}
        further = {
            name: self.backend.response_batch(*needed)
            for name, needed in texts.items()
            if needed is not None
        }
        return PassInputs(self.batch(indices), further)

    def all_inputs(self, parts: Sequence[Sequence[int]]) -> Iterator[PassInputs]:
        """The inputs of several passes; for a GPU, the next pass's are made ahead."""
        return one_ahead(self.inputs, parts, threaded=self.backend.device.type == "cuda")

    def record(self, inputs: PassInputs) -> PairLogps:
        """All that is known of some pairs by themselves; what the whole batch tells is missing."""
        batch = inputs.batch
        policy = self.policy(batch)
        rest: Fields = {}
        for name, provider in self.providers.items():
            rest |= provider.of_pairs(batch, inputs.further.get(name))
        chosen, rejected = self._reference(batch, policy["policy_chosen"])
        return PairLogps(
            **policy,
            **rest,
            reference_chosen=chosen,
            reference_rejected=rejected,
            chosen_tokens=self.chosen_tokens[batch.index],
            rejected_tokens=self.rejected_tokens[batch.index],
        )

    def with_batch_fields(self, whole: PairLogps) -> PairLogps:
        """A step's whole record with what only the whole tells; called once a step."""
        found: Fields = {}
        for provider in self.providers.values():
            found |= provider.of_step(whole)
        return replace(whole, **found)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint keeps, by need."""
        return {name: provider.state() for name, provider in self.providers.items()}

    def restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Take a checkpoint's state."""
        for name, provider in self.providers.items():
            provider.restore(state[name])

    def _reference(self, batch: AnyBatch, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.reference is None:
            unknown = torch.full_like(like, torch.nan, requires_grad=False)
            return unknown, unknown
        return self.reference.sums(batch)


def non_null_fields(record: PairLogps) -> Fields:
    """The fields that a record has."""
    known = {field.name: getattr(record, field.name) for field in fields(record)}
    return {name: value for name, value in known.items() if value is not None}


def cat(records: Sequence[PairLogps]) -> PairLogps:
    """Records of the same kind, one after another."""
    parts = [non_null_fields(record) for record in records]
    return PairLogps(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})
