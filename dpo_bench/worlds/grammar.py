"""The generative grammar of the reviews, and the recognizer that tells whether a text obeys it.

A review has a prompt that sets a scene and a response that says what its author thought. Most
responses have one polarity throughout; a negation or a "but" may turn single words against it, so
that the sentiment of a response is not the sum of its words. Token lists hold words and signs
without spaces; `spell` turns them into text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Literal

import numpy as np

from dpo_bench.worlds.words import (
    KEPT,
    NEUTRAL_LISTS,
    OPENERS,
    POLAR_LISTS,
    PUNCTUATION,
    RULES,
)

Polarity = Literal["+", "-", ""]
"""Praise, blame or undecided."""

PROMPT_TOKENS = range(8, 17)
"""Lengths of the prompts, tokens."""
RESPONSE_WORDS = range(6, 30)
"""Lengths of the responses, words without the signs."""
RESPONSE_TOKENS = range(7, 32)
"""Lengths of the responses, tokens without EOS."""

_HINTED = 0.5  # share of the prompts that hint at a polarity
_HINT_HOLDS = 0.75  # share of the hints that come true
_UNDECIDED = 0.12  # share of the responses without one polarity

_SYMBOL = re.compile(r"<([^>]+)>|([a-z']+|[.,!:])")


@dataclass(frozen=True, slots=True)
class Review:
    """A prompt and the response that follows it, with the polarity that the response has."""

    prompt: str
    response: str
    polarity: Polarity


@dataclass(frozen=True, slots=True)
class _Part:
    """One symbol of an alternative: a rule's name, or a word that stands for itself."""

    text: str
    is_rule: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    """The alternatives of a rule, with the upper ends of their shares of the unit interval."""

    alternatives: tuple[tuple[_Part, ...], ...]
    shares: tuple[float, ...]


def _parse(alternative: str) -> tuple[_Part, ...]:
    return tuple(_Part(rule or word, bool(rule)) for rule, word in _SYMBOL.findall(alternative))


