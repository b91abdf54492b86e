"""Where one loss becomes another."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dpo_bench import PairLogps, get_loss
from dpo_bench.errors import ConfigurationError
from dpo_bench.testing.example_pairs import extreme_pairs, ordinary_pairs, supplied
from tests.losses.pairs import margins

BOTH = pytest.mark.parametrize(
    "pairs", [ordinary_pairs(), extreme_pairs()], ids=["ordinary", "extreme"]
)


def loss(name: str, pairs: PairLogps, **hyperparameters: float) -> Tensor:
    return get_loss(name)(pairs, **hyperparameters)


def equal_lengths(pairs: PairLogps, tokens: int = 1) -> PairLogps:
    count = torch.full_like(pairs.chosen_tokens, tokens)
    return replace(pairs, chosen_tokens=count, rejected_tokens=count)


def without_reference(pairs: PairLogps) -> PairLogps:
    zero = torch.zeros_like(pairs.reference_chosen)
    return replace(pairs, reference_chosen=zero, reference_rejected=zero)


@BOTH
@pytest.mark.parametrize(
    ("name", "hyperparameters", "other", "others"),
    [
        ("cdpo", {"beta": 0.3, "label_smoothing": 0}, "dpo", {"beta": 0.3}),
        ("robust_dpo", {"beta": 0.3, "label_smoothing": 0}, "dpo", {"beta": 0.3}),
        ("length_dpo", {"beta": 0.3, "alpha": 0}, "dpo", {"beta": 0.3}),
        ("dpop", {"beta": 0.3, "lam": 0}, "dpo", {"beta": 0.3}),
        (
            "alpha_po",
            {"alpha": 0, "gamma_beta_ratio": 0.3, "beta": 2},
            "simpo",
            {"gamma_beta_ratio": 0.3},
        ),
        ("orpo", {"lam": 0}, "sft", {}),
    ],
)
def test_loss_at_a_limit_is_another(
    pairs: PairLogps,
    name: str,
    hyperparameters: dict[str, float],
    other: str,
    others: dict[str, float],
) -> None:
    torch.testing.assert_close(loss(name, pairs, **hyperparameters), loss(other, pairs, **others))


@BOTH
@pytest.mark.parametrize(
    ("name", "hyperparameters"),
    [
        ("ld_dpo", {"alpha": 1}),
        ("tdpo2", {"alpha": 0}),
        ("odpo", {"alpha": 0}),
        ("dpo_shift", {"lam": 1}),
    ],
)
def test_loss_that_needs_more_is_dpo_at_a_limit(
    pairs: PairLogps, name: str, hyperparameters: dict[str, float]
) -> None:
    found = loss(name, supplied(pairs), beta=0.3, **hyperparameters)
    torch.testing.assert_close(found, loss("dpo", pairs, beta=0.3))


def test_ld_dpo_at_alpha_0_ignores_what_is_behind_the_shorter_length() -> None:
    pairs = supplied(ordinary_pairs())
    moved = replace(pairs, policy_chosen=pairs.policy_chosen - 7)
    assert torch.equal(loss("ld_dpo", pairs, alpha=0), loss("ld_dpo", moved, alpha=0))


def test_equal_lengths_make_ld_dpo_dpo_whatever_alpha() -> None:
    pairs = equal_lengths(ordinary_pairs(), 9)  # the shared sums follow from the whole ones
    torch.testing.assert_close(loss("ld_dpo", pairs, alpha=0.2), loss("dpo", pairs))


def test_batches_of_one_pair_have_nothing_to_sort() -> None:
    pairs = ordinary_pairs()
    single = PairLogps(*(getattr(pairs, f.name)[:1] for f in fields(pairs)[:6]))
    torch.testing.assert_close(loss("aot", single, beta=0.3), loss("dpo", single, beta=0.3))
    unpaired = loss("aot_unpaired", single, beta=0.3)
    torch.testing.assert_close(unpaired, loss("dpo", single, beta=0.3))


def test_bco_takes_the_batchs_own_mean_where_none_is_given() -> None:
    pairs = ordinary_pairs()
    mean = (pairs.chosen_logratio.mean() + pairs.rejected_logratio.mean()) / 2
    known = replace(pairs, mean_logratio=mean.expand_as(pairs.policy_chosen))
    torch.testing.assert_close(loss("bco", pairs), loss("bco", known))


def test_kto_without_a_drift_is_apo_zero() -> None:
    pairs = ordinary_pairs()
    still = replace(pairs, mismatched_logratio=-torch.ones_like(pairs.policy_chosen))
    torch.testing.assert_close(loss("kto", still, beta=0.3), loss("apo_zero", pairs, beta=0.3))


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("odpo", "preference_margin"),
        ("ld_dpo", "policy_chosen_shared"),
        ("wpo(dpo)", "chosen_confidence"),
        ("tdpo1", "chosen_kl"),
        ("kto", "mismatched_logratio"),
    ],
)
def test_missing_field_is_named(name: str, field: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"needs .* has no {field} \("):
        loss(name, ordinary_pairs())


@pytest.mark.parametrize("name", ["ld_dpo", "tdpo1", "tdpo2", "kto", "bco", "aot"])
def test_plain_record_of_a_policy_at_its_reference_is_enough(name: str) -> None:
    pairs = ordinary_pairs().at_reference()
    value = {"kto": 1.0, "bco": 2 * math.log(2)}.get(name, math.log(2))
    torch.testing.assert_close(loss(name, pairs), torch.full_like(pairs.policy_chosen, value))


@BOTH
@pytest.mark.parametrize(
    ("name", "other"), [("ipo", "ipo_sum"), ("dpo_norm", "dpo"), ("length_dpo", "dpo")]
)
def test_single_tokens_make_lengths_irrelevant(pairs: PairLogps, name: str, other: str) -> None:
    single = equal_lengths(pairs)
    torch.testing.assert_close(loss(name, single, beta=0.7), loss(other, single, beta=0.7))


def test_lengths_matter_to_means_only() -> None:
    pairs = ordinary_pairs()
    assert not torch.allclose(loss("ipo", pairs), loss("ipo", equal_lengths(pairs)))
    assert torch.equal(loss("ipo_sum", pairs), loss("ipo_sum", equal_lengths(pairs)))


@BOTH
@pytest.mark.parametrize(
    ("name", "hyperparameters", "other", "others"),
    [
        ("simpo", {"beta": 2, "gamma_beta_ratio": 0}, "dpo_norm", {"beta": 2}),
        ("cpo", {"beta": 0.3, "alpha": 0}, "dpo", {"beta": 0.3}),
        ("slic", {"delta": 4, "lam": 0}, "hinge", {"beta": 0.25}),
    ],
)
def test_reference_free_loss_is_one_with_a_uniform_reference(
    pairs: PairLogps,
    name: str,
    hyperparameters: dict[str, float],
    other: str,
    others: dict[str, float],
) -> None:
    scale = 4 if name == "slic" else 1  # delta - margin against 1 - margin / delta
    torch.testing.assert_close(
        loss(name, pairs, **hyperparameters),
        scale * loss(other, without_reference(pairs), **others),
    )


@BOTH
def test_squared_losses_are_one_family(pairs: PairLogps) -> None:
    torch.testing.assert_close(
        loss("gpo_squared", pairs, beta=0.3), 0.09 * loss("ipo_sum", pairs, beta=0.15)
    )
    torch.testing.assert_close(
        loss("gpo_truncated_quadratic", pairs, beta=0.3), loss("hinge", pairs, beta=0.3) ** 2
    )
    torch.testing.assert_close(
        loss("cal_dpo", pairs, beta=0.3),
        loss("sppo", pairs, beta=0.3) + loss("dpo", pairs, beta=1),
    )


def test_offset_of_a_logarithm_shifts_the_margin_and_fades_with_the_difference() -> None:
    """odpo with its authors' offset; m of e at half a logarithm asks for a half more."""
    pairs = replace(margins(*[2.0] * 6), preference_margin=None)
    better = torch.tensor([math.e, 1.0, 1e-3, 0.0, -0.0, -5.0], dtype=torch.float64)
    found = loss(
        "odpo", replace(pairs, preference_margin=better), beta=0.5, alpha=0, log_alpha=0.5
    ).tolist()
    assert found[0] == pytest.approx(math.log1p(math.exp(-0.5)))  # z = 1, offset 1/2
    assert found[1] == pytest.approx(math.log1p(math.exp(-1)))
    assert found[2] == pytest.approx(math.log1p(math.exp(-1) * 1e-3**0.5))
    assert found[3:] == pytest.approx([math.exp(-11)] * 3, rel=1e-3)  # as good as nothing


