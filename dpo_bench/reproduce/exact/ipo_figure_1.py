"""IPO and DPO on three actions: figure 1 of the IPO paper."""

from __future__ import annotations

import torch
from torch import Tensor

from dpo_bench.reproduce.record import Provenance, PublishedCurve, PublishedRow, Reproduced
from dpo_bench.reproduce.tabular import Setting, train_by_adam

A, B, C = range(3)
TOTAL_ORDER = ((A, B), (B, C), (A, C))
TAUS = (0.1, 0.5, 1.0)
SETTINGS = tuple(Setting(loss, tau) for loss in ("dpo", "ipo_sum") for tau in TAUS)
BATCH = 9
UPDATES = 2_000
EVERY = 20
SEEDS = 10
TOLERANCE = 0.015

SAMPLES = (900, 1_800, 4_500, 9_000, 18_000)
DIGITISED: dict[str, tuple[float | None, ...]] = {
    "DPO tau 0.1": (None, 0.848, 0.988, 0.998, 0.998),
    "DPO tau 0.5": (0.642, 0.807, 0.958, 0.993, 0.998),
    "DPO tau 1": (0.620, 0.762, 0.912, 0.968, 0.988),
    "IPO tau 0.1": (0.642, 0.815, 0.948, 0.963, 0.963),
    "IPO tau 0.5": (0.550, 0.557, 0.562, 0.560, 0.562),
    "IPO tau 1": (0.448, 0.445, 0.450, 0.448, 0.450),
}
"""pi(y1) in the figure, at `SAMPLES` preferences."""
RERUN = {("DPO tau 0.1", 900): 0.661}
"""An independent rerun, where the figure cannot be read."""
FINAL = {
    "DPO tau 0.1": (0.998, 0.0, 0.0),
    "DPO tau 0.5": (0.998, 0.0, 0.0),
    "DPO tau 1": (0.988, 0.015, 0.0),
    "IPO tau 0.1": (0.963, 0.033, 0.000),
    "IPO tau 0.5": (0.562, 0.290, 0.147),
    "IPO tau 1": (0.450, 0.320, 0.230),
}
"""pi(y1), pi(y2), pi(y3) at the figure's right end."""

AXES = ("sampled preferences (9 per update)", "pi(y1)")
STUDENT_T = 2.262
"""97.5% quantile of Student's t with 9 degrees of freedom: ten seeds."""


def figure_1(source: str) -> Reproduced:
    """The figure: 18,000 sampled preferences, which are 2,000 updates."""
    probabilities = train_by_adam(SETTINGS, TOTAL_ORDER, updates=UPDATES, every=EVERY, seeds=SEEDS)
    means = probabilities.mean(2)
    rows = [
        row for index, one in enumerate(SETTINGS) for row in _rows(source, one, means[:, index])
    ]
    return Reproduced(tuple(rows), TEXT, _curves(probabilities), AXES)


def literal(source: str) -> Reproduced:
    """The same with as many updates as the figure's axis has numbers."""
    every = 10 * EVERY
    probabilities = train_by_adam(
        SETTINGS, TOTAL_ORDER, updates=BATCH * UPDATES, every=every, seeds=SEEDS
    )
    means = probabilities.mean(2)
    rows = [
        PublishedRow(source, one.label, updates, None, float(means[updates // every - 1, index, 0]))
        for index, one in enumerate(SETTINGS)
        for updates in (1_000, 2_000, 6_000, 18_000)
    ]
    axes = ("updates", AXES[1])
    return Reproduced(tuple(rows), LITERAL_TEXT, _curves(probabilities, every), axes)


def _rows(source: str, setting: Setting, means: Tensor) -> list[PublishedRow]:
    """Of one setting, from its mean probabilities [record, action]."""
    label, rows = setting.label, []
    for samples, published in zip(SAMPLES, DIGITISED[setting.label], strict=True):
        reproduced = float(means[samples // BATCH // EVERY - 1, 0])
        rerun = RERUN.get((label, samples))
        mark: Provenance = "run" if published is None else "dig"
        rows.append(
            PublishedRow(source, label, samples, published, reproduced, TOLERANCE, mark, rerun)
        )
    for action in (B, C):
        name, published = f"{label}, pi(y{action + 1})", FINAL[label][action]
        reproduced = float(means[-1, action])
        rows.append(
            PublishedRow(source, name, SAMPLES[-1], published, reproduced, TOLERANCE, "dig")
        )
    return rows


def _curves(probabilities: Tensor, every: int | None = None) -> tuple[PublishedCurve, ...]:
    """Mean over seeds with its 95% interval, from [record, setting, seed, action]."""
    best = probabilities[..., 0]
    mean, half = best.mean(2), STUDENT_T * best.std(2) / best.shape[2] ** 0.5
    step = every or EVERY * BATCH
    x = tuple(float(step * (index + 1)) for index in range(len(best)))
    return tuple(
        PublishedCurve(
            setting.label,
            x,
            _column(mean[:, index]),
            _column(mean[:, index] - half[:, index]),
            _column(mean[:, index] + half[:, index]),
        )
        for index, setting in enumerate(SETTINGS)
    )


def _column(values: Tensor) -> tuple[float, ...]:
    return tuple(values.to(torch.float64).tolist())


TEXT = """\
Three actions without context, policy softmax(theta) with theta from 0, uniform reference. The
preferences are y1 over y2, y2 over y3 and y1 over y3; each update of Adam (learning rate .01)
takes 9 of them, drawn with replacement. Mean of 10 seeds; the band is the 95% interval of that
mean. `dpo` and `ipo_sum` are the registry's, beta is the paper's tau.

The figure's axis counts **sampled preferences**: its 18,000 are 2,000 updates. Read as updates the
curves do not match (`ipo-figure-1-literal`). DPO goes to the edge of the simplex whatever tau
is; IPO stops where tau tells it to.

Of DPO tau .1 at 900 preferences the figure cannot be read; ours is held against an independent
rerun, and the published figure is left blank."""

LITERAL_TEXT = """\
The setting of `ipo-figure-1`, but with 18,000 *updates*, as a literal reading of the figure's axis
would have it. Nothing was published for it, so that there is no verdict: DPO ends at 1 for
every tau, where the figure shows .988 for tau 1."""
