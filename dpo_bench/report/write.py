"""Write a sweep's report into its folder, and only when something has changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path

from dpo_bench.analysis.compare import Choices, Plan
from dpo_bench.analysis.merge import read_sweeps
from dpo_bench.analysis.results import (
    EXPERIMENT,
    RESULTS,
    SUMMARY,
    SweepResults,
    read_sweep,
)
from dpo_bench.errors import ConfigurationError, DamagedError
from dpo_bench.ledger import Ledger, read_twice
from dpo_bench.progress import Progress, quiet
from dpo_bench.report.figures.draw import (
    FORMATS,
    NAMES,
    draw_figures,
    draw_paper_figures,
    figure_names,
)
from dpo_bench.report.figures.frames import figure_table, matched_values
from dpo_bench.report.latex import render_latex
from dpo_bench.report.markdown import render_markdown
from dpo_bench.report.page import render_page
from dpo_bench.report.view import ReportView, build_view
from dpo_bench.storage import (
    digest,
    file_digest,
    read_bytes,
    write_atomic,
    write_csv,
    write_parquet,
)

PAGE, TEXT, FIGURES, PAPER = "report.html", "report.md", "figures", "paper"
MATCHED = "matched.csv"
_TRIAL_FILES = (
    "manifest.json",
    "evaluation.json",
    "training.parquet",
    "samples.parquet",
    "checkpoints.parquet",
    "checkpoint_prompts.parquet",
)
_REFERENCE_FILES = (
    "evaluation.json",
    "samples.parquet",
    "prompts.parquet",
    "frontier.parquet",
    "best_of_n.parquet",
)
_SOURCES = ("dpo_bench.report", "dpo_bench.analysis", "dpo_bench.experiment", "dpo_bench.losses")
"""packages whose code decides what a report says"""
_LIBRARIES = ("jinja2", "matplotlib", "numpy", "pandas", "scipy")
AS_PLANNED = Choices()
_HEAD = 4096
"""the page's own record stands in its first so many bytes"""


def write_report(folder: Path, progress: Progress = quiet, choices: Choices = AS_PLANNED) -> Path:
    """Write ``report.html``, ``report.md``, ``summary.txt`` and ``figures/`` of a sweep's folder.

    Reads only the results table, the experiment and the folders of trials and reference. The same
    inputs give the same bytes; where the report of these inputs is there already, nothing is done.

    Args:
        folder: of a sweep.
        progress: told of the phase "report".
        choices: what is compared instead of what the experiment says.

    Returns:
        the path of ``report.html``.

    Raises:
        ConfigurationError: the folder holds no sweep.
        EnvironmentProblem: one of its files is missing or damaged.
    """
    page, inputs = folder / PAGE, digest([inputs_digest(folder), str(choices)])
    if not _is_current(page, inputs):
        _write_pages(folder, inputs, lambda: _view(read_sweep(folder), choices), progress)
    return page


def report_sweeps(
    folders: Sequence[Path], out: Path | None, kind: str, choices: Choices = AS_PLANNED
) -> Path:
    """What the command ``report`` asks for: page and Markdown, or a paper's files.

    Args:
        folders: of sweeps; several are merged.
        out: where the report goes; None for the one sweep's own folder.
        kind: html, markdown or latex.
        choices: what is compared instead of what the experiment says.

    Returns:
        the file to open first.
    """
    if kind == "latex":
        return write_paper(folders, out or folders[0], choices)
    if out is None:
        page = write_report(folders[0], choices=choices)
    else:
        page = write_comparison(folders, out, choices=choices)
    return page.parent / TEXT if kind == "markdown" else page


def write_results_report(
    results: SweepResults, out: Path, kind: str, choices: Choices = AS_PLANNED
) -> Path:
    """Write the report of results that were read already, a sweep's or another program's.

    Args:
        results: what is reported.
        out: folder of the report.
        kind: html, markdown or latex.
        choices: what is compared instead of what the experiment says.

    Returns:
        the file to open first.

    Raises:
        ConfigurationError: ``out`` is the folder of another sweep.
    """
    if (out / EXPERIMENT).exists() and out.resolve() != results.folder.resolve():
        raise ConfigurationError(f"{out} is a sweep's folder: give another one for the report.")
    if kind == "latex":
        return _write_paper(_view(results, choices), out)
    _write_pages(out, "", lambda: _view(results, choices), quiet)
    return out / (TEXT if kind == "markdown" else PAGE)


def write_comparison(
    folders: Sequence[Path],
    out: Path,
    progress: Progress = quiet,
    choices: Choices = AS_PLANNED,
) -> Path:
    """Write the report of one or several sweeps into a folder of its own.

    Beside what `write_report` writes there are the merged ``results.parquet`` and ``results.csv``
    with a column ``source``, and ``sources.json`` with the record of every sweep.

    Raises:
        ConfigurationError: as `write_report`, or the sweeps cannot be compared, or ``out`` is the
            folder of a sweep.
    """
    if (out / EXPERIMENT).exists() and len(folders) > 1:
        raise ConfigurationError(f"{out} is a sweep's folder: give another one for the comparison.")
    made_from = [*(inputs_digest(folder) for folder in folders), str(choices)]
    page, inputs = out / PAGE, digest(made_from)
    if not _is_current(page, inputs):
        _write_pages(out, inputs, lambda: _view(_merged(folders, out), choices), progress)
    return page


