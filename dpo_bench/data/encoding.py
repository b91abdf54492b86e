"""Texts to token ids, many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from dpo_bench.data.tokenized import Tokens
from dpo_bench.errors import ConfigurationError
from dpo_bench.progress import Progress, quiet

TEXTS_AT_ONCE = 1024
"""Enough to keep the tokenizer's threads busy; its intermediate results are large."""

PROBE = "a"
ANCHOR = "\n"


class Encoder:
    """A tokenizer, reduced to what an exact boundary needs.

    Prompt and response are tokenized apart and joined as ids: no token ever spans the boundary. The
    tokenizer adds nothing by itself; what it would put before a text (BOS) is `prefix`.

    Attributes:
        prefix: token ids that the tokenizer puts before a text.
        anchor: tokens of a newline, where the tokenizer reads a text as if a space preceded it
            (SentencePiece's dummy prefix, as in Llama 2); else None.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.prefix = self._prefix()
        self.anchor = self._anchor()

    def encode(
        self,
        texts: Sequence[str],
        *,
        continuing: bool,
        phase: str = "tokenizing",
        progress: Progress = quiet,
    ) -> list[Tokens]:
        """Token ids of each text, without special tokens other than those in the text itself.

        Args:
            texts: the texts; each is tokenized once, however often it occurs.
            continuing: whether they go on from another text, as a response does: then a space that
                the tokenizer reads before a text's beginning is none of theirs.
            phase: what is told to ``progress``.
            progress: told after every block of texts.
        """
        known: dict[str, Tokens] = dict.fromkeys(texts, np.empty(0, np.int32))
        unique = list(known)
        for start in range(0, len(unique), TEXTS_AT_ONCE):
            part = unique[start : start + TEXTS_AT_ONCE]
            encoded = self._continue(part) if continuing else self._encode(part, special=False)
            known.update(zip(part, encoded, strict=True))
            progress(phase, start + len(part), len(unique))
        return [known[text] for text in texts]

    def decode(self, sequences: Sequence[Tokens]) -> list[str]:
        """The texts of sequences, without special tokens, as sampled responses are decoded."""
        if not sequences:
            return []  # an empty list would be decoded as one empty sequence
        texts = self.tokenizer.batch_decode(
            [tokens.tolist() for tokens in sequences], skip_special_tokens=True
        )
        return [text.strip() for text in texts]

    def leading(self, prompt: Tokens) -> int:
        """How many of a prompt's first tokens are special: they stay when it is cut."""
        count = len(self.prefix)
        if count and prompt[:count].tolist() == self.prefix.tolist():
            return count
        return int(len(prompt) > 0 and prompt[0] == self.tokenizer.bos_token_id)

    def _encode(self, texts: Sequence[str], *, special: bool) -> list[Tokens]:
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            add_special_tokens=special,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        return [np.asarray(ids, np.int32) for ids in encoded["input_ids"]]

    def _continue(self, texts: Sequence[str]) -> list[Tokens]:
        """Token ids of texts that go on from another one."""
        anchor = self.anchor
        if anchor is None:
            return self._encode(texts, special=False)
        encoded = self._encode([ANCHOR + text for text in texts], special=False)
        whole = [np.array_equal(tokens[: len(anchor)], anchor) for tokens in encoded]
        # Where the newline became one token with what follows, the text is taken by itself.
        merged = [text for text, apart in zip(texts, whole, strict=True) if not apart]
        alone = iter(self._encode(merged, special=False))
        return [
            tokens[len(anchor) :] if apart else next(alone)
            for tokens, apart in zip(encoded, whole, strict=True)
        ]

    def _anchor(self) -> Tokens | None:
        """Tokens of a newline if a text after it is tokenized otherwise than by itself."""
        newline, after, alone = self._encode([ANCHOR, ANCHOR + PROBE, PROBE], special=False)
        apart = np.array_equal(after[: len(newline)], newline)
        return newline if apart and not np.array_equal(after[len(newline) :], alone) else None

    def _prefix(self) -> Tokens:
        """What stands before a text's own tokens when the tokenizer adds its special tokens."""
        plain = self._encode([PROBE], special=False)[0].tolist()
        whole = self._encode([PROBE], special=True)[0].tolist()
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return np.asarray(whole[:start], np.int32)
        raise ConfigurationError(
            "the policy's tokenizer does not put its special tokens around a text but into it; "
            "such a tokenizer cannot be used."
        )
