"""One trial of a synthetic sweep: its measured tables and its manifest."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpo_bench.storage import write_json
from dpo_bench.sweep.store import Manifest, write_manifest
from tests.report.sweep_world import (
    CURVES,
    FRONTIER_KL,
    FRONTIER_REWARD,
    HOSTILE,
    World,
    write_table,
)

LAST_STEP = 120


class Trial:
    """One trial: its measured tables and its manifest."""

    def __init__(
        self, world: World, loss: str, index: int, seed: int, smoothing: float | None
    ) -> None:
        self.world, self.loss, self.seed, self.smoothing = world, loss, seed, smoothing
        grid, rewards, kls = CURVES[loss]
        self.beta, self.reward, self.kl = grid[index], rewards[index], kls[index]
        self.failed = (loss, index) in world.sweep.failed
        self.name = world.sweep.name(loss)
        self.id = hashlib.sha256(f"{loss}{index}{seed}{smoothing}".encode()).hexdigest()
        self.random = np.random.default_rng([seed, index, len(loss), int(1000 * (smoothing or 0))])
        self.drift = self.random.normal(0, 0.01) if seed else 0.0

    def write(self, folder: Path) -> None:
        """Fill the trial's folder, the manifest last."""
        if self.world.sweep.training_rows or not self.failed:
            write_table(folder / "training.parquet", self._training())
        if not self.failed:
            samples, pairs = self._samples(), self._heldout()
            write_table(folder / "samples.parquet", samples)
            write_table(folder / "heldout.parquet", pairs)
            if self.world.sweep.along:
                self._write_checkpoints(folder, samples)
            write_json(
                folder / "evaluation.json",
                {
                    "metrics": self._metrics(samples, pairs),
                    "initial_loss": 0.693147,
                    "initial_loss_expected": 0.693147,
                    "steps": LAST_STEP,
                },
            )
        write_manifest(folder, self._manifest())

    def _hyperparameters(self) -> dict[str, float]:
        extra = {} if self.smoothing is None else {"label_smoothing": self.smoothing}
        return {"beta": self.beta} | extra

    def _manifest(self) -> Manifest:
        error = trace = None
        if self.failed:
            payload = HOSTILE[0] + " | " + HOSTILE[4] if self.world.sweep.hostile else ""
            error = f"the loss is not finite at step 70 (nan){payload}"
            place = 'Traceback (most recent call last):\n  File "training.py", line 7, in step'
            trace = f"{place}\n{error}\n```\n{payload}"
        return Manifest(
            self.id,
            "failed" if self.failed else "done",
            self.name,
            "beta",
            self.beta,
            self._hyperparameters(),
            self.seed,
            {"training": 2.1} if self.failed else {"training": 2.1, "evaluation": 1.4},
            error=error,
            cause="DivergedError" if self.failed else None,
            traceback=trace,
        )

    def _training(self) -> pd.DataFrame:
        rows = self.world.sweep.training_rows
        steps = np.arange(rows) * 10
        done = 1 - np.exp(-steps / 40)
        spread = self.random.normal(0, 0.02, rows) * (steps > 0)
        margin = done * self.kl * 1.4 + spread
        return pd.DataFrame(
            {
                "step": steps,
                "loss": 0.693147 * (1 - 0.6 * done) + spread,
                "margin": margin,
                "chosen_logratio": -0.65 * self.kl * done,
                "rejected_logratio": -0.65 * self.kl * done - margin,
                "accuracy": 0.5 + 0.3 * done + spread,
                "gradient_norm": 1 + abs(spread),
                "learning_rate": 1e-3 * (1 - steps / 120),
            }
        )

    def _samples(self) -> pd.DataFrame:
        world, sweep = self.world, self.world.sweep
        count = sweep.prompts * sweep.samples
        index = np.repeat(np.arange(sweep.prompts), sweep.samples)
        spread = 0.5 * (1 - self.reward * 0.7)
        noise = self.random.normal(0, spread, count)
        reward = np.clip(self.reward + self.drift + 0.6 * world.effect[index] + noise, -1, 1)
        kl = self.random.gamma(4, self.kl * np.exp(3 * self.drift) / 4, count)
        opponents = world.reference[index]
        wins = (reward[:, None] > opponents).mean(1) + 0.5 * (reward[:, None] == opponents).mean(1)
        table = pd.DataFrame(
            {
                "prompt_id": np.array(world.ids)[index],
                "sample": np.tile(np.arange(sweep.samples), sweep.prompts),
                "prompt": [world.prompt(int(i)) for i in index],
                "response": [world.review(self.reward) for _ in range(count)],
                "tokens": self.random.integers(8, 30, count),
                "finished": self.random.random(count) > 0.05,
                "reward": reward,
                "kl": kl,
                "kl_monte_carlo": kl + self.random.normal(0, 1, count),
                "win_reference": wins,
                "win_chosen": (reward > world.effect[index] + 0.4).astype(float),
            }
        )
        if not sweep.reward:
            table[["reward", "win_reference", "win_chosen"]] = np.nan
        return table

    def _write_checkpoints(self, folder: Path, samples: pd.DataFrame) -> None:
        """Half-way policies have less KL, and less reward at the same KL than trained ones."""
        columns = ["reward", "win_reference", "win_chosen", "kl", "tokens"]
        own = samples.groupby("prompt_id")[columns].mean().reset_index()
        rows, prompts = [], []
        for step in self.world.sweep.along:
            share = step / LAST_STEP
            table = own.assign(
                step=step,
                kl=own["kl"] * share**2,
                reward=own["reward"] * share - 0.1 * (step < LAST_STEP),
                win_reference=0.5 + (own["win_reference"] - 0.5) * share,
            )
            prompts.append(table)
            row = {"step": step, "seconds": 1.0}
            for name, column in (("kl", "kl"), ("reward", "reward"), ("win_rate", "win_reference")):
                found = self.world.estimate(table[column].to_numpy(float))
                row |= {name: found["value"]}
                row |= {f"{name}_{end}": found[end] for end in ("low", "high")}
            rows.append(row)
        write_table(folder / "checkpoints.parquet", pd.DataFrame(rows))
        write_table(folder / "checkpoint_prompts.parquet", pd.concat(prompts, ignore_index=True))

    def _heldout(self) -> pd.DataFrame:
        pairs = self.world.sweep.prompts
        chosen = self.random.normal(-0.65 * self.kl, 0.3 + self.kl / 3, pairs)
        margin = self.random.normal(0.9 * self.kl, 0.1 + self.kl, pairs)
        return pd.DataFrame(
            {
                "pair_id": np.arange(pairs),
                "margin": margin,
                "chosen_logratio": chosen,
                "rejected_logratio": chosen - margin,
            }
        )

    def _metrics(self, samples: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
        columns = {"kl": "kl", "kl_monte_carlo": "kl_monte_carlo", "response_tokens": "tokens"}
        if self.world.sweep.reward:
            columns |= {
                "reward": "reward",
                "win_rate": "win_reference",
                "win_rate_chosen": "win_chosen",
            }
        means = samples.groupby("prompt_id").mean(numeric_only=True)
        metrics = {
            name: self.world.estimate(means[column].to_numpy(float))
            for name, column in columns.items()
        }
        for name in ("margin", "chosen_logratio", "rejected_logratio"):
            metrics[name] = self.world.estimate(pairs[name].to_numpy(float))
        metrics["preference_accuracy"] = self.world.estimate(
            np.where(pairs["margin"] > 0, 1.0, 0.0)
        )
        if self.world.sweep.reward and metrics["kl"]["value"] <= FRONTIER_KL[-1]:
            best = float(np.interp(metrics["kl"]["value"], FRONTIER_KL, FRONTIER_REWARD))
            own = metrics["reward"]
            metrics["frontier_gap"] = {
                "value": best - own["value"],
                "low": best - own["high"],
                "high": best - own["low"],
                "n": own["n"],
            }
        return metrics
