"""What ends a response: one rule, for texts that are trained on and for texts that are sampled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpo_bench.data.chat import ChatTemplate
from dpo_bench.data.problems import Reason, RowProblem
from dpo_bench.data.tokenized import Tokens
from dpo_bench.errors import ConfigurationError


@dataclass(frozen=True)
class Ends:
    """The tokens that end a response.

    Attributes:
        tokens: ids; a sample stops at the first of them.
        default: the one that is put behind a text that has none.
        tokenizer: for messages.
    """

    tokens: frozenset[int]
    default: int
    tokenizer: Any

    @classmethod
    def of(cls, template: ChatTemplate, listed: Iterable[int] = ()) -> Ends:
        """The ends of a tokenizer and its model.

        They are the tokenizer's EOS, the token with which its chat template ends an assistant's
        turn, and the ids that the model's maker lists in its generation_config.json.

        Args:
            template: of the policy's tokenizer.
            listed: the model's ``eos_token_id``, one or several; see `model.files.listed_ends`.

        Raises:
            ConfigurationError: there is none of these, so that no response could end.
        """
        listed = tuple(listed)
        tokenizer = template.tokenizer
        known = [tokenizer.eos_token_id, template.turn_end, *listed]
        found = [int(token) for token in known if token is not None]
        if not found:
            raise ConfigurationError(
                "the policy's tokenizer has no EOS token, so that no response could end: set "
                "eos_token in its tokenizer_config.json."
            )
        return cls(frozenset(found), found[0], tokenizer)

    def end(self, response: Tokens) -> Tokens:
        """A response with exactly one end token, its last: one is put there where it has none.

        Raises:
            RowProblem: the response goes on behind an end token, where no sample could.
        """
        at = np.flatnonzero(np.isin(response, list(self.tokens)))
        if not len(at):
            return np.append(response, np.int32(self.default))
        first = int(at[0])
        behind = [token for token in response[first + 1 :].tolist() if token not in self.tokens]
        if self.tokenizer.decode(behind, skip_special_tokens=True).strip():
            name = self.tokenizer.convert_ids_to_tokens([int(response[first])])[0]
            raise RowProblem(
                Reason.END_INSIDE, f"a response goes on behind {name!r}, which ends a response"
            )
        return response[: first + 1]
