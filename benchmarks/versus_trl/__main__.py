"""The same sweep by this project and by TRL, alternating on one machine.

python -m benchmarks.versus_trl.__main__                # everything, into reports/speed
python -m benchmarks.versus_trl.__main__ --only a,c     # some workloads
python -m benchmarks.versus_trl.__main__ --quick --out speed
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.versus_trl.contenders import CONTENDERS, Run, Start, serve
from benchmarks.versus_trl.fusion import ROUNDS, measure_fusion
from benchmarks.versus_trl.growth import measure_growth
from benchmarks.versus_trl.ladder import measure_ladder
from benchmarks.versus_trl.machine import Bystanders
from benchmarks.versus_trl.report import write_report
from benchmarks.versus_trl.workloads import TRIALS, WORKLOADS, Prepared, available, prepare, quick

SWEEP = "dpo_bench"
"""The contender that takes a process of one thread for each core, as the program's sweep does; the
others run their trials one after another, with all threads."""


@dataclass(slots=True)
class Team:
    """The processes of one contender, and what they have done.

    Attributes:
        name: of the contender.
        pipes: to its processes; a trial runs in one, the trials of a round side by side.
        processes: those.
        preparing: seconds before the first trial, imports left out.
        rounds: wall seconds of each round.
        runs: of each trial.
        base: bytes resident after the imports, a process each.
        peak: most bytes resident, a process each.
    """

    name: str
    pipes: list[Connection] = field(default_factory=list)
    processes: list[Any] = field(default_factory=list)
    preparing: float = 0.0
    rounds: list[float] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    base: list[int] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)

    def spawn(self, prepared: Prepared, processes: int, threads: int, cache: Path) -> None:
        """Start the processes one after another: the first fills the cache for the others."""
        context = multiprocessing.get_context("spawn")
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(theirs, self.name, prepared, threads, cache), daemon=True
            )
            process.start()
            theirs.close()
            start = ours.recv()
            assert isinstance(start, Start)
            self.preparing += start.seconds
            self.base.append(start.memory)
            self.pipes.append(ours)
            self.processes.append(process)

    def round(self, trials: Sequence[tuple[str, float]]) -> None:
        """Do some trials, as many at a time as there are processes."""
        started = time.perf_counter()
        for at in range(0, len(trials), len(self.pipes)):
            busy = list(zip(self.pipes, trials[at:], strict=False))
            for pipe, trial in busy:
                pipe.send(trial)
            self.runs += [pipe.recv() for pipe, _ in busy]
        self.rounds.append(time.perf_counter() - started)

    def dismiss(self) -> None:
        """End the processes and take their peak memory."""
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send(None)
            self.peak.append(pipe.recv())
            process.join()

    def summary(self, tokens: int) -> dict[str, Any]:
        """What is reported; ``tokens`` are those of one trial's pairs, prompts counted once."""
        total = self.preparing + sum(self.rounds)
        return {
            "contender": self.name,
            "processes": len(self.pipes),
            "seconds_preparing": self.preparing,
            "seconds_per_trial": sum(self.rounds) / len(self.runs),
            "seconds_total": total,
            "tokens_per_second": tokens * len(self.runs) / total,
            "peak_bytes": sum(self.peak),
            "peak_bytes_over_imports": sum(self.peak) - sum(self.base),
            "peak_bytes_of_a_process": max(self.peak),
            "peak_bytes_of_a_process_over_imports": max(
                peak - base for peak, base in zip(self.peak, self.base, strict=True)
            ),
            "final_losses": [run.final_loss for run in self.runs],
        }


def compare(prepared: Prepared, cores: int) -> dict[str, Any]:
    """Let the contenders take turns at the sweep's trials."""
    workload = prepared.workload
    pairs = prepared.load_pairs()
    trials = TRIALS[: workload.trials]
    teams, bystanders = [], Bystanders()
    with tempfile.TemporaryDirectory() as folder:
        for name in CONTENDERS:
            team = Team(name)
            processes = cores if name == SWEEP else 1
            team.spawn(prepared, processes, cores // processes, Path(folder) / name)
            teams.append(team)
        for at in range(0, len(trials), cores):
            for team in teams:
                team.round(trials[at : at + cores])
        for team in teams:
            team.dismiss()
    return {
        "workload": workload.key,
        "title": workload.title,
        "pairs": len(pairs),
        "pairs_per_step": workload.pairs_per_step,
        "steps": workload.steps,
        "trials": [f"{loss} beta={beta:g}" for loss, beta in trials],
        "tokens_per_pair": float(pairs.sizes.mean()),
        "share_of_bystanders": bystanders.share(),
        "contenders": [team.summary(int(pairs.sizes.sum())) for team in teams],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="a,b,c,d", help="workloads, separated by commas")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--out", type=Path, default=Path("reports/speed"))
    parser.add_argument("--cores", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(arguments)
    wanted = [WORKLOADS[key] for key in options.only.split(",")]
    chosen = [quick(one) if options.quick else one for one in wanted if available(one)]
    comparisons, ladders, fusions = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for workload in chosen:
            place = Path(folder) / workload.key
            place.mkdir()
            prepared = prepare(workload, place)
            print(f"{workload.key}: {workload.title}", flush=True)
            comparisons.append(compare(prepared, options.cores))
            print(json.dumps(comparisons[-1], indent=1), flush=True)
            if workload.model != "smollm2":
                ladders.append(measure_ladder(prepared, options.cores, quick=options.quick))
                print(json.dumps(ladders[-1], indent=1), flush=True)
                fusions.append(measure_fusion(prepared, rounds=1 if options.quick else ROUNDS))
                print(json.dumps(fusions[-1], indent=1), flush=True)
            # What is measured so far is kept, should the rest be interrupted.
            found = {"comparisons": comparisons, "ladders": ladders, "fusions": fusions}
            write_report(options.out, found, options.cores)
    found["growth"] = measure_growth(quick=options.quick)
    write_report(options.out, found, options.cores)


if __name__ == "__main__":
    main()
