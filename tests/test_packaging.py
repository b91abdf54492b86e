"""What is installed: all packages, and the files that they need."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SHIPPED = [
    path.relative_to(ROOT).as_posix()
    for path in sorted((ROOT / "dpo_bench/worlds/shipped").rglob("*"))
    if path.is_file()
]
SETUPTOOLS = CONFIGURATION["tool"]["setuptools"]


def test_every_package_is_listed() -> None:
    folders = {path.parent for path in (ROOT / "dpo_bench").rglob("__init__.py")}
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert {"dpo_bench.losses", "dpo_bench.runs", *found} == set(SETUPTOOLS["packages"])


def test_every_data_file_is_listed() -> None:
    places = {"dpo_bench.losses": "losses", "dpo_bench.runs": "runs"}
    listed = {
        file
        for package, patterns in SETUPTOOLS["package-data"].items()
        for pattern in patterns
        for file in (ROOT / places.get(package, package.replace(".", "/"))).glob(pattern)
    }
    shipped = [*(ROOT / "dpo_bench").rglob("*"), *(ROOT / "runs").glob("*")]
    data = {
        path
        for path in shipped
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert data <= listed


@pytest.mark.slow
def test_the_wheel_holds_losses_experiments_and_templates(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "dpo_bench/losses/dpo.py",
        "dpo_bench/runs/quickstart.toml",
        "dpo_bench/report/templates/report.html",
        "dpo_bench/py.typed",
        *SHIPPED,
    } <= names
    with zipfile.ZipFile(wheel) as packed:
        assert all(packed.read(name) == (ROOT / name).read_bytes() for name in SHIPPED)
    assert not [name for name in names if name.startswith(("tests/", "losses/", "runs/"))]


@pytest.mark.slow
def test_the_source_distribution_holds_the_world(tmp_path: Path) -> None:
    code = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True, capture_output=True
    )
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert set(SHIPPED) <= names


def _pinned(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def _requirements() -> list[Requirement]:
    project = CONFIGURATION["project"]
    extras = project["optional-dependencies"]
    return [Requirement(one) for one in (*project["dependencies"], *extras["dev"], *extras["ray"])]


def test_the_tested_and_the_lowest_versions_are_allowed_ones() -> None:
    for name in ("tested.txt", "lowest.txt"):
        pinned = _pinned(name)
        for one in _requirements():
            assert one.specifier.contains(pinned[canonicalize_name(one.name)]), (name, one)


def test_the_lowest_versions_are_the_floors() -> None:
    pinned = _pinned("lowest.txt")
    for one in _requirements():
        floors = [
            Version(part.version.removesuffix(".*"))
            for part in one.specifier
            if part.operator in (">=", "==")
        ]
        if floors:  # of another release of the same number, where that one was withdrawn
            found = Version(pinned[canonicalize_name(one.name)])
            assert found.release[:2] == (*max(floors).release, 0)[:2], one
