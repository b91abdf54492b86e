"""``python -m benchmarks.executor``: sweeps of up to 10,000 trials on 1,000 simulated workers."""

from __future__ import annotations

import argparse
import platform
import textwrap
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.executor.messages import DISPLAYS, shown
from benchmarks.executor.sweeps import Outcome, alone
from benchmarks.executor.workers import Cluster

REPORT = Path(__file__).parents[2] / "reports" / "executor"
LARGEST = 10_000, 1_000
"""Trials and workers."""
PARTS = (8, 4, 2, 1)
"""Of the largest sizes, which the exponents are fitted to."""
FAILURES = 419 / (54 * 24) / (16_384 / 8)
"""Of a machine with eight GPUs, per hour: what interrupted the training of Llama 3 unexpectedly in
54 days on 16,384 GPUs."""
RATES = (0, 1, 10, 100, 1000)
"""Times as many failures."""
SPOKEN = (10, 100, 1000)
"""Workers, of which the cost of a message is measured."""

_OPENING = """# What leading a sweep costs, and what failures cost it

Written by `{command}` in {minutes:.0f} minutes on one core ({machine}, Python {python}). The
process that leads a sweep is the program's own, from the experiment to `results.parquet`: planning,
pool, display, folder (in memory: no disk is measured). **The workers are simulated**, and so is
their time: a worker that has loaded for 2 minutes trains a trial for 30 to 90 minutes, with a
checkpoint every 5, evaluates it for 5, and writes a folder of small files; it tells of its progress
{told} times. Nothing was computed and nothing sent over a network. Of a real worker come up to five
messages a second.

Left out are the report's page, the search for strengths (the trials are a list), and the table of
everyone against everyone, which grows with the square of the trials (there is no reward here; with
one, a sweep leaves it out beyond some 1,400 trials of 256 prompts).
"""

_SIZES = """## The process that leads

CPU seconds, without those of the simulated workers: *planning* to the first worker, *leading* while
they work, *collecting* the table at the end; *ms* of all of it for a trial, and MiB by which the
process grew at most, with what the simulation holds.

| trials | workers | messages | planning | leading | collecting | ms a trial | MiB |
|---:|---:|---:|---:|---:|---:|---:|---:|
"""

_FITTED = """
Fitted to these, seconds grow with trials to the power of {trials:.2f} (1: in proportion) and with
workers to that of {workers:.2f}; the memory of the process with trials to that of {memory:.2f}.
"""

_MESSAGES = """## A message

CPU of one message of progress, microseconds: through the pool (a sweep of as many trials as
workers, {told} messages each, its trials' ends in it), and of the display alone; *drawing* is what
a terminal costs without any message, milliseconds a second. A terminal shows 16 workers.

| workers | pool | {displays} | drawing |
|---:|---:|{lines}---:|
"""

_FAILURES = """## Failures

{trials:,} trials on {workers:,} workers, eight to a machine. When a machine fails its workers are
dead and it is repaired for an hour; their trials are failed rows, and the same command is given
until none is left. The rate of 1 is that of the {interruptions} unexpected interruptions in 54 days
on 16,384 H100 of which Meta reported for the training of Llama 3 405B ([a summary]({source}),
looked up for this page): one failure a machine and {between:,.0f} hours. The others are multiples
of it, not observed anywhere; at 1,000 a machine fails every {often:.1f} hours.

*Lost* is the workers' time for training and evaluation that had to be done again, of all their time
for trials; *replaced* that in which those in the place of dead ones load, likewise; *expected* is
the first worked out: failures a hour times half an interval between checkpoints while a trial
trains, and half the evaluation while it is evaluated. *Hours* are those of the cluster, by command;
*waiting* of all workers' time that in which they had no trial or no machine, mostly at the end of a
command.

| times the rate | deaths at work | lost | expected | replaced | waiting | hours | ms a trial |
|---:|---:|---:|---:|---:|---:|---|---:|
"""

