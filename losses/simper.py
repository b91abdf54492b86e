"""SimPER: inverse perplexities, without a hyperparameter."""

from __future__ import annotations

from torch import Tensor

from dpo_bench.contract import PairLogps, register


@register(
    "simper",
    family="reference-free",
    paper="Xiao et al. 2025, arXiv:2502.00883, the inverse-perplexity objective",
    normalization="mean",
    grid=(),
    needs_reference=False,
)
def simper(logps: PairLogps) -> Tensor:
    """Difference of inverse perplexities: exp(p_l/n_l) - exp(p_w/n_w).

    p_w and p_l are the policy's log-probs of chosen and rejected (nats), n_w and n_l their token
    counts; e^(p/n) is the inverse perplexity, the geometric mean probability of a token. The value
    lies between -1 and 1.

    The gradient is -e^(p_w/n_w)/n_w with respect to p_w and e^(p_l/n_l)/n_l with respect to p_l:
    likely responses are moved more than unlikely ones, and an unlikely one is left alone.

    Use it when there is neither a reference nor time to tune.

    Watch: with nothing to tune, only learning rate and number of steps decide how far it goes; a
    chosen response that the policy finds unlikely has next to no gradient.

    >>> import torch
    >>> p, one = -torch.ones(1), torch.ones(1)
    >>> simper(PairLogps(p, 2 * p, p, p, one, one))  # e^-2 - e^-1
    tensor([-0.2325])
    """
    chosen = (logps.policy_chosen / logps.chosen_tokens).exp()
    rejected = (logps.policy_rejected / logps.rejected_tokens).exp()
    return rejected - chosen
