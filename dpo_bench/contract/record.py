"""What a loss sees of a batch of preference pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch takes a second to import; naming the type must not
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Log-probabilities of the two responses of each pair, under policy and reference.

    Every field is a tensor of shape [pair]. Log-probabilities are in nats, summed over the
    response's tokens (its EOS counted, the prompt not). Only the policy's fields carry a gradient.
    The fields after the first six are there when a loss declares that it needs them; see `NEEDS`.

    Attributes:
        policy_chosen: log pi(chosen | prompt).
        policy_rejected: log pi(rejected | prompt).
        reference_chosen: log pi_ref(chosen | prompt).
        reference_rejected: log pi_ref(rejected | prompt).
        chosen_tokens: number of tokens in the chosen response.
        rejected_tokens: number of tokens in the rejected response.
        preference_margin: how much better the chosen response is, in the data's own unit.
        policy_chosen_shared: log pi of the first min(chosen, rejected) tokens of the chosen one.
        policy_rejected_shared: the same of the rejected one.
        reference_chosen_shared: the same of the chosen one under the reference.
        reference_rejected_shared: the same of the rejected one under the reference.
        chosen_confidence: mean over the tokens of log pi(token) - log sum_v pi(v)^2, nats,
            detached.
        rejected_confidence: the same of the rejected one.
        chosen_kl: sum over the tokens of KL(reference || policy), full vocabulary, nats; with
            gradient.
        rejected_kl: the same of the rejected one.
        mismatched_logratio: log pi/pi_ref of another prompt's response, nats, detached.
        mean_logratio: mean log-ratio of all responses of the run so far, this batch's included;
            the same number for each pair, detached.
    """

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    preference_margin: Tensor | None = None
    policy_chosen_shared: Tensor | None = None
    policy_rejected_shared: Tensor | None = None
    reference_chosen_shared: Tensor | None = None
    reference_rejected_shared: Tensor | None = None
    chosen_confidence: Tensor | None = None
    rejected_confidence: Tensor | None = None
    chosen_kl: Tensor | None = None
    rejected_kl: Tensor | None = None
    mismatched_logratio: Tensor | None = None
    mean_logratio: Tensor | None = None

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
        """The same pairs with the policy equal to the reference: where a loss is its L0.

        The policy's confidence stays as it is: no other field tells the reference's.
        """
        return replace(
            self,
            policy_chosen=self.reference_chosen,
            policy_rejected=self.reference_rejected,
            policy_chosen_shared=self.reference_chosen_shared,
            policy_rejected_shared=self.reference_rejected_shared,
            chosen_kl=_zeros(self.chosen_kl),
            rejected_kl=_zeros(self.rejected_kl),
            mismatched_logratio=_zeros(self.mismatched_logratio),
            mean_logratio=_zeros(self.mean_logratio),
        )


def _zeros(field: Tensor | None) -> Tensor | None:
    return None if field is None else field.detach() * 0
