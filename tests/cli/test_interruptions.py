"""Ctrl-C, kill -9 and two at once: nothing is lost, and the result is the same."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dpo_bench.storage import read_parquet
from tests.cli.command import COMMAND, QUICK, dpo_bench, dpo_bench_here, results

STEPS = 400


@pytest.fixture
def arguments(llama_folder: Path, pairs_file: Path) -> list[str]:
    """A sweep of one trial that takes a few seconds."""
    return [
        *("sweep", "--policy", str(llama_folder), "--preferences", str(pairs_file)),
        *("--losses", "dpo", "--beta", "0.1", *QUICK),
        *(f"--set=training.steps={STEPS}", "--set=training.checkpoint_seconds=0.2"),
    ]


@contextlib.contextmanager
def running(arguments: list[Any], out: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep in a session of its own, as a terminal would start it."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--out", str(out)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        # Whoever starts the tests in the background may have Ctrl-C ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def wait_until(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def checkpoints(out: Path) -> list[Path]:
    return list(out.glob("checkpoints/*.state/step-*"))


def descendants(pid: int) -> list[int]:
    """Processes started by a process, and by those."""
    children = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                children.append(int(entry.parent.name))
    return children + [found for child in children for found in descendants(child)]


def command_of(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def training_of(out: Path) -> pd.DataFrame:
    (file,) = out.glob("trials/*/training.parquet")
    return read_parquet(file)


@pytest.fixture(scope="module")
def uninterrupted(
    llama_folder: Path, pairs_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    dpo_bench_here(
        *("sweep", "--policy", llama_folder, "--preferences", pairs_file),
        *("--losses", "dpo", "--beta", "0.1", *QUICK, f"--set=training.steps={STEPS}"),
        *("--out", out),
    )
    return out


def assert_same(out: Path, whole: Path) -> None:
    """Bit by bit the same training, and the same evaluation."""
    pd.testing.assert_frame_equal(training_of(out), training_of(whole), check_exact=True)
    times = ["train_seconds", "evaluation_seconds"]
    pd.testing.assert_frame_equal(
        results(out).drop(columns=times), results(whole).drop(columns=times), check_exact=True
    )


@pytest.mark.parametrize(
    "stop", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_ctrl_c_saves_and_the_same_command_goes_on(
    arguments: list[str], uninterrupted: Path, tmp_path: Path, stop: signal.Signals
) -> None:
    out = tmp_path / "out"
    with running(arguments, out) as process:
        wait_until(lambda: checkpoints(out))
        os.killpg(process.pid, stop)  # a terminal sends Ctrl-C to all of them
        _, message = process.communicate(timeout=60)
        assert process.returncode == 130, message
    assert "the same command goes on from here" in message
    assert "Traceback" not in message
    (checkpoint,) = checkpoints(out)
    assert checkpoint.stat().st_size > 0
    assert not list(out.glob("trials/*/manifest.json"))
    dpo_bench_here(*arguments, "--out", out)
    assert_same(out, uninterrupted)
    assert checkpoints(out) == []


def test_ctrl_c_saves_what_no_checkpoint_has_yet(
    arguments: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    late = [*arguments, "--set=training.checkpoint_seconds=1000"]
    with running([*late, "--log-json"], out) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if '"training"' in line:
                break
        assert checkpoints(out) == []
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
    (checkpoint,) = checkpoints(out)
    assert checkpoint.name != f"step-{STEPS}"
    dpo_bench_here(*late, "--out", out)
    assert_same(out, uninterrupted)


def test_ctrl_c_while_workers_are_being_made_ends_in_one_line(
    arguments: list[str], tmp_path: Path
) -> None:
    with running(arguments, tmp_path / "out") as process:
        wait_until(
            lambda: any(b"forkserver" in command_of(pid) for pid in descendants(process.pid))
        )
        time.sleep(1.5)  # it imports for seconds
        os.killpg(process.pid, signal.SIGINT)
        _, message = process.communicate(timeout=60)
        assert process.returncode == 130, message
    assert "the same command goes on from here" in message
    assert "Traceback" not in message


def test_kill_9_of_everything_loses_nothing_that_was_saved(
    arguments: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with running(arguments, out) as process:
        wait_until(lambda: checkpoints(out))
        os.killpg(process.pid, signal.SIGKILL)
    dpo_bench_here(*arguments, "--out", out)
    assert_same(out, uninterrupted)


def test_workers_end_when_their_sweep_is_killed(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with running(arguments, out) as process:
        wait_until(lambda: checkpoints(out))
        children = descendants(process.pid)
        assert children
        process.kill()
        wait_until(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children), 20)


def test_a_killed_worker_is_a_failed_trial_that_is_tried_again(
    arguments: list[str], uninterrupted: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with running(arguments, out) as process:
        wait_until(lambda: checkpoints(out))
        leaves = [pid for pid in descendants(process.pid) if not descendants(pid)]
        workers = [pid for pid in leaves if b"tracker" not in command_of(pid)]
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        _, message = process.communicate(timeout=60)
        assert process.returncode == 1, message
    assert "was killed by SIGKILL" in results(out)["error"][0]
    dpo_bench_here(*arguments, "--out", out)
    assert_same(out, uninterrupted)


def test_two_sweeps_in_one_folder_do_not_meet(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with running(arguments, out) as process:
        wait_until(lambda: checkpoints(out))
        process.send_signal(signal.SIGSTOP)  # else it may have ended before the second begins
        second = dpo_bench(*arguments, "--out", out, code=5)
        process.send_signal(signal.SIGCONT)
        assert "in use by another process" in second.stderr
        _, message = process.communicate(timeout=120)
        assert process.returncode == 0, message


@pytest.fixture
def several(arguments: list[str]) -> list[str]:
    """A sweep of three trials, one after another."""
    return [*arguments, "--beta", "0.3,1.0", "--workers", "1"]


def manifests(out: Path) -> list[Path]:
    """Of trials that have ended; those of folders that are being written begin with a dot."""
    return list(out.glob("trials/[0-9a-f]*/manifest.json"))


def is_half_way(out: Path) -> bool:
    """Whether one trial has ended and a later one has been saved on its way."""
    ended = {file.parent.name for file in manifests(out)}
    return bool(ended) and any(file.stem not in ended for file in checkpoints(out))


def test_ctrl_c_writes_the_report_of_what_is_done(several: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with running(several, out) as process:
        wait_until(lambda: is_half_way(out))
        os.killpg(process.pid, signal.SIGINT)
        _, message = process.communicate(timeout=120)
        assert process.returncode == 130, message
    assert "Traceback" not in message
    assert "report so far" in message
    assert "the same command goes on from here" in message
    done = len(manifests(out))
    assert len(results(out)) == done < 3
    text = (out / "report.md").read_text()
    assert f"{3 - done} planned trial" in text
    assert checkpoints(out), "what was running has been saved"


@pytest.mark.slow
def test_a_report_while_a_sweep_runs_and_after_it_was_killed(
    several: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with running(several, out) as process:
        wait_until(lambda: is_half_way(out))
        os.killpg(process.pid, signal.SIGSTOP)  # it holds the folder, and stays half-way
        done = len(manifests(out))
        assert not (out / "results.parquet").exists()
        dpo_bench_here("report", out)
        assert len(results(out)) == done < 3
        assert f"{3 - done} planned trial" in (out / "report.md").read_text()
        os.killpg(process.pid, signal.SIGKILL)
    (out / "results.parquet").unlink()
    dpo_bench_here("report", out)
    assert len(results(out)) == done
    dpo_bench_here(*several, "--out", out)
    assert len(results(out)) == 3
    assert "planned trial" not in (out / "report.md").read_text()