def write_paper(folders: Sequence[Path], out: Path, choices: Choices = AS_PLANNED) -> Path:
    """Write the tables, the methods and the figures for a LaTeX paper into ``out/paper``.

    Returns:
        the path of ``paper/report.tex``, which holds all of them.
    """
    return _write_paper(_view(read_sweeps(folders), choices), out)


def _view(results: SweepResults, choices: Choices) -> ReportView:
    return build_view(results, Plan.of(results).changed(choices))


def _write_paper(view: ReportView, out: Path) -> Path:
    for name, files in draw_paper_figures(view):
        for kind, content in files.items():
            write_atomic(out / PAPER / FIGURES / f"{name}.{kind}", content)
        write_csv(out / PAPER / FIGURES / f"{name}.csv", figure_table(view, name))
    _write_matched(out / PAPER, view)
    for name, text in render_latex(view, figure_names(view)).items():
        write_atomic(out / PAPER / name, _encoded(text))
    return out / PAPER / "report.tex"


def _merged(folders: Sequence[Path], out: Path) -> SweepResults:
    results = read_sweeps(folders)
    write_parquet(out / RESULTS, results.table)
    write_csv(out / "results.csv", results.table)
    records = {folder.name: read_twice(folder / EXPERIMENT) for folder in folders}
    write_atomic(out / "sources.json", _encoded(json.dumps(records, indent=2, sort_keys=True)))
    return results


def _write_pages(
    folder: Path, inputs: str, look: Callable[[], ReportView], progress: Progress
) -> None:
    progress("report", 0, 3)
    view = look()
    names = figure_names(view)
    progress("report", 1, 3)
    with Ledger(folder).writing([PAGE, TEXT, SUMMARY, MATCHED, *_figure_paths(NAMES)]):
        for name, files in draw_figures(view):
            for kind, content in files.items():
                write_atomic(folder / FIGURES / f"{name}.{kind}", content)
            write_csv(folder / FIGURES / f"{name}.csv", figure_table(view, name))
        for path in _figure_paths(set(NAMES) - set(names)):
            (folder / path).unlink(missing_ok=True)  # of an earlier state of this sweep
        write_atomic(folder / TEXT, _encoded(render_markdown(view, names)))
        write_atomic(folder / SUMMARY, _encoded("\n".join(view.findings.sentences) + "\n"))
        progress("report", 2, 3)
        matched = _write_matched(folder, view)
        written = [TEXT, SUMMARY, *([MATCHED] if matched else []), *_figure_paths(names)]
        page = render_page(view, inputs, names, written)
        # Last: it names the inputs and files that a later call need not write again.
        write_atomic(folder / PAGE, _encoded(page))
    progress("report", 3, 3)


def _write_matched(folder: Path, view: ReportView) -> bool:
    """Write what losses reach at matched KL; without any figure, no file of an earlier state."""
    table = matched_values(view)
    if table.empty:
        (folder / MATCHED).unlink(missing_ok=True)
        return False
    write_csv(folder / MATCHED, table)
    return True


def inputs_digest(folder: Path) -> str:
    """SHA-256 over everything that a report depends on: tables, settings, this program's source."""
    files = {
        path.relative_to(folder).as_posix(): file_digest(path) for path in _input_files(folder)
    }
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    return digest({"files": files, "source": _source_digest(), "versions": versions})


def _input_files(folder: Path) -> Iterator[Path]:
    candidates = [folder / EXPERIMENT, folder / RESULTS, folder / "opponents.json"]
    candidates += [folder / "reference" / name for name in _REFERENCE_FILES]
    for trial in sorted((folder / "trials").glob("[!.]*/")):
        candidates += [trial / name for name in _TRIAL_FILES]
    return (path for path in candidates if path.is_file())


def _source_digest() -> str:
    hasher = hashlib.sha256()
    for package in _SOURCES:
        for file in _source_files(resources.files(package)):
            hasher.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return hasher.hexdigest()


def _source_files(folder: Traversable) -> Iterator[Traversable]:
    """All code, templates and scripts below a folder, in an order that is always the same."""
    for one in sorted(folder.iterdir(), key=lambda one: one.name):
        if one.is_dir():
            yield from _source_files(one)
        elif one.name.endswith((".py", ".html", ".j2", ".css", ".js")):
            yield one


def _is_current(page: Path, inputs: str) -> bool:
    """Whether the page was made from these inputs, and it and the files that it names are whole."""
    try:
        head = read_bytes(page)[:_HEAD].decode("utf-8", "replace")
    except (FileNotFoundError, DamagedError):
        return False
    made_from = re.search(r'<meta name="dpo-bench-inputs" content="([0-9a-f]*)">', head)
    written = re.search(r'<meta name="dpo-bench-files" content="([^"]*)">', head)
    if not made_from or not written or made_from[1] != inputs:
        return False
    wanted, ledger = {page.name, *written[1].split()}, Ledger(page.parent)
    try:
        return wanted <= set(ledger.digests()) and not ledger.damaged(wanted)
    except DamagedError:
        return False


def _figure_paths(names: Iterable[str]) -> list[str]:
    return [f"{FIGURES}/{name}.{kind}" for name in sorted(names) for kind in (*FORMATS, "csv")]


def _encoded(text: str) -> bytes:
    """UTF-8; what cannot be encoded (a lone surrogate) becomes a question mark."""
    return text.encode("utf-8", "replace")
