"""A process that dies with the one that started it, whatever it is at. The processes are real."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """
import multiprocessing, time
from hanging import hang

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    ours, theirs = context.Pipe()
    child = context.Process(target=hang, args=(theirs, {how!r}))
    child.start()
    print(ours.recv(), flush=True)
    time.sleep(1000)
"""
CHILD = """
import os, re, time
from dpo_bench.sweep.executors.orphans import die_with_parent

def hang(pipe, how):
    die_with_parent()
    pipe.send(os.getpid())
    if how == "holding the interpreter":
        re.match(r"(a+)+$", "a" * 60 + "b")
    while True:
        try:
            time.sleep(1000)
        except BaseException:
            pass
"""


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.parametrize("method", ["forkserver", "spawn"])
@pytest.mark.parametrize("how", ["holding the interpreter", "asleep"])
def test_it_dies_with_its_parent(tmp_path: Path, method: str, how: str) -> None:
    (tmp_path / "hanging.py").write_text(CHILD)
    script = tmp_path / "parent.py"
    script.write_text(PARENT.format(method=method, how=how))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.2)
        assert is_alive(child)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_alive(child)
