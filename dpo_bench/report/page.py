"""The page: one HTML file that loads nothing.

Every text is escaped (see `report.templating`); the only values that bypass it are this program's
own style, script and plotly, and the JSON block, which `script_json` makes safe. Plotly and the
responses travel deflated in base64. A content security policy names the two scripts by hash, so
that nothing else can run even if something got through.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from dpo_bench.report import theme
from dpo_bench.report.page_context import page_context
from dpo_bench.report.page_data import page_data
from dpo_bench.report.templating import new_environment
from dpo_bench.report.view import ReportView
from dpo_bench.wording import script_json, visible

if TYPE_CHECKING:
    from jinja2 import Environment

SCRIPTS = (
    "core",
    "theme",
    "plot",
    "parts",
    "losses",
    "explorer",
    "linked",
    "training",
    "table",
    "trial",
    "samples",
    "main",
)
"""parts of the page's script, each using what stands before it"""


@cache
def page_templates() -> Environment:
    """The page's templates: HTML."""
    from markupsafe import escape

    return new_environment(lambda text: escape(visible(text)), trim_blocks=True, lstrip_blocks=True)


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
    from markupsafe import Markup

    environment = page_templates()
    style = environment.get_template("report.css").render(
        light=Markup(theme.custom_properties(dark=False)),  # noqa: S704 - this program's colors
        dark=Markup(theme.custom_properties(dark=True)),  # noqa: S704
    )
    script, data = page_script(), page_data(view)
    return environment.get_template("report.html").render(
        page_context(view, data),
        style=theme.style,
        inputs=inputs,
        figures=figures,
        written=" ".join(written),
        policy=security_policy((plotly_script(), script)),
        css=Markup(style),  # noqa: S704
        data=Markup(script_json(data)),  # noqa: S704 - made safe by script_json
        plotly=Markup(packed_plotly()),  # noqa: S704
        script=Markup(script),  # noqa: S704
    )


@cache
def plotly_script() -> str:
    """Plotly's basic bundle, lines ended as a browser ends them before it digests a script."""
    file = resources.files("dpo_bench.report") / "vendor" / "plotly-basic.min.js"
    return file.read_text(encoding="utf-8").replace("\r\n", "\n").replace("\r", "\n")


@cache
def packed_plotly() -> str:
    """Plotly deflated, in base64: a third of its size, unpacked by the page's script."""
    return base64.b64encode(zlib.compress(plotly_script().encode(), 9)).decode()


def page_script() -> str:
    """The page's own script: its parts in order, in a scope of their own."""
    parts = "\n".join(_template(f"scripts/{name}.js") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


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
