"""Supervised fine-tuning on the chosen responses."""

from __future__ import annotations

from torch import Tensor

from dpo_bench.contract import PairLogps, register


@register(
    "sft",
    aliases=("preferred_ft",),
    family="reference-free",
    paper="Rafailov et al. 2023, arXiv:2305.18290, the baseline Preferred-FT",
    normalization="mean",
    grid=(),
    needs_reference=False,
)
def sft(logps: PairLogps) -> Tensor:
    """Imitation of the chosen response: its negative log-likelihood per token, -p_w/n_w.

    p_w is the policy's log-prob of the chosen response (nats), n_w its tokens.

    The gradient with respect to p_w is -1/n_w, always; the rejected response is not looked at.

    Use it as the baseline that a preference loss has to beat.

    Watch: it learns what the chosen responses have in common with the rejected ones as much as what
    sets them apart. It has no strength: learning rate and steps decide how far it goes.

    >>> import torch
    >>> p, two = -torch.ones(1), 2 * torch.ones(1)
    >>> sft(PairLogps(p, p, p, p, two, two))
    tensor([0.5000])
    """
    return -logps.policy_chosen / logps.chosen_tokens
