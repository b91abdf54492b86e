from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_bench.data.tokenized import Ragged, Tally, TokenizedPairs
from dpo_bench.errors import DataError

SEQUENCES = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), max_size=6)


def ragged(*sequences: list[int]) -> Ragged:
    return Ragged.of([np.asarray(sequence, np.int32) for sequence in sequences])


def example() -> TokenizedPairs:
    return TokenizedPairs(
        ragged([1, 2], [3], [4, 5, 6]),
        ragged([7], [8, 9], [10]),
        ragged([11, 12], [13], [14]),
        ("a", "b é\u2028", "c"),
        ("x", "", "z"),
        Tally(1, 2, {"empty response": 3}),
        prompt_messages=([{"role": "user", "content": "a"}], None, None),
    )


@given(SEQUENCES)
def test_sequences_come_back_as_they_were(sequences: list[list[int]]) -> None:
    joined = ragged(*sequences)
    assert len(joined) == len(sequences)
    assert [joined[index].tolist() for index in range(len(joined))] == sequences
    assert joined.lengths.tolist() == [len(sequence) for sequence in sequences]


def test_token_ids_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        example().pair(0)[0][0] = 5


def test_lengths_can_be_given_to_torch() -> None:
    import torch

    assert torch.from_numpy(example().chosen_lengths).tolist() == [1, 2, 1]
    assert torch.from_numpy(example().rejected_lengths).tolist() == [2, 1, 1]


def test_a_selection_keeps_tokens_with_texts() -> None:
    taken = example().take([2, 0, 2])
    assert [taken.pair(index)[0].tolist() for index in range(3)] == [[4, 5, 6], [1, 2], [4, 5, 6]]
    assert taken.prompt_texts == ("c", "a", "c")
    assert taken.chosen_texts == ("z", "x", "z")
    assert taken.prompt_messages == (None, [{"role": "user", "content": "a"}], None)
    assert taken.tally == Tally()
    assert taken.take([1]).digest == example().take([0]).digest
    assert len(example().take([])) == 0


def test_a_selection_without_texts_has_none() -> None:
    pairs = example()
    without = TokenizedPairs(pairs.prompt, pairs.chosen, pairs.rejected).take([1])
    assert without.prompt_texts == ()


def test_the_digest_is_that_of_tokens_and_order() -> None:
    pairs = example()
    assert pairs.digest == TokenizedPairs(pairs.prompt, pairs.chosen, pairs.rejected).digest
    others = [
        pairs.take([1, 0, 2]),
        TokenizedPairs(pairs.prompt, pairs.rejected, pairs.chosen),
        TokenizedPairs(ragged([1], [2, 3], [4, 5, 6]), pairs.chosen, pairs.rejected),
        TokenizedPairs(ragged([1, 2], [3], [4, 5, 7]), pairs.chosen, pairs.rejected),
    ]
    assert len({pairs.digest, *(other.digest for other in others)}) == 5


def test_the_digest_is_that_of_little_endian_lengths_and_ids() -> None:
    pairs = TokenizedPairs(ragged([1, 2], [3]), ragged([4], [5]), ragged([6], [7, 300]))
    content = b"pairs 1"
    content += struct.pack("<2q3i", 2, 1, 1, 2, 3)
    content += struct.pack("<2q2i", 1, 1, 4, 5)
    content += struct.pack("<2q3i", 1, 2, 6, 7, 300)
    assert pairs.digest == hashlib.sha256(content).hexdigest()


def test_a_file_gives_everything_back(tmp_path: Path) -> None:
    path = tmp_path / "pairs.safetensors"
    example().save(path)
    loaded = TokenizedPairs.load(path)
    assert loaded.digest == example().digest
    assert loaded.prompt_texts == example().prompt_texts
    assert loaded.chosen_texts == example().chosen_texts
    assert loaded.prompt_messages == example().prompt_messages
    assert loaded.tally == example().tally
    assert loaded.pair(1)[1].dtype == np.int32
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_without_texts_gives_everything_back(tmp_path: Path) -> None:
    pairs = example()
    TokenizedPairs(pairs.prompt, pairs.chosen, pairs.rejected).save(tmp_path / "pairs")
    assert TokenizedPairs.load(tmp_path / "pairs").prompt_texts == ()


def test_the_same_pairs_give_the_same_file(tmp_path: Path) -> None:
    example().save(tmp_path / "a")
    example().save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_flipped_bit_of_the_content_is_found(tmp_path: Path) -> None:
    path = tmp_path / "pairs"
    example().save(path)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for position in range(header, len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="is damaged"):
            TokenizedPairs.load(path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs").write_bytes(b"not safetensors")
    with pytest.raises(DataError, match="holds no tokenized pairs"):
        TokenizedPairs.load(tmp_path / "pairs")
