"""Length-desensitised DPO."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, Range, register


@register(
    "ld_dpo",
    family="length-aware",
    paper="Liu et al. 2024, arXiv:2409.06411, the length-decoupled likelihood in DPO",
    normalization="sum",
    grid=(0.03, 0.1, 0.3, 1.0, 3.0),
    needs=("shared_sums",),
)
def ld_dpo(
    logps: PairLogps,
    beta: Positive = 0.1,
    alpha: Annotated[float, Range(0, 1)] = 0.5,
) -> Tensor:
    """DPO in which the longer response's extra tokens count `alpha`: -log sigmoid(beta (a - b)).

    a and b are the log-ratios of chosen and rejected (nats), each summed over the first
    min(n_w, n_l) tokens plus `alpha` x the sum over the rest, for policy and reference alike. At
    alpha = 1 it is DPO; at alpha = 0 what stands behind the shorter length is ignored.

    The gradient with respect to a log-prob of the shared part is DPO's at this margin, -beta
    sigmoid(-beta (a - b)) for the chosen response; with respect to the rest it is `alpha` times
    that.

    Use it when responses grow with training because longer ones win.

    Watch: the end of the longer response, its EOS with it, is learnt more slowly.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> from dpo_bench import get_loss
    >>> get_loss("ld_dpo")(PairLogps(zero, zero, zero, zero, one, one))  # ln 2 at the reference
    tensor([0.6931])
    """
    chosen = _damped(
        logps.chosen_logratio, logps.policy_chosen_shared, logps.reference_chosen_shared, alpha
    )
    rejected = _damped(
        logps.rejected_logratio,
        logps.policy_rejected_shared,
        logps.reference_rejected_shared,
        alpha,
    )
    return -logsigmoid(beta * (chosen - rejected))


def _damped(whole: Tensor, policy: Tensor, reference: Tensor, alpha: float) -> Tensor:
    """Log-ratio of the shared part plus alpha x that of the rest."""
    return alpha * whole + (1 - alpha) * (policy - reference)
