"""The reference policy's part of a sweep's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from dpo_bench.analysis.estimate import Estimate, finite
from dpo_bench.analysis.json_files import read_json
from dpo_bench.storage import read_parquet


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One point of the optimal frontier or of best-of-n.

    Attributes:
        kl: nats.
        reward: mean reward.
        low: lower end of its 95% interval; the reward itself when there is none.
        high: upper end.
        n: of best-of-n; 0 for the frontier.
    """

    kl: float
    reward: float
    low: float
    high: float
    n: int = 0


@dataclass(frozen=True)
class Reference:
    """The reference policy's own responses and what follows from them.

    Attributes:
        folder: ``reference``.
        reward: its mean reward.
        response_tokens: its mean response length, tokens.
        controls: of the reward or judge, by name: value, low, high, n, expected, passed.
        controls_cost: what a judge's controls took; empty for a reward.
        text_read_by_the_reward: of the first prompt and its chosen response; empty where the reward
            makes no text of them.
    """

    folder: Path
    reward: Estimate
    response_tokens: Estimate
    controls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    controls_cost: Mapping[str, Any] = field(default_factory=dict)
    text_read_by_the_reward: str = ""

    @cached_property
    def samples(self) -> pd.DataFrame:
        """``reference_samples`` rows per prompt."""
        return read_parquet(self.folder / "samples.parquet")

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """A row per held-out prompt, with the dataset's chosen response."""
        return read_parquet(self.folder / "prompts.parquet")

    @cached_property
    def frontier(self) -> tuple[CurvePoint, ...]:
        """The optimal reward at each KL in its valid range, ordered; empty without a reward."""
        return self._curve("frontier.parquet")

    @cached_property
    def best_of_n(self) -> tuple[CurvePoint, ...]:
        """Reward and KL of the best of n reference samples, ordered; empty without a reward."""
        return self._curve("best_of_n.parquet")

    def _curve(self, name: str) -> tuple[CurvePoint, ...]:
        path = self.folder / name
        if not path.exists():
            return ()
        rows = read_parquet(path).dropna(subset=["kl", "reward"]).sort_values("kl")
        return tuple(_curve_point(row) for row in rows.to_dict("records"))


def read_reference(folder: Path) -> Reference:
    """Read ``reference/``; its tables are read when first asked for.

    Raises:
        EnvironmentProblem: its ``evaluation.json`` is damaged.
    """
    path = folder / "evaluation.json"
    record = read_json(path) if path.exists() else {}
    metrics, controls, cost = (
        dict(record.get(name) or {}) for name in ("metrics", "controls", "controls_cost")
    )
    reward, tokens = (metrics.get(name) or {} for name in ("reward", "response_tokens"))
    text = record.get("text_read_by_the_reward")
    return Reference(
        folder, Estimate.read(reward), Estimate.read(tokens), controls, cost, str(text or "")
    )


def _curve_point(row: Mapping[Any, Any]) -> CurvePoint:
    reward = float(row["reward"])
    low, high = (finite(row.get(key)) for key in ("reward_low", "reward_high"))
    return CurvePoint(
        kl=float(row["kl"]),
        reward=reward,
        low=reward if low is None else low,
        high=reward if high is None else high,
        n=int(row.get("n") or 0),
    )
