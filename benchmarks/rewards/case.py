"""One situation: what is typed, what is right, and what came out."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from benchmarks.rewards.classifiers import win_rate
from benchmarks.rewards.endpoint import seen
from dpo_bench.storage import read_parquet

Rule = Callable[[str, str], str]
QUICK = (
    *("training.steps=4", "training.pairs_per_step=4", "training.learning_rate=1e-3"),
    *("evaluation.prompts=4", "evaluation.samples_per_prompt=2", "evaluation.max_new_tokens=8"),
    *("evaluation.reference_samples=6", "evaluation.resamples=100", "data.heldout_fraction=0.34"),
)
JUDGE = ("evaluation.judge_retries=1", "evaluation.judge_timeout=2")


@dataclass(frozen=True)
class Ran:
    """What a command did.

    Attributes:
        code: its exit code.
        text: all that it printed, in one line.
        seconds: that it took.
        seen: what the endpoint saw of the case so far; see `endpoint.Seen`.
        folder: its results.
    """

    code: int
    text: str
    seconds: float
    seen: Mapping[str, Any]
    folder: Path

    @property
    def table(self) -> pd.DataFrame:
        """The results, a row per trial."""
        return read_parquet(self.folder / "results.parquet")

    @property
    def report(self) -> str:
        """The report in Markdown, without its escapes."""
        return (self.folder / "report.md").read_text(encoding="utf-8").replace("\\", "")

    def responses(self, *, of_reference: bool = False) -> pd.DataFrame:
        """A row per response of the first trial, or of the reference."""
        if of_reference:
            return read_parquet(self.folder / "reference" / "samples.parquet")
        trial = self.table["trial"][0]
        return read_parquet(self.folder / "trials" / trial / "samples.parquet")


@dataclass(frozen=True)
class Case:
    """A situation. All that is given must hold.

    Attributes:
        name: that no other has.
        tried: in a few words.
        wished: what is right, in a sentence.
        reward: as typed; ``judge:WAY`` gets the case's name behind it.
        settings: ``section.key=value``, beside the quick ones.
        code: exit code.
        words: that are said.
        unsaid: that are not.
        requests: that the endpoint sees.
        seconds: between which it takes.
        rule: by which the win rate is worked out anew, for a judge.
        number: likewise, for a reward: of a response.
        betas: a trial each.
        workers: processes that judge.
        environment: variables; not empty: the command is run in a process of its own.
        directory: of the laboratory in which it is typed, then.
        path: of the endpoint's address.
        before: done first.
        more: a further check, which says what is wrong or nothing.
    """

    name: str
    tried: str
    wished: str
    reward: str
    settings: tuple[str, ...] = ()
    code: int = 0
    words: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()
    requests: int | None = None
    seconds: tuple[float, float] = (0, 60)
    rule: Rule | None = None
    number: Callable[[str], float] | None = None
    betas: str = "0.1"
    workers: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""
    path: str = "/v1"
    before: Callable[[Lab, Case], None] | None = None
    more: Callable[[Lab, Case, Ran], str] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came out for a case: in a line, and what was wrong with it."""

    case: str
    tried: str
    wished: str
    outcome: str
    wrong: str
    seconds: float


