"""Builds synthetic sweep folders in the form that a real sweep leaves behind.

Rewards and KLs follow what small policies really reach; texts can be hostile: markup, scripts,
table pipes, right-to-left marks, very long words.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from dpo_bench.sweep.results import write_results
from dpo_bench.sweep.store import Store
from tests.report.sweep_trial import Trial
from tests.report.sweep_world import Sweep, World


def build(folder: Path, sweep: Sweep) -> Path:
    """Write the folder; the same sweep gives the same bytes."""
    world, store = World(sweep), Store(folder)
    planned = []
    for loss in sweep.losses:
        for smoothing in sweep.extra.get(loss, (None,)):
            for index in range(sweep.strengths):
                for seed in sweep.seeds:
                    trial = Trial(world, loss, index, seed, smoothing)
                    planned.append(trial.id)
                    with store.new_trial(trial.id) as own:
                        trial.write(own)
    planned += [hashlib.sha256(f"later{i}".encode()).hexdigest() for i in range(sweep.unfinished)]
    world.write_reference(store.reference_folder)
    store.open(world.experiment(planned))
    write_results(store, planned)
    return folder
