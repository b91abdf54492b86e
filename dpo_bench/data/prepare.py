"""From a source of preference data to tokenized training and held-out pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from dpo_bench.data.split import load_split_pairs, prompt_key
from dpo_bench.data.tokenize import tokenize
from dpo_bench.data.wrapping import could_be_wrapped
from dpo_bench.experiment.config import Data
from dpo_bench.experiment.fields import DIGESTED, without
from dpo_bench.progress import Progress, quiet
from dpo_bench.storage import digest

if TYPE_CHECKING:
    from dpo_bench.data.pairs import LoadedPairs
    from dpo_bench.data.tokenized import TokenizedPairs


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the data.

    Attributes:
        training_pairs: pairs to train on.
        heldout_pairs: pairs to evaluate on.
        truncated_prompts: pairs of either kind whose prompt was cut.
        truncated_responses: responses of either kind that were cut.
        shared_prompts: held-out prompts that are also trained on; only where the user's own choice
            of held-out pairs makes it so.
        dropped: rows of either kind that were left out, by reason.
        unwrapped: plain pairs of either kind although the tokenizer has a chat template, and nobody
            said that this is meant.
    """

    training_pairs: int
    heldout_pairs: int
    truncated_prompts: int
    truncated_responses: int
    shared_prompts: int
    dropped: Mapping[str, int]
    unwrapped: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "training_pairs": self.training_pairs,
            "heldout_pairs": self.heldout_pairs,
            "truncated_prompts": self.truncated_prompts,
            "truncated_responses": self.truncated_responses,
            "shared_prompts": self.shared_prompts,
            "dropped": dict(sorted(self.dropped.items())),
            "unwrapped": self.unwrapped,
        }


@dataclass(frozen=True, slots=True)
class Preferences:
    """Validated preference pairs of an experiment, as text.

    Attributes:
        training: pairs to train on.
        heldout: pairs to evaluate on.
        options: how they were read and are to be tokenized.
    """

    training: LoadedPairs
    heldout: LoadedPairs
    options: Data

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that the tokenized pairs depend on besides the tokenizer.

        It covers the pairs as validated and templated, their order and side, and the options that
        are not marked as standing in these rows: the limits above all. The same rows give the same
        digest wherever the data lies and in whatever kind of file.
        """
        options = without(type(self.options), self.options.model_dump(mode="json"), DIGESTED)
        rows = {"training": self.training.digest, "heldout": self.heldout.digest}
        return digest(options | rows)


def read_preferences(source: str, options: Data) -> Preferences:
    """Read, validate and split preference data; loads neither torch nor transformers.

    Raises:
        DataError: a source that does not exist, or rows that cannot be used.
        ConfigurationError: options that cannot be meant.
        EnvironmentProblem: a source cannot be read or reached.
    """
    training, heldout = load_split_pairs(source, options)
    return Preferences(training, heldout, options)


def tokenize_preferences(
    preferences: Preferences,
    tokenizer: Any,
    progress: Progress = quiet,
    *,
    listed_ends: Sequence[int] = (),
) -> tuple[TokenizedPairs, TokenizedPairs, Counts]:
    """Tokenize training and held-out pairs; the held-out ones keep their texts.

    Raises:
        DataError: pairs that the tokenizer or the limits refuse.
        ConfigurationError: a tokenizer without EOS, or without a chat template for chat data.
    """
    options = preferences.options
    run = partial(tokenize, listed_ends=listed_ends, progress=progress)
    training = run(preferences.training, tokenizer, options, keep_texts=False)
    heldout = run(preferences.heldout, tokenizer, options)
    dropped: Counter[str] = Counter()
    for part in (preferences.training, preferences.heldout, training.tally, heldout.tally):
        dropped.update(part.dropped)
    trained = {prompt_key(pair) for pair in preferences.training.pairs}
    counts = Counts(
        training_pairs=len(training),
        heldout_pairs=len(heldout),
        truncated_prompts=training.tally.truncated_prompts + heldout.tally.truncated_prompts,
        truncated_responses=training.tally.truncated_responses + heldout.tally.truncated_responses,
        shared_prompts=len(trained & {prompt_key(pair) for pair in preferences.heldout.pairs}),
        dropped=dict(dropped),
        unwrapped=sum(
            could_be_wrapped(pair, options)
            for part in (preferences.training, preferences.heldout)
            for pair in (part.pairs if tokenizer.chat_template else ())
        ),
    )
    return training, heldout, counts


def prepare_pairs(
    source: str,
    tokenizer: Any,
    options: Data,
    progress: Progress = quiet,
    *,
    listed_ends: Sequence[int] = (),
) -> tuple[TokenizedPairs, TokenizedPairs, Counts]:
    """Everything at once: tokenized training pairs, held-out pairs, and what became of the data.

    Args:
        source: file, folder or hub id.
        tokenizer: of the policy, from transformers.
        options: the experiment's data section.
        progress: told while tokenizing.
        listed_ends: ids that the policy's maker lists as ends of a response.

    Raises:
        DataError: data that cannot be used.
        ConfigurationError: options or a tokenizer that cannot be meant.
        EnvironmentProblem: a source cannot be read or reached.
    """
    preferences = read_preferences(source, options)
    return tokenize_preferences(preferences, tokenizer, progress, listed_ends=listed_ends)
