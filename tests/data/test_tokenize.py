from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_bench.data.encoding import TEXTS_AT_ONCE, Encoder
from dpo_bench.data.tokenize import TokenizedPairs, tokenize
from dpo_bench.errors import ConfigurationError, DataError
from dpo_bench.experiment.config import Data
from tests.data.build import assistant, chatml, llama, loaded, plain, row, rows, sentencepiece, user

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
SAID = TEXT.filter(lambda text: bool(text.strip()))


def run(tokenizer: Any, *records: dict[str, Any], **options: Any) -> TokenizedPairs:
    return tokenize(loaded(*records, **options), tokenizer, Data(**options))


def ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text and nothing besides."""
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def lists(pairs: TokenizedPairs, index: int = 0) -> tuple[list[int], list[int], list[int]]:
    prompt, chosen, rejected = pairs.pair(index)
    return prompt.tolist(), chosen.tolist(), rejected.tolist()


def test_plain_text_without_bos() -> None:
    tokenizer = chatml()
    pairs = run(tokenizer, {"prompt": "Hi the", "chosen": " film", "rejected": " actors"})
    eos = tokenizer.eos_token_id
    assert lists(pairs) == (
        ids(tokenizer, "Hi the"),
        [*ids(tokenizer, " film"), eos],
        [*ids(tokenizer, " actors"), eos],
    )


def test_plain_text_begins_with_what_the_tokenizer_puts_there_and_ends_with_one_eos() -> None:
    tokenizer = llama()  # puts <s> before a text and </s> behind it
    pairs = run(tokenizer, {"prompt": "Hi the", "chosen": " film", "rejected": " actors"})
    assert lists(pairs) == (
        [0, *ids(tokenizer, "Hi the")],
        [*ids(tokenizer, " film"), 1],
        [*ids(tokenizer, " actors"), 1],
    )


def test_special_tokens_that_the_text_has_are_not_doubled() -> None:
    tokenizer = llama()
    pairs = run(tokenizer, {"prompt": "<s>Hi", "chosen": " yes</s>", "rejected": " no"})
    prompt, chosen, _ = lists(pairs)
    assert prompt == [0, *ids(tokenizer, "Hi")]
    assert chosen == [*ids(tokenizer, " yes"), 1]


@pytest.mark.parametrize("tokenizer", [chatml, llama], ids=["ChatML", "Llama"])
def test_chat_tokens_are_those_of_the_whole_conversation(tokenizer: Any) -> None:
    tokenizer = tokenizer()
    record = row(1, prompt=[user("Hi")], chosen=[assistant("yes")], rejected=[assistant("no")])
    prompt, chosen, rejected = lists(run(tokenizer, record))
    for answer, tokens in (("yes", chosen), ("no", rejected)):
        whole = tokenizer.apply_chat_template([user("Hi"), assistant(answer)], tokenize=False)
        assert prompt + tokens == ids(tokenizer, whole.rstrip())
        assert tokens.count(tokenizer.eos_token_id) == 1
        assert tokens[-1] == tokenizer.eos_token_id
    opened = tokenizer.apply_chat_template([user("Hi")], tokenize=False, add_generation_prompt=True)
    assert prompt == ids(tokenizer, opened)


def test_a_turn_that_the_template_ends_gets_no_second_end() -> None:
    tokenizer = plain(
        eos_token="<|endoftext|>",
        pad_token="<|im_end|>",
        chat_template=chatml().chat_template,
    )
    record = row(1, prompt=[user("Hi")], chosen=[assistant("yes")], rejected=[assistant("no")])
    _, chosen, _ = lists(run(tokenizer, record))
    whole = tokenizer.apply_chat_template([user("Hi"), assistant("yes")], tokenize=False)
    begun = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert chosen == ids(tokenizer, whole.rstrip())[len(ids(tokenizer, begun)) :]
    assert tokenizer.convert_ids_to_tokens(chosen[-1:]) == ["<|im_end|>"]


def test_a_response_that_goes_on_behind_an_end_is_dropped_and_counted() -> None:
    tokenizer = chatml()
    good = row(1, prompt=[user("Hi")], chosen=[assistant("yes")], rejected=[assistant("no")])
    inside = row(
        2, prompt=[user("Hi")], chosen=[assistant("a<|im_end|>b")], rejected=[assistant("no")]
    )
    with pytest.raises(DataError, match=r"row 2: a response goes on behind '<\|im_end\|>'"):
        run(tokenizer, good, inside)
    dropped = run(tokenizer, good, inside, invalid="drop").tally.dropped
    assert dropped == {"end token inside a response": 1}


@settings(max_examples=60, deadline=None)
@given(prompt=TEXT, chosen=SAID, rejected=SAID)
def test_the_boundary_is_exact_for_any_text(prompt: str, chosen: str, rejected: str) -> None:
    if chosen == rejected:
        rejected += "x"
    tokenizer = llama()
    pairs = run(tokenizer, {"prompt": prompt, "chosen": chosen, "rejected": rejected})
    tokens = lists(pairs)
    assert tokens[0][0] == 0
    assert tokenizer.decode(tokens[0][1:]) == prompt
    for text, response in ((chosen, tokens[1]), (rejected, tokens[2])):
        assert response[-1] == 1
        assert tokenizer.decode(response[:-1]) == text


@pytest.mark.parametrize("prepend", ["first", "always"])
def test_no_space_is_read_between_prompt_and_response(prepend: str) -> None:
    tokenizer = sentencepiece(prepend)
    assert tokenizer.decode(ids(tokenizer, "film")) == "film"
    assert tokenizer.convert_ids_to_tokens(ids(tokenizer, "film"))[0].startswith("▁")
    for text in ("film", " film", "  film", "\nfilm", "é", "▁x"):
        prompt, response, _ = lists(
            run(tokenizer, {"prompt": "The", "chosen": text, "rejected": "no"})
        )
        assert tokenizer.decode(prompt + response[:-1]) == "The" + text.replace("▁", " ")


def test_a_tokenizer_that_reads_no_space_is_left_alone() -> None:
    assert Encoder(llama()).anchor is None
    assert Encoder(chatml()).anchor is None


def test_a_newline_that_merges_with_the_text_is_no_anchor() -> None:
    tokenizer = sentencepiece("always")
    encoder = Encoder(tokenizer)
    encoder.anchor = np.asarray([9], np.int32)  # as if every newline merged with what follows
    texts = ["film", "x"]
    by_themselves = [ids(tokenizer, text) for text in texts]
    assert [t.tolist() for t in encoder.encode(texts, continuing=True)] == by_themselves


def test_an_empty_prompt_is_bos_or_an_error() -> None:
    record = {"prompt": "", "chosen": "yes", "rejected": "no"}
    assert lists(run(llama(), record))[0] == [0]
    with pytest.raises(DataError, match=r"^data, row 2: the prompt gives no token, and the tokeni"):
        run(chatml(), row(0), record)
    pairs = run(chatml(), row(0), record, invalid="drop")
    assert (len(pairs), pairs.tally.dropped) == (1, {"no tokens": 1})


def lowercase() -> Any:
    """A tokenizer that reads letters only, and capitals as small ones."""
    from tokenizers import normalizers

    tokenizer = plain(eos_token="</s>")
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace("*", "")]
    )
    return tokenizer


def test_responses_that_differ_only_for_the_reader_are_an_identical_pair() -> None:
    records = (row(0), {"prompt": "Hi", "chosen": "Yes", "rejected": "yes"})
    with pytest.raises(DataError, match="row 2: both responses give the same tokens"):
        run(lowercase(), *records)
    assert run(lowercase(), *records, invalid="drop").tally.dropped == {"identical pair": 1}


def test_a_response_that_leaves_no_token_is_an_error() -> None:
    with pytest.raises(DataError, match=r"row 1: a response gives no token but EOS\. Mend it"):
        run(lowercase(), {"prompt": "Hi", "chosen": "*", "rejected": "yes"})


def test_a_tokenizer_without_eos_cannot_end_a_response() -> None:
    with pytest.raises(ConfigurationError, match="no EOS token"):
        run(plain(bos_token="<s>"), row(1))


def test_a_prompt_over_the_limit_is_named_with_its_length() -> None:
    message = (
        r"^data, row 2: the prompt has 6 tokens, more than data\.max_prompt_tokens = 5; raise "
        r'that, or set data\.over_limit = "truncate" or "drop"\.$'
    )
    with pytest.raises(DataError, match=message):
        run(llama(), row(0, prompt="Hi"), row(1, prompt="xxxxx"), max_prompt_tokens=5)
    assert len(run(llama(), row(1, prompt="xxxxx"), max_prompt_tokens=6)) == 1


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_response_over_the_limit_counts_its_eos(side: str) -> None:
    message = rf"the {side} response has 6 tokens, more than data\.max_response_tokens = 5"
    record = {"prompt": "Hi", "chosen": "y", "rejected": "n"} | {side: "xxxxx"}
    with pytest.raises(DataError, match=message):
        run(llama(), record, max_response_tokens=5)
    assert len(run(llama(), record, max_response_tokens=6)) == 1


def test_invalid_rows_may_go_but_limits_still_stop() -> None:
    with pytest.raises(DataError, match=r"more than data\.max_prompt_tokens"):
        run(llama(), row(0), row(1, prompt="x" * 50), max_prompt_tokens=20, invalid="drop")


def test_truncation_cuts_prompts_left_and_responses_right_and_counts_both() -> None:
    pairs = run(
        llama(),
        {"prompt": "uvwxyz", "chosen": "xxxxxz", "rejected": "yyyyyyz"},
        {"prompt": "xy", "chosen": "zzzzzzzz", "rejected": "y"},
        max_prompt_tokens=4,
        max_response_tokens=3,
        over_limit="truncate",
    )
    x, y, z = (ids(llama(), letter)[0] for letter in "xyz")
    assert lists(pairs, 0) == ([0, x, y, z], [x, x, x], [y, y, y])
    assert lists(pairs, 1) == ([0, x, y], [z, z, z], [y, 1])
    assert pairs.tally.truncated_prompts == 1
    assert pairs.tally.truncated_responses == 3
    assert pairs.tally.dropped == {}
    assert pairs.prompt_texts == ("xyz", "xy")
    assert pairs.chosen_texts == ("xxx", "zzz")


def test_truncation_keeps_the_bos_that_a_chat_template_wrote() -> None:
    record = row(1, prompt=[user("x" * 50)], chosen=[assistant("y")], rejected=[assistant("z")])
    pairs = run(llama(), record, max_prompt_tokens=9, over_limit="truncate")
    assert lists(pairs)[0] == [0, *ids(llama(), "x [/INST]")[-8:]]


def test_a_limit_of_one_token_leaves_bos() -> None:
    pairs = run(llama(), row(1), max_prompt_tokens=1, over_limit="truncate")
    assert lists(pairs)[0] == [0]


def test_a_response_at_the_limit_keeps_its_eos() -> None:
    pairs = run(
        llama(),
        {"prompt": "x", "chosen": "yy", "rejected": "zzz"},
        max_response_tokens=3,
        over_limit="truncate",
    )
    assert lists(pairs)[1][-1] == 1
    assert lists(pairs)[2][-1] != 1
    assert pairs.tally.truncated_responses == 1


def test_a_pair_that_truncation_makes_identical_is_left_out_and_counted() -> None:
    pairs = run(
        llama(),
        {"prompt": "x", "chosen": "yyy a", "rejected": "yyy b"},
        row(1),
        max_response_tokens=3,
        over_limit="truncate",
    )
    assert len(pairs) == 1
    assert pairs.tally.dropped == {"identical after truncation": 1}


def test_pairs_over_a_limit_can_be_left_out_and_are_counted_by_side() -> None:
    pairs = run(
        llama(),
        row(0, prompt="x" * 30),
        row(1, prompt="xx", chosen="y" * 30),
        row(2, prompt="xx", rejected="y" * 30),
        row(3, prompt="xx"),
        max_prompt_tokens=20,
        max_response_tokens=20,
        over_limit="drop",
    )
    assert len(pairs) == 1
    assert pairs.tally.dropped == {"prompt over the limit": 1, "response over the limit": 2}
    assert (pairs.tally.truncated_prompts, pairs.tally.truncated_responses) == (0, 0)


def test_no_pair_left_is_an_error_with_the_reasons() -> None:
    with pytest.raises(DataError, match=r"data: no usable pair is left \(prompt over the limit 2"):
        run(llama(), row(0), row(1), max_prompt_tokens=2, over_limit="drop")


def test_a_template_that_refuses_a_row_names_it() -> None:
    refused = row(1, prompt=[{"role": "system", "content": "x"}, user("y")])
    good = row(1, prompt=[user("y")])
    with pytest.raises(DataError, match=r"^data, row 2: the chat template refuses the messages"):
        run(llama(), good, refused)
    pairs = run(llama(), refused, good, invalid="drop")
    assert (len(pairs), pairs.tally.dropped) == (1, {"template does not fit": 1})
    assert pairs.prompt_texts == ("<s>[INST] y [/INST]",)


def test_texts_of_prompt_and_chosen_are_kept_for_display() -> None:
    pairs = run(llama(), {"prompt": "Hi ", "chosen": " yes </s>", "rejected": "no"}, row(2))
    assert pairs.prompt_texts == ("Hi ", "Question 2?")
    assert pairs.chosen_texts == ("yes", "Yes, 2.")
    without = tokenize(loaded(*rows(2)), llama(), Data(), keep_texts=False)
    assert (without.prompt_texts, without.chosen_texts) == ((), ())


def test_plain_and_chat_rows_may_be_mixed() -> None:
    chat = row(1, prompt=[user("Hi")], chosen=[assistant("yes")], rejected=[assistant("no")])
    pairs = run(llama(), row(0), chat, row(2))
    assert [lists(pairs, index)[0].count(0) for index in range(3)] == [1, 1, 1]
    assert pairs.prompt_texts[1] == "<s>[INST] Hi [/INST]"


def test_many_texts_are_tokenized_in_blocks_and_in_order() -> None:
    texts = [f"text {number % 1500}" for number in range(2 * TEXTS_AT_ONCE)]
    seen: list[tuple[int, int]] = []
    encoded = Encoder(llama()).encode(
        texts, continuing=False, progress=lambda _, done, total: seen.append((done, total))
    )
    assert [llama().decode(tokens) for tokens in encoded] == texts
    assert seen == [(1024, 1500), (1500, 1500)]


def test_long_texts_are_neither_cut_nor_warned_about(capfd: pytest.CaptureFixture[str]) -> None:
    tokenizer = plain(eos_token="</s>", model_max_length=8)
    pairs = run(tokenizer, row(1, chosen=" y" * 200))
    assert len(pairs.chosen[0]) > 200
    assert "longer than" not in capfd.readouterr().err


def test_a_tokenizer_file_s_own_truncation_and_padding_are_off() -> None:
    tokenizer = plain(eos_token="</s>", pad_token="<pad>")
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=64)
    pairs = run(tokenizer, row(1, chosen="yyyyyyyyy"))
    assert pairs.chosen_lengths.tolist() == [10]


def test_tokens_are_compact() -> None:
    pairs = run(llama(), *rows(3))
    assert pairs.prompt.flat.dtype == np.int32
    assert pairs.prompt.offsets.dtype == np.int64
