"""What a loss sees of a batch of preference pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes a second to import; naming the type must not
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probabilities of the two responses of each pair, under policy and reference.

    Every field is a tensor of shape [pair]. Log-probabilities are in nats, summed over the
    response's tokens (its EOS counted, the prompt not). Only the policy's fields carry a gradient.

    Attributes:
        policy_chosen: log pi(chosen | prompt).
        policy_rejected: log pi(rejected | prompt).
        reference_chosen: log pi_ref(chosen | prompt).
        reference_rejected: log pi_ref(rejected | prompt).
        chosen_tokens: number of tokens in the chosen response.
        rejected_tokens: number of tokens in the rejected response.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor

    @property
    def chosen_logratio(self) -> Tensor:
        """Log pi/pi_ref of the chosen response, nats, shape [pair]."""
        return self.policy_chosen - self.reference_chosen

    @property
    def rejected_logratio(self) -> Tensor:
        """Log pi/pi_ref of the rejected response, nats, shape [pair]."""
        return self.policy_rejected - self.reference_rejected

    @property
    def margin(self) -> Tensor:
        """Chosen minus rejected log-ratio, nats, shape [pair]; x beta: DPO's reward margin."""
        return self.chosen_logratio - self.rejected_logratio

    @property
    def margin_per_token(self) -> Tensor:
        """Like `margin`, each log-ratio first divided by its response's tokens (nats per token)."""
        return (
            self.chosen_logratio / self.chosen_tokens
            - self.rejected_logratio / self.rejected_tokens
        )

    def at_reference(self) -> PairLogps:
        """The same pairs with the policy equal to the reference: where a loss is its L0."""
        return PairLogps(
            policy_chosen=self.reference_chosen,
            policy_rejected=self.reference_rejected,
            reference_chosen=self.reference_chosen,
            reference_rejected=self.reference_rejected,
            chosen_tokens=self.chosen_tokens,
            rejected_tokens=self.rejected_tokens,
        )
