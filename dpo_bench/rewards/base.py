"""A prompt as rewards read it, and a reward: what gives each response a number."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dpo_bench.errors import DataError
from dpo_bench.progress import Tell, tell_nobody

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = 1e100
"""Size up to which a reward is a number: the statistics take squares and sums of it."""


class Prompt(NamedTuple):
    """A prompt in the forms in which policy, rewards and judges read it.

    Attributes:
        text: what the policy reads: a chat's as its chat template writes it.
        messages: a chat's messages; of a plain text one message of the user.
        is_chat: whether the data gave messages.
    """

    text: str
    messages: Sequence[Any]
    is_chat: bool = False

    @classmethod
    def of(cls, text: str, messages: Sequence[Any] | None = None) -> Prompt:
        """A prompt from its text and, of a chat, its messages."""
        if messages is None:
            return cls(text, [{"role": "user", "content": text}])
        return cls(text, messages, is_chat=True)

    @property
    def transcript(self) -> str:
        """Readable text without the policy's special tokens: who knows no template reads this.

        A plain prompt as it is; of a single question its content; else each turn with its role.
        """
        if not self.is_chat:
            return self.text
        if len(self.messages) == 1:
            return str(self.messages[0].get("content") or "")
        turns = [
            f"{message['role'].capitalize()}: {message.get('content') or ''}".rstrip()
            for message in self.messages
        ]
        return "\n\n".join(turns)


def _none_cut(_prompts: list[Prompt], _responses: list[str]) -> int:
    return 0


def _not_said(_prompt: Prompt, _response: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Reward:
    """A reward and what identifies it.

    Attributes:
        name: as given in the experiment.
        identity: the name and the source that it comes from, or the digest of a model; part of
            every trial's identity.
        function: maps prompts and responses to a number each; see `numbers_of`. It tells how many
            it has done, now and then: a worker that says nothing for long is taken to hang.
        truncated: how many of these texts the reward cannot read whole.
        reads: the text that it makes of a prompt and a response, None where it makes none.
    """

    name: str
    identity: str
    function: Callable[[list[Prompt], list[str], Tell], Any]
    truncated: Callable[[list[Prompt], list[str]], int] = _none_cut
    reads: Callable[[Prompt, str], str | None] = _not_said

    def score(
        self, prompts: Iterable[Prompt], responses: Iterable[str], tell: Tell = tell_nobody
    ) -> NDArray[np.float64]:
        """Reward of each response, shape [response].

        Raises:
            DataError: the function failed, or gave anything but a finite number per response.
        """
        prompts, responses = list(prompts), list(responses)
        return numbers_of(self.name, self.function(prompts, responses, tell), responses)


def numbers_of(name: str, values: Any, responses: Sequence[str]) -> NDArray[np.float64]:
    """The numbers that a reward returned, shape [response].

    A list of numbers, or a tensor, array or Series of any type and device, with or without
    gradient.

    >>> numbers_of("short", [np.float32(-1), True], ["a", "b"]).tolist()
    [-1.0, 1.0]

    Raises:
        DataError: it is something else, the count is another, or a number is not finite or beyond
            `LARGEST`.
    """
    wanted = "return one number per response"
    shape = getattr(values, "shape", None)
    if shape is not None and len(shape) != 1:
        raise DataError(
            f"reward {name} returned an array of shape {list(shape)} for {len(responses)} "
            f"responses: {wanted}."
        )
    listed = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(listed, str | bytes | Mapping | AbstractSet) or not isinstance(listed, Iterable):
        if isinstance(listed, Coroutine):
            listed.close()  # else it warns that nobody waited for it
        raise DataError(f"reward {name} returned {_in_words(values)}: {wanted}.")
    found = list(listed)
    if len(found) != len(responses):
        raise DataError(
            f"reward {name} returned {len(found)} values for {len(responses)} responses: {wanted}."
        )
    rewards = np.empty(len(found))
    for row, value in enumerate(found):
        rewards[row] = number = _number(value)
        if not abs(number) <= LARGEST:
            raise DataError(
                f"reward {name} returned {_in_words(value)} for response {row + 1} of {len(found)},"
                f" {responses[row][:80]!r}: {wanted}, finite and at most {LARGEST:g} in size"
                f"{_of_equals(number, responses)}."
            )
    return rewards


def _of_equals(number: float, responses: Sequence[str]) -> str:
    """What is probably wrong where equal responses have a reward that is not finite."""
    if math.isfinite(number) or len(set(responses)) > 1:
        return ""
    return (
        "; all responses of this call are this one: is the reward divided by the deviation of its "
        "call? It must not depend on what else is scored"
    )


def _number(value: Any) -> float:
    """A number as a float, NaN for anything that is none."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()  # numpy's and torch's scalars, wherever they are
    if not isinstance(value, numbers.Real | Decimal):
        return float("nan")
    try:
        return float(value)
    except (OverflowError, ValueError):  # an integer beyond all floats, a signalling NaN
        return float("nan")


def _in_words(value: Any) -> str:
    """A value's type and the beginning of what it looks like, for a message."""
    if value is None:
        return "None"
    if isinstance(value, int) and abs(value) > LARGEST:
        return "an integer beyond that"  # thousands of digits cannot even be printed
    return f"{type(value).__name__} {' '.join(repr(value).split())[:80]}"
