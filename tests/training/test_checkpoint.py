"""Checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dpo_bench.errors import StorageError
from dpo_bench.model.ranks import ALONE
from dpo_bench.training.checkpoint import Checkpoint, load_tensors, save_tensors


def tensors(fill: float = 0.0) -> dict[str, Tensor]:
    """Of several shapes and dtypes, a single number, an empty one and a slice of another."""
    whole = torch.arange(12.0, dtype=torch.float64).reshape(3, 4) + fill
    return {
        "model.a.weight": torch.full((2, 3), 1.5) + fill,
        "model.half": torch.full((5,), 0.1, dtype=torch.bfloat16) + fill,
        "optimizer.0.step": torch.tensor(7.0) + fill,
        "needs.count": torch.tensor(3) + int(fill),
        "empty": torch.zeros(0, 4),
        "slice": whole[:, 1:3],
    }


def save(folder: Path, step: int = 7) -> None:
    state = tensors()
    Checkpoint(step, 1.5, 0.25, torch.tensor([[1.0, torch.nan]])).save(
        folder, lambda new: save_tensors(new, state, ALONE)
    )


def files(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    save(tmp_path / "c")
    loaded = Checkpoint.load(tmp_path / "c")
    assert loaded is not None
    assert (loaded.step, loaded.seconds, loaded.expected) == (7, 1.5, 0.25)
    assert torch.equal(loaded.metrics.nan_to_num(9), torch.tensor([[1.0, 9.0]]))
    assert loaded.state is not None
    found = tensors(fill=5)
    load_tensors(loaded.state, found, ALONE)
    for name, value in tensors().items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value), name


def test_the_later_one_takes_the_place_of_the_earlier(tmp_path: Path) -> None:
    save(tmp_path, step=3)
    save(tmp_path, step=12)
    loaded = Checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded.step == 12
    assert len(list(tmp_path.iterdir())) == 1


def test_what_fails_while_it_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, step=3)

    def fail(_folder: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageError, match="No space"):
        Checkpoint(4, 1.0, None, torch.zeros(0, 7)).save(tmp_path, fail)
    loaded = Checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded.step == 3
    assert len(list(tmp_path.iterdir())) == 1


def test_none_means_a_fresh_start(tmp_path: Path) -> None:
    assert Checkpoint.load(tmp_path / "none") is None
    (tmp_path / "empty").mkdir()
    assert Checkpoint.load(tmp_path / "empty") is None


@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed", "one bit"])
def test_damage_to_any_file_means_a_fresh_start(tmp_path: Path, damage: str) -> None:
    save(tmp_path / "0")
    for number in range(len(files(tmp_path / "0"))):
        folder = tmp_path / damage / str(number)
        save(folder)
        file = files(folder)[number]
        content = file.read_bytes()
        if damage == "removed":
            file.unlink()
        elif damage == "one bit":
            middle = len(content) // 2
            flipped = bytes([content[middle] ^ 1])
            file.write_bytes(content[:middle] + flipped + content[middle + 1 :])
        else:
            file.write_bytes(content[: len(content) // 2 if damage == "truncated" else 0])
        assert Checkpoint.load(folder) is None


def test_tensors_of_another_run_are_refused(tmp_path: Path) -> None:
    save_tensors(tmp_path / "state", tensors(), ALONE)
    others = tensors()
    others["model.b"] = others.pop("model.half")
    with pytest.raises(ValueError, match=r"model\.(b|half)"):
        load_tensors(tmp_path / "state", others, ALONE)


def test_a_disk_that_is_full_is_told_by_its_own_error(tmp_path: Path) -> None:
    """Torch would raise an error that nothing here catches."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        save_tensors(tmp_path / "file", tensors(), ALONE)
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none", tensors(), ALONE)
