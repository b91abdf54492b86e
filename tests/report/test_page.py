"""The page as a document: complete, well-formed, true to the results, nothing foreign in it."""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import re
from functools import cache

import pytest

from dpo_bench.report.page import page_data, plotly_script, security_policy
from dpo_bench.report.text import one_line
from tests.report.conftest import VARIANTS, PageOf, ViewOf
from tests.report.dom import Element, parse
from tests.report.sweep_world import HOSTILE, HOSTILE_LOSS


@cache
def document(text: str) -> Element:
    """The page without plotly, which is long and not ours."""
    return parse(text.replace(plotly_script(), "", 1))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_page_is_well_formed_with_unique_ids_and_one_main_heading(
    page_of: PageOf, variant: str
) -> None:
    text = page_of(variant)
    page = document(text)
    assert text.startswith("<!doctype html>")
    ids = [one.attributes["id"] for one in page.walk() if "id" in one.attributes]
    assert len(ids) == len(set(ids))
    assert len(page.all("h1")) == 1
    levels = [int(one.tag[1]) for one in page.walk() if re.fullmatch("h[1-6]", one.tag)]
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))


@pytest.mark.parametrize("variant", VARIANTS)
def test_links_within_the_page_have_a_target(page_of: PageOf, variant: str) -> None:
    page = document(page_of(variant))
    ids = {one.attributes.get("id") for one in page.walk()}
    inner = [a.attributes["href"][1:] for a in page.all("a") if a.attributes["href"][0] == "#"]
    assert len(inner) > 5
    assert set(inner) <= ids
    labels = {one.attributes.get("aria-labelledby") for one in page.all("section")}
    assert labels - {None} <= ids


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_is_loaded(page_of: PageOf, variant: str) -> None:
    page = document(page_of(variant))
    for one in page.walk():
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            address = one.attributes.get(name, "")
            assert not re.match(r"(?i)\s*([a-z]+:)?//", address), address
            assert name != "src" or not address
        assert not any(name.startswith("on") for name in one.attributes), one
    assert {one.tag for one in page.walk()} & {"iframe", "object", "embed", "img", "base"} == set()
    assert not any(re.search(r"@import|url\(", style.text) for style in page.all("style"))


def test_plotly_stands_in_the_page_once(page_of: PageOf) -> None:
    assert page_of("clean").count("plotly.js v") == 1
    assert len(page_of("clean").encode()) < 6_000_000


