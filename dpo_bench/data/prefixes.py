"""The prompt that two responses share, where the data gives them whole."""

from __future__ import annotations

import os
from typing import TypeVar

Item = TypeVar("Item")

HH_HUMAN = "\n\nHuman:"
HH_TURN = "\n\nAssistant:"
"""Begins an answer in Anthropic's HH format (Bai et al. 2022, arXiv:2204.05862)."""


def hh_prompt(chosen: str, rejected: str) -> str:
    r"""The prompt of two conversations in the HH format: up to the last answer that both begin.

    Empty where they share no turn of a human that an assistant answers.

    >>> hh_prompt("\n\nHuman: Hi\n\nAssistant: He", "\n\nHuman: Hi\n\nAssistant: Ho")
    '\n\nHuman: Hi\n\nAssistant:'
    >>> hh_prompt("The film was good.", "The film was bad.")
    ''
    """
    prefix = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - by character, as wanted
    end = prefix.rfind(HH_TURN)
    # A file may have lost the two newlines before the first turn.
    if end < 0 or HH_HUMAN not in f"\n\n{prefix[:end].lstrip()}":
        return ""
    return prefix[: end + len(HH_TURN)]


def common_prompt(chosen: str, rejected: str) -> str:
    r"""The prompt of two plain texts that both begin with it.

    In the HH format it ends with the last ``"\n\nAssistant:"`` that both share. Otherwise it ends
    at the last word boundary of the common prefix: never inside a word, and the white space before
    the first word that differs belongs to the responses. No response is left empty.

    >>> common_prompt("The film was good.", "The film was bad.")
    'The film was'
    >>> common_prompt("\n\nHuman: Hi\n\nAssistant: He", "\n\nHuman: Hi\n\nAssistant: Ho")
    '\n\nHuman: Hi\n\nAssistant:'
    """
    prefix = os.path.commonprefix([chosen, rejected])  # noqa: RUF071 - by character, as wanted
    turn = prefix.rfind(HH_TURN)
    if turn >= 0:
        return prefix[: turn + len(HH_TURN)]
    rests = chosen[len(prefix) :], rejected[len(prefix) :]
    if all(rest.strip() and rest[0].isspace() for rest in rests):
        return prefix.rstrip()  # both go on with white space, though not with the same
    if not (prefix[-1:].isspace() and all(rest.strip() for rest in rests)):
        words = prefix.rsplit(maxsplit=1)
        prefix = words[0] if len(words) == 2 else ""
    return prefix.rstrip()


def common_items(first: list[Item], second: list[Item]) -> list[Item]:
    """The items that two lists begin with alike."""
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return first[:count]
