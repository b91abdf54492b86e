"""Liger's chunked losses agree where they have the same formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dpo_bench import get_loss
from dpo_bench.testing.example_pairs import ordinary_pairs, supplied

liger = pytest.importorskip("liger_kernel.chunked_loss.dpo_loss")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]

SMOOTH = {"label_smoothing": 0.1}


@pytest.mark.parametrize(
    ("name", "ours", "loss_type", "settings"),
    [
        ("dpo", {}, "sigmoid", {}),
        ("hinge", {}, "hinge", {}),
        ("exo", SMOOTH, "exo_pair", SMOOTH),
        ("nca", {}, "nca_pair", {}),
        ("robust_dpo", SMOOTH, "robust", SMOOTH),
        ("sppo", {}, "sppo_hard", {}),
        ("apo_zero", {}, "apo_zero", {}),
        ("apo_down", {}, "apo_down", {}),
        ("discopop", {}, "discopop", {}),
    ],
)
def test_losses_with_a_reference(
    name: str, ours: dict[str, float], loss_type: str, settings: dict[str, Any]
) -> None:
    x = ordinary_pairs()
    target = torch.zeros(2 * len(x.policy_chosen), 1)
    loss = liger.LigerFusedLinearDPOFunction.preference_loss_fn(
        x.policy_chosen,
        x.policy_rejected,
        target,
        x.reference_chosen,
        x.reference_rejected,
        beta=0.3,
        loss_type=loss_type,
        **settings,
    )[0]
    torch.testing.assert_close(
        get_loss(name)(x, beta=0.3, **ours).mean(), loss, atol=1e-5, rtol=1e-5
    )


def test_reference_free_losses() -> None:
    from liger_kernel.chunked_loss.cpo_loss import LigerFusedLinearCPOFunction
    from liger_kernel.chunked_loss.orpo_loss import LigerFusedLinearORPOFunction
    from liger_kernel.chunked_loss.simpo_loss import LigerFusedLinearSimPOFunction

    x = ordinary_pairs()
    target = torch.zeros(2 * len(x.policy_chosen), 1)
    chosen, rejected = x.policy_chosen / x.chosen_tokens, x.policy_rejected / x.rejected_tokens
    simpo = LigerFusedLinearSimPOFunction.preference_loss_fn(
        chosen,
        rejected,
        target,
        beta=2.0,
        gamma=0.8,  # theirs is absolute, ours a ratio to beta
    )[0]
    ours = get_loss("simpo")(x, beta=2.0, gamma_beta_ratio=0.4).mean()
    torch.testing.assert_close(ours, simpo, atol=1e-5, rtol=1e-5)
    orpo = LigerFusedLinearORPOFunction.preference_loss_fn(chosen, rejected, target, beta=0.3)[0]
    ours = (get_loss("orpo")(x, lam=0.3) - get_loss("sft")(x)).mean()  # theirs adds NLL elsewhere
    torch.testing.assert_close(ours, orpo, atol=1e-5, rtol=1e-5)
    cpo = LigerFusedLinearCPOFunction.preference_loss_fn(
        x.policy_chosen, x.policy_rejected, target, beta=0.3
    )[0]
    ours = get_loss("cpo")(x, beta=0.3, alpha=0.0).mean()
    torch.testing.assert_close(ours, cpo, atol=1e-5, rtol=1e-5)


def test_kto_at_the_same_reference_point() -> None:
    from liger_kernel.chunked_loss.kto_loss import LigerFusedLinearKTOFunction

    x = supplied(ordinary_pairs(), ("mismatched_logratio",))
    assert x.mismatched_logratio is not None
    point = x.mismatched_logratio.mean().clamp(min=0)
    pairs = len(x.policy_chosen)
    liked = torch.tensor([True] * pairs + [False] * pairs)
    loss = LigerFusedLinearKTOFunction.preference_loss_fn(
        torch.cat([x.policy_chosen, x.policy_rejected]),
        liked,
        torch.zeros(2 * pairs, 1),
        torch.cat([x.reference_chosen, x.reference_rejected]),
        beta=0.3,
        kl=point,
    )[0]
    # Theirs is a mean over responses, ours a sum over the two of a pair.
    ours = get_loss("kto")(x, beta=0.3).mean() / 2
    torch.testing.assert_close(ours, loss, atol=1e-5, rtol=1e-5)
