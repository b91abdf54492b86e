"""Curves of losses against the margin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dpo_bench import list_losses
from dpo_bench.catalogue.plot import curves, save_plot, terminal_plot
from dpo_bench.errors import ConfigurationError


def test_curve_is_the_loss_and_its_slope() -> None:
    (curve,) = curves(["dpo"], {"beta": 0.3})
    margin = torch.tensor(curve.margin, dtype=torch.float64)
    assert (curve.margin[0], curve.margin[-1]) == (-20, 20)
    expected = -torch.nn.functional.logsigmoid(0.3 * margin)
    torch.testing.assert_close(torch.tensor(curve.value, dtype=torch.float64), expected)
    slope = torch.tensor(curve.slope, dtype=torch.float64)
    torch.testing.assert_close(slope, -0.3 * torch.sigmoid(-0.3 * margin))
    assert curve.label == "dpo beta=0.3"


@pytest.mark.parametrize("name", [*list_losses(), "js(dpo)", "0.8*dpo + 1.0*sft"])
def test_every_loss_can_be_drawn(name: str) -> None:
    (curve,) = curves([name])
    assert all(map(torch.isfinite, map(torch.tensor, curve.value)))
    assert any(curve.slope)


def test_terminal_plot_shows_both_pictures() -> None:
    text = terminal_plot(curves(["dpo", "hinge"]))
    assert "o dpo beta=0.1  x hinge beta=0.1" in text
    assert text.count("margin 0") == 2
    assert "         3 |" in text  # hinge at -20 nats
    assert max(map(len, text.splitlines())) <= 90


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_plot_is_saved(tmp_path: Path, suffix: str, start: bytes) -> None:
    file = tmp_path / "new" / f"losses.{suffix}"
    save_plot(curves(["dpo"]), file)
    assert file.read_bytes().startswith(start)


def test_unknown_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ends in \.png"):
        save_plot(curves(["dpo"]), tmp_path / "losses.gif")
