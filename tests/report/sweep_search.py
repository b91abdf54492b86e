"""Synthetic folders of sweeps that were searched, or tuned, made from those of given strengths."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from tests.report.sweep_folder import build
from tests.report.sweep_world import CURVES, Sweep
from tests.sealing import as_written

OWN_RATE = 2e-3
"""learning rate of the policy that the strength alone does not reach"""
KLS = (1.0, 2.0, 4.0)
STOPPED = "its KL was 33.1 nats after 40 of 120 steps, far beyond the last target (8)"


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Mapping[str, Any]]) -> None:
    """Change the manifest of every trial, and the results table along with it."""
    table = pd.read_parquet(folder / "results.parquet").set_index("trial", drop=False)
    for path in sorted(folder.glob("trials/*/manifest.json")):
        manifest = json.loads(path.read_text())
        manifest |= change(manifest)
        path.write_text(json.dumps(manifest))
        table.loc[manifest["trial"], ["status", "error"]] = [
            manifest["status"], manifest.get("error"),
        ]  # fmt: skip
        if manifest["status"] != "done":
            figures = [name for name in ("kl", "reward", "win_rate") if name in table]
            table.loc[manifest["trial"], figures] = float("nan")
    table.reset_index(drop=True).to_parquet(folder / "results.parquet")
    as_written(folder)


def own(folder: Path) -> dict[tuple[str, float, int], str]:
    """The ids of the trials by loss, strength and seed."""
    found = {}
    for path in folder.glob("trials/*/manifest.json"):
        one = json.loads(path.read_text())
        found[one["loss"], one["beta"], one["seed"]] = one["trial"]
    return found


def searched(folder: Path, *, end: str = "decided") -> Path:
    """DPO and IPO, searched with seed 0 and repeated with seed 1.

    Of five strengths the middle three make the curve; IPO's third has a learning rate of its own,
    its largest was stopped early, its last target was not reached.
    """
    build(folder, Sweep(("dpo", "ipo"), seeds=(0, 1), failed=(), prompts=64, reference_samples=16))
    ids = own(folder)

    def change(one: dict[str, Any]) -> Mapping[str, Any]:
        rate = OWN_RATE if (one["loss"], one["beta"]) == ("ipo", 1.0) else 1e-3
        found: dict[str, Any] = {"training": {"learning_rate": rate, "steps": 120}}
        if (one["loss"], one["beta"], one["seed"]) == ("ipo", 0.1, 0):
            stopped = {"step": 40, "kl": 33.1, "limit": 16.0, "steps": 120, "seconds": 3.2}
            found |= {"status": "stopped", "error": STOPPED, "stopped": stopped}
        return found

    rewrite(folder, change)
    asked = [ids[loss, beta, 0] for loss in ("dpo", "ipo") for beta in CURVES[loss][0]]
    paths = {
        loss: [ids[loss, beta, seed] for seed in (0, 1) for beta in CURVES[loss][0][1:4]]
        for loss in ("dpo", "ipo")
    }
    asked += [one for path in paths.values() for one in path if one not in asked]
    search = {
        "trials": asked,
        "seeds": [0, 1],
        "series": [_series(loss, paths[loss], ids) for loss in ("dpo", "ipo")],
        "looks": [{"seeds": [0, 1], "level": 0.05, "open": ["ipo"]}],
        "end": end,
    }
    (folder / "search.json").write_text(json.dumps(search))
    table = pd.read_parquet(folder / "results.parquet")
    table[table["trial"].isin(asked)].reset_index(drop=True).to_parquet(folder / "results.parquet")
    record = json.loads((folder / "experiment.json").read_text())
    record["experiment"]["comparison"]["kl"] = list(KLS)
    (folder / "experiment.json").write_text(json.dumps(record))
    return as_written(folder)


def _series(
    loss: str, path: list[str], ids: Mapping[tuple[str, float, int], str]
) -> dict[str, Any]:
    targets = []
    for kl, beta in zip(KLS, CURVES[loss][0][3:0:-1], strict=True):
        setting: dict[str, Any] = {"beta": beta}
        by = "beta"
        if (loss, beta) == ("ipo", 1.0):
            by, setting = "learning_rate", setting | {"learning_rate": OWN_RATE}
        targets.append(
            {"kl": kl, "reached": kl * 1.02, "by": by, "setting": setting,
             "trial": ids[loss, beta, 0], "why": ""}
        )  # fmt: skip
    if loss == "ipo":
        why = "KL stays between 4.9 and 6.6 for tau from 0.1 to 0.3"
        targets[-1] |= {"reached": None, "by": "", "setting": {}, "trial": None, "why": why}
    return {
        "loss": loss, "key": loss, "learning_rate": None, "chosen": True, "searched": 5,
        "stopped": int(loss == "ipo"), "targets": targets, "path": path,
    }  # fmt: skip


def tuned(folder: Path, *, better: float = 0.1) -> Path:
    """DPO at two learning rates, of which the second gains ``better``, beside IPO at the first."""
    build(
        folder,
        Sweep(("dpo", "ipo"), failed=(), prompts=64, reference_samples=16,
              extra={"dpo": (0.1, 0.2)}),
    )  # fmt: skip

    def change(one: dict[str, Any]) -> Mapping[str, Any]:
        smoothing = one["hyperparameters"].get("label_smoothing", 0.1)
        if smoothing == 0.2:
            file = folder / "trials" / one["trial"] / "samples.parquet"
            samples = pd.read_parquet(file)
            samples.assign(reward=samples["reward"] + better).to_parquet(file)
        return {
            "hyperparameters": {"beta": one["beta"]},
            "training": {"learning_rate": smoothing / 100, "steps": 120},
        }

    rewrite(folder, change)
    return folder
