"""The page: one HTML file that loads nothing.

Jinja escapes every text; the only values that bypass it are this program's own style, script and
plotly, and the JSON block, which `script_json` makes safe. A content security policy names the two
scripts by hash, so that nothing else can run even if something got through.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from dpo_bench.report import charts, theme
from dpo_bench.report.measures import KL, REWARD, Measure, headline
from dpo_bench.report.text import number, one_line, script_json, visible
from dpo_bench.report.view import ReportView

_CONTENTS = (
    ("frontier", "Against KL"),
    ("matched", "At the same KL"),
    ("heat", "Loss by strength"),
    ("results", "Every trial"),
    ("displacement", "Displacement"),
    ("training", "Training"),
    ("samples", "Responses"),
    ("failed", "Failed trials"),
    ("methods", "Methods"),
    ("rerun", "Run it again"),
)


def render_page(
    view: ReportView, inputs: str, figures: Sequence[str], written: Sequence[str]
) -> str:
    """The whole page.

    Args:
        view: its content.
        inputs: digest that it is remembered by.
        figures: names of the figure files beside it.
        written: paths of all files beside it, relative to the folder.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("dpo_bench.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters["one_line"] = one_line
    style = environment.get_template("report.css").render(
        light=Markup(theme.custom_properties(dark=False)),  # noqa: S704 - this program's colours
        dark=Markup(theme.custom_properties(dark=True)),  # noqa: S704
    )
    script, plotly = _template("report.js"), plotly_script()
    data = page_data(view)
    return environment.get_template("report.html").render(
        _context(view, data),
        inputs=inputs,
        figures=figures,
        written=" ".join(written),
        policy=security_policy((plotly, script)),
        css=Markup(style),  # noqa: S704
        data=Markup(script_json(data)),  # noqa: S704 - made safe by script_json
        plotly=Markup(plotly),  # noqa: S704
        script=Markup(script),  # noqa: S704
    )


def page_data(view: ReportView) -> dict[str, Any]:
    """What the page's script works from."""
    results, series = view.results, view.series
    drawn: dict[str, Any] = {}
    for measure in headline(results):
        if measure == REWARD:
            drawn["frontier"] = charts.frontier_chart(results, series)
        else:
            drawn[measure.name] = charts.against_kl_chart(results, series, measure)
    if results.done:
        drawn["displacement"] = charts.displacement_chart(results, series)
    return {
        "charts": drawn,
        "training": charts.training_data(results, series),
        "textColumns": text_columns(view),
    }


def text_columns(view: ReportView) -> int:
    """How many of the results table's first columns say which trial it is."""
    return 4 if len(view.results.seeds) > 1 else 3


def plotly_script() -> str:
    """Plotly, such that no HTML parser can mistake its end."""
    from plotly.offline import get_plotlyjs

    text = str(get_plotlyjs()).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\\0")
    return re.sub(r"<(?=/script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def security_policy(scripts: Sequence[str]) -> str:
    """The content security policy of a page with these inline scripts."""
    hashes = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in scripts]
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline';"
        " img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _template(name: str) -> str:
    return (resources.files("dpo_bench.report") / "templates" / name).read_text(encoding="utf-8")


def _visible(value: Any) -> Any:
    """Texts from data lose what cannot be seen; this program's own markup stays as it is."""
    return visible(value) if type(value) is str else value


def _context(view: ReportView, data: Mapping[str, Any]) -> dict[str, Any]:
    results = view.results
    drawn = data["charts"]
    present = {
        "frontier": bool(drawn.keys() - {"displacement"}),
        "heat": bool(view.heat_maps),
        "displacement": "displacement" in drawn,
        "training": bool(data["training"]["lines"]),
        "samples": view.browser is not None,
    }
    against = [measure for measure in headline(results) if measure != REWARD]
    first = "frontier" if "frontier" in drawn else next((m.name for m in against), "")
    return {
        "name": results.name,
        "findings": view.findings,
        "setup": view.setup,
        "series": view.series,
        "many_seeds": len(results.seeds) > 1,
        "contents": [
            (first if key == "frontier" else key, title)
            for key, title in _CONTENTS
            if present.get(key, True)
        ],
        "no_reward": view.no_reward,
        "charts": drawn,
        "against": against,
        "alternatives": _alternatives(view),
        **_matched_context(view),
        "heat_maps": [_heat_context(one) for one in view.heat_maps],
        "table": view.table,
        "text_columns": data["textColumns"],
        "seeds": view.seeds,
        "every": data["training"]["every"],
        "training": data["training"]["columns"] if data["training"]["lines"] else (),
        "browser": view.browser,
        "default_view": view.browser.views[0][0] if view.browser else "",
        "failed": view.failed,
        "notes": view.notes,
        "command": results.command,
        "provenance": view.provenance,
    }


def _heat_context(heat_map: Any) -> dict[str, Any]:
    decimals = heat_map.measure.decimals
    return {
        "measure": heat_map.measure,
        "rows": heat_map.rows,
        "ranks": heat_map.ranks,
        "low_text": number(heat_map.low, decimals),
        "high_text": number(heat_map.high, decimals),
    }


def _matched_context(view: ReportView) -> dict[str, Any]:
    if isinstance(view.comparison, str) or view.matched is None:
        return {"matched": None, "not_compared": view.comparison}
    ends = (view.comparison.low, view.comparison.high)
    return {
        "matched": view.matched,
        "span": [number(end, KL.decimals) for end in ends],
        "compared_prompts": f"{view.comparison.prompts:,}",
        "reach": number(view.matched.reach, REWARD.decimals),
    }


def _alternatives(view: ReportView) -> dict[str, str]:
    """What a chart shows, in a sentence per series, for those who cannot see it."""
    texts = {
        "training": "Training curves by step, a panel per loss, a line per strength.",
        "displacement": "Chosen and rejected log-ratios against KL, a pair of curves per loss.",
    }
    for measure in headline(view.results):
        key = "frontier" if measure == REWARD else measure.name
        parts = [_described(one, measure) for one in view.series]
        texts[key] = f"{measure.title} against KL. {' '.join(filter(None, parts))}"
    more = " The table of every trial holds the numbers."
    return {key: text + more for key, text in texts.items()}


def _described(series: Any, measure: Measure) -> str:
    pairs = [(setting.mean(KL.name), setting.mean(measure.name)) for setting in series.settings]
    known = [(kl, value) for kl, value in pairs if kl is not None and value is not None]
    if not known:
        return ""
    (first, low), (last, high) = min(known), max(known)
    return (
        f"{series.label}: {number(low, measure.decimals)} at KL {number(first, 2)}"
        f" to {number(high, measure.decimals)} at KL {number(last, 2)}."
    )
