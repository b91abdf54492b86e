"""Which backend is right for a model, found by trying it on a few random tokens.

Architectures differ in what they do between hidden states and logits (soft-caps, scales,
projections, biases) and in attention (position biases, windows, recurrent states); the numbers show
it, whatever the architecture is called.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from dpo_bench.errors import EnvironmentProblem
from dpo_bench.model.compatibility import declared_positions
from dpo_bench.model.growing_rows import growing_rows
from dpo_bench.model.logprob_backends import (
    FullLogitsBackend,
    HiddenStateBackend,
    LogprobBackend,
    OwnHeadBackend,
    Sampler,
)
from dpo_bench.model.packed_attention import Kernel, UnsupportedAttentionError
from dpo_bench.model.slot_rows import SlotRows

log = logging.getLogger(__name__)

PROBE_TOKENS = 12
SAMPLED_TOKENS = 6
"""Tokens by which the probe of the sampler grows its texts."""
TINY = 1 << 19
"""Parameters below which slots save nothing on a CPU. Measured in CPU time against ``batched``: the
embedded world (64 thousand parameters) 1.14 for 512 responses in one batch and .93 for 4,096 in
eight; models of 1.3 to 6 million parameters .40 to .90; SmolLM2 .66 to .88."""
PROBE_SEED = 20230529
VARLEN_WORSE = 2.0
"""How many times the error of bf16 another attention kernel may make."""
PROBE_LOGITS = 30.0
"""Standard deviation of the logits at which the head is probed: soft-caps (30 or 50 in the models
that have them) and scales act on logits of this size, and hardly on a fresh model's small ones."""


def choose_backend(
    model: Any, precision: str = "fp32", longest: int = PROBE_TOKENS
) -> LogprobBackend:
    """The quickest backend that is right for a model.

    Args:
        model: a causal language model of transformers, on its device, in eval mode.
        precision: ``fp32`` or ``bf16``.
        longest: tokens of the longest text that it will be given: packing is tried at this length,
            where windows and position biases show.

    Raises:
        EnvironmentProblem: no backend is right: the model is not causal, or padding changes it.
    """
    with torch.no_grad():
        masks_padding = _needs_mask(model)
        backend = _head(model)
    padded = backend(model, masks_padding=masks_padding)
    _require_readable(padded, longest)
    _require_independent(padded, longest)
    packs = not masks_padding and _packing_is_exact(backend(model, packs=True), longest)
    sampler = _sampler(padded, longest)
    chosen = backend(model, precision, masks_padding=masks_padding, packs=packs, sampler=sampler)
    if packs and precision == "bf16" and _varlen_is_right(chosen, longest):
        chosen.attention = "varlen"
    return chosen


