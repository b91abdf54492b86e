"""What travels in the page: every prompt and policy, or fewer by a rule blind to content."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any

import pytest

from dpo_bench.report import page_samples
from dpo_bench.report.page_samples import EmbeddedSamples, embedded_samples
from tests.report.conftest import ViewOf
from tests.report.sweep_world import HOSTILE


def carried(view_of: ViewOf, name: str, **options: Any) -> tuple[EmbeddedSamples, dict[str, Any]]:
    view = view_of(name)
    found = embedded_samples(view.results, view.series, **options)
    assert found is not None
    return found, json.loads(zlib.decompress(base64.b64decode(found.encoded)))


def test_all_prompts_and_each_policy_first_response_with_its_figures(view_of: ViewOf) -> None:
    found, content = carried(view_of, "clean")
    view = view_of("clean")
    assert (found.prompts, found.total, found.responses) == (256, 256, 19 * 256)
    assert content["prompts"] == list(view.results.reference.prompts["prompt"])
    trial = view.series[0].done[0]
    own = content["policies"][0]
    row = trial.samples.query("prompt_id == 'p0003' and sample == 0").iloc[0]
    assert own["responses"][3] == row["response"]
    assert own["reward"][3] == pytest.approx(row["reward"], rel=2e-3)
    assert own["finished"][3] is bool(row["finished"])


def test_fewer_prompts_evenly_spaced_where_they_do_not_fit(
    view_of: ViewOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_samples, "LIMIT", 40_000)
    found, content = carried(view_of, "clean")
    assert len(found.encoded) <= 40_000
    assert 1 < found.prompts < 256
    step = 256 / found.prompts
    assert content["places"] == [int(index * step) + 1 for index in range(found.prompts)]


def test_long_texts_are_cut_and_the_page_says_so(view_of: ViewOf) -> None:
    found, content = carried(view_of, "hostile", ladder=((4, 50),))
    assert found.cut
    assert max(len(text) for one in content["policies"] for text in one["responses"]) == 50


def test_there_is_always_one_prompt(view_of: ViewOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_samples, "LIMIT", 1)
    assert carried(view_of, "clean")[0].prompts == 1


def test_hostile_texts_travel_whole_and_visible(view_of: ViewOf) -> None:
    _, content = carried(view_of, "hostile")
    texts = {text for one in content["policies"] for text in one["responses"]}
    assert {HOSTILE[0], HOSTILE[1], HOSTILE[7]} <= texts
    assert not any("\u202e" in text for text in texts)


def test_a_sweep_of_failures_carries_nothing(view_of: ViewOf) -> None:
    view = view_of("all_failed")
    assert embedded_samples(view.results, view.series) is None
