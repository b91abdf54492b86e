"""Templates hold words; a value in them is only ever text, and always there."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from jinja2 import Environment, UndefinedError

from dpo_bench.report.markdown import markdown_templates
from dpo_bench.report.page import page_templates
from dpo_bench.report.templating import Words
from tests.report.sweep_world import HOSTILE

WORDS = [one.name for one in (resources.files("dpo_bench.report") / "templates/words").iterdir()]


@pytest.mark.parametrize("text", [*HOSTILE, "- a\n- b", "## a\n## b", "\0- a"])
def test_no_text_begins_a_sentence_or_a_heading(text: str) -> None:
    """A label that looks like an item stays inside the sentence that names it."""
    (sentence,) = Words("summary").items("above_the_frontier", text)
    assert sentence.endswith("its reward or KL is doubtful.")
    (note, *_) = Words(
        "methods", name=text, has_kl=False, evaluation=None, prompts_known=True, resamples=1,
        seeds=1, measures=[],
    ).notes("all")  # fmt: skip
    assert note[0] == "Figures as they were given"
    assert note[1].endswith("their sampling in common.")


@pytest.mark.parametrize("environment", [page_templates(), markdown_templates()])
def test_what_is_missing_is_an_error(environment: Environment) -> None:
    with pytest.raises(UndefinedError):
        environment.from_string("{{ nothing }}").render()
    with pytest.raises(ValueError, match="not known"):
        environment.from_string("{{ nothing }}").render(nothing=None)


def test_values_are_escaped_once_and_markup_of_macros_is_kept() -> None:
    source = "{% macro strong(x) %}**{{ x }}**{% endmacro %}{{ strong(text) }} {{ [text] | join }}"
    rendered = markdown_templates().from_string(source).render(text="*a* <b>")
    assert rendered == r"**\*a\* &lt;b&gt;** \*a\* &lt;b&gt;"
    source = "{% macro strong(x) %}<b>{{ x }}</b>{% endmacro %}{{ strong(text) }}"
    rendered = page_templates().from_string(source).render(text="<i>\u202e&")
    assert rendered == "<b>&lt;i&gt;\ufffd&amp;</b>"


@pytest.mark.parametrize("name", WORDS)
def test_sentences_hold_no_markup(name: str) -> None:
    """They go into a page, Markdown and LaTeX alike, which escape them as wholes."""
    source = (resources.files("dpo_bench.report") / "templates/words" / name).read_text("utf-8")
    text = re.sub(r"\{#.*?#\}|\{%.*?%\}|\{\{.*?\}\}", "", source, flags=re.DOTALL)
    assert not re.search(r"[<>`*_\\]", text.replace("judge_price_", "").replace("flip_rate", ""))
