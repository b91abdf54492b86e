"""What a model can read, and whether two models speak of the same tokens.

Everything here is found before anything is trained or sampled: a token without an embedding and a
position without a vector would end a run much later, or (worse) give numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch

from dpo_bench.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from dpo_bench.model.logprob_backends import LogprobBackend

log = logging.getLogger(__name__)

POSITION_OFFSETS = range(3)
"""Rows that a table of positions may have beyond the declared number; OPT's begins with two."""


def position_table(model: Any) -> int | None:
    """How many positions a model has vectors for; None where it works them out (rotary, ALiBi).

    Args:
        model: a causal language model of transformers.
    """
    declared = declared_positions(model)
    if declared is None:
        return None
    for module in model.modules():
        is_table = (
            isinstance(module, torch.nn.Embedding) and module is not model.get_input_embeddings()
        )
        if is_table and module.num_embeddings - declared in POSITION_OFFSETS:
            return declared
    for name, buffer in model.named_buffers():
        # GPT-J's and CodeGen's table of angles, CTRL's of sines.
        is_table = name.endswith(("embed_positions", "pos_encoding"))
        if is_table and buffer.ndim == 2 and len(buffer) == declared:
            return declared
    return None


def declared_positions(model: Any) -> int | None:
    """``max_position_embeddings`` of a model's configuration, or None."""
    declared = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(declared) if declared and int(declared) > 0 else None


def require_positions(model: Any, pair: int, prompt: int, new_tokens: int) -> None:
    """See that no text is longer than the model has positions for.

    A model that works its positions out reads on behind what it was trained on: that is said.

    Args:
        model: a causal language model of transformers.
        pair: tokens of the longest prompt with a response of the data.
        prompt: tokens of the longest evaluation prompt.
        new_tokens: limit of what is sampled behind it.

    Raises:
        DataError: a pair is too long.
        ConfigurationError: a sampled response could become too long.
    """
    table, declared, name = position_table(model), declared_positions(model), type(model).__name__
    longest = max(pair, prompt + new_tokens)
    if table is None:
        if declared is not None and longest > declared:
            log.warning(
                "%s was made for texts of up to %d tokens (max_position_embeddings), and the "
                "longest here may have %d: what it says behind that is extrapolation",
                name,
                declared,
                longest,
            )
        return
    if pair > table:
        raise DataError(
            f"{name} has positions for {table} tokens, and the longest pair has {pair}: lower "
            'data.max_prompt_tokens and data.max_response_tokens and set data.over_limit = "drop" '
            'or "truncate".'
        )
    if prompt + new_tokens > table:
        raise ConfigurationError(
            f"{name} has positions for {table} tokens; a prompt of {prompt} tokens with "
            f"evaluation.max_new_tokens = {new_tokens} needs {prompt + new_tokens}: set it to at "
            f"most {max(table - prompt, 0)}, or lower data.max_prompt_tokens."
        )


def require_ids(model: Any, count: int, tokenizer: Any, used: Collection[int]) -> None:
    """See that a model has an embedding for every token that it will be given.

    Args:
        model: of transformers.
        count: how many tokens it embeds, or shares with the model that it is compared with.
        tokenizer: that made the tokens.
        used: ids in the data and those that end a response.

    Raises:
        ConfigurationError: a token has none.
    """
    beyond = sorted(token for token in used if token >= count)
    if beyond:
        names = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in beyond[:3])
        raise ConfigurationError(
            f"{type(model).__name__} embeds {count} tokens, and the tokenizer gives "
            f"{len(beyond)} ids beyond them, such as {names} (id {beyond[0]}): resize the model's "
            "embeddings to the tokenizer (model.resize_token_embeddings(len(tokenizer))) and train "
            "them, or take the tokenizer that the model was trained with."
        )


def share_vocabulary(policy: LogprobBackend, reference: LogprobBackend) -> None:
    """Let two models' distributions range over the tokens that both embed.

    Within a family the embeddings are padded to different sizes; ids beyond the smaller are no
    tokens, but they have logits.
    """
    shared = min(policy.embedded, reference.embedded)
    for path in (policy, reference):
        path.shared_vocabulary = shared if path.embedded > shared else None


def require_same_tokens(ours: Any, theirs: Any, used: Collection[int]) -> None:
    """See that two tokenizers mean the same tokens by the same ids.

    The policy's tokenizer makes the ids that the reference is given.

    Args:
        ours: the policy's tokenizer.
        theirs: the reference's.
        used: ids in the data and those that end a response.

    Raises:
        ConfigurationError: an id is another token in either, or a used one is unknown to the other.
    """
    own, other = _by_id(ours), _by_id(theirs)
    differing = sorted(id_ for id_ in own.keys() & other.keys() if own[id_] != other[id_])
    unknown = sorted(id_ for id_ in used if id_ in own and id_ not in other)
    if not differing and not unknown:
        return
    id_ = (differing or unknown)[0]
    known = f"{other[id_]!r} to the reference" if id_ in other else "unknown to the reference"
    raise ConfigurationError(
        f"policy and reference have different vocabularies: id {id_} is {own[id_]!r} to the policy "
        f"and {known} ({len(differing) or len(unknown)} such ids). KL and log-ratios need one "
        "vocabulary: give a --reference of the policy's family."
    )


def _by_id(tokenizer: Any) -> Mapping[int, str]:
    return {int(id_): token for token, id_ in tokenizer.get_vocab().items()}
