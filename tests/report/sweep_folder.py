"""Builds synthetic sweep folders in the form that a real sweep leaves behind.

Rewards and KLs follow what small policies really reach; texts can be hostile: markup, scripts,
table pipes, right-to-left marks, very long words.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pandas as pd

from tests.report.sweep_trial import Trial
from tests.report.sweep_world import Sweep, World, write_json


def build(folder: Path, sweep: Sweep) -> Path:
    """Write the folder; the same sweep gives the same bytes."""
    world = World(sweep)
    rows, planned = [], []
    for loss in sweep.losses:
        for smoothing in sweep.extra.get(loss, (None,)):
            for index in range(sweep.strengths):
                for seed in sweep.seeds:
                    trial = Trial(world, loss, index, seed, smoothing)
                    planned.append(trial.id)
                    rows.append(trial.write(folder / "trials" / trial.id))
    planned += [hashlib.sha256(f"later{i}".encode()).hexdigest() for i in range(sweep.unfinished)]
    world.write_reference(folder / "reference")
    write_json(folder / "experiment.json", world.experiment(planned))
    pd.DataFrame(rows).to_parquet(folder / "results.parquet")
    return folder
