"""Sampling responses so that the same seed gives every policy the same random numbers.

Each response has its own stream of uniform numbers, one per position, turned into tokens by the
inverse of the cumulative distribution. So a sample depends on the policy, the seed and its place in
the list; not (but for rounding) on the batch size, on which rows finished earlier, or on the number
of workers. And two policies that are close draw nearly the same texts, which makes their
differences precise.

Tokens are drawn from the logits that score them. Three ways lead to these, of which the first that
is right for a model is taken (`dpo_bench.model.choose_backend`):

``batched``   prompts of any lengths together, padded on the left, with a cache of the past
``equal``     the same for prompts of one length at a time, without padding and mask
``uncached``  every token by a pass over its whole text, as texts are scored
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dpo_bench.data.batches import consecutive_passes
from dpo_bench.progress import Progress, quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.model.logprob_backends import LogprobBackend, Sampler

Tokens = Sequence[int]
DRAW_ELEMENTS = 1 << 24
"""Most elements of the fp64 cumulative distribution held at once (128 MiB)."""


@dataclass(frozen=True, slots=True)
class Response:
    """A sampled response.

    Attributes:
        prompt_id: index of its prompt.
        sample: index among the responses to that prompt.
        tokens: token ids, the end token included when it came.
        finished: whether an end token came before the limit.
    """

    prompt_id: int
    sample: int
    tokens: tuple[int, ...]
    finished: bool


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """How to sample, the same for every policy.

    Attributes:
        samples: responses per prompt.
        max_new_tokens: limit of a response, tokens.
        temperature: of the softmax.
        end_tokens: ids that end a response.
        seed: of the uniform numbers.
        stream: name of the stream; other streams of the same seed are independent.
        rows_per_batch: responses sampled at once.
    """

    samples: int
    max_new_tokens: int
    temperature: float
    end_tokens: frozenset[int]
    seed: int
    stream: str
    rows_per_batch: int


def uniforms(plan: SamplingPlan, prompts: int) -> NDArray[np.float64]:
    """The random numbers of a plan: shape [prompts, samples, max_new_tokens], in [0, 1)."""
    generator = np.random.default_rng([plan.seed, *plan.stream.encode()])
    return generator.random((prompts, plan.samples, plan.max_new_tokens))


def sample_responses(
    backend: LogprobBackend,
    prompts: Sequence[Tokens],
    plan: SamplingPlan,
    progress: Progress = quiet,
    only: Sequence[int] | None = None,
) -> list[Response]:
    """Sample ``plan.samples`` responses to each prompt.

    Args:
        backend: a model with its kernel path.
        prompts: token ids of each prompt, none empty.
        plan: how to sample.
        progress: told after each token, in responses.
        only: the prompts, by index, to which responses are wanted; None: all. What is sampled does
            not depend on it.

    Returns:
        The responses in the order (prompt, sample).
    """
    numbers = uniforms(plan, len(prompts))
    # Neighbors in length share a batch, which keeps the padding small.
    wanted = range(len(prompts)) if only is None else only
    order = sorted(wanted, key=lambda index: len(prompts[index]))
    rows = [(index, sample) for index in order for sample in range(plan.samples)]
    found: list[Response] = []
    for part in _batches(rows, prompts, plan.rows_per_batch, backend.sampler):
        begun = len(found)

        def tell(share: float, begun: int = begun, size: int = len(part)) -> None:
            progress("sampling", begun + int(share * size), len(rows))

        drawn = torch.from_numpy(np.stack([numbers[index, sample] for index, sample in part]))
        with torch.inference_mode():
            texts = _decode(backend, [prompts[index] for index, _ in part], drawn, plan, tell)
        for (index, sample), tokens in zip(part, texts, strict=True):
            finished = bool(tokens) and tokens[-1] in plan.end_tokens
            found.append(Response(index, sample, tuple(tokens), finished))
        tell(1.0)
    return sorted(found, key=lambda response: (response.prompt_id, response.sample))


def _batches(
    rows: Sequence[tuple[int, int]], prompts: Sequence[Tokens], size: int, sampler: Sampler
) -> Iterator[Sequence[tuple[int, int]]]:
    """Rows (prompt, sample), sorted by the prompt's length, in batches that one way can take."""
    groups: Iterable[Iterable[tuple[int, int]]] = [rows]
    if sampler == "equal":
        groups = (group for _, group in itertools.groupby(rows, lambda row: len(prompts[row[0]])))
    for group in groups:
        members = list(group)
        yield from (members[start : start + size] for start in range(0, len(members), size))


