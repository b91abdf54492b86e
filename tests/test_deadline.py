"""A limit in time for code that is not ours."""

from __future__ import annotations

import contextlib
import signal
import threading
import time

import pytest

from dpo_bench.deadline import DeadlineError, deadline


def test_a_block_that_takes_too_long_is_ended() -> None:
    started = time.monotonic()
    with pytest.raises(DeadlineError, match=r"not done after 0\.1 seconds"), deadline(0.1):
        time.sleep(10)
    assert time.monotonic() - started < 5


def test_a_block_in_time_is_left_alone_and_nothing_comes_later() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with deadline(0.1):
        pass
    time.sleep(0.2)
    assert signal.getsignal(signal.SIGALRM) is before


def test_in_another_thread_there_is_no_limit() -> None:
    done: list[bool] = []

    def work() -> None:
        with deadline(0.01):
            time.sleep(0.05)
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_code_that_catches_whatever_is_raised_is_ended_too() -> None:
    with pytest.raises(DeadlineError), deadline(0.1):
        _go_on_after_errors()


def _go_on_after_errors() -> None:
    for _ in range(1000):
        with contextlib.suppress(Exception):
            time.sleep(10)
