"""The results table: tidy, a row per planned trial, failed ones included."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dpo_bench.analysis.judge_costs import JUDGE_COSTS
from dpo_bench.analysis.lost_verdicts import LOST_COLUMNS, lost_columns
from dpo_bench.analysis.metrics import METRICS
from dpo_bench.storage import canonical_json, read_parquet, write_csv, write_parquet
from dpo_bench.sweep.store import Manifest, Store

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("self", "null", "neutral", "injection", "order", "place", "responses")
"""Of the reward or judge, the same for all trials; see `rewards.sanity_checks`."""
TEXT = ("trial", "loss", "hyperparameters", "status", "error", "degenerate_reasons")
COUNTS = ("seed", "steps", "prompts", "reward_truncated", "checkpoints")
PUBLIC = (
    *("trial", "loss", "beta", "hyperparameters", "seed", "status", "steps"),
    *("train_seconds", "evaluation_seconds"),
    *(f"{name}{end}" for name in ("reward", "win_rate", "kl") for end in ("", "_low", "_high")),
    *("preference_accuracy", "margin", "chosen_logratio", "rejected_logratio"),
    *("response_tokens", "frontier_gap"),
)
"""What stands first, in this order, in every version."""
COLUMNS = tuple(
    dict.fromkeys(
        (
            *PUBLIC,
            *(f"{metric.name}{end}" for metric in METRICS for end in ("", "_low", "_high")),
            *("initial_loss", "initial_loss_expected", "prompts", "error", "degenerate_reasons"),
            "reward_truncated",
            *(f"judge_{name}" for name in JUDGE_COSTS),
            *(f"control_{name}" for name in CONTROLS),
            *("checkpoints", "checkpoint_seconds", "judge_own_temperature"),
            *LOST_COLUMNS,
        )
    )
)


def write_results(store: Store, identities: Sequence[str]) -> pd.DataFrame:
    """Collect the finished trials of a plan into ``results.parquet`` and ``results.csv``."""
    import pandas as pd

    rows = [
        _row(store, manifest)
        for identity in identities
        if (manifest := store.manifest(identity)) is not None
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    kinds = dict.fromkeys(COLUMNS, "float64")
    kinds |= dict.fromkeys(TEXT, "str") | dict.fromkeys(COUNTS, "Int64")
    table = table.astype(kinds)
    write_parquet(store.folder / "results.parquet", table)
    write_csv(store.folder / "results.csv", table)
    return table


def _row(store: Store, manifest: Manifest) -> dict[str, Any]:
    row: dict[str, Any] = {
        "trial": manifest.trial,
        "loss": manifest.loss,
        "beta": manifest.beta,
        "hyperparameters": canonical_json(dict(manifest.hyperparameters)),
        "seed": manifest.seed,
        "status": manifest.status,
        "train_seconds": manifest.seconds.get("training"),
        "evaluation_seconds": manifest.seconds.get("evaluation"),
        "error": manifest.error,
    }
    if manifest.status != "done":
        return row
    file = store.trial_folder(manifest.trial) / "evaluation.json"
    evaluation: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for name in ("initial_loss", "initial_loss_expected", "steps"):
        row[name] = evaluation[name]
    for name, estimate in evaluation["metrics"].items():
        row |= {
            name: estimate["value"],
            f"{name}_low": estimate["low"],
            f"{name}_high": estimate["high"],
        }
    row["prompts"] = evaluation["metrics"]["kl"]["n"]
    return row | _notes(evaluation.get("notes") or {}) | _controls(store) | _along(store, manifest)


def _notes(notes: Mapping[str, Any]) -> dict[str, Any]:
    """What is no figure with an interval."""
    judge = notes.get("judge") or {}
    return {
        **lost_columns(notes.get("lost_verdicts") or {}),
        "degenerate_reasons": ", ".join(notes.get("degenerate") or ()),
        "reward_truncated": notes.get("reward_truncated"),
        **{f"judge_{name}": judge.get(name) for name in (*JUDGE_COSTS, "own_temperature")},
    }


def _controls(store: Store) -> dict[str, Any]:
    file = store.reference_folder / "evaluation.json"
    if not file.is_file():
        return {}
    controls = json.loads(file.read_text(encoding="utf-8")).get("controls") or {}
    return {f"control_{name}": found["value"] for name, found in controls.items()}


def _along(store: Store, manifest: Manifest) -> dict[str, Any]:
    file = store.trial_folder(manifest.trial) / "checkpoints.parquet"
    if not file.is_file():
        return {}
    return {
        "checkpoints": len(read_parquet(file)),
        "checkpoint_seconds": manifest.seconds.get("checkpoints"),
    }
