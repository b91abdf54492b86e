"""Alignment via optimal transport: a loss of distributions over the batch instead of pairs."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register

PAPER = "Melnyk et al. 2024, arXiv:2406.05882"
GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
Smoothing = Annotated[float, Range(0, 0.5, closed_high=False)]


@register(
    "aot",
    family="batch-coupled",
    paper=f"{PAPER}, paired variant, logistic loss",
    normalization="sum",
    grid=GRID,
    batch_coupled=True,
)
def aot(logps: PairLogps, beta: Positive = 0.01, label_smoothing: Smoothing = 0.0) -> Tensor:
    """DPO between sorted margins: with z = beta (sort(p_w - p_l) - sort(r_w - r_l)), -ls(z).

    p and r are the log-probs of policy and reference for chosen and rejected (nats, summed over the
    response), sorted over the whole batch of a step; e = `label_smoothing` smooths as in cDPO,
    -(1-e) ls(z) - e ls(-z). The policy's margins shall exceed the reference's as a distribution
    (first-order stochastic dominance), not pair by pair. A batch of one pair is DPO.

    The gradient with respect to the k-th smallest policy margin is -beta sigmoid(-z_k) (at e = 0),
    against the k-th smallest margin of the reference, whichever pair that belongs to.

    Use it when single labels are doubtful but the data as a whole is not.

    Watch: its value belongs to the batch: another batch size is another loss. The losses come in
    the order of the sorted margins.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> aot(PairLogps(zero, zero, zero, zero, one, one))  # ln 2 at the reference
    tensor([0.6931])
    """
    policy = (logps.policy_chosen - logps.policy_rejected).sort().values
    reference = (logps.reference_chosen - logps.reference_rejected).sort().values
    return _logistic(beta * (policy - reference), label_smoothing)


@register(
    "aot_unpaired",
    family="batch-coupled",
    paper=f"{PAPER}, unpaired variant, logistic loss",
    normalization="sum",
    grid=GRID,
    batch_coupled=True,
    kl_by=("beta", "label_smoothing"),
)
def aot_unpaired(
    logps: PairLogps, beta: Positive = 0.01, label_smoothing: Smoothing = 0.0
) -> Tensor:
    """DPO between sorted log-ratios: with z = beta (sort(a) - sort(b)), -ls(z).

    a and b are the log-ratios of chosen and rejected (nats, summed over the response), each sorted
    over the whole batch of a step; e = `label_smoothing` smooths as in cDPO, -(1-e) ls(z) -
    e ls(-z). The rewards of good responses shall exceed those of bad ones as a distribution; which
    responses were a pair is forgotten.

    The gradient with respect to the k-th smallest of a is -beta sigmoid(-z_k) (at e = 0), of b its
    negative.

    Use it when good and bad responses come without being paired.

    Watch: its value belongs to the batch: another batch size is another loss. The losses come in
    the order of the sorted log-ratios.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> aot_unpaired(PairLogps(zero, zero, zero, zero, one, one))  # ln 2 at the reference
    tensor([0.6931])
    """
    chosen, rejected = logps.chosen_logratio.sort().values, logps.rejected_logratio.sort().values
    return _logistic(beta * (chosen - rejected), label_smoothing)


def _logistic(z: Tensor, label_smoothing: float) -> Tensor:
    return -(1 - label_smoothing) * logsigmoid(z) - label_smoothing * logsigmoid(-z)
