"""The Markdown report: the page's content as text that any renderer shows as it stands."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from dpo_bench.report.figures.draw import NAMES, figure_names
from dpo_bench.report.markdown import render_markdown
from dpo_bench.wording import interval, markdown_text, number
from tests.report.conftest import VARIANTS, ViewOf

RENDERER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def markdown(view_of: ViewOf, variant: str) -> str:
    return render_markdown(view_of(variant), figure_names(view_of(variant)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_rendered_markdown_has_only_its_own_elements(view_of: ViewOf, variant: str) -> None:
    rendered = RENDERER.render(markdown(view_of, variant))
    own = "h1|h2|h3|p|strong|ul|li|table|thead|tbody|tr|th|td|img|pre|code|blockquote"
    foreign = [tag for tag in re.findall(r"</?([a-z0-9]+)", rendered) if not re.fullmatch(own, tag)]
    assert foreign == []
    sources = re.findall(r'<img src="([^"]*)"', rendered)
    assert sources == [f"figures/{name}.svg" for name in shown_figures(view_of, variant)]
    assert rendered.count("<h1>") == 1


def shown_figures(view_of: ViewOf, variant: str) -> list[str]:
    present = figure_names(view_of(variant))
    return [name for name in NAMES if name in present]


@pytest.mark.parametrize("variant", ["clean", "hostile", "two_seeds"])
def test_every_row_of_a_table_has_all_cells(view_of: ViewOf, variant: str) -> None:
    rendered = RENDERER.render(markdown(view_of, variant))
    tables = re.findall(r"<table>(.*?)</table>", rendered, flags=re.DOTALL)
    assert len(tables) >= 4
    for table in tables:
        rows = re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)
        widths = {len(re.findall("<t[hd]", row)) for row in rows}
        assert len(widths) == 1
        empty = [row for row in rows[1:] if not re.search("<td[^>]*>[^<]", row)]
        assert empty == []


def test_every_trial_stands_in_the_table_with_its_win_rate(view_of: ViewOf) -> None:
    text = markdown(view_of, "clean")
    for trial in view_of("clean").results.done:
        row = trial.row
        brackets = interval(row["win_rate_low"], row["win_rate_high"])
        figure = f"{number(row['win_rate'])} {markdown_text(brackets)}, n = 256"
        assert f"| {row['loss']} | {row['beta']:g} | done | {figure} |" in text


def test_failures_and_setup_and_command(view_of: ViewOf) -> None:
    text = markdown(view_of, "clean")
    for words in (
        "the loss is not finite at step 70",
        "Traceback (most recent call last)",
        "**Varied**",
        "**Tuned**",
        "**Fixed**",
        "python -m dpo_bench sweep",
        "open (one seed); these policies",
        "variance between seeds is unknown",
    ):
        assert words in text


def test_without_reward_it_says_so(view_of: ViewOf) -> None:
    text = markdown(view_of, "no_reward")
    assert "> This experiment has no reward" in text
    assert "win_rate" not in text


def test_hostile_text_makes_no_link_or_mention(view_of: ViewOf) -> None:
    text = re.sub(r"(`{3,})text\n.*?\n\1(?=\n)", "", markdown(view_of, "hostile"), flags=re.DOTALL)
    assert not re.search(r"://|www\.|[^\w]@|<[a-z!/]", text)
