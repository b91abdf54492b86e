"""LaTeX: balanced, escaped, with intervals and groups; compiled where a LaTeX is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dpo_bench.report.figures.draw import draw_paper_figures, figure_names
from dpo_bench.report.figures.frames import figure_table
from dpo_bench.report.latex import latex_templates, latex_text, render_latex
from dpo_bench.report.table_values import Cell, Row, Table
from dpo_bench.report.write import report_sweeps
from tests.report.conftest import ByName, ViewOf
from tests.report.sweep_world import HOSTILE, HOSTILE_LOSS


def bare(text: str) -> str:
    """Without escaped characters."""
    return re.sub(r"\\[\\{}$&#%_]", "", text)


@pytest.mark.parametrize("text", [*HOSTILE, HOSTILE_LOSS, "--''``\\input{/etc/passwd}^^41"])
def test_text_from_data_is_only_text(text: str) -> None:
    found = latex_text(text)
    assert not re.search(r"(?<!\\)[$&#%_^~]", bare(found))
    assert set(re.findall(r"\\([a-zA-Z]+)", bare(found))) <= {
        "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater",
        "textbar", "textquotedbl", "ensuremath", "ldots", "pm", "surd", "infty",
    }  # fmt: skip
    assert bare(found).count("{") == bare(found).count("}")


def test_dashes_are_dashes_and_two_hyphens_are_two() -> None:
    assert latex_text("\u2013") == "--"
    assert latex_text("a--b''") == "a-{}-b'{}'"


def test_a_row_that_begins_with_a_bracket_is_no_argument_of_the_row_before() -> None:
    rows = tuple(Row((Cell(text), Cell("1"))) for text in ("a", "[5cm]", "*b"))
    table = Table((("Loss", ""), ("KL", "")), rows)
    lines = latex_templates().get_template("tabular.tex.j2").render(table=table).splitlines()
    assert lines[4:7] == ["a & 1 \\\\", "{}[5cm] & 1 \\\\", "{}*b & 1 \\\\"]


@pytest.mark.parametrize("variant", ["clean", "hostile", "two_seeds", "no_reward", "all_failed"])
def test_tables_are_booktabs_with_as_many_cells_as_columns(view_of: ViewOf, variant: str) -> None:
    view = view_of(variant)
    files = render_latex(view, figure_names(view))
    for name in (
        *("results.tex", "matched.tex", "differences.tex", "gaps.tex"),
        *("matched-win-rate.tex", "differences-win-rate.tex"),
    ):
        if name not in files:
            continue
        lines = files[name].splitlines()
        columns = re.fullmatch(r"\\begin\{tabular\}\{([lrc]+)\}", lines[0])
        assert columns is not None
        assert [lines[1], lines[3], lines[-2]] == ["\\toprule", "\\midrule", "\\bottomrule"]
        for line in (lines[2], *lines[4:-2]):
            assert line.endswith(" \\\\")
            wide = sum(int(n) - 1 for n in re.findall(r"\\multicolumn\{(\d+)\}", line))
            assert len(re.findall(r"(?<!\\)&", line)) + 1 + wide == len(columns[1])


def test_figures_carry_intervals(view_of: ViewOf) -> None:
    view = view_of("clean")
    files = render_latex(view, ())
    row = view.series[0].done[0].row
    low, high = row["reward_low"], row["reward_high"]
    assert f"{row['reward']:.3f} {{\\scriptsize [{low:.3f}, {high:.3f}]}}" in files["results.tex"]
    assert "failed" in files["results.tex"]


def test_paper_figures_fit_their_column_with_fonts_inside(view_of: ViewOf) -> None:
    widths = {}
    for name, files in draw_paper_figures(view_of("clean")):
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", files["pdf"])
        assert box is not None
        widths[name] = float(box[1]) / 72
        assert b"/FontFile2" in files["pdf"]
        assert b"CreationDate" not in files["pdf"]
        assert files["svg"].startswith(b"<?xml")
    assert widths["frontier"] == pytest.approx(3.35, abs=0.01)
    assert max(widths.values()) <= 7.0


def test_every_figure_has_the_numbers_behind_it(view_of: ViewOf) -> None:
    view = view_of("clean")
    tables = {name: figure_table(view, name) for name in figure_names(view)}
    assert all(len(table) for table in tables.values())
    points = tables["frontier"].query("point == 'trained'")
    rewards = {trial.id: trial.row["reward"] for trial in view.results.done}
    assert dict(zip(points["trial"], points["value"], strict=True)) == rewards
    assert set(tables["frontier"]["series"]) >= {"optimal frontier", "best of n", "reference"}
    assert not isinstance(view.comparison, str)
    pairs = [
        pair
        for matched in view.compared
        for level in matched.comparison.levels
        for pair in level.compared
    ]
    shown = tables["differences"]
    assert list(shown["difference"]) == [pair.difference.value for pair in pairs]
    primary = shown[shown["verdict"] != "descriptive"]
    assert list(primary["policies"]) == [pair.policies for pair in pairs[: len(primary)]]
    assert len(tables["training"]) == sum(len(t.training_log) for t in view.results.trials)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_a_latex_compiles_the_hostile_report(folder_of: ByName, tmp_path: Path) -> None:
    paper = report_sweeps([folder_of("hostile")], tmp_path, "latex")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", paper.name],
        cwd=paper.parent,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert paper.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