def test_the_security_policy_names_exactly_the_page_own_scripts(page_of: PageOf) -> None:
    text = page_of("hostile")
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert len(scripts) == 2
    (policy,) = [
        one.attributes["content"]
        for one in document(text).all("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == security_policy((scripts[1], scripts[0]))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy.split("style-src")[0]
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts]
    assert all(f"'sha256-{one}'" in policy for one in digests)


def test_the_results_table_holds_the_results(page_of: PageOf, view_of: ViewOf) -> None:
    table = document(page_of("clean")).by_id("results-table")
    rows = {trial.id: trial.row for trial in view_of("clean").results.trials}
    body = table.all("tbody")[0].all("tr")
    assert len(body) == 20
    for row in body:
        values = [cell.attributes["data-value"] for cell in row.children]
        record = rows[row.attributes["id"].removeprefix("trial-")]
        assert values[0] == record["loss"]
        assert float(values[1]) == record["beta"]
        assert values[2] == record["status"]
        for value, name in zip(values[3:6], ("win_rate", "reward", "kl"), strict=True):
            assert value == ("" if record["status"] == "failed" else repr(record[name]))


def test_figures_are_read_with_interval_and_n(page_of: PageOf, view_of: ViewOf) -> None:
    row = document(page_of("clean")).by_id("results-table").all("tbody")[0].all("tr")[0]
    record = view_of("clean").results.trials[0].row
    value, low, high = (record[name] for name in ("win_rate", "win_rate_low", "win_rate_high"))
    assert row.children[3].text == f"{value:.3f}[{low:.3f}, {high:.3f}], n = 256"


def test_failed_trials_stand_with_their_cause(page_of: PageOf) -> None:
    page = document(page_of("hostile"))
    (failure,) = [one for one in page.all("article") if one.attributes["class"] == "failure"]
    assert "the loss is not finite at step 70 (nan)<script>window.hacked = 1" in failure.text
    assert failure.all("pre")[0].text.startswith("Traceback (most recent call last)")
    assert len(document(page_of("all_failed")).all("article", class_="failure")) == 20
    single = document(page_of("single"))
    assert not single.all("article", class_="failure")
    assert "No trial failed." in single.text


def test_the_header_says_what_was_done(page_of: PageOf) -> None:
    text = document(page_of("clean")).all("header")[0].text
    for words in (
        "Varied",
        "Tuned",
        "Fixed",
        "dpo, cdpo, hinge and ipo",
        "learning rate 0.001",
        "variance between seeds is unknown",
    ):
        assert words in text


def test_versions_hashes_and_command(page_of: PageOf) -> None:
    text = document(page_of("clean")).text
    for words in (
        "2.13.0+cpu",
        "a1" * 32,
        "c4" * 32,
        "python -m dpo_bench sweep",
        "Linux, 2 CPU cores",
    ):
        assert words in text


def test_without_reward_the_page_says_so_and_shows_none(page_of: PageOf) -> None:
    page = document(page_of("no_reward"))
    assert "evaluation.reward = none" in page.by_id("no-reward").text
    charts = {one.attributes["data-chart"] for one in page.walk() if "data-chart" in one.attributes}
    assert charts == {"preference_accuracy", "displacement"}
    assert "no-reward" not in page_of("clean")


def test_a_sweep_of_failures_draws_nothing(page_of: PageOf) -> None:
    page = document(page_of("all_failed"))
    assert not [one for one in page.walk() if "data-chart" in one.attributes]
    assert "all failed" in page.by_id("summary").text


def test_an_empty_training_table_leaves_the_section_out(page_of: PageOf) -> None:
    assert "chart-training" not in page_of("untrained").split("<script")[0]
    assert "chart-training" in page_of("clean").split("<script")[0]


def test_every_chart_has_a_text_alternative_and_a_caption(page_of: PageOf) -> None:
    page = document(page_of("clean"))
    for figure in page.all("figure"):
        assert figure.all("figcaption")[0].text
        (chart,) = [one for one in figure.all("div") if one.attributes.get("role") == "img"]
        assert len(chart.attributes["aria-label"]) > 60
    label = page.by_id("chart-frontier").attributes["aria-label"]
    assert "dpo: " in label
    assert "ipo: " in label


def test_controls_have_names(page_of: PageOf) -> None:
    page = document(page_of("clean"))
    labelled = {id(control) for label in page.all("label") for control in label.walk()}
    for control in (*page.all("select"), *page.all("input")):
        assert id(control) in labelled
    assert all(button.text for button in page.all("button"))


def test_hostile_text_is_text(page_of: PageOf) -> None:
    text = page_of("hostile").replace(plotly_script(), "", 1)
    page = parse(text)
    assert (
        page.all("h1")[0].text
        == "quick </script><img src=x onerror=\"window.hacked = 2; alert('x')\">"
    )
    assert HOSTILE_LOSS in {one.text for one in page.all("bdi")}
    assert len(page.all("script")) == 3
    assert "\u202e" not in text
    shown = page.by_id("samples-shown").text
    assert [one for one in HOSTILE if one_line(one) not in shown] == []
    block = next(one for one in page.all("script") if one.attributes.get("id") == "report-data")
    raw = re.search(r'id="report-data">(.*?)</script>', text, flags=re.DOTALL)
    assert raw is not None
    assert not re.search("[<>&]", raw[1])
    data = json.loads("".join(block.own))
    assert html.unescape(data["training"]["panels"]["3"]).startswith("<b onclick=alert(8)>")


def test_the_page_is_the_same_every_time(page_of: PageOf, view_of: ViewOf) -> None:
    from dpo_bench.report.figures import figure_names
    from dpo_bench.report.page import render_page

    view = view_of("hostile")
    again = render_page(view, "0" * 64, figure_names(view), ["report.md"])
    assert again == page_of("hostile")


def test_chart_data_is_compact_and_finite(view_of: ViewOf) -> None:
    encoded = json.dumps(page_data(view_of("clean")), allow_nan=False)
    assert len(encoded) < 150_000
