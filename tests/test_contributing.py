"""CONTRIBUTING's example is a loss that loads, keeps the contract and is listed."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from dpo_bench import list_losses, load_plugins
from dpo_bench.testing.check import check_loss
from tests.registry import restored_registry

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def example_loss() -> str:
    """The code of "Add a loss in five minutes"."""
    blocks = re.findall(
        r"^ *```python\n(.*?)^ *```", CONTRIBUTING.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert len(blocks) == 1
    return textwrap.dedent(blocks[0])


@pytest.fixture
def plugins(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "my_losses"
    folder.mkdir()
    (folder / "huber_ipo.py").write_text(example_loss(), encoding="utf-8")
    with restored_registry():
        yield folder


def test_page_begins_with_adding_a_loss() -> None:
    headings = re.findall(r"^## (.*)", CONTRIBUTING.read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Add a loss in five minutes"


def test_example_loads_and_keeps_the_contract(plugins: Path) -> None:
    assert load_plugins(plugins) == ["huber_ipo"]
    assert "huber_ipo" in list_losses()
    check_loss("huber_ipo", expected=12.5)  # 5 nats from the target, on the edge of the parabola


def test_command_that_checks_a_plugin_runs(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (command,) = re.findall(r'python -c "(.*?)"', CONTRIBUTING.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(plugins.parent)
    exec(textwrap.dedent(command.replace("\n   ", "\n")), {})
    assert "huber_ipo" in list_losses()
