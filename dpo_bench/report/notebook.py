"""What a sweep shows of itself in a notebook: what was found, the trials, a picture."""

from __future__ import annotations

from html import escape

from dpo_bench.analysis.metrics import headline
from dpo_bench.report.figures.curves import draw_against_kl, draw_frontier
from dpo_bench.report.figures.draw import drawn
from dpo_bench.report.table_values import results_table
from dpo_bench.report.view import ReportView
from dpo_bench.wording import visible

_ROWS = 40
"""trials that are shown"""


def show(view: ReportView) -> str:
    """HTML: the summary's sentences, warnings, a figure and a table of the trials."""
    parts = [f"<p><strong>{_text(view.results.name)}</strong></p>"]
    parts += [f"<p>{_text(' '.join(view.findings.sentences))}</p>"]
    parts += [f"<p><strong>Check:</strong> {_text(one)}</p>" for one in view.findings.warnings]
    if view.results.has_kl and (shown := headline(view.results)):
        metric = shown[0]
        draw = draw_frontier if metric.name == "reward" else None
        svg = drawn(view, draw or (lambda one: draw_against_kl(one, metric)), ("svg",))[
            "svg"
        ].decode()
        parts.append(svg[svg.index("<svg") :])
    return "\n".join([*parts, _table(view)])


def _table(view: ReportView) -> str:
    table = results_table(view.results, view.series)
    head = "".join(f"<th>{_text(title)}</th>" for title, _ in table.columns)
    rows = [
        "".join(f"<td>{_text(cell.text)}</td>" for cell in row.cells) for row in table.rows[:_ROWS]
    ]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    more = len(table.rows) - _ROWS
    tail = f"<p>and {more} more: see <code>.trials</code></p>" if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{tail}"


def _text(text: str) -> str:
    return escape(visible(text))
