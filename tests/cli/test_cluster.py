"""`sweep --executor ray` on real clusters that listen on loopback addresses only."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.cli.command import QUICK, dpo_bench, results
from tests.cli.test_interruptions import (
    assert_same,
    checkpoints,
    command_of,
    descendants,
    running,
    wait_until,
)
from tests.cli.test_searched import artefacts, found

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore")]

HEAD, OTHER = "127.0.0.2", "127.0.0.3"
TIMES = ["train_seconds", "evaluation_seconds"]
STEPS = 400
LOST = (
    r"(the worker( on \S+)? died: |the worker does not answer: "
    r"|the processes that hold the model have lost each other: )\w"
)
"""What is said of a trial that one of its machines was lost with: by whom it was noticed first."""
TWO = "--set=training.gpus_per_trial=2"


@pytest.fixture(scope="module")
def source(llama_folder: Path, pairs_file: Path) -> tuple[str, ...]:
    return ("sweep", "--policy", str(llama_folder), "--preferences", str(pairs_file))


@pytest.fixture
def long(source: tuple[str, ...]) -> list[str]:
    """A sweep of one trial that takes some seconds."""
    return [
        *(*source, "--losses", "dpo", "--beta", "0.1", *QUICK),
        *(f"--set=training.steps={STEPS}", "--set=training.checkpoint_seconds=0.2"),
    ]


@pytest.fixture(scope="module")
def uninterrupted(source: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    steps = f"--set=training.steps={STEPS}"
    dpo_bench(*source, "--losses", "dpo", "--beta", "0.1", *QUICK, steps, "--out", out)
    return out


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two machines of one core each, as far as Ray can tell."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster()
    for address in (HEAD, OTHER):
        add_machine(made, address)
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    made.shutdown()


def add_machine(cluster: Any, address: str) -> None:
    cluster.add_node(
        node_ip_address=address,
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=80_000_000,
    )


def actors(pid: int) -> list[int]:
    """Worker processes that a sweep's own cluster runs."""

    def title(process: int) -> bytes:
        return Path(f"/proc/{process}/cmdline").read_bytes()

    return [found for found in descendants(pid) if title(found).startswith(b"ray::Actor")]


def listeners(pids: list[int]) -> set[str]:
    """Addresses on which some processes listen, as the kernel writes them."""
    sockets = {
        str(link.readlink())
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink()
    }
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                found.add(fields[1].partition(":")[0])
    return found


def test_a_search_comes_to_the_trials_of_the_local_executor(
    source: tuple[str, ...], cluster: Any, tmp_path: Path
) -> None:
    """On two machines, which take whatever comes next, in whatever order they end."""
    outs = [tmp_path / name / "out" for name in ("local", "ray")]
    more = ("--losses", "dpo,ipo", *QUICK, "--set=training.steps=6", "--set=search.within=0.25")
    sought = ("--set=search.kl=[0.003, 0.008]", "--set=search.seeds=[2, 2]")
    for out in outs:
        dpo_bench(
            *(*source, *more, *sought, "--executor", out.parent.name),
            *("--workers", 2, "--out", out),
        )
    assert found(outs[1]) == found(outs[0])
    assert artefacts(outs[1]) == artefacts(outs[0])
    assert cluster.address


