"""What is measured, in the order in which it is: what matters most comes first."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.gpu import card, decode, gates, ours, peers, sweep

SMALL, MIDDLE, LARGE = "135M (SmolLM2)", "1B (Llama 3.2)", "8B (Llama 3)"
ULTRA, HH = "UltraFeedback-like", "HH-like"
OURS, PLAIN, TUNED = "dpo_bench", "TRL as it comes", "TRL tuned"
PACKED, OPEN_INSTRUCT = "packed by transformers", "open-instruct"
Part = Literal["card", "gates", "training", "decode", "sweep"]


@dataclass(frozen=True, slots=True)
class Job:
    """One contender at one task, in a process of its own.

    Attributes:
        part: of the page.
        contender: who.
        seconds: after which it is ended.
        run: does it; None: nothing here can.
        shape: of the model.
        lengths: of the pairs.
        lora: whether an adapter is trained.
        options: further arguments of ``run``.
        needs: packages without which it is not run.
    """

    part: Part
    contender: str
    seconds: float
    run: Callable[..., None] | None
    shape: str = ""
    lengths: str = ""
    lora: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Identifies it."""
        trained = "LoRA" if self.lora else ""
        return ", ".join(
            filter(None, (self.part, self.shape, trained, self.lengths, self.contender))
        )

    @property
    def task(self) -> tuple[str, str, bool]:
        """What contenders are compared at."""
        return self.shape, self.lengths, self.lora

    def missing(self) -> str:
        """Why it cannot be run; empty if it can."""
        absent = [name for name in self.needs if importlib.util.find_spec(name) is None]
        if absent:
            return f"{' and '.join(absent)} not installed"
        if self.run is None:
            return "a repository of scripts, no package; the packed loop packs alike"
        return ""


def _training(shape: str, lengths: str, seconds: float, *, lora: bool = False) -> list[Job]:
    task: dict[str, Any] = {"shape": shape, "lengths": lengths, "lora": lora}
    both: dict[str, Any] = {**task, "part": "training", "seconds": seconds}
    return [
        Job(contender=OURS, run=ours.train, options=task, **both),
        Job(
            contender=PLAIN,
            run=peers.trl,
            options={**task, "tuned": False},
            needs=("trl", "datasets", "peft"),
            **both,
        ),
        Job(
            contender=TUNED,
            run=peers.trl,
            options={**task, "tuned": True},
            needs=("trl", "datasets", "peft"),
            **both,
        ),
    ]


def _packed(shape: str, lengths: str, seconds: float) -> Job:
    task: dict[str, Any] = {"shape": shape, "lengths": lengths}
    return Job("training", PACKED, seconds, peers.packed_loop, options=task, **task)


def _decode(shape: str, seconds: float) -> list[Job]:
    given: dict[str, Any] = {"shape": shape, "options": {"shape": shape}}
    return [
        Job("decode", OURS, seconds, decode.ours, **given),
        Job("decode", "transformers, generate", seconds, decode.generate, **given),
    ]


JOBS: tuple[Job, ...] = (
    Job("card", "", 45, card.measure),
    Job("gates", OURS, 75, gates.measure),
    *_training(MIDDLE, ULTRA, 110),
    _packed(MIDDLE, ULTRA, 60),
    Job("training", OPEN_INSTRUCT, 60, None, MIDDLE, ULTRA),
    *_training(MIDDLE, HH, 60),
    *_training(LARGE, ULTRA, 110, lora=True),
    *_decode(MIDDLE, 40),
    *_decode(LARGE, 60),
    Job("sweep", OURS, 75, sweep.three_trials),
    *_training(SMALL, ULTRA, 60),
)
