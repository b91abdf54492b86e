"""Losses, rewards and templates that hang, crash or lie: the rest is done, each cause is named."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reliability.lab import QUICK, Lab, Outcome, without
from dpo_bench.storage import read_parquet

NEEDS_FAULTS = False
STALL = 10
"""Seconds without progress after which a trial is given up."""
SECONDS_OF_A_SWEEP = 900.0
GOOD = ("dpo", "ipo", "hinge", "kto", "simpo", "sppo")
BAD: dict[str, tuple[str, str]] = {
    "nan": ("return loss * float('nan')", "stopped being finite"),
    "infinite": ("return loss / 0", "stopped being finite"),
    "raises": ("raise ValueError('planted cause')", "planted cause"),
    "scalar": ("return loss.mean()", "returned shape []"),
    "square": ("return loss[:, None] + loss", "returned shape [8, 8]"),
    "double": ("return loss.double()", "float64"),
    "number": ("return 3.0", "a float, not a tensor"),
    "recurses": ("return hang_by_recursion()", "RecursionError"),
    "too_much": ("return loss + torch.empty(2 ** 45)[0]", "memory"),
    "segv": ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    "leaves": ("os._exit(0)", "exit code 0"),
    "exits": ("raise SystemExit(7)", "exit code 7"),
    "sleeps": ("time.sleep(10000)", "no progress for"),
    "holds_on": ("re.match(r'(a+)+$', 'a' * 60 + 'b')", "no progress for"),
    "waits": ("threading.Event().wait()", "no progress for"),
}
"""What a loss does at its third step, and what its trial's error says."""
LOSSES = """
import os, re, signal, threading, time
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from dpo_bench import PairLogps, register

calls = {}

def hang_by_recursion():
    return hang_by_recursion()

def due(name, logps):
    calls[name] = calls.get(name, 0) + (len(logps.policy_chosen) == 8)
    return calls[name] >= 3
"""
LOSS = '''

@register("planted_{name}", paper="none", normalization="sum", grid=(0.5,))
def planted_{name}(logps: PairLogps, beta: float = 0.5) -> Tensor:
    """DPO, until it misbehaves."""
    loss = -logsigmoid(beta * logps.margin)
    if due("{name}", logps):
        {act}
    return loss
'''


@dataclass(frozen=True, slots=True)
class Plant:
    """Something that misbehaves outside a trial.

    Attributes:
        body: of a reward function; None: what is planted is a chat template.
        code: the exit code that is wished.
        said: what the line must contain.
        template: the chat template.
    """

    body: str | None
    code: int
    said: str
    template: str = ""


OUTSIDE: dict[str, Plant] = {
    "reward raises": Plant("raise KeyError('planted cause')", 4, "planted cause"),
    "reward gives text": Plant("return ['a'] * len(responses)", 4, "mine:reward"),
    "reward gives NaN": Plant("return [float('nan')] * len(responses)", 4, "mine:reward"),
    "reward gives too few": Plant("return [1.0]", 4, "mine:reward"),
    "reward exits": Plant("raise SystemExit(7)", 4, "mine:reward"),
    "reward kills": Plant("os.kill(os.getpid(), signal.SIGKILL)", 1, "SIGKILL"),
    "reward hangs": Plant("time.sleep(10000)", 1, "no progress for"),
    "reward holds on": Plant("re.match(r'(a+)+$', 'a' * 60 + 'b')", 1, "no progress for"),
    "template loops": Plant(
        None,
        2,
        "does not end",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ),
    "template fills memory": Plant(None, 2, "does not end", "{{ 'x' * 10 ** 14 }}"),
}
REWARD = """
import os, re, signal, time

def reward(prompts, responses):
    {body}
"""