def test_results_are_those_of_the_local_executor(source: tuple[str, ...], tmp_path: Path) -> None:
    outs = [tmp_path / name / "out" for name in ("local", "ray")]
    more = ("--losses", "dpo,ipo", "--beta", "0.1,0.5", "--reward", "vader", *QUICK)
    more += ("--set=keep_policies=true",)
    for out in outs:
        done = dpo_bench(
            *(*source, *more, "--executor", out.parent.name, "--workers", 2, "--out", out)
        )
    assert "waiting for a place in the cluster (1 CPU): 1/1\n" in done.stderr
    tables = [results(out).drop(columns=TIMES) for out in outs]
    pd.testing.assert_frame_equal(tables[0], tables[1], check_exact=True)
    assert tables[0]["status"].tolist() == ["done"] * 4
    assert_same_policies(*outs)
    assert "every file is as it was written" in dpo_bench("status", outs[1], "--verify").stdout
    assert not list(outs[1].glob(".seen*"))


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_and_the_same_command_goes_on(
    long: list[str], uninterrupted: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    out = tmp_path / "out"
    with running([*long, "--executor", "ray"], out) as process:
        wait_until(lambda: checkpoints(out), 180)
        children = descendants(process.pid)
        assert listeners(children) <= {"0100007F", f"{0:016X}FFFF00000100007F"}
        os.killpg(process.pid, stop)  # a terminal sends Ctrl-C to all of them
        _, message = process.communicate(timeout=400)
        assert process.returncode == 130, message
    assert "the same command goes on from here" in message
    assert "Traceback" not in message
    assert len(checkpoints(out)) == 1
    wait_until(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children), 20)
    dpo_bench(*long, "--executor", "ray", "--out", out)
    assert_same(out, uninterrupted)


