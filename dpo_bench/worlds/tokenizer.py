"""The word-level tokenizer of the reviews, in the format that transformers saves and loads.

A word and the space before it are one token (``▁the``), a sign is a token of its own, and the few
words that open a prompt also have a token without the space. So a response begins with its space,
``ids(prompt) + ids(response) == ids(prompt + response)``, and decoding gives the text back to the
letter. No special token is added on encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpo_bench.worlds.grammar import vocabulary
from dpo_bench.worlds.words import OPENERS, PUNCTUATION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNKNOWN = "<pad>", "<bos>", "<eos>", "<unk>"
SPACE = "▁"
MAX_TOKENS = 256


def token_list() -> list[str]:
    """Every token of the vocabulary, in the order of the ids."""
    words = [SPACE + word for word in vocabulary() if word not in PUNCTUATION]
    return [PAD, BOS, EOS, UNKNOWN, *sorted(PUNCTUATION), *sorted(OPENERS), *words]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer; a word outside the grammar becomes ``<unk>``."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(token_list())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never"),
            pre_tokenizers.Split(Regex(f"[^{SPACE}a-z']"), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="never")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=MAX_TOKENS,
        clean_up_tokenization_spaces=False,
    )