def _require_readable(backend: LogprobBackend, longest: int) -> None:
    """See that a model can read a text as long as any will be."""
    text = _probe_texts(backend.model, max(longest, PROBE_TOKENS))[0]
    try:
        with torch.no_grad():
            backend.states(backend.response_batch([text[0]], [text[1]]))
    except (AttributeError, IndexError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EnvironmentProblem(
            f"{type(backend.model).__name__} cannot read a text of {longest} tokens, as long as "
            f"the longest here ({reason}). Lower data.max_prompt_tokens,"
            " data.max_response_tokens or "
            "evaluation.max_new_tokens, or take another model."
        ) from error


def _require_independent(backend: LogprobBackend, longest: int) -> None:
    """See that a short text is the same alone and beside the longest.

    Rotary positions that are scaled dynamically (``dynamic``, ``longrope``) change for a whole
    batch when its longest text passes a limit.
    """
    longer, _, _, shorter = _probe_texts(backend.model, max(longest, PROBE_TOKENS))
    shorter = (shorter[0], shorter[1][:SAMPLED_TOKENS])
    with torch.no_grad():
        alone = backend.logits(backend.states(backend.response_batch([shorter[0]], [shorter[1]])))
        beside = backend.response_batch([shorter[0], longer[0]], [shorter[1], longer[1]])
        both = backend.logits(backend.states(beside)[: len(shorter[1])])
    if not equal_but_for_rounding(both, alone):
        raise EnvironmentProblem(
            f"{type(backend.model).__name__} gives a short text other log-probs beside one of "
            f"{longest} tokens than alone, as models do whose rotary positions are scaled by the "
            "longest text of a batch. Keep all texts below the length at which it scales (see "
            "rope_parameters in its config.json): lower data.max_prompt_tokens, "
            "data.max_response_tokens and evaluation.max_new_tokens."
        )


def _packing_is_exact(backend: LogprobBackend, longest: int) -> bool:
    """Whether packed texts have the log-probs that they have when padded.

    Two prompts of unlike lengths with two responses each, the longest text as long as any will be.
    """
    rows = _probe_texts(backend.model, max(longest, PROBE_TOKENS))
    prompts, responses = [row[0] for row in rows], [row[1] for row in rows]
    padded = type(backend)(backend.model)
    try:
        with torch.no_grad():
            ours = backend.logits(backend.states(backend.response_batch(prompts, responses)))
            theirs = padded.logits(padded.states(padded.response_batch(prompts, responses)))
        if equal_but_for_rounding(ours, theirs):
            return True
        reason = "it gives packed texts other log-probs"
    except (
        UnsupportedAttentionError,
        AttributeError,
        IndexError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
    log.info(
        "%s is not packed (%s): its texts are padded and each response brings a copy of its "
        "prompt, which takes longer",
        type(backend.model).__name__,
        reason,
    )
    return False


def _varlen_is_right(backend: LogprobBackend, longest: int) -> bool:
    """Whether attention by the kernel for texts of any lengths is as precise as bucket by bucket.

    In the precision of training: in fp32 there is no such kernel. On a CPU there is none at all.
    """
    rows = _probe_texts(backend.model, max(longest, PROBE_TOKENS))
    batch = backend.response_batch([row[0] for row in rows], [row[1] for row in rows])

    def found(precision: str, attention: Kernel) -> Tensor:
        trial = copy.copy(backend)
        trial.precision, trial.attention = precision, attention
        return trial.logits(trial.states(batch)).log_softmax(-1)

    try:
        with torch.no_grad():
            ours, exact = found("bf16", "varlen"), found("fp32", "buckets")
            usual = found("bf16", "buckets")
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        log.debug("no varlen_attn for %s: %s", type(backend.model).__name__, error)
        return False
    off, accepted = ((one - exact).square().mean().sqrt() for one in (ours, usual))
    return bool(off <= VARLEN_WORSE * accepted)


def _sampler(backend: LogprobBackend, longest: int) -> Sampler:
    """The quickest way to sample in which every token is drawn from the logits that score it."""
    ways: tuple[Sampler, ...] = ("continuous", "batched", "equal")
    if backend.masks_padding:  # in slots nothing is masked behind a prompt's end
        ways = ways[1:]
    elif backend.device.type == "cpu" and backend.model.num_parameters() < TINY:
        ways = ("batched", "continuous", "equal")
    reason = ""
    for way in ways:
        try:
            with torch.inference_mode():
                if _sampling_is_exact(backend, way, longest):
                    break
            reason = reason or "with a cache of the past it gives other logits than without"
        except (
            UnsupportedAttentionError,
            AttributeError,
            TypeError,
            ValueError,
            RuntimeError,
            IndexError,
        ) as error:
            reason = reason or " ".join(str(error).split())[:200]
    else:
        way = "uncached"
    if way in {"equal", "uncached"}:
        log.info(
            "%s is sampled %s (%s), which takes longer",
            type(backend.model).__name__,
            "one length of prompts at a time" if way == "equal" else "without a cache of the past",
            reason,
        )
    return way


def _sampling_is_exact(backend: LogprobBackend, way: Sampler, longest: int) -> bool:
    """Whether texts that grow token by token have the logits that score them when they are whole.

    Two prompts of unlike lengths, the longer as long as any text will be, grow by the same tokens
    in either form; a prompt gets two responses, and rows are dropped on the way, as in a sweep.
    """
    texts = _probe_texts(backend.model, max(longest, PROBE_TOKENS))
    longer, shorter = (prompt + response for prompt, response in (texts[0], texts[2]))
    longer = longer[: max(2, longest - SAMPLED_TOKENS)]
    if way == "continuous":
        return _refills_as_scored(backend, longer, shorter)
    if way == "equal":
        return all(_grows_as_scored(backend, way, [prompt]) for prompt in (longer, shorter))
    return _grows_as_scored(backend, way, [longer, shorter])


def _grows_as_scored(backend: LogprobBackend, way: Sampler, prompts: list[list[int]]) -> bool:
    device, owner = backend.device, [at // 2 for at in range(2 * len(prompts))]
    generator = torch.Generator().manual_seed(PROBE_SEED)
    shape = len(owner), SAMPLED_TOKENS
    tokens = torch.randint(0, backend.vocabulary, shape, generator=generator)
    batch = backend.response_batch([prompts[at] for at in owner], tokens.tolist())
    scored = backend.logits(backend.states(batch)).view(*shape, -1)
    tokens = tokens.to(device)
    rows, names = growing_rows(backend, prompts, way), torch.arange(len(owner), device=device)
    for step in range(SAMPLED_TOKENS):
        states = rows.states()
        if step == 0:
            index = torch.tensor(owner, device=device)
            states = states[index]
            rows.select(index)
        if not equal_but_for_rounding(backend.logits(states), scored[names, step]):
            return False
        rows.append(tokens[names, step])
        if step == SAMPLED_TOKENS // 2:
            kept = names[1:]
            rows.select(kept)
            names = kept
    return True


def _refills_as_scored(backend: LogprobBackend, longer: list[int], shorter: list[int]) -> bool:
    """Two responses to the longer prompt, in the place of one of which one to the shorter begins.

    So three texts grow, of unlike lengths, one of them where there was another.
    """
    owners = [longer, longer, shorter]
    generator = torch.Generator().manual_seed(PROBE_SEED)
    shape = len(owners), SAMPLED_TOKENS
    tokens = torch.randint(0, backend.vocabulary, shape, generator=generator)
    batch = backend.response_batch(owners, tokens.tolist())
    scored = backend.logits(backend.states(batch)).view(*shape, -1)
    tokens = tokens.to(backend.device)
    rows = SlotRows(backend, max(len(longer), len(shorter)) + SAMPLED_TOKENS, 2)
    read = rows.read([longer, shorter])
    texts, steps, states = [0, 1], [0, 0], rows.begin(read, [0, 0], [0, 1])
    for _ in range(SAMPLED_TOKENS):
        if not equal_but_for_rounding(backend.logits(states), scored[texts, steps]):
            return False
        if steps == [SAMPLED_TOKENS // 2] * 2:
            texts[0], steps[0] = 2, 0
            begun = backend.logits(rows.begin(read, [1], [0]))
            if not equal_but_for_rounding(begun, scored[2:, 0]):
                return False
        states = rows.grow(tokens[texts, steps])
        steps = [step + 1 for step in steps]
    return True


def _probe_texts(model: Any, longest: int) -> list[tuple[list[int], list[int]]]:
    """Prompts with responses: the first two share a prompt, as do the others."""
    generator = torch.Generator().manual_seed(PROBE_SEED)
    vocabulary = int(model.config.get_text_config().vocab_size)

    def ids(length: int) -> list[int]:
        found: list[int] = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
        return found

    first, second = ids(longest // 3), ids(5)
    return [
        (first, ids(longest - len(first))),
        (first, ids(longest // 4)),
        (second, ids(2)),
        (second, ids(longest // 2 - 2)),
    ]


def _needs_mask(model: Any) -> bool:
    """Whether padding must be masked: run rows alone, shortened and padded, and compare."""
    ids = probe_ids(model)
    half = ids.shape[1] // 2
    alone, short = _all_logits(model, ids), _all_logits(model, ids[:, :half])
    name = type(model).__name__
    if not equal_but_for_rounding(alone[:, :half], short):
        raise EnvironmentProblem(
            f"{name} is no causal language model: what it says of a token depends on the tokens "
            "behind it. Give a model that predicts the next token."
        )
    padded = ids.repeat(2, 1)
    padded[1, half:] = 0
    mask = torch.ones_like(padded)
    mask[1, half:] = 0
    for options in ({}, {"attention_mask": mask}):
        logits = _all_logits(model, padded, **options)
        if equal_but_for_rounding(logits[:1], alone) and equal_but_for_rounding(
            logits[1:, :half], short
        ):
            return bool(options)
    raise EnvironmentProblem(
        f"{name} gives a text other log-probs when a longer one is in the same batch, its padding "
        "masked or not: this architecture cannot be measured reliably."
    )


def _head(model: Any) -> type[LogprobBackend]:
    """The cheapest way from hidden states to logits that is the model's."""
    ways: dict[type[LogprobBackend], Callable[[Any], bool]] = {
        HiddenStateBackend: _head_is_all,
        OwnHeadBackend: _head_is_apart,
    }
    for kind, is_right in ways.items():
        try:
            if is_right(model):
                return kind
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            log.debug("%s has no head for a %s: %s", type(model).__name__, kind.__name__, error)
    log.info(
        "%s makes its logits of more than hidden states: its log-probs are taken from its logits "
        "at every position, which needs more memory",
        type(model).__name__,
    )
    return FullLogitsBackend


def _head_is_apart(model: Any) -> bool:
    """Whether the model makes a position's logits of the base's hidden state there, and no more.

    Tried on a few tokens in two halves.
    """
    ids, backend = probe_ids(model), OwnHeadBackend(model)
    hidden = model.base_model(input_ids=ids).last_hidden_state[0]
    parts = [backend.logits(half) for half in hidden.split((len(hidden) + 1) // 2)]
    return equal_but_for_rounding(torch.cat(parts), _all_logits(model, ids)[0])


def _head_is_all(model: Any) -> bool:
    """Whether logits are the output embedding of the base model's hidden states, and nothing more.

    Tried on a few tokens, and with random hidden states that make large logits.
    """
    ids, backend = probe_ids(model), HiddenStateBackend(model)
    hidden = model.base_model(input_ids=ids).last_hidden_state
    if not equal_but_for_rounding(backend.logits(hidden), _all_logits(model, ids)):
        return False
    generator = torch.Generator().manual_seed(PROBE_SEED)
    large = torch.randn(hidden.shape, generator=generator, dtype=hidden.dtype).to(hidden.device)
    large *= PROBE_LOGITS / backend.logits(large).std().clamp_min(1e-12)
    with _head_given(model, large):
        return equal_but_for_rounding(backend.logits(large), _all_logits(model, ids))


@contextlib.contextmanager
def _head_given(model: Any, states: Tensor) -> Iterator[None]:
    """Let the output embedding see these hidden states, whatever the model hands it."""
    head = model.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _module, _inputs: (states,))
    try:
        yield
    finally:
        handle.remove()


def _all_logits(model: Any, ids: Tensor, **options: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, **options).logits
    return logits


def probe_ids(model: Any) -> Tensor:
    """A row of random tokens, the same for every model with this vocabulary."""
    config = model.config.get_text_config()
    width = min(PROBE_TOKENS, declared_positions(model) or PROBE_TOKENS)
    generator = torch.Generator().manual_seed(PROBE_SEED)
    ids = torch.randint(0, int(config.vocab_size), (1, width), generator=generator)
    return ids.to(model.device)


def equal_but_for_rounding(ours: Tensor, theirs: Tensor) -> bool:
    """Equal but for rounding, relative to the largest value."""
    # Models in fp64 round some of what they do to fp32 all the same, such as eager attention. In
    # fp32, rounding was at most 2e-6 for SmolLM2-135M at 400 tokens, and a convolution with weights
    # of .02 that runs on across packed texts was at 1e-4.
    tolerance = 1e-6 if theirs.dtype == torch.float64 else 2e-5
    finite = theirs.isfinite()
    if not torch.equal(ours.isfinite(), finite):
        return False
    difference, size = (ours - theirs)[finite].abs(), theirs[finite].abs()
    return not len(size) or bool(difference.max() <= tolerance * size.max())
