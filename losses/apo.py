"""Anchored preference optimization, both variants."""

from __future__ import annotations

from torch import Tensor

from dpo_bench.contract import PairLogps, Positive, register

PAPER = "D'Oosterlinck et al. 2024, arXiv:2408.06266"


@register(
    "apo_zero",
    family="anchored",
    paper=f"{PAPER}, eq. 7",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
)
def apo_zero(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Chosen up, rejected down, each by itself: 1 - s(beta a) + s(beta b), s = sigmoid.

    a and b are the log-ratios of chosen and rejected (nats, summed over the response).

    The gradient is -beta s(beta a) s(-beta a) with respect to a and beta s(beta b) s(-beta b) with
    respect to b: largest at the reference, and fading in *both* directions.

    Use it when the chosen responses are better than what the policy writes.

    Watch: a response that has moved far the wrong way has no gradient left and stays there; a
    response that has moved the right way is not pushed further, which bounds the drift.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> apo_zero(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)
    tensor([1.])
    """
    chosen, rejected = beta * logps.chosen_logratio, beta * logps.rejected_logratio
    return (-chosen).sigmoid() + rejected.sigmoid()


@register(
    "apo_down",
    family="anchored",
    paper=f"{PAPER}, eq. 8",
    normalization="sum",
    grid=(0.1, 0.3, 1.0, 3.0, 10.0),
)
def apo_down(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Both down, the rejected one more: s(beta a) + 1 - s(beta (a - b)), s = sigmoid.

    a and b are the log-ratios of chosen and rejected (nats, summed over the response).

    The gradient with respect to a is beta (s'(beta a) - s'(beta (a - b))), with respect to b it is
    beta s'(beta (a - b)), where s' = s (1 - s): zero for a at the reference, where the two terms
    cancel, and fading in both directions far out.

    Use it when the policy already writes better than the chosen responses.

    Watch: on good chosen responses it unlearns them, and since it pushes both responses down it
    goes much further from the reference than others at the same `beta`. A pair that is far on the
    wrong side has no gradient left.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> apo_down(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)
    tensor([1.])
    """
    return (beta * logps.chosen_logratio).sigmoid() + (-beta * logps.margin).sigmoid()
