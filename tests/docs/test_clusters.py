"""Scripts and manifest for clusters say what the program and Ray understand.

`tests/cli/test_slurm.py` runs the scripts.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import dpo_bench_here

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "clusters"
SCRIPTS = sorted(FOLDER.glob("*.sbatch"))


@pytest.fixture
def job() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "kuberay.yaml").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_read_by_bash_and_save_before_their_time_is_over(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text(encoding="utf-8")
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", text, re.MULTILINE))
    assert {"ntasks-per-node", "cpus-per-task", "time", "signal"} <= options.keys()
    assert re.fullmatch(r"(B:)?TERM@600", options["signal"])
    assert text.index("#SBATCH --signal") < text.index("set -euo pipefail"), (
        "Slurm reads no further"
    )
    if wait := re.search(r"SHUTDOWN_TIMEOUT=(\d+)", text):
        assert int(wait[1]) < 600


def test_the_page_names_each_file_and_none_besides() -> None:
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\(clusters/([a-z.]+)\)", page))
    assert named == {file.name for file in FOLDER.iterdir()}


def test_commands_of_the_page_have_options_that_there_are() -> None:
    helped = dpo_bench_here("sweep", "--help").stdout
    page = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")
    texts = [page, *(file.read_text(encoding="utf-8") for file in FOLDER.iterdir())]
    given = {
        option
        for text in texts
        for line in re.findall(r"dpo_bench sweep (.*)", text.replace("\\\n", " "))
        for option in re.findall(r"--[a-z]+", line)
    }
    assert {"--executor", "--out"} <= given
    for option in given:
        assert option in helped


def test_the_manifest_is_one_job_on_nodes_that_are_alike(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["template"] == workers["template"], "the head must see the same kind of device"
    assert workers["replicas"] == workers["minReplicas"] == workers["maxReplicas"]
    (container,) = head["template"]["spec"]["containers"]
    asked, most = container["resources"]["requests"], container["resources"]["limits"]
    assert asked == most, "GPUs cannot be asked for otherwise"
    assert "nvidia.com/gpu" in most
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in head["template"]["spec"]["volumes"]}
    command = shlex.split(job["spec"]["entrypoint"])
    assert command[:4] == ["python", "-m", "dpo_bench", "sweep"]
    cache = {one["name"]: one["value"] for one in container["env"]}["DPO_BENCH_CACHE"]
    paths = [cache, *(part for part in command if part.startswith("/"))]
    assert len(paths) == 3
    assert all(path.startswith(mounts["shared"] + "/") for path in paths), "seen by all nodes"


def test_the_manifest_names_a_ray_that_the_program_takes(job: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (needed,) = project["optional-dependencies"]["ray"]
    least = re.fullmatch(r"ray>=([\d.]+)", needed)
    assert least is not None
    version = job["spec"]["rayClusterSpec"]["rayVersion"]
    assert _numbers(version) >= _numbers(least[1])
    text = (FOLDER / "kuberay.yaml").read_text(encoding="utf-8")
    assert f"rayproject/ray:{version}-" in text


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]