def run(root: Path, seconds: float, count: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Plant all of them.

    Args:
        root: an empty folder to work in.
        seconds: after which nothing more is begun.
        count: of losses that misbehave, the first ones; None: all.
        seed: is not needed: nothing is drawn.
    """
    started = time.monotonic()
    found = {"losses": _losses(root, dict(list(BAD.items())[:count])), "outside": {}}
    for name, plant in list(OUTSIDE.items())[:count]:
        if time.monotonic() < started + seconds:
            found["outside"][name] = _outside(root / name.replace(" ", "-"), plant)
    return {**found, "stall": STALL, "seconds": time.monotonic() - started}


def _losses(root: Path, bad: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """All losses in one sweep, good ones among them."""
    plugins = root / "plugins"
    plugins.mkdir(parents=True)
    texts = [LOSS.format(name=name, act=act) for name, (act, _) in bad.items()]
    (plugins / "planted.py").write_text(LOSSES + "".join(texts), encoding="utf-8")
    names = [f"planted_{name}" for name in bad]
    mixed = [one for pair in zip(names, GOOD * 9, strict=False) for one in pair]
    losses = ",".join(dict.fromkeys([*mixed, *names, *GOOD]))
    more = ("--losses", losses, "--stall-timeout", str(STALL), "--plugins", str(plugins))
    lab = Lab(root / "losses", (*without(QUICK, "--losses"), *more))
    outcome = lab.begin().wait(SECONDS_OF_A_SWEEP)
    wrong = [f"exit code {outcome.code}: {outcome.said[-500:]}"] if outcome.code != 1 else []
    rows: dict[str, str] = {}
    if (lab.out / "results.parquet").is_file():
        table = read_parquet(lab.out / "results.parquet").set_index("loss")
        rows = {
            str(name): "done" if row["status"] == "done" else str(row["error"])
            for name, row in table.iterrows()
        }
    wrong += [f"{name}: {rows.get(name)}" for name in GOOD if rows.get(name) != "done"]
    named = 0
    for name, (_, cause) in bad.items():
        error = rows.get(f"planted_{name}", "no row")
        is_named = cause in error and "\n" not in error
        named += is_named
        wrong += [] if is_named else [f"{name}: {error}, not {cause}"]
    if outcome.has_traceback:
        wrong.append(f"a traceback: {outcome.said[-800:]}")
    return {
        "planted": len(bad),
        "named": named,
        "good": len(GOOD),
        "sweep_seconds": outcome.seconds,
        "errors": {name: rows.get(f"planted_{name}", "") for name in bad},
        "wrong": wrong,
    }


def _outside(root: Path, plant: Plant) -> dict[str, Any]:
    lab = Lab(root)
    stall = STALL if plant.body else 3 * STALL  # a template has a limit of its own
    more: tuple[str, ...] = ("--stall-timeout", str(stall))
    if plant.body is None:
        more = (*more, *_own_model(root, plant.template))
        plan: tuple[str, ...] = (
            "sweep",
            "--losses",
            "dpo",
            "--beta",
            "0.5",
            "--workers",
            "1",
            "--quiet",
        )
    else:
        (root / "mine.py").write_text(REWARD.format(body=plant.body), encoding="utf-8")
        plan = (*QUICK, "--reward", "mine:reward")
    outcome = lab.start(*plan, *more, "--out", str(lab.out), before=lambda: _enter(root)).wait(300)
    return {
        "seconds": outcome.seconds,
        "wrong": _judged(outcome, plant),
        "said": outcome.said[-400:],
    }


def _enter(root: Path) -> None:
    import os

    os.chdir(root)


def _own_model(root: Path, template: str) -> tuple[str, ...]:
    """A model with this chat template, and conversations for it."""
    from transformers import AutoTokenizer

    from tests.tiny import save_model, save_tokenizer

    folder = root / "model"
    save_model(folder, "llama", save_tokenizer(folder, ["Which one? This one. That one."]))
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Which one? {number}"}],
            "chosen": [{"role": "assistant", "content": "This one."}],
            "rejected": [{"role": "assistant", "content": "That one."}],
        }
        for number in range(16)
    ]
    pairs = root / "pairs.jsonl"
    pairs.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return ("--policy", str(folder), "--preferences", str(pairs), "--reward", "none")


def _judged(outcome: Outcome, plant: Plant) -> list[str]:
    lines = [line for line in outcome.said.splitlines() if line.startswith("dpo-bench: ")]
    wrong = []
    if outcome.code != plant.code:
        wrong.append(f"exit code {outcome.code}, not {plant.code}: {outcome.said[-500:]}")
    if len(lines) != 1 or plant.said not in lines[0]:
        wrong.append(f"no line with {plant.said!r}: {outcome.said[-500:]}")
    if outcome.has_traceback:
        wrong.append(f"a traceback: {outcome.said[-800:]}")
    return wrong