def draw(logits: Tensor, numbers: Tensor) -> Tensor:
    """Tokens by inverse CDF: shapes [row, vocabulary], [row] -> [row].

    The cumulative sum is taken in fp64: in fp32 its rounding is as large as the probability of a
    rare token of a large vocabulary.
    """
    step = max(1, DRAW_ELEMENTS // logits.shape[-1])
    chosen = []
    for start in range(0, len(logits), step):
        cumulative = logits[start : start + step].double().softmax(-1).cumsum(-1)
        # Scaling by the total keeps a number near 1 inside the last token that has probability.
        wanted = numbers[start : start + step, None] * cumulative[:, -1:]
        chosen.append(torch.searchsorted(cumulative, wanted, right=True).squeeze(-1))
    return torch.cat(chosen).clamp_(max=logits.shape[-1] - 1)


class Growing(Protocol):
    """Texts that grow by a token at a time.

    There is a row per prompt at first; `spread` makes a row per response of them, so that a prompt
    is read once for all of its responses.
    """

    def states(self) -> Tensor:
        """What the path's `logits` needs to predict each row's next token; [row, anything]."""

    def select(self, index: Tensor) -> None:
        """Make row ``r`` what row ``index[r]`` is; shape [row]."""

    def append(self, tokens: Tensor) -> None:
        """Add a token to each row; shape [row]."""


class CachedRows:
    """Texts whose past stays in a cache, padded on the left where they are of unlike lengths."""

    def __init__(self, backend: LogprobBackend, prompts: Sequence[Tokens], *, padded: bool) -> None:
        from transformers import DynamicCache

        self.backend = backend
        device = backend.device
        width = max(len(prompt) for prompt in prompts)
        tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, width - len(prompt) :] = torch.as_tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        self.tokens = tokens.to(device)
        self.mask = mask.to(device) if padded else None
        self.positions = (mask.cumsum(-1) - 1).clamp_(min=0).to(device)
        self.cache = DynamicCache(config=backend.model.config)
        accepted = inspect.signature(backend.body.forward).parameters
        # transformers 5.24 renamed the argument.
        self.cache_name = "past_key_values" if "past_key_values" in accepted else "cache"
        passes_on = any(one.kind is one.VAR_KEYWORD for one in accepted.values())
        self.takes_positions = padded and (passes_on or "position_ids" in accepted)
        self.constant = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def states(self) -> Tensor:
        """From a pass over what is new of each row."""
        inputs: dict[str, Any] = {"input_ids": self.tokens, "use_cache": True, **self.constant}
        inputs[self.cache_name] = self.cache
        if self.mask is not None:
            inputs["attention_mask"] = self.mask
        if self.takes_positions:
            inputs["position_ids"] = self.positions
        return self.backend.last_states(inputs)

    def select(self, index: Tensor) -> None:
        """Pick rows of the cache too; every kind of layer has its own way to do that."""
        self.cache.reorder_cache(index)  # type: ignore[arg-type]  # its tensors are of one class
        self.tokens, self.positions = self.tokens[index], self.positions[index]
        if self.mask is not None:
            self.mask = self.mask[index]

    def append(self, tokens: Tensor) -> None:
        """The next pass sees these tokens alone."""
        self.tokens = tokens[:, None]
        self.positions = self.positions[:, -1:] + 1
        if self.mask is not None:
            self.mask = torch.cat([self.mask, torch.ones_like(self.tokens)], dim=1)


class UncachedRows:
    """Texts that are read anew for every token, as they are when they are scored."""

    def __init__(self, backend: LogprobBackend, prompts: Sequence[Tokens]) -> None:
        self.backend = backend
        self.texts = [list(prompt) for prompt in prompts]

    def states(self) -> Tensor:
        """From passes over the whole texts."""
        sizes = np.asarray([len(text) + 1 for text in self.texts], np.int64)
        parts = []
        for rows in consecutive_passes(sizes, self.backend.tokens_per_pass()):
            texts = self.texts[rows.start : rows.stop]
            # The state that predicts a response's first token is the one that is asked for.
            parts.append(
                self.backend.states(self.backend.response_batch(texts, [[0]] * len(texts)))
            )
        return torch.cat(parts)

    def select(self, index: Tensor) -> None:
        """Pick rows."""
        self.texts = [list(self.texts[row]) for row in index.tolist()]

    def append(self, tokens: Tensor) -> None:
        """Each text gets its token."""
        for text, token in zip(self.texts, tokens.tolist(), strict=True):
            text.append(token)


def growing_rows(backend: LogprobBackend, prompts: Sequence[Tokens], sampler: Sampler) -> Growing:
    """Texts that grow from these prompts, in one of the ways; ``equal`` wants equal lengths."""
    if sampler == "uncached":
        return UncachedRows(backend, prompts)
    return CachedRows(backend, prompts, padded=sampler == "batched")


def _decode(
    backend: LogprobBackend,
    prompts: Sequence[Tokens],
    numbers: Tensor,
    plan: SamplingPlan,
    tell: Callable[[float], None],
) -> list[list[int]]:
    """Token ids of one response to each prompt; a prompt may stand in neighboring rows."""
    starts = [at for at, prompt in enumerate(prompts) if at == 0 or prompt is not prompts[at - 1]]
    owner = torch.zeros(len(prompts), dtype=torch.long)
    owner[starts[1:]] = 1
    device = backend.device
    rows = growing_rows(backend, [prompts[at] for at in starts], backend.sampler)
    numbers, names = numbers.to(device), torch.arange(len(prompts), device=device)
    ends = torch.tensor(sorted(plan.end_tokens), device=device)
    written = torch.full((len(prompts), plan.max_new_tokens), -1, dtype=torch.long, device=device)
    growing = torch.ones(len(prompts), dtype=torch.bool, device=device)
    for step in range(plan.max_new_tokens):
        states = rows.states()
        if step == 0 and len(starts) < len(prompts):
            index = owner.cumsum(0).to(device)
            states = states[index]
            rows.select(index)
        tokens = draw(backend.logits(states).float() / plan.temperature, numbers[:, step])
        written[names, step] = torch.where(growing, tokens, -1)
        growing = growing & ~torch.isin(tokens, ends)
        alive = int(growing.sum())
        if alive == 0:
            break
        tell(max(1 - alive / len(prompts), (step + 1) / plan.max_new_tokens))
        rows.append(tokens)
        if alive < 0.8 * len(growing):  # the rows that have ended would only cost time
            index = growing.nonzero().squeeze(-1)
            rows.select(index)
            numbers, names = numbers[index], names[index]
            growing = torch.ones(alive, dtype=torch.bool, device=device)
    return [[token for token in row if token >= 0] for row in written.tolist()]