def test_calibration_counts_as_much_as_asked() -> None:
    pairs = ordinary_pairs()
    torch.testing.assert_close(
        loss("cal_dpo", pairs, beta=0.3, calibration_weight=0.5),
        loss("dpo", pairs, beta=1) + 0.5 * loss("sppo", pairs, beta=0.3),
    )


def test_transforms_of_the_logistic_loss() -> None:
    pairs = ordinary_pairs()
    dpo = loss("dpo", pairs, beta=0.3)
    torch.testing.assert_close(loss("gpo_exp", pairs, beta=0.3), torch.expm1(dpo))
    torch.testing.assert_close(loss("gpo_savage", pairs, beta=0.3), torch.expm1(-dpo) ** 2)
    anchored = torch.sigmoid(0.3 * pairs.chosen_logratio)
    torch.testing.assert_close(loss("apo_down", pairs, beta=0.3), anchored - torch.expm1(-dpo))


def test_discopop_is_dpo_where_lost_and_exponential_where_won() -> None:
    lost, won = margins(-8.0, -40.0), margins(8.0, 40.0)
    torch.testing.assert_close(loss("discopop", lost, beta=1), loss("dpo", lost, beta=1))
    torch.testing.assert_close(loss("discopop", won, beta=1), loss("gpo_exp", won, beta=1))


