"""The rooms of the house: no circle, no arrow that runs up, and an analysis that knows no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.structure.imports import (
    LAYERS,
    arrows_up,
    circles,
    read_imports,
    read_modules,
    room,
)

ROOT = Path(__file__).parents[1]
MODULES = read_modules(ROOT)
IMPORTS = read_imports(MODULES)


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles(IMPORTS) == []


def test_no_arrow_runs_up() -> None:
    assert arrows_up(IMPORTS) == []


def test_every_room_has_its_layer() -> None:
    placed = {name for layer in LAYERS for name in layer}
    assert {room(module) for module in MODULES} - {"losses"} == placed


def test_planted_arrows_and_circles_are_found() -> None:
    """The reader of imports sees what it must: a test of what holds the two tests above."""
    planted = {
        "dpo_bench.analysis.bootstrap": {"dpo_bench.model.load"},
        "dpo_bench.model.load": {"dpo_bench.sweep.run"},
        "dpo_bench.sweep.run": {"dpo_bench.model.load", "dpo_bench.report.view"},
        "losses.dpo": {"dpo_bench.sweep.run", "dpo_bench.contract"},
    }
    assert circles(planted) == [("dpo_bench.model.load", "dpo_bench.sweep.run")]
    assert arrows_up(planted) == [
        ("dpo_bench.analysis.bootstrap", "dpo_bench.model.load"),
        ("dpo_bench.model.load", "dpo_bench.sweep.run"),
        ("dpo_bench.sweep.run", "dpo_bench.report.view"),
        ("losses.dpo", "dpo_bench.sweep.run"),
    ]


def test_the_analysis_and_the_report_of_tables_load_no_torch() -> None:
    code = (
        "import sys, pandas as pd, dpo_bench as db;"
        "rows = [(l, s, k, k + s / 9) for l in ('a', 'b') for s in (0, 1) for k in (1.0, 4.0)];"
        "frame = pd.DataFrame(rows, columns=['loss', 'seed', 'kl', 'reward']);"
        "frame['strength'] = frame['kl'];"
        "db.compare(frame, kl=[2.0]);"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]
