"""The report for a paper: tables for booktabs, the methods paragraph, a document that holds all."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import FRONTIER_GAP, KL, REWARD, WIN_RATE, present
from dpo_bench.report.matched_table import MatchedTables
from dpo_bench.report.sections.methods import appendix
from dpo_bench.report.view import ReportView
from dpo_bench.wording import number, one_line, plain_number

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
    for one in view.compared:
        end = _ending(view, one)
        files |= {f"matched{end}.tex": _matched(one), f"differences{end}.tex": _differences(one)}
    if view.gaps:
        files["gaps.tex"] = _gaps(view)
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


def _measured(found: Estimate, decimals: int) -> str:
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
                row += [_measured(trial.estimate(m.name), m.decimals) for m in measures]
            else:
                row.append(f"\\multicolumn{{{len(measures)}}}{{c}}{{failed}}")
            rows.append(row)
    return _table("l" + "r" * (len(headings) - 1), headings, rows)


def _ending(view: ReportView, matched: MatchedTables) -> str:
    """What the headline's files are called without, those of another measure with."""
    return "" if matched is view.matched else f"-{matched.measure.name.replace('_', '-')}"


def _matched(matched: MatchedTables) -> str:
    """Figures at matched KL; losses that share a letter are not separated there."""
    levels = matched.comparison.levels
    headings = ["Loss", *(f"{latex_text(level)} nats" for level in matched.levels)]
    rows = []
    for series in _best_first(matched):
        row = [latex_text(series.label)]
        for level, marks in zip(levels, matched.letters, strict=True):
            found = level.values.get(series.index)
            if found is None:
                row.append("--")
                continue
            text = _figure(found.value, found.low, found.high, matched.measure.decimals)
            row.append(f"{text}\\textsuperscript{{{marks[series.index]}}}")
        rows.append(row)
    return _table("l" + "r" * len(levels), headings, rows)


def _best_first(matched: MatchedTables) -> list[LossCurve]:
    """By the figure at the middle level; those without one last."""
    values = matched.comparison.middle.values
    lowest = float("-inf")
    return sorted(
        (one for one, _ in matched.values),
        key=lambda one: -(values[one.index].value if one.index in values else lowest),
    )


def _differences(matched: MatchedTables) -> str:
    headings = ["Pair", *(f"{latex_text(level)} nats" for level in matched.levels)]
    rows = []
    for title, cells in matched.shown:
        row = [latex_text(title)]
        for one in cells:
            text = latex_text(f"{one.cell.text} {one.cell.detail}".strip())
            row.append(f"\\textbf{{{text}}}" if one.separated else text)
        rows.append(row)
    return _table("l" + "r" * len(matched.levels), headings, rows)


def _gaps(view: ReportView) -> str:
    """The optimal policy's reward minus each loss's; the first row is the optimum's own."""
    levels = [f"KL {latex_text(number(level.kl, KL.decimals))} nats" for level in view.gaps]
    rows = [
        [
            "(mean reward of the optimum)",
            *(_figure(one.optimum, None, None, REWARD.decimals) for one in view.gaps),
        ]
    ]
    shown = {index for level in view.gaps for index in level.gaps}
    for series in view.series:
        if series.index not in shown:
            continue
        row = [latex_text(series.label)]
        for level in view.gaps:
            found = level.gaps.get(series.index)
            if found is None:
                row.append("--")
            else:
                row.append(_figure(found.value, found.low, found.high, FRONTIER_GAP.decimals))
        rows.append(row)
    return _table("l" + "r" * len(levels), ["Loss", *levels], rows)


def _methods(view: ReportView) -> str:
    parts = appendix(view.results, view.experiment, view.series, view.comparison)
    return "\n\n".join(map(latex_text, parts)) + "\n"


def _document(view: ReportView, files: Sequence[str], figures: Sequence[str]) -> str:
    return "\n".join(_lines(view, files, figures)) + "\n"


def _lines(view: ReportView, files: Sequence[str], figures: Sequence[str]) -> Iterator[str]:
    yield "\\documentclass[10pt]{article}"
    yield "\\usepackage[T1]{fontenc}\n\\usepackage[utf8]{inputenc}\n\\usepackage{textcomp}"
    yield "\\usepackage[margin=2cm]{geometry}\n\\usepackage{booktabs,graphicx}"
    yield f"\\begin{{document}}\n\\section*{{{latex_text(view.results.name)}}}"
    yield "\n\n".join(map(latex_text, view.findings.sentences))
    captions = {"results.tex": "Every trial with 95\\% intervals over prompts."}
    for one in view.compared:
        end, title = _ending(view, one), latex_text(one.measure.title)
        captions[f"matched{end}.tex"] = (
            f"{title} at matched KL with 95\\% intervals. Losses that share a letter are not"
            " separated at that KL."
        )
        captions[f"differences{end}.tex"] = (
            f"Differences in {latex_text(one.measure.phrase)} at matched KL; bold: separated."
        )
    captions["gaps.tex"] = (
        "Gap to the optimal frontier: its mean reward minus each loss's at the same KL, with 95\\%"
        " intervals."
    )
    for file, caption in captions.items():
        if file in files:
            yield f"\\begin{{table}}[p]\\centering\n\\caption{{{caption}}}"
            width = "\\ifdim\\width>\\textwidth\\textwidth\\else\\width\\fi"
            yield f"\\resizebox{{{width}}}{{!}}{{\\input{{{file}}}}}\n\\end{{table}}"
    for name in figures:
        yield "\\begin{figure}[p]\\centering"
        yield f"\\includegraphics{{figures/{name}.pdf}}\\end{{figure}}"
    yield "\\section*{Methods}\n\\input{methods.tex}\n\\end{document}"