def test_a_killed_actor_is_a_failed_trial_that_is_tried_again(
    long: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with running([*long, "--executor", "ray"], out) as process:
        wait_until(lambda: checkpoints(out), 180)
        (actor,) = actors(process.pid)
        os.kill(actor, signal.SIGKILL)
        _, message = process.communicate(timeout=400)
        assert process.returncode == 1, message
    assert "the worker on 127.0.0.1 died" in results(out)["error"][0]
    dpo_bench(*long, "--executor", "ray", "--out", out)
    assert_same(out, uninterrupted)


def test_a_lost_machine_fails_its_trial_only(
    cluster: Any, source: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = [
        *("--losses", "dpo", "--beta", "0.1,0.2,0.3", *QUICK, "--executor", "ray"),
        *(f"--set=training.steps={STEPS}", "--set=training.checkpoint_seconds=0.2"),
    ]
    with running([*source, *more], out) as process:
        wait_until(lambda: len({one.parent for one in checkpoints(out)}) == 2, 180)
        (lost,) = cluster.worker_nodes
        cluster.remove_node(lost, allow_graceful=False)
        _, message = process.communicate(timeout=400)
        assert process.returncode == 1, message
    table = results(out)
    assert sorted(table["status"]) == ["done", "done", "failed"]
    assert "the worker" in table["error"].dropna().iloc[0]
    dpo_bench(*source, *more, "--out", out)
    assert results(out)["status"].tolist() == ["done"] * 3


def test_a_cluster_that_is_not_there_is_named_at_once(
    source: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.2:9")
    done = dpo_bench(
        *(*source, "--losses", "dpo", "--beta", "0.1", *QUICK, "--executor", "ray"),
        *("--out", tmp_path / "out"),
        code=3,
    )
    assert "no Ray cluster was reached at RAY_ADDRESS=127.0.0.2:9" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def divided(source: tuple[str, ...]) -> list[str]:
    """A sweep of one trial on two processes that takes some seconds."""
    return [
        *(*source, "--losses", "dpo", "--beta", "0.1", "--workers", "1", *QUICK, TWO),
        *("--set=training.steps=80", "--set=training.checkpoint_seconds=0.2"),
        "--set=keep_policies=true",
    ]


@pytest.fixture(scope="module")
def undisturbed(source: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same by the local executor, from beginning to end."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    dpo_bench(
        *(*source, "--losses", "dpo", "--beta", "0.1", "--workers", "1", *QUICK, TWO),
        *("--set=training.steps=80", "--set=keep_policies=true", "--out", out),
    )
    return out


def assert_same_policies(out: Path, whole: Path) -> None:
    """Byte by byte, under the same identities."""
    files = [sorted(one.glob("trials/*/policy/*")) for one in (out, whole)]
    names = [[file.parts[-3:] for file in of] for of in files]
    assert names[0] == names[1] != []
    for ours, theirs in zip(*files, strict=True):
        assert ours.read_bytes() == theirs.read_bytes(), ours.name


def ranks_of(out: Path) -> dict[str, int]:
    """Processes of a worker by what Ray calls them, once a trial is under way."""
    wait_until(lambda: checkpoints(out), 180)
    found = {}
    for pid in descendants(os.getpid()):
        for name in ("Actor", "Follower"):
            if command_of(pid).startswith(b"ray::" + name.encode()):
                found[name] = pid
    assert found.keys() == {"Actor", "Follower"}
    return found


def assert_gone(ranks: dict[str, int], seconds: float = 20) -> None:
    """The processes end, all of them."""
    wait_until(
        lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in ranks.values()), seconds
    )


def assert_goes_on(divided: list[str], out: Path, whole: Path) -> None:
    """The same command goes on, and comes to what a sweep comes to that was left alone."""
    dpo_bench(*divided, "--executor", "ray", "--out", out)
    assert_same(out, whole)
    assert_same_policies(out, whole)


def test_trials_on_two_processes_of_two_machines_are_those_of_the_local_executor(
    divided: list[str], undisturbed: Path, cluster: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = dpo_bench(*divided, "--executor", "ray", "--out", out)
    assert "no machine of the cluster has 2 x (1 CPU)" in done.stderr
    assert_same(out, undisturbed)
    assert_same_policies(out, undisturbed)
    assert cluster.address


@pytest.mark.parametrize("killed", ["Actor", "Follower"])
def test_a_killed_rank_ends_its_worker_and_the_trial_goes_on_from_its_checkpoint(
    divided: list[str], undisturbed: Path, tmp_path: Path, killed: str
) -> None:
    """On one machine, which has room for both: nothing is said of the network."""
    out = tmp_path / "out"
    with running([*divided, "--executor", "ray"], out) as process:
        ranks = ranks_of(out)
        os.kill(ranks[killed], signal.SIGKILL)
        _, message = process.communicate(timeout=400)
        assert process.returncode == 1, message
    assert "no machine of the cluster" not in message
    assert "the worker on 127.0.0.1 died: The actor is dead" in results(out)["error"][0]
    assert_gone(ranks)
    assert checkpoints(out)
    assert_goes_on(divided, out, undisturbed)


def test_a_machine_that_is_lost_with_one_rank_ends_its_worker(
    divided: list[str], undisturbed: Path, cluster: Any, tmp_path: Path
) -> None:
    """A third machine takes its place: what was saved goes on in the same command's next run."""
    out = tmp_path / "out"
    with running([*divided, "--executor", "ray"], out) as process:
        ranks = ranks_of(out)
        (lost,) = cluster.worker_nodes
        cluster.remove_node(lost, allow_graceful=False)
        _, message = process.communicate(timeout=400)
        assert process.returncode == 1, message
    assert re.match(LOST, results(out)["error"][0])
    assert_gone(ranks)
    add_machine(cluster, "127.0.0.4")
    assert_goes_on(divided, out, undisturbed)


def test_ctrl_c_saves_what_two_processes_are_at_and_leaves_none(
    divided: list[str], undisturbed: Path, cluster: Any, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with running([*divided, "--executor", "ray"], out) as process:
        ranks = ranks_of(out)
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, message = process.communicate(timeout=60)
        assert process.returncode == 130, message
    assert time.monotonic() - begun < 15
    assert "the same command goes on from here" in message
    assert "Traceback" not in message
    assert len(checkpoints(out)) == 1
    assert_gone(ranks, 10)
    assert_goes_on(divided, out, undisturbed)
    assert cluster.address


def test_a_launcher_and_ray_do_not_go_together(
    divided: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("RANK", 0), ("WORLD_SIZE", 2), ("MASTER_ADDR", HEAD), ("MASTER_PORT", 9)):
        monkeypatch.setenv(name, str(value))
    done = dpo_bench(*divided, "--executor", "ray", "--out", tmp_path / "out", code=2)
    assert "a launcher has started 2 processes, and --executor ray starts its own" in done.stderr
    assert not (tmp_path / "out").exists()
