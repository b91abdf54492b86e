"""Written when something changed, whole, the same bytes each time."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pandas as pd
import pytest

from dpo_bench.errors import ConfigurationError
from dpo_bench.report import write
from dpo_bench.report.write import inputs_digest, write_report
from tests.report.conftest import ByName
from tests.report.sweep_folder import build
from tests.report.sweep_world import Sweep
from tests.sealing import as_written

TINY = Sweep(
    losses=("dpo",),
    strengths=1,
    failed=(),
    reward=False,
    prompts=8,
    reference_samples=4,
    training_rows=0,
)
OUTPUTS = {"report.html", "report.md", "matched.csv", "figures"}


def outputs(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.relative_to(folder).parts[0] in OUTPUTS
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sweep with its report; tests take copies."""
    return write_report(build(tmp_path_factory.mktemp("write") / "sweep", TINY)).parent


@pytest.fixture
def tiny(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "copy"))


def test_everything_promised_is_there_and_nothing_temporary(reported: ByName) -> None:
    folder = reported("hostile")
    names = ("frontier", "win_rate", "differences", "heat_map", "displacement", "training")
    figures = {f"figures/{name}.{kind}" for name in names for kind in ("svg", "png", "csv")}
    assert set(outputs(folder)) == {"report.html", "report.md", "matched.csv", *figures}
    assert not list(folder.rglob(".*"))


def test_another_process_writes_the_same_bytes(tiny: Path) -> None:
    before = outputs(tiny)
    for name in OUTPUTS - {"figures"}:
        (tiny / name).unlink(missing_ok=True)
    shutil.rmtree(tiny / "figures")
    code = (
        "import pathlib, sys; from dpo_bench.report.write import write_report;"
        " write_report(pathlib.Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run([sys.executable, "-c", code, str(tiny)], check=True, env=environment)
    assert outputs(tiny) == before


def test_an_unchanged_sweep_is_left_alone(tiny: Path) -> None:
    calls: list[str] = []
    stamps = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    page = write_report(tiny, lambda phase, done, total: calls.append(phase))
    assert page == tiny / "report.html"
    assert not calls
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == stamps


def test_a_changed_input_is_noticed_and_its_report_replaced(tiny: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    before = outputs(tiny)
    table = pd.read_parquet(tiny / "results.parquet")
    table["margin"] = 0.12345
    table.to_parquet(tiny / "results.parquet")
    as_written(tiny)
    page = write_report(tiny, lambda phase, done, total: calls.append((phase, done, total)))
    assert b"0.12345" in page.read_bytes()
    assert outputs(tiny)["report.html"] != before["report.html"]
    assert calls[-1] == ("report", 3, 3)


@pytest.mark.parametrize(
    "name", ["experiment.json", "results.parquet", "reference/prompts.parquet"]
)
def test_the_digest_covers_every_input(tiny: Path, name: str) -> None:
    before = inputs_digest(tiny)
    with (tiny / name).open("ab") as stream:
        stream.write(b" ")
    assert inputs_digest(tiny) != before


def test_the_digest_covers_trials(tiny: Path) -> None:
    before = inputs_digest(tiny)
    next(tiny.glob("trials/*/training.parquet")).unlink()
    assert inputs_digest(tiny) != before


def test_what_was_deleted_comes_back_and_old_figures_go(tiny: Path) -> None:
    before = outputs(tiny)
    (tiny / "report.md").unlink()
    (tiny / "figures" / "heat_map.png").unlink()
    (tiny / "figures" / "differences.svg").write_text("of an earlier state")
    write_report(tiny)
    assert outputs(tiny) == before


def test_a_broken_page_is_written_anew_and_other_files_stay(tiny: Path) -> None:
    before = outputs(tiny)
    (tiny / "report.html").write_bytes((tiny / "report.html").read_bytes()[:100])
    (tiny / "figures" / "mine.svg").write_text("kept")
    write_report(tiny)
    assert outputs(tiny).pop("figures/mine.svg")
    assert {name: value for name, value in outputs(tiny).items() if "mine" not in name} == before


def test_a_folder_without_a_sweep_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"holds no experiment\.json"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("dpo_bench.report", "view.py"),
        ("dpo_bench.report", "setup.py"),
        ("dpo_bench.report", "draw.py"),
        ("dpo_bench.report", "report.html"),
        ("dpo_bench.analysis", "compare.py"),
        ("dpo_bench.experiment", "config.py"),
    ],
)
def test_a_report_is_written_anew_when_what_it_is_made_by_changes(package: str, name: str) -> None:
    assert package in write._SOURCES
    assert name in {file.name for file in write._source_files(resources.files(package))}
