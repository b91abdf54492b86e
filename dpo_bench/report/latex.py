"""The report for a paper: tables for booktabs, the methods paragraph, a document that holds all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from dpo_bench.report.appendix import appendix
from dpo_bench.report.measured import Measured
from dpo_bench.report.measures import FRONTIER_GAP, KL, REWARD, WIN_RATE, present
from dpo_bench.report.series import Series
from dpo_bench.report.text import number, one_line, plain_number
from dpo_bench.report.view import ReportView

_SPECIAL = {
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
    joined = "".join(map(_character, one_line(text)))
    return re.sub(r"([-'`])(?=\1)", r"\1{}", joined)  # two would be set as one


def _character(one: str) -> str:
    if one in _SPECIAL:
        return _SPECIAL[one]
    return one if " " <= one <= "\u00ff" and one != "\x7f" else "?"


def render_latex(view: ReportView, figures: Sequence[str]) -> dict[str, str]:
    """The files of the paper's folder, by name.

    Args:
        view: the report's content.
        figures: names of the figures beside them, as PDF.
    """
    files = {"results.tex": _results(view), "methods.tex": _methods(view)}
    if view.matched is not None:
        files |= {"matched.tex": _matched(view), "differences.tex": _differences(view)}
    return {**files, "report.tex": _document(view, list(files), figures)}


def _table(columns: str, headings: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", f"{' & '.join(headings)} \\\\"]
    lines.append("\\midrule")
    lines += [f"{' & '.join(row)} \\\\" for row in rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def _figure(value: float | None, low: float | None, high: float | None, decimals: int) -> str:
    """A number with its interval behind it in small type."""
    if value is None:
        return "--"
    shown = latex_text(number(value, decimals))
    if low is None or high is None:
        return shown
    ends = ", ".join(latex_text(number(end, decimals)) for end in (low, high))
    return f"{shown} {{\\scriptsize [{ends}]}}"


def _measured(found: Measured, decimals: int) -> str:
    return _figure(found.value, found.low, found.high, decimals)


def _results(view: ReportView) -> str:
    results = view.results
    measures = present(results, (REWARD, WIN_RATE, KL, FRONTIER_GAP))
    many = len(results.seeds) > 1
    headings = ["Loss", "Strength", *(["Seed"] if many else [])]
    headings += [latex_text(one.axis) for one in measures]
    rows = []
    for one in view.series:
        for trial in one.trials:
            strength = "--" if trial.strength is None else latex_text(plain_number(trial.strength))
            row = [latex_text(one.label), strength, *([str(trial.seed)] if many else [])]
            if trial.done:
                row += [_measured(trial.measured(m.name), m.decimals) for m in measures]
            else:
                row.append(f"\\multicolumn{{{len(measures)}}}{{c}}{{failed}}")
            rows.append(row)
    return _table("l" + "r" * (len(headings) - 1), headings, rows)


def _matched(view: ReportView) -> str:
    """Rewards at matched KL; losses that share a letter are not separated there."""
    comparison = view.comparison
    if isinstance(comparison, str) or view.matched is None:
        return ""
    headings = ["Loss", *(f"{latex_text(level)} nats" for level in view.matched.levels)]
    rows = []
    for series, _ in _best_first(view):
        row = [latex_text(series.label)]
        for level, marks in zip(comparison.levels, view.matched.letters, strict=True):
            found = level.rewards.get(series.index)
            if found is None:
                row.append("--")
                continue
            text = _figure(found.value, found.low, found.high, REWARD.decimals)
            row.append(f"{text}\\textsuperscript{{{marks[series.index]}}}")
        rows.append(row)
    return _table("l" + "r" * len(comparison.levels), headings, rows)


def _best_first(view: ReportView) -> list[tuple[Series, float]]:
    if isinstance(view.comparison, str) or view.matched is None:
        return []
    rewards = view.comparison.middle.rewards
    known = [
        (one, rewards[one.index].value if one.index in rewards else float("-inf"))
        for one, _ in view.matched.rewards
    ]
    return sorted(known, key=lambda pair: -pair[1])


def _differences(view: ReportView) -> str:
    if isinstance(view.comparison, str) or view.matched is None:
        return ""
    headings = ["Pair", *(f"{latex_text(level)} nats" for level in view.matched.levels)]
    rows = []
    for title, cells in view.matched.shown:
        row = [latex_text(title)]
        for one in cells:
            text = latex_text(f"{one.cell.text} {one.cell.detail}".strip())
            row.append(f"\\textbf{{{text}}}" if one.separated else text)
        rows.append(row)
    return _table("l" + "r" * len(view.matched.levels), headings, rows)


def _methods(view: ReportView) -> str:
    parts = appendix(view.results, view.series, view.comparison)
    return "\n\n".join(map(latex_text, parts)) + "\n"


def _document(view: ReportView, files: Sequence[str], figures: Sequence[str]) -> str:
    return "\n".join(_lines(view, files, figures)) + "\n"


def _lines(view: ReportView, files: Sequence[str], figures: Sequence[str]) -> Iterator[str]:
    yield "\\documentclass[10pt]{article}"
    yield "\\usepackage[T1]{fontenc}\n\\usepackage[utf8]{inputenc}\n\\usepackage{textcomp}"
    yield "\\usepackage[margin=2cm]{geometry}\n\\usepackage{booktabs,graphicx}"
    yield f"\\begin{{document}}\n\\section*{{{latex_text(view.results.name)}}}"
    yield "\n\n".join(map(latex_text, view.findings.sentences))
    captions = {
        "results.tex": "Every trial with 95\\% intervals over prompts.",
        "matched.tex": (
            "Mean reward at matched KL with 95\\% intervals. Losses that share a letter are not"
            " separated at that KL."
        ),
        "differences.tex": "Differences in mean reward at matched KL; bold: separated.",
    }
    for file, caption in captions.items():
        if file in files:
            yield f"\\begin{{table}}[p]\\centering\n\\caption{{{caption}}}"
            width = "\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi"
            yield f"\\resizebox{{{width}}}{{!}}{{\\input{{{file}}}}}\n\\end{{table}}"
    for name in figures:
        yield "\\begin{figure}[p]\\centering"
        yield f"\\includegraphics{{figures/{name}.pdf}}\\end{{figure}}"
    yield "\\section*{Methods}\n\\input{methods.tex}\n\\end{document}"
