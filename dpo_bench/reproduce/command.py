"""What `reproduce` does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpo_bench.errors import ConfigurationError
from dpo_bench.reproduce.entries import exact_experiments, experiments, find_experiment
from dpo_bench.reproduce.record import Reproducible
from dpo_bench.reproduce.show import as_json, print_listing, print_outcome

if TYPE_CHECKING:
    from rich.console import Console

    from dpo_bench.reproduce.files import Finished


@dataclass(frozen=True, slots=True)
class ReproduceRequest:
    """What was typed.

    Attributes:
        name: of one experiment; None for the list, or for all exact ones.
        exact: all exact ones.
        as_json: rows for programs.
        out: folder of the report; None for none.
        runs: finished sweep folders that fill a paper's table.
        command: the command line, for the report.
        data: the authors' own file, or a folder that holds it.
    """

    name: str | None
    exact: bool
    as_json: bool
    out: Path | None
    runs: tuple[Path, ...]
    command: str
    data: Path | None = None


def reproduce(wanted: ReproduceRequest, console: Console) -> bool:
    """List, or run and print; False when a verdict fails.

    Raises:
        ConfigurationError: no such experiment, or options that exclude each other.
    """
    if wanted.exact and wanted.name:
        raise ConfigurationError("--exact runs all exact experiments: give it no name.")
    if not wanted.exact and wanted.name is None:
        if wanted.out or wanted.runs or wanted.data:
            raise ConfigurationError("--out, --runs and --data need a name, or --exact.")
        _list(wanted, console)
        return True
    chosen: Sequence[Reproducible] = exact_experiments()
    if wanted.name is not None:
        chosen = (find_experiment(wanted.name),)
    finished = _run(chosen, wanted, console)
    if wanted.as_json:
        rows = as_json(one.outcome for one in finished)
        print(json.dumps(rows, indent=2, allow_nan=False))
    if wanted.out:
        from dpo_bench.reproduce.files import write_report

        report = write_report(wanted.out, finished, wanted.command)
        if not wanted.as_json:
            console.print(str(report), markup=False, soft_wrap=True)
    return not any(one.outcome.failed for one in finished)


def _list(wanted: ReproduceRequest, console: Console) -> None:
    if wanted.as_json:
        print(json.dumps([_card(one) for one in experiments()], indent=2))
    else:
        print_listing(console, experiments())


def _card(one: Reproducible) -> dict[str, str]:
    return {key: getattr(one, key) for key in ("name", "title", "source", "cost", "kind")}


def _run(
    chosen: Iterable[Reproducible], wanted: ReproduceRequest, console: Console
) -> list[Finished]:
    from dpo_bench.reproduce.files import Finished

    finished = []
    for experiment in chosen:
        start = time.perf_counter()
        outcome = experiment.run(wanted.runs, wanted.data)
        finished.append(Finished(experiment, outcome, time.perf_counter() - start))
        if not wanted.as_json:
            print_outcome(console, experiment, outcome)
    return finished
