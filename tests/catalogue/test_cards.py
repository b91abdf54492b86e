"""What people and programs read of the registry."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from dpo_bench import get_loss, list_losses, load_plugins
from dpo_bench.catalogue.cards import (
    FAMILIES,
    catalogue,
    markdown_table,
    matching,
    render_card,
    render_table,
    shipped_losses,
)
from dpo_bench.errors import ConfigurationError
from tests.registry import restored_registry

PLUGIN = '''
from dpo_bench import register

@register("mine", aliases=("my_own",), paper="a [bold]note[/bold], 2026", normalization="sum",
          family="home-made", grid=(0.5, 1, 2))
def mine(logps, beta: float = 1.0):
    """Straight | line: -beta [red]margin[/red].

    >>> 1 + 1
    2
    """
    return -beta * logps.margin
'''


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with restored_registry():
        yield


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(PLUGIN, encoding="utf-8")
    return load_plugins(tmp_path)[0]


def printed(renderable: RenderableType, width: int = 100) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(renderable)
    return stream.getvalue()


def test_there_is_a_card_for_every_loss() -> None:
    assert sorted(card["name"] for card in catalogue()) == list_losses()


def test_cards_survive_json() -> None:
    assert json.loads(json.dumps(catalogue(), allow_nan=False)) == catalogue()


def test_card_tells_what_the_registry_knows(plugin: str) -> None:
    (card,) = catalogue([plugin])
    file = card.pop("file")
    assert Path(file).name == "mine.py"
    assert card == {
        "name": "mine",
        "aliases": ["my_own"],
        "family": "home-made",
        "paper": "a [bold]note[/bold], 2026",
        "normalization": "sum",
        "needs_reference": True,
        "needs": [],
        "batch_coupled": False,
        "strength": "beta",
        "hyperparameters": {"beta": {"default": 1.0, "range": "(0, inf)"}},
        "grid": [0.5, 1.0, 2.0],
        "kl_by": ["beta"],
        "summary": "Straight | line: -beta [red]margin[/red].",
        "documentation": "Straight | line: -beta [red]margin[/red].",
    }


def test_families_come_in_their_order_and_strange_ones_last(plugin: str) -> None:
    families = list(dict.fromkeys(card["family"] for card in catalogue()))
    assert families == [*(family for family in FAMILIES if family in families), "home-made"]


def test_every_shipped_family_is_explained() -> None:
    assert {get_loss(name).family for name in shipped_losses()} <= set(FAMILIES)


def test_table_shows_every_loss_and_alias_in_80_columns() -> None:
    text = printed(render_table(), width=80)
    for card in catalogue():
        for name in (card["name"], *card["aliases"]):
            assert f" {name} " in text


@pytest.mark.parametrize("text", ["LABEL_SMOOTHED", "cdpo", "noisy preferences"])
def test_filter_finds_names_aliases_and_papers_in_any_case(text: str) -> None:
    assert [card["name"] for card in matching(text)] == ["cdpo"]


def test_filter_narrows_the_table() -> None:
    text = printed(render_table("ipo"))
    assert "ipo_sum" in text
    assert "hinge" not in text


def test_filter_without_a_match_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="no loss mentions 'nonsense'"):
        render_table("nonsense")


def test_card_explains_a_loss_under_its_alias() -> None:
    text = printed(render_card("label_smoothed"))
    for part in (
        "cdpo",
        "label_smoothing = 0.1 in [0, 0.5)",
        "Watch:",
        "0.03 0.1 0.3 1 3",
        "Mitchell",
    ):
        assert part in text
    assert ">>>" not in text


def test_unknown_card_suggests_a_name() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'hinge'"):
        render_card("hing")


def test_brackets_are_text_and_not_markup(plugin: str) -> None:
    assert "[red]margin[/red]" in printed(render_card(plugin))
    assert "[red]margin[/red]" in printed(render_table("mine"))
    assert "a [bold]note[/bold]" in printed(render_card(plugin))


def test_markdown_has_a_row_per_shipped_loss_and_no_plugin(plugin: str) -> None:
    rows = [line for line in markdown_table().splitlines() if line.startswith("| `")]
    assert sorted(row.split("`")[1] for row in rows) == shipped_losses()
    assert plugin not in shipped_losses()


def test_markdown_rows_have_as_many_cells_as_their_head() -> None:
    for line in markdown_table().splitlines():
        if line.startswith("|"):
            assert line.replace(r"\|", "").count("|") == 7
