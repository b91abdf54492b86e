"""What a trial takes of a device's memory, planned before anything is loaded.

Weights, gradients and the optimizer's state are counted. What a pass takes besides is measured on
the model's own modules without values (`dpo_bench.model.pass_memory`); so is the cache of the past
while responses are sampled.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from dpo_bench.model.activation_checkpointing import (
    checkpoint_layers,
    decoder_layers,
    keep_activations,
)
from dpo_bench.model.logprob_backends import LogprobBackend, suitable_tokens
from dpo_bench.model.pass_memory import Linear, PassMemory, cached_bytes, measure_pass, weights_of

if TYPE_CHECKING:
    from dpo_bench.data.tokenized import TokenizedPairs
    from dpo_bench.experiment.config import Training

Measure = Callable[..., PassMemory | None]
"""`measure_pass`, or what remembers what that gave."""
FILL = 0.85
"""Share of a GPU's memory that is planned for. The rest is for CUDA itself and the libraries, for
pieces that are free and of the wrong size, and for what a plan does not know."""
ENOUGH_TOKENS = 8192
"""Tokens of a pass from which a GPU is busy: what makes room for more only costs time; not
measured."""
FP32, BF16 = 4, 2
"""Bytes of a number."""
MOMENTS = {"adamw": 2, "rmsprop": 1}
"""Numbers in fp32 that an optimizer keeps of every trained weight."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a plan is made for.

    Attributes:
        device: ``cpu`` or ``cuda``.
        precision: ``fp32`` or ``bf16``.
        memory: of the device, bytes.
        longest: tokens of the longest pair, its prompt counted once.
        rows: responses that are sampled at once.
        sampled: tokens of the longest prompt with a response as long as any.
        ranks: devices among which a trial is divided.
    """

    device: str
    precision: str
    memory: int
    longest: int
    rows: int
    sampled: int
    ranks: int = 1

    @property
    def usable(self) -> int:
        """Bytes that may be planned for."""
        return self.memory if self.device == "cpu" else int(FILL * self.memory)

    @property
    def narrow(self) -> bool:
        """Whether passes compute with weights in bf16, of which trained ones have fp32 masters."""
        return self.precision == "bf16"


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes of one device, by what they are for.

    Attributes:
        weights: the policy's, trained ones with their fp32 masters; also a copy of where it starts.
        reference: the reference's, where it is another model; also of one that follows the policy.
        gradients: of the trained weights.
        optimizer: moments of the trained weights.
        gathered: weights that are put together for the moment where they are divided among ranks.
        whole: weights that each rank has besides while it samples, divided ones put together.
        passing: what a pass takes; None: not known.
        cached: cache of the past of one response, by its tokens; None: there is none.
        setting: what it is planned for.
        most_tokens: tokens of a pass that are wanted at most.
        checkpointing: whether the layers' activations are computed again.
        is_on_host: whether the reference is in the host's memory while the policy is trained.
    """

    weights: int
    reference: int
    gradients: int
    optimizer: int
    gathered: int
    whole: int
    passing: PassMemory | None
    cached: Linear | None
    setting: Setting
    most_tokens: int
    checkpointing: bool
    is_on_host: bool

    @property
    def resident(self) -> int:
        """Bytes that are there all the time while the policy is trained."""
        return (
            self.weights
            + (0 if self.is_on_host else self.reference)
            + self.gradients
            + self.optimizer
            + self.gathered
        )

    @property
    def tokens(self) -> int:
        """Tokens of a training pass; fewer than the longest pair has: it does not fit."""
        return tokens_that_fit(
            self.setting.usable, self.resident, self.passing, self.setting.longest, self.most_tokens
        )

    @property
    def activations(self) -> int:
        """Bytes of a pass besides its logits."""
        if self.passing is None:
            return 0
        return int(self.passing.at(self._shown_tokens)) - self.logits

    @property
    def logits(self) -> int:
        """Bytes of what the head makes at once."""
        if self.passing is None:
            return 0
        tokens = self._shown_tokens
        return min(int(self.passing.logits.at(tokens)), int(self.passing.at(tokens)))

    @property
    def training(self) -> int:
        """Bytes at the worst moment of a step."""
        return self.resident + self.activations + self.logits

    @property
    def rows(self) -> int:
        """Responses that are sampled at once."""
        if self.cached is None:
            return self.setting.rows
        room = self.setting.usable - self._while_sampling
        return max(1, min(self.setting.rows, int(room / self.cached.at(self.setting.sampled))))

    @property
    def cache(self) -> int:
        """Bytes of the cache of the past of those responses."""
        return 0 if self.cached is None else int(self.rows * self.cached.at(self.setting.sampled))

    @property
    def sampling(self) -> int:
        """Bytes while a trained policy's responses are sampled and compared."""
        return self._while_sampling + self.cache

    @property
    def total(self) -> int:
        """Bytes at the worst moment of a trial."""
        return max(self.training, self.sampling)

    @property
    def fits(self) -> bool:
        """Whether the longest pair can be trained on, and a response be sampled."""
        trains = self.tokens >= self.setting.longest
        return trains and self.sampling <= self.setting.usable

    @property
    def _shown_tokens(self) -> int:
        return max(self.tokens, self.setting.longest)

    @property
    def _while_sampling(self) -> int:
        return self.weights + self.reference + self.optimizer + self.whole