_ONCE = """
In each of these sweeps every trial was asserted to be done, and to have been done once: by what the
workers did, by the table and by the folders.
"""
SOURCE = (
    "https://direct.datacenterdynamics.com/en/news/meta-report-details-hundreds-of-gpu-and-hbm3-"
    "related-interruptions-to-llama-3-training-run"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executor", description=__doc__)
    parser.add_argument("--trials", type=int, default=LARGEST[0], help="at most")
    parser.add_argument("--workers", type=int, default=LARGEST[1], help="at most")
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    begun = time.perf_counter()
    trials, cluster = options.trials, Cluster(options.workers)
    by_trials = [alone(trials // part, cluster) for part in PARTS]
    by_workers = [
        alone(trials, replace(cluster, workers=cluster.workers // part)) for part in PARTS[:-1]
    ]
    failing = [
        alone(trials, replace(cluster, failures=FAILURES * rate)) if rate else by_trials[-1]
        for rate in RATES
    ]
    spoken = [one for one in SPOKEN if one <= cluster.workers]
    parts = [
        sizes_table(by_trials, [*by_workers, by_trials[-1]]),
        messages_table(spoken),
        failures_table(failing),
    ]
    given = "".join(
        f" --{name} {value}"
        for name, value, usual in zip(
            ("trials", "workers"), (trials, cluster.workers), LARGEST, strict=True
        )
        if value != usual
    )
    opening = _OPENING.format(
        command=f"python -m benchmarks.executor{given}",
        minutes=(time.perf_counter() - begun) / 60,
        machine=platform.machine(),
        python=platform.python_version(),
        told=cluster.messages,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    text = wrapped("\n".join([opening, *parts]))
    (options.out / "README.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The power of a size with which a cost grows.

    Args:
        points: size and cost.
    """
    logs = np.log(points)
    return float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0])


def sizes_table(by_trials: Sequence[Outcome], by_workers: Sequence[Outcome]) -> str:
    """Seconds and memory by size, and the powers with which they grow."""
    lines = [
        f"| {one.trials:,} | {one.cluster.workers:,} | {one.messages:,} | {one.planning:.2f} "
        f"| {one.leading:.2f} | {one.collecting:.2f} | {1e3 * one.seconds / one.trials:.2f} "
        f"| {one.memory / 2**20:.0f} |"
        for one in (*by_trials, *by_workers[:-1])
    ]
    fitted = _FITTED.format(
        trials=exponent([(one.trials, one.seconds) for one in by_trials]),
        workers=exponent([(one.cluster.workers, one.seconds) for one in by_workers]),
        memory=exponent([(one.trials, one.memory) for one in by_trials]),
    )
    return _SIZES + "\n".join(lines) + "\n" + fitted


def messages_table(workers: Sequence[int]) -> str:
    """What a message costs, by the number of workers."""
    told = 200
    lines = []
    for count in workers:
        outcome = alone(count, Cluster(count, messages=told))
        found = {name: shown(name, count, 20_000) for name in DISPLAYS}
        cells = [1e6 * outcome.leading / outcome.messages, *(one.message for one in found.values())]
        costs = " | ".join(f"{one:.1f}" for one in cells)
        lines.append(f"| {count:,} | {costs} | {found['a terminal'].drawing:.1f} |")
    head = _MESSAGES.format(told=told, displays=" | ".join(DISPLAYS), lines="---:|" * len(DISPLAYS))
    return head + "\n".join(lines) + "\n"


def failures_table(outcomes: Sequence[Outcome]) -> str:
    """What failures cost, by their rate."""
    lines = []
    for rate, one in zip(RATES, outcomes, strict=True):
        account = one.account
        work = account.useful + account.repeated + account.replaced
        hours = " + ".join(f"{each:.1f}" for each in one.hours)
        lines.append(
            f"| {rate:,} | {account.deaths:,} | {share(account.repeated / work)} "
            f"| {share(expected_loss(one.cluster))} | {share(account.replaced / work)} "
            f"| {share(account.waiting / account.total)} | {hours} "
            f"| {1e3 * one.seconds / one.trials:.2f} |"
        )
    cluster: Any = outcomes[0].cluster
    head = _FAILURES.format(
        trials=outcomes[0].trials,
        workers=cluster.workers,
        interruptions=419,
        source=SOURCE,
        between=1 / FAILURES,
        often=1 / FAILURES / RATES[-1],
    )
    return head + "\n".join(lines) + "\n" + _ONCE


def wrapped(text: str) -> str:
    """Paragraphs in lines of at most 100 columns, where a link allows it; tables as they are."""
    parts = text.split("\n\n")
    fill = partial(textwrap.fill, width=100, break_long_words=False, break_on_hyphens=False)
    return (
        "\n\n".join(part if part.lstrip().startswith(("|", "#")) else fill(part) for part in parts)
        + "\n"
    )


def share(value: float) -> str:
    """A share in per cent, two digits."""
    return f"{float(f'{100 * value:.2g}'):g}%" if value else "0"


def expected_loss(cluster: Cluster) -> float:
    """The share of work that failures cost, to first order in their rate.

    A failure in training costs half an interval between checkpoints; one in the evaluation what has
    been evaluated, half of it on average: the training ends with a checkpoint.
    """
    training = sum(cluster.training) / 2
    whole = training + cluster.evaluation
    cost = (training * cluster.checkpoint + cluster.evaluation**2) / 2 / whole
    return cluster.failures / 3600 * cost


if __name__ == "__main__":
    raise SystemExit(main())
