"""TRL's own loss code, fed with the same log-probs, agrees where it has the same formula."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dpo_bench import PairLogps, get_loss

dpo_trainer = pytest.importorskip("trl.trainer.dpo_trainer")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),  # theirs
]

LENGTHS = torch.tensor([[5, 9, 1, 7], [5, 4, 8, 3]])  # chosen, rejected
LONGEST = 10


class Tokens:
    """Per-token log-probs of four pairs under policy and reference: chosen rows, rejected rows."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(11)
        self.lengths = LENGTHS.flatten()
        self.mask = (torch.arange(LONGEST) < self.lengths[:, None]).long()
        shape = self.mask.shape
        self.policy = -3 * torch.rand(shape, generator=generator) * self.mask
        self.reference = self.policy + 0.8 * torch.randn(shape, generator=generator) * self.mask
        self.collision = (-2 * torch.rand(shape, generator=generator) - 0.3) * self.mask

    def record(self) -> PairLogps:
        shared = LENGTHS.min(0).values.repeat(2)
        first = torch.arange(LONGEST) < shared[:, None]
        confidence = (self.policy - self.collision).sum(1) / self.lengths
        policy, reference = self.policy.sum(1).chunk(2), self.reference.sum(1).chunk(2)
        policy_shared = (self.policy * first).sum(1).chunk(2)
        reference_shared = (self.reference * first).sum(1).chunk(2)
        record = PairLogps(policy[0], policy[1], reference[0], reference[1], LENGTHS[0], LENGTHS[1])
        return replace(
            record,
            policy_chosen_shared=policy_shared[0],
            policy_rejected_shared=policy_shared[1],
            reference_chosen_shared=reference_shared[0],
            reference_rejected_shared=reference_shared[1],
            chosen_confidence=confidence.chunk(2)[0],
            rejected_confidence=confidence.chunk(2)[1],
            mean_logratio=torch.zeros(4),
        )


class Says(torch.nn.Module):
    """A model in TRL's eyes: it says exactly these per-token log-probs."""

    is_gradient_checkpointing = False

    def __init__(self, logps: Tensor, collision: Tensor) -> None:
        super().__init__()
        zeros = torch.zeros_like(logps)
        self.outputs = SimpleNamespace(
            log_probs=logps,
            log_sum_sq_probs=collision,
            entropy=zeros,
            mean_logits=zeros,
            is_top1=zeros.bool(),
        )

    def forward(self, **_inputs: Any) -> SimpleNamespace:
        return self.outputs


def theirs(tokens: Tokens, loss_type: str, beta: float, **settings: Any) -> Tensor:
    """Mean loss of `DPOTrainer._compute_loss` for models that say exactly these log-probs."""

    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather_for_metrics=lambda t: t, gather=lambda t: t
    )
    state = {
        "model": Says(tokens.policy, tokens.collision),
        "ref_model": Says(tokens.reference, tokens.collision),
        "accelerator": accelerator,
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": False,
        "f_divergence_type": "reverse_kl",
        "loss_types": [loss_type],
        "loss_weights": [1.0],
        "beta": beta,
        "label_smoothing": 0.0,
        "use_weighting": False,
        "args": SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None),
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        **settings,
    }
    rows, width = tokens.mask.shape
    inputs = {
        "input_ids": torch.ones(rows, width + 1, dtype=torch.long),
        "attention_mask": torch.ones(rows, width + 1, dtype=torch.long),
        "completion_mask": torch.cat([torch.zeros(rows, 1, dtype=torch.long), tokens.mask], 1),
    }
    trainer = SimpleNamespace(**state)
    compute = dpo_trainer.DPOTrainer._compute_loss
    loss: Tensor = compute(trainer, trainer.model, inputs, False)
    return loss


SMOOTH = {"label_smoothing": 0.1}
SAME: list[tuple[str, dict[str, float], str, dict[str, Any]]] = [
    ("dpo", {}, "sigmoid", {}),
    ("hinge", {}, "hinge", {}),
    ("ipo", {}, "ipo", {}),
    ("exo", SMOOTH, "exo_pair", SMOOTH),
    ("nca", {}, "nca_pair", {}),
    ("robust_dpo", SMOOTH, "robust", SMOOTH),
    ("sppo", {}, "sppo_hard", {}),
    ("aot", SMOOTH, "aot", SMOOTH),
    ("aot_unpaired", SMOOTH, "aot_unpaired", SMOOTH),
    ("apo_zero", {}, "apo_zero", {}),
    ("apo_down", {}, "apo_down", {}),
    ("discopop", {}, "discopop", {}),
    ("dpo_norm", {}, "sigmoid_norm", {}),
    ("bco", {}, "bco_pair", {}),  # theirs has no shift: ours at a mean of 0
    ("ld_dpo", {"alpha": 0.3}, "sigmoid", {"ld_alpha": 0.3}),
    ("js(dpo)", {}, "sigmoid", {"f_divergence_type": "js_divergence"}),
    ("forward_kl(dpo)", {}, "sigmoid", {"f_divergence_type": "forward_kl"}),
    (
        "alpha(dpo)",
        {"divergence_alpha": 0.3},
        "sigmoid",
        {"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    ),
    ("js(hinge)", {}, "hinge", {"f_divergence_type": "js_divergence"}),
]


@pytest.mark.parametrize(("name", "ours", "loss_type", "settings"), SAME)
def test_same_formula_same_value(
    name: str, ours: dict[str, float], loss_type: str, settings: dict[str, Any]
) -> None:
    tokens = Tokens()
    found = get_loss(name)(tokens.record(), beta=0.3, **ours).mean()
    torch.testing.assert_close(
        found, theirs(tokens, loss_type, 0.3, **settings), atol=1e-5, rtol=1e-5
    )


def test_weights_agree_where_ours_are_not_capped() -> None:
    tokens = Tokens()
    tokens.policy = tokens.policy - 2 * tokens.mask  # far below what the policy would draw
    tokens.reference = tokens.reference - 2 * tokens.mask
    found = get_loss("wpo(dpo)")(tokens.record(), beta=0.3).mean()
    expected = theirs(tokens, "sigmoid", 0.3, use_weighting=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_mixture_is_their_combination_of_losses() -> None:
    tokens = Tokens()
    found = get_loss("0.8*dpo + 0.2*bco")(tokens.record(), beta=0.3).mean()
    mixed = {"loss_types": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2]}
    torch.testing.assert_close(found, theirs(tokens, "", 0.3, **mixed), atol=1e-5, rtol=1e-5)


def test_imitation_differs_as_documented() -> None:
    """Theirs is a mean over all tokens of the batch, ours over each response's, then responses."""
    tokens = Tokens()
    record = tokens.record()
    pooled = -(record.policy_chosen.sum() / record.chosen_tokens.sum())
    torch.testing.assert_close(theirs(tokens, "sft", 0.3), pooled)
    assert not torch.allclose(get_loss("sft")(record).mean(), pooled, atol=1e-3)