def tokens_that_fit(
    memory: int, resident: int, passing: PassMemory | None, longest: int, most: int
) -> int:
    """Most tokens of a pass.

    Args:
        memory: bytes that may be used.
        resident: bytes that are taken whatever is passed.
        passing: what a pass takes; None, where it is not known, is taken to be nothing.
        longest: tokens of the longest pair, which makes a pass by itself whatever fits.
        most: more are never wanted.

    Returns:
        ``most`` or fewer, but the longest pair where that fits; 0 where nothing does.
    """
    free = memory - resident
    if free <= 0:
        return 0
    if passing is None:
        return max(most, longest)
    fitting = passing.tokens(free)
    return fitting if fitting < longest else max(longest, min(most, fitting))


def plan_memory(
    policy: LogprobBackend,
    reference: Any,
    settings: Training,
    pairs: TokenizedPairs,
    setting: Setting,
    *,
    copies_start: bool = False,
    moves_reference: bool = True,
    measure: Measure = measure_pass,
) -> MemoryPlan:
    """The plan with which trials are run.

    Whatever costs time, such as checkpointing or a reference that comes and goes, is part of it
    only where fewer than `ENOUGH_TOKENS` tokens fit into a pass otherwise.

    Args:
        policy: as it is trained, an adapter in place; its skeleton does. Is left as it was.
        reference: another model than the policy's own, or its skeleton; None where the policy's
            frozen weights are the reference's.
        settings: the trainer's.
        pairs: the training pairs.
        setting: where it runs.
        copies_start: whether a copy of the policy's first weights is kept to start again from.
        moves_reference: whether the reference may leave a GPU while the policy is trained.
        measure: says what a pass takes; for who plans for many devices at once.
    """
    enough = min(ENOUGH_TOKENS, settings.tokens_per_pass or ENOUGH_TOKENS)
    enough = max(setting.longest, min(enough, int(settings.pairs_per_step * pairs.sizes.mean())))
    plan = None
    moves_reference &= setting.device != "cpu" and reference is not None
    stored = _stored(policy.model, reference, settings, setting, copies_start=copies_start)
    measured = partial(measure, policy, pairs)
    for plan in _plans(policy, stored, settings, setting, measured, moves=moves_reference):
        if plan.fits and plan.tokens >= enough:
            break
    if plan is None:
        raise ValueError("there is always a plan, fitting or not")
    return plan


def _plans(
    policy: LogprobBackend,
    stored: Mapping[str, int],
    settings: Training,
    setting: Setting,
    measured: Callable[..., PassMemory | None],
    *,
    moves: bool,
) -> Iterator[MemoryPlan]:
    """From the quickest to the smallest."""
    wants = settings.checkpointing
    on_gpu = setting.device != "cpu"
    ways = {"none": [False], "full": [True], "auto": [False, True] if on_gpu else [False]}[wants]
    dtype = torch.bfloat16 if setting.narrow else torch.float32
    suitable = suitable_tokens(setting.device, int(policy.model.num_parameters()))
    most = settings.tokens_per_pass or suitable
    cached = cached_bytes(policy, dtype)
    for checkpointing in ways:
        with _checkpointing(policy.model, checkpointing):
            passing = measured(most, dtype, setting.device)
        for is_on_host in (False, True) if moves else (False,):
            yield MemoryPlan(
                **stored,
                passing=passing,
                cached=cached,
                setting=setting,
                most_tokens=most,
                checkpointing=checkpointing,
                is_on_host=is_on_host,
            )


@contextlib.contextmanager
def _checkpointing(model: Any, wanted: bool) -> Iterator[None]:
    """While this is open a model's layers are checkpointed, or not; then none is."""
    if wanted:
        checkpoint_layers(model)
    try:
        yield
    finally:
        keep_activations(model)


def _stored(
    model: Any, reference: Any, settings: Training, setting: Setting, *, copies_start: bool
) -> dict[str, int]:
    """Bytes of weights, gradients and moments on each rank, by the fields of `MemoryPlan`."""
    trained, frozen = (weights_of(model, trained=value) for value in (True, False))
    of_reference = 0
    if reference is not None:
        of_reference = sum(weights_of(reference, trained=value) for value in (True, False))
    number = BF16 if setting.narrow else FP32
    whole = number * (trained + frozen)
    weights = whole
    if setting.narrow:  # of divided ones FSDP2 makes the narrow copy as it goes
        weights += (FP32 if setting.ranks == 1 else FP32 - BF16) * trained
    if copies_start:
        weights += FP32 * (trained + frozen)
    following = of_reference if settings.reference_sync_steps else 0
    ranks = setting.ranks
    return {
        "weights": weights // ranks,
        "reference": number * (of_reference + following) // ranks,
        "gradients": FP32 * trained // ranks,
        "optimizer": MOMENTS[settings.optimizer] * FP32 * trained // ranks,
        "gathered": _gathered(model, number) if ranks > 1 else 0,
        "whole": whole if ranks > 1 else 0,
    }


def _gathered(model: Any, number: int) -> int:
    """Bytes that are put together at once: two layers, and what stands around all of them."""
    layers = decoder_layers(model)
    sizes = [sum(one.numel() for one in layer.parameters()) for layer in layers]
    around = weights_of(model, trained=True) + weights_of(model, trained=False) - sum(sizes)
    return number * (around + 2 * max(sizes, default=0))
