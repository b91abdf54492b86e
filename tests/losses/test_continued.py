"""Wherever a loss does not say that its formula is continued, it is the formula as printed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import mpmath as mp
import pytest
import torch

from dpo_bench import PairLogps, get_loss
from dpo_bench.catalogue.cards import shipped_losses
from dpo_bench.contract import Loss
from dpo_bench.testing.example_pairs import extreme_pairs, supplied
from tests.losses import formulas
from tests.losses.formulas import FORMULAS, OF_THE_BATCH, Pair, log_sigmoid, pairs_of
from tests.losses.test_values import settings

CONTINUED = {"alpha_po", "chi_po", "gpo_exp", "odpo", "orpo"}


@pytest.fixture(autouse=True)
def _as_printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The formulas without what stands in for them, in 60 digits."""
    monkeypatch.setattr(formulas, "exp_or_tangent", mp.exp)
    monkeypatch.setattr(formulas, "CERTAIN", mp.inf)
    monkeypatch.setattr(formulas, "LEAST", -mp.inf)
    with mp.workdps(60):
        yield


def scattered(count: int = 120) -> PairLogps:
    """Log-ratios from a thousandth of a nat to thousands of nats, either sign, 1 to 60 tokens."""
    generator = torch.Generator().manual_seed(3)

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, dtype=torch.float64)

    ratios = [10 ** uniform(-3, 3.5) * uniform(-1, 1).sign() for _ in range(2)]
    policy = [-(10 ** uniform(-7, 3.5)) for _ in range(2)]
    tokens = [uniform(1, 60).long() for _ in range(2)]
    chosen, rejected = policy
    return PairLogps(
        chosen, rejected, chosen - ratios[0], rejected - ratios[1], tokens[0], tokens[1]
    )


def all_pairs() -> Iterator[PairLogps]:
    yield supplied(scattered())
    yield supplied(extreme_pairs())


def zone_of(loss: Loss, pairs: PairLogps, values: dict[str, float]) -> list[bool]:
    if loss.continued is None:
        return [False] * len(pairs.policy_chosen)
    found: list[bool] = loss.continued(pairs, **loss.resolve(values)).tolist()
    return found


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - OF_THE_BATCH))
def test_outside_its_zone_a_loss_is_the_printed_formula(name: str) -> None:
    loss = get_loss(name)
    for pairs in all_pairs():
        for values in settings(name):
            exact = {key: mp.mpf(value) for key, value in values.items()}
            found, zone = loss(pairs, **values).tolist(), zone_of(loss, pairs, values)
            for value, pair, inside in zip(found, pairs_of(pairs), zone, strict=True):
                if not inside:
                    wanted = float(FORMULAS[name](pair, **exact))
                    assert value == pytest.approx(wanted, rel=1e-9, abs=1e-9), (pair, values)


def test_which_losses_are_continued_at_all() -> None:
    assert {name for name in shipped_losses() if get_loss(name).continued} == CONTINUED
    assert get_loss("js(dpo)").continued is None
    assert get_loss("dpo + 0.5*sft").continued is None


def test_the_end_of_its_own_grid_takes_gpo_exp_there_on_ordinary_margins() -> None:
    """z = beta margin = -20: a margin of -6.7 nats at beta 3."""
    loss = get_loss("gpo_exp")
    beta = max(loss.grid)
    ratio = torch.tensor([-6.0, -6.66, -6.67, -40.0], dtype=torch.float64)
    zero = torch.zeros_like(ratio)
    pairs = PairLogps(ratio, zero, zero, zero, zero + 9, zero + 9)
    assert zone_of(loss, pairs, {"beta": beta}) == [False, False, True, True]
    printed = (-beta * ratio).exp()
    assert (loss(pairs, beta=beta) < 0.999 * printed).tolist() == [False, False, False, True]


def test_chi_po_is_continued_only_where_the_printed_argument_is_out_of_reach() -> None:
    """At beta .05 and clip 20, with e^25 = 7.2e10: what differs by d nats has .05 e^25 d."""
    chosen = torch.tensor([25.0, 25.0, 25.0, 25.0, 0.0, 10.0, 19.0], dtype=torch.float64)
    rejected = torch.tensor(
        [25.0, 25.0 - 1e-12, 25.0 - 1e-7, 25.0 - 1e-5, 25.0, 0.0, 19.0 - 1e-9], dtype=torch.float64
    )
    zero = torch.zeros_like(chosen)
    pairs = supplied(PairLogps(chosen, rejected, zero, zero, zero + 9, zero + 9))
    loss = get_loss("chi_po")
    # alike: ln 2 exactly; nearly alike: smaller than printed; further apart: clipped either way
    expected = [False, True, True, False, False, False, False]
    assert zone_of(loss, pairs, {"beta": 0.05, "clip": 20.0}) == expected
    found = loss(pairs, beta=0.05, clip=20.0).tolist()
    for value, pair, inside in zip(found, pairs_of(pairs), expected, strict=True):
        argument = mp.mpf("0.05") * (mp.exp(pair.a) + pair.a - mp.exp(pair.b) - pair.b)
        printed = -log_sigmoid(max(min(argument, mp.mpf(20)), mp.mpf(-20)))
        assert (value == pytest.approx(float(printed), rel=1e-6)) == (not inside), pair


def test_equal_and_flipped_scores_are_odpos_zone_only_under_the_logarithm() -> None:
    loss, pairs = get_loss("odpo"), supplied(scattered())
    assert pairs.preference_margin is not None
    assert not any(zone_of(loss, pairs, {}))
    zone = zone_of(loss, pairs, {"alpha": 0.0, "log_alpha": 1.0})
    assert zone == (pairs.preference_margin <= 0).tolist()
    assert any(zone)


LINKS: dict[str, Callable[[Any], Any]] = {
    "forward_kl": lambda u: 1 - mp.exp(-u),
    "alpha": lambda u: 2 * (1 - mp.exp(-u / 2)),
    "js": lambda u: mp.log(2) - mp.log1p(mp.exp(-u)),
}
BASES: dict[str, Callable[[Any], Any]] = {
    "dpo": lambda z: -log_sigmoid(z),
    "gpo_exp": lambda z: mp.exp(-z),
    "hinge": lambda z: max(mp.mpf(0), 1 - z),
}


def composed(link: str, base: str) -> Callable[[Pair], Any]:
    return lambda pair: BASES[base](mp.mpf("0.1") * (LINKS[link](pair.a) - LINKS[link](pair.b)))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        *((f"{link}({base})", composed(link, base)) for link in LINKS for base in BASES),
        (
            "0.5*forward_kl(dpo) + 2.0*gpo_exp",
            lambda pair: (
                composed("forward_kl", "dpo")(pair) / 2 + 2 * mp.exp(-mp.mpf("0.1") * pair.margin)
            ),
        ),
    ],
)
def test_composed_loss_is_continued_where_any_part_is(
    name: str, formula: Callable[[Pair], Any]
) -> None:
    loss, pairs = get_loss(name), supplied(scattered())
    zone = zone_of(loss, pairs, {"beta": 0.1})
    found = loss(pairs, beta=0.1).tolist()
    outside = 0
    for value, pair, inside in zip(found, pairs_of(pairs), zone, strict=True):
        if not inside:
            outside += 1
            assert value == pytest.approx(float(formula(pair)), rel=1e-9, abs=1e-9), pair
    assert outside > 20
    assert any(zone) == (name not in {"js(dpo)", "js(hinge)"})
