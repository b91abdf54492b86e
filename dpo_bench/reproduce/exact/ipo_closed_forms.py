"""Where IPO ends and where DPO does not: the closed forms behind the IPO paper's figures."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dpo_bench.reproduce.exact.ipo_figure_1 import TAUS, TOTAL_ORDER, A, B, C
from dpo_bench.reproduce.record import PublishedRow, Reproduced
from dpo_bench.reproduce.tabular import Pairs, Setting, gradient, minimize, train_by_adam

CYCLE = ((A, B), (B, C), (C, A))
THIRD_LOSES = ((A, C), (B, C))
AS_PRINTED = ((A, B), (B, A))

TWO_ACTIONS = {0.1: 0.993307, 0.5: 0.731059, 1.0: 0.622459}
DPO_THIRD_LOSES = {0.1: 0.0, 0.5: 0.0, 1.0: 0.0011}
"""pi(c) of an independent rerun after 2,000 updates."""
FAR = 40.0
"""nats: where a sigmoid is 1 to the last digit"""


def run(source: str) -> Reproduced:
    """All sets of preferences, through optimizers and through the formulas."""
    rows = [row for tau in TAUS for row in _at(source, tau)]
    return Reproduced(tuple(sorted(rows, key=lambda row: row.series)), TEXT)


def _at(source: str, tau: float) -> list[PublishedRow]:
    """Rows of one tau."""
    ipo, dpo = Setting("ipo_sum", tau), Setting("dpo", tau)

    def row(
        series: str, published: float, reproduced: float, tolerance: float = 1e-9
    ) -> PublishedRow:
        return PublishedRow(source, series, tau, published, reproduced, tolerance, "formula")

    two = _optimum(ipo, ((A, B),), 2)
    ordered = _optimum(ipo, TOTAL_ORDER)
    formula = torch.tensor([2 / (3 * tau), 1 / (3 * tau), 0.0], dtype=torch.float64).softmax(0)
    names = "abc"
    rows = [
        row("1 two actions, IPO pi(a)", TWO_ACTIONS[tau], float(two[A]), 5e-7),
        row("1 two actions, DPO pi(a), margins to 40 nats", 1.0, _furthest_fall(dpo), 1e-12),
        *(
            row(f"2 D1, IPO pi({names[k]})", float(formula[k]), float(ordered[k]))
            for k in (A, B, C)
        ),
        *(
            row(f"3 D2 (cycle), {one.loss.removesuffix('_sum').upper()} pi(a)", 1 / 3, value)
            for one in (dpo, ipo)
            if (value := float(_optimum(one, CYCLE)[A]))
        ),
        row(
            "4 {(a,c),(b,c)}, IPO pi(c)",
            1 / (1 + 2 * math.exp(1 / (2 * tau))),
            float(_optimum(ipo, THIRD_LOSES)[C]),
        ),
        _dpo_third_loses(source, dpo),
    ]
    for one in (dpo, ipo):
        name = one.loss.removesuffix("_sum").upper()
        rows.append(
            row(
                f"5 {{(a,b),(b,a)}} as printed, {name} pi(c)",
                1 / 3,
                float(_optimum(one, AS_PRINTED)[C]),
            )
        )
    return rows


def _dpo_third_loses(source: str, dpo: Setting) -> PublishedRow:
    trained = train_by_adam([dpo], THIRD_LOSES, updates=2_000, every=2_000)
    value, rerun = float(trained[-1, 0, :, C].mean()), DPO_THIRD_LOSES[dpo.beta]
    series = "4 {(a,c),(b,c)}, DPO pi(c) after 2,000 updates"
    return PublishedRow(source, series, dpo.beta, None, value, 1e-4, "run", rerun)


def _objective(setting: Setting, pairs: Pairs) -> Callable[[Tensor], Tensor]:
    weights = torch.full((len(pairs),), 1 / len(pairs), dtype=torch.float64)
    return lambda logits: setting.mean_loss(logits, pairs, weights)


def _optimum(setting: Setting, pairs: Pairs, actions: int = 3) -> Tensor:
    """Action probabilities at the minimum, reached from a policy that is not uniform.

    The third action's logit starts at the mean: a set that says nothing of it leaves it there.
    """
    start = torch.tensor([0.5, -0.5, 0.0], dtype=torch.float64)[:actions]
    return minimize(_objective(setting, pairs), start).softmax(0)


def _furthest_fall(setting: Setting) -> float:
    """pi(a) at the largest margin, up to 40 / tau nats, to which the loss falls all the way."""
    objective = _objective(setting, ((A, B),))
    furthest = 0.0
    for margin in torch.linspace(0, FAR, 201, dtype=torch.float64).tolist():
        logits = torch.tensor([margin, 0.0], dtype=torch.float64)
        if gradient(objective, logits)[A] >= 0:
            break
        furthest = margin
    return float(torch.tensor(furthest, dtype=torch.float64).sigmoid())


TEXT = """\
Policies over two or three actions, uniform reference, the mean loss over all pairs of a set
minimized (L-BFGS, then Newton) through the registry's `ipo_sum` and `dpo`. The x is tau.

1. Two actions, a always wins: IPO stops at sigmoid(1/(2 tau)). DPO's loss still falls at every
   margin that was tried, whatever tau is.
2. D1 = {(a,b),(b,c),(a,c)}: IPO's policy is proportional to (e^{2/(3 tau)}, e^{1/(3 tau)}, 1).
3. D2 = {(a,b),(b,c),(c,a)}, a cycle: uniform for both losses.
4. {(a,c),(b,c)}: c always loses. IPO keeps it at 1/(1 + 2 e^{1/(2 tau)}), DPO takes it to
   nothing. DPO's figures are not published; they are held against an independent rerun.
5. **The paper prints its third set as {(a,b),(b,a)}.** That set says nothing of c, whose
   probability stays 1/3 under both losses. The behavior of the paper's figure 2 is that of the set
   in 4: both are shown here."""