def test_chi_po_is_dpo_for_responses_that_have_become_unlikely() -> None:
    pairs = ordinary_pairs()
    unlikely = replace(
        pairs,
        reference_chosen=pairs.reference_chosen + 40,
        reference_rejected=pairs.reference_rejected + 40,
    )
    torch.testing.assert_close(loss("chi_po", unlikely, beta=0.3), loss("dpo", pairs, beta=0.3))


def test_alpha_po_tends_to_simpo() -> None:
    pairs = ordinary_pairs()
    common: dict[str, Any] = {"beta": 2.0, "gamma_beta_ratio": 0.5}
    for alpha in (1e-7, -1e-7):
        torch.testing.assert_close(
            loss("alpha_po", pairs, alpha=alpha, **common),
            loss("simpo", pairs, **common),
            rtol=1e-5,
            atol=0,
        )


def test_unlikelihood_without_its_term_is_imitation() -> None:
    pairs = ordinary_pairs()
    torch.testing.assert_close(
        loss("unlikelihood", pairs, alpha=0), loss("sft", pairs) * pairs.chosen_tokens
    )


@given(
    margin=st.floats(-1e4, 1e4),
    beta=st.floats(1e-3, 10),
    flips=st.floats(0, 0.49),
)
def test_robust_dpo_over_flips_is_clean_dpo(margin: float, beta: float, flips: float) -> None:
    right, wrong = (
        loss("robust_dpo", margins(sign * margin), beta=beta, label_smoothing=flips)
        for sign in (1, -1)
    )
    clean = loss("dpo", margins(margin), beta=beta)
    expected = (1 - flips) * right + flips * wrong
    torch.testing.assert_close(expected, clean, rtol=1e-10, atol=1e-9 * beta * abs(margin) + 1e-12)


@given(margin=st.floats(-1e4, 1e4), smoothing=st.floats(0, 0.49))
def test_cdpo_is_dpo_on_smoothed_labels(margin: float, smoothing: float) -> None:
    expected = (1 - smoothing) * loss("dpo", margins(margin)) + smoothing * loss(
        "dpo", margins(-margin)
    )
    torch.testing.assert_close(loss("cdpo", margins(margin), label_smoothing=smoothing), expected)
