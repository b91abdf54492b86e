"""The sweeps of the study: the same losses under each condition, searched for the same KLs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dpo_bench as db
from dpo_bench.worlds.reference_policy import Recipe, reference_folder

LEVELS = (0.5, 1.0, 2.0)
WHOLE, AGAIN, FULL, UPPER = (
    "all weights",
    "all weights, other seeds",
    "LoRA, all layers",
    "LoRA, upper quarter",
)
REPEATED = {WHOLE: AGAIN}
"""Of which condition another is the repetition with other seeds: what a ranking is worth itself."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What is trained and how; all else is the study's.

    Attributes:
        training: keys of ``[training]``.
        seeds: of the trials.
    """

    training: Mapping[str, Any]
    seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Study:
    """Losses under conditions.

    Attributes:
        name: begins the names of its files.
        title: of its model, in words.
        losses: what is ranked; the first is the baseline of the searches.
        conditions: by name.
        policy: the model, as an experiment names it; a `Recipe`: of the world, trained if need be.
        training: keys of ``[training]`` that all conditions have.
        evaluation: keys of ``[evaluation]``.
        levels: KLs at which losses are ranked, nats.
        beta: strengths, where they are not searched for.
        search: further keys of ``[search]``.
    """

    name: str
    title: str
    losses: tuple[str, ...]
    conditions: Mapping[str, Condition]
    policy: str | Recipe
    training: Mapping[str, Any]
    evaluation: Mapping[str, Any]
    levels: tuple[float, ...] = LEVELS
    beta: tuple[float, ...] = ()
    search: Mapping[str, Any] = field(default_factory=dict)

    def policy_name(self) -> str:
        """The model's folder or name; one of the world is trained where it is missing."""
        if isinstance(self.policy, str):
            return self.policy
        return str(reference_folder("reviews-deep", self.policy, 0, _untold))

    def run(self, folder: Path) -> dict[str, db.Sweep]:
        """Each condition's sweep, resumed where it was; by the condition's name."""
        return {
            name: self._sweep(condition, folder / f"{self.name}-{number}")
            for number, (name, condition) in enumerate(self.conditions.items())
        }

    def _sweep(self, condition: Condition, out: Path) -> db.Sweep:
        search = {"kl": list(self.levels), "baseline": self.losses[0], **self.search}
        return db.run_sweep(
            policy=self.policy_name(),
            preferences="world:reviews",
            reward="vader",
            losses=self.losses,
            seeds=condition.seeds,
            training={**self.training, **condition.training},
            evaluation=self.evaluation,
            beta=self.beta,
            search=False if self.beta else search,
            out=out,
            workers=1,
            loudness="quiet",
        )


def _untold(_phase: str, _done: int, _total: int) -> None:
    """Nobody is told."""


SEEDS, OTHER_SEEDS = (0, 1, 2), (3, 4, 5)
WORLD = Study(
    name="world",
    title="the embedded world, its model with four layers",
    losses=("dpo", "ipo", "slic", "cpo", "exo", "aot_unpaired"),
    conditions={
        WHOLE: Condition({"learning_rate": 1e-3}, SEEDS),
        AGAIN: Condition({"learning_rate": 1e-3}, OTHER_SEEDS),
        FULL: Condition({"learning_rate": 3e-3, "lora": {}}, SEEDS),
        UPPER: Condition({"learning_rate": 3e-3, "lora": {"layers": "top:0.25"}}, SEEDS),
    },
    policy=Recipe(layers=4),
    training={"pairs_per_step": 16, "steps": 60},
    evaluation={"prompts": 128, "samples_per_prompt": 2, "max_new_tokens": 40},
)
SMOLLM2_STUDY = Study(
    name="smollm2",
    title="SmolLM2-135M on the embedded world's pairs",
    losses=("dpo", "hinge", "exo"),
    conditions={
        WHOLE: Condition({"learning_rate": 2e-5}, (0,)),
        FULL: Condition({"learning_rate": 5e-4, "lora": {}}, (0,)),
        UPPER: Condition({"learning_rate": 5e-4, "lora": {"layers": "top:0.25"}}, (0,)),
    },
    policy="smollm2",
    training={"pairs_per_step": 8, "steps": 4},
    evaluation={
        "prompts": 16,
        "samples_per_prompt": 2,
        "max_new_tokens": 24,
        "reference_samples": 4,
        "controls": 4,
        "resamples": 500,
    },
    beta=(0.1,),
)
