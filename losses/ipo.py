"""Identity preference optimization, per token and on sums."""

from __future__ import annotations

from torch import Tensor

from dpo_bench.contract import PairLogps, Positive, register

PAPER = "Azar et al. 2023, arXiv:2310.12036, eq. 17"


@register(
    "ipo",
    family="length-aware",
    paper=f"{PAPER}, log-ratios averaged over tokens",
    normalization="mean",
    grid=(0.1, 0.3, 1.0, 3.0, 10.0),
)
def ipo(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Squared distance of the margin per token from its target: (a/n_w - b/n_l - 1/(2 tau))^2.

    a and b are the log-ratios of chosen and rejected (nats), n_w and n_l their token counts; `beta`
    is the paper's tau. The paper writes sums (that form is `ipo_sum`); its authors later said that
    the results they reported used averages over tokens, which is this form.

    The gradient with respect to the margin per token is 2 (margin - 1/(2 tau)): it grows linearly,
    without bound, on both sides of the target, so a pair that has overshot is pulled back.

    Use it when labels are nearly deterministic: the margin stays finite where DPO's does not.

    Watch: the target is in nats per token, hence needs a larger `beta` than losses on sums, and at
    small `beta` it is so far away that the loss is a straight line and its value says little.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> ipo(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)  # (1 / 0.2) ** 2
    tensor([25.])
    """
    return (logps.margin_per_token - 1 / (2 * beta)) ** 2


@register(
    "ipo_sum",
    family="pairwise",
    paper=f"{PAPER}, as written",
    normalization="sum",
    grid=(0.01, 0.03, 0.1, 0.3, 1.0),
)
def ipo_sum(logps: PairLogps, beta: Positive = 0.1) -> Tensor:
    """Squared distance of the margin from its target: (a - b - 1/(2 tau))^2.

    a and b are the log-ratios of chosen and rejected (nats, summed over the response); `beta` is
    the paper's tau. `ipo` is the same with log-ratios averaged over tokens.

    The gradient with respect to the margin is 2 (margin - 1/(2 tau)): it grows linearly, without
    bound, on both sides of the target, so a pair that has overshot is pulled back.

    Use it to follow the paper's theory: its optimum is the reference tilted by
    exp(P(y beats the behavior policy) / tau), regularized even when labels are deterministic.

    Watch: every pair has the same target whatever its length, and one far-off pair dominates a
    batch because errors are squared.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> ipo_sum(PairLogps(zero, zero, zero, zero, one, one), beta=0.1)  # (1 / 0.2) ** 2
    tensor([25.])
    """
    return (logps.margin - 1 / (2 * beta)) ** 2
