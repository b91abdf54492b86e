"""Evaluations along training: each checkpoint of a run is one more point of its loss's curve.

They are kept beside the trainer's own checkpoint as they are made, one folder per step that appears
whole, and gathered when the trial ends. A run that is resumed makes only those that are missing;
they are the same ones, because training and sampling repeat bit by bit.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_bench.analysis.judge_costs import JUDGE_COSTS
from dpo_bench.progress import Progress
from dpo_bench.storage import Sealed, open_sealed, published_folder, write_json, write_parquet

if TYPE_CHECKING:
    from dpo_bench.sweep.context import WorkerContext

EVALUATION, PROMPTS = "evaluation.json", "prompts.parquet"


class CheckpointEvaluation:
    """Evaluates a context's policy every so many steps.

    Args:
        context: holds the policy that is being trained.
        folder: where the evaluations are kept until the trial ends.
        scale: the beta of the policy's implicit reward, or None.
        progress: told that training is under way; so a stop that is asked for meanwhile waits for
            the trainer, which saves its state first.
    """

    def __init__(
        self, context: WorkerContext, folder: Path, scale: float | None, progress: Progress
    ) -> None:
        self.context = context
        self.folder = folder
        self.scale = scale
        self.progress = progress
        self.every = context.experiment.evaluation.every

    def after_step(self, done: int, total: int) -> None:
        """Evaluate when it is time; the last step is the trial's own evaluation."""
        if not self.every or done % self.every or done == total:
            return
        final = self.folder / f"{done:08d}"
        if final.is_dir():
            return
        from dpo_bench.evaluation.policy import per_prompt

        started = time.monotonic()
        result = self.context.evaluator.evaluate(
            self.context.policy,
            lambda _phase, _done, _total: self.progress("training", done, total),
            scale=self.scale,
        )
        metrics = {name: estimate.as_dict() for name, estimate in result.metrics.items()}
        with published_folder(final) as new:
            write_parquet(new / PROMPTS, per_prompt(result.samples))
            write_json(
                new / EVALUATION,
                {
                    "step": done,
                    "seconds": time.monotonic() - started,
                    "metrics": metrics,
                    "notes": dict(result.notes),
                },
            )

    @property
    def seconds(self) -> float:
        """Time that all evaluations took, interruptions left out."""
        return float(sum(one.read_json(EVALUATION)["seconds"] for one in self._kept()))

    def publish(self, target: Path) -> None:
        """Write ``checkpoints.parquet`` and ``checkpoint_prompts.parquet``, if there is any.

        The first has a row per evaluated step: step, seconds, each metric with _low and _high, and
        what a judge took.
        The second has a row per step and prompt: see `per_prompt`.
        """
        import pandas as pd

        kept = self._kept()
        records = [one.read_json(EVALUATION) for one in kept]
        if not records:
            return
        rows = []
        for record in records:
            row = {"step": record["step"], "seconds": record["seconds"]}
            for name, estimate in record["metrics"].items():
                row |= {
                    name: estimate["value"],
                    f"{name}_low": estimate["low"],
                    f"{name}_high": estimate["high"],
                }
            cost = record["notes"].get("judge") or {}
            rows.append(row | {f"judge_{name}": cost.get(name) for name in JUDGE_COSTS if cost})
        table = pd.DataFrame(rows)
        floats = [name for name in table if name != "step"]
        write_parquet(
            target / "checkpoints.parquet", table.astype(dict.fromkeys(floats, "float64"))
        )
        prompts = []
        for record, files in zip(records, kept, strict=True):
            one = files.read_parquet(PROMPTS)
            one.insert(0, "step", record["step"])
            prompts.append(one)
        write_parquet(target / "checkpoint_prompts.parquet", pd.concat(prompts, ignore_index=True))

    def clear(self) -> None:
        """Forget them: the trial is published."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _kept(self) -> list[Sealed]:
        return [open_sealed(one) for one in sorted(self.folder.glob("[0-9]*"))]
