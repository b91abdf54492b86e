"""The metrics of a step, against sums worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpo_bench import PairLogps
from dpo_bench.training.step_metrics import METRICS, PAIR_METRICS, MetricLog, pair_sums


def record(chosen: list[float], rejected: list[float], reference: float = -5.0) -> PairLogps:
    """Pairs with these log-ratios, over a reference that gives every response the same."""
    there = torch.full((len(chosen),), reference, dtype=torch.float64)
    one = torch.ones(len(chosen))
    ours = [torch.tensor(ratios, dtype=torch.float64) + there for ratios in (chosen, rejected)]
    return PairLogps(ours[0].requires_grad_(), ours[1], there, there, one, one)


def sums(logps: PairLogps, losses: Tensor, **options: object) -> dict[str, float]:
    found = pair_sums(losses, logps, **options)  # type: ignore[arg-type]
    assert found.shape == (len(PAIR_METRICS),)
    return dict(zip(PAIR_METRICS, found.tolist(), strict=True))


def test_sums_are_those_of_the_pairs() -> None:
    logps = record([2.0, 0.5, -1.0], [-1.0, 1.5, -3.5])  # margins 3, -1 and 2.5
    found = sums(logps, torch.tensor([0.25, 4.0, 0.5], dtype=torch.float64))
    assert math.isnan(found.pop("continued")), "the loss does not say"
    assert found == {
        "loss": 4.75,
        "margin": 4.5,
        "chosen_logratio": 1.5,
        "rejected_logratio": -3.0,
        "accuracy": 2.0,
    }


@pytest.mark.parametrize(
    ("margins", "won"),
    [([1e-9], 1.0), ([-1e-9], 0.0), ([0.0], 0.5), ([0.0, 0.0, 0.0], 1.5), ([2.0, 0.0, -2.0], 1.5)],
)
def test_a_tie_is_half_won(margins: list[float], won: float) -> None:
    """As everywhere in statistics of wins: policy and reference alike have accuracy 1/2, not 0."""
    logps = record(margins, [0.0] * len(margins), reference=0.0)
    assert sums(logps, torch.zeros(len(margins)))["accuracy"] == won


def test_an_unknown_reference_leaves_the_loss_and_makes_the_rest_unknown() -> None:
    logps = record([2.0, 0.0], [-1.0, 0.0], reference=math.nan)
    found = sums(logps, torch.tensor([0.25, 0.5]))
    assert found.pop("loss") == 0.75
    assert all(math.isnan(value) for value in found.values())


def test_pairs_where_the_formula_is_continued_are_counted() -> None:
    logps = record([30.0, 1.0, -25.0], [0.0, 0.0, 0.0])
    found = sums(logps, torch.zeros(3), continued=lambda pairs: pairs.margin.abs() > 20)
    assert found["continued"] == 2.0


def test_metrics_carry_no_gradient_and_are_single_precision() -> None:
    logps = record([2.0], [1.0])
    found = pair_sums(-logps.margin, logps)
    assert not found.requires_grad
    assert found.dtype == torch.float32


def row(value: float) -> Tensor:
    return torch.full((len(METRICS),), value)


def test_log_has_a_row_for_each_step_however_often_it_is_read() -> None:
    log = MetricLog()
    assert log.read().shape == (0, 7)
    assert log.table().empty
    log.add(row(1.0))
    log.add(row(2.0))
    assert log.read()[:, 0].tolist() == [1.0, 2.0]
    log.add(row(3.0))
    for _ in range(2):
        assert log.read().tolist() == [[value] * 7 for value in (1.0, 2.0, 3.0)]
    table = log.table()
    assert table["step"].tolist() == [0, 1, 2]
    assert table["gradient_norm"].tolist() == [1.0, 2.0, 3.0]


def test_log_of_a_resumed_run_goes_on_after_its_earlier_rows() -> None:
    log = MetricLog(torch.stack([row(1.0), row(2.0)]))
    log.add(row(3.0))
    assert log.read()[:, 3].tolist() == [1.0, 2.0, 3.0]
    assert log.table()["step"].tolist() == [0, 1, 2]