def _both_polarities(rules: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """Write each rule whose name ends in ``=`` out for praise and for blame."""
    written: dict[str, Mapping[str, float]] = {}
    for name, alternatives in rules.items():
        if not name.endswith("="):
            written[name] = alternatives
            continue
        for same, other in ("+-", "-+"):
            written[name[:-1] + same] = {
                text.replace("=>", f"{same}>").replace("~>", f"{other}>"): weight
                for text, weight in alternatives.items()
            }
    return written


@functools.cache
def _word_lists() -> dict[str, tuple[str, ...]]:
    return {name: tuple(words.split()) for name, words in (POLAR_LISTS | NEUTRAL_LISTS).items()}


@functools.cache
def _rules() -> dict[str, _Rule]:
    rules = {}
    for name, alternatives in _both_polarities(RULES).items():
        total = sum(alternatives.values())
        shares = tuple(upper / total for upper in accumulate(alternatives.values()))
        rules[name] = _Rule(tuple(map(_parse, alternatives)), shares)
    return rules


@functools.cache
def vocabulary() -> tuple[str, ...]:
    """Every word and sign that the grammar can produce, sorted."""
    parts = chain.from_iterable(chain.from_iterable(r.alternatives for r in _rules().values()))
    words = {part.text for part in parts if not part.is_rule}
    return tuple(sorted(words.union(*_word_lists().values())))


class _Writer:
    """One text in the making: it keeps its subject and avoids saying a word of a list twice."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._random = generator.random
        self._kept: dict[str, str] = {}
        self._used: set[str] = set()

    def write(self, name: str) -> list[str]:
        """Expand a rule into tokens."""
        tokens: list[str] = []
        self._expand(name, tokens)
        return tokens

    def _expand(self, name: str, tokens: list[str]) -> None:
        if name in _word_lists():
            tokens.append(self._word(name))
            return
        for part in self._draw(name):
            if part.is_rule:
                self._expand(part.text, tokens)
            else:
                tokens.append(part.text)

    def _draw(self, name: str) -> tuple[_Part, ...]:
        rule = _rules()[name]
        point = self._random()
        for index, share in enumerate(rule.shares):
            if point < share:
                return rule.alternatives[index]
        return rule.alternatives[-1]

    def _word(self, name: str) -> str:
        if name in self._kept:
            return self._kept[name]
        words = _word_lists()[name]
        choices = [word for word in words if word not in self._used] or words
        word = choices[int(self._random() * len(choices))]
        self._used.add(word)
        if name in KEPT:
            self._kept[name] = word
        return word


def spell(tokens: Sequence[str], *, opens: bool) -> str:
    """Text of a token list: words take a space before them, signs do not.

    Args:
        tokens: Words and signs.
        opens: Whether the text stands at the beginning, where the first word takes no space. A
            prompt opens; a response does not, so that ``prompt + response`` is the whole text.
    """
    text = "".join(token if token in PUNCTUATION else f" {token}" for token in tokens)
    return text.removeprefix(" ") if opens else text


def split(text: str) -> list[str]:
    """Token list of a text: the inverse of `spell`."""
    return re.findall(r"[a-z']+|[^a-z'\s]", text)


def write_review(generator: np.random.Generator) -> Review:
    """Draw a prompt and a response to it."""
    while True:
        writer = _Writer(generator)
        hint: Polarity = ""
        if generator.random() < _HINTED:
            hint = "+" if generator.random() < 0.5 else "-"
        prompt = writer.write(f"prompt{hint}")
        polarity = _polarity(hint, generator)
        response = writer.write(f"response{polarity}")
        if _fits(response):
            return Review(spell(prompt, opens=True), spell(response, opens=False), polarity)


def write_prompt(generator: np.random.Generator) -> str:
    """Draw a prompt from the same distribution as `write_review`."""
    return write_review(generator).prompt


def _polarity(hint: Polarity, generator: np.random.Generator) -> Polarity:
    if generator.random() < _UNDECIDED:
        return ""
    praise = {"": 0.5, "+": _HINT_HOLDS, "-": 1 - _HINT_HOLDS}[hint]
    return "+" if generator.random() < praise else "-"


def _fits(response: Sequence[str]) -> bool:
    words = sum(token not in PUNCTUATION for token in response)
    return words in RESPONSE_WORDS and len(response) in RESPONSE_TOKENS


def polarities(prompt: str, response: str) -> set[Polarity]:
    """Polarities under which the grammar accepts a response to a prompt; empty: it does not.

    The response must keep to the prompt's subject and have a length that the grammar gives.
    """
    kept = {}
    spoken = split(prompt)
    for name in KEPT:
        if found := set(spoken).intersection(_word_lists()[name]):
            kept[name] = found
    tokens = split(response)
    if not _fits(tokens) or spell(tokens, opens=False) != response:
        return set()
    signs: tuple[Polarity, ...] = ("+", "-", "")
    return {sign for sign in signs if _Reader(tokens, kept).reads(f"response{sign}")}


def is_prompt(text: str) -> bool:
    """Whether the grammar can produce a prompt."""
    tokens = split(text)
    if spell(tokens, opens=True) != text or len(tokens) not in PROMPT_TOKENS:
        return False
    return tokens[0] in OPENERS and any(
        _Reader(tokens, {}).reads(f"prompt{sign}") for sign in ("", "+", "-")
    )


class _Reader:
    """A recognizer: for each rule and position, the positions where the rule may end."""

    def __init__(self, tokens: list[str], kept: Mapping[str, set[str]]) -> None:
        self._tokens = tokens
        self._kept = kept
        self._known: dict[tuple[str, int], frozenset[int]] = {}

    def reads(self, name: str) -> bool:
        """Whether the rule covers the whole text."""
        return len(self._tokens) in self._ends(name, 0)

    def _ends(self, name: str, start: int) -> frozenset[int]:
        if name in _word_lists():
            allowed = self._kept.get(name) or _word_lists()[name]
            spoken = start < len(self._tokens) and self._tokens[start] in allowed
            return frozenset({start + 1}) if spoken else frozenset()
        key = (name, start)
        if key not in self._known:
            self._known[key] = frozenset(
                chain.from_iterable(
                    self._after(alternative, start) for alternative in _rules()[name].alternatives
                )
            )
        return self._known[key]

    def _after(self, alternative: Sequence[_Part], start: int) -> frozenset[int]:
        ends = frozenset({start})
        for part in alternative:
            if part.is_rule:
                ends = frozenset(chain.from_iterable(self._ends(part.text, end) for end in ends))
            else:
                ends = frozenset(
                    end + 1 for end in ends if self._tokens[end : end + 1] == [part.text]
                )
        return ends
