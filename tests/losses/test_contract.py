"""Every shipped loss keeps the published contract."""

from __future__ import annotations

import re

import pytest

from dpo_bench import get_loss
from dpo_bench.catalogue.cards import shipped_losses
from dpo_bench.testing.check import check_loss
from tests.losses.formulas import AT_REFERENCE, FORMULAS


@pytest.mark.parametrize("name", shipped_losses())
def test_loss_keeps_the_contract(name: str) -> None:
    check_loss(name, expected=AT_REFERENCE[FORMULAS[name]])


@pytest.mark.parametrize("name", shipped_losses())
def test_card_is_complete(name: str) -> None:
    loss = get_loss(name)
    assert re.search(r"\d{4}", loss.paper), "the paper has a year or an arXiv number"
    documentation = loss.function.__doc__ or ""
    for part in ("The gradient", "Use it", "Watch:", ">>>"):
        assert part in documentation
    assert loss.family != "other"
    assert list(loss.grid) == sorted(set(loss.grid))
    assert len(loss.grid) == (5 if loss.strength else 0)
    if loss.grid:
        assert max(loss.grid) / min(loss.grid) >= 30, "a grid spans at least a decade and a half"
