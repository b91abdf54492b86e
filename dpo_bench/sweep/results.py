"""The results table: tidy, a row per planned trial, failed ones included."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dpo_bench.storage import canonical_json
from dpo_bench.sweep.store import Manifest, Store
from dpo_bench.tables import write_csv, write_parquet

if TYPE_CHECKING:
    import pandas as pd

INTERVALS = ("reward", "win_rate", "kl")
"""Metrics whose interval stands beside them."""
PLAIN = (
    "preference_accuracy",
    "margin",
    "chosen_logratio",
    "rejected_logratio",
    "response_tokens",
    "frontier_gap",
)
"""Metrics whose interval stands in the later columns."""
FURTHER = ("win_rate_chosen", "kl_monte_carlo")
TEXT = ("trial", "loss", "hyperparameters", "status", "error")
COUNTS = ("seed", "steps", "prompts")
COLUMNS = (
    "trial",
    "loss",
    "beta",
    "hyperparameters",
    "seed",
    "status",
    "steps",
    "train_seconds",
    "evaluation_seconds",
    *(f"{name}{end}" for name in INTERVALS for end in ("", "_low", "_high")),
    *PLAIN,
    *(f"{name}{end}" for name in FURTHER for end in ("", "_low", "_high")),
    *(f"{name}{end}" for name in PLAIN for end in ("_low", "_high")),
    "initial_loss",
    "initial_loss_expected",
    "prompts",
    "error",
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
    return row
