"""What `import dpo_bench` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import dpo_bench
import dpo_bench.contract


def test_public_names_are_fixed() -> None:
    assert sorted(dpo_bench.__all__) == [
        "Experiment",
        "PairLogps",
        "Sweep",
        "__version__",
        "check_loss",
        "compare",
        "compare_across",
        "evaluate",
        "get_loss",
        "list_losses",
        "load_plugins",
        "load_results",
        "load_sweep",
        "load_sweeps",
        "metrics",
        "register",
        "run_sweep",
    ]


def test_every_exported_name_exists() -> None:
    for module in (dpo_bench, dpo_bench.contract):
        for name in module.__all__:
            assert hasattr(module, name)


def test_import_loads_nothing_heavy() -> None:
    code = (
        "import sys, dpo_bench, dpo_bench.contract;"
        "heavy = {'torch', 'transformers', 'datasets', 'evaluate', 'pandas', 'numpy', 'rich'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_losses_import_under_the_package() -> None:
    code = "import dpo_bench.losses.dpo as file; print(file.dpo.__module__)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "dpo_bench.losses.dpo"
