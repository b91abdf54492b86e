"""AlpacaEval's figures from a part of its public annotations, in both of their forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dpo_bench.errors import DataError
from dpo_bench.reproduce.entries import find_experiment
from dpo_bench.reproduce.raw.alpaca_eval import ANNOTATIONS, LEADERBOARD, read_leaderboard

DATA = Path(__file__).parent / "data" / "alpaca_eval"
ENTRY = find_experiment("alpaca-eval-length-control")


def test_published_stands_beside_reproduced_with_their_differences() -> None:
    outcome = ENTRY.run(data=DATA)
    models = [row for row in outcome.rows if row.series == "length-controlled win rate"]
    assert len(models) == 15
    assert models[0].x == "FuseChat-Gemma-2-9B-Instruct"
    assert models[0].published == pytest.approx(70.18106, abs=1e-4)
    apart = [abs((row.published or 0) - (row.reproduced or 0)) for row in models]
    mean, largest, raw = outcome.rows[15:]
    assert mean.reproduced == pytest.approx(np.mean(apart))
    assert largest.reproduced == pytest.approx(max(apart))
    assert mean.ok is True
    assert raw.reproduced is not None
    assert raw.reproduced < 0.01
    # a regression: what the committed part gave when it was committed
    assert mean.reproduced == pytest.approx(0.361, abs=0.001)
    assert largest.reproduced == pytest.approx(0.950, abs=0.001)


def _write_checkout(folder: Path, models: list[str], instructions: int) -> None:
    """A part of the committed arrays as the repository lays it out, in another order each time."""
    content = np.load(DATA / "annotations.npz")
    random, lines = np.random.default_rng(0), [",win_rate,length_controlled_winrate"]
    for name in models:
        place = list(content["names"]).index(name)
        file = folder / ANNOTATIONS.replace("*", name)
        file.parent.mkdir(parents=True)
        entries = []
        for at in random.permutation(instructions):
            preference = float(content["preference"][place, at])
            longer = int(content["length_difference"][place, at])
            entries.append(
                {
                    "instruction": f"do {at:03d}",
                    "generator_1": "gpt4_1106_preview",
                    "generator_2": name,
                    "output_1": "x" * (9000 - longer),
                    "output_2": "x" * 9000,
                    "preference": None if np.isnan(preference) else 1 + preference,
                }
            )
        file.write_text(json.dumps(entries), encoding="utf-8")
        figures = content["published_wr"][place], content["published_lc"][place]
        lines.append(",".join([name, *("" if np.isnan(one) else f"{one}" for one in figures)]))
    board = folder / LEADERBOARD
    board.parent.mkdir(parents=True)
    board.write_text("\n".join(lines), encoding="utf-8")


def test_a_checkout_gives_what_the_arrays_give(tmp_path: Path) -> None:
    names = ["alpaca-7b", "claude", "phi-2", "vicuna-7b"]
    _write_checkout(tmp_path, names, 60)
    found, arrays = read_leaderboard(tmp_path), read_leaderboard(DATA)
    assert found.names == tuple(names)
    places = [arrays.names.index(name) for name in names]
    np.testing.assert_allclose(found.preference, arrays.preference[places, :60], atol=1e-9)
    np.testing.assert_array_equal(
        np.where(np.isnan(found.preference), 0, found.length_difference),
        np.where(np.isnan(found.preference), 0, arrays.length_difference[places, :60]),
    )
    np.testing.assert_allclose(found.published, arrays.published[places])
    assert ENTRY.run(data=tmp_path).rows[0].x == "claude"


def test_the_baseline_itself_is_not_compared(tmp_path: Path) -> None:
    _write_checkout(tmp_path, ["claude", "gpt4_1106_preview"], 30)
    board = tmp_path / LEADERBOARD
    lines = board.read_text(encoding="utf-8").replace("preview,,", "preview,50,50")
    board.write_text(lines, encoding="utf-8")
    rows = ENTRY.run(data=tmp_path).rows
    assert [row.x for row in rows[:2]] == ["claude", "1 model"]


@pytest.mark.parametrize("what", ["nothing", "no arrays", "another file", "no figures"])
def test_other_folders_are_refused(tmp_path: Path, what: str) -> None:
    if what == "no arrays":
        np.savez(tmp_path / "annotations.npz", names=np.array(["a"]))
    if what == "another file":
        (tmp_path / "annotations.npz").write_text("no arrays", encoding="utf-8")
    if what == "no figures":
        _write_checkout(tmp_path, ["gpt4_1106_preview"], 5)
    message = {"nothing": "neither", "no figures": "no published"}.get(what, "cannot be read")
    with pytest.raises(DataError, match=message):
        ENTRY.run(data=tmp_path)
