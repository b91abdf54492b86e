"""A small sweep on the embedded world, run by the real command line in forks of this process.

Importing torch and transformers takes seconds, a fork milliseconds. The process that forks has
imported everything and computed nothing, so that it has no threads; workers are forked from it too
instead of from the program's own server, and all else is what a user runs.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TIMES = ("train_seconds", "evaluation_seconds", "checkpoint_seconds")
"""Columns of a results table that no two runs have alike."""
SETTINGS = (
    *("world.pairs=64", "training.steps=8", "training.pairs_per_step=8"),
    *("training.learning_rate=0.003", "training.checkpoint_seconds=0", "keep_policies=true"),
    *("evaluation.prompts=16", "evaluation.samples_per_prompt=2", "evaluation.max_new_tokens=12"),
    *("evaluation.reference_samples=8", "evaluation.resamples=100", "evaluation.every=4"),
)
SWEEP = (
    *("sweep", "--losses", "dpo,ipo", "--beta", "0.1,0.5", "--workers", "1", "--quiet"),
    *(f"--set={one}" for one in SETTINGS),
)
"""Four trials, each with its policy and a checkpoint's evaluation."""
QUICK = (
    *("sweep", "--losses", "dpo,ipo", "--beta", "0.5", "--workers", "1", "--quiet"),
    *(f"--set={one}" for one in SETTINGS),
    *("--set=training.steps=4", "--set=evaluation.prompts=4", "--set=keep_policies=false"),
    *("--set=evaluation.every=2", "--set=evaluation.reference_samples=4"),
)
"""Two trials, as small as they can be."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command came to.

    Attributes:
        code: its exit code; negative, the signal that ended it; None: it hung and was killed.
        said: stdout and stderr.
        seconds: that it took.
    """

    code: int | None
    said: str
    seconds: float

    @property
    def has_traceback(self) -> bool:
        """Whether a user would have seen one."""
        return "Traceback (most recent call last)" in self.said


class Lab:
    """A folder with a cache and runs of its own.

    Args:
        root: is made; holds ``cache/`` and ``runs/``.
        plan: the command line of its sweep, without ``--out``.
    """

    def __init__(self, root: Path, plan: Sequence[str] = SWEEP) -> None:
        self.root, self.plan = root, plan
        self.cache, self.out = root / "cache", root / "runs" / "small"
        root.mkdir(parents=True, exist_ok=True)

    def sweep(self, before: Callable[[], object] | None = None) -> Outcome:
        """Run the sweep."""
        return self.begin(before).wait()

    def whole_sweep(self, name: str) -> Outcome:
        """Run the sweep undisturbed, and keep what it comes to.

        Raises:
            RuntimeError: it does not come to its end.
        """
        outcome = self.sweep()
        if outcome.code != 0:
            raise RuntimeError(outcome.said)
        self.save(name)
        return outcome

    def begin(self, before: Callable[[], object] | None = None) -> Running:
        """Begin the sweep; see `start`."""
        return self.start(*self.plan, "--out", str(self.out), before=before)

    def command(self, *arguments: str) -> Outcome:
        """Run any other command."""
        return self.start(*arguments).wait()

    def start(
        self, *arguments: str, before: Callable[[], object] | None = None, cache: Path | None = None
    ) -> Running:
        """Begin a command.

        Args:
            arguments: after ``dpo-bench``.
            before: called in the new process first.
            cache: instead of the lab's own.
        """
        return Running(arguments, self.root, cache or self.cache, before)

    def save(self, name: str) -> None:
        """Keep everything as it is, hard links among it too."""
        saved = self.saved(name)
        shutil.rmtree(saved, ignore_errors=True)
        _copy(self.root, saved)

    def restore(self, name: str) -> None:
        """Put everything back."""
        shutil.rmtree(self.root, ignore_errors=True)
        _copy(self.saved(name), self.root)

    def saved(self, name: str) -> Path:
        """Where it is kept."""
        return self.root.with_name(f"{self.root.name}-{name}")


def without(plan: Sequence[str], *options: str) -> tuple[str, ...]:
    """A command line without these options and their values."""
    taken = {at + more for at, one in enumerate(plan) if one in options for more in (0, 1)}
    return tuple(one for at, one in enumerate(plan) if at not in taken)


class Running:
    """A command in a process group of its own.

    Args:
        arguments: after ``dpo-bench``.
        root: what is said is kept there.
        cache: folder of the cache.
        before: called in the new process first.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        root: Path,
        cache: Path,
        before: Callable[[], object] | None,
    ) -> None:
        self.begun = time.monotonic()
        self.said = root.with_name(f"{root.name}-said-{time.monotonic_ns()}")
        self.pid = os.fork()
        if self.pid == 0:
            _become(arguments, self.said, cache, before)

    def kill(self, *, group: bool = True) -> None:
        """SIGKILL, to all of its processes or to the first alone."""
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signal.SIGKILL)

    def is_alive(self) -> bool:
        """Whether it has not ended."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait(self, seconds: float = 300.0) -> Outcome:
        """Wait for its end, at most so long; then it is killed."""
        code = self._wait(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # workers that outlived it
        said = self.said.read_text("utf-8", "replace") if self.said.exists() else ""
        self.said.unlink(missing_ok=True)
        return Outcome(code, said, time.monotonic() - self.begun)

    def _wait(self, seconds: float) -> int | None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        self.kill()
        os.waitpid(self.pid, 0)
        return None


def _become(
    arguments: Sequence[str], said: Path, cache: Path, before: Callable[[], object] | None
) -> None:
    """Be the command, in a fork; does not return."""
    code: object = 70
    try:
        os.setsid()
        to = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(to, stream)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        os.environ["DPO_BENCH_CACHE"] = str(cache)
        sys.argv = ["dpo-bench", *arguments]
        from dpo_bench.__main__ import main
        from dpo_bench.sweep.executors import local

        local.process_context = lambda: multiprocessing.get_context("fork")
        if before is not None:
            before()
        main()
    except SystemExit as end:
        code = end.code or 0
    except BaseException:  # as the interpreter would show it
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def preload() -> None:
    """Import everything that a command may need; computes nothing, so that no thread is begun."""
    import dpo_bench.report.write
    import dpo_bench.sweep.preload
    import dpo_bench.sweep.run  # noqa: F401

    os.environ["OMP_NUM_THREADS"] = "1"


def leftovers(root: Path) -> list[str]:
    """Temporary names that are still there below a folder."""
    found = (path for path in sorted(root.rglob(".*")) if path.name != ".lock")
    return [f"{path.relative_to(root)} was left" for path in found]


def _copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)
