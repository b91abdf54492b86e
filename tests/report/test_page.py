"""The page as a document: complete, well-formed, true to the results, nothing foreign in it."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import zlib
from functools import cache

import pytest

from dpo_bench.report.page import packed_plotly, page_script, plotly_script, security_policy
from dpo_bench.wording import one_line
from tests.report.conftest import VARIANTS, PageOf, ViewOf
from tests.report.dom import Element, parse
from tests.report.sweep_world import HOSTILE, HOSTILE_LOSS


@cache
def document(text: str) -> Element:
    """The page without plotly, which is long and not ours."""
    return parse(text.replace(packed_plotly(), "", 1))


def unpacked(text: str, name: str) -> str:
    """What travels deflated in the page under this id."""
    found = re.search(rf'id="{name}-packed">([A-Za-z0-9+/=]*)</script>', text)
    assert found is not None
    return zlib.decompress(base64.b64decode(found[1])).decode()


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


PLOTLY = "99784e3abfb07b142a15e521a439e6d9addceadb3f79553fd24c72774f0649ba"
"""SHA-256 of the bundle as published, see dpo_bench/report/vendor/README.md"""


def test_plotly_travels_once_and_packed_and_as_published(page_of: PageOf) -> None:
    text = page_of("clean")
    assert hashlib.sha256(plotly_script().encode()).hexdigest() == PLOTLY
    assert unpacked(text, "plotly") == plotly_script()
    assert text.count(packed_plotly()) == 1
    assert len(text.encode()) < 1_700_000


def test_the_security_policy_names_exactly_the_page_own_scripts(page_of: PageOf) -> None:
    text = page_of("hostile")
    scripts = re.findall(r"<script>(.*?)</script>", text, flags=re.DOTALL)
    assert scripts == [page_script()]
    (policy,) = [
        one.attributes["content"]
        for one in document(text).all("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == security_policy((unpacked(text, "plotly"), scripts[0]))
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy.split("style-src")[0]
    for one in (unpacked(text, "plotly"), scripts[0]):
        digest = base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


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
    options = {one.attributes["value"] for one in page.by_id("explorer-1-y").all("option")}
    assert "preference_accuracy" in options
    assert not options & {"reward", "win_rate", "frontier_gap"}
    assert "no-reward" not in page_of("clean")


def test_a_sweep_of_failures_draws_nothing(page_of: PageOf) -> None:
    page = document(page_of("all_failed"))
    assert not [one for one in page.walk() if "data-marks" in one.attributes]
    assert "all failed" in page.by_id("summary").text


def test_an_empty_training_table_leaves_the_section_out(page_of: PageOf) -> None:
    assert "chart-training" not in page_of("untrained").split("<script")[0]
    assert "chart-training" in page_of("clean").split("<script")[0]


def test_every_chart_has_a_text_alternative_and_a_caption(page_of: PageOf) -> None:
    page = document(page_of("clean"))
    assert len(page.all("figure")) == 4
    for figure in page.all("figure"):
        assert figure.all("figcaption")[0].text
        (chart,) = [one for one in figure.all("div") if one.attributes["class"][:5] == "chart"]
        assert chart.attributes["role"] in {"img", "group"}
        assert len(chart.attributes["aria-label"]) > 60
    label = page.by_id("chart-explorer-1").attributes["aria-label"]
    assert "dpo: " in label
    assert "ipo: " in label


def test_the_methods_paragraph_names_the_configuration(page_of: PageOf, view_of: ViewOf) -> None:
    text = document(page_of("clean")).by_id("methods-text").text
    for words in (
        "We compared 4 preference losses (dpo, cdpo, hinge and ipo)",
        "1,536 pairs of world:reviews",
        "120 steps of 32 pairs with adamw at a learning rate of 0.001",
        "trained with one seed",
        "1 of 20 trials failed and is reported",
        "256 held-out prompts with 2 responses each",
        "scored by vader",
        "(400 resamples)",
        "matched KL (",
    ):
        assert words in text
    without = document(page_of("no_reward")).by_id("methods-text").text
    assert "scored by" not in without
    assert "matched KL (" not in without


def test_losses_are_grouped_by_family_and_cited(page_of: PageOf) -> None:
    page = document(page_of("clean"))
    lists = page.by_id("losses").all("ul")
    assert [one.attributes["aria-label"] for one in lists] == ["pairwise", "length-aware"]
    assert [len(one.all("button")) for one in lists] == [3, 1]
    (cited,) = page.all("section", aria_labelledby="cite")
    assert "arXiv:2305.18290" in cited.text
    assert "@software{dpo_bench" in cited.text


def test_landmarks_come_once_with_names(page_of: PageOf) -> None:
    page = document(page_of("clean"))
    for tag in ("header", "nav", "main", "footer"):
        assert len(page.all(tag)) == 1
    regions = [one for one in page.walk() if one.attributes.get("role") == "region"]
    assert all(one.attributes.get("aria-label") for one in regions)
    html_element = page.all("html")[0]
    assert html_element.attributes["lang"] == "en"


def test_controls_have_names(page_of: PageOf) -> None:
    page = document(page_of("clean"))
    labeled = {id(control) for label in page.all("label") for control in label.walk()}
    for control in (*page.all("select"), *page.all("input")):
        assert id(control) in labeled
    assert all(button.text for button in page.all("button"))


def test_hostile_text_is_text(page_of: PageOf) -> None:
    text = page_of("hostile").replace(packed_plotly(), "", 1)
    page = parse(text)
    assert (
        page.all("h1")[0].text
        == "quick </script><img src=x onerror=\"window.hacked = 2; alert('x')\">"
    )
    assert HOSTILE_LOSS in {one.text for one in page.all("bdi")}
    assert len(page.all("script")) == 4
    assert "\u202e" not in text
    carried = " ".join(" ".join(unpacked(text, "samples").split()).split("\\n"))
    assert [one for one in HOSTILE[:3] if json.dumps(one)[1:-1] not in carried] == []
    block = next(one for one in page.all("script") if one.attributes.get("id") == "report-data")
    raw = re.search(r'id="report-data">(.*?)</script>', text, flags=re.DOTALL)
    assert raw is not None
    assert not re.search("[<>&]", raw[1])
    data = json.loads("".join(block.own))
    assert data["series"][3]["label"] == one_line(HOSTILE_LOSS)


def test_the_page_is_the_same_every_time(page_of: PageOf, view_of: ViewOf) -> None:
    from dpo_bench.report.figures.draw import figure_names
    from dpo_bench.report.page import render_page

    view = view_of("hostile")
    again = render_page(view, "0" * 64, figure_names(view), ["report.md"])
    assert again == page_of("hostile")
