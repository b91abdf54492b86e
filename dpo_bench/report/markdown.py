"""The report as Markdown, for a repository or a pull request; pictures are the figure files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from dpo_bench.report.samples import PromptCards, SampleBrowser
from dpo_bench.report.templating import new_environment
from dpo_bench.report.view import ReportView
from dpo_bench.wording import markdown_text

if TYPE_CHECKING:
    from jinja2 import Environment

_SAMPLE_PROMPTS = 3
"""prompts whose responses are printed; the page has more"""


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
    template = markdown_templates().get_template("report.md.j2")
    return template.render(
        view=view,
        setup=view.setup,
        compared=view.compared,
        figures=figures,
        samples=_samples(view.browser),
        seeds=len(view.results.seeds),
        prompts_known=view.results.prompts_known,
        settings_file=view.settings_file,
    )


def _samples(browser: SampleBrowser | None) -> dict[str, Any] | None:
    """A few of the prompts with the default selection of policies."""
    if browser is None:
        return None
    default, title = browser.views[0]
    step = max(len(browser.prompts) // _SAMPLE_PROMPTS, 1)
    prompts = [
        PromptCards(one.place, one.prompt, one.shown(default))
        for one in browser.prompts[::step][:_SAMPLE_PROMPTS]
    ]
    return {"title": title, "prompts": prompts}
