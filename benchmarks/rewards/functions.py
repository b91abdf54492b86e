"""Reward functions that misbehave: ``--reward benchmarks.rewards.functions:NAME``."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def length(prompts: list[str], responses: list[str]) -> list[float]:
    """Characters of a response: what most of the others come to."""
    return [float(len(one)) for one in responses]


def trlkw(completions: list[str], prompts: list[str] | None = None, **kwargs: Any) -> list[float]:
    """TRL's signature, with the completions first."""
    return [float(len(one)) for one in completions]


def accuracy(completions: list[str], solution: list[str], **kwargs: Any) -> list[float]:
    """TRL's own reward, which wants a column of the data."""
    return [float(one == other) for one, other in zip(completions, solution, strict=True)]


def whitened(prompts: list[str], responses: list[str]) -> list[float]:
    """Depends on what else is in the call; of equal responses it is not a number."""
    values = np.array([len(one) for one in responses], dtype=float)
    deviation = values.std()
    return list((values - values.mean()) / (deviation or 1.0))


def divided(prompts: list[str], responses: list[str]) -> Any:
    """The same without the guard."""
    values = np.array([len(one) for one in responses], dtype=float)
    with np.errstate(all="ignore"):
        return (values - values.mean()) / values.std()


def of_prompts(prompts: list[str], responses: list[str]) -> list[float]:
    """Does not read the responses."""
    return [float(len(one)) for one in prompts]


def drawn(prompts: list[str], responses: list[str]) -> list[float]:
    """Another number each time."""
    return [random.random() for _ in responses]


class Scorer:
    """An object that can be called."""

    def __call__(self, prompts: list[str], responses: list[str]) -> list[float]:
        """Characters."""
        return length(prompts, responses)


def weighted(weight: float, prompts: list[str], responses: list[str]) -> list[float]:
    """Characters times a weight."""
    return [weight * len(one) for one in responses]


class OfTexts(torch.nn.Module):
    """A torch module that takes texts."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, prompts: list[str], responses: list[str]) -> torch.Tensor:
        """Characters, with a gradient."""
        return self.weight * torch.tensor([float(len(one)) for one in responses])


scorer = Scorer()
part = functools.partial(weighted, 1.0)
of_texts = OfTexts()
of_tensors = torch.nn.Linear(2, 1)


@functools.lru_cache
def cached(prompts: list[str], responses: list[str]) -> list[float]:
    """Lists cannot be kept by value."""
    return length(prompts, responses)


def bf16(prompts: list[str], responses: list[str]) -> torch.Tensor:
    """In bf16, which holds these lengths exactly."""
    return torch.tensor([len(one) for one in responses], dtype=torch.bfloat16)


def gradient(prompts: list[str], responses: list[str]) -> torch.Tensor:
    """A reward model called without no_grad."""
    return torch.tensor([float(len(one)) for one in responses], requires_grad=True)


def generated(prompts: list[str], responses: list[str]) -> Iterator[float]:
    """One after the other."""
    yield from length(prompts, responses)


def keyed(prompts: list[str], responses: list[str]) -> dict[str, float]:
    """A dict."""
    return {one: float(len(one)) for one in responses}


async def later(prompts: list[str], responses: list[str]) -> list[float]:
    """A coroutine."""
    return length(prompts, responses)


def complex_numbers(prompts: list[str], responses: list[str]) -> list[complex]:
    """Not real."""
    return [complex(len(one), 1) for one in responses]


def words(prompts: list[str], responses: list[str]) -> list[str]:
    """Numbers as texts."""
    return [str(len(one)) for one in responses]


def short_of_one(prompts: list[str], responses: list[str]) -> list[float]:
    """One number too few."""
    return length(prompts, responses)[1:]


def mutates(prompts: list[str], responses: list[str]) -> list[float]:
    """Changes its lists."""
    values = length(prompts, responses)
    responses.sort()
    prompts[:] = [""] * len(prompts)
    return values


def pops(prompts: list[str], responses: list[str]) -> list[float]:
    """Empties its list before it counts."""
    values = []
    while responses:
        responses.pop()
    values += length(prompts, responses)
    return values


def raises(prompts: list[str], responses: list[str]) -> list[float]:
    """Fails on what it reads."""
    raise KeyError("grade")


def huge(prompts: list[str], responses: list[str]) -> list[float]:
    """Beyond what can be squared."""
    return [1e308 * (-1) ** len(one) for one in responses]


def leaves(prompts: list[str], responses: list[str]) -> list[float]:
    """Ends the process."""
    raise SystemExit(3)
