"""Tests of one state of the code, in a process that need not import torch again."""

from __future__ import annotations

import importlib.util
import io
import multiprocessing
import os
import shutil
import signal
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.mutation.modules import ROOT

NO_TESTS = 5
"""Pytest's exit code where every test is deselected, or there is none."""
_HEAVY = ["datasets", "hypothesis", "matplotlib", "pandas", "peft", "pytest", "scipy.stats"]
_HEAVY += ["torch", "transformers", "transformers.models.auto.modeling_auto"]
_QUIETLY = ["-x", "-q", "-n0", "--assert=plain", "--tb=no", "-p", "no:cacheprovider"]
_TREES = ("benchmarks", "docs", "dpo_bench", "losses", "runs", "tests")


@dataclass(frozen=True)
class Ended:
    """How a run of tests ended.

    Attributes:
        code: pytest's exit code; None when it ran out of time.
        seconds: it took.
        imported: names of the modules of the project that it used; empty where it was ended.
    """

    code: int | None
    seconds: float
    imported: frozenset[str] = frozenset()

    @property
    def outcome(self) -> str:
        """One of killed, survived and timed out."""
        if self.code is None:
            return "timed out"
        return "survived" if self.code in (0, NO_TESTS) else "killed"


def copy_tree(root: Path) -> Path:
    """A copy of the repository to change: the one at hand stays as it is."""
    for name in _TREES:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.*"):
        if file.is_file():
            shutil.copy(file, root)
    return root


def forget_bytecode(root: Path, module: str) -> None:
    """Remove a module's compiled form: within a second, one of the same length passes for it."""
    compiled = importlib.util.cache_from_source(str(root / module))
    Path(compiled).unlink(missing_ok=True)


def run_tests(root: Path, tests: list[str], timeout: float, keep_bytecode: bool = False) -> Ended:
    """Run tests of the copy below `root` until the first fails, for at most `timeout` seconds."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(_HEAVY)
    receive, send = forks.Pipe(duplex=False)
    process = forks.Process(target=_pytest, args=(root, tests, keep_bytecode, send))
    start = time.monotonic()
    process.start()
    send.close()
    process.join(timeout)
    if process.exitcode is None:
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        return Ended(None, time.monotonic() - start)
    imported = receive.recv() if receive.poll() else frozenset()
    return Ended(process.exitcode, time.monotonic() - start, imported)


def _pytest(root: Path, tests: list[str], keep_bytecode: bool, send: Connection) -> None:
    """Within the new process, which ends with pytest's exit code."""
    os.setsid()  # what the tests start ends with them
    for name in [name for name in sys.modules if name.split(".")[0] in _TREES]:
        del sys.modules[name]
    os.chdir(root)
    sys.path.insert(0, str(root))
    os.environ |= {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    sys.dont_write_bytecode = not keep_bytecode
    if not keep_bytecode:
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    import hypothesis
    import pytest

    unshrunk = [phase for phase in hypothesis.Phase if phase is not hypothesis.Phase.shrink]
    hypothesis.settings.register_profile("unshrunk", phases=unshrunk, database=None)
    hypothesis.settings.load_profile("unshrunk")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        code = pytest.main([*_QUIETLY, *tests])
    send.send(frozenset(name for name in sys.modules if name.startswith("dpo_bench.")))
    os._exit(int(code))
