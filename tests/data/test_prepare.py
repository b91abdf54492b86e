from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from dpo_bench.data.pairs import LoadedPairs
from dpo_bench.data.prepare import Counts, Preferences, prepare_pairs, read_preferences
from dpo_bench.errors import DataError
from dpo_bench.experiment import apply_setting
from dpo_bench.experiment.config import Data
from tests.data.build import llama, row, rows, write_jsonl

OF_NO_ROWS = "701381c8be72d7eb"
"""The digest with the defaults and without any pair, as it ever was."""
KNOWN = {
    'data.split="test"': OF_NO_ROWS,
    'data.subset="a"': OF_NO_ROWS,
    'data.heldout="test"': OF_NO_ROWS,
    "data.heldout_fraction=0.2": OF_NO_ROWS,
    "data.pairs=5": OF_NO_ROWS,
    'data.shape="pairs"': OF_NO_ROWS,
    'data.prompt_column="question"': OF_NO_ROWS,
    'data.chosen_column="a"': OF_NO_ROWS,
    'data.rejected_column="b"': OF_NO_ROWS,
    'data.margin_column="m"': OF_NO_ROWS,
    'data.prompt_template="Q {prompt}"': OF_NO_ROWS,
    'data.response_template="A {response}"': OF_NO_ROWS,
    'data.chat="wrap"': OF_NO_ROWS,
    "data.chat_template_kwargs={enable_thinking=false}": "4201514fd443e4d8",
    "data.max_prompt_tokens=100": "9c6b55f137245cfa",
    "data.max_response_tokens=100": "b31fe12b1f48496c",
    'data.over_limit="truncate"': "9f2c0579dc6ee8c3",
    'data.invalid="drop"': "3995903dcef7dd38",
}
"""The same with each key changed: what decides the rows shows in them alone."""


def write_folder(folder: Path, training: list[dict[str, Any]]) -> str:
    write_jsonl(folder / "train.jsonl", training)
    write_jsonl(folder / "heldout.jsonl", [row(90), row(91, chosen="")])
    return str(folder)


def test_a_folder_becomes_tokens_texts_and_counts(tmp_path: Path) -> None:
    long = {"prompt": "x" * 100, "chosen": "y" * 100, "rejected": "z" * 100}
    source = write_folder(tmp_path, [*rows(3), row(4, rejected=None), long, row(90)])
    options = Data(
        invalid="drop", over_limit="truncate", max_prompt_tokens=40, max_response_tokens=40
    )
    training, heldout, counts = prepare_pairs(source, llama(), options)
    assert (len(training), len(heldout)) == (5, 1)
    assert heldout.prompt_texts == ("Question 90?",)
    assert heldout.chosen_texts == ("Yes, 90.",)
    assert training.prompt_texts == ()
    assert counts == Counts(
        training_pairs=5,
        heldout_pairs=1,
        truncated_prompts=1,
        truncated_responses=2,
        shared_prompts=1,
        dropped={"missing value": 1, "empty response": 1},
        unwrapped=6,
    )
    assert list(counts.as_dict()["dropped"]) == ["empty response", "missing value"]


def test_a_share_of_the_prompts_shares_no_prompt(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", rows(10) * 2)
    training, heldout, counts = prepare_pairs(source, llama(), Data())
    assert (len(training), len(heldout), counts.shared_prompts) == (18, 2, 0)
    assert counts.dropped == {}


def test_progress_is_told(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", rows(10))
    seen: list[tuple[str, int, int]] = []
    prepare_pairs(source, llama(), Data(), lambda *told: seen.append(told))
    assert seen == [
        ("tokenizing prompts", 9, 9),
        ("tokenizing responses", 18, 18),
        ("tokenizing prompts", 1, 1),
        ("tokenizing responses", 2, 2),
    ]


def test_the_digest_is_the_same_wherever_and_however_the_rows_lie(tmp_path: Path) -> None:
    digests = [read_preferences(write_jsonl(tmp_path / "a.jsonl", rows(20)), Data()).digest]
    pd.DataFrame(rows(20)).to_csv(tmp_path / "b.csv", index=False)
    digests.append(read_preferences(str(tmp_path / "b.csv"), Data()).digest)
    (tmp_path / "c" / "data").mkdir(parents=True)
    pd.DataFrame(rows(20)).to_parquet(tmp_path / "c" / "data" / "train-00000-of-00001.parquet")
    digests.append(read_preferences(str(tmp_path / "c"), Data()).digest)
    renamed = [{"q": r["prompt"], "a": r["chosen"], "b": r["rejected"]} for r in rows(20)]
    options = Data(prompt_column="q", chosen_column="a", rejected_column="b")
    digests.append(read_preferences(write_jsonl(tmp_path / "d.jsonl", renamed), options).digest)
    assert len(set(digests)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"heldout_fraction": 0.2},
        {"pairs": 5},
        {"max_prompt_tokens": 100},
        {"max_response_tokens": 100},
        {"over_limit": "drop"},
        {"invalid": "drop"},
        {"prompt_template": "Q: {prompt}"},
        {"response_template": "{response} "},
        {"prompt_column": ""},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_digest_follows_every_option_that_matters(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    records = [row(n, chosen=f"It, {n}, is good", rejected=f"It, {n}, is bad") for n in range(20)]
    source = write_jsonl(tmp_path / "a.jsonl", records)
    assert (
        read_preferences(source, Data(**options)).digest != read_preferences(source, Data()).digest
    )


def digest_of_no_rows(options: Data) -> str:
    none = LoadedPairs([], [])
    return Preferences(none, none, options).digest[:16]


@pytest.mark.parametrize("change", KNOWN)
def test_the_digest_of_the_same_rows_is_what_it_ever_was(change: str) -> None:
    tree: dict[str, Any] = {}
    apply_setting(tree, change)
    assert digest_of_no_rows(Data.model_validate(tree["data"])) == KNOWN[change]


def test_a_new_key_of_the_data_counts() -> None:
    """It need not show in the rows: without a mark it stands in the digest beside them."""

    class Later(Data):
        new: int = 3

    assert digest_of_no_rows(Data()) == OF_NO_ROWS
    assert len({digest_of_no_rows(one) for one in (Data(), Later(), Later(new=4))}) == 3


def test_the_digest_follows_the_rows(tmp_path: Path) -> None:
    first = read_preferences(write_jsonl(tmp_path / "a.jsonl", rows(20)), Data()).digest
    changed = [*rows(19), row(19, chosen=" Yes, 19!")]
    assert read_preferences(write_jsonl(tmp_path / "a.jsonl", changed), Data()).digest != first
    assert (
        read_preferences(write_jsonl(tmp_path / "a.jsonl", rows(20)[::-1]), Data()).digest != first
    )


def test_the_digest_finds_invalid_rows(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [*rows(3), row(4, chosen="")])
    with pytest.raises(DataError, match=r"a\.jsonl, line 4"):
        read_preferences(source, Data())


def test_the_digest_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", rows(20))
    program = (
        "import sys\n"
        "from dpo_bench.data.prepare import read_preferences\n"
        "from dpo_bench.experiment.config import Data\n"
        "print(read_preferences(sys.argv[1], Data()).digest)\n"
        "print([n for n in ('torch', 'transformers', 'datasets', 'pandas') if n in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, source],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.splitlines() == [read_preferences(source, Data()).digest, "[]"]
