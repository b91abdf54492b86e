"""What all trials of a synthetic sweep share: settings, prompts, the reference's responses."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpo_bench.experiment import Experiment
from dpo_bench.storage import write_json

Array = np.ndarray[Any, np.dtype[np.float64]]

HOSTILE = (
    "<script>window.hacked = 1; alert(1)</script>",
    "</script><img src=x onerror=\"window.hacked = 2; alert('x')\">",
    "<svg/onload=alert(3)>",
    "a | b | c \\| `code` **bold** _under_ [link](javascript:alert(4)) ![i](https://evil.example/i.png)",
    "<!-- comment --> ]]> --> <iframe src='https://evil.example'></iframe>",
    "\u2028line separator\u2029 and \u202ereversed\u202c \x07 bell",
    "שלום עולם مرحبا 你好 👩‍👩‍👧‍👦 🏳️‍🌈 e\u0301",
    "w" * 400,
    "{{ 7 * 7 }} {% raw %} ${alert(5)} %{customdata[0]} $x^2$",
    "' onmouseover='alert(6)' \" autofocus onfocus=\"alert(7)\"",
    "~~~\n```\nfence\n```\n# head\n- item\nhttps://evil.example www.evil.example me@evil.example",
)
HOSTILE_LOSS = "<b onclick=alert(8)>x</b>|$y_1$_</script>\"'&"

CURVES: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "dpo": (
        (0.03, 0.1, 0.3, 1.0, 3.0),
        (0.82, 0.80, 0.72, 0.55, 0.39),
        (8.6, 5.2, 2.9, 0.95, 0.38),
    ),
    "cdpo": (
        (0.03, 0.1, 0.3, 1.0, 3.0),
        (0.83, 0.80, 0.67, 0.47, 0.31),
        (8.0, 4.7, 2.1, 0.6, 0.16),
    ),
    "hinge": (
        (0.03, 0.1, 0.3, 1.0, 3.0),
        (0.83, 0.81, 0.72, 0.51, 0.38),
        (9.4, 7.9, 2.6, 0.74, 0.34),
    ),
    "ipo": (
        (0.1, 0.3, 1.0, 3.0, 10.0),
        (0.75, 0.71, 0.60, 0.40, 0.21),
        (6.6, 4.9, 2.0, 0.61, 0.10),
    ),
}
FRONTIER_KL = (0.0, 0.1, 0.25, 0.48, 0.8, 1.15, 1.6, 2.0, 2.5, 2.958)
FRONTIER_REWARD = (0.08, 0.34, 0.47, 0.59, 0.69, 0.78, 0.84, 0.87, 0.9, 0.918)
REFERENCE_REWARD = 0.08


@dataclass(frozen=True)
class Sweep:
    """What the folder holds."""

    losses: tuple[str, ...] = tuple(CURVES)
    strengths: int = 5
    seeds: tuple[int, ...] = (0,)
    failed: tuple[tuple[str, int], ...] = (("cdpo", 0),)
    """loss and index of the strength"""
    reward: bool = True
    hostile: bool = False
    prompts: int = 256
    samples: int = 2
    reference_samples: int = 64
    training_rows: int = 13
    along: tuple[int, ...] = ()
    """steps at which each trial was evaluated as well; its own last step is 120"""
    unfinished: int = 0
    """trials that are planned but have not run"""
    extra: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """values of ``label_smoothing`` per loss, each a series of its own"""

    def name(self, loss: str) -> str:
        return HOSTILE_LOSS if self.hostile and loss == "ipo" else loss


def write_table(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_parquet(path)


class World:
    """What all trials share: prompts, the reference's responses, bootstrap weights."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.random = np.random.default_rng(11)
        self.reviews = 0
        self.text = random.Random(11)
        self.ids = [f"p{i:04d}" for i in range(sweep.prompts)]
        self.effect = self.random.normal(0, 0.12, sweep.prompts)
        noise = self.random.normal(0, 0.5, (sweep.prompts, sweep.reference_samples))
        self.reference = np.clip(REFERENCE_REWARD + self.effect[:, None] + noise, -1, 1)
        self.weights = self.random.multinomial(
            sweep.prompts, [1 / sweep.prompts] * sweep.prompts, 400
        ).astype(float)

    def review(self, good: float) -> str:
        """A short review; one hostile text after the other when the sweep is hostile."""
        if self.sweep.hostile:
            self.reviews += 1
            return HOSTILE[self.reviews % len(HOSTILE)]
        praise, blame = ("wonderful", "funny", "great", "lovely"), ("awful", "boring", "bad", "sad")
        words = []
        for _ in range(self.text.randint(1, 3)):
            tone = praise if self.text.random() < (good + 1) / 2 else blame
            subject = self.text.choice(("the plot", "the music", "the ending", "every actor"))
            words.append(
                f"{subject} was {self.text.choice(('', 'very ', 'truly '))}{self.text.choice(tone)}"
            )
        return f"{' and '.join(words)} ."

    def estimate(self, values: Array) -> dict[str, Any]:
        """Mean over prompts with a percentile interval."""
        means = self.weights[:, : len(values)] @ values / self.weights[:, : len(values)].sum(1)
        low, high = np.quantile(means, [0.025, 0.975])
        return {
            "value": float(values.mean()),
            "low": float(low),
            "high": float(high),
            "n": len(values),
        }

    def prompt(self, index: int) -> str:
        if self.sweep.hostile:
            return f"review {index} {HOSTILE[index % len(HOSTILE)]}"
        return f"review {index} : the film about a {('dog', 'ship', 'king', 'robot')[index % 4]}"

    def write_reference(self, folder: Path) -> None:
        sweep = self.sweep
        rewards: Array | float = self.reference.ravel() if sweep.reward else np.nan
        count = sweep.reference_samples
        write_table(
            folder / "samples.parquet",
            pd.DataFrame(
                {
                    "prompt_id": np.repeat(self.ids, count),
                    "sample": np.tile(np.arange(count), sweep.prompts),
                    "prompt": np.repeat([self.prompt(i) for i in range(sweep.prompts)], count),
                    "response": [self.review(0) for _ in range(sweep.prompts * count)],
                    "tokens": self.random.integers(6, 29, sweep.prompts * count),
                    "reward": rewards,
                }
            ),
        )
        write_table(
            folder / "prompts.parquet",
            pd.DataFrame(
                {
                    "prompt_id": self.ids,
                    "prompt": [self.prompt(i) for i in range(sweep.prompts)],
                    "chosen": [self.review(0.6) for _ in range(sweep.prompts)],
                    "chosen_reward": np.clip(self.effect + 0.4, -1, 1) if sweep.reward else np.nan,
                }
            ),
        )
        metrics = {"response_tokens": self.estimate(np.full(sweep.prompts, 14.7))}
        if sweep.reward:
            metrics["reward"] = self.estimate(self.reference.mean(1))
            self._write_curves(folder)
        write_json(folder / "evaluation.json", {"metrics": metrics})

    def _write_curves(self, folder: Path) -> None:
        reward = np.array(FRONTIER_REWARD)
        write_table(
            folder / "frontier.parquet",
            pd.DataFrame(
                {
                    "kl": FRONTIER_KL,
                    "reward": reward,
                    "reward_low": reward - 0.02,
                    "reward_high": reward + 0.02,
                    "temperature": np.linspace(9, 0.05, len(reward)),
                }
            ),
        )
        n = np.array([1, 2, 4, 8, 16, 32, 64])
        kl = np.log(n) - (n - 1) / n
        best = np.interp(np.minimum(kl, 2.9), FRONTIER_KL, FRONTIER_REWARD) - 0.03 * (n > 1)
        write_table(
            folder / "best_of_n.parquet",
            pd.DataFrame(
                {
                    "n": n,
                    "kl": kl,
                    "reward": best,
                    "reward_low": best - 0.02,
                    "reward_high": best + 0.02,
                }
            ),
        )

    def experiment(self, planned: list[str]) -> dict[str, Any]:
        sweep = self.sweep
        name = f"quick {HOSTILE[1]}" if sweep.hostile else "quickstart"
        losses = [
            {"name": sweep.name(loss), "beta": list(CURVES[loss][0][: sweep.strengths])}
            for loss in sweep.losses
        ]
        settings = {
            "name": name,
            "policy": HOSTILE[0] if sweep.hostile else "world:reviews",
            "reference": None,
            "preferences": "world:reviews",
            "keep_policies": False,
            "trust_remote_code": False,
            "losses": losses,
            "data": {
                "split": "train",
                "max_prompt_tokens": 512,
                "max_response_tokens": 512,
                "over_limit": "error",
                "prompt_template": HOSTILE[3] if sweep.hostile else "{prompt}",
            },
            "world": {
                "pairs": 1536,
                "labels": "deterministic",
                "temperature": 0.5,
                "flip_rate": 0.0,
                "proxy": "gold",
                "seed": 0,
            },
            "training": {
                "optimizer": "adamw",
                "learning_rate": 1e-3,
                "schedule": "linear",
                "warmup_fraction": 0.1,
                "weight_decay": 0.0,
                "max_gradient_norm": 10.0,
                "pairs_per_step": 32,
                "pairs_per_pass": 0,
                "steps": 120,
                "epochs": None,
                "seeds": list(sweep.seeds),
                "log_every": 10,
                "checkpoint_seconds": 300.0,
                "device": "auto",
                "precision": "auto",
            },
            "evaluation": {
                "reward": "vader" if sweep.reward else "none",
                "prompts": sweep.prompts,
                "samples_per_prompt": sweep.samples,
                "max_new_tokens": 32,
                "temperature": 1.0,
                "reference_samples": sweep.reference_samples,
                "rows_per_batch": 512,
                "seed": 0,
                "resamples": 400,
                "every": sweep.along[0] if sweep.along else 0,
            },
        }
        return {
            "experiment": Experiment.model_validate(settings).settings(),
            "conditions": {name: settings[name] for name in ("training", "evaluation")},
            "command": "python -m dpo_bench sweep"
            + (f" --policy '{HOSTILE[0]}'" if sweep.hostile else ""),
            "versions": {
                "dpo_bench": "0.1.0",
                "torch": "2.13.0+cpu",
                "transformers": "5.23.0",
                "python": "3.11.9",
            },
            "platform": "Linux, 2 CPU cores",
            "hashes": {"policy": "a1" * 32, "reference": "a1" * 32, "data": "c4" * 32},
            "data": {
                "training_pairs": 1536,
                "heldout_pairs": 256,
                "truncated_prompts": 0,
                "truncated_responses": 3,
                "dropped": {"identical pair": 2},
            },
            "trials": planned,
        }
