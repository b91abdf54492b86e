"""The report for a paper: tables for booktabs, the methods paragraph, a document that holds all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from dpo_bench.report.matched_table import MatchedTables
from dpo_bench.report.sections.gaps import gaps_table
from dpo_bench.report.sections.methods import appendix
from dpo_bench.report.table_values import Table, brief_results_table
from dpo_bench.report.templating import new_environment
from dpo_bench.report.view import ReportView
from dpo_bench.wording import one_line

if TYPE_CHECKING:
    from jinja2 import Environment

_BREAK = "\0"
"""Keeps two characters apart; `one_line` lets none through."""
_SPECIAL = {
    _BREAK: "{}",
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "\u2212": r"\ensuremath{-}", "\u2013": "--", "\u00b1": r"\ensuremath{\pm}",
    "\u221a": r"\ensuremath{\surd}", "\u2026": r"\ldots{}", "\u221e": r"\ensuremath{\infty}",
}  # fmt: skip


def latex_text(text: str) -> str:
    r"""Text that LaTeX sets as it stands; what pdfLaTeX cannot set becomes a question mark.

    >>> latex_text("a_b & 50% \\input{x}")
    'a\\_b \\& 50\\% \\textbackslash{}input\\{x\\}'
    """
    # Two of these would be set as one.
    apart = re.sub(r"([-'`])(?=\1)", rf"\1{_BREAK}", one_line(text))
    return "".join(map(_character, apart))


def _character(one: str) -> str:
    if one in _SPECIAL:
        return _SPECIAL[one]
    return one if " " <= one <= "\u00ff" and one != "\x7f" else "?"


@cache
def latex_templates() -> Environment:
    """Templates of LaTeX, whose own braces and percent signs mean nothing to them."""
    return new_environment(
        latex_text,
        block_start_string="<%", block_end_string="%>",
        variable_start_string="<<", variable_end_string=">>",
        comment_start_string="<#", comment_end_string="#>",
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def render_latex(view: ReportView, figures: Sequence[str]) -> dict[str, str]:
    """The files of the paper's folder, by name.

    Args:
        view: the report's content.
        figures: names of the figures beside them, as PDF.
    """
    tables: dict[str, Table] = {"results.tex": brief_results_table(view.results, view.series)}
    for one in view.compared:
        end = _ending(view, one)
        tables |= {f"matched{end}.tex": one.best_first, f"differences{end}.tex": one.differences}
    if view.gaps:
        tables["gaps.tex"] = gaps_table(view.series, view.gaps, with_optimum=True)
    tabular = latex_templates().get_template("tabular.tex.j2")
    paragraphs = appendix(view.results, view.experiment, view.series, view.comparison)
    document = (
        latex_templates()
        .get_template("report.tex.j2")
        .render(
            view=view,
            files=list(tables),
            figures=figures,
            endings=[_ending(view, one) for one in view.compared],
        )
    )
    return {
        **{name: tabular.render(table=table) for name, table in tables.items()},
        "methods.tex": "\n\n".join(map(latex_text, paragraphs)) + "\n",
        "report.tex": document,
    }


def _ending(view: ReportView, matched: MatchedTables) -> str:
    """What the headline's files are called without, those of another measure with."""
    return "" if matched is view.matched else f"-{matched.measure.name.replace('_', '-')}"
