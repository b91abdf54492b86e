"""Sampling responses so that the same seed gives every policy the same random numbers.

Each response has its own stream of uniform numbers, one per position, turned into tokens by the
inverse of the cumulative distribution. So a sample depends on the policy, the seed and its place in
the list; not (but for rounding) on the batch size, on which rows finished earlier, or on the number
of workers. And two policies that are close draw nearly the same texts, which makes their
differences precise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dpo_bench.progress import Progress, quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    model: Any,
    prompts: Sequence[Tokens],
    plan: SamplingPlan,
    autocast: Callable[[], Any],
    progress: Progress = quiet,
) -> list[Response]:
    """Sample ``plan.samples`` responses to each prompt.

    Args:
        model: a causal language model of transformers, on its device.
        prompts: token ids of each prompt, none empty.
        plan: how to sample.
        autocast: makes the context in which the model runs.
        progress: told after each batch.

    Returns:
        The responses in the order (prompt, sample).
    """
    numbers = uniforms(plan, len(prompts))
    # Neighbours in length share a batch, which keeps the padding small.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    rows = [(index, sample) for index in order for sample in range(plan.samples)]
    found: list[Response] = []
    for start in range(0, len(rows), plan.rows_per_batch):
        part = rows[start : start + plan.rows_per_batch]
        drawn = torch.from_numpy(np.stack([numbers[index, sample] for index, sample in part]))
        with torch.inference_mode(), autocast():
            texts = _decode(model, [prompts[index] for index, _ in part], drawn, plan)
        for (index, sample), tokens in zip(part, texts, strict=True):
            finished = bool(tokens) and tokens[-1] in plan.end_tokens
            found.append(Response(index, sample, tuple(tokens), finished))
        progress("sampling", start + len(part), len(rows))
    return sorted(found, key=lambda response: (response.prompt_id, response.sample))


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


class _Rows:
    """The rows of one batch that are still growing.

    It begins with a row per prompt; `spread` makes a row per response of them, so that a prompt is
    read once for all of its responses.
    """

    def __init__(self, model: Any, prompts: Sequence[Tokens], numbers: Tensor) -> None:
        from transformers import DynamicCache

        device = model.device
        width = max(len(prompt) for prompt in prompts)
        self.tokens = torch.zeros(len(prompts), width, dtype=torch.long)
        self.mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            self.tokens[row, width - len(prompt) :] = torch.as_tensor(prompt)
            self.mask[row, width - len(prompt) :] = 1
        self.tokens, self.mask = self.tokens.to(device), self.mask.to(device)
        self.positions = (self.mask.cumsum(-1) - 1).clamp_(min=0)
        self.numbers = numbers.to(device)
        self.names = torch.arange(len(numbers), device=device)
        self.cache = DynamicCache(config=model.config)

    def forward(self, model: Any, accepted: Container[str]) -> Tensor:
        """Logits of the next token, fp32, shape [row, vocabulary]."""
        optional = {"position_ids": self.positions, "logits_to_keep": 1}
        # transformers 5.24 renamed the argument.
        cache = "cache" if "cache" in accepted else "past_key_values"
        output = model(
            input_ids=self.tokens,
            attention_mask=self.mask,
            use_cache=True,
            **{cache: self.cache},
            **{name: value for name, value in optional.items() if name in accepted},
        )
        return output.logits[:, -1].float()  # type: ignore[no-any-return]

    def spread(self, owner: Tensor) -> None:
        """Make row ``r`` the continuation of prompt ``owner[r]``; shape [row]."""
        if len(owner) == len(self.mask):
            return
        self.cache.batch_select_indices(owner)
        self.mask, self.positions = self.mask[owner], self.positions[owner]

    def append(self, tokens: Tensor) -> None:
        self.tokens = tokens[:, None]
        self.mask = torch.cat([self.mask, torch.ones_like(self.tokens)], dim=1)
        self.positions = self.positions[:, -1:] + 1

    def keep(self, growing: Tensor) -> None:
        """Drop the rows that have ended: they would only cost time."""
        index = growing.nonzero().squeeze(-1)
        self.cache.batch_select_indices(index)
        self.tokens, self.mask = self.tokens[index], self.mask[index]
        self.positions, self.numbers = self.positions[index], self.numbers[index]
        self.names = self.names[index]


def _decode(
    model: Any, prompts: Sequence[Tokens], numbers: Tensor, plan: SamplingPlan
) -> list[list[int]]:
    # A prompt of several responses is the same object in neighbouring rows.
    starts = [at for at, prompt in enumerate(prompts) if at == 0 or prompt is not prompts[at - 1]]
    owner = torch.zeros(len(prompts), dtype=torch.long)
    owner[starts[1:]] = 1
    owner = owner.cumsum(0).to(model.device)
    rows = _Rows(model, [prompts[at] for at in starts], numbers)
    accepted = inspect.signature(model.forward).parameters
    ends = torch.tensor(sorted(plan.end_tokens), device=model.device)
    written = torch.full(
        (len(prompts), plan.max_new_tokens), -1, dtype=torch.long, device=model.device
    )
    growing = torch.ones(len(prompts), dtype=torch.bool, device=model.device)
    for step in range(plan.max_new_tokens):
        logits = rows.forward(model, accepted)
        if step == 0:
            logits = logits[owner]
            rows.spread(owner)
        tokens = draw(logits / plan.temperature, rows.numbers[:, step])
        written[rows.names, step] = torch.where(growing, tokens, -1)
        growing = growing & ~torch.isin(tokens, ends)
        alive = int(growing.sum())
        if alive == 0:
            break
        rows.append(tokens)
        if alive < 0.8 * len(growing):
            rows.keep(growing)
            growing = torch.ones(alive, dtype=torch.bool, device=model.device)
    return [[token for token in row if token >= 0] for row in written.tolist()]
