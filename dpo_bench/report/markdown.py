"""The report as Markdown, for a repository or a pull request; pictures are the figure files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from dpo_bench.report.samples import few_samples
from dpo_bench.report.templating import new_environment
from dpo_bench.report.view import ReportView
from dpo_bench.wording import markdown_text

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def markdown_templates() -> Environment:
    """Templates of Markdown."""
    return new_environment(
        markdown_text, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )


def render_markdown(view: ReportView, figures: Sequence[str]) -> str:
    """The whole report.

    Args:
        view: its content.
        figures: names of the figure files in ``figures/``.
    """
    shown = view.selections[0] if view.selections else None
    template = markdown_templates().get_template("report.md.j2")
    return template.render(
        view=view,
        setup=view.setup,
        compared=view.compared,
        figures=figures,
        samples=few_samples(view.results, shown) if shown else (),
        shown=shown,
        seeds=len(view.results.seeds),
        prompts_known=view.results.prompts_known,
        settings_file=view.settings_file,
    )
