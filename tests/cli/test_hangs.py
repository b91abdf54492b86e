"""What hangs is given up in time, named and replaced; the others finish. Processes are real."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.cli.command import QUICK, dpo_bench, results
from tests.cli.test_interruptions import descendants, running, wait_until

HANGS = {
    "asleep": "time.sleep(1000)",
    "holding_the_interpreter": "re.match(r'(a+)+$', 'a' * 60 + 'b')",
}
LOSS = """
import re, time
from dpo_bench import PairLogps, register
from torch import Tensor
from torch.nn.functional import logsigmoid

calls = 0

@register("hanging", paper="none", normalization="sum", grid=(0.1,))
def hanging(logps: PairLogps, beta: float = 0.1) -> Tensor:
    \"\"\"DPO, until the third step of eight pairs.\"\"\"
    global calls
    calls += len(logps.policy_chosen) == 8
    if calls >= 4:
        {hang}
    chosen = logps.policy_chosen - logps.reference_chosen
    rejected = logps.policy_rejected - logps.reference_rejected
    return -logsigmoid(beta * (chosen - rejected))
"""
REWARD = """
import re, time

def reward(prompts, responses):
    {hang}
    return [0.0] * len(responses)
"""


@pytest.fixture
def arguments(llama_folder: Path, pairs_file: Path) -> list[str]:
    return [
        *("sweep", "--policy", str(llama_folder), "--preferences", str(pairs_file)),
        *(*QUICK, "--set=training.steps=6", "--beta", "0.1"),
    ]


def plugin(tmp_path: Path, kind: str) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "hanging.py").write_text(LOSS.format(hang=HANGS[kind]))
    return folder


@pytest.mark.parametrize(
    "kind", ["holding_the_interpreter", pytest.param("asleep", marks=pytest.mark.slow)]
)
def test_a_loss_that_hangs_fails_and_the_others_are_done(
    arguments: list[str], tmp_path: Path, kind: str
) -> None:
    out = tmp_path / "out"
    losses = ["--plugins", str(plugin(tmp_path, kind)), "--losses", "hanging,dpo,ipo"]
    started = time.monotonic()
    done = dpo_bench(
        *arguments, *losses, "--out", out, "--workers", 1, "--stall-timeout", 6, code=1
    )
    assert time.monotonic() - started < 90
    assert "Traceback" not in done.stderr
    table = results(out).set_index("loss")
    assert table["status"].to_dict() == {"hanging": "failed", "dpo": "done", "ipo": "done"}
    reason = str(table.loc["hanging", "error"])
    assert "no progress for" in reason
    assert "(training, " in reason
    assert f"hanging.py, line {LOSS[: LOSS.index('{hang}')].count(chr(10)) + 1}" in reason
    assert "--stall-timeout" in reason


def test_ctrl_c_ends_a_sweep_that_hangs(arguments: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    losses = ["--plugins", str(plugin(tmp_path, "asleep")), "--losses", "hanging"]
    with running([*arguments, *losses, "--log-json"], out) as process:
        wait_until(lambda: list(out.glob("experiment.json")))
        assert process.stderr is not None
        for line in process.stderr:
            if '"training"' in line:
                break
        time.sleep(2.0)
        children = descendants(process.pid)
        asked = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, message = process.communicate(timeout=60)
        # Two seconds for the worker, and the report of what is done.
        assert time.monotonic() - asked < 10
        assert process.returncode == 130, message
    wait_until(lambda: not any(Path(f"/proc/{child}/exe").exists() for child in children), 10)


@pytest.mark.slow
def test_a_reward_that_hangs_ends_the_sweep_in_a_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(REWARD.format(hang=HANGS["asleep"]))
    monkeypatch.chdir(tmp_path)
    done = dpo_bench(
        *arguments,
        *("--losses", "dpo", "--reward", "mine:reward", "--out", tmp_path / "out"),
        *("--stall-timeout", 8),
        code=1,
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("dpo-bench:")]
    assert "no progress for" in line
    assert "mine.py, line 5" in line
