"""Sweeps on several machines, each with an address, processes and folders of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import COMMAND, QUICK, dpo_bench, results
from tests.cli.test_cluster import LOST, TWO, assert_same_policies
from tests.cli.test_interruptions import (
    assert_same,
    checkpoints,
    wait_until,
)
from tests.machines import Machine, machines, require_machines

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]
STEPS = 80
LONGER = "--set=training.steps=400"
PORT = 6379


@pytest.fixture
def two(tmp_path: Path) -> Iterator[list[Machine]]:
    require_machines()
    with machines(2, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def asked(llama_folder: Path, pairs_file: Path) -> list[str]:
    return [
        *("sweep", "--policy", str(llama_folder), "--preferences", str(pairs_file)),
        *("--losses", "dpo", "--beta", "0.1", *QUICK, f"--set=training.steps={STEPS}"),
        *("--set=training.checkpoint_seconds=0.2", "--set=keep_policies=true"),
    ]


@pytest.fixture(scope="module")
def alone(asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same on two processes of this machine."""
    out = tmp_path_factory.mktemp("alone") / "out"
    dpo_bench(*asked, TWO, "--workers", "1", "--out", out)
    return out


@pytest.fixture(scope="module")
def longer_alone(asked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("longer") / "out"
    dpo_bench(*asked, LONGER, TWO, "--workers", "1", "--out", out)
    return out


@pytest.fixture
def cluster(two: list[Machine]) -> Iterator[dict[str, str]]:
    """Ray on both, with one core each; gives the environment of who uses it."""
    pytest.importorskip("ray")
    environment = {
        **os.environ,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": "0123456789abcdef" * 4,
    }
    start = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus=1"]
    start += ["--object-store-memory=80000000"]
    first, second = two
    commands = [
        (first, ["--head", f"--node-ip-address={first.address}", "--include-dashboard=false"]),
        (second, [f"--address={first.name}:{PORT}"]),
    ]
    nodes = []
    try:
        for machine, more in commands:
            nodes.append(
                machine.start(
                    *start, *more, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
                )
            )
            _await_line(nodes[-1], "This command will now block")
        yield {**environment, "RAY_ADDRESS": f"{first.name}:{PORT}"}
    finally:
        for machine in two:
            machine.cut_power()
        for node in nodes:
            node.communicate()


def _await_line(process: subprocess.Popen[str], text: str) -> None:
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if text in line:
            return
    raise AssertionError("".join(said))


def sweep(
    machine: Machine, asked: list[str], out: Path, environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start a sweep on a machine."""
    return machine.start(
        *COMMAND,
        *asked,
        *(TWO, "--workers", 1, "--executor", "ray", "--out", out),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_two_machines_hold_a_policy_together_as_two_processes_of_one_do(
    two: list[Machine], cluster: dict[str, str], asked: list[str], alone: Path, tmp_path: Path
) -> None:
    """They talk over the network, by the interface that leads to each other."""
    out = tmp_path / "out"
    process = sweep(two[0], asked, out, cluster)
    wait_until(lambda: checkpoints(out), 180)
    listening = subprocess.run(
        two[1].command("cat", "/proc/net/tcp"), capture_output=True, text=True, check=True
    ).stdout
    _, message = process.communicate(timeout=300)
    assert process.returncode == 0, message
    assert "no machine of the cluster has 2 x (1 CPU)" in message
    assert_same(out, alone)
    assert_same_policies(out, alone)
    established = [line.split()[1:3] for line in listening.splitlines() if line.split()[3] == "01"]
    ends = {tuple(end.partition(":")[0] for end in pair) for pair in established}
    assert (_as_kernel(two[1].address), _as_kernel(two[0].address)) in ends


def _as_kernel(address: str) -> str:
    return "".join(f"{int(part):02X}" for part in reversed(address.split(".")))


@pytest.mark.parametrize("loss", [Machine.cut_power, Machine.pull_cable])
def test_a_machine_that_is_lost_is_a_failed_trial_that_goes_on_elsewhere(
    two: list[Machine],
    cluster: dict[str, str],
    asked: list[str],
    longer_alone: Path,
    tmp_path: Path,
    loss: Any,
) -> None:
    """Without power its connections are closed at once; without a cable they say nothing."""
    out = tmp_path / "out"
    longer = [*asked, LONGER]
    process = sweep(two[0], longer, out, cluster)
    wait_until(lambda: checkpoints(out), 180)
    begun = time.monotonic()
    loss(two[1])
    _, message = process.communicate(timeout=300)
    assert process.returncode == 1, message
    assert time.monotonic() - begun < 120
    error = results(out)["error"][0]
    assert re.match(LOST, error)
    assert checkpoints(out)
    dpo_bench(*longer, TWO, "--workers", "1", "--out", out)
    assert_same(out, longer_alone)
    assert_same_policies(out, longer_alone)


def test_a_folder_that_one_machine_does_not_see_is_named(
    two: list[Machine], cluster: dict[str, str], asked: list[str], tmp_path: Path
) -> None:
    (tmp_path / "shared").mkdir()
    hide = two[1].command("mount", "-t", "tmpfs", "none", tmp_path / "shared")
    subprocess.run(hide, check=True)
    out = tmp_path / "shared" / "out"
    _, message = sweep(two[0], asked, out, cluster).communicate(timeout=300)
    assert f"the machine machine2 of the cluster does not see {out}: the sweep's folder" in message
    assert "Traceback" not in message


def test_a_launcher_on_two_machines(
    two: list[Machine], asked: list[str], alone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    launch = [
        *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
        *("--rdzv-backend=c10d", "--rdzv-id=1", f"--rdzv-endpoint={two[0].name}:29400"),
        *("-m", "dpo_bench", *asked, "--out", out),
    ]
    started = [
        machine.start(*launch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) for machine in two
    ]
    for process in started:
        _, message = process.communicate(timeout=200)
        assert process.returncode == 0, message
    assert_same(out, alone)
    assert_same_policies(out, alone)
