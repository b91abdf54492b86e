"""Modifiers and mixtures, against the formulas of their papers."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import hypothesis
import mpmath as mp
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dpo_bench import PairLogps, get_loss
from dpo_bench.catalogue.cards import shipped_losses
from dpo_bench.contract import Loss, UnknownLossError, list_modifiers, source_digest
from dpo_bench.errors import ConfigurationError
from dpo_bench.testing.check import check_loss
from dpo_bench.testing.example_pairs import extreme_pairs, ordinary_pairs, supplied
from tests.losses.formulas import Pair, log_sigmoid, pairs_of
from tests.losses.pairs import gradients

DIVERGENCES: dict[str, Callable[[Any], Any]] = {
    "forward_kl": lambda u: 1 - mp.exp(-u),
    "js": lambda u: mp.log(2 * mp.exp(u) / (1 + mp.exp(u))),
    "alpha": lambda u: (1 - mp.exp(u) ** mp.mpf("-0.5")) / mp.mpf("0.5"),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_divergence_replaces_the_log_ratios(name: str) -> None:
    pairs = supplied(ordinary_pairs())
    link = DIVERGENCES[name]

    def formula(pair: Pair) -> float:
        return float(-log_sigmoid(mp.mpf("0.3") * (link(pair.a) - link(pair.b))))

    wanted = torch.tensor([formula(pair) for pair in pairs_of(pairs)], dtype=torch.float64)
    torch.testing.assert_close(get_loss(f"{name}(dpo)")(pairs, beta=0.3), wanted)


SLOPES = {"forward_kl": 1.0, "js": 0.5, "alpha": 1.0}
"""f''(1): how much of a log-ratio near 0 is left."""
LIKELIHOODS = st.lists(st.floats(-400, -0.01), min_size=4, max_size=4)


@functools.cache
def taken(modifier: str) -> list[Loss]:
    """The shipped losses that a modifier takes, under it."""
    found = []
    for name in shipped_losses():
        with contextlib.suppress(ConfigurationError):
            found.append(get_loss(f"{modifier}({name})"))
    assert found
    return found


def settings(loss: Loss) -> list[dict[str, float]]:
    """The defaults and both ends of the grid."""
    ends = (min(loss.grid), max(loss.grid)) if loss.grid else ()
    return [{}, *({str(loss.strength): value} for value in ends)]


def record(logps: list[float]) -> PairLogps:
    """Pairs at the reference with these log-probs, and what any loss needs."""
    chosen, rejected = torch.tensor(logps, dtype=torch.float64).chunk(2)
    tokens = torch.tensor([3, 41])
    pairs = PairLogps(chosen, rejected, chosen, rejected, tokens, tokens.flip(0))
    return supplied(pairs).at_reference()


NEUTRAL: dict[str, dict[str, float]] = {
    **{name: {} for name in DIVERGENCES},
    "nll": {"nll_weight": 0.0},
    "wpo": {},
}
"""At which a modifier must leave the loss at the reference as it is (`wpo`: at a weight of 1)."""


def test_every_modifier_is_held_against_the_loss_that_it_modifies() -> None:
    assert {modifier.name for modifier in list_modifiers()} == set(NEUTRAL)


@pytest.mark.parametrize("modifier", NEUTRAL)
@given(logps=LIKELIHOODS)
@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
def test_modified_loss_starts_where_the_loss_starts(modifier: str, logps: list[float]) -> None:
    pairs = record(logps)
    sure = torch.zeros_like(pairs.policy_chosen)
    pairs = replace(pairs, chosen_confidence=sure, rejected_confidence=sure)
    for loss in taken(modifier):
        (base,) = loss.parts
        for given_values in settings(loss):
            torch.testing.assert_close(
                loss(pairs, **given_values, **NEUTRAL[modifier]), base(pairs, **given_values)
            )


@pytest.mark.parametrize("modifier", DIVERGENCES)
def test_modified_loss_starts_in_the_direction_of_the_loss(modifier: str) -> None:
    """Slopes at the reference are those of the loss itself, times f''(1)."""
    pairs = record([-3.0, -70.0, -21.0, -9.0])
    for loss in taken(modifier):
        for given_values in settings(loss):
            own = gradients(loss.parts[0].name, pairs, **given_values)
            found = gradients(loss.name, pairs, **given_values)
            for ours, wanted in zip(found, own, strict=True):
                torch.testing.assert_close(ours, SLOPES[modifier] * wanted)


@pytest.mark.parametrize("modifier", DIVERGENCES)
def test_divergence_keeps_order_and_sign(modifier: str) -> None:
    seen: list[Tensor] = []

    def base(logps: PairLogps) -> Tensor:
        seen.append(logps.chosen_logratio)
        return logps.margin

    ratios = torch.linspace(-300, 300, 6001, dtype=torch.float64)
    zero = torch.zeros_like(ratios)
    (found,) = [known for known in list_modifiers() if known.name == modifier]
    found.function(base, PairLogps(ratios, zero, zero, zero, zero + 1, zero + 1))
    assert torch.equal(seen[0].sign(), ratios.sign())
    assert (seen[0].diff() >= 0).all()


@pytest.mark.parametrize(
    ("divergence_alpha", "other"), [(0.0, "dpo"), (1e-7, "dpo"), (1.0, "forward_kl(dpo)")]
)
def test_alpha_divergence_at_its_ends(divergence_alpha: float, other: str) -> None:
    pairs = ordinary_pairs()
    torch.testing.assert_close(
        get_loss("alpha(dpo)")(pairs, beta=0.3, divergence_alpha=divergence_alpha),
        get_loss(other)(pairs, beta=0.3),
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.parametrize("name", ["sppo", "nca", "dpop", "apo_down", "cal_dpo", "chi_po", "hinge"])
def test_two_names_of_forward_kl_are_one_loss(name: str) -> None:
    for pairs in (ordinary_pairs(), ordinary_pairs().at_reference(), extreme_pairs()):
        torch.testing.assert_close(
            get_loss(f"forward_kl({name})")(pairs),
            get_loss(f"alpha({name})")(pairs, divergence_alpha=1.0),
        )


def test_weights_are_capped_and_detached() -> None:
    pairs = supplied(ordinary_pairs(), ("confidence",))
    assert pairs.chosen_confidence is not None
    assert pairs.rejected_confidence is not None
    total = (pairs.chosen_confidence + pairs.rejected_confidence).tolist()
    assert min(total) < 0
    surer = replace(pairs, rejected_confidence=pairs.rejected_confidence + 1.5)
    for record, shift in ((pairs, 0.0), (surer, 1.5)):
        weight = torch.tensor([min(1.0, math.exp(t + shift)) for t in total], dtype=torch.float64)
        plain = get_loss("hinge")(record)
        torch.testing.assert_close(get_loss("wpo(hinge)")(record), weight * plain)


def test_nll_adds_imitation() -> None:
    pairs = ordinary_pairs()
    torch.testing.assert_close(
        get_loss("nll(dpo)")(pairs, beta=0.3, nll_weight=2),
        get_loss("dpo")(pairs, beta=0.3) + 2 * get_loss("sft")(pairs),
    )
    torch.testing.assert_close(get_loss("nll(dpo)")(pairs, nll_weight=0), get_loss("dpo")(pairs))


def test_by_default_imitation_counts_once_and_the_divergence_is_half_way_between_its_ends() -> None:
    pairs = supplied(ordinary_pairs())
    imitation = -pairs.policy_chosen / pairs.chosen_tokens
    torch.testing.assert_close(get_loss("nll(dpo)")(pairs), get_loss("dpo")(pairs) + imitation)
    alpha = get_loss("alpha(dpo)")
    torch.testing.assert_close(alpha(pairs), alpha(pairs, divergence_alpha=0.5))


def test_mixture_is_the_weighted_sum_and_shares_its_hyperparameters() -> None:
    mixed = get_loss("0.8*dpo + 0.2*bco_pair + 1.0*sft")
    assert mixed.name == "0.8*dpo + 0.2*bco + sft"
    assert dict(mixed.hyperparameters) == {"beta": 0.1}  # dpo's default; bco alone has .01
    assert mixed.strength == "beta"
    assert mixed.grid == get_loss("dpo").grid
    assert mixed.needs == ("mean_logratio",)
    assert mixed.batch_coupled
    assert mixed.needs_reference
    pairs = supplied(ordinary_pairs())
    torch.testing.assert_close(
        mixed(pairs, beta=0.3),
        0.8 * get_loss("dpo")(pairs, beta=0.3)
        + 0.2 * get_loss("bco")(pairs, beta=0.3)
        + get_loss("sft")(pairs),
    )


def test_spellings_of_one_mixture_are_one_loss() -> None:
    names = ["0.5*(dpo + sft)", "dpo * 0.5 + 0.5*sft", " 0.5*sigmoid+0.25*sft + 0.25*sft"]
    assert {get_loss(name).name for name in names} == {"0.5*dpo + 0.5*sft"}
    assert get_loss("(dpo)").name == get_loss("1.0*dpo").name == "dpo"
    first = get_loss("sft + dpo")
    assert first.strength == "beta"


def test_reference_free_mixture_is_reference_free() -> None:
    assert not get_loss("simpo + 0.5*sft").needs_reference


@pytest.mark.parametrize(
    "name",
    [
        "js(dpo)",
        "forward_kl(hinge)",
        "alpha(ipo_sum)",
        "js(length_dpo)",
        "forward_kl(odpo)",
        "wpo(simpo)",
        "wpo(tdpo2)",
        "js(0.5*dpo + 0.5*hinge)",
    ],
)
def test_composed_loss_keeps_the_contract(name: str) -> None:
    check_loss(name)


@pytest.mark.parametrize("name", ["nll(kto)", "nll(wpo(js(dpo)))", "0.8*dpo + 0.2*bco + 1.0*sft"])
def test_loss_with_imitation_keeps_all_but_a_constant_start(name: str) -> None:
    check_loss(name, skip=["constant_start"])


def test_every_loss_takes_a_divergence_and_stays_finite_or_is_refused_by_name() -> None:
    taken, refusals = [], {}
    for name in shipped_losses():
        try:
            loss = get_loss(f"forward_kl({name})")
        except ConfigurationError as error:
            refusals[name] = str(error)
        else:
            taken.append(name)
            assert loss(supplied(extreme_pairs(torch.float32))).isfinite().all(), name
    for name, message in refusals.items():
        assert message.startswith(f"forward_kl cannot modify {name}: ")
    assert {"dpo", "hinge", "ipo_sum", "odpo", "sppo"} <= set(taken)
    assert not {"ipo", "simpo", "sft", "kto", "bco", "aot", "tdpo1", "ld_dpo"} & set(taken)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("js(ipo)", "js cannot modify ipo: it works per token"),
        ("js(cpo)", "js cannot modify cpo: it has no log-ratios"),
        ("js(kto)", "js cannot modify kto: it is made of more"),
        ("js(nll(dpo))", r"js cannot modify nll\(dpo\): it reads log-prob"),
        ("alpha(js(dpo))", r"alpha cannot modify js\(dpo\): its log-ratios are replaced already"),
        ("wpo(aot)", "wpo cannot modify aot: its pairs have no losses"),
        ("nll(nll(dpo))", r"nll cannot modify nll\(dpo\): both have a hyperparameter 'nll_weight'"),
        ("jss(dpo)", r"unknown modifier 'jss' \(did you mean 'js'\?\)"),
        ("-1*dpo", "spells no loss"),
        ("0*dpo", "a weight is a positive number, not 0"),
        ("True*dpo", "spells no loss"),
        ("dpo*sft", "spells no loss"),
        ("js(dpo, sft)", "spells no loss"),
        ("js(dpo", "spells no loss"),
        ("exo + 0.5*cdpo(dpo)", "unknown modifier 'cdpo'"),
        ("__import__('os')*2", "spells no loss"),
    ],
)
def test_what_spells_no_loss_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        get_loss(name)


def test_unknown_loss_within_an_expression_is_named() -> None:
    with pytest.raises(UnknownLossError, match="unknown loss 'dpoo'"):
        get_loss("0.5*dpoo + sft")


def test_shared_hyperparameter_must_suit_all() -> None:
    with pytest.raises(ConfigurationError, match="aot and exo cannot share label_smoothing: 0 is"):
        get_loss("aot + exo")  # aot's default of 0 is none of exo's values
    both = get_loss("exo + aot")
    assert both.hyperparameters["label_smoothing"] == 1e-3
    with pytest.raises(ConfigurationError, match="label_smoothing = 0 is outside"):
        both.resolve({"label_smoothing": 0.0})


def test_sources_of_all_parts_are_in_the_digest() -> None:
    names = ["dpo", "js(dpo)", "js(hinge)", "dpo + hinge", "0.5*dpo + sft", "wpo(dpo)"]
    digests = {name: source_digest(get_loss(name)) for name in names}
    assert digests["js(dpo)"] != digests["dpo"]
    assert digests["js(dpo)"] != digests["js(hinge)"]
    assert digests["dpo + hinge"] != digests["0.5*dpo + sft"]