@dataclass(frozen=True)
class Lab:
    """Where cases are tried.

    Attributes:
        root: folder of models, pairs and results.
        url: the endpoint's address.
    """

    root: Path
    url: str

    def attempt(self, case: Case) -> Outcome:
        """Run one case and hold it against what is right."""
        try:
            if case.before:
                case.before(self, case)
            ran = self.run(case)
            faults = list(filter(None, self._faults(case, ran)))
            if case.more and not faults:
                faults.append(case.more(self, case, ran))
            outcome = self._in_words(case, ran)
            wrong, seconds = "; ".join(filter(None, faults)), ran.seconds
        except Exception as error:
            wrong, outcome, seconds = f"{type(error).__name__}: {error}", "no results", 0.0
        return Outcome(case.name, case.tried, case.wished, outcome, wrong, seconds)

    def model(self, case: Case) -> str:
        """The case's model at the endpoint."""
        way = case.reward.removeprefix("judge:")
        return way if way == case.name else f"{way}@{case.name}"

    def run(self, case: Case, **changes: Any) -> Ran:
        """Run its command, with further settings or another reward."""
        folder = self.root / "out" / changes.get("out", case.name)
        command = self.command(case, folder, *changes.get("settings", ()))
        started = time.monotonic()
        if case.environment:
            code, text = _apart(command, case.environment, self.root / case.directory)
        else:
            code, text = _here(command)
        seconds = time.monotonic() - started
        return Ran(code, " ".join(text.split()), seconds, seen(self.url, self.model(case)), folder)

    def command(self, case: Case, folder: Path, *further: str) -> list[str]:
        """What is typed."""
        reward = case.reward.replace("ROOT", str(self.root))
        settings = (*QUICK, *case.settings, *further)
        if case.reward.startswith("judge:"):
            reward = f"judge:{self.model(case)}"
            address = case.path if "://" in case.path else self.url.removesuffix("/v1") + case.path
            own = (f"evaluation.judge_base_url={address}", 'evaluation.judge_key_variable=""')
            settings = (*QUICK, *JUDGE, *own, *case.settings, *further)
        source = (
            "--policy",
            str(self.root / "policy"),
            "--preferences",
            str(self.root / "p.jsonl"),
        )
        trials = (
            "--losses",
            "dpo",
            "--beta",
            case.betas,
            "--seeds",
            "0",
            "--workers",
            str(case.workers),
        )
        changes = [f"--set={one}" for one in settings]
        return ["sweep", *source, *trials, *changes, "--reward", reward, "--out", str(folder)]

    def _faults(self, case: Case, ran: Ran) -> Iterator[str]:
        if ran.code != case.code:
            yield f"exit {ran.code}, not {case.code}: {_end(ran.text)}"
            return
        missing = [word for word in case.words if word not in ran.text]
        yield from (f"{word!r} is not said: {_end(ran.text)}" for word in missing)
        said = [word for word in (*case.unsaid, "Traceback") if word in ran.text]
        yield from (f"{word!r} is said" for word in said)
        if case.requests not in (None, ran.seen["requests"]):
            yield f"{ran.seen['requests']} requests, not {case.requests}"
        low, high = case.seconds
        if not low <= ran.seconds <= high:
            yield f"{ran.seconds:.1f} seconds, not {low:g} to {high:g}"
        if case.rule or case.number:
            yield self.win_rate_fault(case, ran)

    def win_rate_fault(self, case: Case, ran: Ran) -> str:
        """What is wrong with the win rate, or nothing."""
        right, found = self._right_win_rate(case, ran), float(ran.table["win_rate"][0])
        same = abs(right - found) < 1e-9
        return "" if same else f"win rate {found:.4f}, by plain code {right:.4f}"

    def _right_win_rate(self, case: Case, ran: Ran) -> float:
        """The win rate of the first trial, from its responses alone."""
        ours, theirs = ran.responses(), ran.responses(of_reference=True)
        wins = []
        for row in ours.to_dict("records"):
            rivals = list(theirs[theirs["prompt_id"] == row["prompt_id"]]["response"])
            own = row["response"]
            if case.number:
                wins.append(win_rate([case.number(own)], [case.number(one) for one in rivals]))
            elif case.rule:
                rival = rivals[row["sample"] % len(rivals)]
                verdicts = case.rule(own, rival), case.rule(rival, own)
                wins.append({("A", "B"): 1.0, ("B", "A"): 0.0}.get(verdicts, 0.5))
        return sum(wins) / len(wins)

    def _in_words(self, case: Case, ran: Ran) -> str:
        parts = [f"exit {ran.code}"]
        if ran.seen["requests"]:
            parts.append(f"{ran.seen['requests']} requests")
        if (ran.folder / "results.parquet").is_file():
            known = ran.table["win_rate"].dropna()
            parts += [f"win rate {known.iloc[0]:.3f}"] if len(known) else []
        if max(case.seconds) < 60 or case.seconds[0]:
            parts.append(f"{ran.seconds:.1f} s")
        said = ran.text.partition("dpo-bench: ")[2].replace(str(self.root), "")
        said = re.sub(
            r"0x[0-9a-f]{6,}", "0x...", said.replace(self.url, "http://127.0.0.1:PORT/v1")
        )
        parts += [f"\u201c{said[:220]}\u201d"] if said else []
        return ", ".join(parts)


def _here(command: list[str]) -> tuple[int, str]:
    """Within this process, whose imports it is spared; its workers are processes all the same."""
    from dpo_bench.__main__ import main

    out = io.StringIO()
    code: object = 0
    before = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch.object(sys, "argv", ["dpo-bench", *command]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            signal.signal(signal.SIGTERM, before)
    return int(str(code)), out.getvalue()


def _apart(command: list[str], environment: Mapping[str, str], folder: Path) -> tuple[int, str]:
    """In a process of its own, with variables and a working directory of its own."""
    checkout = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "dpo_bench", *command],
        env={**os.environ, **checkout, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def _end(text: str) -> str:
    return f"\u2026{text[-300:]}"
