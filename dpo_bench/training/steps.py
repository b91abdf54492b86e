"""The gradient of one optimizer step, in as many passes as it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dpo_bench.contract import Objective, PairLogps
from dpo_bench.data.batches import deal_passes, split_passes
from dpo_bench.errors import ConfigurationError
from dpo_bench.model.ranks import Ranks
from dpo_bench.training.inputs import LossInputBuilder, cat, non_null_fields
from dpo_bench.training.step_metrics import pair_sums

Parts = Sequence[Sequence[int]]
Tell = Callable[[Tensor, PairLogps], Tensor]
"""From the losses and the record of some pairs to sums over them, without gradient."""


IDLE = (0,)
"""Places in the step of the pairs of a pass that counts nothing."""


@dataclass(frozen=True, slots=True)
class StepGradient:
    """Leaves the gradient of the mean loss of a step's pairs in the parameters.

    It gives the means of what ``tell`` says of each record and its losses.

    Attributes:
        objective: the loss of each pair.
        measurer: makes its records.
        pairs_per_pass: most pairs of a forward pass; 0: all.
        tokens_per_pass: most tokens of a forward pass, a pair's prompt counted once; 0: all.
    """

    objective: Objective
    measurer: LossInputBuilder
    pairs_per_pass: int
    tokens_per_pass: int

    def __call__(self, indices: Sequence[int], tell: Tell = pair_sums) -> Tensor:
        """Compute it for these pairs; returns means over them of what ``tell`` sums.

        Raises:
            ConfigurationError: the loss did not give one value per pair.
        """
        ranks = self.measurer.backend.ranks
        if not ranks.alone:
            return self._dealt(list(indices), ranks, tell) / len(indices)
        parts = split_passes(
            self.measurer.pairs, indices, self.pairs_per_pass, self.tokens_per_pass
        )
        take = self._coupled if self.objective.batch_coupled else self._separate
        return take(parts, len(indices), tell) / len(indices)

    def _separate(self, parts: Parts, pairs: int, tell: Tell) -> Tensor:
        """Pass by pass: each pair's loss is its own."""
        sums = []
        for inputs in self.measurer.all_inputs(parts):
            record = self.measurer.record(inputs)
            losses = self._losses(record)
            # The mean is over the step's pairs, however many passes they take.
            (losses.sum() / pairs).backward()
            sums.append(tell(losses, record))
        return torch.stack(sums).sum(0)

    def _coupled(self, parts: Parts, pairs: int, tell: Tell) -> Tensor:
        """The loss is taken once, on the whole batch; its slopes then go back pass by pass."""
        if len(parts) == 1:
            record = self.measurer.record(self.measurer.inputs(parts[0]))
            record = self.measurer.with_batch_fields(record)
            losses = self._losses(record)
            (losses.sum() / pairs).backward()
            return tell(losses, record)
        with torch.no_grad():
            whole = cat([self.measurer.record(one) for one in self.measurer.all_inputs(parts)])
        losses, whole, slopes = self._slopes(whole, pairs)
        sizes = [len(part) for part in parts]
        shares = {name: slope.split(sizes) for name, slope in slopes.items()}
        for number, part in enumerate(parts):
            self._descend(part, {name: share[number] for name, share in shares.items()})
        return tell(losses, whole)

    def _dealt(self, indices: list[int], ranks: Ranks, tell: Tell) -> Tensor:
        """This rank's passes, of which all ranks make equally many; sums over all ranks' pairs.

        FSDP2 makes the mean of the ranks' gradients (gloo has no sum of them): what goes back here
        counts ``ranks.size`` times. A rank without pairs in a round takes one that counts nothing.
        """
        parts = deal_passes(
            self.measurer.pairs.sizes[indices],
            ranks.size,
            self.pairs_per_pass,
            self.tokens_per_pass,
        )[ranks.rank]
        pairs = len(indices)
        if self.objective.batch_coupled:
            return self._dealt_coupled(parts, indices, ranks, tell)
        sums = []
        passes = self.measurer.all_inputs(_pairs(parts, indices))
        for part, inputs in zip(parts, passes, strict=True):
            record = self.measurer.record(inputs)
            losses = self._losses(record)
            (losses.sum() * ((ranks.size if part else 0) / pairs)).backward()
            found = tell(losses, record)
            sums.append(found if part else torch.zeros_like(found))
        return ranks.total(torch.stack(sums).sum(0))

    def _dealt_coupled(self, parts: Parts, indices: list[int], ranks: Ranks, tell: Tell) -> Tensor:
        """The same where the loss is taken on the whole batch, which every rank puts together."""
        with torch.no_grad():
            passes = self.measurer.all_inputs(_pairs(parts, indices))
            own = [self.measurer.record(inputs) for inputs in passes]
            whole = self._assembled(own, parts, len(indices), ranks)
        losses, whole, slopes = self._slopes(whole, len(indices))
        for part in parts:
            places = torch.as_tensor(list(part or IDLE), device=losses.device)
            weight = ranks.size if part else 0
            self._descend(
                [indices[place] for place in part or IDLE],
                {name: slope[places] * weight for name, slope in slopes.items()},
            )
        return tell(losses, whole)

    def _assembled(
        self, records: Sequence[PairLogps], parts: Parts, pairs: int, ranks: Ranks
    ) -> PairLogps:
        """The record of a whole step, in its own order, of what each rank has of it."""
        fields = [
            {name: value[: len(part)] for name, value in non_null_fields(record).items()}
            for record, part in zip(records, parts, strict=True)
        ]
        device = next(iter(fields[0].values())).device
        places = torch.as_tensor([place for part in parts for place in part], device=device)
        return PairLogps(
            **{
                name: ranks.assemble(torch.cat([one[name] for one in fields]), places, pairs)
                for name in fields[0]
            }
        )

    def _slopes(self, whole: PairLogps, pairs: int) -> tuple[Tensor, PairLogps, dict[str, Tensor]]:
        """Losses of a whole step, its full record, and each field's slope of the mean loss."""
        whole = self.measurer.with_batch_fields(whole)
        leaves = {
            name: getattr(whole, name).requires_grad_()
            for name in GRADIENT_FIELDS
            if getattr(whole, name) is not None
        }
        losses = self._losses(replace(whole, **leaves))
        slopes = torch.autograd.grad(
            losses.sum() / pairs, list(leaves.values()), materialize_grads=True
        )
        return losses, whole, dict(zip(leaves, slopes, strict=True))

    def _descend(self, part: Sequence[int], slopes: Mapping[str, Tensor]) -> None:
        """Send slopes back through the policy's forward pass of some pairs."""
        fields = self.measurer.policy(self.measurer.batch(part))
        torch.autograd.backward([fields[name] for name in slopes], list(slopes.values()))

    def _losses(self, record: PairLogps) -> Tensor:
        """The loss of each pair.

        Raises:
            ConfigurationError: the loss gave something else, whose sum would be another loss.
        """
        losses: object = self.objective(record)
        like = record.policy_chosen
        if isinstance(losses, Tensor):
            found = (list(losses.shape), losses.dtype, losses.device)
            wanted = (list(like.shape), like.dtype, like.device)
            if found == wanted:
                return losses
            said = ("shape {} in {} on {}".format(*kind) for kind in (found, wanted))
            difference = "{}, not {}".format(*said)
        else:
            difference = f"a {type(losses).__name__}, not a tensor of shape {list(like.shape)}"
        raise ConfigurationError(
            f"{self.objective.name} returned {difference}: a loss gives each pair its own value, "
            "in the dtype of the log-probs, and never averages."
        )


def _pairs(parts: Parts, indices: Sequence[int]) -> Parts:
    """The pairs of a rank's passes, by their places in the step."""
    return [[indices[place] for place in part or IDLE] for part in parts]


GRADIENT_FIELDS = (
    "policy_chosen",
    "policy_rejected",
    "policy_chosen_shared",
    "policy_rejected_shared",
    "chosen_kl",
    "rejected_kl",
)
"""Fields that carry the policy's gradient."""
