"""What a request to end means to the processes of a launcher."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import os, signal, sys, time
from dpo_bench import launcher
launcher.SECONDS_OF_ECHO = 0.3
signal.signal(signal.SIGINT, signal.default_int_handler)
launcher.heed_signals()
for number, (pause, name) in enumerate([(0, "INT"), (0, "TERM"), (0.5, "TERM"), (0, "TERM")]):
    time.sleep(pause)
    try:
        os.kill(os.getpid(), getattr(signal, "SIG" + name))
        time.sleep(0.01)
        print("goes on")
    except KeyboardInterrupt:
        print("interrupted")
"""


def heard(**environment: str) -> list[str]:
    """What becomes of four signals: two at once, and two more after a while."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


@pytest.fixture
def launched() -> dict[str, str]:
    return {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


def test_a_process_that_is_alone_hears_every_signal() -> None:
    assert heard() == ["interrupted"] * 4


def test_the_first_of_several_takes_an_echo_for_the_signal_before(launched: dict[str, str]) -> None:
    assert heard(RANK="0", **launched) == ["interrupted", "goes on", "interrupted", "goes on"]


def test_the_others_go_on_until_the_first_lets_them_go(launched: dict[str, str]) -> None:
    assert heard(RANK="1", **launched) == ["goes on"] * 4


def test_an_ignored_signal_stays_ignored(launched: dict[str, str]) -> None:
    """As for what a shell has started in the background."""
    code = CODE.replace("signal.default_int_handler", "signal.SIG_IGN")
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "RANK": "0", **launched},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["goes on", "interrupted", "interrupted", "goes on"]
