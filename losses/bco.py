"""Binary classifier optimization on pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from dpo_bench.contract import PairLogps, Positive, register


@register(
    "bco",
    aliases=("bco_pair",),
    family="anchored",
    paper="Jung et al. 2024, arXiv:2404.04656, the BCO loss with the reward shift, on pairs",
    normalization="sum",
    grid=(0.01, 0.03, 0.1, 0.3, 1.0),
    needs=("mean_logratio",),
    batch_coupled=True,
)
def bco(logps: PairLogps, beta: Positive = 0.01) -> Tensor:
    """A classifier of good and bad: -ls(beta a - d) - ls(-(beta b - d)), ls = log sigmoid.

    a and b are the log-ratios of chosen and rejected (nats, summed over the response); the shift d
    is the mean reward so far, beta x the mean log-ratio of all responses of the run up to this
    batch, detached. The paper keeps it as a running mean; here it is the plain mean over all pairs
    seen, which no splitting of a batch can change. Its reweighting by density ratio is left out,
    for the two responses of a pair have the same prompt.

    The gradient is -beta sigmoid(d - beta a) with respect to a and beta sigmoid(beta b - d) with
    respect to b: each response is moved by how far it is from being told apart, by itself.

    Use it when chosen responses should become more likely rather than only more likely than others.

    Watch: without the shift (as in some public code) both terms pull from zero and long responses,
    whose log-ratios drift, are classified by their length.

    >>> import torch
    >>> zero, one = torch.zeros(1), torch.ones(1)
    >>> bco(PairLogps(*[zero] * 4, one, one, mean_logratio=zero))  # 2 ln 2 at the reference
    tensor([1.3863])
    """
    shift = beta * logps.mean_logratio
    return -logsigmoid(beta * logps.chosen_logratio - shift) - logsigmoid(
        shift - beta * logps.rejected_logratio
    )
