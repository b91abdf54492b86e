"""Sampling responses so that the same seed gives every policy the same random numbers.

Each response has its own stream of uniform numbers, one per position, turned into tokens by the
inverse of the cumulative distribution. So a sample depends on the policy, the seed and its place in
the list; not (but for rounding) on the batch size, on which rows finished earlier, or on the number
of workers. And two policies that are close draw nearly the same texts, which makes their
differences precise.

Tokens are drawn from the logits that score them. Four ways lead to these, of which the first that
is right for a model is taken (`dpo_bench.model.choose_backend`):

``continuous``  prompts of any lengths; where a response ends the next one begins
``batched``     prompts of any lengths together, padded on the left, with a cache of the past
``equal``       the same for prompts of one length at a time, without padding and mask
``uncached``    every token by a pass over its whole text, as texts are scored
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dpo_bench.model.growing_rows import Tokens, growing_rows
from dpo_bench.model.slot_rows import ReadPrompts, SlotRows
from dpo_bench.progress import Progress, quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dpo_bench.model.logprob_backends import LogprobBackend, Sampler

DRAW_ELEMENTS = 1 << 24
"""Most elements of the fp64 cumulative distribution held at once (128 MiB)."""
LOOK_EVERY = {"cpu": 1}
"""Tokens that rows grow by before it is seen which of them have ended, by device; `LOOK_EVERY_ELSE`
on others: to look is to wait for them."""
LOOK_EVERY_ELSE = 16
REFILLED_SHARE = 0.1
"""Share of the rows that must have ended before others take their places."""
KEPT_SHARE = 0.8
"""Rows are put together when fewer than this share of them still grow, and none are waiting."""


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
        rows_per_batch: most responses sampled at once.
        part: which of the samples are taken; None: all. Each is the same in any part.
    """

    samples: int
    max_new_tokens: int
    temperature: float
    end_tokens: frozenset[int]
    seed: int
    stream: str
    rows_per_batch: int
    part: range | None = None


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
    """Sample the plan's responses to each prompt.

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
    part = range(plan.samples) if plan.part is None else plan.part
    rows = [(index, sample) for index in order for sample in part]
    task = _Task(backend, prompts, rows, numbers, plan)
    decode = _in_slots if backend.sampler == "continuous" else _in_batches
    found: list[Response] = []
    with torch.inference_mode():
        for (index, sample), tokens in decode(task, progress):
            finished = bool(tokens) and tokens[-1] in plan.end_tokens
            found.append(Response(index, sample, tuple(tokens), finished))
    return sorted(found, key=lambda response: (response.prompt_id, response.sample))


Row = tuple[int, int]
"""A prompt, by its index, and the number of a response to it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What is to be sampled.

    Attributes:
        backend: samples it.
        prompts: token ids of each prompt.
        rows: the responses in the order in which they begin; those to one prompt are neighbors.
        numbers: shape [prompt, sample, token].
        plan: how to sample.
    """

    backend: LogprobBackend
    prompts: Sequence[Tokens]
    rows: Sequence[Row]
    numbers: NDArray[np.float64]
    plan: SamplingPlan


def _in_batches(task: _Task, progress: Progress) -> Iterator[tuple[Row, list[int]]]:
    """Responses in batches, each of which is over when its last response is."""
    backend, prompts, rows, plan = task.backend, task.prompts, task.rows, task.plan
    begun = 0
    for part in _batches(rows, prompts, plan.rows_per_batch, backend.sampler):

        def tell(share: float, begun: int = begun, size: int = len(part)) -> None:
            progress("sampling", begun + int(share * size), len(rows))

        drawn = torch.from_numpy(np.stack([task.numbers[row] for row in part]))
        texts = _decode(backend, [prompts[index] for index, _ in part], drawn, plan, tell)
        yield from zip(part, texts, strict=True)
        begun += len(part)
        tell(1.0)


def _batches(
    rows: Sequence[Row], prompts: Sequence[Tokens], size: int, sampler: Sampler
) -> Iterator[Sequence[Row]]:
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


def _in_slots(task: _Task, progress: Progress) -> Iterator[tuple[Row, list[int]]]:
    """Responses of which the next begins where one has ended."""
    total, done = len(task.rows), 0
    if not total:
        return
    decoding = _Continuous(task)
    while done < total:
        decoding.fill()
        for number, tokens in decoding.ended():
            done += 1
            yield task.rows[number], tokens
        progress("sampling", done + decoding.written // task.plan.max_new_tokens, total)
        decoding.grow()


class _Continuous:
    """Responses under way, each in a slot, and those that wait for one."""

    def __init__(self, task: _Task) -> None:
        backend, prompts, rows, plan = task.backend, task.prompts, task.rows, task.plan
        device = backend.device
        self.task, self.backend, self.rows, self.plan = task, backend, rows, plan
        self.looked_after = LOOK_EVERY.get(device.type, LOOK_EVERY_ELSE)
        self.begun = 0
        longest = max(len(prompts[index]) for index, _ in rows) + plan.max_new_tokens
        self.slots = SlotRows(backend, longest, min(plan.rows_per_batch, len(rows)))
        self.place: dict[int, int] = {}
        self.read = self._read_ahead()
        slots = self.slots.slots
        # Which response is in a slot: -1: none. Slots from `used` on have not been taken.
        self.name = np.full(slots, -1)
        self.steps = np.zeros(slots, np.int64)
        self.used = 0
        self.ends = torch.tensor(sorted(plan.end_tokens), device=device)
        # Of each slot: random numbers, tokens, how many these are, the last, and whether it ended.
        # Tokens beyond the limit go to one more place, which nobody reads.
        self.drawn = torch.zeros(slots, plan.max_new_tokens, dtype=torch.float64, device=device)
        self.tokens = torch.zeros(slots, plan.max_new_tokens + 1, dtype=torch.long, device=device)
        self.count = torch.zeros(slots, dtype=torch.long, device=device)
        self.last = torch.zeros_like(self.count)
        self.over = torch.zeros(slots, dtype=torch.bool, device=device)

    @property
    def written(self) -> int:
        """Tokens of the responses under way."""
        return int(self.steps[self.name >= 0].sum())

    def fill(self) -> None:
        """Let waiting responses begin, or put those that still grow together."""
        free = np.flatnonzero(self.name < 0)
        if self.begun < len(self.rows):
            if len(free) >= max(1, REFILLED_SHARE * len(self.name)):
                self._begin(free.tolist())
        elif self.used - (growing := int((self.name >= 0).sum())) > (1 - KEPT_SHARE) * self.used:
            self._put_together(growing)

    def grow(self) -> None:
        """Add tokens to all responses under way, as many as are not looked after one by one."""
        slots = torch.arange(self.used, device=self.backend.device)
        for _ in range(self.looked_after if self.used else 0):
            self._draw(slots, self.slots.grow(self.last[: self.used]))
            self.steps[: self.used] += 1

    def ended(self) -> list[tuple[int, list[int]]]:
        """Responses that have ended since, by their numbers, with their tokens."""
        over = self.over[: self.used].cpu().numpy()
        limit = self.plan.max_new_tokens
        slots = np.flatnonzero(
            (self.name[: self.used] >= 0) & (over | (self.steps[: self.used] >= limit))
        )
        if not len(slots):
            return []
        index = torch.from_numpy(slots).to(self.backend.device)
        counts, texts = self.count[index].tolist(), self.tokens[index].tolist()
        found = [
            (number, text[: min(count, limit)])
            for number, count, text in zip(self.name[slots].tolist(), counts, texts, strict=True)
        ]
        self.name[slots] = -1
        self.over[index] = True
        self.slots.empty(slots)
        return found

    def _begin(self, free: list[int]) -> None:
        """Let waiting responses begin in free slots."""
        while free and self.begun < len(self.rows):
            if self.rows[self.begun][0] not in self.place:
                self.read = self._read_ahead()
            names = self.rows[self.begun : self.begun + len(free)]
            names = [*itertools.takewhile(lambda name: name[0] in self.place, names)]
            taken, free = free[: len(names)], free[len(names) :]
            states = self.slots.begin(self.read, [self.place[index] for index, _ in names], taken)
            slots = torch.tensor(taken, device=self.backend.device)
            self.drawn[slots] = torch.from_numpy(
                np.stack([self.task.numbers[name] for name in names])
            ).to(self.backend.device)
            self.count[slots], self.over[slots] = 0, False
            self._draw(slots, states)
            self.name[taken], self.steps[taken] = self.begun + np.arange(len(names)), 1
            self.begun += len(names)
            self.used = max(self.used, taken[-1] + 1)

    def _read_ahead(self) -> ReadPrompts:
        """Read the next prompts, as many as one pass takes, and remember where they are."""
        room, prompts = self.backend.tokens_per_pass(), self.task.prompts
        names: list[int] = []
        for name in dict.fromkeys(index for index, _ in self.rows[self.begun :]):
            # Each is as long as the longest, which is the last one.
            if names and (len(names) + 1) * len(prompts[name]) > room:
                break
            names.append(name)
        self.place = {name: at for at, name in enumerate(names)}
        return self.slots.read([prompts[name] for name in names])

    def _draw(self, slots: Tensor, states: Tensor) -> None:
        """Draw the next token of responses in some slots; shapes [row], [row, anything]."""
        limit, count, over = self.plan.max_new_tokens, self.count[slots], self.over[slots]
        number = self.drawn[slots, count.clamp(max=limit - 1)]
        logits = self.backend.logits(states).float() / self.plan.temperature
        tokens = draw(logits, number)
        self.last[slots] = tokens
        self.tokens[slots, count.clamp(max=limit)] = tokens
        self.count[slots] = count + ~over
        self.over[slots] = over | torch.isin(tokens, self.ends)

    def _put_together(self, growing: int) -> None:
        """Move responses that grow to the first slots, so that passes are made over them alone."""
        target = np.flatnonzero(self.name[:growing] < 0)
        source = growing + np.flatnonzero(self.name[growing : self.used] >= 0)
        if len(target):
            device = self.backend.device
            to, of = torch.from_numpy(target).to(device), torch.from_numpy(source).to(device)
            self.slots.move(of, to)
            for values in (self.drawn, self.tokens, self.count, self.last, self.over):
                values[to] = values[of]
            self.name[target], self.steps[target] = self.name[source], self.steps[source]
            self.name[source] = -1
        self.used = growing
